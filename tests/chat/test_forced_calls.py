"""Constraints that force a call: what they let through is a call of the right tool whose arguments fit its schema."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parser_support import Answer, answer_of, numbered
from text_fixtures import FAMILIES, WITHOUT_TEMPLATE, write_tokenizer

from deepseek.chat.codec import TextCodec
from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.core.messages import Message, NamedTool, TextPart, ToolCallPart, ToolSpec
from deepseek.engine.grammar.limits import build
from deepseek.engine.grammar.matcher import CompiledGrammar, GrammarError, Matcher
from deepseek.engine.grammar.source import grammar_source
from deepseek.engine.grammar.vocabulary import grammar_vocabulary, text_bytes
from deepseek.models.detokenize import Detokenizer
from deepseek.models.tokenizer import Tokenizer

FORMATS = ("deepseek-v3", "deepseek-v3.1", "deepseek-v4")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "unit": {"type": "string", "enum": ["C", "F", "开"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["unit"],
    "additionalProperties": False,
}
WEATHER = ToolSpec("get_weather", "Weather of a city.", SCHEMA)
NOTHING = ToolSpec("nothing", "", {"type": "object", "properties": {}, "additionalProperties": False})
SAY = ToolSpec("say", "", {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]})


class Model:
    """A tokenizer, its codec and its grammars; `speak` says whatever a grammar allows, at random."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.codec = TextCodec(tokenizer, new_id=numbered())
        self.size = tokenizer.vocab_size
        tokens = text_bytes(tokenizer, self.size, tokenizer.eos_ids)
        self._vocabulary = grammar_vocabulary(
            tokens, tokenizer.eos_ids, lambda text: tokenizer.encode_piece(text, at_start=False)
        )

    def grammar(self, constraint: Constraint | None) -> CompiledGrammar:
        assert constraint is not None
        return CompiledGrammar(build(self._vocabulary, grammar_source(constraint)), self.size, self.tokenizer.eos_ids)

    def allowed(self, matcher: Matcher) -> list[int]:
        bits = np.unpackbits(matcher.masks([])[0].view(np.uint8), bitorder="little")[: self.size]
        return [int(token) for token in np.flatnonzero(bits)]

    def speak(self, grammar: CompiledGrammar, seed: int, most: int = 4000) -> list[int] | None:
        draw, matcher, ids = random.Random(seed), grammar.matcher(), list[int]()
        control = {token.id for token in self.tokenizer.control_tokens.values()}
        while len(ids) < most:
            allowed = self.allowed(matcher)
            structure = [token for token in allowed if token in control]
            # Where structure may come it comes soon, or free text would never end.
            token = draw.choice(structure if structure and draw.random() < 0.3 else allowed)
            if token in self.tokenizer.eos_ids:
                return ids
            matcher.accept(token)
            ids.append(token)
        return None

    def read(self, ids: list[int], *, thinking: bool = False) -> Answer:
        detokenizer = Detokenizer(self.tokenizer, skip_special=False)
        parser = self.codec.parser(True, thinking)
        text = detokenizer.push(ids)
        return answer_of([*parser.feed(text, detokenizer.controls()), *parser.close()])

    def write(self, *parts: Any) -> list[int]:
        """An answer as the template writes it, its end left out."""
        messages = [Message("user", (TextPart("q"),)), Message("assistant", parts), Message("user", (TextPart("r"),))]
        ids = self.codec.encode_chat(messages)
        begin = ids.index(self.tokenizer.token_id("<｜Assistant｜>")) + 1
        begin += ids[begin] == self.tokenizer.token_id("</think>")
        return ids[begin : ids.index(self.tokenizer.eos_id, begin)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root = tmp_path_factory.mktemp("forced")
    families = {**FAMILIES, **WITHOUT_TEMPLATE}
    return {name: Model(Tokenizer.from_dir(write_tokenizer(root / name, name))) for name in families if name in FORMATS}


def accepts(model: Model, grammar: CompiledGrammar, ids: list[int]) -> bool:
    matcher = grammar.matcher()
    try:
        for token in [*ids, model.tokenizer.eos_ids[0]]:
            matcher.accept(token)
    except GrammarError:
        return False
    return True


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("parallel", [True, False])
def test_whatever_is_said_is_calls_that_fit_their_schemas(models: dict[str, Model], name: str, parallel: bool) -> None:
    model = models[name]
    tools = {tool.name: tool for tool in (WEATHER, NOTHING)}
    grammar = model.grammar(model.codec.tool_constraint(list(tools.values()), "required", parallel))
    numbers = set()
    for seed in range(12):
        ids = model.speak(grammar, seed)
        assert ids is not None
        answer = model.read(ids)
        assert answer and all(part[0] == "call" and part[3] == "complete" for part in answer)
        for _, tool, arguments, _ in answer:
            jsonschema.validate(json.loads(arguments), tools[tool].parameters)
        numbers.add(len(answer))
    assert max(numbers) > 1 if parallel else numbers == {1}


@pytest.mark.parametrize("name", FORMATS)
def test_calls_as_the_template_writes_them_are_let_through_and_others_are_not(
    models: dict[str, Model], name: str
) -> None:
    model = models[name]
    grammar = model.grammar(model.codec.tool_constraint([WEATHER, SAY], "required", True))
    good = ToolCallPart("1", "get_weather", '{"unit": "开", "days": 3}')
    say = ToolCallPart("2", "say", json.dumps({"text": 'a "b" </c> \n 你'}, ensure_ascii=False))
    assert accepts(model, grammar, model.write(good, say))
    for arguments in ("{}", '{"unit": "K"}', '{"unit": "C", "days": 10}', '{"unit": "C", "x": 1}', '{"unit": "C"'):
        assert not accepts(model, grammar, model.write(ToolCallPart("1", "get_weather", arguments)))
    assert not accepts(model, grammar, model.write(ToolCallPart("1", "other", "{}")))
    assert not accepts(model, grammar, model.write(TextPart("Hello")))
    assert not accepts(model, grammar, [])


@pytest.mark.parametrize("name", FORMATS)
def test_a_named_tool_is_the_only_one(models: dict[str, Model], name: str) -> None:
    model = models[name]
    grammar = model.grammar(model.codec.tool_constraint([WEATHER, SAY, NOTHING], NamedTool("nothing"), False))
    assert accepts(model, grammar, model.write(ToolCallPart("1", "nothing", "{}")))
    assert not accepts(model, grammar, model.write(ToolCallPart("1", "say", '{"text": "a"}')))
    with pytest.raises(AdmissionError, match="no such tool"):
        model.codec.tool_constraint([WEATHER], NamedTool("say"), True)


@pytest.mark.parametrize("name", FORMATS)
def test_names_that_begin_alike_are_told_apart(models: dict[str, Model], name: str) -> None:
    model = models[name]
    tools = [ToolSpec("get", "", SAY.parameters), ToolSpec("get_weather", "", SCHEMA)]
    grammar = model.grammar(model.codec.tool_constraint(tools, "required", True))
    for tool, arguments in (("get", '{"text": "a"}'), ("get_weather", '{"unit": "C"}')):
        assert accepts(model, grammar, model.write(ToolCallPart("1", tool, arguments)))
    assert not accepts(model, grammar, model.write(ToolCallPart("1", "get", '{"unit": "C"}')))
    assert not accepts(model, grammar, model.write(ToolCallPart("1", "get_", '{"text": "a"}')))


@pytest.mark.parametrize("name", FORMATS)
def test_at_most_one_call_may_follow_any_text_where_calls_are_not_parallel(models: dict[str, Model], name: str) -> None:
    model = models[name]
    assert model.codec.tool_constraint([WEATHER], "auto", True) is None
    assert model.codec.tool_constraint([WEATHER], "none", False) is None
    assert model.codec.tool_constraint([], "auto", False) is None
    grammar = model.grammar(model.codec.tool_constraint([NOTHING], "auto", False))
    call = ToolCallPart("1", "nothing", "{}")
    assert accepts(model, grammar, model.tokenizer.encode("Just 你好 text.", add_bos=False))
    assert accepts(model, grammar, [])
    assert accepts(model, grammar, model.write(call))
    spoken = [*model.tokenizer.encode("First: ", add_bos=False), *model.write(call)]
    assert accepts(model, grammar, spoken)
    assert not accepts(model, grammar, model.write(call, call))
    assert not accepts(model, grammar, [*spoken, *spoken])


@pytest.mark.parametrize("name", ["deepseek-v3.1", "deepseek-v4"])
def test_thinking_ends_before_a_forced_call(models: dict[str, Model], name: str) -> None:
    model = models[name]
    grammar = model.grammar(model.codec.tool_constraint([NOTHING], "required", False, thinking=True))
    thought = [*model.tokenizer.encode("Hm.", add_bos=False), model.tokenizer.token_id("</think>")]
    call = model.write(ToolCallPart("1", "nothing", "{}"))
    assert accepts(model, grammar, thought + call)  # type: ignore[operator]
    assert accepts(model, grammar, thought[-1:] + call)  # type: ignore[operator]
    assert not accepts(model, grammar, call)
    assert not accepts(model, grammar, thought)  # type: ignore[arg-type]
    assert model.read(thought + call, thinking=True) == [  # type: ignore[operator]
        ("thinking", "Hm."),
        ("call", "nothing", "{}", "complete"),
    ]


@pytest.mark.parametrize("name", ["deepseek-v3.1", "deepseek-v4"])
def test_a_form_of_the_text_holds_behind_thinking_and_beside_calls(models: dict[str, Model], name: str) -> None:
    model = models[name]
    form = Constraint.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    end = [model.tokenizer.token_id("</think>")]
    thought = [*model.tokenizer.encode("Hm.", add_bos=False), *end]
    good, bad = (model.tokenizer.encode(text, add_bos=False) for text in ('{"a": 1}', '{"a": "b"}'))
    alone = model.grammar(model.codec.answer_constraint(form, [], "auto", True, thinking=True))
    assert accepts(model, alone, thought + good) and not accepts(model, alone, thought + bad)  # type: ignore[operator]
    assert not accepts(model, alone, good)
    beside = model.grammar(model.codec.answer_constraint(form, [NOTHING], "auto", False))
    call = model.write(ToolCallPart("1", "nothing", "{}"))
    assert accepts(model, beside, good) and accepts(model, beside, call)
    assert not accepts(model, beside, bad) and not accepts(model, beside, [*good, *call])


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_call_can_be_drafted(models: dict[str, Model], name: str) -> None:
    model = models[name]
    grammar = model.grammar(model.codec.tool_constraint([WEATHER], "required", False))
    ids = model.write(ToolCallPart("1", "get_weather", '{"unit": "C"}'))
    step, masks = grammar.matcher(), grammar.matcher().masks(ids)
    assert grammar.matcher().valid_prefix(ids) == len(ids)
    for token, mask in zip(ids, masks, strict=False):
        forced = step.forced(1)
        assert np.array_equal(step.masks([])[0], mask) and forced in ([], [token])
        step.accept(token)
    assert np.array_equal(step.masks([])[0], masks[-1])


def test_what_cannot_be_enforced_is_refused(models: dict[str, Model], tmp_path: Path) -> None:
    plain = TextCodec(Tokenizer.from_dir(write_tokenizer(tmp_path, "llama3")))
    with pytest.raises(AdmissionError, match="no format for tool calls"):
        plain.tool_constraint([WEATHER], "required", True)
    assert plain.tool_constraint([WEATHER], "auto", True) is None
    with pytest.raises(AdmissionError, match="no tool"):
        models["deepseek-v3"].codec.tool_constraint([], "required", True)
    impossible = ToolSpec("f", "", {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}})
    with pytest.raises(AdmissionError):
        models["deepseek-v3"].grammar(models["deepseek-v3"].codec.tool_constraint([impossible], "required", True))
    composed = ToolSpec("f", "", {"type": "object", "oneOf": [{"required": ["a"]}]})
    with pytest.raises(AdmissionError, match="oneOf"):
        models["deepseek-v4"].codec.tool_constraint([composed], "required", True)


@given(st.text(min_size=1, max_size=8), st.booleans())
@settings(max_examples=60)
def test_text_in_markup_is_taken_literally(models: dict[str, Model], text: str, ends: bool) -> None:
    model = models["deepseek-v4"]
    token = model.tokenizer.control_tokens["｜DSML｜"].id
    grammar = model.grammar(Constraint.markup(["all", ["until" if ends else "text", text], ["token", token]]))
    ids = model.tokenizer.encode(text, add_bos=False)
    if text == model.tokenizer.decode(ids):  # some characters are normalised away
        assert accepts(model, grammar, [*ids, token])
    assert not accepts(model, grammar, [*ids[:-1], token])
    assert accepts(model, grammar, [*ids, *ids, token]) == ends


@pytest.mark.parametrize(
    "markup",
    [
        [],
        ["text"],
        ["text", ""],
        ["token", -1],
        ["token", True],
        ["any"],
        ["maybe"],
        ["many"],
        ["json", 3],
        ["x", "y"],
        3,
    ],
)
def test_markup_that_is_none_is_refused(markup: Any) -> None:
    with pytest.raises(AdmissionError, match="constraint markup"):
        Constraint.markup(markup)


def test_markup_nested_without_end_is_refused() -> None:
    markup: list[Any] = ["free"]
    for _ in range(40):
        markup = ["maybe", markup]
    with pytest.raises(AdmissionError, match="too deeply"):
        Constraint.markup(markup)


@pytest.mark.parametrize("name", FORMATS)
def test_a_chosen_call_is_bound_and_the_choice_is_not(models: dict[str, Model], name: str) -> None:
    """Any text goes, calls or none; from the token on that opens one, name and arguments are the tools'."""
    model = models[name]
    grammar = model.grammar(model.codec.tool_constraint([WEATHER, NOTHING], "auto", True, bind=True))
    good, bare = ToolCallPart("1", "get_weather", '{"unit": "C"}'), ToolCallPart("2", "nothing", "{}")
    spoken = model.tokenizer.encode("First: ", add_bos=False)
    assert accepts(model, grammar, []) and accepts(model, grammar, spoken)
    assert accepts(model, grammar, model.write(good)) and accepts(model, grammar, model.write(good, bare))
    assert accepts(model, grammar, [*spoken, *model.write(bare, good)])
    for wrong in (ToolCallPart("1", "get_weather", '{"unit": "K"}'), ToolCallPart("1", "other", "{}")):
        assert not accepts(model, grammar, model.write(wrong))
        assert not accepts(model, grammar, [*spoken, *model.write(good, wrong)])
    said = calls = 0
    for seed in range(20):
        ids = model.speak(grammar, seed)
        assert ids is not None
        for part in model.read(ids):
            said += part[0] == "text"
            if part[0] == "call":
                calls += 1
                assert part[3] == "complete"
                jsonschema.validate(
                    json.loads(part[2]), {"get_weather": WEATHER, "nothing": NOTHING}[part[1]].parameters
                )
    # Random text hardly ever spells what comes before the token that opens V4's calls.
    assert said and (calls or name == "deepseek-v4")


def test_nothing_is_bound_where_nothing_can_be_called(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["deepseek-v3.1"]
    assert model.codec.tool_constraint([], "auto", True, bind=True) is None
    assert model.codec.tool_constraint([WEATHER], "none", True, bind=True) is None
    plain = TextCodec(Tokenizer.from_dir(write_tokenizer(tmp_path, "llama3")))
    assert plain.tool_constraint([WEATHER], "auto", True, bind=True) is None


@pytest.mark.parametrize("name", ["deepseek-v3.1", "deepseek-v4"])
def test_a_call_is_bound_behind_thinking(models: dict[str, Model], name: str) -> None:
    model = models[name]
    grammar = model.grammar(model.codec.tool_constraint([NOTHING], "auto", True, thinking=True, bind=True))
    thought = [*model.tokenizer.encode("Hm.", add_bos=False), model.tokenizer.control_tokens["</think>"].id]
    call = model.write(ToolCallPart("1", "nothing", "{}"))
    assert accepts(model, grammar, thought + call) and accepts(model, grammar, thought)
    assert not accepts(model, grammar, thought + model.write(ToolCallPart("1", "other", "{}")))

"""A format of the text beside thinking and tools: whatever a grammar lets through is read as what was asked for."""

import json
from typing import Any

import jsonschema
import pytest
from test_forced_calls import WEATHER, Model, accepts
from text_fixtures import FAMILIES, WITHOUT_TEMPLATE, write_tokenizer

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.core.messages import NamedTool
from deepseek.models.tokenizer import Tokenizer

FORMATS = ("deepseek-v3", "deepseek-v3.1", "deepseek-v4")
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"sunny": {"type": "boolean"}},
    "required": ["sunny"],
    "additionalProperties": False,
}
TEXT = Constraint.json_schema(ANSWER)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root = tmp_path_factory.mktemp("bound")
    families = {**FAMILIES, **WITHOUT_TEMPLATE}
    return {name: Model(Tokenizer.from_dir(write_tokenizer(root / name, name))) for name in families if name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_beside_tools_an_answer_is_the_text_or_calls_and_never_both(models: dict[str, Model], name: str) -> None:
    model = models[name]
    grammar = model.grammar(model.codec.answer_constraint(TEXT, [WEATHER], "auto", True))
    kinds = set()
    for seed in range(24):
        ids = model.speak(grammar, seed)
        if ids is None:
            continue  # white space without end
        parts = model.read(ids)
        assert len({part[0] for part in parts}) == 1
        kinds.add(parts[0][0])
        for part in parts:
            schema = ANSWER if part[0] == "text" else WEATHER.parameters
            jsonschema.validate(json.loads(part[1] if part[0] == "text" else part[2]), schema)
    assert kinds == {"text", "call"}


@pytest.mark.parametrize("name", ["deepseek-v3.1", "deepseek-v4"])
def test_thinking_comes_first_and_the_text_behind_it_is_bound(models: dict[str, Model], name: str) -> None:
    model = models[name]
    grammar = model.grammar(model.codec.answer_constraint(TEXT, [], "auto", True, thinking=True))
    end = model.tokenizer.token_id("</think>")
    thought = model.tokenizer.encode_piece("Is it? {", at_start=False)
    said = model.tokenizer.encode_piece('{"sunny": true}', at_start=False)
    assert accepts(model, grammar, [*thought, end, *said])
    assert not accepts(model, grammar, said) and not accepts(model, grammar, [*thought, end, *thought])
    assert model.read([*thought, end, *said], thinking=True) == [("thinking", "Is it? {"), ("text", '{"sunny": true}')]


def test_where_a_call_is_demanded_there_is_no_text_to_bind(models: dict[str, Model]) -> None:
    codec = models["deepseek-v3.1"].codec
    for choice in ("required", NamedTool("get_weather")):
        assert codec.answer_constraint(TEXT, [WEATHER], choice, True) == codec.tool_constraint([WEATHER], choice, True)  # type: ignore[arg-type]


def test_alone_a_text_keeps_its_own_constraint(models: dict[str, Model]) -> None:
    codec = models["deepseek-v3.1"].codec
    assert codec.answer_constraint(TEXT, [], "auto", True) is TEXT
    assert codec.answer_constraint(TEXT, [WEATHER], "none", True) is TEXT


@pytest.mark.parametrize("text", [Constraint.regex("a+"), Constraint.lark('start: "a"')])
def test_what_can_only_stand_alone_is_refused_beside_others(models: dict[str, Model], text: Constraint) -> None:
    codec = models["deepseek-v3.1"].codec
    with pytest.raises(AdmissionError, match="cannot be enforced beside thinking or tools"):
        codec.answer_constraint(text, [WEATHER], "auto", True)
    with pytest.raises(AdmissionError, match="cannot be enforced beside thinking or tools"):
        codec.answer_constraint(text, [], "auto", True, thinking=True)


def test_a_choice_of_texts_and_any_object_are_bound_too(models: dict[str, Model]) -> None:
    model = models["deepseek-v3.1"]
    end = model.tokenizer.token_id("</think>")
    for text, said in ((Constraint.choice(["sun", "rain"]), "rain"), (Constraint.json_object(), '{"a": [1]}')):
        grammar = model.grammar(model.codec.answer_constraint(text, [WEATHER], "auto", True, thinking=True))
        assert accepts(model, grammar, [end, *model.tokenizer.encode_piece(said, at_start=False)])
        assert not accepts(model, grammar, [end, *model.tokenizer.encode_piece("snow", at_start=False)])

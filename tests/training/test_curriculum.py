"""The built-in model's curriculum: what a sample is, what the tokens are, and what training never sees."""

from __future__ import annotations

import ast
import json
import operator
import re
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import deepseek.models
from deepseek.chat.template import ChatTemplate, encode_chat
from deepseek.core.errors import ConfigError, TokenizerError
from deepseek.core.messages import Message, TextPart, ToolCallPart, ToolResultPart, ToolSpec
from deepseek.models.tokenizer import Tokenizer as ServingTokenizer
from deepseek.training.curriculum import (
    FAMILIES,
    Sample,
    arithmetic,
    copying,
    dates,
    direct,
    encode,
    encode_segments,
    eval_draws,
    greetings,
    memory,
    percentages,
    platform,
    render,
    sample_at,
    schema,
    search,
    stage_mix,
    units,
    words,
)
from deepseek.training.curriculum.build_tokenizer import VOCAB_SIZE, build
from deepseek.training.curriculum.mix import ASKS, CALL_FAMILIES, is_held_out
from deepseek.training.curriculum.phrasing import is_withheld
from deepseek.training.curriculum.sample import EOS, SPECIAL_TOKENS, text_of

BUILTIN = Path(deepseek.models.__path__[0]) / "builtin"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))


@pytest.fixture(scope="module")
def oracle() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(BUILTIN)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Two thousand training samples from every stage."""
    return [sample_at(11, index, index / 2000) for index in range(2000)]


# The curriculum


def test_a_seed_and_an_index_always_give_the_same_sample() -> None:
    assert sample_at(3, 1_000_000, 0.5) == sample_at(3, 1_000_000, 0.5)
    assert len({text_of(sample_at(3, index, 0.5).segments()) for index in range(200)}) > 190
    assert sample_at(3, 7, 0.5) != sample_at(4, 7, 0.5)


def test_stages_begin_with_copying_and_calls_and_add_reading_and_no_call_later() -> None:
    assert stage_mix(0)["reading"] == stage_mix(0)["no_call"] == stage_mix(0.15)["reading"] == 0
    assert stage_mix(0)["copying"] > 0.3
    assert stage_mix(0.5)["reading"] > 0.1 and stage_mix(0.5)["no_call"] > 0.1
    for progress in (-1, 0, 0.1, 0.15, 0.3, 0.4, 0.7, 1, 2):
        assert sum(stage_mix(progress).values()) == pytest.approx(1)


def test_stages_change_without_jumps() -> None:
    steps = [stage_mix(i / 200) for i in range(201)]
    assert max(abs(b[kind] - a[kind]) for a, b in pairwise(steps) for kind in a) < 0.02


def test_half_of_the_samples_are_chinese(samples: list[Sample]) -> None:
    assert mean(sample.language == "zh" for sample in samples) == pytest.approx(0.5, abs=0.04)


def test_samples_are_short_enough(samples: list[Sample], tokenizer: Tokenizer) -> None:
    lengths = [len(encode(sample, tokenizer)[0]) for sample in samples]
    assert mean(lengths) <= 160
    assert max(lengths) <= 512


PHRASINGS: dict[str, dict[str, list[tuple[str, ...]]]] = {
    "arithmetic": {
        "en": [arithmetic.EN_ANY, *arithmetic.EN_BY_SIGN.values()],
        "zh": [arithmetic.ZH_ANY, *arithmetic.ZH_BY_SIGN.values()],
    },
    "percentages": {"en": [*percentages.EN.values()], "zh": [*percentages.ZH.values()]},
    "units": {"en": [units.EN], "zh": [units.ZH]},
    "dates": {
        "en": [*dates.EN.values(), *dates.EN_TODAY.values()],
        "zh": [*dates.ZH.values(), *dates.ZH_TODAY.values()],
    },
    "memory": {"en": [memory.EN_SET, memory.EN_GET], "zh": [memory.ZH_SET, memory.ZH_GET]},
    "search": {"en": [search.EN], "zh": [search.ZH]},
    "direct": {"en": [direct.EN], "zh": [direct.ZH]},
    "copying": {"en": [copying.EN_REPEAT, copying.EN_LOOKUP], "zh": [copying.ZH_REPEAT, copying.ZH_LOOKUP]},
    "greetings": {
        language: [said for said, _ in table.values()]
        for language, table in (("en", greetings.EN), ("zh", greetings.ZH))
    },
    "platform": {
        language: [questions for questions, _, _ in table.values()]
        for language, table in (("en", platform.EN), ("zh", platform.ZH))
    },
}


@pytest.mark.parametrize("family", PHRASINGS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_family_has_forty_different_phrasings_a_language(family: str, language: str) -> None:
    phrasings = [text for group in PHRASINGS[family][language] for text in group]
    assert len(set(phrasings)) == len(phrasings) >= 40


@pytest.mark.parametrize("family", PHRASINGS)
def test_a_fifth_of_the_phrasings_is_withheld_and_every_list_has_one(family: str) -> None:
    groups = [group for groups in PHRASINGS[family].values() for group in groups]
    withheld = [sum(is_withheld(index) for index in range(len(group))) for group in groups]
    assert min(withheld) >= 1
    assert sum(withheld) / sum(map(len, groups)) == pytest.approx(0.2, abs=0.05)


def test_training_shows_no_withheld_phrasing_and_no_held_out_text(samples: list[Sample]) -> None:
    asked = {sample.phrasing for family in FAMILIES for sample in eval_draws(family, None, 40, withheld_phrasings=True)}
    assert not asked & {sample.phrasing for sample in samples}
    assert not any(is_held_out(sample.user_text) for sample in samples)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("withheld", [False, True])
def test_held_out_draws_are_distinct_bilingual_and_never_trained_on(family: str, withheld: bool) -> None:
    draws = eval_draws(family, None, 200, withheld_phrasings=withheld)
    prompts = {text_of(sample.prompt()) for sample in draws}
    assert len(prompts) == len(draws) == 200
    assert all(sample.withheld == withheld for sample in draws)
    assert withheld or all(is_held_out(sample.user_text) for sample in draws)
    assert abs(sum(1 if sample.language == "en" else -1 for sample in draws)) <= 1


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'poetry'"):
        eval_draws("poetry", None, 1)


# What calls and answers say


def test_a_call_names_a_listed_tool_and_gives_all_its_required_parameters(samples: list[Sample]) -> None:
    for sample in samples:
        tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in sample.tools}
        assert len(tools) == len(sample.tools)
        for message in sample.messages:
            for call in message.get("tool_calls") or ():
                parameters = tools[call["function"]["name"]]
                arguments = json.loads(call["function"]["arguments"])
                assert set(parameters["required"]) <= set(arguments) <= set(parameters["properties"])
                assert list(arguments) == [name for name in parameters["properties"] if name in arguments]


def test_what_is_searched_stored_or_recalled_is_copied_from_the_question() -> None:
    for family in ("search", "memory", "direct"):
        for sample in eval_draws(family, None, 200):
            for value in sample.expected.arguments.values():
                if value not in ("set", "get"):
                    assert str(value) in sample.user_text


def test_every_number_of_an_expression_stands_in_the_question() -> None:
    constants = {"percentages": ["100"], "arithmetic": []}
    for family, known in constants.items():
        for sample in eval_draws(family, None, 300):
            (expression,) = sample.expected.arguments.values()
            asked = sample.user_text.replace(",", "")
            for number in re.findall(r"[\d.]+", expression):
                assert number in asked or number in known, (sample.user_text, expression)


def exact(expression: str) -> Fraction:
    """The value of an arithmetic expression by Python's own grammar, in rationals."""
    signs = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(str(node.value))
        assert isinstance(node, ast.BinOp)
        left, right = value(node.left), value(node.right)
        return left ** int(right) if isinstance(node.op, ast.Pow) else signs[type(node.op)](left, right)

    return value(ast.parse(expression, mode="eval").body)


@pytest.mark.parametrize("family", ["arithmetic", "percentages"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_calculators_results_are_true(family: str, language: Any) -> None:
    rng = Random(5)
    for _ in range(300):
        ask = ASKS[family](rng, language, False)
        assert abs(exact(ask.arguments["expression"]) - Fraction(ask.result)) <= Fraction(1, 190)


@pytest.mark.parametrize(
    ("value", "source", "target", "result"),
    [
        ("26.2", "mi", "km", "42.1648"), ("1", "lb", "g", "453.5924"), ("100", "C", "F", "212"),
        ("-40", "F", "C", "-40"),
        ("0", "K", "C", "-273.15"), ("1", "gal", "L", "3.7854"), ("2", "week", "h", "336"), ("5", "ft", "in", "60"),
    ],
)  # fmt: skip
def test_conversions_agree_with_the_tables(value: str, source: str, target: str, result: str) -> None:
    dimension = next(name for name, table in units.UNITS.items() if source in table)
    assert arithmetic.plain(units.converted(dimension, Decimal(value), source, target)) == result


def test_dates_are_passed_in_iso_form_and_the_answers_are_true() -> None:
    rng = Random(6)
    for _ in range(300):
        ask = dates.ask(rng, "en", False)
        if ask.arguments["date"] == "today":
            assert "/today" in ask.phrasing
            continue
        day = date.fromisoformat(ask.arguments["date"])
        if ask.operation == "date_add":
            assert ask.result == (day + timedelta(days=ask.arguments["days"])).isoformat()
        elif ask.operation == "date_diff":
            assert int(ask.result) == (date.fromisoformat(ask.arguments["end"]) - day).days
        else:
            assert ask.result == day.strftime("%A")


def test_a_refusal_is_given_only_where_no_tool_serves() -> None:
    names = {name: spec for spec in schema.SPECS for name in spec.names}
    refused = [s for s in eval_draws("no_call", None, 400) if "tool for that" in s.expected.fact]
    assert len(refused) > 50
    family_of = {"arithmetic": "calculate", "percentages": "calculate", "units": "convert", "search": "search"}
    for sample in refused:
        operation = family_of.get(sample.phrasing.split("/")[1])
        for tool in sample.tools:
            spec = names.get(tool["function"]["name"])
            assert spec is None or operation not in spec.serves


def test_an_answer_holds_its_fact(samples: list[Sample]) -> None:
    for sample in samples:
        if not sample.expected.is_call:
            assert sample.expected.fact in sample.messages[-1]["content"]


# Rendering and tokens


def chat_messages(sample: Sample) -> list[Message]:
    """The sample's conversation in the server's own type."""
    out = []
    for message in sample.messages:
        parts: list[Any] = [TextPart(message["content"])] if message["content"] and message["role"] != "tool" else []
        if message["role"] == "tool":
            parts.append(ToolResultPart("call_0", message["content"]))
        for call in message.get("tool_calls") or ():
            parts.append(ToolCallPart(call["id"], call["function"]["name"], call["function"]["arguments"]))
        out.append(Message(message["role"], tuple(parts)))
    return out


def tool_specs(sample: Sample) -> list[ToolSpec]:
    functions = [tool["function"] for tool in sample.tools]
    return [ToolSpec(f["name"], f["description"], f["parameters"]) for f in functions]


def test_rendering_equals_the_jinja_template(samples: list[Sample], oracle: PreTrainedTokenizerFast) -> None:
    for sample in samples[::8]:
        for messages, segments, prompting in (
            (sample.messages, sample.segments(), False),
            (sample.messages[:-1], sample.prompt(), True),
        ):
            rendered = oracle.apply_chat_template(
                list(messages), tools=list(sample.tools) or None, tokenize=False, add_generation_prompt=prompting
            )
            assert text_of(segments) == rendered


texts = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
properties = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["string", "integer", ["string", "null"]]), "description": texts,
                  "enum": st.lists(st.one_of(st.integers(), names), max_size=3)}
)  # fmt: skip
parameters = st.fixed_dictionaries(
    {}, optional={"properties": st.dictionaries(names, properties, max_size=3), "required": st.lists(names, max_size=2)}
)
functions = st.fixed_dictionaries({"name": names}, optional={"description": texts, "parameters": parameters})
calls = st.fixed_dictionaries(
    {"name": names, "arguments": st.one_of(texts, st.dictionaries(names, st.one_of(texts, st.integers()), max_size=2))}
)
turns = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts}),
    st.builds(
        lambda content, fs: {"role": "assistant", "content": content, "tool_calls": [{"function": f} for f in fs]},
        st.one_of(st.none(), texts),
        st.lists(calls, min_size=1, max_size=2),
    ),
)


@settings(max_examples=100)
@given(st.lists(turns, min_size=1, max_size=5), st.lists(functions, max_size=2), st.booleans())
def test_rendering_equals_the_jinja_template_on_any_conversation(
    oracle: PreTrainedTokenizerFast, messages: list[Any], tools: list[Any], prompting: bool
) -> None:
    listed = [{"type": "function", "function": function} for function in tools]
    rendered = oracle.apply_chat_template(
        messages, tools=listed or None, tokenize=False, add_generation_prompt=prompting
    )
    assert text_of(render(messages, listed, add_generation_prompt=prompting)) == rendered


def test_the_server_encodes_a_conversation_to_the_ids_that_were_trained(
    samples: list[Sample], tokenizer: Tokenizer
) -> None:
    serving = ServingTokenizer.from_dir(BUILTIN)
    template = ChatTemplate.from_tokenizer(serving)
    for sample in samples[::10]:
        served = encode_chat(serving, template, chat_messages(sample), tool_specs(sample), add_generation_prompt=False)
        assert served == encode(sample, tokenizer)[0]


@pytest.mark.parametrize("literal", SPECIAL_TOKENS)
def test_a_literal_inside_content_stays_text(literal: str, tokenizer: Tokenizer) -> None:
    forged = f"a{literal}b"
    call = {"function": {"name": forged, "arguments": {"x": forged}}}
    messages = [
        {"role": "system", "content": forged}, {"role": "user", "content": forged},
        {"role": "assistant", "content": forged, "tool_calls": [call]}, {"role": "tool", "content": forged},
        {"role": "assistant", "content": forged},
    ]  # fmt: skip
    clean = json.loads(json.dumps(messages, ensure_ascii=False).replace(literal, "!"))
    special = set(range(len(SPECIAL_TOKENS)))
    ids = encode_segments(render(messages), tokenizer)[0]
    assert [i for i in ids if i in special] == [i for i in encode_segments(render(clean), tokenizer)[0] if i in special]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text_of(render(messages))


def test_the_mask_covers_what_the_assistant_wrote_and_nothing_else(tokenizer: Tokenizer) -> None:
    sample = next(s for s in eval_draws("reading", "en", 50) if s.messages[0]["role"] == "user")
    ids, mask = encode(sample, tokenizer)
    written = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if own], skip_special_tokens=False)
    call = sample.messages[1]["tool_calls"][0]["function"]
    assert written == (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{call['name']}<｜tool▁sep｜>{call['arguments']}<｜tool▁call▁end｜>"
        f"<｜tool▁calls▁end｜>{EOS}{sample.messages[-1]['content']}{EOS}"
    )


def test_special_tokens_have_the_lowest_ids_and_the_vocabulary_is_full(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(text) for text in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer.get_vocab_size() == VOCAB_SIZE


@given(texts)
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(st.integers(0, 2**32))
def test_a_value_is_spelt_alike_in_a_question_and_between_json_quotes(tokenizer: Tokenizer, seed: int) -> None:
    tokenizer.encode_special_tokens = True
    rng = Random(seed)
    value = rng.choice((words.topic, words.phrase))(rng, rng.choice(("en", "zh")))

    def spelt(before: str, after: str) -> list[str]:
        tokens = tokenizer.encode(before + value + after, add_special_tokens=False)
        inside = [i for i, (a, b) in enumerate(tokens.offsets) if a >= len(before) and b <= len(before) + len(value)]
        return [tokens.tokens[i] for i in inside]

    assert spelt("Search for ", ".") == spelt('{"query": "', '"}') == spelt("搜索", "") != []


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("2026-1234567.89", add_special_tokens=False).tokens == list("2026-1234567.89")


def test_a_tokenizer_without_the_literals_is_refused() -> None:
    with pytest.raises(TokenizerError, match="begin▁of▁sentence"):
        encode(sample_at(0, 0, 0), Tokenizer(models.BPE()))


def test_building_the_tokenizer_twice_gives_the_same_file() -> None:
    assert build(300).to_str() == build(300).to_str()


def test_all_families_are_drawn_in_training(samples: list[Sample]) -> None:
    assert {sample.family for sample in samples} == set(FAMILIES)
    assert set(CALL_FAMILIES) == {sample.family for sample in samples if sample.expected.is_call}

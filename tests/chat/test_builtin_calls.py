"""The built-in model from question to call: template, engine, control tokens, parser; and calls that it is made to make."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from parser_support import Answer, answer_of, calls_of, numbered

from deepseek import LLM, SamplingParams
from deepseek.chat.codec import TextCodec
from deepseek.core.constraint import Constraint
from deepseek.core.deltas import Delta
from deepseek.core.engine import Tokens
from deepseek.core.messages import Message, NamedTool, TextPart, ToolSpec
from deepseek.training.curriculum import Sample, eval_draws

GREEDY = SamplingParams(temperature=0.0, max_tokens=96, skip_special_tokens=False)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("builtin")


@pytest.fixture(scope="module")
def codec(llm: LLM) -> TextCodec:
    return TextCodec(llm.tokenizer, new_id=numbered())


def specs(sample: Sample) -> list[ToolSpec]:
    functions = [tool["function"] for tool in sample.tools]
    return [ToolSpec(f["name"], f["description"], f["parameters"]) for f in functions]


def conversation(sample: Sample) -> list[Message]:
    return [Message(m["role"], (TextPart(m["content"]),)) for m in sample.messages[:-1]]


def answers(
    llm: LLM, codec: TextCodec, prompts: list[list[int]], rules: list[Constraint | None] | None = None
) -> list[Answer]:
    """What the parsers make of the stream, for each prompt."""
    parsers = [codec.parser(True, False) for _ in prompts]
    deltas: list[list[Delta]] = [[] for _ in prompts]

    def hear(index: int, tokens: Tokens) -> None:
        deltas[index] += parsers[index].feed(tokens.text, tokens.controls)

    llm.generate(prompts, GREEDY, constraint=rules, on_token=hear)
    return [answer_of([*heard, *parser.close()]) for heard, parser in zip(deltas, parsers, strict=True)]


def test_questions_are_answered_with_the_calls_they_ask_for(llm: LLM, codec: TextCodec) -> None:
    samples = [s for family in ("arithmetic", "units", "search", "direct") for s in eval_draws(family, None, 4)]
    prompts = [codec.encode_chat(conversation(sample), specs(sample)) for sample in samples]
    right = 0
    for sample, answer in zip(samples, answers(llm, codec, prompts), strict=True):
        match answer:
            case [("call", name, arguments, "complete")]:
                expected = dict(sample.expected.arguments)
                right += name == sample.expected.name and json.loads(arguments) == expected
    assert right >= len(samples) - 2


def test_a_plain_answer_shows_no_control_token(llm: LLM, codec: TextCodec) -> None:
    samples = eval_draws("greetings", None, 2)
    prompts = [codec.encode_chat(conversation(sample), specs(sample)) for sample in samples]
    for answer in answers(llm, codec, prompts):
        assert [kind for kind, *_ in answer] == ["text"]
        assert "｜" not in answer[0][1]


def test_a_call_can_be_forced_where_none_was_asked_for(llm: LLM, codec: TextCodec) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "北京"]}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tools = [ToolSpec("weather", "Weather of a city.", schema), ToolSpec("other", "", {"type": "object"})]
    prompt = codec.encode_chat([Message("user", (TextPart("Hello!"),))], tools)
    rules = [codec.tool_constraint(tools, choice, False) for choice in ("required", NamedTool("weather"))]
    for answer in answers(llm, codec, [prompt] * 2, rules):
        assert len(calls_of(answer)) == len(answer) == 1
        assert answer[0][3] == "complete"
    _, name, arguments, _ = answers(llm, codec, [prompt], rules[1:])[0][0]
    assert name == "weather"
    jsonschema.validate(json.loads(arguments), schema)

"""DeepSeek's own deepseek-recipe as the judge of V4: the same prompts for the same conversations, control tokens in the
same places; the same calls from the same answers, in pieces of any size."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from deepseek_recipe import (
    AssistantMessage,
    ChatCompletionRequest,
    ChatCompletionResponse,
    Conversation,
    ConversionOptions,
    DeepseekV4Encoding,
    InferenceChunk,
    InferenceFinishReason,
    ParsingOptions,
    StreamProcessor,
    SystemMessage,
    ThinkingInitialStage,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    UserMessage,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from parser_support import Answer, calls_of, json_values, read
from text_fixtures import BOS, EOS, write_tokenizer

from deepseek.chat import encoding_v4
from deepseek.chat.codec import TextCodec
from deepseek.chat.dsml import DSML, DsmlMarkers
from deepseek.chat.encoding_v4 import ASSISTANT, USER
from deepseek.chat.markup import THINK_BEGIN, THINK_END, Markup
from deepseek.core.messages import Message, TextPart, ThinkingPart, ToolCallPart, ToolResultPart, ToolSpec
from deepseek.models.tokenizer import Tokenizer

TOKENS = (BOS, EOS, USER, ASSISTANT, THINK_BEGIN, THINK_END, DSML)
MARKUP = Markup(calls=DsmlMarkers)

# All that people and models write, the model's own markup included.
texts = st.text(max_size=12) | st.sampled_from([*TOKENS, f'</{DSML}parameter> "', "<b>\\n&amp;", "\n\n你好", "{}"])
names = st.sampled_from(["look", "get_weather", "函数"])
# Nothing escapes a quote in the name of a parameter.
parameter_names = texts.filter(lambda name: '"' not in name)
arguments = st.dictionaries(parameter_names, json_values | texts, max_size=3).map(
    lambda value: json.dumps(value, ensure_ascii=False)
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Turns as they come in life: each call is answered, in any order."""
    messages = [Message("system", (TextPart(draw(texts)),))] if draw(st.booleans()) else []
    # DeepSeek's program puts results in the order of their calls, deepseek-recipe 0.2 in that of their ids: here both are one.
    ids = count()
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", (TextPart(draw(texts)),)))
        for _ in range(draw(st.integers(0, 2))):
            thought = [ThinkingPart(draw(texts))] if draw(st.booleans()) else []
            calls = [
                ToolCallPart(
                    f"id-{next(ids):03}", draw(names), draw(arguments | st.sampled_from(["not json", "[1]", ""]))
                )
                for _ in range(draw(st.integers(0, 3)))
            ]
            messages.append(Message("assistant", (*thought, TextPart(draw(texts)), *calls)))
            results = [ToolResultPart(call.id, draw(texts)) for call in draw(st.permutations(calls))]
            messages += [Message("tool", (result,)) for result in results]
    return messages


tools = st.lists(
    st.builds(
        ToolSpec,
        names,
        texts,
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(texts, st.just({}), max_size=2)}
        ),
    ),
    max_size=2,
)


def by_recipe(messages: list[Message], specs: list[ToolSpec], thinking: bool) -> tuple[str, list[tuple[int, int]]]:
    theirs = []
    for message in messages:
        if message.role == "system":
            theirs.append(SystemMessage(message.text))
        elif message.role == "user":
            theirs.append(UserMessage(message.text))
        elif message.role == "tool":
            theirs += [
                ToolMessage(part.text, part.call_id) for part in message.parts if isinstance(part, ToolResultPart)
            ]
        else:
            calls = [ToolCall(p.id, p.name, p.arguments) for p in message.parts if isinstance(p, ToolCallPart)]
            thought = "".join(part.text for part in message.parts if isinstance(part, ThinkingPart))
            theirs.append(AssistantMessage(message.text, thought or None, calls or None))
    definitions = [ToolDefinition(spec.name, spec.description, spec.parameters) for spec in specs]
    conversation = Conversation(theirs, thinking_mode=thinking, tools=definitions or None)
    rendered = DeepseekV4Encoding().render_conversation(conversation)
    return rendered.prompt, list(rendered.special_ranges)


@given(conversations(), tools, st.booleans())
def test_prompts_are_the_same_and_so_are_their_control_tokens(
    messages: list[Message], specs: list[ToolSpec], thinking: bool
) -> None:
    pieces = encoding_v4.pieces(messages, specs, TOKENS, thinking=thinking)
    ranges, at = [], 0
    for text, is_control in pieces:
        if is_control:
            ranges.append((at, at + len(text)))
        at += len(text)
    assert ("".join(text for text, _ in pieces), ranges) == by_recipe(messages, specs, thinking)


def test_a_request_in_openais_form_gives_the_same_prompt(tmp_path: Path) -> None:
    body = {
        "model": "DeepSeek-V4-Pro",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Paris and 北京?"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "Two calls.",
                "tool_calls": [
                    {"id": str(n), "type": "function", "function": {"name": "get_weather", "arguments": text}}
                    for n, text in enumerate(['{"city": "Paris", "days": 2}', '{"city": "北京"}'])
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "rain"},
            {"role": "tool", "tool_call_id": "0", "content": "sun"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "Weather of a city.",
                    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
                },
            }
        ],
    }
    theirs = DeepseekV4Encoding().render_conversation(
        ChatCompletionRequest(body).convert(ConversionOptions()).conversation
    )
    messages = [
        Message("system", (TextPart("Be brief."),)),
        Message("user", (TextPart("Weather in Paris and 北京?"),)),
        Message(
            "assistant",
            (
                ThinkingPart("Two calls."),
                ToolCallPart("0", "get_weather", '{"city": "Paris", "days": 2}'),
                ToolCallPart("1", "get_weather", '{"city": "北京"}'),
            ),
        ),
        Message("tool", (ToolResultPart("1", "rain"), ToolResultPart("0", "sun"))),
    ]
    spec = ToolSpec("get_weather", "Weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
    tokenizer = Tokenizer.from_dir(write_tokenizer(tmp_path, "deepseek-v4"))
    codec = TextCodec(tokenizer)
    assert codec.calls == "deepseek-v4"
    assert tokenizer.decode(codec.encode_chat(messages, [spec], thinking=True), skip_special=False) == theirs.prompt


def read_by_recipe(text: str, size: int, *, thinking: bool) -> Answer:
    body = {"model": "DeepSeek-V4-Pro", "messages": [{"role": "user", "content": "a"}]}
    request = ChatCompletionRequest(body).convert(ConversionOptions().with_default_thinking_mode(thinking))
    generator = ChatCompletionRequest.chunk_generator(request, "id", "model")
    stage = ThinkingInitialStage.ReasoningStart if thinking else None
    processor = StreamProcessor(generator, ParsingOptions(thinking_initial_stage=stage))
    response = ChatCompletionResponse("id", "model", 0, 0, 0)
    chunks = [InferenceChunk.ready()]
    chunks += [InferenceChunk.text(text[at : at + size]) for at in range(0, len(text), size)]
    chunks.append(InferenceChunk.finish(InferenceFinishReason.Stop))
    for chunk in chunks:
        for output in processor.push(chunk):
            response.accumulate(output)
    for output in processor.finish():
        response.accumulate(output)
    message = json.loads(response.to_json())["choices"][0]["message"]
    answer: Answer = []
    for kind, field in (("thinking", "reasoning_content"), ("text", "content")):
        if message.get(field):
            answer.append((kind, message[field]))
    for call in message.get("tool_calls") or []:
        answer.append(("call", call["function"]["name"], call["function"]["arguments"], "complete"))
    return answer


# Without the tag that ends a value: where tags are mere characters, no value can have it.
values = st.text(max_size=10) | st.sampled_from(["<b>", f"<{DSML}", "</think>", '"\\', "\n\n", "你好"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, bool]:
    """A whole answer of a model, and whether it begins in thinking."""
    thinking = draw(st.booleans())
    # Behind a "<" that comes to nothing, deepseek-recipe 0.2 forgets that a line break belongs to the markup.
    said = st.text(alphabet="ab\n <{你", max_size=8).map(lambda text: re.sub("<+(\n|$)", r"\1", text))
    text = draw(said) if thinking else ""
    text += (THINK_END + draw(st.sampled_from(["", "\n", "\n\n"]))) if thinking else ""
    text += draw(said)
    calls = draw(st.lists(st.tuples(names, st.dictionaries(names, json_values | values, max_size=3)), max_size=3))
    if calls:
        text += "\n\n" + _written(*calls)
    return text, thinking


def _written(*calls: tuple[str, dict[str, Any]]) -> str:
    """A block of calls as the model writes it."""
    parts = tuple(ToolCallPart("1", name, json.dumps(arguments)) for name, arguments in calls)
    prompt = "".join(text for text, _ in encoding_v4.pieces([Message("assistant", parts)], (), (), thinking=False))
    return prompt[prompt.index(f"<{DSML}") : prompt.index(EOS)]


@given(answers(), st.integers(1, 40))
@settings(max_examples=50)
def test_answers_are_read_the_same_in_pieces_of_any_size(answer: tuple[str, bool], size: int) -> None:
    text, thinking = answer
    ours = read(MARKUP, text, cuts=range(0, len(text), size), thinking=thinking, answering=not thinking)
    assert ours == read_by_recipe(text, size, thinking=thinking)


@given(conversations(), st.integers(1, 20))
def test_calls_of_a_prompt_are_read_back_as_they_were(messages: list[Message], size: int) -> None:
    tokens = (*TOKENS, "x")  # tags are tokens, so arguments may spell them
    markup = Markup(TOKENS, (BOS, EOS), calls=DsmlMarkers)
    for message in messages:
        calls = [part for part in message.parts if isinstance(part, ToolCallPart) and part.arguments.startswith("{")]
        if not calls:
            continue
        pieces = encoding_v4.pieces([Message("assistant", tuple(calls))], (), tokens, thinking=False)
        text, controls = "", []
        for piece, is_control in pieces:
            controls += [len(text)] if is_control else []
            text += piece
        begin = text.index(THINK_END) + len(THINK_END)
        end = text.rindex(EOS)
        inside = [at - begin for at in controls if begin <= at < end]
        answer = read(markup, text[begin:end], inside, cuts=range(0, len(text), size), answering=True)
        expected = [
            ("call", c.name, json.dumps(json.loads(c.arguments), ensure_ascii=False), "complete") for c in calls
        ]
        assert calls_of(answer) == answer == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_values_with_quotes_and_markup_are_read_the_same(size: int) -> None:
    given_arguments = {"q": 'say "hi" <b>\\n</b> & <｜User｜> 你好\n', "n": {"深": [1, None, 'x"y']}, "e": ""}
    text = "Wait.\n\n" + _written(("look", given_arguments))
    answer = read(MARKUP, text, cuts=range(0, len(text), size), answering=True)
    assert answer == read_by_recipe(text, size, thinking=False)
    assert json.loads(answer[1][2]) == given_arguments

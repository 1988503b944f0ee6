"""However an answer is cut into events, a stream of it says what the whole answer says, in both chat dialects."""

import asyncio
import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tools_support import MARKUP, ToolCodec, call, calls

from deepseek.api.dialects.anthropic_dialect import MessagesDialect
from deepseek.api.dialects.anthropic_request import MessagesRequest
from deepseek.api.dialects.chat_dialect import ChatDialect
from deepseek.api.dialects.chat_request import ChatRequest
from deepseek.api.spoken import Speech, gather
from deepseek.core.engine import Event, Finish, Ready, Tokens, Usage

texts = st.text("ab \n{\"'北🙂<", max_size=12)
names = st.sampled_from(["weather", "clock"])
made = st.lists(st.builds(lambda name, text: call(name, city=text), names, texts), max_size=3)
answers = st.builds(
    lambda thought, text, each: f"{thought}</think>{text}" + (calls(*each) if each else ""), texts, texts, made
)
ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Events:
    def __init__(self, events: list[Event]) -> None:
        self._left = list(events)

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Event:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)


def pieces(text: str, cuts: list[int]) -> list[Tokens]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [Tokens("r", 0, text[a:b], (1,)) for a, b in itertools.pairwise(places)]


def parser() -> Any:
    numbers = itertools.count(1)
    return MARKUP.parser(tools=True, thinking=True, new_id=lambda: f"call_{next(numbers)}")


def frames(dialect: Any, parts: list[Tokens], finish: Finish) -> list[Any]:
    """What is streamed, as JSON."""
    speech = Speech(dialect.parsers)
    stream = dialect.opening()
    for tokens in parts:
        stream += dialect.delta(tokens, speech.of(tokens))
    stream += dialect.closing(finish, speech.rest())
    return [json.loads(line[6:]) for line in stream.decode().split("\n") if line.startswith("data: {")]


def whole(dialect: Any, parts: list[Tokens], finish: Finish) -> Any:
    answer = asyncio.run(gather(Events([Ready("r", 1), *parts, finish]), dialect.parsers))
    return json.loads(dialect.whole(answer.choices, answer.scores, answer.finish))


@given(answers, st.lists(st.integers(0, 500), max_size=30), st.sampled_from(["stop", "length"]))
def test_openais_chunks_add_up_to_the_whole_message(text: str, cuts: list[int], reason: Any) -> None:
    parts = pieces(text, cuts)
    finish = Finish("r", (reason,), Usage(3, len(parts)))
    streamed = ChatDialect("r", ChatRequest.model_validate(ASK | {"stream": True}), ToolCodec(), (parser(),))
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": {}}
    ending = None
    for chunk in frames(streamed, parts, finish):
        (choice,) = chunk["choices"]
        ending = choice["finish_reason"] or ending
        for name in ("content", "reasoning_content"):
            message[name] += choice["delta"].get(name, "")
        for one in choice["delta"].get("tool_calls", ()):
            entry = message["tool_calls"].setdefault(one["index"], one | {"function": {"name": "", "arguments": ""}})
            entry["function"]["name"] += one["function"].get("name", "")
            entry["function"]["arguments"] += one["function"]["arguments"]
    (choice,) = whole(ChatDialect("r", ChatRequest.model_validate(ASK), ToolCodec(), (parser(),)), parts, finish)[
        "choices"
    ]
    assert ending == choice["finish_reason"]
    assert message["content"] == (choice["message"]["content"] or "")
    assert message["reasoning_content"] == choice["message"].get("reasoning_content", "")
    assert [entry["function"] for entry in message["tool_calls"].values()] == [
        one["function"] for one in choice["message"].get("tool_calls", ())
    ]


@given(answers, st.lists(st.integers(0, 500), max_size=30), st.sampled_from(["stop", "length"]))
def test_anthropics_events_add_up_to_the_whole_message(text: str, cuts: list[int], reason: Any) -> None:
    parts = pieces(text, cuts)
    finish = Finish("r", (reason,), Usage(3, len(parts)))
    body = MessagesRequest.model_validate(ASK | {"max_tokens": 100})

    def dialect() -> MessagesDialect:
        return MessagesDialect("r", body, (parser(),), prompt_tokens=3, room=1000)

    blocks: list[Any] = []
    open_block = None
    first, ping, *middle, ending, stop = frames(dialect(), parts, finish)
    assert [event["type"] for event in (first, ping, ending, stop)] == [
        "message_start",
        "ping",
        "message_delta",
        "message_stop",
    ]
    for event in middle:
        if event["type"] == "content_block_start":
            assert open_block is None and event["index"] == len(blocks)
            open_block = event["index"]
            blocks.append(event["content_block"] | {"json": ""})
            continue
        assert event["index"] == open_block
        if event["type"] == "content_block_stop":
            open_block = None
            continue
        block, delta = blocks[-1], event["delta"]
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "input_json_delta":
                block["json"] += delta["partial_json"]
    assert open_block is None
    for block in blocks:
        written = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(written)
    message = whole(dialect(), parts, finish)
    assert blocks == message["content"]
    assert ending["delta"] == {key: message[key] for key in ("stop_reason", "stop_sequence")}
    assert ending["usage"]["output_tokens"] == message["usage"]["output_tokens"]

"""The language model behind an address: our own server over a real socket, and servers that misbehave over one too."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.api import ServerState, serving
from deepseek.chat.codec import TextCodec
from deepseek.chat.openai_wire import AnswerReader, request_body
from deepseek.chat.remote import RemoteModel, retry_after_s
from deepseek.core.deltas import Delta, TextDelta, ToolCallArguments
from deepseek.core.engine import Usage
from deepseek.core.errors import AdmissionError, ModelError
from deepseek.core.language import Turn
from deepseek.core.messages import (
    MediaPart,
    Message,
    NamedTool,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions, build_loop
from deepseek.engine.engine import Engine

CALCULATOR = ToolSpec(
    "calculator",
    "Evaluate an arithmetic expression.",
    {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
)


def user(text: str) -> Message:
    return Message("user", (TextPart(text),))


async def asked(model: RemoteModel, *messages: Message, **options: Any) -> tuple[list[Delta], Turn]:
    pieces = [piece async for piece in model.chat(messages or (user("x"),), **options)]
    assert isinstance(pieces[-1], Turn) and not any(isinstance(piece, Turn) for piece in pieces[:-1])
    return pieces[:-1], pieces[-1]  # type: ignore[return-value]


@pytest.fixture(scope="module")
def own_url() -> Iterator[str]:
    loaded = build_loop("builtin", EngineOptions(max_sequences=4))
    engine = Engine(loaded.loop, loaded.weights, loaded.grammars)
    state = ServerState(engine, TextCodec(loaded.tokenizer), ("deepseek-tiny",), loaded.max_model_len)
    with serving(state, grace_s=1.0) as server:
        yield server.url + "/v1"


def test_our_own_server_calls_reads_the_result_and_answers(own_url: str) -> None:
    async def main() -> None:
        model = RemoteModel(own_url, "deepseek-tiny")
        greedy = SamplingParams(temperature=0.0, max_tokens=100)
        question = user("What is 12 times 7?")
        deltas, turn = await asked(model, question, tools=[CALCULATOR], sampling=greedy)
        (call,) = turn.message.parts
        assert isinstance(call, ToolCallPart) and json.loads(call.arguments) == {"expression": "12 * 7"}
        assert turn.end == "calls" and turn.usage.prompt_tokens > 0 and turn.usage.completion_tokens > 0
        assert sum(isinstance(delta, ToolCallArguments) for delta in deltas) > 1
        result = Message("tool", (ToolResultPart(call.id, "84"),))
        _, turn = await asked(model, question, turn.message, result, tools=[CALCULATOR], sampling=greedy)
        assert turn.end == "stop" and "84" in turn.message.text and turn.usage.cached_tokens > 0
        await model.aclose()

    asyncio.run(main())


def test_our_own_server_keeps_to_choices_schemas_and_lengths(own_url: str) -> None:
    async def main() -> None:
        model = RemoteModel(own_url, "deepseek-tiny")
        greedy = SamplingParams(temperature=0.0, max_tokens=100)
        _, turn = await asked(
            model, user("Hello"), tools=[CALCULATOR], choice=NamedTool("calculator"), parallel=False, sampling=greedy
        )
        assert [part.name for part in turn.message.parts if isinstance(part, ToolCallPart)] == ["calculator"]
        schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
        _, turn = await asked(model, user("Hello"), schema={**schema, "additionalProperties": False}, sampling=greedy)
        assert json.loads(turn.message.text)["n"] in (1, 2)
        _, turn = await asked(model, user("What is 3 * 4?"), tools=[CALCULATOR], sampling=SamplingParams(max_tokens=4))
        assert turn.end == "length" and turn.cut and turn.message.parts == ()
        with pytest.raises(AdmissionError) as refused:
            await asked(model, user("word " * 600))
        assert refused.value.reason == "too_long"
        with pytest.raises(AdmissionError) as refused:
            await asked(RemoteModel(own_url, "no-such-model"), user("x"))
        assert refused.value.reason == "unknown_model"
        await model.aclose()

    asyncio.run(main())


Handler = Callable[[asyncio.StreamWriter, dict[str, Any], dict[str, str]], Awaitable[None]]


@asynccontextmanager
async def server_of(*handlers: Handler) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A server over a real socket that handles its requests in order, the last handler all that come after.

    Yields its address, and the headers of each request as they come."""
    seen: list[dict[str, str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n"))
            }
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            seen.append(headers)
            await handlers[min(len(seen), len(handlers)) - 1](writer, body, headers)
            await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/", seen


def answering(status: str, body: str = "", *headers: str) -> Handler:
    async def handle(writer: asyncio.StreamWriter, _body: Any, _headers: Any) -> None:
        lines = [f"HTTP/1.1 {status}", "connection: close", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body.encode())

    return handle


def chunk(finish: str | None = None, **delta: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def streaming(*data: str, end: str = "data: [DONE]\n\n") -> Handler:
    frames = "".join(f"data: {one}\n\n" for one in data) + end
    return answering("200 OK", frames, "content-type: text/event-stream")


HELLO = streaming(chunk(content="Hel"), chunk(content="lo"), chunk("stop"))


class Pauses:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_what_may_pass_is_tried_again_and_not_before_the_server_said() -> None:
    async def main() -> None:
        pauses = Pauses()
        busy = answering("429 Too Many Requests", '{"error": {"message": "slow down"}}', "retry-after: 7")
        async with server_of(busy, answering("503 Service Unavailable"), HELLO) as (url, seen):
            model = RemoteModel(url, "m", draw=lambda: 0.5, sleep=pauses)
            _, turn = await asked(model)
            assert turn.message.text == "Hello" and turn.end == "stop"
            assert pauses.slept == [7.0, 0.5] and len(seen) == 3
            await model.aclose()

    asyncio.run(main())


def test_trying_again_has_an_end() -> None:
    async def main() -> None:
        async with server_of(answering("500 Internal Server Error", "oops")) as (url, seen):
            with pytest.raises(ModelError, match="oops") as raised:
                await asked(RemoteModel(url, "m", attempts=2, sleep=Pauses()))
            assert raised.value.retryable and len(seen) == 2
            with pytest.raises(ModelError):  # no time is left for a pause
                await asked(RemoteModel(url, "m", sleep=Pauses(), draw=lambda: 1.0), deadline=time.monotonic() + 0.4)
            assert len(seen) == 3

    asyncio.run(main())


def test_nothing_is_said_twice_an_answer_that_breaks_off_is_an_error() -> None:
    async def main() -> None:
        broken = streaming(chunk(content="Hel"), end="")
        async with server_of(broken, HELLO) as (url, seen):
            with pytest.raises(ModelError, match="broke off") as raised:
                await asked(RemoteModel(url, "m", sleep=Pauses()))
            assert raised.value.retryable and len(seen) == 1

    asyncio.run(main())


def test_nobody_listening_is_a_model_error_that_may_pass() -> None:
    async def main() -> None:
        async with server_of(HELLO) as (url, _):
            pass
        with pytest.raises(ModelError, match="no connection") as raised:
            await asked(RemoteModel(url, "m", attempts=1))
        assert raised.value.retryable

    asyncio.run(main())


def test_the_key_goes_to_the_address_alone_and_into_no_error() -> None:
    async def main() -> None:
        key = "sk-very-secret"
        async with server_of(HELLO) as (elsewhere, seen_there):
            moved = answering("307 Temporary Redirect", f"see {elsewhere} with {key}", f"location: {elsewhere}")
            async with server_of(moved, answering("401 Unauthorized", f"wrong key {key}"), HELLO) as (url, seen):
                model = RemoteModel(url, "m", api_key=key)
                for _ in range(2):
                    with pytest.raises(ModelError) as raised:
                        await asked(model)
                    assert key not in str(raised.value) and not raised.value.retryable
                await asked(model)
                assert [headers["authorization"] for headers in seen] == [f"Bearer {key}"] * 3
                assert not seen_there and key not in repr(model)
                await model.aclose()

    asyncio.run(main())


def test_past_the_deadline_what_was_said_is_the_turn() -> None:
    async def main() -> None:
        left = asyncio.Event()

        async def hang(writer: asyncio.StreamWriter, _body: Any, _headers: Any) -> None:
            first = chunk(
                content="So ", tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]
            )
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + f"data: {first}\n\n".encode())
            await writer.drain()
            await left.wait()

        async with server_of(hang) as (url, _):
            model = RemoteModel(url, "m")
            _, turn = await asked(model, deadline=time.monotonic() + 0.2)
            assert turn.end == "deadline" and turn.cut and turn.message.text == "So "
            left.set()
            await model.aclose()

    asyncio.run(main())


def test_leaving_early_closes_the_connection() -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def endless(writer: asyncio.StreamWriter, _body: Any, _headers: Any) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            try:
                while True:
                    writer.write(f"data: {chunk(content='x' * 1000)}\n\n".encode())
                    await writer.drain()
            except ConnectionError:
                gone.set()

        async with server_of(endless) as (url, _):
            pieces = RemoteModel(url, "m").chat([user("x")])
            async for _ in pieces:
                break
            await pieces.aclose()  # type: ignore[attr-defined]
            await asyncio.wait_for(gone.wait(), 30)

    asyncio.run(main())


def test_a_server_that_does_not_stream_is_read_all_the_same() -> None:
    async def main() -> None:
        calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
        message = {"role": "assistant", "content": "So:", "tool_calls": calls}
        whole = {
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_cache_hit_tokens": 2},
        }
        async with server_of(answering("200 OK", json.dumps(whole), "content-type: application/json")) as (url, _):
            _, turn = await asked(RemoteModel(url, "m"))
        assert turn.message.parts == (TextPart("So:"), ToolCallPart("c1", "f", '{"a": 1}'))
        assert turn.usage == Usage(3, 4, 2) and turn.end == "calls"

    asyncio.run(main())


@pytest.mark.parametrize(
    "handler",
    [
        streaming("{not json"),
        streaming("[1]"),
        streaming('{"choices": 3}'),
        streaming('{"choices": [{"delta": {"tool_calls": 1}}]}'),
        streaming('{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}}]}'),
        streaming('{"error": {"message": "out of memory"}}'),
        answering("200 OK", "<html>", "content-type: text/html"),
        streaming("x" * (5 << 20)),
    ],
)
def test_an_answer_that_is_none_is_a_model_error(handler: Handler) -> None:
    async def main() -> None:
        async with server_of(handler) as (url, _):
            with pytest.raises(ModelError) as raised:
                await asked(RemoteModel(url, "m", attempts=1))
            assert len(str(raised.value)) < 1000

    asyncio.run(main())


def test_media_go_only_to_models_that_take_them() -> None:
    async def main() -> None:
        picture = Message("user", (TextPart("What is it?"), MediaPart("image", "image/png", b"png")))
        bodies: list[dict[str, Any]] = []

        async def keep(writer: asyncio.StreamWriter, body: dict[str, Any], headers: Any) -> None:
            bodies.append(body)
            await HELLO(writer, body, headers)

        async with server_of(keep) as (url, _):
            with pytest.raises(AdmissionError, match="image"):
                await asked(RemoteModel(url, "m"), picture)
            await asked(RemoteModel(url, "m", takes=frozenset({"image"})), picture)
        (body,) = bodies
        assert body["messages"][0]["content"][1]["image_url"]["url"] == "data:image/png;base64,cG5n"

    asyncio.run(main())


def test_a_body_says_what_was_asked() -> None:
    conversation = [
        Message("system", (TextPart("Be brief."),)),
        user("x"),
        Message("assistant", (ThinkingPart("hm"), ToolCallPart("1", "f", '{"a":1}'), ToolCallPart("2", "f", "{}"))),
        Message("tool", (ToolResultPart("1", "one"), ToolResultPart("2", "two"))),
        Message("assistant", (ThinkingPart("old"), TextPart("Done."))),
    ]
    sampling = SamplingParams(temperature=0.5, max_tokens=9, top_k=3, seed=1, stop=("a",), logit_bias=((5, 1.0),))
    body = request_body("m", conversation, [CALCULATOR], NamedTool("calculator"), False, None, sampling)
    assert [entry["role"] for entry in body["messages"]] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert body["messages"][2]["reasoning_content"] == "hm" and "reasoning_content" not in body["messages"][5]
    assert body["messages"][2]["content"] is None and body["messages"][4]["tool_call_id"] == "2"
    assert body["tool_choice"]["function"] == {"name": "calculator"} and body["parallel_tool_calls"] is False
    assert {"temperature": 0.5, "max_tokens": 9, "top_k": 3, "seed": 1, "stop": ["a"]}.items() <= body.items()
    assert body["logit_bias"] == {"5": 1.0} and "min_p" not in body


@given(
    st.lists(st.tuples(st.text(max_size=5), st.dictionaries(st.text(max_size=3), st.integers())), max_size=4), st.data()
)
def test_calls_are_put_together_however_they_are_cut(calls: list[tuple[str, dict[str, int]]], data: Any) -> None:
    reader = AnswerReader("here")
    deltas: list[Delta] = []
    for index, (text, arguments) in enumerate(calls):
        spelt = json.dumps(arguments)
        at = data.draw(st.integers(0, len(spelt)))
        deltas += reader.feed({"choices": [{"delta": {"content": text}}]})
        head = {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": spelt[:at]}}
        deltas += reader.feed({"choices": [{"delta": {"tool_calls": [head]}}]})
        tail = {"index": index, "function": {"arguments": spelt[at:]}}
        deltas += reader.feed({"choices": [{"delta": {"tool_calls": [tail]}}]})
    deltas += reader.feed({"choices": [{"delta": {}, "finish_reason": data.draw(st.sampled_from(["stop", "length"]))}]})
    deltas += reader.close()
    turn = reader.turn()
    found = [json.loads(part.arguments) for part in turn.message.parts if isinstance(part, ToolCallPart)]
    assert found == [arguments for _, arguments in calls] and not turn.cut
    assert turn.message.text == "".join(text for text, _ in calls)
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == turn.message.text


def test_a_call_cut_off_by_its_length_is_none() -> None:
    reader = AnswerReader("here")
    piece = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": 1'}}
    reader.feed({"choices": [{"delta": {"tool_calls": [piece]}, "finish_reason": "length"}]})
    reader.close()
    assert reader.turn().cut and reader.turn().end == "length" and reader.turn().message.parts == ()


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("3") == 3.0 and retry_after_s("-1") == 0.0 and retry_after_s("soon") is None
    assert retry_after_s("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0 and retry_after_s(None) is None

"""/v1/responses, asked by OpenAI's own client: text, thinking and calls, whole and streamed, kept and gone on from."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import requests
from api_support import HeldEngine, RecordingEngine, quick, state_of
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from tools_support import ToolCodec, call, calls, saying

from deepseek.api import ServerState, serving
from deepseek.api.metering.meter import Account, FreeMeter
from deepseek.chat.codec import TextCodec
from deepseek.core.messages import NamedTool, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from deepseek.engine.build import EngineOptions, build_loop
from deepseek.engine.engine import Engine

MODEL = "deepseek-tiny"
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "weather",
        "description": "What it is like.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    },
    {"type": "function", "name": "clock", "parameters": None, "strict": None},
]
CALLING = "I wonder.</think>Let me look." + calls(call("weather", city='北京 "A"'), call("clock"))
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def codec() -> ToolCodec:
    return ToolCodec()


@pytest.fixture(scope="module")
def caller(codec: ToolCodec) -> Iterator[openai.OpenAI]:
    """A model that thinks, says something and makes two calls, whatever it is asked."""
    with (
        serving(saying(CALLING, codec), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def thoughtful(client: openai.OpenAI, **options: Any) -> Any:
    return client.responses.create(
        model=MODEL, input="How is it?", tools=TOOLS, reasoning={"effort": "high"}, **options
    )


def test_a_text_is_answered(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="Hi", instructions="Be brief.", metadata={"a": "b"})
    assert (answer.object, answer.status, answer.model) == ("response", "completed", MODEL)
    assert answer.output_text == "Hello, 世界!" and answer.metadata == {"a": "b"}
    assert answer.usage is not None and answer.usage.output_tokens == 14
    assert answer.usage.total_tokens == answer.usage.input_tokens + 14
    assert answer.instructions == "Be brief." and answer.error is None and answer.incomplete_details is None
    Response.model_validate(answer.model_dump())


def test_items_are_a_conversation(caller: openai.OpenAI, codec: ToolCodec) -> None:
    caller.responses.create(
        model=MODEL,
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "Hi"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", "name": "clock", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "noon"},
            {"role": "developer", "content": [{"type": "input_text", "text": "Go on."}]},
        ],  # type: ignore[list-item]
    )
    roles = [(message.role, message.parts) for message in codec.messages[-1]]
    assert roles == [
        ("system", (TextPart("Be brief."),)),
        ("user", (TextPart("Hi"),)),
        ("assistant", (ThinkingPart("Hm."), TextPart("I look."), ToolCallPart("c1", "clock", "{}"))),
        ("tool", (ToolResultPart("c1", "noon"),)),
        ("system", (TextPart("Go on."),)),
    ]


def test_thinking_text_and_calls_are_items_of_their_own(caller: openai.OpenAI, codec: ToolCodec) -> None:
    answer = thoughtful(caller, tool_choice="auto")
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
    reasoning, message, first, second = answer.output
    assert reasoning.content[0].text == "I wonder." and message.content[0].text == "Let me look."
    assert (first.name, json.loads(first.arguments)) == ("weather", {"city": '北京 "A"'})
    assert (second.name, second.arguments) == ("clock", "{}")
    assert first.call_id != second.call_id and all(item.status == "completed" for item in answer.output)
    assert codec.thinking[-1] and [tool.name for tool in codec.tools[-1]] == ["weather", "clock"]
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    assert [tool.name for tool in answer.tools] == ["weather", "clock"]
    Response.model_validate(answer.model_dump())


def test_events_come_in_the_order_of_openais_api(caller: openai.OpenAI) -> None:
    events = list(thoughtful(caller, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event.model_dump())
    kinds = [event.type for event in events]
    deltas = {kind for kind in kinds if kind.endswith(".delta")}
    skeleton = [kind for at, kind in enumerate(kinds) if kind not in deltas or kinds[at - 1] != kind]
    of_call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert skeleton == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *of_call,
        *of_call,
        "response.completed",
    ]


def test_deltas_add_up_to_what_is_said_when_done(caller: openai.OpenAI) -> None:
    pieces: dict[tuple[int, str], str] = {}
    final = None
    for event in thoughtful(caller, stream=True):
        if event.type.endswith(".delta"):
            place = event.output_index, event.item_id
            pieces[place] = pieces.get(place, "") + event.delta
        elif event.type.endswith(("_text.done", "arguments.done")):
            whole = event.arguments if event.type.endswith("arguments.done") else event.text
            assert pieces[event.output_index, event.item_id] == whole
        elif event.type == "response.completed":
            final = event.response
    assert final is not None and [item.id for item in final.output] == [item_id for _, item_id in sorted(pieces)]


def test_the_clients_stream_helper_gathers_text_and_calls(caller: openai.OpenAI) -> None:
    with caller.responses.stream(model=MODEL, input="How is it?", tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert final.output_text == "I wonder.</think>Let me look." or final.output_text.endswith("Let me look.")
    assert [item.name for item in final.output if item.type == "function_call"] == ["weather", "clock"]


def test_the_choice_of_tools_reaches_the_model(caller: openai.OpenAI, codec: ToolCodec) -> None:
    thoughtful(caller, tool_choice={"type": "function", "name": "clock"}, parallel_tool_calls=False)
    assert codec.choices[-1] == (NamedTool("clock"), False)
    thoughtful(caller, tool_choice="none")
    assert codec.tools[-1] == ()


def test_an_answers_items_may_be_sent_back_with_the_results(caller: openai.OpenAI, codec: ToolCodec) -> None:
    first = thoughtful(caller)
    results: list[Any] = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "fine"}
        for item in first.output
        if item.type == "function_call"
    ]
    asked: list[Any] = [{"role": "user", "content": "How is it?"}, *first.output, *results]
    caller.responses.create(model=MODEL, input=asked, tools=TOOLS, store=False)
    assistant = codec.messages[-1][1]
    assert [type(part) for part in assistant.parts] == [ThinkingPart, TextPart, ToolCallPart, ToolCallPart]
    assert [message.role for message in codec.messages[-1]] == ["user", "assistant", "tool", "tool"]


def test_an_answer_goes_on_from_a_kept_one(caller: openai.OpenAI, codec: ToolCodec) -> None:
    first = thoughtful(caller, instructions="Not kept.")
    made = [item for item in first.output if item.type == "function_call"]
    results: list[Any] = [{"type": "function_call_output", "call_id": item.call_id, "output": "fine"} for item in made]
    second = caller.responses.create(model=MODEL, previous_response_id=first.id, input=results, tools=TOOLS)
    assert [message.role for message in codec.messages[-1]] == ["user", "assistant", "tool", "tool"]
    caller.responses.create(model=MODEL, previous_response_id=second.id, input="And now?")
    assert [message.role for message in codec.messages[-1]] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
    ]
    assert second.previous_response_id == first.id


def test_a_kept_answer_is_looked_at_and_deleted(client: openai.OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="Hi")
    assert client.responses.retrieve(made.id).model_dump() == made.model_dump()
    assert client.responses.cancel(made.id).status == "completed"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="previous_response_id"):
        client.responses.create(model=MODEL, input="Hi", previous_response_id=made.id)


def test_a_streamed_answer_is_kept_before_its_last_event(client: openai.OpenAI) -> None:
    for event in client.responses.create(model=MODEL, input="Hi", stream=True):
        if event.type == "response.completed":
            kept = client.responses.retrieve(event.response.id)
            assert kept.output_text == "Hello, 世界!" and kept.status == "completed"


def test_an_answer_that_is_not_to_be_kept_is_not(client: openai.OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_the_items_of_a_request_are_listed_in_pages(client: openai.OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": f"{index}"} for index in range(5)]
    made = client.responses.create(model=MODEL, input=asked)
    listed = list(client.responses.input_items.list(made.id, order="asc", limit=2))
    assert [item.content[0].text for item in listed] == ["0", "1", "2", "3", "4"]  # type: ignore[union-attr, index]
    assert len({item.id for item in listed}) == 5
    newest = client.responses.input_items.list(made.id, limit=1).data[0]
    assert newest.content[0].text == "4"  # type: ignore[union-attr, index]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_cut_short_is_incomplete(stream: bool) -> None:
    begun = calls(call("weather", city="Rome"))[:-40]
    with (
        serving(saying("Well." + begun), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        tokens = len(("Well." + begun).encode()) - 1
        answer = client.responses.create(model=MODEL, input="Hi", tools=TOOLS, max_output_tokens=tokens, stream=stream)
        if stream:
            last = list(answer)[-1]
            assert last.type == "response.incomplete"
            answer = last.response
        again = client.responses.create(model=MODEL, input="Go on.", previous_response_id=answer.id)
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"
    assert [item.status for item in answer.output if item.type == "function_call"] == ["incomplete"]
    assert again.status in ("completed", "incomplete")


def test_log_probabilities_are_of_the_tokens_said(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = client.responses.create(model=MODEL, input="Hi", **asked).output[0].content[0].logprobs  # type: ignore[union-attr]
    assert b"".join(bytes(entry.bytes) for entry in whole or ()).decode() == "Hello, 世界!"  # type: ignore[union-attr]
    events = list(client.responses.create(model=MODEL, input="Hi", stream=True, **asked))
    streamed = [entry for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    assert len(streamed) == 14 and all(len(entry.top_logprobs or ()) == 2 for entry in streamed)


def test_fields_of_sampling_reach_the_engine() -> None:
    engine = RecordingEngine()
    with serving(state_of(engine)) as server:
        body = {
            "model": MODEL,
            "input": "Hi",
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 3,
            "seed": 7,
            "max_output_tokens": 9,
        }
        assert requests.post(f"{server.url}/v1/responses", json=body, timeout=30).status_code == 200
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed, sampling.max_tokens) == (
        0.5,
        0.9,
        3,
        7,
        9,
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]}, "input.0"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input.0.call_id"),
        ({"n": 2}, "n"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(url: str, fields: dict[str, Any], named: str) -> None:
    body = {"model": "deepseek-7b", "input": "a"} | fields
    response = requests.post(f"{url}/v1/responses", json=body, timeout=30)
    assert response.status_code == 400 and named in response.json()["error"]["message"], response.text


def test_a_failure_in_the_middle_of_a_stream_is_told_and_kept() -> None:
    engine = quick(fail_at=lambda request: None if request.id.startswith("probe-") else 3)
    with (
        serving(state_of(engine)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        error, failed = list(client.responses.create(model=MODEL, input="Hi", stream=True))[-2:]
        assert error.type == "error" and "failed" in error.message
        assert failed.type == "response.failed" and failed.response.status == "failed"
        assert failed.response.output[0].status == "incomplete" and failed.response.output_text == "Hel"
        kept = client.responses.retrieve(failed.response.id)
        assert kept.error is not None and kept.error.code == "server_error"


def test_a_response_is_cancelled_while_it_is_made() -> None:
    engine = HeldEngine(["Hel", "lo"])
    with (
        serving(state_of(engine)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        events: list[Any] = []
        made = threading.Event()

        def read() -> None:
            for event in client.responses.create(model=MODEL, input="Hi", stream=True):
                events.append(event)
                if event.type == "response.output_text.delta":
                    made.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert made.wait(5)
        response_id = events[0].response.id
        assert client.responses.retrieve(response_id).status == "in_progress"
        assert client.responses.cancel(response_id).status == "cancelled"
        reader.join(5)
        assert engine.ended.wait(5) and events[-1].response.status == "cancelled"
        assert client.responses.retrieve(response_id).output_text.startswith("Hel")


def test_a_response_is_cancelled_before_its_lease_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.api.dialects.responses.CANCEL_WAIT_S", 0.01)
    engine = RecordingEngine()
    state, asked, may = state_of(engine), threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    class SlowToOpen(FreeMeter):
        async def open(self, *request: Any) -> Account:
            loops.append(asyncio.get_running_loop())
            asked.set()
            await may.wait()
            return await super().open(*request)

    state.meter = SlowToOpen()
    with (
        serving(state) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        made = threads.submit(client.responses.create, model=MODEL, input="Hi")
        assert asked.wait(5)
        ((_, response_id),) = state.responses
        client.responses.cancel(response_id)
        loops[0].call_soon_threadsafe(may.set)
        assert made.result(timeout=5).status == "cancelled"
    assert not engine.requests


def test_leaving_ends_the_response_and_keeps_nothing() -> None:
    engine = HeldEngine(["Hello"])
    with (
        serving(state_of(engine)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.responses.create(model=MODEL, input="Hi", stream=True)
        response_id = next(stream).response.id
        stream.close()
        assert engine.ended.wait(5)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response_id)


class Verdict(BaseModel):
    """What the client asks for; its helper makes a strict schema of it."""

    sign: bool


@pytest.fixture(scope="module")
def builtin() -> Iterator[openai.OpenAI]:
    loaded = build_loop("builtin", EngineOptions(max_model_len=256, max_sequences=4, kv_bytes=16 << 20))
    engine = Engine(loaded.loop, loaded.weights, loaded.grammars)
    state = ServerState(engine, TextCodec(loaded.tokenizer), ("m",), loaded.max_model_len)
    with (
        serving(state, grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        yield client


def test_the_clients_parse_helper_gets_an_object_of_the_class_it_asked_for(builtin: openai.OpenAI) -> None:
    answer = builtin.responses.parse(model="m", input="Is 7 plus 5 twelve?", text_format=Verdict)
    assert isinstance(answer.output_parsed, Verdict)
    with builtin.responses.stream(model="m", input="Is 7 plus 5 twelve?", text_format=Verdict) as stream:
        stream.until_done()
        assert isinstance(stream.get_final_response().output_parsed, Verdict)


def test_a_schema_that_cannot_be_enforced_is_named(builtin: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no such type"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        builtin.responses.create(model="m", input="a", text=form)
    assert (caught.value.param or "").startswith("text.format")

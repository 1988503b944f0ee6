"""/v1/messages and its count, asked by Anthropic's own client over a real socket."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
import requests
from api_support import BROKEN, QUEUE_FULL, HeldEngine, RefusingEngine, state_of
from media_files import picture
from tools_support import WEATHER, ToolCodec, call, calls, saying

from deepseek.api import serving
from deepseek.core.messages import MediaPart, Message, NamedTool, TextPart, ThinkingPart, ToolCallPart, ToolResultPart

MODEL = "deepseek-tiny"
SAID = "I wonder.</think>Let me look." + calls(call("weather", city="北京"), call("clock"))
ASK: list[Any] = [{"role": "user", "content": "How is it?"}]
TOOLS: list[Any] = [
    {"name": "weather", "description": "What it is like.", "input_schema": WEATHER},
    {"name": "clock", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
]
THINK: Any = {"type": "enabled", "budget_tokens": 1024}
OPTIONS: dict[str, Any] = {"model": MODEL, "max_tokens": 2048, "messages": ASK, "tools": TOOLS}


def client_of(url: str, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", **{"max_retries": 0, **options})


@pytest.fixture(scope="module")
def codec() -> ToolCodec:
    return ToolCodec()


@pytest.fixture(scope="module")
def server_url(codec: ToolCodec) -> Iterator[str]:
    with serving(saying(SAID, codec), grace_s=1.0) as server:
        yield server.url


@pytest.fixture(scope="module")
def client(server_url: str) -> Iterator[anthropic.Anthropic]:
    with client_of(server_url) as client:
        yield client


def test_a_message_is_answered(codec: ToolCodec) -> None:
    with serving(saying("Hello, 世界!"), grace_s=1.0) as server, client_of(server.url) as client:
        message = client.messages.create(model=MODEL, max_tokens=100, messages=ASK, system="Be brief.")
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": "Hello, 世界!", "citations": None}
    ]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens == 14 and message.usage.input_tokens > 10


def test_thinking_text_and_calls_are_blocks_in_order(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**OPTIONS, thinking=THINK)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    thinking, text, weather, clock = message.content
    assert thinking.thinking == "I wonder." and text.text == "Let me look."
    assert (weather.name, weather.input, clock.name, clock.input) == ("weather", {"city": "北京"}, "clock", {})
    assert message.stop_reason == "tool_use" and weather.id != clock.id
    details = message.usage.output_tokens_details
    assert details is not None and 0 < details.thinking_tokens < message.usage.output_tokens


def test_a_stream_has_the_events_in_anthropics_order(server_url: str) -> None:
    with requests.post(f"{server_url}/v1/messages", json=OPTIONS | {"stream": True, "thinking": THINK}) as response:
        names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    assert response.headers["content-type"].startswith("text/event-stream")
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    order = [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]
    assert order == ["message_start", "ping", *block * 4, "message_delta", "message_stop"]


def test_the_clients_stream_helper_gathers_what_a_whole_answer_says(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**OPTIONS, thinking=THINK)
    with client.messages.stream(**OPTIONS, thinking=THINK) as stream:
        kinds = [event.type for event in stream]
        gathered = stream.get_final_message()
    assert {"text", "thinking", "input_json", "content_block_stop", "message_stop"} <= set(kinds)

    def said(message: Any) -> list[Any]:
        kept = [block.to_dict() for block in message.content]
        return [{key: value for key, value in block.items() if key not in ("id", "citations")} for block in kept]

    assert said(gathered) == said(whole)
    assert (gathered.stop_reason, gathered.usage.output_tokens) == ("tool_use", whole.usage.output_tokens)
    assert gathered.usage.input_tokens == whole.usage.input_tokens


def test_omitted_thinking_leaves_an_empty_block(client: anthropic.Anthropic) -> None:
    omitted: Any = THINK | {"display": "omitted"}
    message = client.messages.create(**OPTIONS, thinking=omitted)
    with client.messages.stream(**OPTIONS, thinking=omitted) as stream:
        gathered = stream.get_final_message()
    for found in (message, gathered):
        assert found.content[0].type == "thinking" and found.content[0].thinking == ""


def test_a_conversation_reaches_the_model_as_it_was(client: anthropic.Anthropic, codec: ToolCodec) -> None:
    message = client.messages.create(**OPTIONS, thinking=THINK)
    ids = [block.id for block in message.content if block.type == "tool_use"]
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": ids[0], "content": [{"type": "text", "text": "Sunny."}]},
        {"type": "tool_result", "tool_use_id": ids[1], "content": "no clock", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    turns: list[Any] = [*ASK, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    client.messages.create(**OPTIONS | {"messages": turns}, system=[{"type": "text", "text": "Be brief."}])
    system, user, assistant, first, second, last = codec.messages[-1]
    assert system == Message("system", (TextPart("Be brief."),)) and user == Message("user", (TextPart("How is it?"),))
    assert assistant.parts == (
        ThinkingPart("I wonder."),
        TextPart("Let me look."),
        ToolCallPart(ids[0], "weather", '{"city": "北京"}'),
        ToolCallPart(ids[1], "clock", "{}"),
    )
    assert first == Message("tool", (ToolResultPart(ids[0], "Sunny."),))
    assert second == Message("tool", (ToolResultPart(ids[1], "Error: no clock"),))
    assert last == Message("user", (TextPart("And now?"),))


@pytest.mark.parametrize(
    ("choice", "inside"),
    [
        ({"type": "auto"}, ("auto", True)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", False)),
        ({"type": "any"}, ("required", True)),
        ({"type": "tool", "name": "clock", "disable_parallel_tool_use": True}, (NamedTool("clock"), False)),
    ],
)
def test_a_choice_of_tools_becomes_what_the_model_must_do(
    client: anthropic.Anthropic, codec: ToolCodec, choice: Any, inside: Any
) -> None:
    client.messages.create(**OPTIONS, tool_choice=choice)
    assert codec.choices[-1] == inside


def test_choosing_none_keeps_the_tools_from_the_model(client: anthropic.Anthropic, codec: ToolCodec) -> None:
    assert client.messages.create(**OPTIONS, tool_choice={"type": "none"}).stop_reason == "end_turn"
    assert codec.tools[-1] == ()


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_sequence_that_ended_it_is_named(stream: bool) -> None:
    with serving(saying("one two three"), grace_s=1.0) as server, client_of(server.url) as client:
        options: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": ASK}
        options["stop_sequences"] = ["zzz", " th"]
        if stream:
            with client.messages.stream(**options) as found:
                message = found.get_final_message()
        else:
            message = client.messages.create(**options)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " th")
    assert message.content[0].type == "text" and message.content[0].text == "one two"


def test_an_answer_at_its_limit_ends_by_max_tokens(client: anthropic.Anthropic) -> None:
    assert client.messages.create(**OPTIONS | {"max_tokens": 3}).stop_reason == "max_tokens"


def test_more_tokens_than_the_context_has_are_taken_and_its_end_is_told() -> None:
    with serving(saying("word " * 3000), grace_s=1.0) as server, client_of(server.url) as client:
        message = client.messages.create(model=MODEL, max_tokens=64_000, messages=ASK, timeout=60)
    assert message.stop_reason == "model_context_window_exceeded"


def test_tokens_are_counted_as_the_answer_counts_them(client: anthropic.Anthropic) -> None:
    count = client.messages.count_tokens(model=MODEL, messages=ASK, tools=TOOLS, system="Be brief.")
    message = client.messages.create(**OPTIONS, system="Be brief.")
    assert count.input_tokens == message.usage.input_tokens


def test_a_schema_for_the_text_is_taken(client: anthropic.Anthropic) -> None:
    form: Any = {"format": {"type": "json_schema", "schema": WEATHER}}
    with serving(saying('{"city": "Bern"}'), grace_s=1.0) as server, client_of(server.url) as other:
        message = other.messages.create(model=MODEL, max_tokens=100, messages=ASK, output_config=form)
    assert message.content[0].type == "text" and message.content[0].text == '{"city": "Bern"}'


def test_an_image_reaches_the_model() -> None:
    codec = ToolCodec()
    state = saying("Nice.", codec)
    state.media = {MODEL: frozenset(("image",))}
    data = picture("PNG")
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
    content: list[Any] = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    with serving(state, grace_s=1.0) as server, client_of(server.url) as client:
        client.messages.create(model=MODEL, max_tokens=10, messages=[{"role": "user", "content": content}])
    assert codec.messages[-1][0].parts == (MediaPart("image", "image/png", data), TextPart("What is it?"))


def test_a_text_document_is_read_as_text(client: anthropic.Anthropic, codec: ToolCodec) -> None:
    document = {
        "type": "document",
        "title": "Notes",
        "source": {"type": "text", "media_type": "text/plain", "data": "It rains."},
    }
    client.messages.create(**OPTIONS | {"messages": [{"role": "user", "content": [document]}]})
    assert codec.messages[-1][0].text == "Notes\nIt rains.\n"


def test_the_async_client_streams() -> None:
    async def ask(url: str) -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
            client.messages.stream(model=MODEL, max_tokens=100, messages=ASK) as stream,
        ):
            return "".join([text async for text in stream.text_stream])

    with serving(saying("Hello, 世界!"), grace_s=1.0) as server:
        assert asyncio.run(ask(server.url)) == "Hello, 世界!"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"top_p": 2}}, "top_p"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"tools": [{"name": "f", "input_schema": {"required": "x"}}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "budget_tokens less than max_tokens"),
        ({"messages": [{"role": "assistant", "content": "It is"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]}, "tool_use_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages.0.content.0: expected a block of type",
        ),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"extra_body": {"container": {"id": "x"}}}, "container"),
    ],
)
def test_what_is_wrong_or_unsupported_is_refused_by_name(client: anthropic.Anthropic, change: Any, field: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**OPTIONS | change)
    error: Any = caught.value.body
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"
    assert field in error["error"]["message"] and error["request_id"] == caught.value.response.headers["x-request-id"]


def test_an_unknown_model_is_the_clients_not_found(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**OPTIONS | {"model": "claude-9"})
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("failure", "expected", "kind"),
    [(QUEUE_FULL, anthropic.RateLimitError, "rate_limit_error"), (BROKEN, anthropic.InternalServerError, "api_error")],
)
def test_refusals_of_the_engine_reach_the_client_as_its_own_errors(failure: Any, expected: Any, kind: str) -> None:
    with (
        serving(state_of(RefusingEngine(failure))) as server,
        client_of(server.url) as client,
        pytest.raises(expected) as caught,
    ):
        client.messages.create(model=MODEL, max_tokens=10, messages=ASK)
    assert caught.value.body["error"]["type"] == kind


def test_a_failure_in_the_middle_of_a_stream_is_raised_by_the_client() -> None:
    def third(request: Any) -> int | None:
        return None if request.id.startswith("probe-") else 3

    seen = ""
    with (
        serving(saying("Hello", fail_at=third)) as server,
        client_of(server.url) as client,
        pytest.raises(anthropic.APIStatusError, match="The engine failed on this request"),
        client.messages.stream(model=MODEL, max_tokens=10, messages=ASK) as stream,
    ):
        for text in stream.text_stream:
            seen += text
    assert seen in ("", "Hel")


def test_closing_the_clients_stream_ends_the_request() -> None:
    engine = HeldEngine(["Hello"])
    with serving(state_of(engine)) as server, client_of(server.url) as client:
        with client.messages.stream(model=MODEL, max_tokens=10, messages=ASK) as stream:
            next(iter(stream.text_stream))
            assert not engine.ended.is_set()
        assert engine.ended.wait(5)

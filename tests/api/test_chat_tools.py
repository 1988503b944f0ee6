"""Tools in a chat, asked by OpenAI's own client: calls whole and streamed, choices, results, and what is cut off."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tools_support import ASK, CALL_BEGIN, CALLS_BEGIN, SEPARATOR, TOOLS, WEATHER, ToolCodec, call, calls, saying

from deepseek.api import serving
from deepseek.core.messages import NamedTool, ToolCallPart, ToolResultPart

MODEL = "deepseek-tiny"
TWO = "Let me look." + calls(call("weather", city='北京 "A"'), call("clock"))


@pytest.fixture(scope="module")
def codec() -> ToolCodec:
    return ToolCodec()


@pytest.fixture(scope="module")
def client(codec: ToolCodec) -> Iterator[openai.OpenAI]:
    with (
        serving(saying(TWO, codec), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def asking(text: str, **options: Any) -> Any:
    """The answer of a server that says this."""
    with (
        serving(saying(text), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        answer = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, **options)
        return list(answer) if options.get("stream") else answer


def test_calls_come_with_ids_names_and_their_arguments_as_json(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me look."
    made = choice.message.tool_calls or []
    assert [one.function.name for one in made] == ["weather", "clock"]
    assert [json.loads(one.function.arguments) for one in made] == [{"city": '北京 "A"'}, {}]
    assert len({one.id for one in made}) == 2 and all(one.type == "function" for one in made)


def test_a_streamed_call_begins_with_its_name_and_its_arguments_follow_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, stream=True))
    deltas = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or ()]
    first = [one for one in deltas if one.index == 0]
    assert first[0].id and first[0].type == "function"
    assert (first[0].function.name, first[0].function.arguments) == ("weather", "")
    assert all(one.id is None and one.function.name is None for one in first[1:]) and len(first) > 3
    assert json.loads("".join(one.function.arguments for one in first)) == {"city": '北京 "A"'}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me look."
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_clients_stream_helper_gathers_the_same_calls(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS)
    with client.chat.completions.stream(model=MODEL, messages=ASK, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        gathered = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert [(one.function.name, one.function.arguments) for one in gathered.choices[0].message.tool_calls or ()] == [
        (one.function.name, one.function.arguments) for one in whole.choices[0].message.tool_calls or ()
    ]


def test_calls_and_results_sent_back_reach_the_model_as_they_were(client: openai.OpenAI, codec: ToolCodec) -> None:
    message = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS).choices[0].message
    made = message.tool_calls or []
    results = [{"role": "tool", "tool_call_id": one.id, "content": f"answer of {one.id}"} for one in made]
    client.chat.completions.create(model=MODEL, messages=[*ASK, message, *results], tools=TOOLS)
    _, assistant, *tools = codec.messages[-1]
    assert assistant.text == "Let me look."
    assert [part for part in assistant.parts if isinstance(part, ToolCallPart)] == [
        ToolCallPart(one.id, one.function.name, one.function.arguments) for one in made
    ]
    assert [tool.role for tool in tools] == ["tool", "tool"]
    assert tools[0].parts == (ToolResultPart(made[0].id, f"answer of {made[0].id}"),)


def test_what_the_stream_helper_gathered_can_be_sent_back(client: openai.OpenAI, codec: ToolCodec) -> None:
    with client.chat.completions.stream(model=MODEL, messages=ASK, tools=TOOLS) as stream:
        message: Any = stream.get_final_completion().choices[0].message
    results = [{"role": "tool", "tool_call_id": made.id, "content": "so"} for made in message.tool_calls]
    for form in (message, message.model_dump(), message.model_dump(exclude_none=True)):
        client.chat.completions.create(model=MODEL, messages=[*ASK, form, *results], tools=TOOLS)
        assert len([part for part in codec.messages[-1][1].parts if isinstance(part, ToolCallPart)]) == 2


@pytest.mark.parametrize(
    ("choice", "inside"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "clock"}}, NamedTool("clock")),
    ],
)
def test_a_choice_of_tools_becomes_what_the_model_must_do(
    client: openai.OpenAI, codec: ToolCodec, choice: Any, inside: Any
) -> None:
    client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False
    )
    assert codec.choices[-1] == (inside, False)


def test_choosing_none_keeps_the_tools_from_the_model(client: openai.OpenAI, codec: ToolCodec) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, tool_choice="none")
    assert codec.tools[-1] == () and answer.choices[0].finish_reason == "stop"
    assert not answer.choices[0].message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_was_cut_off_does_not_end_as_a_call(stream: bool) -> None:
    begun = CALLS_BEGIN + CALL_BEGIN + "weather" + SEPARATOR + '{"city": "Ber'
    answer = asking(begun + "lin", stream=stream, max_tokens=len(begun.encode()))
    if stream:
        assert answer[-1].choices[0].finish_reason == "length"
    else:
        assert answer.choices[0].finish_reason == "length" and not answer.choices[0].message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
def test_markup_that_is_no_call_stays_text(stream: bool) -> None:
    said = f"write {SEPARATOR} like this"
    answer = asking(said, stream=stream)
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        if stream
        else answer.choices[0].message.content
    )
    assert "write " in text and " like this" in text


def test_each_of_several_choices_has_calls_of_its_own(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, stream=True, n=3))
    names: dict[int, list[str]] = {}
    for chunk in chunks:
        for one in chunk.choices[0].delta.tool_calls or ():
            if one.function and one.function.name:
                names.setdefault(chunk.choices[0].index, []).append(one.function.name)
    assert names == {0: ["weather", "clock"], 1: ["weather", "clock"], 2: ["weather", "clock"]}


def test_the_clients_parse_makes_the_arguments_a_model_of_its_caller(client: openai.OpenAI) -> None:
    class Weather(BaseModel):
        city: str

    tool = openai.pydantic_function_tool(Weather, name="weather")
    with (
        serving(saying(calls(call("weather", city="Bern"))), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as other,
    ):
        answer = other.chat.completions.parse(model=MODEL, messages=ASK, tools=[tool])
    made = answer.choices[0].message.tool_calls or []
    assert made[0].function.parsed_arguments == Weather(city="Bern")


def test_a_schema_for_the_text_stands_beside_tools() -> None:
    class Weather(BaseModel):
        city: str

    with (
        serving(saying('{"city": "Bern"}'), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        tool = openai.pydantic_function_tool(Weather, name="weather")
        answer = client.chat.completions.parse(model=MODEL, messages=ASK, tools=[tool], response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Bern")


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_cover_every_token_of_a_call(client: openai.OpenAI, stream: bool) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, logprobs=True, stream=stream)
    parts = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    entries = [entry for part in parts if part.logprobs for entry in part.logprobs.content or ()]
    assert b"".join(bytes(entry.bytes or ()) for entry in entries).decode() == TWO


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": 5}}}]},
            "tools.0.function.parameters",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools.0.function.name"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice.function.name"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"messages": [*ASK, {"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages.1.tool_call_id"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(client: openai.OpenAI, change: Any, field: str) -> None:
    options = {"model": MODEL, "messages": ASK, "tools": TOOLS} | change
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**options)
    assert (caught.value.param or "").startswith(field)


def test_a_schema_of_arguments_reaches_the_model(client: openai.OpenAI, codec: ToolCodec) -> None:
    client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS)
    weather, clock = codec.tools[-1]
    assert weather.parameters == WEATHER and weather.description == "What it is like."
    assert clock.parameters == {"type": "object", "properties": {}}

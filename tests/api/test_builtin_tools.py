"""Tools end to end on the built-in model: OpenAI's and Anthropic's own clients, a real engine, real grammars."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from deepseek.api import ServerState, serving
from deepseek.chat.codec import TextCodec
from deepseek.engine.build import EngineOptions, build_loop
from deepseek.engine.engine import Engine

MODEL = "deepseek-tiny"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"expression": {"type": "string"}},
    "required": ["expression"],
    "additionalProperties": False,
}
ABOUT = "Evaluate an arithmetic expression."
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "calculator", "description": ABOUT, "parameters": SCHEMA}}
]
ASK: list[Any] = [{"role": "user", "content": "What is 12 times 7?"}]
ASK_CHINESE: list[Any] = [{"role": "user", "content": "12 乘以 7 是多少？"}]
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    loaded = build_loop("builtin", EngineOptions(max_sequences=4))
    engine = Engine(loaded.loop, loaded.weights, loaded.grammars)
    state = ServerState(engine, TextCodec(loaded.tokenizer), (MODEL,), loaded.max_model_len)
    with serving(state, grace_s=1.0) as server:
        yield server.url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def create(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        **{"model": MODEL, "messages": ASK, "tools": TOOLS, "temperature": 0} | options
    )


@pytest.mark.parametrize("messages", [ASK, ASK_CHINESE])
def test_a_question_becomes_a_call_and_its_result_an_answer(client: openai.OpenAI, messages: Any) -> None:
    choice = create(client, messages=messages).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    made = choice.message.tool_calls[0]
    assert (made.function.name, json.loads(made.function.arguments)) == ("calculator", {"expression": "12 * 7"})
    result = {"role": "tool", "tool_call_id": made.id, "content": "84"}
    answer = create(client, messages=[*messages, choice.message, result])
    assert "84" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens_details.cached_tokens > 0


def test_a_streamed_call_is_the_same_call(client: openai.OpenAI) -> None:
    chunks = list(create(client, stream=True))
    deltas = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].function.name == "calculator" and len(deltas) > 2
    assert json.loads("".join(delta.function.arguments for delta in deltas)) == {"expression": "12 * 7"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


@pytest.mark.parametrize("seed", range(6))
def test_a_demanded_call_comes_whatever_the_model_would_say(client: openai.OpenAI, seed: int) -> None:
    choice = create(
        client,
        messages=[{"role": "user", "content": "Hello!"}],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1.5,
        seed=seed,
        max_completion_tokens=200,
    ).choices[0]
    if choice.finish_reason == "tool_calls":
        (made,) = choice.message.tool_calls
        assert made.function.name == "calculator" and set(json.loads(made.function.arguments)) == {"expression"}
    else:
        assert choice.finish_reason == "length" and not choice.message.tool_calls
    assert not choice.message.content


def test_a_named_tool_is_the_one_that_is_called(client: openai.OpenAI) -> None:
    other = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
    named = {"type": "function", "function": {"name": "clock"}}
    choice = create(client, tools=[*TOOLS, other], tool_choice=named, max_completion_tokens=100).choices[0]
    assert [made.function.name for made in choice.message.tool_calls or ()] in (["clock"], [])


def test_choosing_none_gets_text(client: openai.OpenAI) -> None:
    message = create(client, tool_choice="none").choices[0].message
    assert message.content and not message.tool_calls


@pytest.mark.parametrize("seed", range(6))
def test_beside_tools_an_answer_is_a_call_or_the_json_that_was_asked_for(client: openai.OpenAI, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}}
    choice = create(
        client,
        messages=[{"role": "user", "content": "Hello!"}],
        response_format=form,
        temperature=3.0,
        seed=seed,
        max_completion_tokens=200,
    ).choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content)["answer"], int)
    elif choice.finish_reason == "tool_calls":
        assert not choice.message.content
        assert all(set(json.loads(made.function.arguments)) == {"expression"} for made in choice.message.tool_calls)


def test_a_regular_expression_beside_tools_cannot_be_enforced_and_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="neither thinking nor tools"):
        create(client, extra_body={"structured_outputs": {"regex": "a+"}})


def test_a_model_without_thinking_refuses_to_be_asked_for_it(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="has no thinking") as caught:
        create(client, reasoning_effort="high")
    assert caught.value.param == "reasoning_effort"
    with (
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as other,
        pytest.raises(anthropic.BadRequestError, match="has no thinking"),
    ):
        other.messages.create(
            model=MODEL, max_tokens=100, messages=ASK, thinking={"type": "enabled", "budget_tokens": 50}
        )


def test_anthropics_client_calls_the_same_tool_and_reads_its_result(url: str) -> None:
    tools: Any = [{"name": "calculator", "description": ABOUT, "input_schema": SCHEMA}]
    options: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "tools": tools}
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        with client.messages.stream(**options, messages=ASK, extra_body={"temperature": 0}) as stream:
            message = stream.get_final_message()
        (block,) = message.content
        assert message.stop_reason == "tool_use" and block.type == "tool_use"
        assert (block.name, block.input) == ("calculator", {"expression": "12 * 7"})
        result: Any = {"type": "tool_result", "tool_use_id": block.id, "content": "84"}
        turns: Any = [*ASK, message.to_param(), {"role": "user", "content": [result]}]
        answer = client.messages.create(**options, messages=turns, extra_body={"temperature": 0})
        counted = client.messages.count_tokens(model=MODEL, messages=turns, tools=tools)
    assert answer.content[0].type == "text" and "84" in answer.content[0].text
    usage = answer.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted.input_tokens
    assert usage.cache_read_input_tokens


def test_a_stop_sequence_is_named_by_the_real_engine(url: str) -> None:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        message = client.messages.create(
            model=MODEL, max_tokens=60, messages=ASK, stop_sequences=["tool"], extra_body={"temperature": 0}
        )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "tool")

"""Thinking in a chat: the ways to ask for it, where it comes out, and how it is counted."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tools_support import ASK, TOOLS, ToolCodec, call, calls, saying

from deepseek.api import serving
from deepseek.core.messages import ThinkingPart

MODEL = "deepseek-tiny"
SAID = "I wonder.</think>Yes." + calls(call("clock"))


@pytest.fixture(scope="module")
def codec() -> ToolCodec:
    return ToolCodec()


@pytest.fixture(scope="module")
def client(codec: ToolCodec) -> Iterator[openai.OpenAI]:
    with (
        serving(saying(SAID, codec), grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


SWITCHES: list[Any] = [
    {"reasoning_effort": "high"},
    {"extra_body": {"thinking": {"type": "enabled"}}},
    {"extra_body": {"chat_template_kwargs": {"thinking": True}}},
    {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
]


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_spelling_of_the_switch_lets_the_model_think(
    client: openai.OpenAI, codec: ToolCodec, switch: Any
) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, **switch)
    message: Any = answer.choices[0].message
    assert codec.thinking[-1] and message.reasoning_content == "I wonder." and message.content == "Yes."
    assert answer.choices[0].finish_reason == "tool_calls"


def test_without_a_switch_the_model_does_not_think(client: openai.OpenAI, codec: ToolCodec) -> None:
    client.chat.completions.create(model=MODEL, messages=ASK)
    client.chat.completions.create(model=MODEL, messages=ASK, reasoning_effort="none")
    assert codec.thinking[-2:] == [False, False]


def test_streamed_thinking_comes_in_its_own_field(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(model=MODEL, messages=ASK, reasoning_effort="low", stream=True, tools=TOOLS)
    deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "I wonder."
    assert "".join(delta.content or "" for delta in deltas) == "Yes."


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_counted_with_its_tag_and_within_the_completion(client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": ASK, "reasoning_effort": "low", "tools": TOOLS}
    if stream:
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
        usage = chunks[-1].usage
    else:
        usage = client.chat.completions.create(**options).usage
    details: Any = usage and usage.completion_tokens_details
    assert len("I wonder.") - 1 <= details.reasoning_tokens <= len("I wonder.</think>")
    assert usage and usage.completion_tokens == len(SAID.encode())
    assert usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens == 0


def test_thinking_sent_back_reaches_the_model_as_thinking(client: openai.OpenAI, codec: ToolCodec) -> None:
    said = {"role": "assistant", "content": "Yes.", "reasoning_content": "I wondered."}
    client.chat.completions.create(model=MODEL, messages=[*ASK, said, *ASK])  # type: ignore[list-item]
    assert codec.messages[-1][1].parts[0] == ThinkingPart("I wondered.")


def test_switches_that_disagree_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="disagree"):
        client.chat.completions.create(
            model=MODEL, messages=ASK, reasoning_effort="high", extra_body={"thinking": {"type": "disabled"}}
        )

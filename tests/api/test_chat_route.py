"""/v1/chat/completions and /v1/models, asked by OpenAI's own client over a real socket."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from api_support import BROKEN, QUEUE_FULL, HeldEngine, RefusingEngine, quick, state_of

from deepseek.api import serving

ASK: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_conversation_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="deepseek-tiny", messages=ASK, temperature=0, seed=7)
    assert answer.object == "chat.completion" and answer.model == "deepseek-tiny"
    assert answer.choices[0].message.content == "Hello, 世界!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens == 14


def test_a_conversation_streams_with_its_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="deepseek-tiny", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello, 世界!"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + 14


def test_without_asking_no_chunk_carries_usage(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="deepseek-tiny", messages=ASK, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_the_clients_stream_helper_gathers_the_answer(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="deepseek-tiny", messages=ASK) as stream:
        assert stream.get_final_completion().choices[0].message.content == "Hello, 世界!"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_of_the_tokens_sent(client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {"model": "deepseek-tiny", "messages": ASK, "logprobs": True, "top_logprobs": 2}
    if stream:
        chunks = client.chat.completions.create(**options, stream=True)
        entries = [e for c in chunks for e in ((c.choices[0].logprobs and c.choices[0].logprobs.content) or [])]
    else:
        entries = client.chat.completions.create(**options).choices[0].logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == "Hello, 世界!"
    assert all(len(entry.top_logprobs) == 2 and entry.logprob < 0 for entry in entries)


def test_an_answer_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="deepseek-tiny", messages=ASK).choices[0].message
    again = client.chat.completions.create(
        model="deepseek-tiny", messages=[*ASK, message.model_dump(), {"role": "user", "content": "More"}]
    )
    assert again.choices[0].message.content == "Hello, 世界!"


def test_stop_strings_are_taken_in_both_forms(client: openai.OpenAI) -> None:
    for stop in ("世", ["zz", "世"]):
        answer = client.chat.completions.create(model="deepseek-tiny", messages=ASK, stop=stop)
        assert answer.choices[0].message.content == "Hello, "


def test_neutral_values_of_unsupported_fields_are_taken(client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="deepseek-tiny",
        messages=ASK,
        n=1,
        user="someone",
        frequency_penalty=0,
        presence_penalty=0.0,
        store=False,
        metadata={"a": "b"},
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        logit_bias={},
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store", True),
        ("functions", [{"name": "f"}]),
        ("tool_choice", "required"),
        ("reasoning_effort", "high"),
        ("no_such_field", 1),
    ],
)
def test_an_unsupported_field_is_refused_by_name(client: openai.OpenAI, field: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=field) as caught:
        client.chat.completions.create(model="deepseek-tiny", messages=ASK, extra_body={field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "x", "tool_call_id": "1"},
        {"role": "user"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ],
)
def test_a_message_that_is_not_text_is_refused(client: openai.OpenAI, message: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"messages\.0"):
        client.chat.completions.create(model="deepseek-tiny", messages=[message])


def test_the_names_of_speakers_are_taken_and_change_nothing(client: openai.OpenAI) -> None:
    named: list[Any] = [
        {"role": "system", "content": "Be brief.", "name": "rules"},
        {"role": "user", "content": "Hi", "name": "alice"},
        {"role": "assistant", "content": "Yes?", "name": "agent_1"},
        {"role": "user", "content": "Go on", "name": None},
    ]
    plain: list[Any] = [{key: value for key, value in message.items() if key != "name"} for message in named]
    answers = [client.chat.completions.create(model="deepseek-tiny", messages=asked) for asked in (named, plain)]
    assert answers[0].usage == answers[1].usage
    with pytest.raises(openai.BadRequestError, match=r"messages\.0\.name"):
        client.chat.completions.create(
            model="deepseek-tiny",
            messages=[{"role": "user", "content": "Hi", "name": 7}],  # type: ignore[typeddict-item]
        )


def test_an_unknown_model_is_the_clients_not_found_with_a_message(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="served: deepseek-7b, deepseek-tiny") as caught:
        client.chat.completions.create(model="gpt-9", messages=ASK)
    assert (caught.value.code, caught.value.param) == ("unknown_model", "model")


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["deepseek-7b", "deepseek-tiny"]


def test_an_error_is_a_problem_document_for_everyone_else(url: str) -> None:
    response = requests.post(f"{url}/v1/chat/completions", json={"model": "gpt-9", "messages": ASK})
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["type"]) == (404, "urn:deepseek:problem:unknown-model")
    assert body["error"]["message"] == body["detail"]


@pytest.mark.parametrize(
    ("failure", "expected"), [(QUEUE_FULL, openai.RateLimitError), (BROKEN, openai.InternalServerError)]
)
def test_refusals_of_the_engine_reach_the_client_as_its_own_errors(failure: Exception, expected: type) -> None:
    with (
        serving(state_of(RefusingEngine(failure))) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(expected),
    ):
        client.chat.completions.create(model="deepseek-tiny", messages=ASK)


def test_a_failure_in_the_middle_of_a_stream_is_raised_by_the_client() -> None:
    with (
        serving(state_of(quick(fail_at=lambda request: None if request.id.startswith("probe-") else 3))) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        seen = []
        with pytest.raises(openai.APIError, match="The engine failed on this request"):
            for chunk in client.chat.completions.create(model="deepseek-tiny", messages=ASK, stream=True):
                seen.append(chunk.choices[0].delta.content or "")
    assert "".join(seen) == "Hel"


def test_closing_the_clients_stream_ends_the_request() -> None:
    engine = HeldEngine(["Hello"])
    with (
        serving(state_of(engine)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(model="deepseek-tiny", messages=ASK, stream=True)
        next(stream)
        assert not engine.ended.is_set()
        stream.close()
        assert engine.ended.wait(5)

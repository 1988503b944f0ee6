"""n > 1, log-probabilities of text and prompt, and echo: whole and streamed, in both dialects."""

import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from api_support import CONTEXT, state_of

from deepseek.api import serving
from deepseek.core.engine import Request
from deepseek.engine.fake import FakeEngine

ASK: Any = [{"role": "user", "content": "Hi"}]
FLAT = -math.log(256)


def by_choice(request: Request, choice: int, seed: int) -> bytes:
    """Answers of different lengths, so that choices end at different times."""
    return b"ab" * (choice + 1)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    engine = FakeEngine(reply=by_choice, ttft_s=0.0, inter_token_s=0.0, max_model_len=CONTEXT)
    with serving(state_of(engine), grace_s=1.0) as running:
        yield running.url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def generate(url: str, **fields: Any) -> dict[str, Any]:
    response = requests.post(f"{url}/v1/generate", json={"model": "deepseek-7b", "prompt": "abc"} | fields, timeout=30)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def frames(url: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "deepseek-7b", "prompt": "abc", "stream": True} | fields
    response = requests.post(f"{url}/v1/generate", json=body, timeout=30)
    return [json.loads(line.removeprefix("data: ")) for line in response.content.decode().split("\n\n") if line]


def test_openais_client_gets_every_choice_with_its_own_end_and_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="deepseek-7b", messages=ASK, n=3, max_tokens=4, logprobs=True, top_logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["ab", "abab", "abab"]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length", "length"]
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    assert answer.usage is not None and answer.usage.completion_tokens == 10


def test_a_stream_of_several_choices_says_whose_text_each_chunk_is(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="deepseek-7b", messages=ASK, n=2, stream=True, logprobs=True)
    texts, ends, opened, order = ["", ""], {}, [], []
    for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.role:
                opened.append(choice.index)
            if choice.delta.content:
                order.append(choice.index)
                assert choice.logprobs is not None
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == ["ab", "abab"] and opened == [0, 1] and ends == {0: "stop", 1: "stop"}
    assert order != sorted(order), "the choices came one after the other"


def test_chunks_without_log_probabilities_are_told_apart_too(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="deepseek-7b", messages=ASK, n=2, stream=True)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["ab", "abab"]


def test_our_own_dialect_lists_the_choices_beside_the_first(server: str) -> None:
    body = generate(server, n=2)
    assert body["text"] == "ab" and body["finish_reason"] == "stop"
    assert body["choices"] == [
        {"index": 0, "text": "ab", "finish_reason": "stop"},
        {"index": 1, "text": "abab", "finish_reason": "stop"},
    ]


def test_our_own_stream_carries_the_index_and_ends_every_choice(server: str) -> None:
    *first, last = frames(server, n=2)
    for index, text in enumerate(("ab", "abab")):
        assert "".join(frame["text"] for frame in first if frame["index"] == index) == text
    assert [choice["finish_reason"] for choice in last["choices"]] == ["stop", "stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_our_own_dialect_scores_every_token(server: str, stream: bool) -> None:
    if stream:
        entries = [entry for frame in frames(server, logprobs=1) for entry in frame.get("logprobs", ())]
    else:
        entries = generate(server, logprobs=1)["logprobs"]
    assert [(entry["token"], entry["token_id"]) for entry in entries] == [("a", 97), ("b", 98)]
    assert all(entry["logprob"] == pytest.approx(FLAT) and len(entry["top_logprobs"]) == 1 for entry in entries)


@pytest.mark.parametrize("stream", [False, True])
def test_echo_begins_the_text_with_the_prompt(server: str, stream: bool) -> None:
    if stream:
        assert "".join(frame["text"] for frame in frames(server, echo=True)) == "abcab"
    else:
        assert [choice["text"] for choice in generate(server, echo=True, n=2)["choices"]] == ["abcab", "abcabab"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_alone_can_be_scored(server: str, stream: bool) -> None:
    asked: dict[str, Any] = {"prompt_logprobs": 2, "max_tokens": 0, "echo": True}
    if stream:
        pieces = [frame for frame in frames(server, **asked) if "prompt_logprobs" in frame]
        assert [piece["prompt_start"] for piece in pieces] == [0]
        scores = pieces[0]["prompt_logprobs"]
    else:
        body = generate(server, **asked)
        assert (body["text"], body["finish_reason"]) == ("abc", "length")
        scores = body["prompt_logprobs"]
    assert scores[0] is None
    assert [(entry["token"], len(entry["top_logprobs"])) for entry in scores[1:]] == [("b", 2), ("c", 2)]


def test_nothing_to_generate_and_nothing_to_score_is_refused(server: str) -> None:
    response = requests.post(f"{server}/v1/generate", json={"model": "deepseek-7b", "prompt": "a", "max_tokens": 0})
    assert response.status_code == 422 and response.json()["errors"][0]["field"] == "max_tokens"


def test_a_chats_prompt_is_scored_in_the_form_vllm_gives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="deepseek-7b", messages=ASK, extra_body={"prompt_logprobs": 1})
    scores = answer.model_dump()["prompt_logprobs"]
    text = "<user>Hi<assistant>"
    assert len(scores) == len(text) and scores[0] is None
    assert scores[1]["117"] == {"logprob": pytest.approx(FLAT), "rank": None, "decoded_token": "u"}
    assert scores[1]["0"]["rank"] == 1


def test_a_streamed_chat_refuses_prompt_scores(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt_logprobs without stream"):
        client.chat.completions.create(
            model="deepseek-7b", messages=ASK, stream=True, extra_body={"prompt_logprobs": 1}
        )


@pytest.mark.parametrize("stream", [False, True])
def test_past_its_deadline_an_answer_ends_with_what_there_is(stream: bool) -> None:
    engine = FakeEngine(ttft_s=0.0, inter_token_s=0.02, max_model_len=CONTEXT)
    with serving(state_of(engine), grace_s=1.0) as running:
        asked: dict[str, Any] = {"timeout_s": 0.3, "max_tokens": 400}
        end = frames(running.url, **asked)[-1] if stream else generate(running.url, **asked)
        assert end["finish_reason"] == "deadline" and end["usage"]["completion_tokens"] < 400
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(
                model="deepseek-7b", messages=ASK, max_tokens=400, extra_body={"timeout_s": 0.3}
            )
            assert answer.choices[0].finish_reason == "length"

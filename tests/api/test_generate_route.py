"""POST /v1/generate, asked by `requests` over a real socket."""

import json
from typing import Any

import pytest
import requests

GOAL = {
    "model": "deepseek-7b",
    "prompt": "解释量子计算原理",
    "max_tokens": 200,
    "temperature": 0.7,
    "top_p": 0.9,
    "stop_sequences": ["\n"],
}


def frames(response: requests.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.content.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_the_goals_own_request_is_answered(url: str) -> None:
    response = requests.post(f"{url}/v1/generate", json=GOAL)
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"id", "model", "text", "finish_reason", "usage"}
    assert (body["model"], body["text"], body["finish_reason"]) == ("deepseek-7b", "Hello, 世界!", "stop")
    assert body["usage"] == {"prompt_tokens": 24, "completion_tokens": 14, "total_tokens": 38}
    assert body["id"].startswith("gen-")


def test_the_goals_own_request_streams(url: str) -> None:
    with requests.post(f"{url}/v1/generate", json=GOAL | {"stream": True}, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *first, last = frames(response)
    assert all(set(frame) == {"id", "text"} for frame in first)
    assert "".join(frame["text"] for frame in first) == "Hello, 世界!"
    assert last["finish_reason"] == "stop"
    assert last["usage"] == {"prompt_tokens": 24, "completion_tokens": 14, "total_tokens": 38}
    assert {frame["id"] for frame in (*first, last)} == {last["id"]}


def test_a_character_is_never_sent_in_halves(url: str) -> None:
    with requests.post(f"{url}/v1/generate", json=GOAL | {"stream": True}, stream=True) as response:
        assert "\ufffd" not in response.content.decode()


def test_the_stop_sequence_is_not_part_of_the_text(url: str) -> None:
    body = requests.post(f"{url}/v1/generate", json=GOAL | {"stop_sequences": ["世"]}).json()
    assert (body["text"], body["finish_reason"]) == ("Hello, ", "stop")


def test_max_tokens_ends_with_length(url: str) -> None:
    body = requests.post(f"{url}/v1/generate", json=GOAL | {"max_tokens": 3}).json()
    assert (body["text"], body["finish_reason"], body["usage"]["completion_tokens"]) == ("Hel", "length", 3)


def test_null_is_the_default_of_every_optional_field(url: str) -> None:
    optional = ("max_tokens", "temperature", "top_p", "stop_sequences", "stream", "seed", "top_k")
    nulls = dict.fromkeys(optional)
    response = requests.post(f"{url}/v1/generate", json={"model": "deepseek-7b", "prompt": "a", **nulls})
    assert response.status_code == 200


def test_without_max_tokens_a_long_prompt_still_gets_what_the_context_leaves(url: str) -> None:
    response = requests.post(f"{url}/v1/generate", json={"model": "deepseek-7b", "prompt": "a" * 508})
    assert response.json()["usage"] == {"prompt_tokens": 508, "completion_tokens": 4, "total_tokens": 512}


@pytest.mark.parametrize("stream", [False, True])
def test_the_seed_in_use_is_told(url: str, stream: bool) -> None:
    given = requests.post(f"{url}/v1/generate", json=GOAL | {"seed": 2**63 - 1, "stream": stream})
    assert given.headers["x-seed"] == str(2**63 - 1)
    drawn = requests.post(f"{url}/v1/generate", json=GOAL | {"stream": stream})
    assert int(drawn.headers["x-seed"]) >= 0


def test_a_valid_request_id_comes_back_and_an_unsafe_one_is_replaced(url: str) -> None:
    ours = requests.get(f"{url}/healthz", headers={"x-request-id": "abc-123"})
    assert ours.headers["x-request-id"] == "abc-123"
    for unsafe in ("a b", "x" * 200, '<script>"'):
        answer = requests.get(f"{url}/healthz", headers={"x-request-id": unsafe})
        assert answer.headers["x-request-id"].startswith("req-")

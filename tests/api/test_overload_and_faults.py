"""A full queue says when to come back; a request that the engine could not finish is a 500 that tells nothing inside."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
import requests
from api_support import CONTEXT, QUEUE_FULL, RefusingEngine, state_of

from deepseek.api import serving
from deepseek.core.engine import Load, Request
from deepseek.engine.fake import FakeEngine, babble

ASK: Any = [{"role": "user", "content": "a"}]
ROUTES = [
    ("/v1/generate", {"model": "deepseek-7b", "prompt": "a", "max_tokens": 9}),
    ("/v1/chat/completions", {"model": "deepseek-7b", "messages": ASK, "max_tokens": 9}),
]


class FullEngine(RefusingEngine):
    """Its oldest waiting request has waited for `waited` seconds."""

    waited = 0.0

    def load(self) -> Load:
        return replace(super().load(), oldest_wait_s=self.waited)


@pytest.mark.parametrize(("waited", "expected"), [(0.0, "1"), (7.2, "8"), (500.0, "60")])
def test_a_full_queue_is_429_with_a_wait_that_follows_the_queues_own(waited: float, expected: str) -> None:
    engine = FullEngine(QUEUE_FULL)
    engine.waited = waited
    with serving(state_of(engine)) as server:
        for route, body in ROUTES:
            for stream in (False, True):
                response = requests.post(server.url + route, json=body | {"stream": stream}, timeout=30)
                assert (response.status_code, response.headers["retry-after"]) == (429, expected)
                assert response.json()["type"] == "urn:deepseek:problem:queue-full"
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
            pytest.raises(openai.RateLimitError) as caught,
        ):
            client.chat.completions.create(model="deepseek-7b", messages=ASK)
        assert caught.value.code == "queue_full"


@pytest.fixture(scope="module")
def failing() -> Iterator[str]:
    """An engine in which the second choice of every request goes wrong, with a secret in the reason."""

    def breaks(request: Request, choice: int, seed: int) -> Iterator[int]:
        for index, token in enumerate(babble(request, choice, seed)):
            if choice == 1 and index == 2:
                raise RuntimeError("secret at /internal/path.py")
            yield token

    engine = FakeEngine(reply=breaks, ttft_s=0.0, inter_token_s=0.0, max_model_len=CONTEXT)
    with serving(state_of(engine), grace_s=1.0) as server:
        yield server.url


@pytest.mark.parametrize(("route", "body"), ROUTES)
def test_a_request_that_ends_with_an_error_is_a_500_without_internals(
    failing: str, route: str, body: dict[str, Any]
) -> None:
    response = requests.post(failing + route, json=body | {"n": 2}, timeout=30)
    assert response.status_code == 500
    assert response.json()["type"] == "urn:deepseek:problem:internal"
    assert "secret" not in response.text and "path.py" not in response.text


@pytest.mark.parametrize(("route", "body"), ROUTES)
def test_an_error_within_a_stream_is_its_last_frame(failing: str, route: str, body: dict[str, Any]) -> None:
    response = requests.post(failing + route, json=body | {"n": 2, "stream": True}, timeout=30)
    *_, last = (frame for frame in response.content.decode().split("\n\n") if frame)
    assert response.status_code == 200 and last.startswith("event: error\ndata: ")
    assert "secret" not in response.text and '"status":500' in last


def test_others_are_served_on_after_an_error(failing: str) -> None:
    route, body = ROUTES[0]
    assert requests.post(failing + route, json=body | {"n": 2}, timeout=30).status_code == 500
    assert requests.post(failing + route, json=body, timeout=30).status_code == 200
    assert requests.get(f"{failing}/readyz", timeout=30).status_code == 200

"""Rates, load and deadlines as a client meets them: what is refused, how it is told, and what never reaches the engine."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import openai
import pytest
import requests
from api_support import CONTEXT, MODELS, ByteCodec, HeldEngine, RecordingEngine, quick
from starlette.datastructures import Headers
from test_served_metrics import samples

from deepseek.api import ApiSettings, ServerState, serving
from deepseek.api.identity.caller import EVERYTHING, Caller
from deepseek.api.limits import LocalLimiter
from deepseek.api.limits.config import DynamicConfig, LimitConfig
from deepseek.api.metering.meter import Account, FreeMeter
from deepseek.api.problems import Problem
from deepseek.api.tiers import BASIC, ENTERPRISE, Tier
from deepseek.core.engine import Request

BODY = {"model": "deepseek-7b", "prompt": "abc", "max_tokens": 5}
SLOW = replace(BASIC, requests_per_second=0.01, burst_s=300.0)
"""Three requests at once, and then none for long."""
TIERS: dict[str, Tier] = {"slow": SLOW, "basic": BASIC, "enterprise": ENTERPRISE}


class ByName:
    """The bearer's token is the name of a tier; one without is not known."""

    async def identify(self, headers: Headers) -> Caller:
        tier = TIERS.get(headers.get("authorization", "").removeprefix("Bearer "))
        if tier is None:
            raise Problem("unauthenticated", "Say who you are.")
        return Caller("acme", tier, EVERYTHING, f"key-{tier.name}")


def state(engine: object, *, ceiling: int | None = None, meter: FreeMeter | None = None) -> ServerState:
    dynamic = None if ceiling is None else DynamicConfig(floor=1, ceiling=ceiling, headroom=0.0)
    return ServerState(
        engine,  # type: ignore[arg-type]
        ByteCodec(),
        MODELS,
        CONTEXT,
        ApiSettings(body_timeout_s=5.0),
        identifier=ByName(),
        limiter=LocalLimiter(clock=lambda: 0),
        meter=meter or FreeMeter(),
        limits=LimitConfig(dynamic=dynamic),
    )


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


@pytest.fixture
def url() -> Iterator[str]:
    with serving(state(quick()), grace_s=1.0) as server:
        yield server.url


def test_every_answer_says_how_the_rate_stands_and_the_one_too_many_when_to_come_again(url: str) -> None:
    for remaining in ("2", "1", "0"):
        answer = requests.post(f"{url}/v1/generate", json=BODY, headers=key("slow"))
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "3"
        assert answer.headers["x-ratelimit-remaining-requests"] == remaining
    assert answer.headers["x-ratelimit-reset-requests"] == "300000ms"
    refused = requests.post(f"{url}/v1/generate", json=BODY, headers=key("slow"))
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:deepseek:problem:rate-limited")
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("100", "100000")
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    seen = samples_of(url)
    assert seen["deepseek_rate_limited_requests_total", (("tier", "basic"),)] == 1


def samples_of(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with requests.Session() as session:
        session.headers.update(key("enterprise"))
        return samples(url, session)


def test_others_are_not_slowed_by_one_who_is(url: str) -> None:
    for _ in range(5):
        requests.post(f"{url}/v1/generate", json=BODY, headers=key("slow"))
    answer = requests.post(f"{url}/v1/generate", json=BODY, headers=key("enterprise"))
    assert answer.status_code == 200 and "x-ratelimit-limit-requests" not in answer.headers


def test_one_who_is_refused_does_not_have_its_body_read(url: str) -> None:
    for _ in range(3):
        requests.get(f"{url}/v1/models", headers=key("slow"))

    # 429, although a whole body never comes.
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as raw:
        head = "POST /v1/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer slow\r\ncontent-length: 1000\r\n\r\n"
        raw.sendall(head.encode())
        assert raw.recv(65536).startswith(b"HTTP/1.1 429 ")


def test_openais_client_understands_the_refusal(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="slow", max_retries=0) as client:
        for _ in range(3):
            client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
    assert caught.value.code == "rate_limited"
    assert caught.value.response.headers["retry-after-ms"] == "100000"


def test_openais_client_comes_again_when_it_is_told_to() -> None:
    made = state(quick())
    quickly = replace(BASIC, name="quickly", requests_per_second=20.0, burst_s=0.05)
    TIERS["quickly"] = quickly
    made.limiter = LocalLimiter()
    with (
        serving(made, grace_s=1.0) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="quickly", max_retries=5) as client,
    ):
        begun = time.monotonic()
        for _ in range(4):
            assert client.models.list().data
        # Three of them had to wait for a twentieth of a second; not for a whole one, as Retry-After alone would say.
        assert 0.14 <= time.monotonic() - begun < 2.9


def test_a_busy_server_refuses_the_lower_tier_and_serves_the_higher() -> None:
    engine = HeldEngine(["Hel"])
    with serving(state(engine, ceiling=4), grace_s=0.1) as server:
        streams = []
        for _ in range(4):
            streams.append(
                requests.post(
                    f"{server.url}/v1/generate", json=BODY | {"stream": True}, headers=key("basic"), stream=True
                )
            )
        refused = requests.post(f"{server.url}/v1/generate", json=BODY, headers=key("basic"))
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:deepseek:problem:overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        higher = requests.post(
            f"{server.url}/v1/generate", json=BODY | {"stream": True}, headers=key("enterprise"), stream=True
        )
        assert higher.status_code == 200
        # What costs no tokens is not refused.
        assert requests.get(f"{server.url}/v1/models", headers=key("basic")).status_code == 200
        seen = samples_of(server.url)
        assert seen["deepseek_shed_requests_total", (("tier", "basic"),)] == 1
        assert seen["deepseek_shed_requests_total", (("tier", "enterprise"),)] == 0
        assert seen["deepseek_in_flight_requests", (("tier", "basic"),)] == 4
        assert seen["deepseek_in_flight_requests", (("tier", "enterprise"),)] == 1
        assert seen["deepseek_choices_limit", ()] == 4
        for stream in [*streams, higher]:
            stream.close()


def test_what_has_ended_makes_room() -> None:
    with serving(state(quick(), ceiling=1), grace_s=1.0) as server:
        for stream in (False, True) * 5:
            body = BODY | {"stream": stream}
            assert requests.post(f"{server.url}/v1/generate", json=body, headers=key("basic")).status_code == 200
        assert (
            requests.post(f"{server.url}/v1/generate", json=BODY | {"top_p": 7}, headers=key("basic")).status_code
            == 422
        )
        assert samples_of(server.url)["deepseek_in_flight_requests", (("tier", "basic"),)] == 0


class SlowMeter(FreeMeter):
    """Takes its time over what to set aside."""

    async def open(self, caller: Caller, request: Request, model: str, route: str) -> Account:
        if request.deadline is not None:
            while time.monotonic() < request.deadline:
                pass
        return await super().open(caller, request, model, route)


def test_a_request_past_its_deadline_never_reaches_the_engine() -> None:
    engine = RecordingEngine()
    with serving(state(engine, meter=SlowMeter()), grace_s=1.0) as server:
        ask = {"json": BODY | {"timeout_s": 0.05}, "headers": key("enterprise")}
        whole = requests.post(f"{server.url}/v1/generate", **ask)  # type: ignore[arg-type]
        assert whole.json()["finish_reason"] == "deadline"
        assert whole.json()["usage"]["completion_tokens"] == 0
        ask["json"]["stream"] = True  # type: ignore[index]
        streamed = requests.post(f"{server.url}/v1/generate", **ask)  # type: ignore[arg-type]
        assert '"finish_reason":"deadline"' in streamed.text
        assert not engine.requests
        requests.post(f"{server.url}/v1/generate", json=BODY, headers=key("enterprise"))
        assert len(engine.requests) == 1


def test_every_answer_says_how_long_the_server_itself_took(url: str) -> None:
    for stream in (False, True):
        answer = requests.post(f"{url}/v1/generate", json=BODY | {"stream": stream}, headers=key("enterprise"))
        assert 0 < float(answer.headers["x-overhead-ms"]) < 1000
    assert "x-overhead-ms" in requests.get(f"{url}/healthz").headers
    seen = samples_of(url)
    assert seen["deepseek_overhead_seconds_count", ()] == 2


def test_waiting_for_the_engine_or_the_client_is_not_the_servers_time() -> None:
    engine = quick("Hello")
    engine.ttft_s = 0.3
    with serving(state(engine), grace_s=1.0) as server:

        def body() -> Iterator[bytes]:
            yield b'{"model":"deepseek-7b",'
            waits = time.monotonic() + 0.3
            while time.monotonic() < waits:
                pass
            yield b'"prompt":"a"}'

        headers = key("enterprise") | {"content-type": "application/json"}
        answer = requests.post(f"{server.url}/v1/generate", data=body(), headers=headers)
        assert answer.status_code == 200
        assert float(answer.headers["x-overhead-ms"]) < 150


def test_callers_who_are_not_known_are_counted_under_no_tier(url: str) -> None:
    assert requests.post(f"{url}/v1/generate", json=BODY).status_code == 401
    labels = (("route", "/v1/generate"), ("status", "401"), ("tier", "none"))
    assert samples_of(url)["deepseek_http_requests_total", labels] == 1

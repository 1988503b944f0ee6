"""Budgets as clients see them, over a real socket."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from api_support import HeldEngine, state_of
from metering_support import Books, budget, opened

from deepseek.api import serving
from deepseek.api.config import PlatformConfig
from deepseek.api.metering.budgets import BudgetConfig
from deepseek.api.metering.prices import PriceConfig
from deepseek.api.platform import open_platform
from deepseek.engine.fake import FakeEngine, babble

WHO = {"x-caller": "acme/k1"}
GENERATE = {"model": "deepseek-7b", "prompt": "a" * 10, "max_tokens": 4000}
CHAT = {"model": "deepseek-7b", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4000}
LENGTH = 100_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        yield found


def served(books: Books, budgets: Any, prices: dict[str, PriceConfig] | None = None, **options: Any) -> Any:
    engine = FakeEngine(reply=babble, ttft_s=0.0, inter_token_s=0.0, max_model_len=LENGTH, **options)
    state = books.state(engine, books.meter(budgets, prices))
    state.max_model_len = LENGTH
    return serving(state, grace_s=1.0)


def test_an_own_answer_says_that_the_budget_ended_it(books: Books) -> None:
    with served(books, [budget(tokens=300)]) as server:
        body = requests.post(f"{server.url}/v1/generate", json=GENERATE, headers=WHO, timeout=20).json()
    assert (body["finish_reason"], body["usage"]["total_tokens"]) == ("budget", 300)


@pytest.mark.parametrize("stream", [False, True])
def test_openais_answer_says_length_and_why(books: Books, stream: bool) -> None:
    with served(books, [budget(tokens=300)]) as server:
        answer = requests.post(
            f"{server.url}/v1/chat/completions", json=CHAT | {"stream": stream}, headers=WHO, timeout=20
        )
    if stream:
        frames = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: {")]
        (choice,) = [each for frame in frames for each in json.loads(frame)["choices"] if each["finish_reason"]]
    else:
        (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["limited_by"] == "budget:key/day"


@pytest.mark.parametrize(
    ("budgets", "named"),
    [
        ([budget(tokens=300), budget("tenant", "month", tokens=200)], "tenant/month"),
        ([budget(tokens=200), budget("tenant", "total", tokens=300)], "key/day"),
        ([budget(tokens=300), budget("tenant", "total", money="0.0002")], "tenant/total"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/generate", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_an_answer_names_the_budget_that_ended_it(
    books: Books, budgets: list[BudgetConfig], named: str, path: str
) -> None:
    body: dict[str, Any] = {"model": "deepseek-7b"}
    if path in ("/v1/generate", "/v1/completions"):
        body |= {"prompt": "a", "max_tokens": 4000}
    elif path == "/v1/messages":
        body |= {"messages": CHAT["messages"], "max_tokens": 4000}
    else:
        body |= {"input": "a", "max_output_tokens": 4000}
    with served(books, budgets, {"*": PriceConfig.model_validate({"input": 1, "output": 1})}) as server:
        answer = requests.post(f"{server.url}{path}", json=body, headers=WHO, timeout=20).json()
    found = answer["choices"][0] if path == "/v1/completions" else answer
    assert found["limited_by"] == f"budget:{named}"


def test_what_ended_at_its_own_limit_names_no_budget(books: Books) -> None:
    with served(books, [budget(tokens=300)]) as server:
        body = requests.post(
            f"{server.url}/v1/generate", json=GENERATE | {"max_tokens": 5}, headers=WHO, timeout=20
        ).json()
    assert body["finish_reason"] == "length" and "limited_by" not in body


def test_a_used_up_budget_is_openais_insufficient_quota(books: Books) -> None:
    with served(books, [budget(tokens=1)]) as server:
        answer = requests.post(f"{server.url}/v1/chat/completions", json=CHAT, headers=WHO, timeout=20)
        own = requests.post(f"{server.url}/v1/generate", json=GENERATE, headers=WHO, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert own.json()["type"] == "urn:deepseek:problem:budget-exhausted"
    assert int(own.headers["retry-after"]) > 0


def test_sixty_four_streams_on_one_budget_overshoot_it_by_nothing(books: Books) -> None:
    cap = 20_011

    def one(number: int) -> int:
        headers = {"x-caller": f"acme/k{number % 4}"}
        with requests.post(
            f"{server.url}/v1/generate", json=GENERATE | {"stream": True}, headers=headers, stream=True, timeout=60
        ) as answer:
            if answer.status_code == 429:
                return 0
            text, last = 0, {}
            for line in answer.iter_lines():
                if line:
                    last = json.loads(line.removeprefix(b"data: "))
                    text += len(last["text"])
        assert last["finish_reason"] == "budget"
        assert last["usage"]["completion_tokens"] == text
        return int(last["usage"]["total_tokens"])

    with served(books, [budget("tenant", tokens=cap)], max_running=64) as server, ThreadPoolExecutor(64) as threads:
        total = sum(threads.map(one, range(64)))
    assert total == cap == books.tokens
    assert list(books.balance().values()) == [(cap, 0)]
    assert books.open_leases == 0


def test_usage_is_on_disk_before_the_last_frame(books: Books) -> None:
    with served(books, [budget(tokens=10**6)]) as server:
        for number in range(1, 11):
            with requests.post(
                f"{server.url}/v1/generate",
                json=GENERATE | {"stream": True, "max_tokens": 3},
                headers=WHO,
                stream=True,
                timeout=20,
            ) as answer:
                for line in answer.iter_lines():
                    if b"finish_reason" in line:
                        assert len(books.ledger) == number


def test_a_budget_of_the_configuration_holds_without_anything_else(tmp_path: Path) -> None:
    sections = {
        "database": str(tmp_path / "control.db"),
        "budgets": [{"scope": "tenant", "period": "day", "tokens": 30}],
    }
    platform = open_platform(PlatformConfig.model_validate(sections), host="127.0.0.1")
    try:
        state = state_of(FakeEngine(reply=babble, ttft_s=0.0, inter_token_s=0.0, max_model_len=LENGTH))
        for name, value in platform.state_fields().items():
            setattr(state, name, value)
        with serving(state) as server:
            first = requests.post(f"{server.url}/v1/generate", json=GENERATE | {"max_tokens": 90}, timeout=20)
            second = requests.post(f"{server.url}/v1/generate", json=GENERATE | {"max_tokens": 90}, timeout=20)
            report = requests.get(f"{server.url}/v1/usage", timeout=20).json()["data"]
    finally:
        platform.close()
    assert (first.json()["finish_reason"], first.json()["usage"]["total_tokens"]) == ("budget", 30)
    assert second.status_code == 429
    assert [row["total_tokens"] for row in report] == [30]


def test_a_client_that_leaves_gives_the_rest_of_its_lease_back(books: Books) -> None:
    engine = HeldEngine(["ab"])
    state = books.state(engine, books.meter([budget(tokens=1000)]))
    with serving(state) as server:
        with requests.post(
            f"{server.url}/v1/generate",
            json=GENERATE | {"stream": True, "max_tokens": 400},
            headers=WHO,
            stream=True,
            timeout=20,
        ) as answer:
            next(answer.iter_content(None))
        assert engine.ended.wait(5)
    assert [(row.completion_tokens, row.reasons) for row in books.ledger] == [(1, "cancelled")]
    assert (list(books.balance().values()), books.open_leases) == ([(11, 0)], 0)


def test_a_server_without_a_database_charges_nobody() -> None:
    engine = FakeEngine(reply=babble, ttft_s=0.0, inter_token_s=0.0)
    with serving(state_of(engine)) as server:
        body = requests.post(f"{server.url}/v1/generate", json=GENERATE | {"max_tokens": 5}, timeout=20).json()
        assert body["usage"]["completion_tokens"] == 5
        assert requests.get(f"{server.url}/v1/usage", timeout=20).status_code == 404

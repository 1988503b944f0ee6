"""A server that is killed in the middle of a stream, and the one that follows it on the same database."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from metering_support import opened

SERVER = Path(__file__).with_name("metered_server.py")
WHO = {"x-caller": "acme/k1"}


@contextmanager
def process(database: Path, cap: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    server = subprocess.Popen(
        [sys.executable, str(SERVER), str(database), str(cap)], stdout=subprocess.PIPE, text=True, cwd=SERVER.parents[2]
    )
    try:
        assert server.stdout is not None
        yield server, server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def test_a_killed_server_charges_its_streams_at_their_last_slice_and_loses_nothing(tmp_path: Path) -> None:
    database = tmp_path / "control.db"
    body = {"model": "deepseek-7b", "prompt": "a" * 10, "max_tokens": 5000}
    seen = 0
    with process(database, 100_000) as (server, url):
        done = requests.post(f"{url}/v1/generate", json=body | {"max_tokens": 20}, headers=WHO, timeout=20).json()
        assert done["usage"]["total_tokens"] == 30
        with requests.post(
            f"{url}/v1/generate", json=body | {"stream": True}, headers=WHO, stream=True, timeout=20
        ) as answer:
            lines = answer.iter_lines()  # kept: a reader that is dropped closes the connection
            while seen <= 400:
                line = next(lines)
                seen += len(json.loads(line.removeprefix(b"data: "))["text"]) if line else 0
            server.kill()
            server.wait()
    with process(database, 100_000) as (_, url):
        assert requests.get(f"{url}/readyz", timeout=20).status_code == 200
        more = requests.post(f"{url}/v1/generate", json=body | {"max_tokens": 5}, headers=WHO, timeout=20)
        assert more.status_code == 200
    with opened(database) as books:
        first, crashed, last = books.ledger
        assert (first.completion_tokens, last.completion_tokens) == (20, 5)
        assert (crashed.prompt_tokens, crashed.reasons) == (10, "crashed")
        assert crashed.completion_tokens % 256 == 0
        # Nobody got a token that is not charged, and of those charged fewer than two slices were never sent.
        assert seen <= crashed.completion_tokens <= seen + 2 * 256
        assert list(books.balance().values()) == [(books.tokens, 0)]
        assert books.open_leases == 0


def test_what_a_crash_charges_does_not_run_again_under_its_key(tmp_path: Path) -> None:
    database = tmp_path / "control.db"
    body = {"model": "deepseek-7b", "prompt": "a" * 10, "max_tokens": 5000, "stream": True}
    keyed = WHO | {"idempotency-key": "k-1"}
    with process(database, 100_000) as (_, url):
        answer = requests.post(f"{url}/v1/generate", json=body, headers=keyed, stream=True, timeout=20)
        lines = answer.iter_lines()
        next(lines)
    answer.close()  # after the server's death: to leave it before would be a cancelled request
    with process(database, 100_000) as (_, url):
        again = requests.post(f"{url}/v1/generate", json=body, headers=keyed, timeout=20)
        assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
        assert again.json()["type"].endswith("outcome-unknown")
    with opened(database) as books:
        assert [row.reasons for row in books.ledger] == ["crashed"]


@pytest.mark.parametrize("cap", [600])
def test_after_a_crash_a_budget_is_not_forgiven(tmp_path: Path, cap: int) -> None:
    database = tmp_path / "control.db"
    body = {"model": "deepseek-7b", "prompt": "a" * 10, "max_tokens": 5000, "stream": True}
    with process(database, cap) as (_, url):
        answer = requests.post(f"{url}/v1/generate", json=body, headers=WHO, stream=True, timeout=20)
        lines = answer.iter_lines()
        next(lines)
    answer.close()
    with process(database, cap) as (_, url):
        rest = requests.post(f"{url}/v1/generate", json=body | {"stream": False}, headers=WHO, timeout=20).json()
        assert rest["finish_reason"] == "budget"
        assert requests.post(f"{url}/v1/generate", json=body, headers=WHO, timeout=20).status_code == 429
    with opened(database) as books:
        assert books.tokens == cap

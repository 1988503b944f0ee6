"""Idempotency-Key over a real socket: what is sent twice runs once, is charged once, and is answered alike."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from api_support import CONTEXT, HeldEngine, RecordingEngine, quick
from metering_support import Books, ask, budget, caller, opened, running

from deepseek.api import serving
from deepseek.api.idempotency_store import KEPT_S, IdempotencyStore, Taken, prune
from deepseek.api.metering.budget_meter import BudgetMeter
from deepseek.api.metering.claim import Claim, claimed, current_claim
from deepseek.api.metering.tables import idempotency
from deepseek.core.engine import Request
from deepseek.engine.fake import FakeEngine, say

GENERATE = {"model": "deepseek-7b", "prompt": "a", "seed": 1}
CHAT = {"model": "deepseek-7b", "messages": [{"role": "user", "content": "a"}]}
ROUTES = [("/v1/generate", GENERATE), ("/v1/chat/completions", CHAT)]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        yield found


@contextmanager
def served(books: Books, engine: Any, budgets: Any = (), **settings: Any) -> Iterator[str]:
    state = books.state(engine, books.meter(budgets), **settings)
    with serving(state, grace_s=1.0) as server:
        yield server.url


def post(
    url: str, body: object, key: str = "k-1", path: str = "/v1/generate", who: str = "acme/k1", **headers: str
) -> Any:
    own = {"x-caller": who, "idempotency-key": key, **headers}
    return requests.post(f"{url}{path}", json=body, headers=own, timeout=20)


def kinds(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].rpartition(":")[2]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_the_same_request_again_gets_the_same_answer_and_is_charged_once(
    books: Books, path: str, body: dict[str, object], stream: bool
) -> None:
    engine = RecordingEngine()
    with served(books, engine) as url:
        first, second, third = (post(url, body | {"stream": stream}, path=path) for _ in range(3))
    assert (first.status_code == 200 and "Hello" in first.text.replace('"}', "").replace("\n", "")) or stream
    assert "idempotency-replayed" not in first.headers
    for again in (second, third):
        assert again.headers["idempotency-replayed"] == "true"
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["content-type"] == first.headers["content-type"]
        assert again.headers["x-seed"] == first.headers["x-seed"]
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert (len(engine.requests), len(books.ledger)) == (1, 1)


def test_without_the_header_every_request_runs(books: Books) -> None:
    engine = RecordingEngine()
    with served(books, engine) as url:
        for _ in range(2):
            requests.post(f"{url}/v1/generate", json=GENERATE, headers={"x-caller": "acme/k1"}, timeout=20)
    assert (len(engine.requests), books.rows(idempotency)) == (2, [])


@pytest.mark.parametrize(
    "changed", [{"body": GENERATE | {"prompt": "b"}}, {"accept": "text/event-stream"}], ids=["body", "accept"]
)
def test_another_request_with_the_same_key_is_refused(books: Books, changed: dict[str, Any]) -> None:
    with served(books, quick()) as url:
        assert post(url, GENERATE).status_code == 200
        other = post(url, changed.pop("body", GENERATE), **changed)
    assert kinds(other) == (422, "idempotency-key-reused")


def test_while_the_first_runs_others_are_told_to_wait(books: Books) -> None:
    engine = HeldEngine(["Hel"])
    with served(books, engine) as url, ThreadPoolExecutor(1) as threads:
        first = threads.submit(post, url, GENERATE)
        assert engine.started.wait(5)
        second = post(url, GENERATE)
        assert kinds(second) == (409, "idempotency-key-in-use")
        assert second.headers["retry-after"] == "1"
        engine.release()
        assert first.result().json()["text"] == "Hel"
        assert post(url, GENERATE).content == first.result().content


def test_of_many_at_once_exactly_one_runs(books: Books) -> None:
    engine = RecordingEngine()
    with served(books, engine) as url, ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: post(url, GENERATE), range(16)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert (len(engine.requests), len(books.ledger)) == (1, 1)


def test_a_key_belongs_to_its_route_and_to_who_used_it(books: Books) -> None:
    engine = RecordingEngine()
    with served(books, engine) as url:
        for path, body in ROUTES:
            for who in ("acme/k1", "acme/k2", "other/k1"):
                assert "idempotency-replayed" not in post(url, body, path=path, who=who).headers
    assert len(engine.requests) == 6


def test_a_request_that_was_refused_may_be_corrected_under_its_key(books: Books) -> None:
    with served(books, quick()) as url:
        assert post(url, GENERATE | {"top_p": 7}).status_code == 422
        assert post(url, GENERATE | {"model": "none"}).status_code == 404
        assert post(url, GENERATE).status_code == 200


def test_a_request_that_found_no_budget_may_be_tried_again(books: Books) -> None:
    engine = HeldEngine(["x"])
    with served(books, engine, [budget(tokens=2)]) as url, ThreadPoolExecutor(1) as threads:
        first = threads.submit(post, url, GENERATE | {"max_tokens": 1}, "k-1")
        assert engine.started.wait(5)
        refused = post(url, GENERATE | {"max_tokens": 1}, "k-2")
        assert kinds(refused) == (429, "budget-exhausted")
        again = post(url, GENERATE | {"max_tokens": 1}, "k-2")
        assert kinds(again) == (429, "budget-exhausted")
        assert "idempotency-replayed" not in again.headers
        engine.release()
        first.result()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_failed_is_not_kept(books: Books, stream: bool) -> None:
    failing = [True]

    def fails(request: Request) -> int | None:
        return 2 if failing[0] and not request.id.startswith("probe-") else None

    engine = FakeEngine(reply=say("Hello"), ttft_s=0, inter_token_s=0, max_model_len=CONTEXT, fail_at=fails)
    with served(books, engine) as url:
        first = post(url, GENERATE | {"stream": stream})
        assert first.status_code == (200 if stream else 500)
        failing[0] = False
        second = post(url, GENERATE | {"stream": stream})
        assert "Hel" in second.text or stream
        assert "idempotency-replayed" not in second.headers
        assert post(url, GENERATE | {"stream": stream}).content == second.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work_and_frees_the_key(books: Books, stream: bool) -> None:
    engine = HeldEngine(["Hel"])
    with served(books, engine) as url:
        address = urlsplit(url)
        data = json.dumps(GENERATE | {"stream": stream}).encode()
        raw = socket.create_connection((address.hostname, address.port))
        raw.sendall(
            b"POST /v1/generate HTTP/1.1\r\nhost: x\r\nx-caller: acme/k1\r\nidempotency-key: k-1\r\naccept: */*\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data
        )
        assert engine.started.wait(5)
        raw.close()
        assert engine.ended.wait(5)
        engine.started.clear()
        with ThreadPoolExecutor(1) as threads:
            again = threads.submit(_until_free, url, GENERATE | {"stream": stream})
            assert engine.started.wait(5)
            engine.release()
            assert again.result().status_code == 200


def _until_free(url: str, body: object) -> requests.Response:
    while (answer := post(url, body)).status_code == 409:
        pass
    return answer


def test_an_answer_too_large_to_keep_is_neither_repeated_nor_run_again(books: Books) -> None:
    engine = RecordingEngine()
    meter = books.meter()
    state = books.state(engine, meter)
    state.idempotency = IdempotencyStore(books.writer, meter.presence, max_answer_bytes=10)
    with serving(state) as server:
        assert post(server.url, GENERATE).status_code == 200
        again = post(server.url, GENERATE)
    assert kinds(again) == (409, "outcome-unknown")
    assert again.headers["x-should-retry"] == "false"
    assert (len(engine.requests), len(books.ledger)) == (1, 1)


@pytest.mark.parametrize(("settled", "status"), [(False, 200), (True, 409)])
def test_after_a_crash_a_key_is_free_unless_its_request_was_charged(books: Books, settled: bool, status: int) -> None:
    engine = HeldEngine(["Hel"])
    state = books.state(engine, books.meter())
    with serving(state, grace_s=0.0) as server, ThreadPoolExecutor(1) as threads:
        first = threads.submit(post, server.url, GENERATE)
        assert engine.started.wait(5)
        (row,) = books.rows(idempotency)
        engine.release()
        first.result()
    values = {**row._mapping, "settled": settled}
    books.database.write_now(lambda connection: connection.execute(idempotency.delete()))
    books.database.write_now(lambda connection: connection.execute(idempotency.insert(), values))
    with served(books, quick()) as url:
        assert post(url, GENERATE).status_code == status


@pytest.mark.parametrize("bounded", [False, True])
def test_a_lease_that_a_crash_charges_uses_its_key_up(books: Books, bounded: bool) -> None:
    def server() -> tuple[BudgetMeter, IdempotencyStore]:
        meter = books.meter([budget(tokens=5000)] if bounded else ())
        return meter, IdempotencyStore(books.writer, meter.presence)

    async def work() -> Taken:
        (dying, store), (next_one, next_store) = server(), server()
        await dying.start()
        claim = await store.take("0" * 64, "acme", "f")
        assert isinstance(claim, Claim)
        current_claim.set(claim)
        await dying.open(caller(), ask("r1"), "m", "/")
        async with running(next_one):
            return await next_store.take("0" * 64, "acme", "f")

    taken = asyncio.run(work())
    assert taken == "lost" if bounded else isinstance(taken, Claim)
    assert [row.reasons for row in books.ledger] == (["crashed"] if bounded else [])


def test_the_answer_is_kept_before_its_last_frame_goes_out(books: Books) -> None:
    with served(books, quick()) as url:
        for number in range(10):
            key = f"k-{number}"
            with requests.post(
                f"{url}/v1/generate",
                json=GENERATE | {"stream": True},
                headers={"x-caller": "acme/k1", "idempotency-key": key},
                stream=True,
                timeout=20,
            ) as response:
                for line in response.iter_lines():
                    if b"finish_reason" in line:
                        states = [row.state for row in books.rows(idempotency)]
                        assert (len(states), set(states), len(books.ledger)) == (number + 1, {"kept"}, number + 1)


def test_a_key_is_free_again_after_a_day(books: Books) -> None:
    now = [0.0]
    engine = RecordingEngine()
    meter = books.meter()
    state = books.state(engine, meter)
    state.idempotency = IdempotencyStore(books.writer, meter.presence, clock=lambda: now[0])
    with serving(state) as server:
        post(server.url, GENERATE)
        now[0] = KEPT_S - 1
        assert "idempotency-replayed" in post(server.url, GENERATE).headers
        now[0] = KEPT_S + 1
        assert "idempotency-replayed" not in post(server.url, GENERATE | {"prompt": "b"}).headers
    assert len(engine.requests) == 2


def test_quotes_around_the_key_may_be_there_or_not(books: Books) -> None:
    with served(books, quick()) as url:
        post(url, GENERATE, key='"8e03978e-40d5"')
        assert "idempotency-replayed" in post(url, GENERATE, key="8e03978e-40d5").headers


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "caf\u00e9", "a\tb"])
def test_a_key_that_cannot_be_is_refused(books: Books, key: str) -> None:
    with served(books, quick()) as url:
        response = requests.post(
            f"{url}/v1/generate",
            json=GENERATE,
            headers={"x-caller": "acme/k1", "idempotency-key": key.encode("latin-1")},
            timeout=20,
        )
    assert kinds(response) == (400, "invalid-idempotency-key")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(books: Books) -> None:
    with served(books, quick(), max_body_bytes=100) as url:
        assert kinds(post(url, GENERATE | {"prompt": "a" * 200})) == (413, "body-too-large")
    assert books.rows(idempotency) == []


def test_a_caller_that_is_not_known_uses_up_no_key(books: Books) -> None:
    with served(books, quick()) as url:
        response = requests.post(f"{url}/v1/generate", json=GENERATE, headers={"idempotency-key": "k"}, timeout=20)
    assert (response.status_code, books.rows(idempotency)) == (401, [])


def test_each_tenants_oldest_answers_are_forgotten_beyond_its_room(books: Books) -> None:
    row = {"fingerprint": "f", "token": "t", "server": "s", "settled": True, "status": 200, "headers": [], "body": b""}
    rows = [
        {**row, "id": f"{tenant}{age}", "tenant": tenant, "expires": float(-age), "size": 40, "state": "kept"}
        for tenant in ("a", "b")
        for age in range(5)
    ]
    running = {**row, "id": "a9", "tenant": "a", "expires": -9.0, "size": 0, "state": "running"}
    books.database.write_now(lambda connection: connection.execute(idempotency.insert(), [*rows, running]))
    books.database.write_now(lambda connection: prune(connection, 100, 3))
    assert {row.id for row in books.rows(idempotency)} == {"a0", "a1", "b0", "b1", "a9"}
    books.database.write_now(lambda connection: prune(connection, 100, 1))
    assert {row.id for row in books.rows(idempotency)} == {"a0", "b0", "a9"}


def test_what_an_idempotent_request_left_running_is_not_part_of_it(books: Books) -> None:
    """A batch made under a key runs on after its answer: what it uses later must not touch the key."""
    claim = Claim("i", "t")
    current_claim.set(claim)
    assert claimed() is claim
    claim.over = True
    found = []
    thread = threading.Thread(target=lambda: found.append(claimed()))
    thread.start()
    thread.join()
    assert (claimed(), found) == (None, [None])

"""Budgets, ledger and keys on PostgreSQL, shared by several servers."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from metering_support import Books, ask, budget, caller, opened, running
from postgres_support import installed, postgres

from deepseek.api.idempotency_store import IdempotencyStore, KeptAnswer
from deepseek.api.metering.budget_meter import BudgetMeter
from deepseek.api.metering.claim import Claim
from deepseek.api.metering.report import UsageQuery, read_all
from deepseek.api.metering.servers import SILENCE_S
from deepseek.api.problems import Problem
from deepseek.core.engine import Ready, Usage

pytestmark = pytest.mark.skipif(not installed(), reason="there is no PostgreSQL on this machine")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres() as found:
        yield found


@pytest.fixture
def books(url: str) -> Iterator[Books]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    with opened(url) as found:
        yield found


async def use_up(meter: BudgetMeter, name: str) -> int:
    """One request after another until there is no budget; each takes all it is granted."""
    total = 0
    for count in range(1000):
        try:
            account = await meter.open(caller(key=f"k{count % 3}"), ask(f"{name}-{count}", max_tokens=20), "m", "/")
        except Problem as problem:
            if problem.headers.get("Retry-After") == "1":
                continue  # only set aside for another server's
            return total
        assert account.lease is not None
        used = Usage(10, account.lease.granted)
        account.note(Ready("r", 1))
        await account.settle(used, ("length",))
        await account.close()
        total += used.total_tokens
    raise AssertionError("the budget has no end")


def test_several_servers_use_one_budget_up_exactly(books: Books, url: str) -> None:
    cap = 1007
    configs = [budget("tenant", "total", tokens=cap), budget("key", "day", tokens=10**6)]

    def server(name: str) -> int:
        async def work(own: Books) -> int:
            async with running(own.meter(configs)) as meter:
                return sum(await asyncio.gather(*(use_up(meter, f"{name}{task}") for task in range(4))))

        with opened(url) as own:
            return asyncio.run(work(own))

    with ThreadPoolExecutor(3) as threads:
        total = sum(threads.map(server, "abc"))
    assert total == books.tokens
    # What is left is too little for a prompt of ten and a token.
    assert cap - 10 <= total <= cap
    assert {reserved for _, reserved in books.balance().values()} == {0}
    assert books.open_leases == 0


def test_what_a_silent_server_had_open_is_settled_by_another_and_what_a_live_one_has_is_not(books: Books) -> None:
    now = [1000.0]

    async def work() -> None:
        configs = [budget(tokens=5000)]
        dead, alive, judge = (books.meter(configs, clock=lambda: now[0]) for _ in range(3))
        for meter in (dead, alive):
            await meter.start()
            await meter.open(caller(), ask("of-the-dead" if meter is dead else "of-the-living"), "m", "/")
        now[0] += SILENCE_S + 1
        await books.writer.run(lambda connection: alive.presence.announce(connection, now[0]))
        async with running(judge):
            assert [row.request_id for row in books.ledger] == ["of-the-dead"]
            assert books.open_leases == 1

    asyncio.run(work())
    assert sorted(books.balance().values()) == [(266, 266)]


@pytest.mark.parametrize("statement", ["UPDATE usage SET cost = 0", "DELETE FROM usage", "TRUNCATE usage"])
def test_the_ledger_cannot_be_changed(books: Books, url: str, statement: str) -> None:
    with psycopg.connect(url) as connection, pytest.raises(psycopg.Error, match="append-only"):
        connection.execute(statement)


def test_a_report_is_read_in_pages(books: Books) -> None:
    async def work() -> None:
        async with running(books.meter()) as meter:
            for number in range(5):
                account = await meter.open(caller(key=f"k{number}"), ask(f"r{number}"), "m", "/")
                account.note(Ready("r", 1))
                await account.settle(Usage(10, number), ("stop",))

    asyncio.run(work())
    pages = list(read_all(books.database, UsageQuery(by=("key", "day"), limit=2)))
    assert [(each.group[0], each.completion_tokens) for page in pages for each in page.sums] == [
        (f"k{number}", number) for number in range(5)
    ]


def test_of_two_servers_one_gets_the_key_and_the_other_its_answer(books: Books) -> None:
    async def work() -> None:
        meters = [books.meter(), books.meter()]
        stores = [IdempotencyStore(books.writer, meter.presence) for meter in meters]
        taken = await asyncio.gather(*(store.take("0" * 64, "acme", "f") for store in stores))
        (claim,) = [each for each in taken if isinstance(each, Claim)]
        assert "running" in taken
        await stores[taken.index(claim)].keep(claim, 200, [(b"a", b"b")], b"\x00body")
        assert await stores[1].take("0" * 64, "acme", "f") == KeptAnswer(200, [(b"a", b"b")], b"\x00body")
        assert await stores[0].take("0" * 64, "acme", "other") == "other"

    asyncio.run(work())


def test_servers_that_begin_at_once_make_the_tables_once(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    together = threading.Barrier(3)

    def begin() -> int:
        together.wait(10)
        with opened(url) as own:
            return len(own.ledger)

    with ThreadPoolExecutor(3) as threads:
        assert [future.result() for future in [threads.submit(begin) for _ in range(3)]] == [0, 0, 0]

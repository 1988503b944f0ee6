"""A server without a database sees that keys were made in another's, and answers nobody from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from identity_support import Keys, keys_beside

from deepseek.api.identity import administration
from deepseek.api.identity.watch import KeyWatch
from deepseek.api.problems import Problem
from deepseek.api.store.database import Database
from deepseek.core.errors import StoreError


class Ticks:
    """A monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class CountedReads(Database):
    """Counts its reads, and fails them while it is told to."""

    reads = 0
    broken = False

    async def read(self, fn: Callable[[Any], Any], *, timeout_s: float = 10.0) -> Any:
        self.reads += 1
        if self.broken:
            raise StoreError("the database cannot be used")
        return await super().read(fn, timeout_s=timeout_s)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    with keys_beside(tmp_path) as found:
        yield found


@pytest.fixture
def beside(tmp_path: Path, keys: Keys) -> Iterator[CountedReads]:
    database = CountedReads.open(str(tmp_path / "control.db"))
    assert isinstance(database, CountedReads)
    yield database
    database.close()


def refusal(watch: KeyWatch) -> Problem | None:
    try:
        asyncio.run(watch.require_none())
    except Problem as problem:
        return problem
    return None


def test_a_key_is_seen_at_the_next_look_and_for_good(keys: Keys, beside: CountedReads) -> None:
    ticks = Ticks()
    watch = KeyWatch(beside, clock=ticks)
    assert refusal(watch) is None
    record, _ = keys.make()
    assert refusal(watch) is None, "it looked again before a second was over"
    ticks.now += 1
    problem = refusal(watch)
    assert problem is not None and (problem.status, problem.kind) == (503, "identity-unavailable")
    assert problem.headers == {"x-should-retry": "false"}
    keys.database.write_now(administration.revoke(record.id))
    ticks.now += 1
    assert refusal(watch) is not None


def test_however_many_ask_it_looks_once_a_second(keys: Keys, beside: CountedReads) -> None:
    ticks = Ticks()
    watch = KeyWatch(beside, clock=ticks)

    async def crowd() -> None:
        await asyncio.gather(*(watch.require_none() for _ in range(200)))

    asyncio.run(crowd())
    assert beside.reads == 1
    ticks.now += 1
    asyncio.run(watch.require_none())
    assert beside.reads == 2


def test_while_the_database_cannot_be_read_nobody_is_answered(keys: Keys, beside: CountedReads) -> None:
    ticks = Ticks()
    watch = KeyWatch(beside, clock=ticks)
    beside.broken = True
    for _ in range(3):
        problem = refusal(watch)
        assert problem is not None and problem.status == 503 and problem.headers["Retry-After"] == "1"
    assert beside.reads == 1
    beside.broken = False
    ticks.now += 1
    assert refusal(watch) is None

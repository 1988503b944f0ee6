"""The writer: what waits together is committed together, what fails fails alone, and what was answered is on disk."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_support import empty, installed, postgres
from sqlalchemy.exc import IntegrityError

from deepseek.api.store.database import Database
from deepseek.api.store.tables import tenants
from deepseek.api.store.writer import Writer
from deepseek.core.errors import StoreError

in_postgres = pytest.mark.skipif(not installed(), reason="no PostgreSQL on this machine")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=in_postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = str(tmp_path / "control.db")
    else:
        url = request.getfixturevalue("server")
        empty(url)
    opened = Database.open(url)
    yield opened
    opened.close()


def adding(name: str) -> Callable[[sa.Connection], str]:
    def add(connection: sa.Connection) -> str:
        connection.execute(tenants.insert().values(name=name, created=1.0))
        return name

    return add


def names(database: Database) -> set[str]:
    return database.read_now(lambda connection: set(connection.execute(sa.select(tenants.c.name)).scalars()))


def commits(database: Database) -> list[int]:
    """Grows by one with every commit from now on."""
    seen: list[int] = []
    sa.event.listen(database.writing, "commit", lambda connection: seen.append(1))
    return seen


class Held:
    """Keeps the writer's thread busy until let go, so that what follows gathers."""

    def __init__(self, writer: Writer) -> None:
        self._go = threading.Event()
        begun = threading.Event()

        def wait(connection: sa.Connection) -> None:
            begun.set()
            assert self._go.wait(30)

        self.done = writer.submit(wait)
        assert begun.wait(30)

    def let_go(self) -> None:
        self._go.set()
        self.done.result(30)


def test_what_runs_alone_is_committed_before_it_is_answered(database: Database) -> None:
    writer = Writer(database)
    seen = commits(database)
    assert asyncio.run(writer.run(adding("acme"))) == "acme"
    assert names(database) == {"acme"} and len(seen) == 1
    writer.close()


def test_what_waits_together_is_committed_together(database: Database) -> None:
    writer = Writer(database, gather_s=30)
    held = Held(writer)
    seen = commits(database)
    futures = [writer.submit(adding(f"n{index}")) for index in range(100)]
    held.let_go()
    assert [future.result(30) for future in futures] == [f"n{index}" for index in range(100)]
    # One group, or two where the thread looked between two of them being put.
    assert len(seen) <= 2
    assert len(names(database)) == 100
    writer.close()


def test_one_that_fails_takes_back_its_own_writes_alone(database: Database) -> None:
    writer = Writer(database, gather_s=30)
    held = Held(writer)

    def half(connection: sa.Connection) -> None:
        adding("half")(connection)
        raise KeyError("mine")

    futures: list[Future[Any]] = [
        writer.submit(adding("a")),
        writer.submit(half),
        writer.submit(adding("a")),
        writer.submit(lambda connection: connection.exec_driver_sql("SELECT * FROM nowhere")),
        writer.submit(adding("b")),
    ]
    held.let_go()
    errors = [type(future.exception(30)) for future in futures]
    assert errors == [type(None), KeyError, IntegrityError, StoreError, type(None)]
    assert names(database) == {"a", "b"}
    writer.close()


def test_one_that_fails_alone_leaves_nothing(database: Database) -> None:
    writer = Writer(database)

    def half(connection: sa.Connection) -> None:
        adding("half")(connection)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(writer.run(half))
    assert names(database) == set()
    assert asyncio.run(writer.run(adding("next"))) == "next"
    writer.close()


def test_a_group_stops_taking_more_once_its_first_has_waited_long_enough(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    writer = Writer(database, gather_s=0.0)
    held = Held(writer)
    seen = commits(database)
    futures = [writer.submit(adding(f"n{index}")) for index in range(5)]
    held.let_go()
    for future in futures:
        future.result(30)
    assert len(seen) == 5
    writer.close()
    database.close()


def test_closing_commits_what_waits_and_refuses_the_rest(database: Database) -> None:
    writer = Writer(database)
    held = Held(writer)
    futures = [writer.submit(adding(f"n{index}")) for index in range(10)]
    closing = threading.Thread(target=writer.close)
    closing.start()
    held.let_go()
    closing.join(30)
    assert all(future.done() for future in futures) and len(names(database)) == 10
    with pytest.raises(StoreError, match="being closed"):
        writer.submit(adding("late"))
    writer.close()


def test_a_full_queue_refuses_instead_of_growing(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    writer = Writer(database, max_waiting=3)
    held = Held(writer)
    for index in range(3):
        writer.submit(adding(f"n{index}"))
    with pytest.raises(StoreError, match="too many writes"):
        writer.submit(adding("late"))
    held.let_go()
    writer.close()
    assert names(database) == {"n0", "n1", "n2"}
    database.close()


def test_a_future_may_be_cancelled_before_its_group_begins(database: Database) -> None:
    writer = Writer(database)
    held = Held(writer)
    future = writer.submit(adding("never"))
    assert future.cancel()
    kept = writer.submit(adding("kept"))
    held.let_go()
    assert kept.result(30) == "kept"
    writer.close()
    assert names(database) == {"kept"}


def test_who_stops_waiting_does_not_take_the_work_back(database: Database) -> None:
    writer = Writer(database)
    held = Held(writer)

    async def main() -> None:
        with pytest.raises(StoreError, match="did not commit in time"):
            await writer.run(adding("kept"), timeout_s=0.01)

    asyncio.run(main())
    held.let_go()
    writer.close()
    assert names(database) == {"kept"}


def test_a_commit_that_fails_fails_for_everybody_in_the_group(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    writer = Writer(database, gather_s=30)
    held = Held(writer)
    futures = [writer.submit(adding(name)) for name in ("a", "b")]
    # SQLite's own way to give up a transaction in the middle, as it does when the disk is full.
    futures.append(writer.submit(lambda connection: str(connection.exec_driver_sql("ROLLBACK"))))
    futures.append(writer.submit(adding("c")))
    held.let_go()
    assert isinstance(futures[0].exception(30), StoreError) and isinstance(futures[1].exception(30), StoreError)
    assert isinstance(futures[2].exception(30), StoreError)
    kept = {"c"} if futures[3].exception(30) is None else set()
    assert names(database) == kept
    assert writer.submit(adding("after")).result(30) == "after"
    writer.close()
    database.close()


def test_a_lone_transaction_that_the_database_gave_up_is_not_called_committed(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    writer = Writer(database)

    def lost(connection: sa.Connection) -> None:
        adding("lost")(connection)
        connection.exec_driver_sql("ROLLBACK")

    with pytest.raises(StoreError, match="gave up the transaction"):
        writer.submit(lost).result(30)
    assert names(database) == set()
    writer.close()
    database.close()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_the_order_is_kept_and_every_outcome_is_its_own(steps: list[tuple[int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        database = Database.open(f"{directory}/control.db")
        writer = Writer(database, gather_s=30)
        held = Held(writer)

        def step(number: int, fails: bool) -> Callable[[sa.Connection], None]:
            def work(connection: sa.Connection) -> None:
                adding(str(number))(connection)
                if fails:
                    raise KeyError

            return work

        futures = [writer.submit(step(*one)) for one in steps]
        held.let_go()
        model: set[str] = set()
        for (number, fails), future in zip(steps, futures, strict=True):
            expected = IntegrityError if str(number) in model else KeyError if fails else type(None)
            assert type(future.exception(30)) is expected
            if expected is type(None):
                model.add(str(number))
        assert names(database) == model
        writer.close()
        database.close()


def test_what_was_answered_survives_the_death_of_the_process(tmp_path: Path) -> None:
    file = tmp_path / "control.db"
    program = f"""
from deepseek.api.store.database import Database
from deepseek.api.store.tables import tenants
from deepseek.api.store.writer import Writer
writer = Writer(Database.open({str(file)!r}))
for index in range(10**9):
    writer.submit(lambda c: c.execute(tenants.insert().values(name=f"n{{index}}", created=1.0)).rowcount).result()
    print(index, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 20:
            break
    os.kill(process.pid, signal.SIGKILL)
    answered = 21 + len(process.communicate()[0].split())
    database = Database.open(str(file))
    assert {f"n{index}" for index in range(answered)} <= names(database)
    assert len(names(database)) <= answered + 1
    database.close()

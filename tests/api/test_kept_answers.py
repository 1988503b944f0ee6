"""What is kept of answers: found by their tenant alone, chained, and bounded by number, bytes and age."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.api.kept import answers
from deepseek.api.kept.answers import PastAnswer
from deepseek.api.kept.tables import answers as table
from deepseek.api.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(str(tmp_path / "control.db"))
    yield database
    database.close()


def answer(name: str, previous: str | None = None, size: int = 0) -> PastAnswer:
    return PastAnswer(name, previous, {"output": [], "text": "x" * size}, [{"id": f"item-{name}"}])


def keep(database: Database, tenant: str, *kept: PastAnswer) -> None:
    for one in kept:
        database.write_now(lambda connection, one=one: answers.put(connection, tenant, one))


def names(database: Database, tenant: str) -> set[str]:
    query = sa.select(table.c.id).where(table.c.tenant == tenant)
    return set(database.read_now(lambda connection: connection.execute(query).scalars().all()))


def test_an_answer_is_found_by_its_tenant_alone(database: Database) -> None:
    keep(database, "one", answer("a"))
    assert database.read_now(lambda connection: answers.get(connection, "one", "a")) == answer("a")
    assert database.read_now(lambda connection: answers.get(connection, "other", "a")) is None
    assert not database.write_now(lambda connection: answers.delete(connection, "other", "a"))
    assert database.write_now(lambda connection: answers.delete(connection, "one", "a"))


def test_a_chain_is_read_from_its_beginning_and_only_whole(database: Database) -> None:
    keep(database, "one", answer("a"), answer("b", "a"), answer("c", "b"), answer("d", "gone"))
    found = database.read_now(lambda connection: answers.chain(connection, "one", "c"))
    assert found is not None and [one.id for one in found] == ["a", "b", "c"]
    for name in ("d", "unknown"):
        assert database.read_now(lambda connection, name=name: answers.chain(connection, "one", name)) is None


def test_a_chain_that_is_too_long_or_circular_is_none(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_CHAIN", 3)
    keep(database, "one", answer("a", "b"), answer("b", "a"))
    assert database.read_now(lambda connection: answers.chain(connection, "one", "a")) is None


def test_the_oldest_go_when_there_are_too_many(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWERS", 10)
    keep(database, "other", answer("x"))
    keep(database, "one", *(answer(f"{index:02d}") for index in range(25)))
    kept = names(database, "one")
    assert len(kept) <= 10 and {"23", "24"} <= kept and "00" not in kept
    assert names(database, "other") == {"x"}


def test_the_oldest_go_when_they_are_too_large(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_BYTES", 1000)
    keep(database, "one", *(answer(f"{index}", size=300) for index in range(8)))
    assert names(database, "one") <= {"5", "6", "7"} and "7" in names(database, "one")


def test_what_is_too_old_is_not_found(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(database, "one", answer("a"))
    monkeypatch.setattr(answers, "MAX_AGE_S", -time.time())
    assert database.read_now(lambda connection: answers.get(connection, "one", "a")) is None
    monkeypatch.setattr(answers, "MAX_AGE_S", -1.0)
    keep(database, "one", answer("b"))
    assert names(database, "one") == {"b"}


@settings(max_examples=15, derandomize=True, deadline=None)
@given(sizes=st.lists(st.integers(0, 400), max_size=20))
def test_a_tenant_never_holds_more_than_it_may(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    database = Database.open(str(tmp_path_factory.mktemp("answers") / "control.db"))
    before = answers.MAX_ANSWERS, answers.MAX_BYTES
    answers.MAX_ANSWERS, answers.MAX_BYTES = 5, 900
    try:
        for index, size in enumerate(sizes):
            keep(database, "one", answer(f"{index:02d}", size=size))
            kept = names(database, "one")
            assert f"{index:02d}" in kept and len(kept) <= 5
    finally:
        answers.MAX_ANSWERS, answers.MAX_BYTES = before
        database.close()

"""A tenant's database: nobody else's, bounded for SQL that somebody else wrote, and never half written."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.core.errors import ConfigError, StoreError, TenancyError
from deepseek.tenancy import (
    QueryError,
    QueryLimits,
    Rows,
    TenantContext,
    TenantDatabase,
    TenantDatabases,
    data_directory,
    query_database,
    tenant_directory,
)

T = TypeVar("T")
FOREVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPSEEK_DATA", str(tmp_path))
    return tmp_path


def using(work: Callable[[TenantDatabase], Coroutine[Any, Any, T]], **given: Any) -> T:
    async def main() -> T:
        database = TenantDatabase("acme", **given)
        try:
            return await work(database)
        finally:
            await database.aclose()

    return asyncio.run(main())


def profiles(name: str) -> None:
    async def fill(database: TenantDatabase) -> None:
        await database.execute("CREATE TABLE user_profiles (id INTEGER PRIMARY KEY, name TEXT)")
        await database.execute("INSERT INTO user_profiles (name) VALUES (?)", [name])

    async def main() -> None:
        database = TenantDatabase()
        await fill(database)
        await database.aclose()

    asyncio.run(main())


def test_the_articles_query_sees_the_tenants_own_rows_alone(root: Path) -> None:
    for tenant, name in (("tenant_123", "Ann"), ("tenant_124", "Bob")):
        with TenantContext(tenant):
            profiles(name)
    with TenantContext("tenant_123"):
        data = query_database("SELECT * FROM user_profiles")
    assert data == [{"id": 1, "name": "Ann"}]


def test_there_is_no_database_without_a_tenant(root: Path) -> None:
    with pytest.raises(TenancyError):
        query_database("SELECT 1")
    with pytest.raises(TenancyError):
        TenantDatabase()
    assert list(root.iterdir()) == []


def test_a_tenant_without_a_database_gets_an_empty_one(root: Path) -> None:
    with TenantContext("new"):
        assert query_database("SELECT 1 AS one") == [{"one": 1}]


def test_directories_and_files_are_this_users_alone(root: Path) -> None:
    with TenantContext("a"):
        query_database("SELECT 1")
        directory = tenant_directory()
    assert directory == root / "tenants" / "a"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "tenant.sqlite3").stat().st_mode) == 0o600


def test_names_that_differ_in_capitals_have_directories_that_differ_in_more(root: Path) -> None:
    names = ["acme", "Acme", "ACME", "aCme"]
    assert len({str(tenant_directory(tenant=name)).lower() for name in names}) == len(names)


def test_the_data_directory_is_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPSEEK_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert data_directory() == tmp_path / "share" / "deepseek"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        data_directory(tmp_path / "file" / "below")


REFUSED = (
    "ATTACH 'other.sqlite3' AS other", "DETACH main", "VACUUM", "VACUUM INTO 'copy.sqlite3'", "PRAGMA journal_mode = delete",
    "PRAGMA writable_schema = on", "PRAGMA database_list", "SELECT * FROM pragma_database_list", "BEGIN", "SAVEPOINT s",
    "SELECT load_extension('x')", "SELECT * FROM _own", "SELECT * FROM _words", "SELECT * FROM _words_data", "DROP TABLE _own",
    "INSERT INTO _own VALUES (1)", "UPDATE _own SET a = 1", "DELETE FROM _own", "CREATE TABLE _mine (a)",
    "CREATE TRIGGER t AFTER INSERT ON notes BEGIN INSERT INTO _own VALUES (1); END",
    "CREATE TRIGGER t AFTER INSERT ON _own BEGIN SELECT 1; END",
    "CREATE TEMP TABLE t (a)", "CREATE VIRTUAL TABLE t USING fts5 (a)", "ALTER TABLE notes RENAME TO _mine", "ALTER TABLE _own ADD b",
    "CREATE INDEX i ON _own (a)", "SELECT * FROM dbstat", "SELECT * FROM (SELECT * FROM _own)", "EXPLAIN SELECT * FROM _own",
    "SELECT * FROM notes JOIN _own", "INSERT INTO notes SELECT a FROM _own", "SELECT * FROM seen",
)  # fmt: skip


@pytest.fixture
def filled(root: Path) -> None:
    async def fill(database: TenantDatabase) -> None:
        await database.execute("CREATE TABLE notes (a)")
        await database.execute("INSERT INTO notes VALUES (1), (2)")
        await database.write(lambda connection: connection.execute("CREATE TABLE _own (a)") and None)
        await database.write(
            lambda connection: connection.execute("CREATE VIRTUAL TABLE _words USING fts5 (a)") and None
        )
        await database.write(lambda connection: connection.execute("CREATE VIEW seen AS SELECT * FROM _own") and None)

    using(fill)


@pytest.mark.parametrize("sql", REFUSED)
def test_sql_of_somebody_else_reaches_nothing_but_the_tenants_own_tables(filled: None, sql: str) -> None:
    async def both(database: TenantDatabase) -> list[str]:
        kinds = []
        for run in (database.execute, database.query):
            with pytest.raises(QueryError) as refused:
                await run(sql)
            kinds.append(refused.value.kind)
        return kinds

    assert using(both) == ["refused", "refused"]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO notes VALUES (3)",
        "DELETE FROM notes",
        "UPDATE notes SET a = 0",
        "DROP TABLE notes",
        "CREATE TABLE t (a)",
    ],
)
def test_a_query_changes_nothing(filled: None, sql: str) -> None:
    async def ask(database: TenantDatabase) -> Rows:
        with pytest.raises(QueryError):
            await database.query(sql)
        return await database.query("SELECT count(*), sum(a) FROM notes")

    assert using(ask).rows == ((2, 3),)


@pytest.mark.parametrize(
    "sql",
    ["PRAGMA table_info(notes)", "SELECT * FROM pragma_table_info('notes')", "SELECT value FROM json_each('[1, 2]')"],
)
def test_what_describes_tables_and_reads_json_is_allowed(filled: None, sql: str) -> None:
    assert using(lambda database: database.query(sql)).rows


@given(st.text("SELECTselect *_own,()'\";-/ \n\t[]`FROMfrom1", max_size=40))
@settings(max_examples=60)
def test_no_spelling_of_a_query_reads_our_own_tables(text: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    connection.execute("CREATE TABLE _own (a)")
    connection.execute("INSERT INTO _own VALUES ('secret')")
    from deepseek.tenancy.adhoc import AdHoc

    adhoc = AdHoc(connection, QueryLimits(), read_only=False)
    for sql in (text, f"SELECT * FROM {text}_own", f"SELECT {text} FROM _own", f'SELECT * FROM "_{text}own"'):
        try:
            rows = adhoc.run(sql, (), QueryLimits()).rows
        except QueryError:
            continue
        assert "secret" not in repr(rows)


def test_a_statement_that_never_ends_is_ended(filled: None) -> None:
    async def ask(database: TenantDatabase) -> tuple[str, float]:
        began = time.perf_counter()
        with pytest.raises(QueryError) as late:
            await database.query(FOREVER, limits=QueryLimits(seconds=0.1))
        return late.value.kind, time.perf_counter() - began

    kind, took = using(ask)
    assert kind == "limit" and took < 10


def test_a_statement_that_nobody_waits_for_is_ended(filled: None) -> None:
    async def ask(database: TenantDatabase) -> Rows:
        tasks = [asyncio.create_task(database.query(FOREVER, limits=QueryLimits(seconds=100))) for _ in range(8)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await asyncio.wait_for(database.query("SELECT 1"), 20)

    assert using(ask).rows == ((1,),)


def test_an_answer_is_cut_by_rows_and_bytes_and_says_so(filled: None) -> None:
    many = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 5000) SELECT x FROM c"

    async def ask(database: TenantDatabase) -> tuple[Rows, Rows, Rows]:
        return (
            await database.query(many, limits=QueryLimits(rows=10)),
            await database.query(many, limits=QueryLimits(rows=10_000, result_bytes=80)),
            await database.query("SELECT * FROM notes", limits=QueryLimits(rows=2)),
        )

    rows, size, exact = using(ask)
    assert (len(rows.rows), rows.truncated) == (10, True)
    assert (len(size.rows), size.truncated) == (10, True)
    assert (len(exact.rows), exact.truncated) == (2, False)


@pytest.mark.parametrize("sql", ["SELECT zeroblob(100000000)", "SELECT hex(zeroblob(900000))"])
def test_a_value_that_is_too_large_is_refused(filled: None, sql: str) -> None:
    with pytest.raises(QueryError) as large:
        using(lambda database: database.query(sql))
    assert large.value.kind == "limit"


def test_a_database_does_not_grow_beyond_its_bound(root: Path) -> None:
    async def fill(database: TenantDatabase) -> str:
        await database.execute("CREATE TABLE t (a)")
        for _ in range(100):
            try:
                await database.execute("INSERT INTO t VALUES (zeroblob(100000))")
            except QueryError as full:
                return full.kind
        return "never"

    assert using(fill, limits=QueryLimits(file_bytes=1 << 20)) == "limit"


@pytest.mark.parametrize(
    "sql", ["", "SELECT", "SELECT 1; SELECT 2", "nonsense", "SELECT ?", "SELECT '\ud800'", "SELECT \0"]
)
def test_what_is_no_statement_says_so(filled: None, sql: str) -> None:
    async def ask(database: TenantDatabase) -> Rows | str:
        try:
            return await database.query(sql)
        except QueryError as wrong:
            return wrong.kind

    assert using(ask) in ("wrong", Rows())


def test_writes_that_wait_share_a_transaction_and_fail_alone(root: Path) -> None:
    def insert(number: int) -> Callable[[sqlite3.Connection], int]:
        def function(connection: sqlite3.Connection) -> int:
            connection.execute("INSERT INTO _own VALUES (?)", [number])
            if number % 3 == 0:
                raise KeyError(number)
            return number

        return function

    async def work(database: TenantDatabase) -> tuple[list[Any], list[int]]:
        await database.write(lambda connection: connection.execute("CREATE TABLE _own (a)") and None)
        results = await asyncio.gather(*(database.write(insert(n)) for n in range(30)), return_exceptions=True)
        rows = await database.read(lambda connection: connection.execute("SELECT a FROM _own ORDER BY a").fetchall())
        return results, [row[0] for row in rows]

    results, rows = using(work)
    assert [n for n in range(30) if n % 3] == rows
    assert [isinstance(result, KeyError) for result in results] == [n % 3 == 0 for n in range(30)]


def test_a_write_whose_caller_is_cancelled_is_done_nevertheless(root: Path) -> None:
    async def work(database: TenantDatabase) -> int:
        await database.write(lambda connection: connection.execute("CREATE TABLE _own (a)") and None)
        gate = threading.Event()
        first = asyncio.create_task(database.write(lambda connection: gate.wait(30)))
        second = asyncio.create_task(database.write(lambda c: c.execute("INSERT INTO _own VALUES (1)") and None))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        gate.set()
        await first
        return await database.read(lambda connection: connection.execute("SELECT count(*) FROM _own").fetchone()[0])

    assert using(work) == 1


def test_what_was_written_is_there_after_the_process_is_killed(root: Path) -> None:
    program = """
import os, sys
from deepseek.tenancy import TenantDatabase
database = TenantDatabase("acme")
database.write_now(lambda c: c.execute("CREATE TABLE notes (a)") and None)
for number in range(50):
    database.write_now(lambda c: c.execute("INSERT INTO notes VALUES (?)", [number]) and None)
os._exit(9)
"""
    ended = subprocess.run([sys.executable, "-c", program], env={**os.environ, "DEEPSEEK_DATA": str(root)}, timeout=60)
    assert ended.returncode == 9
    with TenantContext("acme"):
        assert query_database("SELECT count(*) AS n FROM notes") == [{"n": 50}]


def test_nothing_is_taken_once_it_is_closed(root: Path) -> None:
    database = TenantDatabase("acme")
    database.close()
    with pytest.raises(QueryError) as closed:
        database.read_now(lambda connection: None)
    assert closed.value.kind == "closed"


def test_what_waits_is_written_before_it_closes(root: Path) -> None:
    database = TenantDatabase("acme")
    database.write_now(lambda connection: connection.execute("CREATE TABLE _own (a)") and None)
    waiting = [database.submit(lambda c: c.execute("INSERT INTO _own VALUES (1)") and None) for _ in range(100)]
    database.close()
    assert all(future.done() and future.exception() is None for future in waiting)


def test_a_file_that_is_no_database_is_said(root: Path) -> None:
    (tenant_directory(tenant="acme") / "tenant.sqlite3").write_bytes(b"x" * 4096)
    with pytest.raises(StoreError, match=r"tenant\.sqlite3"):
        using(lambda database: database.query("SELECT 1"))


def test_few_databases_are_open_at_once(root: Path) -> None:
    databases = TenantDatabases(most=2)
    first = databases.of("a")
    for name in ("b", "c"):
        databases.of(name).read_now(lambda connection: None)
    assert databases.of("a") is not first
    databases.close()


def test_the_event_loop_goes_on_while_a_statement_runs(filled: None) -> None:
    async def ask(database: TenantDatabase) -> int:
        task = asyncio.create_task(database.query(FOREVER, limits=QueryLimits(seconds=0.3)))
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(task, return_exceptions=True)
        return turns

    assert using(ask) > 10

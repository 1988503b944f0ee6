"""The control database: its file, its tables, what happens when it cannot be used; on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres_support import empty, installed, postgres

from deepseek.api.kept import tables as kept
from deepseek.api.metering import tables as metering
from deepseek.api.store import tables as identity
from deepseek.api.store.database import MAX_WAITING_REPORTS, READERS, Database, DatabaseInUse
from deepseek.api.store.schema import metadata
from deepseek.api.store.tables import tenants
from deepseek.api.store.upgrade import HEAD, MIGRATIONS
from deepseek.core.errors import ConfigError, StoreError

in_postgres = pytest.mark.skipif(not installed(), reason="no PostgreSQL on this machine")
KINDS = ["sqlite", pytest.param("postgresql", marks=in_postgres)]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "control.db")
    found: str = request.getfixturevalue("server")
    empty(found)
    return found


def names(database: Database) -> set[str]:
    return database.read_now(lambda connection: set(connection.execute(sa.select(tenants.c.name)).scalars()))


def add(name: str) -> sa.Insert:
    return tenants.insert().values(name=name, created=1.0)


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_the_migrations_make_exactly_the_tables_that_the_package_declares(url: str) -> None:
    database = Database.open(url)
    with database.engine.connect() as connection:
        assert {table.metadata for table in (identity.keys, metering.usage, kept.files)} == {metadata}
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
        triggers = sa.text("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'")
        assert database.dialect != "sqlite" or connection.execute(triggers).scalar() == 2
    database.close()
    assert differences == []


def test_the_newest_migration_is_the_one_that_opening_compares_with() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_opening_again_keeps_what_is_there(url: str) -> None:
    first = Database.open(url)
    first.write_now(lambda connection: connection.execute(add("acme")))
    first.close()
    again = Database.open(url)
    assert names(again) == {"acme"}
    again.close()


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_many_may_open_an_empty_database_at_once(url: str) -> None:
    opened: list[Database | BaseException] = []
    start = threading.Barrier(4)

    def open_it() -> None:
        start.wait()
        try:
            opened.append(Database.open(url))
        except BaseException as error:
            opened.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [database for database in opened if not isinstance(database, Database)] == []
    for database in opened:
        assert isinstance(database, Database)
        database.close()


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    database = Database.open(url)
    database.write_now(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(ConfigError, match="revision 9999"):
        Database.open(url)


@pytest.mark.parametrize("url", KINDS, indirect=True)
def test_a_transaction_that_fails_leaves_nothing(url: str) -> None:
    database = Database.open(url)

    def work(connection: sa.Connection) -> None:
        connection.execute(add("acme"))
        raise KeyError

    with pytest.raises(KeyError):
        database.write_now(work)
    assert names(database) == set()
    database.close()


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "deep" / "er" / "control.db"), serving=True)
    database.write_now(lambda connection: connection.execute(add("acme")))
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "deep" / "er").iterdir()}
    assert set(modes) == {"control.db", "control.db-wal", "control.db-shm", "control.db.lock"}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "deep" / "er").stat().st_mode & 0o777 == 0o700
    database.close()


def test_commits_are_synced_and_written_ahead(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    with database.writing.begin() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
        assert found == ["wal", 2]
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


def test_a_second_server_is_refused_on_the_same_file_and_told_who_has_it(tmp_path: Path) -> None:
    file = tmp_path / "control.db"
    program = (
        f"import sys; from deepseek.api.store.database import Database; Database.open({str(file)!r}, serving=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program + "print('open', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None and process.stdout.readline() == b"open\n"
    with pytest.raises(DatabaseInUse, match=f"process {process.pid}.*--database FILE"):
        Database.open(str(file), serving=True)
    beside = Database.open(str(file))  # as the command line does
    beside.write_now(lambda connection: connection.execute(add("acme")))
    beside.close()
    # However it ends, its hold ends with it.
    process.kill()
    process.communicate()
    after = Database.open(str(file), serving=True)
    assert names(after) == {"acme"}
    after.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://root:hidden@host/name", "database: no such kind of database; found mysql"),
        ("sqlite://", "several threads share it"),
        (":memory:", "several threads share it"),
        ("postgresql://user:hidden@host:port/name", "not a database URL"),
        ("/proc/nowhere/control.db", "cannot be used"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_not_repeated(url: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as refused:
        Database.open(url)
    assert "hidden" not in str(refused.value)


def test_a_file_that_is_no_database_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_text("These are words, and not a database at all. " * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Database.open(str(tmp_path / "control.db"))


def test_a_server_that_does_not_answer_is_an_error_of_the_store_without_the_password() -> None:
    with pytest.raises(StoreError) as refused:
        Database.open("postgresql://user:hidden@127.0.0.1:1/name")
    assert "hidden" not in str(refused.value)


def test_a_password_is_not_shown() -> None:
    engine = sa.create_engine("postgresql+psycopg://user:hidden@host/name")
    database = Database(engine)
    assert str(database) == "postgresql://user:***@host/name"
    database.close()


def test_reading_does_not_block_the_event_loop(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    held, begun = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> str:
        begun.set()
        assert held.wait(30)
        return threading.current_thread().name

    async def main() -> None:
        reading = asyncio.create_task(database.read(slow))
        await asyncio.to_thread(begun.wait, 30)
        assert not reading.done()
        held.set()
        assert (await reading).startswith("deepseek-database-read")

    asyncio.run(main())
    database.close()


def test_a_read_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    held = threading.Event()
    with pytest.raises(StoreError, match="did not answer in time"):
        asyncio.run(database.read(lambda connection: held.wait(30), timeout_s=0.01))
    held.set()
    database.close()


@pytest.mark.parametrize("url", KINDS, indirect=True)
@pytest.mark.parametrize("kind", ["read", "report"])
def test_a_query_ends_with_its_time_and_leaves_its_thread_to_the_next(url: str, kind: str) -> None:
    database = Database.open(url)
    ask = getattr(database, kind)
    endless = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "postgresql": "SELECT pg_sleep(600)",
    }[database.dialect]

    async def work() -> None:
        late = [ask(lambda connection: connection.exec_driver_sql(endless), timeout_s=0.2) for _ in range(READERS)]
        for found in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(found, StoreError)
        assert await ask(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1

    asyncio.run(asyncio.wait_for(work(), 30))
    database.close()


def test_reports_do_not_keep_reads_waiting_and_are_refused_when_too_many_wait(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "control.db"))
    held = threading.Event()

    async def work() -> None:
        reports = [asyncio.create_task(database.report(lambda _: held.wait(30))) for _ in range(MAX_WAITING_REPORTS)]
        await asyncio.sleep(0)  # they are in the threads' queue
        assert await database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1
        with pytest.raises(StoreError, match="too many reports wait"):
            await database.report(lambda _: True)
        held.set()
        assert await asyncio.gather(*reports) == [True] * MAX_WAITING_REPORTS

    asyncio.run(asyncio.wait_for(work(), 30))
    database.close()

"""One control database: SQLite in a file for one server, PostgreSQL for several.

Reads run in a few worker threads of the database's own, reports (which read very much) in others, so that no report is in
a read's way; a query that nobody waits for any more is stopped. Writes go through one `Writer` (`deepseek.api.store.writer`).
SQLite writes ahead (WAL) and syncs every commit (synchronous=FULL), so what was committed survives a loss of power.
The file is made readable for its owner alone; while a server holds it, a lock file beside it keeps a second server out,
because budgets and limits of two servers on one file would not add up. The command line may look in beside a server.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from deepseek.api.store.upgrade import upgrade
from deepseek.core.errors import ConfigError, StoreError

T = TypeVar("T")
Dialect = Literal["sqlite", "postgresql"]

WRITES = "deepseek_writes"
READERS = 4
MAX_WAITING_READS = 1024
REPORTERS = 2
MAX_WAITING_REPORTS = 64
BUSY_TIMEOUT_MS = 5000
JOURNAL_PAGES = 8192
READ_TIMEOUT_S = 10.0
REPORT_TIMEOUT_S = 10.0
OPS_BETWEEN_LOOKS = 20_000
"""SQLite's own instructions, a fraction of a millisecond, after which it looks whether its answer is still wanted."""
_STATEMENT_TIMEOUT = sa.text("SELECT set_config('statement_timeout', :left, true)")
DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


class Database:
    """An open control database, its tables up to date. Made by `Database.open`; `close` when done.

    engine: for reads. writing: the same connections, for transactions that will write (SQLite takes its write lock at
    their beginning, so that none fails half way because another process came first). path: of an SQLite file.
    """

    def __init__(self, engine: sa.Engine, path: Path | None = None, lock: int | None = None) -> None:
        self.engine = engine
        self.writing = engine.execution_options(**{WRITES: True})
        self.path = path
        self._lock_file = lock
        self._readers = _Readers("read", READERS, MAX_WAITING_READS)
        self._reporters = _Readers("report", REPORTERS, MAX_WAITING_REPORTS)

    @classmethod
    def open(cls, url: str, *, serving: bool = False) -> Database:
        """Open, and bring the tables up to date.

        url: a file name, `sqlite:///file` or `postgresql://user@host/name`. serving: hold an SQLite file against other
        servers until `close`. Raises ConfigError for a URL or file that cannot be used, StoreError for a server that
        does not answer.
        """
        address = read_url(url)
        path = Path(address.database or "") if address.get_backend_name() == "sqlite" else None
        lock = None
        if path is not None:
            _make_file(path)
            lock = _take_lock(path) if serving else None
        try:
            database = cls(_connect_lazily(address), path, lock)
            with store_errors():
                upgrade(database.writing, shown_url(address))
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        return database

    @property
    def dialect(self) -> Dialect:
        return "sqlite" if self.engine.dialect.name == "sqlite" else "postgresql"

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else shown_url(self.engine.url)

    async def read(self, fn: Callable[[sa.Connection], T], *, timeout_s: float = READ_TIMEOUT_S) -> T:
        """`fn(connection)` in a worker thread. Raises what it raises; StoreError where the database cannot be used.

        A query that runs when the time is over, or when the wait is cancelled, is stopped (PostgreSQL: by its time alone).
        """
        return await self._ask(self._readers, fn, timeout_s)

    async def report(self, fn: Callable[[sa.Connection], T], *, timeout_s: float = REPORT_TIMEOUT_S) -> T:
        """As `read`, for what may take seconds: in threads of its own, and fewer may wait."""
        return await self._ask(self._reporters, fn, timeout_s)

    async def _ask(self, readers: _Readers, fn: Callable[[sa.Connection], T], timeout_s: float) -> T:
        unwanted = threading.Event()
        future = readers.submit(partial(self._read, fn, unwanted, time.monotonic() + timeout_s))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise StoreError("the database did not answer in time", expected=f"within {timeout_s:g} s") from None
        finally:
            unwanted.set()

    def _read(self, fn: Callable[[sa.Connection], T], unwanted: threading.Event, ends: float) -> T:
        with store_errors(), self.engine.connect() as connection, _stopped_at_the_end(connection, unwanted, ends):
            return fn(connection)

    def read_now(self, fn: Callable[[sa.Connection], T]) -> T:
        """`fn(connection)` in this thread: for the command line and for threads; never on the event loop."""
        with store_errors(), self.engine.connect() as connection:
            return fn(connection)

    def write_now(self, fn: Callable[[sa.Connection], T]) -> T:
        """`fn(connection)` in a transaction of its own, in this thread; never on the event loop."""
        with store_errors(), self.writing.begin() as connection:
            return fn(connection)

    def close(self) -> None:
        """Let running reads end, close every connection, let another server have the file. Idempotent."""
        self._readers.close()
        self._reporters.close()
        self.engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


class _Readers:
    """Threads that read, and a bound on what runs in them or waits for them."""

    def __init__(self, name: str, threads: int, most: int) -> None:
        self._name, self._most = name, most
        self._threads = ThreadPoolExecutor(threads, f"deepseek-database-{name}")
        self._waiting = 0
        self._counting = threading.Lock()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Raises StoreError where too many wait."""
        with self._counting:
            if self._waiting >= self._most:
                raise StoreError(f"too many {self._name}s wait for the database", found=self._waiting)
            self._waiting += 1
        future = self._threads.submit(work)
        future.add_done_callback(self._count_down)
        return future

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _count_down(self, done: object) -> None:
        with self._counting:
            self._waiting -= 1


@contextmanager
def _stopped_at_the_end(connection: sa.Connection, unwanted: threading.Event, ends: float) -> Iterator[None]:
    """Have the database itself give a query up. ends: of the monotonic clock."""
    if connection.dialect.name == "postgresql":
        left_ms = max(1, int(1000 * (ends - time.monotonic())))
        connection.execute(_STATEMENT_TIMEOUT, {"left": str(left_ms)})
        yield
        return
    # Asked by the query's own thread: an interrupt from another could come late, and meet whoever has the connection next.
    driver: Any = connection.connection.dbapi_connection
    driver.set_progress_handler(unwanted.is_set, OPS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what the driver says about an unusable database into StoreError. A broken constraint stays IntegrityError."""
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise StoreError("the database cannot be used", found=lines[0]) from error


def read_url(url: str) -> sa.URL:
    """A database URL, or the name of an SQLite file, with the driver we use. Raises ConfigError without repeating it."""
    if "://" not in url:
        address = sa.URL.create("sqlite", database=url)
    else:
        try:
            address = sa.make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigError(
                "not a database URL", where="database", expected="a file name, sqlite:///file or postgresql://host/name"
            ) from None
    driver = DRIVERS.get(address.get_backend_name())
    if driver is None:
        kind = address.get_backend_name()
        raise ConfigError("no such kind of database", where="database", found=kind, expected="sqlite or postgresql")
    if driver.startswith("sqlite"):
        if address.database in (None, "", ":memory:"):
            raise ConfigError("several threads share it", where="database", found="memory", expected="a file")
        address = address.set(database=str(Path(str(address.database)).expanduser().absolute()))
    return address.set(drivername=driver)


def shown_url(address: sa.URL) -> str:
    """For people: without the password, and without the driver's name."""
    return address.set(drivername=address.get_backend_name()).render_as_string(hide_password=True)


def _connect_lazily(address: sa.URL) -> sa.Engine:
    sizes: dict[str, Any] = {"pool_size": READERS + REPORTERS + 2, "max_overflow": 4, "pool_timeout": READ_TIMEOUT_S}
    if address.get_backend_name() == "sqlite":
        engine = sa.create_engine(address, poolclass=QueuePool, connect_args={"check_same_thread": False}, **sizes)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    limits = {"connect_timeout": 5, "options": "-c statement_timeout=10000 -c lock_timeout=5000"}
    try:
        return sa.create_engine(address, connect_args=limits, pool_pre_ping=True, **sizes)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise ConfigError(
            "PostgreSQL needs its driver",
            where="database",
            found="no module psycopg",
            fix="pip install 'deepseek-stack[postgres]'",
        ) from None


def _prepare_sqlite(driver: Any, record: object) -> None:
    # The driver's own guessing at transactions would commit before a SAVEPOINT; BEGIN is said by _begin_sqlite.
    driver.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        # Whoever's commit makes the journal longer than this waits for what is in it to be moved into the file: seldom.
        f"wal_autocheckpoint={JOURNAL_PAGES}",
        "foreign_keys=ON",
    ):
        driver.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _make_file(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its -wal and -shm files the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError(
            "the database file cannot be used", where=path, found=error.strerror, fix="name another: --database FILE"
        ) from None


def _take_lock(path: Path) -> int:
    file = path.with_name(path.name + ".lock")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise DatabaseInUse(
            "another server uses this database",
            where=path,
            found=f"process {holder}" if holder else "a process that holds its lock",
            fix="stop it, give this server a file of its own (--database FILE), or share one PostgreSQL",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


class DatabaseInUse(ConfigError):
    """Another server holds the SQLite file."""

"""A tenant's database: one SQLite file, so that no statement can reach another tenant's rows, whatever it says.

    database = TenantDatabase("acme")                      # or databases.current(), of a TenantDatabases
    await database.execute("INSERT INTO notes VALUES (?)", ["..."])      # ad-hoc: authorised and bounded
    rows = await database.query("SELECT * FROM notes")                   # ad-hoc, on a connection that only reads
    await database.write(lambda c: c.execute("INSERT INTO _events ..."))     # our own code, in a transaction
    found = await database.read(lambda c: c.execute("SELECT ... FROM _events").fetchall())

Tables of this program begin with `_`: ad-hoc SQL neither sees nor changes them. The journal is a write-ahead log: what was
written survives the end of the process, and readers never wait for the writer. Other processes may use the file too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from deepseek.core.errors import StoreError
from deepseek.tenancy import context
from deepseek.tenancy.adhoc import AdHoc, Parameters, QueryError, QueryLimits, Rows, Value
from deepseek.tenancy.files import tenant_directory
from deepseek.tenancy.writer import Job, Worker

__all__ = ["QueryError", "QueryLimits", "Rows", "TenantDatabase", "TenantDatabases", "query_database"]

FILE = "tenant.sqlite3"
MAX_READERS = 4
BUSY_S = 5.0
TRUSTED_WAIT_S = 60.0
"""Longest wait for our own reads and writes."""

T = TypeVar("T")


class TenantDatabase:
    """One tenant's, the current one's by default. Usable from any task and thread; `close` it at the end.

    root: the data directory. limits: what a statement of ad-hoc SQL may take. Raises TenancyError where there is no tenant.
    """

    def __init__(
        self,
        tenant: str | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        limits: QueryLimits | None = None,
    ) -> None:
        self.tenant = context.current_tenant() if tenant is None else context.check_tenant(tenant)
        self.limits = limits or QueryLimits()
        self.path = tenant_directory(root, self.tenant) / FILE
        self._writer = Worker(f"write {self.tenant}", lambda: _Desk(self.path, self.limits, read_only=False))
        self._readers = Worker(f"read {self.tenant}", self._reading_desk, MAX_READERS)

    @staticmethod
    def switch(tenant_id: str) -> None:
        """Work for this tenant until `reset`. Prefer `TenantContext`, which cannot be forgotten to be left."""
        context.switch(tenant_id)

    @staticmethod
    def reset() -> None:
        """Back to the tenant before the last `switch`."""
        context.reset()

    async def execute(self, sql: str, parameters: Parameters = (), limits: QueryLimits | None = None) -> Rows:
        """One ad-hoc statement that may change the tenant's tables; it is a transaction of its own. Raises QueryError."""
        return await self._adhoc(self._writer, sql, parameters, limits or self.limits)

    async def query(self, sql: str, parameters: Parameters = (), limits: QueryLimits | None = None) -> Rows:
        """The answer to one ad-hoc statement that only reads. Raises QueryError; `Rows.truncated` tells of a cut."""
        return await self._adhoc(self._readers, sql, parameters, limits or self.limits)

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call our own code with a connection, within a transaction that is on disk when this returns.

        The code must neither commit nor `executescript` nor take long; what it raises undoes it. Once this was called the
        work is done even if nobody waits for it any more: it is never half done, and not lost.
        """
        found: T = await _waited(self._submit_write(function).result)
        return found

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call our own code with a connection that only reads."""
        found: T = await _waited(self._submit_read(function).result)
        return found

    def write_now(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """`write`, for code that is not on an event loop: it blocks."""
        found: T = _blocked(self._submit_write(function).result)
        return found

    def read_now(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """`read`, for code that is not on an event loop: it blocks."""
        found: T = _blocked(self._submit_read(function).result)
        return found

    def submit(self, function: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """`write` without waiting: the future is done when it is on disk. Raises QueryError where too much waits."""
        return self._submit_write(function).result

    def close(self) -> None:
        """Finish what waits and let go of the file. Blocks; on an event loop use `aclose`."""
        self._writer.close()
        self._readers.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def _reading_desk(self) -> _Desk:
        if not self.path.exists():
            _blocked(self._submit_write(lambda connection: None).result)
        return _Desk(self.path, self.limits, read_only=True)

    def _submit_write(self, function: Callable[[sqlite3.Connection], T]) -> Job:
        return self._writer.submit(Job(lambda desk: function(desk.trusted), grouped=True))

    def _submit_read(self, function: Callable[[sqlite3.Connection], T]) -> Job:
        return self._readers.submit(Job(lambda desk: function(desk.trusted)))

    async def _adhoc(self, worker: Worker, sql: str, parameters: Parameters, limits: QueryLimits) -> Rows:
        job = Job(lambda desk: desk.adhoc.run(sql, parameters, limits, lambda: job.left))
        worker.submit(job)
        try:
            # Its own limit counts from its begin; one function of SQLite cannot be interrupted, so there is another.
            rows: Rows = await _waited(job.result, TRUSTED_WAIT_S + limits.seconds)
        finally:
            job.left = True
        return rows


class TenantDatabases:
    """The databases of many tenants, opened when needed; of those that were not used lately some are closed again."""

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        limits: QueryLimits | None = None,
        most: int = 256,
    ) -> None:
        self._root = root
        self._limits = limits
        self._most = most
        self._open: OrderedDict[str, TenantDatabase] = OrderedDict()
        self._lock = threading.Lock()

    def current(self) -> TenantDatabase:
        """The current tenant's. Raises TenancyError where there is none."""
        return self.of(context.current_tenant())

    def of(self, tenant: str) -> TenantDatabase:
        """A tenant's. Ask anew for each use: one that is kept may be closed meanwhile."""
        with self._lock:
            found = self._open.get(tenant)
            if found is None:
                found = self._open[tenant] = TenantDatabase(tenant, root=self._root, limits=self._limits)
            self._open.move_to_end(tenant)
            spare = self._open.popitem(last=False)[1] if len(self._open) > self._most else None
        if spare is not None:
            threading.Thread(target=spare.close, name=f"close {spare.tenant}", daemon=True).start()
        return found

    def close(self) -> None:
        """Close all. Blocks."""
        with self._lock:
            databases = list(self._open.values())
            self._open.clear()
        for database in databases:
            database.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


def query_database(
    sql: str,
    parameters: Parameters = (),
    *,
    root: str | os.PathLike[str] | None = None,
    limits: QueryLimits | None = None,
) -> list[dict[str, Value]]:
    """What one statement that only reads finds in the current tenant's database. It blocks; elsewhere use
    `TenantDatabase.query`.

    Raises TenancyError where no tenant is set, QueryError for what is no such statement, and for an answer over the limits.
    """
    limits = limits or QueryLimits(rows=100_000, result_bytes=64 << 20)
    path = tenant_directory(root) / FILE
    if not path.exists():
        _Desk(path, limits, read_only=False).close()
    desk = _Desk(path, limits, read_only=True)
    try:
        rows = desk.adhoc.run(sql, parameters, limits)
    finally:
        desk.close()
    if rows.truncated:
        expected = f"at most {limits.rows} rows and {limits.result_bytes} bytes"
        raise QueryError("the answer is too large", kind="limit", expected=expected, fix="add a LIMIT")
    return rows.dicts()


class _Desk:
    """The two connections of a thread: for our own code, and for ad-hoc SQL. Raises StoreError."""

    def __init__(self, path: Path, limits: QueryLimits, *, read_only: bool) -> None:
        try:
            self.trusted = _connected(path, limits, read_only=read_only)
            self._other = _connected(path, limits, read_only=read_only)
        except (sqlite3.Error, OSError) as error:
            raise StoreError("the tenant's database cannot be opened", where=path, found=str(error)[:200]) from None
        self.adhoc = AdHoc(self._other, limits, read_only=read_only)

    def close(self) -> None:
        for connection in (self._other, self.trusted):
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _connected(path: Path, limits: QueryLimits, *, read_only: bool) -> sqlite3.Connection:
    if not read_only and not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    mode = "ro" if read_only else "rw"
    # No cache of statements: the authoriser must see each.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None, cached_statements=0
    )
    if read_only:
        connection.execute("PRAGMA query_only = on")
        connection.execute("PRAGMA schema_version").fetchone()  # reads the file, so that what is none is told now
        return connection
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = normal")
    connection.execute("PRAGMA foreign_keys = on")
    connection.execute("PRAGMA trusted_schema = off")
    page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {limits.file_bytes // page_bytes}")
    return connection


async def _waited(result: Future[T], seconds: float = TRUSTED_WAIT_S) -> T:
    waiting = asyncio.wrap_future(result)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to look at it
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(waiting)
    except TimeoutError:
        raise QueryError("the database does not answer", kind="busy", expected=f"within {seconds:g} s") from None


def _blocked(result: Future[T], seconds: float = TRUSTED_WAIT_S) -> T:
    try:
        return result.result(seconds)
    except TimeoutError:
        raise QueryError("the database does not answer", kind="busy", expected=f"within {seconds:g} s") from None

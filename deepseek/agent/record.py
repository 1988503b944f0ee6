"""Where runs are recorded: every event, in order, only ever added to, one SQLite file for each tenant.

    store = EventStore(root)
    record = RunRecord(store, tenant, run_id)
    record.add(Said(...))           # at once, never waits
    await store.flush()             # all that was added before is on disk

One thread writes for all runs. What comes while it writes is committed together (group commit), so hundreds of runs cost
few transactions. A commit is on disk when it is told of (WAL, synchronous=FULL). When writing fails, nothing is dropped:
it is tried again with the next flush, whose caller is told; and no more is taken than fits (`room`).

A message or anything else that is large is stored once by its hash; see `events.Event.kept`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sqlite3
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deepseek.agent.events import Event, ToolFinished, ToolNoted, ToolRetried, ToolStarted
from deepseek.agent.rows import RUN_COLUMNS, Recorded, RunRow, StoredEvent, insert, is_prepared, prepare, read_events
from deepseek.core.errors import StoreError
from deepseek.tenancy.files import tenant_directory

log = logging.getLogger("deepseek.agent")

LINGER_S = 0.02
"""How long the writer waits for more before it commits what nobody waits for."""
FLUSH_S = 60.0
MAX_PENDING = 200_000
_MAX_FILES = 64
_BUSY_MS = 10_000

Work = Callable[[sqlite3.Connection], Any]


@dataclass(frozen=True, slots=True)
class _Job:
    tenant: str
    work: Work
    done: Future[Any]


class _Put(NamedTuple):
    tenant: str
    recorded: Recorded


_Item = _Put | _Job


class EventStore:
    """directory_of: where a tenant's file is put; None: in its own directory (`tenant_directory`).

    Any number of runs, event loops and threads may write at once."""

    def __init__(
        self,
        directory_of: Callable[[str], Path] | None = None,
        *,
        linger_s: float = LINGER_S,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._directory_of = directory_of or (lambda tenant: tenant_directory(tenant=tenant))
        self._linger_s, self._max_pending = linger_s, max_pending
        self._pending: deque[_Item] = deque()
        self._waiting: deque[Future[None]] = deque()
        self._wake, self._urgent = threading.Event(), threading.Event()
        self._files: OrderedDict[str, sqlite3.Connection] = OrderedDict()
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="deepseek-events", daemon=True)
        self._thread.start()
        # A daemon's end loses what lingers, so the interpreter's end has to wait for it.
        atexit.register(_close_at_exit, weakref.ref(self))

    def put(self, tenant: str, recorded: Recorded) -> None:
        """Record it soon; never waits. Raises StoreError once closed."""
        if self._closed:
            raise StoreError("the store of events is closed")
        self._pending.append(_Put(tenant, recorded))
        if not self._wake.is_set():
            self._wake.set()

    async def room(self) -> None:
        """Wait while more is pending than may be. Raises StoreError."""
        if len(self._pending) > self._max_pending:
            await self.flush()

    async def flush(self) -> None:
        """Return once all that was put before is on disk. Raises StoreError where it cannot be; it is kept all the same."""
        done: Future[None] = Future()
        self._waiting.append(done)
        self._hurry()
        await self._arrival(done)

    async def do(self, tenant: str, work: Work) -> Any:
        """What `work` returns, run by the writer after all that was put before, committed. Raises StoreError."""
        if self._closed:
            raise StoreError("the store of events is closed")
        job = _Job(tenant, work, Future())
        self._pending.append(job)
        self._hurry()
        return await self._arrival(job.done)

    async def read(self, tenant: str, work: Work) -> Any:
        """What `work` returns on a connection that only reads; what was committed so far is seen."""
        return await asyncio.to_thread(self._read, tenant, work)

    async def claim(self, tenant: str, run_id: str, seq: int) -> bool:
        """Take up a suspended run whose last event is the seq-th. False: somebody did, or it is another state of it."""

        def work(connection: sqlite3.Connection) -> bool:
            known = connection.execute("SELECT status FROM runs WHERE id = ?", (run_id,)).fetchone()
            last = connection.execute("SELECT max(seq) FROM events WHERE run = ?", (run_id,)).fetchone()[0]
            if known is None and last is None:
                return True  # it was put away elsewhere
            if known is None or known[0] != "suspended" or last != seq:
                return False
            connection.execute("UPDATE runs SET status = 'running', state = NULL WHERE id = ?", (run_id,))
            return True

        return bool(await self.do(tenant, work))

    async def keep_state(self, tenant: str, run_id: str, state: str) -> None:
        """Keep a suspended run's state beside its events, which are on disk with it when this returns."""
        await self.do(
            tenant,
            lambda connection: connection.execute("UPDATE runs SET state = ? WHERE id = ?", (state, run_id)) and None,
        )

    async def state(self, tenant: str, run_id: str) -> str | None:
        """The state of a suspended run, as JSON; None: there is none."""
        row = await self.read(
            tenant, lambda connection: connection.execute("SELECT state FROM runs WHERE id = ?", (run_id,)).fetchone()
        )
        return None if row is None else row[0]

    async def events(self, tenant: str, run_id: str, *, after: int = 0, limit: int = 1000) -> list[StoredEvent]:
        """A run's events in order, those after the given number; what is kept by its hash is put back in."""
        found: list[StoredEvent] = await self.read(
            tenant, lambda connection: read_events(connection, run_id, after, limit)
        )
        return found

    async def run(self, tenant: str, run_id: str) -> RunRow | None:
        def work(connection: sqlite3.Connection) -> RunRow | None:
            row = connection.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()
            return None if row is None else RunRow(*row)

        found: RunRow | None = await self.read(tenant, work)
        return found

    async def runs(
        self, tenant: str, *, agent: str | None = None, status: str | None = None, limit: int = 100
    ) -> list[RunRow]:
        """The newest runs, newest first."""

        def work(connection: sqlite3.Connection) -> list[RunRow]:
            rows = connection.execute(
                f"SELECT {RUN_COLUMNS} FROM runs WHERE (?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR status = ?2)"
                " ORDER BY started DESC, rowid DESC LIMIT ?3",
                (agent, status, limit),
            )
            return [RunRow(*row) for row in rows]

        found: list[RunRow] = await self.read(tenant, work)
        return found

    def close(self) -> None:
        """Write all that is pending and stop. Idempotent."""
        self._closed = True
        self._hurry()
        self._thread.join(FLUSH_S)

    def path_of(self, tenant: str) -> Path:
        return self._directory_of(tenant) / "runs.db"

    def _hurry(self) -> None:
        self._urgent.set()
        self._wake.set()

    @staticmethod
    async def _arrival(done: Future[Any]) -> Any:
        try:
            async with asyncio.timeout(FLUSH_S):
                return await asyncio.wrap_future(done)
        except TimeoutError:
            raise StoreError("the store of events does not answer", found=f"after {FLUSH_S:g} s") from None

    def _read(self, tenant: str, work: Work) -> Any:
        path = self.path_of(tenant)
        try:
            if not path.exists():
                return work(_empty())
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                return work(connection if is_prepared(connection) else _empty())
        except sqlite3.Error as error:
            raise StoreError("the store of events cannot be read", where=path, found=str(error)) from error

    def _write(self) -> None:
        while True:
            self._wake.wait()
            if not self._urgent.is_set():
                self._urgent.wait(self._linger_s)
            # Cleared first: what comes from here on wakes the thread anew.
            self._wake.clear()
            self._urgent.clear()
            closing_down = self._closed
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            batch = [self._pending.popleft() for _ in range(len(self._pending))]
            error = self._commit(batch)
            for done in waiting:
                if error is None:
                    _settle(done, None)
                else:
                    _fail(done, error)
            if closing_down:
                for connection in self._files.values():
                    connection.close()
                return

    def _commit(self, batch: list[_Item]) -> StoreError | None:
        by_tenant: dict[str, list[Recorded | _Job]] = {}
        for item in batch:
            by_tenant.setdefault(item.tenant, []).append(item if isinstance(item, _Job) else item.recorded)
        failed: StoreError | None = None
        for tenant, items in by_tenant.items():
            try:
                self._commit_of(tenant, items)
            except (sqlite3.OperationalError, OSError) as error:  # a full disk, a lock: it may pass
                failed = self._failure(tenant, error)
                self._drop_file(tenant)
                for one in reversed(items):
                    if isinstance(one, _Job):
                        _fail(one.done, failed)
                    else:
                        self._pending.appendleft(_Put(tenant, one))
            except Exception as error:
                failed = self._one_by_one(tenant, items) or failed
                log.warning("a batch of events was written one by one: %s", error)
        return failed

    def _one_by_one(self, tenant: str, items: list[Recorded | _Job]) -> StoreError | None:
        """What cannot be written at all, such as an event whose number is taken, must not hold up the rest."""
        failed: StoreError | None = None
        for item in items:
            try:
                self._commit_of(tenant, [item])
            except Exception as error:
                failed = self._failure(tenant, error)
                if isinstance(item, _Job):
                    _fail(item.done, failed)
        return failed

    @staticmethod
    def _failure(tenant: str, error: Exception) -> StoreError:
        failed = StoreError("events cannot be written", where=f"tenant {tenant!r}", found=str(error)[:300])
        failed.__cause__ = error
        log.error("%s", failed)
        return failed

    def _commit_of(self, tenant: str, items: list[Recorded | _Job]) -> None:
        connection = self._file(tenant)
        results: list[tuple[_Job, Any, Exception | None]] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows: list[Recorded] = []
            for item in items:
                if isinstance(item, _Job):
                    insert(connection, rows)
                    rows = []
                    results.append((item, *_tried(connection, item.work)))
                else:
                    rows.append(item)
            insert(connection, rows)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        for job, value, error in results:
            if error is None:
                _settle(job.done, value)
            else:
                _fail(job.done, error)

    def _file(self, tenant: str) -> sqlite3.Connection:
        connection = self._files.get(tenant)
        if connection is None:
            path = self.path_of(tenant)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            prepare(connection)
            self._files[tenant] = connection
            while len(self._files) > _MAX_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(tenant)
        return connection

    def _drop_file(self, tenant: str) -> None:
        connection = self._files.pop(tenant, None)
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


class RunRecord:
    """One run's events on their way to a store, numbered, and to whoever listens. store: None: nothing is kept."""

    def __init__(
        self,
        store: EventStore | None,
        tenant: str,
        run_id: str,
        seq: int = 0,
        listen: Callable[[Recorded], None] | None = None,
    ) -> None:
        self.store, self.tenant, self.run_id, self.seq, self.listen = store, tenant, run_id, seq, listen

    def add(self, event: Event) -> None:
        self.seq += 1
        if self.store is None and self.listen is None:
            return
        recorded = Recorded(self.run_id, self.seq, time.time(), event)
        if self.store is not None:
            self.store.put(self.tenant, recorded)
        if self.listen is not None:
            self.listen(recorded)

    def tool(self, what: str, *, call_id: str, name: str, run_id: str = "", **fields: Any) -> None:
        """What an executor tells: its `Record`."""
        if self.store is None and self.listen is None:
            self.seq += 1
        elif what == "tool_started":
            self.add(ToolStarted(call_id, name, fields.get("arguments")))
        elif what == "tool_finished":
            self.add(
                ToolFinished(
                    call_id,
                    name,
                    fields["status"],
                    fields["text"],
                    fields.get("error"),
                    fields.get("attempts", 0),
                    fields.get("cached", False),
                    fields.get("truncated", False),
                    fields.get("duration_ms", 0.0),
                    fields.get("approval_id"),
                )
            )
        elif what == "tool_retried":
            self.add(ToolRetried(call_id, name, fields["attempt"], fields["pause_s"], fields["text"]))
        else:
            self.add(ToolNoted(what, call_id, name, fields))

    async def flush(self) -> None:
        if self.store is not None:
            await self.store.flush()


def _tried(connection: sqlite3.Connection, work: Work) -> tuple[Any, Exception | None]:
    """What a job came to; a failure of it undoes what it did, and nothing else."""
    connection.execute("SAVEPOINT job")
    try:
        value = work(connection)
    except Exception as error:
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        if isinstance(error, sqlite3.OperationalError):
            raise
        return None, error
    connection.execute("RELEASE job")
    return value, None


def _empty() -> sqlite3.Connection:
    """What is read of a tenant that has recorded nothing."""
    connection = sqlite3.connect(":memory:")
    prepare(connection)
    return connection


def _settle(done: Future[Any], value: Any) -> None:
    if done.set_running_or_notify_cancel():
        done.set_result(value)


def _fail(done: Future[Any], error: Exception) -> None:
    if done.set_running_or_notify_cancel():
        done.set_exception(error)


def _close_at_exit(store: weakref.ref[EventStore]) -> None:
    found = store()
    if found is not None:
        found.close()


__all__ = ["EventStore", "Recorded", "RunRecord", "RunRow", "StoredEvent"]

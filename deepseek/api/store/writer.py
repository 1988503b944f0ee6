"""One thread that commits for everybody: what waits together is synced to disk together (group commit).

A request may not end before its usage is on disk, and a sync costs about a millisecond, so with one commit each a
thousand requests a second would need a second of syncing. Here a request alone is committed at once; while that sync
runs others gather, and go in the next. Each runs in a savepoint: one that fails takes back its own writes and no other's.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from deepseek.api.store.database import Database, store_errors
from deepseek.core.errors import StoreError

log = logging.getLogger("deepseek.api.store")

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

MAX_WAITING = 8192
GATHER_S = 0.02
WAIT_S = 15.0


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    future: Future[Any] | asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop | None
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Commits in groups, in the order given. Thread-safe. `close` commits what waits and ends the thread.

    gather_s: no group takes more work once its first has waited so long. max_waiting: more is refused with StoreError.
    """

    def __init__(self, database: Database, *, gather_s: float = GATHER_S, max_waiting: int = MAX_WAITING) -> None:
        self.database = database
        self._gather_s = gather_s
        self._queue: queue.Queue[_Job | None] = queue.Queue(max_waiting)
        self._closed = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="deepseek-database-write", daemon=True)
        self._thread.start()

    async def run(self, work: Work[T], *, timeout_s: float = WAIT_S) -> T:
        """`work(connection)`, returned once it is on disk. Raises what it raises, after taking back its writes.

        Cancelling the wait, or its time-out (StoreError), does not take back the work: it may yet be committed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Job(work, future, loop))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise StoreError("the database did not commit in time", expected=f"within {timeout_s:g} s") from None

    def submit(self, work: Work[T]) -> Future[T]:
        """As `run`, from any thread. The future may be cancelled until its group begins."""
        future: Future[T] = Future()
        self._put(_Job(work, future, None))
        return future

    def close(self) -> None:
        """Commit all that waits; later work is refused. Blocks. Idempotent."""
        with self._gate:
            first, self._closed = not self._closed, True
        if first:
            self._queue.put(None)
        self._thread.join()

    def _put(self, job: _Job) -> None:
        with self._gate:
            if self._closed:
                raise StoreError("the database is being closed")
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise StoreError("too many writes wait for the database", found=self._queue.maxsize) from None

    def _serve(self) -> None:
        connection: sa.Connection | None = None
        while (first := self._queue.get()) is not None:
            jobs: list[_Job] = []
            try:
                with store_errors():
                    connection = connection or self.database.writing.connect()
                    self._fill(connection, first, jobs)
                    _check_open(connection)
                    connection.commit()
                if self.database.dialect != "sqlite":
                    # Taken anew each time, a connection that a server has dropped is noticed before it is used. A file
                    # drops none, and taking one costs a fifth of a small commit.
                    _let_go(connection)
                    connection = None
            except BaseException as error:
                _let_go(connection)
                connection = None
                log.error("a commit of %d failed: %s", len(jobs), error)
                lost = error if isinstance(error, StoreError) else StoreError("the commit failed", found=error)
                for job in jobs or [first]:
                    job.result, job.error = None, job.error or lost
            _resolve(jobs or [first])
        _let_go(connection)

    def _fill(self, connection: sa.Connection, first: _Job, jobs: list[_Job]) -> None:
        """Run what waits, until nothing does or the first has waited long enough. Appends what it ran to `jobs`."""
        ends = time.monotonic() + self._gather_s
        job: _Job | None = first
        alone = self._queue.empty()
        while job is not None:
            jobs.append(job)
            if job.loop is None and isinstance(job.future, Future) and not job.future.set_running_or_notify_cancel():
                jobs.pop()
            elif alone:
                _run_alone(connection, job)
                return
            else:
                _run_beside_others(connection, job)
            job = self._next() if time.monotonic() < ends else None

    def _next(self) -> _Job | None:
        try:
            job = self._queue.get_nowait()
        except queue.Empty:
            return None
        if job is None:
            self._queue.put(None)  # the end of the thread's loop: for its next look
        return job


def _let_go(connection: sa.Connection | None) -> None:
    """Back to the pool, what was not committed taken back. One that cannot even do that is gone anyway."""
    if connection is not None:
        try:
            connection.close()
        except Exception as error:
            log.error("a connection to the database was lost: %s", error)


def _run_alone(connection: sa.Connection, job: _Job) -> None:
    try:
        with store_errors():
            job.result = job.work(connection)
    except BaseException as error:
        job.error = error
        connection.rollback()


def _run_beside_others(connection: sa.Connection, job: _Job) -> None:
    if not connection.in_transaction():
        connection.begin()
    # Said to the driver itself: a third of the time that a small row takes altogether would go into objects for it.
    driver: Any = connection.connection.dbapi_connection
    driver.execute("SAVEPOINT job").close()
    try:
        with store_errors():
            job.result = job.work(connection)
    except BaseException as error:
        job.error = error
        _check_open(connection)
        driver.execute("ROLLBACK TO SAVEPOINT job").close()
    driver.execute("RELEASE SAVEPOINT job").close()


def _check_open(connection: sa.Connection) -> None:
    """SQLite may end a transaction by itself (a full disk): then nothing of it counts, and nothing may follow in it."""
    driver = connection.connection.dbapi_connection
    if connection.in_transaction() and not getattr(driver, "in_transaction", True):
        raise StoreError("the database gave up the transaction")


def _resolve(jobs: list[_Job]) -> None:
    """Tell everybody, each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        if job.loop is not None:
            by_loop.setdefault(job.loop, []).append(job)
        elif not job.future.done():
            _tell(job)
    for loop, those in by_loop.items():
        try:
            loop.call_soon_threadsafe(_tell_all, those)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _tell_all(jobs: list[_Job]) -> None:
    for job in jobs:
        if not job.future.done():
            _tell(job)


def _tell(job: _Job) -> None:
    if job.error is not None:
        job.future.set_exception(job.error)
    else:
        job.future.set_result(job.result)

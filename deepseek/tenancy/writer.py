"""Threads that work at one SQLite file: one that writes, a few that read. Nobody else touches it, the event loop least.

The writing thread takes all that waits into one transaction, each job within a savepoint of its own, so that one that fails
undoes itself alone; a job is done when the transaction is on disk. Threads begin with the first job and end when idle.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from deepseek.tenancy.adhoc import QueryError

MAX_WAITING = 10_000
MAX_BATCH = 256
IDLE_S = 20.0


class Desk(Protocol):
    """What a thread works with: the connections that it opened."""

    trusted: sqlite3.Connection

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Job:
    """grouped: whether it may share a transaction. It runs with the thread's desk."""

    function: Callable[[Any], Any]
    grouped: bool = False
    result: Future[Any] = field(default_factory=Future)
    left: bool = False  # nobody waits for it


class Worker:
    """One or several threads that take jobs in order. desk: opens what a thread works with."""

    def __init__(self, name: str, desk: Callable[[], Desk], threads: int = 1) -> None:
        self._name = name
        self._desk = desk
        self._most = threads
        self._jobs: queue.Queue[Job | None] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._running: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def submit(self, job: Job) -> Job:
        """Raises QueryError where too many wait, or it is closed."""
        with self._lock:
            if self._closed:
                raise QueryError("the database is closed", kind="closed")
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                raise QueryError("the database is busy", kind="busy", found=f"{MAX_WAITING} jobs wait") from None
            if self._idle < self._jobs.qsize() and len(self._running) < self._most:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._running.add(thread)
                thread.start()
        return job

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish what waits, then end. Blocks, at most so long."""
        with self._lock:
            self._closed = True
            threads = list(self._running)
        for _ in threads:
            with contextlib.suppress(queue.Full):
                self._jobs.put(None, timeout=timeout_s)
        for thread in threads:
            thread.join(timeout_s)

    def _work(self) -> None:
        me = threading.current_thread()
        desk: Desk | None = None
        try:
            while batch := self._next():
                try:
                    desk = desk or self._desk()
                    _run(batch, desk)
                except BaseException as error:  # the file cannot be opened, or not even rolled back
                    for job in batch:
                        _finish(job, None, error)
        finally:
            with self._lock:
                self._running.discard(me)
            if desk is not None:
                desk.close()

    def _next(self) -> list[Job]:
        """Jobs that may share a transaction, or one that may not; none: to end."""
        first: Job | None = None
        with self._lock:
            self._idle += 1
        with contextlib.suppress(queue.Empty):
            first = self._jobs.get(timeout=IDLE_S)
        with self._lock:
            self._idle -= 1
            if first is None and not self._closed:
                # One may have come just now, and nobody was started for it.
                with contextlib.suppress(queue.Empty):
                    first = self._jobs.get_nowait()
            if first is None:
                self._running.discard(threading.current_thread())
                return []
        batch = [first]
        while first.grouped and self._most == 1 and len(batch) < MAX_BATCH:
            with self._jobs.mutex:
                following = self._jobs.queue[0] if self._jobs.queue else None
            if following is None or not following.grouped:
                break
            batch.append(following)
            self._jobs.get_nowait()
        return batch


def _run(batch: list[Job], desk: Desk) -> None:
    taken = [job for job in batch if not job.left and job.result.set_running_or_notify_cancel()]
    if not taken:
        return
    if not taken[0].grouped:
        _finish(taken[0], *_outcome(taken[0], desk))
        return
    connection = desk.trusted
    outcomes: list[tuple[Any, BaseException | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in taken:
            connection.execute("SAVEPOINT job")
            outcome = _outcome(job, desk)
            if outcome[1] is not None:
                connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            outcomes.append(outcome)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        busy = "locked" in str(error) or "busy" in str(error)
        failure = QueryError("nothing was written", kind="busy" if busy else "wrong", found=str(error)[:200])
        outcomes = [(None, failure)] * len(taken)
    for job, (value, failed) in zip(taken, outcomes, strict=True):
        _finish(job, value, failed)


def _outcome(job: Job, desk: Desk) -> tuple[Any, BaseException | None]:
    try:
        return job.function(desk), None
    except BaseException as error:  # of whatever kind: it is its caller's, and this thread serves others
        return None, error


def _finish(job: Job, value: Any, failure: BaseException | None) -> None:
    if job.result.done():
        return
    if failure is None:
        job.result.set_result(value)
    else:
        job.result.set_exception(failure)

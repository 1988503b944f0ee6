"""The ledger's way to disk where no budget is involved: rows that come while a commit runs go into the next one together,
as one statement, and all wait for one future.

A commit costs as much processor time as half a request. So when rows come fast, the first of a group waits a few
milliseconds for others; when they do not, it is written at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import sqlalchemy as sa

from deepseek.api.metering.claim import Claim, mark_lost, mark_settled, owe
from deepseek.api.metering.counters import Row, record
from deepseek.api.metering.patience import Work
from deepseek.api.metering.tables import usage
from deepseek.api.store.writer import WAIT_S, Writer
from deepseek.core.errors import StoreError

log = logging.getLogger("deepseek.api")


FAST_S = 0.0015
"""Rows come fast where there is less between them, on average."""
GATHER_S = 0.003
_REMEMBERED = 16
"""Rows over which that is averaged."""


class _Batch:
    __slots__ = ("claims", "late", "rows", "written")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.rows: list[Row] = []
        self.claims: list[Claim | None] = []  # of the row in the same place
        self.written: asyncio.Future[None] = loop.create_future()
        self.late: asyncio.TimerHandle | None = None


class Ledger:
    """Used from one event loop. again: takes work that must be tried later."""

    def __init__(self, writer: Writer, again: Callable[[Work[object]], None]) -> None:
        self._writer, self._again = writer, again
        self._gathering: _Batch | None = None
        self._gap_s, self._last = 1.0, 0.0
        self._lock = threading.Lock()

    def append(self, row: Row, claim: Claim | None = None) -> asyncio.Future[None]:
        """Done once the row is on disk; shared with other rows, so to be awaited behind a shield.

        It fails with StoreError where that could not be done, or not in time; the row is then tried again by itself.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._gap_s += (min(now - self._last, 0.05) - self._gap_s) / _REMEMBERED
        self._last = now
        with self._lock:
            batch = self._gathering
            new = batch is None
            if batch is None:
                batch = self._gathering = _Batch(loop)
            batch.rows.append(row)
            batch.claims.append(claim)
        if new and self._gap_s < FAST_S:
            loop.call_later(GATHER_S, self._submit, loop, batch)
        elif new:
            self._submit(loop, batch)
        return batch.written

    def _submit(self, loop: asyncio.AbstractEventLoop, batch: _Batch) -> None:
        def done(future: Future[None]) -> None:
            try:
                loop.call_soon_threadsafe(self._done, batch, None if future.cancelled() else future.exception())
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        try:
            self._writer.submit(lambda connection: self._write(connection, batch)).add_done_callback(done)
        except StoreError as error:
            with self._lock:
                self._gathering = None
            self._done(batch, error)
            return
        late = StoreError("the database did not commit in time", expected=f"within {WAIT_S:g} s")
        batch.late = loop.call_later(WAIT_S, self._done, batch, late)

    def _done(self, batch: _Batch, error: BaseException | None) -> None:
        if batch.late is not None:
            batch.late.cancel()
        if batch.written.done():
            return
        if error is None:
            batch.written.set_result(None)
            return
        log.error("usage of %d requests could not be written and is tried again: %s", len(batch.rows), error)
        for row, claim in zip(batch.rows, batch.claims, strict=True):
            owe(claim)
            self._again(partial(record_once, row=row, claim=claim))
        batch.written.set_exception(error)
        batch.written.exception()  # whether or not anybody waits, it has been told

    def _write(self, connection: sa.Connection, batch: _Batch) -> None:
        with self._lock:
            if self._gathering is batch:
                self._gathering = None
        record(connection, batch.rows)
        for claim in batch.claims:
            if claim is not None:
                mark_settled(connection, claim)


def record_once(connection: sa.Connection, row: Row, claim: Claim | None = None) -> None:
    """Append what may have been written already: a commit that nobody heard the end of."""
    known = sa.select(usage.c.id).where(usage.c.time == row["time"], usage.c.request_id == row["request_id"])
    if connection.execute(known).first() is None:
        record(connection, [row])
    if claim is not None:
        mark_lost(connection, claim)

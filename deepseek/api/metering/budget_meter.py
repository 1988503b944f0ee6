"""The meter of a server with a database: budgets that hold while tokens are generated, and a ledger of what was used.

    open    one commit    prompt + a slice of 256 tokens for each choice, on every budget that bounds the caller
    renew   beside it     the next slice, asked for when less than half a slice is left
    settle  one commit    what was used is charged and written down, the rest is given back

Whom no budget bounds has no lease: nothing happens for each token, and settling is one row in the next commit.
Whatever way a request ends, its lease is settled: at once, later if the disk refuses, or by the next server if this dies.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from deepseek.api.identity.caller import Caller
from deepseek.api.metering.account import BilledAccount
from deepseek.api.metering.budgets import NO_CAP, Budget, Budgets
from deepseek.api.metering.claim import claimed
from deepseek.api.metering.counters import (
    Grant,
    Refusal,
    Row,
    Terms,
    begin,
    open_lease,
    release_lease,
    renew_lease,
)
from deepseek.api.metering.exhausted import exhausted
from deepseek.api.metering.lease import TokenLease
from deepseek.api.metering.ledger import Ledger
from deepseek.api.metering.meter import Account, FreeAccount
from deepseek.api.metering.once import is_charged, once_of
from deepseek.api.metering.patience import Work, write_patiently
from deepseek.api.metering.prices import FREE, PriceList
from deepseek.api.metering.servers import HEARTBEAT_S, Presence
from deepseek.api.problems import Problem
from deepseek.api.store.database import Database
from deepseek.api.store.writer import WAIT_S, Writer
from deepseek.core.engine import Request
from deepseek.core.errors import ConfigError, StoreError

log = logging.getLogger("deepseek.api")

SLICE_TOKENS = 256
TICK_S = 1.0
SWEEP_S = 600.0
MAX_BEGUN = 100_000
MAX_UNWRITTEN = 100_000


class BudgetMeter:
    """Implements `deepseek.api.metering.meter.Meter`. Used from one event loop, between `start` and `stop`.

    clock: seconds since 1970. slice_tokens: of each choice's slices. Raises ConfigError for budgets in money without prices.
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        prices: PriceList | None = None,
        budgets: Budgets | None = None,
        *,
        slice_tokens: int = SLICE_TOKENS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if budgets is not None and budgets.count_money and (prices is None or not prices.by_model):
            raise ConfigError(
                "budgets in money need prices",
                where="prices",
                found="none",
                fix='add prices: {"*": {input: …, output: …}}',
            )
        self.writer = writer
        self.clock = clock
        self.presence = Presence(alone=database.dialect == "sqlite")
        self._prices = prices or PriceList()
        self._budgets = budgets or Budgets()
        self._slice = slice_tokens
        self.ledger = Ledger(writer, self.write_later)
        self._begun: set[str] = set()  # budgets whose rows are known to be there
        self._asking: dict[TokenLease, tuple[Terms, float]] = {}
        self._unasked: set[TokenLease] = set()  # of those, whose question the writer did not take
        self._asked = threading.Lock()
        self._unwritten: deque[Work[object]] = deque(maxlen=MAX_UNWRITTEN)
        self._care: asyncio.Task[None] | None = None
        self._loose: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Settle what servers that died left open, and look after this one's. Raises StoreError."""

        def arrive(connection: sa.Connection) -> None:
            now = self.clock()
            self.presence.announce(connection, now)
            self.presence.bury_the_dead(connection, now)
            self.presence.sweep(connection, now)

        await self.writer.run(arrive)
        self._care = asyncio.create_task(self._look_after())

    async def stop(self) -> None:
        """Once no request runs. What could not be written until now is tried a last time."""
        if self._care is not None:
            self._care.cancel()
            await asyncio.gather(self._care, *self._loose, return_exceptions=True)
            self._care = None
        try:
            await self._write_late()
            await self.writer.run(self.presence.leave)
        except StoreError as error:
            log.error("the meter could not write its last: %s", error)

    async def open(self, caller: Caller, request: Request, model: str, route: str) -> Account:
        """Raises Problem "budget-exhausted" or "unpriced-model", and StoreError."""
        now, once = self.clock(), once_of(request)
        if once is not None and await write_patiently(self.writer, partial(is_charged, once=once)):
            return FreeAccount()
        row: Row = {
            "request_id": request.id,
            "opened": now,
            "tenant": caller.tenant,
            "subject": caller.subject,
            "key_id": caller.key_id,
            "model": model,
            "route": route,
            "prompt_tokens": len(request.prompt_ids),
            "once": once,
        }
        price = self._prices.of(model)
        budgets = self._budgets.of(caller, now)
        if not budgets:
            return BilledAccount(self, row, price or FREE)
        if price is None and any(budget.money != NO_CAP for budget in budgets):
            raise Problem("unpriced-model", f"{model}: it has no price, and a budget in money bounds this caller.")
        n = request.sampling.n
        terms = Terms(
            secrets.token_hex(16),
            budgets,
            price or FREE,
            len(request.prompt_ids),
            0 if request.task == "embed" else request.sampling.max_tokens * n,
            self._slice * n,
        )
        claim = claimed()
        row |= {"id": terms.id, "server": self.presence.id}
        if claim is not None:
            row |= {"claim_id": claim.id, "claim_token": claim.token}
        found = await self._open_lease(terms, row)
        if isinstance(found, Refusal):
            raise exhausted(found, terms, now)
        lease = TokenLease(found, terms.slice_tokens, lambda: self._ask(terms, lease))
        return BilledAccount(self, row, terms.price, terms, lease)

    async def _open_lease(self, terms: Terms, row: Row) -> Grant | Refusal:
        new = [budget for budget in terms.budgets if budget.id not in self._begun]
        try:
            found = await write_patiently(self.writer, partial(_begin_and_open, terms=terms, row=row, new=new))
        except BaseException:
            # Nobody knows whether it was committed, and nobody would give it back. What follows is written after it.
            self.write_behind(partial(release_lease, lease_id=terms.id))
            raise
        if len(self._begun) > MAX_BEGUN:
            self._begun.clear()
        self._begun.update(budget.id for budget in new)
        return found

    def write_behind(self, work: Work[object]) -> None:
        """Hand over what must be written and what nobody waits for; tried again until it is."""
        try:
            self.writer.submit(work).add_done_callback(partial(self._written, work))
        except StoreError:
            self.write_later(work)

    def write_later(self, work: Work[object]) -> None:
        self._unwritten.append(work)

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it whether or not its caller stays to hear the end. Its error is the caller's business alone."""
        task = asyncio.create_task(work)
        self._loose.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._loose.discard(task)
        if not task.cancelled():
            task.exception()

    def _written(self, work: Work[object], future: Future[object]) -> None:
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            log.error("metering could not be written and is tried again: %s", error)
            self.write_later(work)

    def _ask(self, terms: Terms, lease: TokenLease) -> None:
        """Called on the engine's thread."""
        with self._asked:
            self._asking[lease] = (terms, time.monotonic())
        self._submit(terms, lease)

    def _submit(self, terms: Terms, lease: TokenLease) -> None:
        try:
            future = self.writer.submit(partial(renew_lease, terms=terms))
        except StoreError:
            with self._asked:
                self._unasked.add(lease)
            return
        future.add_done_callback(partial(self._renewed, lease))

    def _renewed(self, lease: TokenLease, future: Future[Grant]) -> None:
        """Called on the writer's thread."""
        error = None if future.cancelled() else future.exception()
        with self._asked:
            known = self._asking.get(lease)
            if future.cancelled() or error is not None:
                if known is not None:
                    self._unasked.add(lease)
            else:
                self._asking.pop(lease, None)
        if error is not None:
            log.error("a lease was not renewed: %s", error)
        elif not future.cancelled():
            lease.answer(future.result())

    async def _look_after(self) -> None:
        last_beat = last_sweep = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._ask_again()
                await self._write_late()
                now = time.monotonic()
                if not self.presence.alone and now - last_beat >= HEARTBEAT_S:
                    last_beat = now
                    await self.writer.run(self._beat)
                if now - last_sweep >= SWEEP_S:
                    last_sweep = now
                    await self.writer.run(lambda connection: self.presence.sweep(connection, self.clock()))
            except (StoreError, DBAPIError) as error:
                log.error("metering waits for the database: %s", error)
            except Exception:
                log.exception("metering's housekeeping failed")

    def _beat(self, connection: sa.Connection) -> None:
        self.presence.announce(connection, self.clock())
        self.presence.bury_the_dead(connection, self.clock())

    def _ask_again(self) -> None:
        """A stream must not wait for ever: what is not granted in time is not granted."""
        oldest = time.monotonic() - WAIT_S
        with self._asked:
            late = [lease for lease, (_, asked) in self._asking.items() if asked < oldest]
            for lease in late:
                del self._asking[lease]
            again = [(self._asking[lease][0], lease) for lease in self._unasked if lease in self._asking]
            self._unasked.clear()
        for lease in late:
            log.error("a lease was not renewed within %g s; its request ends with what it has", WAIT_S)
            lease.end()
        for terms, lease in again:
            self._submit(terms, lease)

    async def _write_late(self) -> None:
        for _ in range(len(self._unwritten)):
            work = self._unwritten.popleft()
            try:
                await write_patiently(self.writer, work)
            except BaseException:
                self._unwritten.append(work)
                raise


def _begin_and_open(connection: sa.Connection, terms: Terms, row: Row, new: list[Budget]) -> Grant | Refusal:
    for budget in new:
        begin(connection, budget)
    return open_lease(connection, terms, row)

"""One request's bill, from the lease it was opened with to the row in the ledger that it ends as."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from deepseek.api.metering.claim import Claim, claimed, mark_lost, mark_settled, owe
from deepseek.api.metering.counters import Row, Terms, release_lease, settle_lease, usage_row
from deepseek.api.metering.lease import TokenLease
from deepseek.api.metering.patience import write_patiently
from deepseek.api.metering.prices import Price
from deepseek.core.engine import Event, Finish, FinishReason, Lease, Ready, Tokens, Usage

if TYPE_CHECKING:
    from deepseek.api.metering.budget_meter import BudgetMeter

log = logging.getLogger("deepseek.api")

NOTHING = Usage(0, 0)
FAILURES = frozenset({"error", "cancelled"})


class BilledAccount:
    """Implements `deepseek.api.metering.meter.Account`. terms, lease: where a budget bounds it."""

    __slots__ = (
        "_cached",
        "_claim",
        "_delivered",
        "_ended",
        "_lease",
        "_meter",
        "_price",
        "_row",
        "_settling",
        "_since",
        "_started",
        "_terms",
    )

    def __init__(
        self, meter: BudgetMeter, row: Row, price: Price, terms: Terms | None = None, lease: TokenLease | None = None
    ) -> None:
        self._meter, self._row, self._price = meter, row, price
        self._terms, self._lease = terms, lease
        self._claim = claimed()
        self._since = time.monotonic()
        self._started = False
        self._delivered = self._cached = 0
        self._ended: Usage | None = None
        self._settling: asyncio.Future[None] | None = None

    @property
    def lease(self) -> Lease | None:
        """None, too, where nothing is generated."""
        return None if self._terms is None or self._terms.most == 0 else self._lease

    @property
    def limit(self) -> str | None:
        return None if self._lease is None else self._lease.limit

    def note(self, event: Event) -> None:
        if isinstance(event, Tokens):
            self._delivered += len(event.token_ids)
        elif isinstance(event, Ready):
            self._started, self._cached = True, event.cached_tokens
        elif isinstance(event, Finish):
            self._ended = event.usage

    async def settle(self, usage: Usage, reasons: tuple[FinishReason, ...]) -> None:
        """A request that never began (its deadline came first) is written down as having used nothing."""
        if self._settling is None:
            began = self._started or usage.completion_tokens > 0
            self._settling = self._settle(usage if began else NOTHING, reasons)
        # The commit may be shared, and counts in any case: who leaves does not cancel it.
        await asyncio.shield(self._settling)

    async def close(self) -> None:
        if self._settling is None:
            used = self._used()
            if self._started or used.completion_tokens:
                self._settling = self._settle(used, ("cancelled",))
            elif self._terms is not None:
                self._meter.write_behind(partial(release_lease, lease_id=self._terms.id))
        if self._settling is not None and not self._settling.done():
            await asyncio.wait((self._settling,))

    def _used(self) -> Usage:
        """Of a request that was cut short: what the engine counted, or the most that is known to have been generated."""
        if self._ended is not None:
            return self._ended
        generated = max(self._delivered, 0 if self._lease is None else self._lease.used)
        return Usage(self._row["prompt_tokens"], generated, self._cached)

    def _settle(self, usage: Usage, reasons: tuple[FinishReason, ...]) -> asyncio.Future[None]:
        claim = self._claim if usage.total_tokens else None
        if self._claim is not None and not FAILURES.isdisjoint(reasons):
            self._claim.failed = True
        # What was cut short is asked again, and that is charged for itself.
        once = self._row["once"] if usage.total_tokens and FAILURES.isdisjoint(reasons) else None
        row = usage_row(self._row, usage, self._price, ",".join(reasons), time.monotonic() - self._since, once)
        if self._terms is None:
            return self._meter.ledger.append(row, claim)
        return self._meter.keep(self._settle_lease(self._terms, row, claim))

    async def _settle_lease(self, terms: Terms, row: Row, claim: Claim | None) -> None:
        work = partial(_settle_and_mark, lease_id=terms.id, row=row, claim=claim)
        try:
            await write_patiently(self._meter.writer, work)
        except BaseException as error:
            log.error("%s: its usage could not be written and is tried again: %s", row["request_id"], error)
            owe(claim)
            self._meter.write_later(partial(_settle_late, lease_id=terms.id, row=row, claim=claim))
            raise


def _settle_and_mark(connection: sa.Connection, lease_id: str, row: Row, claim: Claim | None) -> None:
    if settle_lease(connection, lease_id, row) and claim is not None:
        mark_settled(connection, claim)


def _settle_late(connection: sa.Connection, lease_id: str, row: Row, claim: Claim | None) -> None:
    """What may have been settled already, by a commit that nobody heard the end of."""
    settle_lease(connection, lease_id, row)
    if claim is not None:
        mark_lost(connection, claim)

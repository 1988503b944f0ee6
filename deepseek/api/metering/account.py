"""One request's bill, from the lease it was opened with to the row in the ledger that it ends as."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from deepseek.api.metering.claim import Claim, claimed, mark_settled
from deepseek.api.metering.counters import Row, Terms, release_lease, settle_lease, usage_row
from deepseek.api.metering.lease import TokenLease
from deepseek.api.metering.patience import write_patiently
from deepseek.api.metering.prices import Price
from deepseek.core.engine import Event, FinishReason, Lease, Ready, Tokens, Usage

if TYPE_CHECKING:
    from deepseek.api.metering.budget_meter import BudgetMeter

log = logging.getLogger("deepseek.api")

NOTHING = Usage(0, 0)
FAILURES = frozenset({"error", "cancelled"})


class BilledAccount:
    """Implements `deepseek.api.metering.meter.Account`. terms, lease: where a budget bounds it."""

    __slots__ = (
        "_claim",
        "_delivered",
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
        self._delivered = 0
        self._settling: asyncio.Future[None] | None = None

    @property
    def lease(self) -> Lease | None:
        """None, too, where nothing is generated."""
        return None if self._terms is None or self._terms.most == 0 else self._lease

    def note(self, event: Event) -> None:
        if isinstance(event, Tokens):
            self._delivered += len(event.token_ids)
        elif isinstance(event, Ready):
            self._started = True

    async def settle(self, usage: Usage, reasons: tuple[FinishReason, ...]) -> None:
        """A request that never began (its deadline came first) is written down as having used nothing."""
        if self._settling is None:
            began = self._started or usage.completion_tokens > 0
            self._settling = self._settle(usage if began else NOTHING, reasons)
        # The commit may be shared, and counts in any case: who leaves does not cancel it.
        await asyncio.shield(self._settling)

    async def close(self) -> None:
        if self._settling is None:
            generated = max(self._delivered, 0 if self._lease is None else self._lease.used)
            if self._started or generated:
                self._settling = self._settle(Usage(self._row["prompt_tokens"], generated), ("cancelled",))
            elif self._terms is not None:
                self._meter.write_behind(partial(release_lease, lease_id=self._terms.id))
        if self._settling is not None and not self._settling.done():
            await asyncio.wait((self._settling,))

    def _settle(self, usage: Usage, reasons: tuple[FinishReason, ...]) -> asyncio.Future[None]:
        claim = self._claim if usage.total_tokens else None
        if self._claim is not None and not FAILURES.isdisjoint(reasons):
            self._claim.failed = True
        row = usage_row(self._row, usage, self._price, ",".join(reasons), time.monotonic() - self._since)
        if self._terms is None:
            return self._meter.ledger.append(row, claim)
        return self._meter.keep(self._settle_lease(self._terms, row, claim))

    async def _settle_lease(self, terms: Terms, row: Row, claim: Claim | None) -> None:
        work = partial(_settle_and_mark, lease_id=terms.id, row=row, claim=claim)
        try:
            await write_patiently(self._meter.writer, work)
        except BaseException as error:
            log.error("%s: its usage could not be written and is tried again: %s", row["request_id"], error)
            self._meter.write_later(work)
            raise


def _settle_and_mark(connection: sa.Connection, lease_id: str, row: Row, claim: Claim | None) -> None:
    if settle_lease(connection, lease_id, row) and claim is not None:
        mark_settled(connection, claim)

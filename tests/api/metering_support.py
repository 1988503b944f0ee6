"""What the tests of budgets, ledger and idempotency share: callers, an open database, a meter, and what stands in the tables."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from api_support import state_of
from starlette.datastructures import Headers

from deepseek.api import ServerState
from deepseek.api.idempotency_store import IdempotencyStore
from deepseek.api.identity.caller import EVERYTHING, Caller
from deepseek.api.metering.budget_meter import BudgetMeter
from deepseek.api.metering.budgets import BudgetConfig, Budgets
from deepseek.api.metering.prices import PriceConfig, PriceList
from deepseek.api.metering.report import UsageReports
from deepseek.api.metering.tables import budgets, leases, usage
from deepseek.api.problems import Problem
from deepseek.api.store.database import Database
from deepseek.api.store.writer import Writer
from deepseek.api.tiers import LOCAL
from deepseek.core.engine import Request
from deepseek.core.sampling import SamplingParams

MODEL = "deepseek-7b"
NOON = 1_764_072_000.0  # 2025-11-25 12:00:00 UTC


def caller(tenant: str = "acme", key: str = "k1", **fields: Any) -> Caller:
    return Caller(tenant, LOCAL, EVERYTHING, key, key_id=key, **fields)


def ask(request_id: str, prompt: int = 10, max_tokens: int = 1000, n: int = 1, **fields: Any) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, n=n)
    return Request(request_id, tuple(range(1, prompt + 1)), sampling, **fields)


def budget(scope: str = "key", period: str = "day", **fields: Any) -> BudgetConfig:
    return BudgetConfig.model_validate({"scope": scope, "period": period, **fields})


class ByHeader:
    """The caller that `x-caller: tenant/key` names; a request without one is refused."""

    async def identify(self, headers: Headers) -> Caller:
        named = headers.get("x-caller")
        if named is None:
            raise Problem("unauthenticated", "Say who you are.")
        tenant, _, key = named.partition("/")
        return caller(tenant, key)


@dataclass
class Books:
    """A database file and what is written in it."""

    database: Database
    writer: Writer

    def rows(self, table: sa.Table) -> list[Any]:
        query = sa.select(table).order_by(*table.primary_key)
        return list(self.database.read_now(lambda connection: connection.execute(query).all()))

    @property
    def ledger(self) -> list[Any]:
        return self.rows(usage)

    @property
    def tokens(self) -> int:
        """Of the whole ledger."""
        return sum(row.prompt_tokens + row.completion_tokens for row in self.ledger)

    def balance(self) -> dict[str, tuple[int, int]]:
        """Tokens spent and reserved, by scope and period (of one holder each)."""
        found = {}
        for row in self.rows(budgets):
            scope, _, holder, period, since = row.id.split("/")
            found[f"{scope} {holder} {period} {since}"] = (row.tokens_spent, row.tokens_reserved)
        return found

    @property
    def open_leases(self) -> int:
        return len(self.rows(leases))

    def meter(
        self, configs: Sequence[BudgetConfig] = (), prices: dict[str, PriceConfig] | None = None, **fields: Any
    ) -> BudgetMeter:
        return BudgetMeter(self.database, self.writer, PriceList.of_config(prices or {}), Budgets(configs), **fields)

    def state(self, engine: Any, meter: BudgetMeter, **settings: Any) -> ServerState:
        state = state_of(engine, **settings)
        state.meter, state.identifier = meter, ByHeader()
        state.idempotency = IdempotencyStore(self.writer, meter.presence)
        state.usage = UsageReports(self.database)
        return state


@contextmanager
def opened(path: Path | str) -> Iterator[Books]:
    database = Database.open(str(path))
    writer = Writer(database)
    try:
        yield Books(database, writer)
    finally:
        writer.close()
        database.close()


@asynccontextmanager
async def running(meter: BudgetMeter) -> AsyncIterator[BudgetMeter]:
    await meter.start()
    try:
        yield meter
    finally:
        await meter.stop()

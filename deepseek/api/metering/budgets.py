"""Budgets: how much a key or a tenant may use in a day, a month (both in UTC) or altogether, in tokens, money or both.

Every budget that applies to a caller must have room. A budget by name stands in for the one for everybody ("*") of the
same scope and period. A request counts, whole, in the period in which it was admitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepseek.api.identity.caller import Caller
from deepseek.api.metering.prices import Money, nano_of
from deepseek.core.errors import ConfigError

BudgetScope = Literal["key", "tenant"]
Period = Literal["day", "month", "total"]

EVERYBODY = "*"
NO_CAP = 2**62
"""Of what nothing bounds; a database's 64-bit integer still holds the sum of two."""
DAY_S = 86400
MAX_HOLDER_CHARS = 200


class BudgetConfig(BaseModel):
    """One budget. name: a key's public id (or a token's subject), or a tenant; "*": each of them has one of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: BudgetScope
    name: Annotated[str, Field(min_length=1)] = EVERYBODY
    period: Period
    tokens: Annotated[int, Field(ge=0, lt=NO_CAP, description="Of prompts and completions together.")] | None = None
    money: Annotated[Money | None, Field(description="In the currency of the prices.")] = None

    @model_validator(mode="after")
    def _caps_something(self) -> BudgetConfig:
        if self.tokens is None and self.money is None:
            raise ValueError("a budget needs tokens, money or both")
        return self


@dataclass(frozen=True, slots=True)
class Budget:
    """One holder's budget in one period.

    id: of its row in the database. since, until: seconds since 1970. tokens, money: caps; NO_CAP where there is none;
    money in nano-units.
    """

    id: str
    scope: BudgetScope
    tenant: str
    holder: str
    period: Period
    since: float
    until: float | None
    tokens: int
    money: int

    @property
    def kind(self) -> str:
        """As answers name it that it ended: "tenant/month"."""
        return f"{self.scope}/{self.period}"

    def __str__(self) -> str:
        whose = f"{self.scope} {self.holder if self.scope == 'key' else self.tenant}"
        if self.period == "total":
            return f"the budget of {whose}"
        began = datetime.fromtimestamp(self.since, UTC)
        return f"the budget of {whose} for {began.strftime('%Y-%m-%d' if self.period == 'day' else '%Y-%m')}"


class Budgets:
    """All that are configured. Raises ConfigError for two of the same scope, name and period."""

    def __init__(self, configs: Sequence[BudgetConfig] = ()) -> None:
        self._configs: dict[tuple[BudgetScope, Period, str], BudgetConfig] = {}
        for config in configs:
            key = (config.scope, config.period, config.name)
            if key in self._configs:
                raise ConfigError(
                    "two budgets for the same",
                    where="budgets",
                    found=f"scope {config.scope}, name {config.name}, period {config.period}",
                    fix="merge them",
                )
            self._configs[key] = config
        self._kinds = sorted({key[:2] for key in self._configs})

    @property
    def count_money(self) -> bool:
        return any(config.money is not None for config in self._configs.values())

    def of(self, caller: Caller, now: float) -> tuple[Budget, ...]:
        """Those that bound the caller at this time (seconds since 1970), in ascending order of id."""
        if not self._kinds:
            return ()
        found = []
        for scope, period in self._kinds:
            holder = caller.subject if scope == "key" else caller.tenant
            config = self._configs.get((scope, period, holder)) or self._configs.get((scope, period, EVERYBODY))
            if config is not None:
                found.append(_budget(config, caller.tenant, holder, now))
        # In one order everywhere: two servers that lock the same rows never wait for each other in a circle.
        return tuple(sorted(found, key=lambda budget: budget.id))


def _budget(config: BudgetConfig, tenant: str, holder: str, now: float) -> Budget:
    since, until = period_of(config.period, now)
    shown = quote(holder if len(holder) <= MAX_HOLDER_CHARS else hashlib.sha256(holder.encode()).hexdigest(), safe="")
    return Budget(
        f"{config.scope}/{quote(tenant, safe='')}/{shown}/{config.period}/{int(since)}",
        config.scope,
        tenant,
        holder,
        config.period,
        since,
        until,
        NO_CAP if config.tokens is None else config.tokens,
        NO_CAP if config.money is None else nano_of(config.money),
    )


def period_of(period: Period, now: float) -> tuple[float, float | None]:
    """Beginning and end of the period around `now`, in seconds since 1970; a total never ends."""
    if period == "total":
        return 0.0, None
    if period == "day":
        since = now // DAY_S * DAY_S
        return since, since + DAY_S
    at = datetime.fromtimestamp(now, UTC)
    following = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
    return datetime(at.year, at.month, 1, tzinfo=UTC).timestamp(), datetime(*following, 1, tzinfo=UTC).timestamp()

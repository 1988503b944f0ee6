"""What tokens cost, in whole billionths of the operator's currency, so that sums are exact.

    cost = ceil((uncached * input + cached * cached_input + completion * output) / 1,000,000)   nano-units

A price is configured per million tokens, in a currency that only the operator knows. Rounding up happens once for a
request, so a request that may grow token by token never costs more than what was set aside for its last token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepseek.core.engine import Usage
from deepseek.core.errors import ConfigError

NANO = 10**9
"""Parts of one unit of money."""
MILLION = 1_000_000
ANY_MODEL = "*"

Money = Annotated[Decimal, Field(ge=0, lt=10**9, max_digits=18, decimal_places=9, allow_inf_nan=False)]
"""Below 10^9, so that sums in nano-units fit a database's 64-bit integers, with at most nine places."""


class PriceConfig(BaseModel):
    """The price of one model, per million tokens. cached_input: of prompt tokens found in the prefix cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Money
    output: Money
    cached_input: Annotated[Money | None, Field(description="Default: as input.")] = None

    @model_validator(mode="after")
    def _cached_is_no_dearer(self) -> PriceConfig:
        # What a request may cost is set aside before anyone knows what the cache holds.
        if self.cached_input is not None and self.cached_input > self.input:
            raise ValueError(f"cached_input is at most input, {self.input}")
        return self


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-units per million tokens."""

    input: int = 0
    cached_input: int = 0
    output: int = 0

    def cost(self, usage: Usage) -> int:
        """Nano-units, rounded up."""
        uncached = usage.prompt_tokens - usage.cached_tokens
        total = uncached * self.input + usage.cached_tokens * self.cached_input + usage.completion_tokens * self.output
        return -(-total // MILLION)

    def most(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Nano-units that so many tokens cost at most: as if nothing were cached."""
        return -(-(prompt_tokens * self.input + completion_tokens * self.output) // MILLION)

    def completion_within(self, prompt_tokens: int, nano: int) -> int | None:
        """How many completion tokens `most` allows for this money; negative if not even the prompt, None if any number."""
        left = nano * MILLION - prompt_tokens * self.input
        if self.output == 0:
            return None if left >= 0 else -1
        return left // self.output if left >= 0 else -1


FREE = Price()


def require_prices(
    prices: Mapping[str, PriceConfig], models: Sequence[str], *, for_money: bool, where: str
) -> list[str]:
    """Of the names that are served, those that cost nothing because nobody set a price, where others have one.

    for_money: whether budgets in money are configured, under which such a model could only be refused. Raises ConfigError
    then.
    """
    unpriced = [] if ANY_MODEL in prices else [name for name in models if name not in prices]
    if unpriced and for_money:
        raise ConfigError(
            "budgets in money are configured, and this model has no price",
            where=f"{where}: prices",
            found=", ".join(prices) or "none",
            expected=", ".join(unpriced),
            fix=f'add {unpriced[0]}: {{input: …, output: …}}, zero if it is free, or "{ANY_MODEL}" for all others',
        )
    return unpriced if prices else []


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices by the name a client asks for; "*" is the price of every name that has none of its own."""

    by_model: Mapping[str, Price] = field(default_factory=dict)

    @classmethod
    def of_config(cls, configs: Mapping[str, PriceConfig]) -> PriceList:
        return cls(
            {
                name: Price(
                    nano_of(config.input),
                    nano_of(config.input if config.cached_input is None else config.cached_input),
                    nano_of(config.output),
                )
                for name, config in configs.items()
            }
        )

    def of(self, model: str) -> Price | None:
        """None for a model that nobody set a price for."""
        return self.by_model.get(model) or self.by_model.get(ANY_MODEL)


def nano_of(amount: Decimal) -> int:
    """Exact for amounts with at most nine places."""
    return int(amount * NANO)


def decimal_of(nano: int) -> str:
    """As people write it: no exponent, no trailing zeros. 1500000000 -> "1.5"."""
    sign, (whole, rest) = "-" if nano < 0 else "", divmod(abs(nano), NANO)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")

"""Bounds on one run, and what has been spent of them.

They are looked at before each turn of the model and each step of calls. What is under way is bounded too: a turn may only
generate what tokens and money leave, and turns and calls end at the run's deadline. The prompt of a turn is paid for
whatever it costs, so tokens and money can be passed by one turn's prompt.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from deepseek.core.engine import Usage
from deepseek.core.errors import ConfigError

Limit = Literal["steps", "calls", "tokens", "time", "money", "corrections", "length", "budget"]
"""What stopped a run. length: an answer was longer than the model may write; budget: its lease of tokens was used up."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million tokens, in any currency. cached_input: of prompt tokens found in a cache; None: as the others."""

    input: float
    output: float
    cached_input: float | None = None

    def of(self, usage: Usage) -> float:
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = usage.prompt_tokens - usage.cached_tokens
        spent = fresh * self.input + usage.cached_tokens * cached + usage.completion_tokens * self.output
        return spent / 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no bound.

    steps: turns of the model. calls: of tools. tokens: prompts and completions together. seconds: while it runs, what it
    waits for a person not counted. cost: in the currency of the prices. corrections: turns in a row that came to nothing
    by the model's own fault (a call that does not fit, an answer of the wrong form). model_retries: how often a turn is
    asked for again when the model does not answer. replans: new plans after failures.
    """

    steps: int = 32
    calls: int | None = 512
    tokens: int | None = None
    seconds: float | None = 600.0
    cost: float | None = None
    corrections: int = 4
    model_retries: int = 2
    replans: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name in ("corrections", "model_retries", "replans", "calls") else None
            if value is not None and (value < 0 or (least is None and value <= 0)):
                raise ConfigError("out of range", where=f"limits.{name}", found=value, expected="a positive number")


@dataclass(slots=True)
class Spent:
    """What a run has used, with what the agents that it asked have."""

    steps: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    parent: Spent | None = field(default=None, repr=False, compare=False)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.completion_tokens, self.cached_tokens)

    def add(self, usage: Usage, cost: float) -> None:
        spent: Spent | None = self
        while spent is not None:
            spent.prompt_tokens += usage.prompt_tokens
            spent.completion_tokens += usage.completion_tokens
            spent.cached_tokens += usage.cached_tokens
            spent.cost += cost
            spent = spent.parent

    def reached(self, limits: Limits, seconds: float) -> Limit | None:
        """The first limit that keeps it from another turn. seconds: spent, with what is under way."""
        if self.steps >= limits.steps:
            return "steps"
        if limits.seconds is not None and seconds >= limits.seconds:
            return "time"
        if limits.tokens is not None and self.tokens >= limits.tokens:
            return "tokens"
        if limits.cost is not None and self.cost >= limits.cost:
            return "money"
        return None

    def output_tokens_left(self, limits: Limits, prices: Prices | None) -> int | None:
        """How many tokens the next turn may generate by tokens and money; None: no bound; at least 1."""
        left: list[int] = []
        if limits.tokens is not None:
            left.append(limits.tokens - self.tokens)
        if limits.cost is not None and prices is not None and prices.output > 0:
            left.append(int((limits.cost - self.cost) / prices.output * 1_000_000))
        return max(1, min(left)) if left else None

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _COUNTED}


_COUNTED = ("steps", "calls", "prompt_tokens", "completion_tokens", "cached_tokens", "cost", "seconds")

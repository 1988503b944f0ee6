"""Who gives way when there is too much: one limit on choices running at once, divided between the tiers.

Each tier has a share of the limit that is always its own. What it does not use is lent to the others. When the limit is
reached, a tier above its share is refused and one below it is not; shortly before, the lower tiers already may borrow
nothing more, so that the higher ones find room at once. A tier that has neither a rate nor a dynamic limit (a server
without keys) is counted and never refused. A contract gives one tenant a floor and a ceiling of its own.

The refusal comes before a body is read (`check`) and again when the request is complete (`enter`), both long before the
engine's own queue is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from deepseek.api.identity.caller import Caller
from deepseek.api.limits.config import DynamicConfig
from deepseek.api.limits.gradient import Gradient2
from deepseek.api.problems import Problem, retry_after
from deepseek.api.tiers import Tier
from deepseek.core.engine import Request


class Partition:
    """One tier's part. requests, choices: in flight. shed: refused since the start. reserve: of the limit, what this
    tier may not borrow."""

    __slots__ = ("choices", "limited", "priority", "requests", "reserve", "share", "shed")

    def __init__(self, tier: Tier) -> None:
        self.limited = tier.requests_per_second is not None or tier.dynamic
        self.priority = tier.priority
        self.share = tier.share
        self.reserve = 0.0
        self.requests = self.choices = self.shed = 0


class Overload:
    """All requests in flight of one server. Used from one event loop; nothing here waits.

    tiers: those to divide the limit between from the start; others are added when they first appear.
    clock: monotonic seconds.
    """

    def __init__(
        self, config: DynamicConfig | None, tiers: Iterable[Tier] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.law = None if config is None else Gradient2(config)
        self.clock = clock
        self.partitions: dict[str, Partition] = {}
        self._headroom = config.headroom if config else 0.0
        self._contracts = config.contracts if config else {}
        self._held = dict.fromkeys(self._contracts, 0)  # choices in flight of each tenant that has a contract
        self._choices = 0
        self._shares = 0.0
        self.know(tiers)

    def know(self, tiers: Iterable[Tier]) -> None:
        """Keep a share for these tiers from now on."""
        self.partitions |= {tier.name: Partition(tier) for tier in tiers if tier.name not in self.partitions}
        limited = [partition for partition in self.partitions.values() if partition.limited]
        self._shares = sum(partition.share for partition in limited)
        ranks = sorted({partition.priority for partition in limited})
        for partition in limited:
            partition.reserve = self._headroom * ranks.index(partition.priority) / max(1, len(ranks) - 1)

    def partition_of(self, tier: Tier) -> Partition:
        partition = self.partitions.get(tier.name)
        if partition is None:
            self.know((tier,))
            partition = self.partitions[tier.name]
        return partition

    def check(self, caller: Caller, *, waits: bool = False) -> None:
        """Raises Problem "overloaded" if a request of this caller had to be refused now. waits: it will ask again, and is
        not counted as refused."""
        if self.law is None:
            return
        partition = self.partition_of(caller.tier)
        contract = self._contracts.get(caller.tenant)
        if contract is not None:
            held = self._held[caller.tenant]
            if held >= contract.ceiling:
                partition.shed += not waits
                raise self._refusal(f"The contract of this tenant has room for {contract.ceiling} answers at once.")
            if held < contract.floor:
                return
        if not partition.limited or self._choices < self.law.limit * (1 - partition.reserve):
            return
        if partition.choices < self.law.limit * partition.share / self._shares:
            return
        partition.shed += not waits
        raise self._refusal(f"The server is busy, and tier {caller.tier.name} already has more than its share.")

    def enter(self, caller: Caller, request: Request, *, waits: bool = False) -> InFlight:
        """Count the request until its `leave`. Raises as `check`."""
        self.check(caller, waits=waits)
        partition = self.partition_of(caller.tier)
        choices = request.sampling.n
        self._choices += choices
        partition.choices += choices
        partition.requests += 1
        if caller.tenant in self._held:
            self._held[caller.tenant] += choices
        return InFlight(self, partition, caller.tenant, choices, len(request.prompt_ids))

    def _refusal(self, detail: str) -> Problem:
        assert self.law is not None
        return Problem("overloaded", detail, headers=retry_after(self.law.wait_s))

    def _first_token(self, queued_s: float, service_s: float, prompt_tokens: int) -> None:
        if self.law is not None:
            self.law.observe(self.clock(), queued_s, service_s, prompt_tokens, self._choices)

    def _never_served(self, waited_s: float, prompt_tokens: int) -> None:
        # If everybody gave up in the queue there would be no first token to learn from.
        usual = 0.0 if self.law is None else self.law.expected_s(prompt_tokens)
        if usual and waited_s > usual:
            self._first_token(waited_s, usual, prompt_tokens)

    def _left(self, partition: Partition, tenant: str, choices: int) -> None:
        self._choices -= choices
        partition.choices -= choices
        partition.requests -= 1
        if tenant in self._held:
            self._held[tenant] -= choices


class InFlight:
    """One request, from its admission to its end, and what its first token says about the engine."""

    __slots__ = (
        "_choices",
        "_overload",
        "_partition",
        "_prompt_tokens",
        "_queued_s",
        "_since",
        "_taken_up",
        "_tenant",
        "seen",
    )

    def __init__(self, overload: Overload, partition: Partition, tenant: str, choices: int, prompt_tokens: int) -> None:
        self._overload, self._partition, self._tenant = overload, partition, tenant
        self._choices, self._prompt_tokens = choices, prompt_tokens
        self._queued_s = 0.0
        self._since: float | None = None
        self._taken_up = False
        self.seen = False
        """Whether its first result has come: text, an embedding, its prompt's scores, or an end without any of these."""

    def submitted(self) -> None:
        """The engine has the request."""
        self._since = self._overload.clock()

    def ready(self, queued_s: float) -> None:
        """The engine has begun with it."""
        self._queued_s = queued_s
        self._taken_up = True

    def first_result(self) -> None:
        if self.seen or self._since is None:
            return
        self.seen = True
        waited_s = self._overload.clock() - self._since
        self._overload._first_token(self._queued_s, waited_s - self._queued_s, self._prompt_tokens)

    def leave(self) -> None:
        """It has ended, however. To be called once."""
        if not self.seen and not self._taken_up and self._since is not None:
            self._overload._never_served(self._overload.clock() - self._since, self._prompt_tokens)
        self._overload._left(self._partition, self._tenant, self._choices)

"""Request rates: the question every request asks before anything is read of it, and what its answer says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from deepseek.api.identity.caller import Caller


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one more request may pass. limit, remaining: requests of a burst; None where nothing is limited.

    reset_s: until the burst is whole again. retry_s: until one more would pass, where this one may not.
    """

    allowed: bool
    limit: int | None = None
    remaining: int = 0
    reset_s: float = 0.0
    retry_s: float = 0.0

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As OpenAI names them."""
        if self.limit is None:
            return []
        return [
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % self.remaining),
            (b"x-ratelimit-reset-requests", b"%dms" % math.ceil(self.reset_s * 1000)),
        ]

    def retry_headers(self) -> dict[str, str]:
        """When to come again: whole seconds, rounded up (RFC 9110 section 10.2.3), and the milliseconds that OpenAI's
        clients look at first."""
        return {
            "Retry-After": str(max(1, math.ceil(self.retry_s))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_s * 1000))),
        }


class RateLimiter(Protocol):
    """Counts requests of each `caller.subject` against its tier's rate."""

    @property
    def faults(self) -> int:
        """Verdicts, since the start, that were given without the store that all replicas share."""
        ...

    async def take(self, caller: Caller) -> Verdict: ...

    async def close(self) -> None: ...


class Unlimited:
    faults = 0

    async def take(self, caller: Caller) -> Verdict:
        return _PASS

    async def close(self) -> None:
        return


_PASS = Verdict(True)

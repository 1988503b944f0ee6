"""The generic cell rate algorithm: a rate with a burst, kept as one number for each subject.

The number is when the bucket will be whole again (ITU-T I.371 calls it the theoretical arrival time). A request moves
it on by the spacing between two requests, and passes while it is not further ahead of now than the burst. Compared with
a window that is counted and reset, nobody can send two bursts around its edge; compared with a token bucket, there is
nothing to refill.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from deepseek.api.identity.caller import Caller
from deepseek.api.limits.rate import Verdict
from deepseek.api.tiers import Tier

NS = 1_000_000_000


def spacing_and_burst(tier: Tier, unit: int = NS) -> tuple[int, int]:
    """Of a tier with a rate: time between two requests at that rate, and how far ahead of it one may be.

    In whole parts of a second, by default nanoseconds. A burst holds at least one request, or none would ever pass.
    """
    assert tier.requests_per_second is not None
    spacing = max(1, round(unit / tier.requests_per_second))
    return spacing, max(spacing, round(tier.burst_s * unit))


class LocalLimiter:
    """Counts in this process. `clock`: monotonic nanoseconds.

    Memory: one entry for each subject that has asked within its last burst, and at most as many again that are not
    cleared away yet.
    """

    faults = 0

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._whole_at: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._whole_at)

    async def take(self, caller: Caller) -> Verdict:
        return self.decide(caller)

    async def close(self) -> None:
        return

    def decide(self, caller: Caller) -> Verdict:
        """`take`, without waiting for anything."""
        if caller.tier.requests_per_second is None:
            return Verdict(True)
        now = self._clock()
        spacing, burst = spacing_and_burst(caller.tier)
        self._forget(now)
        whole_at = max(now, self._whole_at.get(caller.subject, now))
        wait = whole_at + spacing - burst - now
        if wait > 0:
            return Verdict(False, burst // spacing, 0, (whole_at - now) / NS, wait / NS)
        self._whole_at[caller.subject] = whole_at = whole_at + spacing
        return Verdict(True, burst // spacing, (burst - (whole_at - now)) // spacing, (whole_at - now) / NS)

    def _forget(self, now: int) -> None:
        # Two are looked at for each that may be added, in turn, so the rest of the table is never walked at once.
        for _ in range(min(2, len(self._whole_at))):
            subject, whole_at = self._whole_at.popitem(last=False)
            if whole_at > now:
                self._whole_at[subject] = whole_at

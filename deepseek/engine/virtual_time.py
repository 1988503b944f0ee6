"""A clock for tests in which nothing really waits: time jumps to whoever wants to wake next."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class VirtualTime:
    """A clock that jumps: when everything else waits, the earliest sleeper's time has come.

    `now` and `sleep` go where `time.monotonic` and `asyncio.sleep` would.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._orders = count()
        self._driver: asyncio.Task[None] | None = None

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + max(0.0, seconds), next(self._orders), woken))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())
        await woken

    async def _drive(self) -> None:
        while self._sleepers:
            # Let whoever can run do so first: they may want to wake earlier than those asleep.
            for _ in range(_SETTLING_TURNS):
                await asyncio.sleep(0)
            due, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                self._now = max(self._now, due)
                woken.set_result(None)


_SETTLING_TURNS = 25

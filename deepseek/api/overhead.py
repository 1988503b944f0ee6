"""How much of a request's time is ours: all of it, less what it spent in the engine and waiting for the network.

A context variable carries the clock of the request at hand, so that whatever waits for something else can say so
without being told whose request it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Overhead:
    """One request's clock, on time.perf_counter, in seconds. While any part of it is away, its time is not ours."""

    __slots__ = ("_absent_s", "_arrived", "_away", "_left", "generated")

    def __init__(self, arrived: float) -> None:
        self._arrived = arrived
        self._absent_s = 0.0
        self._away = 0
        self._left = 0.0
        self.generated = False
        """Whether the request reached the engine."""

    def leave(self) -> None:
        """From now on it waits for something that is not ours, until `back`."""
        if not self._away:
            self._left = time.perf_counter()
        self._away += 1

    def back(self) -> None:
        self._away -= 1
        if not self._away:
            self._absent_s += time.perf_counter() - self._left

    @contextmanager
    def away(self) -> Iterator[None]:
        """While this lasts, it waits for something that is not ours."""
        self.leave()
        try:
            yield
        finally:
            self.back()

    def seconds(self) -> float:
        """So far."""
        now = time.perf_counter()
        return max(0.0, now - self._arrived - self._absent_s - (now - self._left if self._away else 0.0))


OVERHEAD: ContextVar[Overhead | None] = ContextVar("overhead", default=None)

"""When a plugin that answers no more is left alone: a circuit breaker, closed, open, half open (Nygard, Release It!, 5.2).

It counts time-outs alone. What a plugin raises may be the fault of one caller's text, and must not stop it for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

THRESHOLD = 3
"""Time-outs in a row that open it."""
OPEN_S = 10.0
"""Until one call is let through to try."""


class Breaker:
    """Used from one event loop. clock: monotonic, in seconds."""

    __slots__ = ("_clock", "_row", "_trying", "_until")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._row = 0
        self._until = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        return self._row >= THRESHOLD

    def lets_through(self) -> bool:
        """Whether to make this call. One that is made must be followed by `answered`, `timed_out` or `gave_up`."""
        if not self.open:
            return True
        if self._trying or self._clock() < self._until:
            return False
        self._trying = True
        return True

    def answered(self) -> None:
        """The call came back, with whatever."""
        self._row, self._trying = 0, False

    def timed_out(self) -> None:
        self._row, self._trying = self._row + 1, False
        if self.open:
            self._until = self._clock() + OPEN_S

    def gave_up(self) -> None:
        """The caller went away before anybody could tell."""
        self._trying = False

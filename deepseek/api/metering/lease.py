"""The lease that the engine sees: how many tokens are set aside for a request, asking ahead for more as it generates.

The engine calls `use` from its own thread after every step, so nothing here waits: where less than half a slice is left
the next one is asked for, and the answer comes on the writer's thread once it is on disk. What the engine may generate
never exceeds what a crash would charge.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from deepseek.api.metering.counters import Grant

log = logging.getLogger("deepseek.api")


class TokenLease:
    """Implements `deepseek.core.engine.Lease`. `ask` is called, from any thread, when more is wanted; it must not block,
    and somebody must call `answer` in the end, once for each time."""

    __slots__ = ("_ask", "_asking", "_final", "_granted", "_lock", "_low", "_watchers", "limit", "used")

    def __init__(self, grant: Grant, slice_tokens: int, ask: Callable[[], None]) -> None:
        self._granted, self._final = grant.granted, grant.final
        self.limit = grant.limit
        self._low = slice_tokens // 2
        self._ask = ask
        self._asking = False
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self.used = 0

    @property
    def granted(self) -> int:
        return self._granted

    @property
    def final(self) -> bool:
        return self._final

    def use(self, tokens: int) -> None:
        self.used = tokens
        if self._final or self._granted - tokens > self._low:
            return
        with self._lock:
            if self._final or self._asking:
                return
            self._asking = True
        self._ask()

    def watch(self, changed: Callable[[], None]) -> None:
        with self._lock:
            self._watchers.append(changed)

    def answer(self, grant: Grant) -> None:
        """What was asked for, or as much of it as there is. A lease that is final stays as it is."""
        with self._lock:
            self._asking = False
            if self._final:
                return
            self.limit = grant.limit
            self._granted = max(self._granted, grant.granted)
            self._final = grant.final
            watchers = tuple(self._watchers)
        for changed in watchers:
            try:
                changed()
            except Exception:
                log.exception("a lease's watcher failed")

    def end(self) -> None:
        """Grant no more: the request must do with what it has."""
        self.answer(Grant(0, True))

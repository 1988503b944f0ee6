"""Leases for tests: one that is told what to allow, one that comes in slices and late, and many on one budget."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class GivenLease:
    """Allows what a test gives it, and checks what the engine tells it."""

    def __init__(self, granted: int = 0, final: bool = False) -> None:
        self.granted, self.final = granted, final
        self.used: list[int] = []
        self.watchers: list[Callable[[], None]] = []

    def use(self, tokens: int) -> None:
        assert (self.used[-1] if self.used else 0) < tokens <= self.granted
        self.used.append(tokens)

    def watch(self, changed: Callable[[], None]) -> None:
        self.watchers.append(changed)

    def give(self, more: int, final: bool = False) -> None:
        self.granted += more
        self.final = final
        for changed in self.watchers:
            changed()


class HungryLease(GivenLease):
    """Queues itself up when its tokens are used up, for a thread that then gives more."""

    def __init__(self, granted: int, queue: SimpleQueue[HungryLease | None]) -> None:
        super().__init__(granted)
        self._queue = queue

    def use(self, tokens: int) -> None:
        super().use(tokens)
        self._ask_if_empty(tokens)

    def watch(self, changed: Callable[[], None]) -> None:
        super().watch(changed)
        self._ask_if_empty(0)

    def _ask_if_empty(self, tokens: int) -> None:
        if tokens == self.granted and not self.final:
            self._queue.put(self)


class SlicedLease(GivenLease):
    """Grows by `size` tokens whenever they are used up, but only once that has been found so `late` times."""

    def __init__(self, size: int, late: int) -> None:
        self._size, self._late, self._asked = size, late, 0
        self._granted = 0
        super().__init__()

    @property
    def granted(self) -> int:
        if self._granted == (self.used[-1] if self.used else 0):
            self._asked += 1
            if self._asked > self._late:
                self._granted += self._size
                self._asked = 0
        return self._granted

    @granted.setter
    def granted(self, value: int) -> None:
        self._granted = value

    def use(self, tokens: int) -> None:
        assert tokens <= self._granted
        self.used.append(tokens)


class Budget:
    """Tokens that many requests share. Each of its leases takes a slice as soon as less than half of one is left."""

    def __init__(self, tokens: int, size: int) -> None:
        self.left, self.size = tokens, size
        self.lock = threading.Lock()

    def take(self) -> int:
        with self.lock:
            taken = min(self.left, self.size)
            self.left -= taken
            return taken

    def give_back(self, tokens: int) -> None:
        with self.lock:
            self.left += tokens

    def lease(self) -> BudgetLease:
        return BudgetLease(self)


class BudgetLease:
    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.granted, self.final = budget.take(), False
        self.used = 0

    def use(self, tokens: int) -> None:
        assert self.used < tokens <= self.granted
        self.used = tokens
        if self.granted - tokens < self._budget.size // 2 + 1 and not self.final:
            taken = self._budget.take()
            self.granted += taken
            self.final = taken == 0

    def watch(self, changed: Callable[[], None]) -> None:
        if not self.granted:  # there was nothing left from the beginning
            self.final = True
            changed()

    def settle(self) -> None:
        """Give back what the request did not use."""
        self._budget.give_back(self.granted - self.used)

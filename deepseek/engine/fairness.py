"""Who is next: priority first, then the tenant that has been served least.

Each tenant has a virtual token counter that advances by the tokens it is served (Sheng et al., "Fairness
in Serving Large Language Models", OSDI 2024; start-time fair queueing on tokens). The waiting
tenant with the lowest counter goes next, so tenants that always have work get equal shares however
much each asks for. A tenant that comes back is lifted to the lowest counter of those active: time in
which it asked for nothing is not saved up.

Priorities are strict at first, but waiting wears them down: after every `ageing_s` seconds a request
counts as one level more urgent, at most as urgent as the most urgent request beside it. From there on
fair share decides, so ageing never lets the tenant with the longest queue win.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator

from deepseek.engine.request import Rank, Sequence

_REMEMBERED_TENANTS = 4096


class FairQueue:
    """Waiting sequences, ordered by priority, fair share and arrival; O(tenants waiting) to look at the next."""

    def __init__(self, ageing_s: float) -> None:
        self.ageing_s = ageing_s
        self._queues: dict[str, list[tuple[Rank, Sequence]]] = {}
        self._served: dict[str, int] = {}
        self._active: dict[str, int] = {}
        self._floor = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        for queue in self._queues.values():
            for _, sequence in queue:
                yield sequence

    def enter(self, tenant: str) -> None:
        """One more live request of this tenant."""
        if tenant not in self._active:
            lowest = min((self._served[other] for other in self._active), default=self._floor)
            self._floor = max(self._floor, lowest)
            self._served[tenant] = max(self._served.get(tenant, 0), self._floor)
            self._active[tenant] = 0
        self._active[tenant] += 1

    def leave(self, tenant: str) -> None:
        """One live request of this tenant fewer."""
        self._active[tenant] -= 1
        if self._active[tenant] == 0:
            del self._active[tenant]
            if not self._active:
                self._floor = max(self._floor, self._served[tenant])
            if len(self._served) > len(self._active) + _REMEMBERED_TENANTS:
                self._forget()

    def charge(self, tenant: str, tokens: int) -> None:
        self._served[tenant] += tokens

    def served(self, tenant: str) -> int:
        """The tenant's virtual token counter: meaningful only in comparison."""
        return self._served.get(tenant, self._floor)

    def push(self, sequence: Sequence) -> None:
        insort(self._queues.setdefault(sequence.request.tenant, []), (sequence.rank, sequence))
        self._length += 1

    def remove(self, sequence: Sequence) -> None:
        """Take a waiting sequence out."""
        tenant = sequence.request.tenant
        queue = self._queues[tenant]
        # Ranks are unique, so neither search ever compares two sequences.
        index = bisect_left(queue, sequence.rank, key=lambda entry: entry[0])
        assert queue[index][1] is sequence
        del queue[index]
        self._length -= 1
        if not queue:
            del self._queues[tenant]

    def peek(self, now: float, *, started: bool = False) -> Sequence | None:
        """The sequence whose turn it is; of requests that have been started only, if `started`."""
        heads = [queue[0][1] for queue in self._queues.values()]
        if started:
            begun = (next((s for _, s in queue if s.state.started), None) for queue in self._queues.values())
            heads = [sequence for sequence in begun if sequence is not None]
        return self.in_turn(heads, now)[0] if heads else None

    def in_turn(self, sequences: Collection[Sequence], now: float) -> list[Sequence]:
        """Sorted by aged priority, then the tenant's counter, then rank."""
        if len(sequences) < 2:
            return list(sequences)
        most_urgent = min(sequence.request.priority for sequence in sequences)

        def turn(sequence: Sequence) -> tuple[int, int, Rank]:
            waited = max(0.0, now - sequence.state.arrival)
            level = max(most_urgent, sequence.request.priority - int(waited / self.ageing_s))
            return level, self._served[sequence.request.tenant], sequence.rank

        return sorted(sequences, key=turn)

    def _forget(self) -> None:
        # An idle tenant at or below the floor would be lifted to it anyway, so its counter says nothing.
        for tenant in [
            name for name, served in self._served.items() if name not in self._active and served <= self._floor
        ]:
            del self._served[tenant]

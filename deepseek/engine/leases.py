"""The leases of live requests: what they allow is read before each step, what was used of them told after it.

A lease belongs to somebody else, and may take locks of theirs, which they may hold while they call the engine. So it is
called by the engine's thread alone and with none of the engine's locks held; only what it said is taken in under the
loop's lock. One that raises ends its request with an error, and no other.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import NamedTuple

from deepseek.core.errors import INTERRUPTS
from deepseek.engine.progress import describe_failure
from deepseek.engine.request import RequestState
from deepseek.engine.scheduler import Scheduler


class Leases:
    """Of one loop. `lock` is the loop's; requests enter and leave with it held, all else takes it by itself."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._states: dict[RequestState, None] = {}  # those that have a lease, as an ordered set

    def __bool__(self) -> bool:
        return bool(self._states)

    def enter(self, state: RequestState) -> None:
        """A request has come, with or without a lease."""
        if state.lease is not None:
            self._states[state] = None

    def leave(self, state: RequestState) -> None:
        self._states.pop(state, None)

    def read(self, scheduler: Scheduler) -> None:
        """Tell the scheduler what every lease allows by now."""
        with self._lock:
            states = [state for state in self._states if not state.final]
        self._ask(scheduler, states)

    def use(self, scheduler: Scheduler, states: Collection[RequestState]) -> None:
        """Tell the leases of requests that gained tokens how many they have by now.

        Those whose tokens are used up are read again at once, so that the last one and the end come together.
        """
        spent: list[RequestState] = []
        failed: list[tuple[RequestState, str]] = []
        for state in states:
            assert state.lease is not None
            total = state.generated
            try:
                state.lease.use(total)
            except INTERRUPTS:
                raise
            except BaseException as error:
                failed.append((state, _describe(state, error)))
            else:
                if total >= state.granted:
                    spent.append(state)
        if failed:
            with self._lock:
                for state, what in failed:
                    self._fail(scheduler, state, what)
        self._ask(scheduler, spent)

    def _ask(self, scheduler: Scheduler, states: Collection[RequestState]) -> None:
        answers = [(state, _answer(state)) for state in states]
        if answers:
            with self._lock:
                for state, answer in answers:
                    if isinstance(answer, str):
                        self._fail(scheduler, state, answer)
                    elif state in self._states:
                        scheduler.grant(state, *answer)

    def _fail(self, scheduler: Scheduler, state: RequestState, what: str) -> None:
        if state in self._states:  # else it has ended meanwhile
            for sequence in state.sequences:
                scheduler.finish(sequence, "error", what)


class _Grant(NamedTuple):
    granted: int
    final: bool


def _answer(state: RequestState) -> _Grant | str:
    """What the lease says now; a text if it fails."""
    lease = state.lease
    assert lease is not None
    try:
        # In this order: if it is final, there is nothing that could be added to what is read next.
        final = state.final or bool(lease.final)
        return _Grant(int(lease.granted), final)
    except INTERRUPTS:
        raise
    except BaseException as error:
        return _describe(state, error)


def _describe(state: RequestState, error: BaseException) -> str:
    return describe_failure(state.sequences[0], "its lease failed", error)

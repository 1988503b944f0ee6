"""The scheduler's books: every sequence in one place, every block where it belongs. For tests and diagnosis."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from deepseek.engine.request import Status

if TYPE_CHECKING:
    from deepseek.engine.scheduler import Scheduler


def check_scheduler(scheduler: Scheduler) -> None:
    """Raise AssertionError at any breach of the scheduler's or the pool's accounting. Costs O(blocks + sequences)."""
    scheduler.pool.check(block for sequence in scheduler._running for block in sequence.blocks)
    for breach in _breaches(scheduler):
        raise AssertionError(f"scheduler accounting: {breach}")


def _breaches(scheduler: Scheduler) -> Iterator[str]:
    size = scheduler.config.block_size
    running, waiting = set(scheduler._running), set(scheduler._waiting)
    held = {sequence for state in scheduler._requests.values() for sequence in state.held}
    if (
        scheduler._running != sorted(scheduler._running, key=attrgetter("rank"))
        or len(scheduler._running) > scheduler.config.max_sequences
    ):
        yield "the running list is out of order or too long"
    if len(waiting) != len(scheduler._waiting):
        yield "the waiting queue miscounts"
    for state in scheduler._requests.values():
        for sequence in state.sequences:
            places = [
                sequence in running,
                sequence in waiting,
                sequence in held,
                sequence.status is Status.FINISHED,
            ]
            if sum(places) != 1 or (sequence.status is Status.RUNNING) != (sequence in running):
                yield f"{sequence} is in {sum(places)} places, or in the wrong one"
            if sequence in running and not (sequence.computed < sequence.total <= len(sequence.blocks) * size + 1):
                yield f"{sequence} has too few blocks or nothing left to compute"
            if sequence not in running and (sequence.blocks or sequence.computed or sequence.draft):
                yield f"{sequence} holds blocks or a draft while it does not run"
            if len(sequence.blocks) * size >= sequence.total + len(sequence.draft) + size:
                yield f"{sequence} holds blocks that it has no tokens for"
    alive = sum(len(state.sequences) for state in scheduler._requests.values())
    done = sum(s.status is Status.FINISHED for state in scheduler._requests.values() for s in state.sequences)
    if len(running) + len(waiting) + len(held) != alive - done:
        yield "a sequence of an ended request is still about"

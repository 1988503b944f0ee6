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
    places = scheduler.places
    scheduler.pool.check(block for sequence in (*places.running, *places.starved) for block in sequence.blocks)
    for breach in _breaches(scheduler):
        raise AssertionError(f"scheduler accounting: {breach}")


def _breaches(scheduler: Scheduler) -> Iterator[str]:
    size, places = scheduler.config.block_size, scheduler.places
    running, waiting, starved = set(places.running), set(places.waiting), set(places.starved)
    held = {sequence for state in scheduler._requests.values() for sequence in state.held}
    for listed in (places.running, places.starved):
        if listed != sorted(listed, key=attrgetter("rank")):
            yield "a list is out of order"
    if len(running) + places.keeping > scheduler.config.max_sequences:
        yield "too many run or keep their blocks"
    if len(waiting) != len(places.waiting):
        yield "the waiting queue miscounts"
    for state in scheduler._requests.values():
        if state.lease is not None and state.generated > state.granted:
            yield f"{state.request.id!r} has {state.generated} tokens of {state.granted}"
        for sequence in state.sequences:
            found = [
                sequence in held,
                sequence in waiting,
                sequence in running,
                sequence in starved,
                sequence.status is Status.FINISHED,
            ]
            if sum(found) != 1 or list(Status)[found.index(True)] is not sequence.status:
                yield f"{sequence} is in {sum(found)} places, or in the wrong one"
            if not sequence.fed and state.lease is None:
                yield f"{sequence} starves without a lease"
            if (sequence in running and not sequence.fed) or (sequence in starved and sequence.fed):
                yield f"{sequence} runs without a token, or starves with one"
            fits = sequence.computed < sequence.total <= len(sequence.blocks) * size + 1
            if (sequence in running or sequence.blocks) and not fits:
                yield f"{sequence} has too few blocks or nothing left to compute"
            if not sequence.blocks and (sequence.computed or sequence.draft):
                yield f"{sequence} has a draft or something computed, and no blocks"
            if sequence not in running | starved and sequence.blocks:
                yield f"{sequence} holds blocks while it does not run"
            if len(sequence.blocks) * size >= sequence.total + len(sequence.draft) + size:
                yield f"{sequence} holds blocks that it has no tokens for"
    alive = sum(len(state.sequences) for state in scheduler._requests.values())
    done = sum(s.status is Status.FINISHED for state in scheduler._requests.values() for s in state.sequences)
    if len(running) + len(waiting) + len(starved) + len(held) != alive - done:
        yield "a sequence of an ended request is still about"

"""Where the sequences are that may be computed, and who gives way to whom when places or blocks are short.

A sequence *waits* in the fair queue, or *runs* and holds blocks, or has *starved*: its request's lease leaves it no token
for now. One that starved keeps the blocks and the place that it has until someone who can go on needs them; so it costs
nobody anything, and goes on at once if the lease grows soon. Of those that run, the least important gives way first.

At most `max_sequences` run or keep blocks. Everything is listed in the order of `Rank`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter

from deepseek.engine.blocks import BlockPool
from deepseek.engine.fairness import FairQueue
from deepseek.engine.request import RequestState, Sequence, Status
from deepseek.engine.scheduler_config import SchedulerConfig

_rank = attrgetter("rank")


class Places:
    """preemptions: since the start, sequences whose blocks were taken to be computed anew later."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.num_blocks, config.block_size)
        self.waiting = FairQueue(config.ageing_s)
        self.running: list[Sequence] = []
        self.starved: list[Sequence] = []
        self.preemptions = 0

    def queue(self, sequence: Sequence) -> None:
        """One that is in none of the places: it waits, or starves if its lease has nothing for it."""
        if sequence.fed:
            sequence.status = Status.WAITING
            self.waiting.push(sequence)
        else:
            sequence.status = Status.STARVED
            insort(self.starved, sequence, key=_rank)

    def leave(self, sequence: Sequence) -> None:
        """Wherever it is, it is there no more, and its blocks are free."""
        if sequence.status is Status.RUNNING:
            _remove(self.running, sequence)
        elif sequence.status is Status.STARVED:
            _remove(self.starved, sequence)
        else:
            self.waiting.remove(sequence)
        self._take_blocks(sequence)

    def admit(self, now: float, *, started: bool) -> Sequence | None:
        """Let the waiting sequence whose turn it is run, if a place and blocks are free or only kept by starved ones.

        If its blocks are not, nobody overtakes it: a long prompt is not starved by short ones. started: only such a
        sequence whose request has been started.
        """
        if len(self.running) >= self.config.max_sequences:
            return None
        sequence = self.waiting.peek(now, started=started)
        if sequence is None:
            return None
        size = self.config.block_size
        full = _readable_tokens(sequence) // size if self.config.prefix_cache else 0
        matched = self.pool.match(sequence.keys(full, size))
        missing = -(-sequence.total // size) - len(matched)
        if not self._find_blocks(matched, missing):
            return None
        if self.starved:
            while len(self.running) + self.keeping >= self.config.max_sequences:
                self._take_from_starved()
        self.pool.acquire(matched)
        fresh = self.pool.allocate(missing)
        assert fresh is not None
        self.waiting.remove(sequence)
        sequence.blocks.extend(matched)
        sequence.blocks.extend(fresh)
        sequence.computed = len(matched) * size
        sequence.status = Status.RUNNING
        self.pool.stats.queries += sequence.total
        self.pool.stats.hits += sequence.computed
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            sequence.served = sequence.computed  # what the cache gave costs the tenant nothing
        insort(self.running, sequence, key=_rank)
        return sequence

    def make_room(self, sequence: Sequence) -> bool:
        """A slot for one more token of a running sequence, at the cost of starved ones, then of less important ones.

        False if it had to give way itself.
        """
        if sequence.computed < len(sequence.blocks) * self.config.block_size:
            return True
        while (fresh := self.pool.allocate(1)) is None:
            if self.starved and self._take_from_starved():
                continue
            victim = self.running[-1]
            self.preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks.extend(fresh)
        return True

    def preempt(self, sequence: Sequence) -> None:
        """It is to be computed anew."""
        self.leave(sequence)
        self.queue(sequence)
        self.preemptions += 1

    def set_back_all(self) -> None:
        """Nobody runs or keeps blocks any more, and nothing that was computed is found again."""
        while self.running:
            self.preempt(self.running[-1])
        while self.starved and self._take_from_starved():
            pass
        self.pool.forget()

    def share_out(self, state: RequestState, left: int) -> None:
        """`left` tokens are what a request may still generate: as many of its choices may go on, by index.

        What is left over after one token for each is there for drafts.
        """
        for sequence in state.sequences:
            if sequence.status is Status.FINISHED:
                continue
            fed = left > 0
            left -= 1
            if fed is not sequence.fed:
                sequence.fed = fed
                if sequence.status is not Status.HELD:
                    self._move(sequence)
        state.spare = max(0, left)

    @property
    def keeping(self) -> int:
        """Starved sequences that have blocks."""
        return sum(1 for sequence in self.starved if sequence.blocks)

    def _move(self, sequence: Sequence) -> None:
        """To where it belongs now that its lease has or has not something for it; its blocks go with it."""
        if sequence.status is Status.RUNNING:
            _remove(self.running, sequence)
        elif sequence.status is Status.STARVED:
            _remove(self.starved, sequence)
            if sequence.blocks:
                sequence.status = Status.RUNNING
                insort(self.running, sequence, key=_rank)
                return
        else:
            self.waiting.remove(sequence)
        self.queue(sequence)

    def _find_blocks(self, matched: list[int], missing: int) -> bool:
        """Whether that many blocks are there beside those matched; starved sequences lose theirs if it takes that."""
        # One spare block for each running sequence, lest the newcomer be preempted by their next tokens.
        spare = len(self.running)
        cost = self.pool.cost(matched, missing)
        if cost + spare <= self.pool.free:
            return True
        if self.starved:
            kept = sum(len(sequence.blocks) for sequence in self.starved)
            if not spare or cost + spare <= self.pool.free + kept:
                while cost + spare > self.pool.free and self._take_from_starved():
                    cost = self.pool.cost(matched, missing)
        # Alone it always fits.
        return not spare or cost + spare <= self.pool.free

    def _take_from_starved(self) -> bool:
        """The least important one that keeps blocks loses them. False if none does."""
        for sequence in reversed(self.starved):
            if sequence.blocks:
                self._take_blocks(sequence)
                self.preemptions += 1
                return True
        return False

    def _take_blocks(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        del sequence.blocks[:]
        sequence.computed = 0
        sequence.draft = []
        sequence.holes = False


def _remove(listed: list[Sequence], sequence: Sequence) -> None:
    index = bisect_left(listed, sequence.rank, key=_rank)
    assert listed[index] is sequence
    del listed[index]


def _readable_tokens(sequence: Sequence) -> int:
    """How far the prefix cache may be read: up to the first row that something is still wanted of."""
    # The last token is always computed: there must be a row to sample from.
    state, last = sequence.state, sequence.total - 1
    if not state.reads_prompt or sequence.choice > 0 or (state.embeds and state.request.pooling == "last"):
        return last
    return min(last, sequence.reported)

"""Which tokens are computed in the next step: one loop over one budget.

Every sequence has `computed` tokens chasing `total` tokens (the idea of vLLM's V1 scheduler). A step
has a budget of tokens, spent on running sequences first: those one token behind get that token (decode),
then those further behind share the rest (chunked prefill); what is left admits waiting ones, by
priority and fair share. Prefix hits only move where `computed` starts; preemption only sets it back to 0.

Why it cannot stall: no request is admitted that could not run alone in the whole pool; running sequences
are kept in one fixed order of importance; if the pool is full the last of them gives way. So the first
always advances and ends, and the next one becomes first.

    plan = scheduler.schedule(now)                 # None: nothing is alive
    updates = scheduler.apply(plan, token_per_row)
    for state in scheduler.take_ended(): ...       # each request exactly once

Not thread-safe: one thread makes all calls.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from operator import attrgetter

from deepseek.core.engine import FinishReason, Load, Request
from deepseek.core.errors import AdmissionError, EngineError
from deepseek.core.sampling import MAX_SEED
from deepseek.engine.blocks import BlockPool, cache_root
from deepseek.engine.fairness import FairQueue
from deepseek.engine.plan import StepPlan, build_plan
from deepseek.engine.request import RequestState, Sequence, Status
from deepseek.engine.scheduler_config import SchedulerConfig

__all__ = ["FAILED_ROW", "Scheduler", "SchedulerConfig", "Update"]

FAILED_ROW = -1
"""Passed to `apply` in place of a token id for a row whose sampling failed: that sequence ends with "error"."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one step did for one sequence.

    token_id, row: the token sampled and its row among the plan's R rows; None if the step only computed
    part of the prompt. reason: why this token ended the sequence; with "stop" the token is an end or stop id
    and not part of the text.
    """

    sequence: Sequence
    token_id: int | None = None
    row: int | None = None
    reason: FinishReason | None = None


class Scheduler:
    def __init__(
        self, config: SchedulerConfig, *, draw_seed: Callable[[], int] = lambda: secrets.randbelow(MAX_SEED)
    ) -> None:
        self.config = config
        self.max_length = min(config.max_model_len, config.num_blocks * config.block_size)
        self.pool = BlockPool(config.num_blocks, config.block_size)
        self.preemptions = 0
        self.weights_version = 0
        self._draw_seed = draw_seed
        self._requests: dict[str, RequestState] = {}
        self._unstarted: dict[str, RequestState] = {}
        self._waiting = FairQueue(config.ageing_s)
        self._running: list[Sequence] = []  # sorted by rank
        self._deadlines: list[tuple[float, int, str]] = []  # sorted
        self._ended: list[RequestState] = []
        self._planned: list[tuple[Sequence, int]] | None = None
        self._step = 0
        self._order = 0

    # Requests come and go.

    def add(self, request: Request, arrival: float) -> RequestState:
        """Take a request into the queue; `arrival` on the clock that `schedule` gets. Raises AdmissionError."""
        self.require_servable(request)
        if request.id in self._requests:
            raise AdmissionError("a live request has this id", reason="duplicate", where="id", found=request.id)
        if len(self._unstarted) >= self.config.max_waiting:
            raise AdmissionError(
                "too many requests are waiting",
                reason="queue_full",
                found=len(self._unstarted),
                expected=f"fewer than {self.config.max_waiting}",
                fix="try again later",
            )
        seed = request.sampling.seed
        state = RequestState(
            request,
            arrival=arrival,
            seed=self._draw_seed() if seed is None else seed,
            order=self._order,
            ageing_s=self.config.ageing_s,
            cache_root=self._cache_root(request),
        )
        self._order += len(state.sequences)
        self._requests[request.id] = self._unstarted[request.id] = state
        if request.deadline is not None:
            insort(self._deadlines, (request.deadline, state.sequences[0].rank.order, request.id))
        self._waiting.enter(request.tenant)
        self._waiting.push(state.sequences[0])
        self._release_held(state)
        return state

    def require_servable(self, request: Request) -> None:
        """Raise AdmissionError if the request could not even be served alone."""
        if not request.prompt_ids:
            raise AdmissionError("the prompt has no tokens", where="prompt")
        if len(request.prompt_ids) >= self.max_length:
            raise AdmissionError(
                "the prompt leaves no room for a single new token",
                reason="too_long",
                where="prompt",
                found=f"{len(request.prompt_ids)} tokens",
                expected=f"at most {self.max_length - 1}",
                fix="shorten the prompt or serve with more cache",
            )

    def abort(self, request_id: str) -> None:
        """End a request now with reason "cancelled". Unknown ids are ignored."""
        self.end(request_id, "cancelled")

    def end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        """End all choices of a request that are still alive. Unknown ids are ignored."""
        state = self._requests.get(request_id)
        for sequence in state.sequences if state else ():
            self.finish(sequence, reason, error)

    def end_all(self, reason: FinishReason, error: str | None = None) -> None:
        for request_id in list(self._requests):
            self.end(request_id, reason, error)

    def finish(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> None:
        """End one choice. Nothing changes if it has ended already, except that "stop" overrides "length":
        the last token allowed may also complete a stop string, which is for the detokeniser to see.
        """
        state = sequence.state
        if sequence.status is Status.FINISHED:
            if sequence.finish_reason == "length" and reason == "stop":
                sequence.finish_reason = reason
            return
        if sequence.status is Status.RUNNING:
            self._stop_running(sequence)
        elif sequence in state.held:
            state.held.remove(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.status = Status.FINISHED
        sequence.finish_reason = reason
        state.error = state.error or error
        self._release_held(state)
        if state.finished:
            self._forget(state)
            self._ended.append(state)

    def take_ended(self) -> list[RequestState]:
        """Requests whose last choice ended since the last call: every request appears here exactly once."""
        ended, self._ended = self._ended, []
        return ended

    # Steps.

    def schedule(self, now: float) -> StepPlan | None:
        """Choose the next step's tokens. None if no request is alive. `apply` or `fail` must follow a plan."""
        if self._planned is not None:
            raise EngineError("the last step's results have not been applied", where=f"step {self._step}")
        while self._deadlines and self._deadlines[0][0] <= now:
            self.end(self._deadlines[0][2], "deadline")

        scheduled: list[tuple[Sequence, int]] = []
        preemptions = self.preemptions
        budget = self.config.max_tokens_per_step
        # Decodes: in order of importance, so that whoever gives way has not been scheduled yet.
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            if sequence.total - sequence.computed == 1:
                if not self._make_room(sequence):
                    break
                budget -= self._spend(sequence, 1, scheduled)
            index += 1
        # Prefills: their blocks were allocated at admission.
        behind = [sequence for sequence in self._running if sequence.total - sequence.computed > 1]
        for sequence in self._waiting.in_turn(behind, now):
            budget -= self._spend(sequence, budget, scheduled)
        # After a preemption memory is short: admitting now would only preempt again.
        while budget > 0 and preemptions == self.preemptions:
            admitted = self._admit(now)
            if admitted is None:
                break
            budget -= self._spend(admitted, budget, scheduled)

        if not scheduled:
            return None
        self._step += 1
        self._planned = scheduled
        return build_plan(self._step, scheduled, self.config.block_size)

    def apply(self, plan: StepPlan, sampled: Seq[int]) -> list[Update]:
        """Take a step's results: one token id (or FAILED_ROW) for each of the plan's R rows.

        Returns an update for every sequence of the plan that was not ended while the step ran.
        """
        planned = self._take_planned(plan)
        if len(sampled) != plan.num_rows:
            self._planned = planned
            raise EngineError(
                "wrong number of sampled tokens", where=f"step {plan.step}", found=len(sampled), expected=plan.num_rows
            )
        # From the plan, not from `computed`: that of a sequence ended while the step ran is 0 again.
        row_of = {index: row for row, index in enumerate(plan.row_sequence.tolist())}
        updates = []
        for index, (sequence, count) in enumerate(planned):
            if sequence.status is Status.RUNNING:
                row = row_of.get(index)
                updates.append(self._advance(sequence, count, row, None if row is None else sampled[row]))
        return updates

    def fail(self, plan: StepPlan, error: str) -> None:
        """The worker could not compute this step: its sequences end with "error", all others go on."""
        for sequence, _ in self._take_planned(plan):
            self.finish(sequence, "error", error)

    def set_weights_version(self, version: int) -> None:
        """From now on compute with other weights: everything alive is recomputed, nothing cached before is found.

        Between steps only.
        """
        if self._planned is not None:
            raise EngineError("weights cannot change while a step runs", where=f"step {self._step}")
        self.weights_version = version
        while self._running:
            self._preempt(self._running[-1])
        for state in self._requests.values():
            state.cache_root = self._cache_root(state.request)
            for sequence in state.sequences:
                sequence.forget_keys()

    # Readings.

    def load(self, now: float) -> Load:
        """Waiting and running count sequences; the oldest wait is that of a request not started yet."""
        oldest = next(iter(self._unstarted.values()), None)
        return Load(
            waiting=len(self._waiting) + sum(len(state.held) for state in self._requests.values()),
            running=len(self._running),
            blocks_used=self.pool.used,
            blocks_total=self.pool.num_blocks,
            oldest_wait_s=0.0 if oldest is None else max(0.0, now - oldest.arrival),
        )

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def served(self, tenant: str) -> int:
        """The tenant's virtual token counter."""
        return self._waiting.served(tenant)

    def check(self) -> None:
        """Raise AssertionError at any breach of the scheduler's or the pool's accounting. For tests and diagnosis."""
        self.pool.check(block for sequence in self._running for block in sequence.blocks)
        for breach in self._breaches():
            raise AssertionError(f"scheduler accounting: {breach}")

    # Helpers.

    def _cache_root(self, request: Request) -> bytes:
        return cache_root(
            request.tenant,
            request.cache_salt,
            weights_version=self.weights_version,
            numeric_mode=self.config.numeric_mode,
        )

    def _shareable_tokens(self, sequence: Sequence) -> int:
        return (sequence.prompt_tokens - 1) // self.config.block_size * self.config.block_size

    def _release_held(self, state: RequestState) -> None:
        first = state.sequences[0]
        if not state.held or (first.status is not Status.FINISHED and first.computed < self._shareable_tokens(first)):
            return
        for sequence in state.held:
            self._waiting.push(sequence)
        state.held = []

    def _admit(self, now: float) -> Sequence | None:
        """Move the waiting sequence whose turn it is to the running ones, if a place and blocks are free.

        If its blocks are not, nobody overtakes it: a long prompt is not starved by short ones.
        """
        if len(self._running) >= self.config.max_sequences:
            return None
        sequence = self._waiting.peek(now)
        if sequence is None:
            return None
        size = self.config.block_size
        # The last token is always computed: there must be a row to sample from.
        full = (sequence.total - 1) // size if self.config.prefix_cache else 0
        matched = self.pool.match(sequence.keys(full, size))
        missing = -(-sequence.total // size) - len(matched)
        # One spare block for each running sequence, lest the newcomer be preempted by their next tokens.
        if self.pool.cost(matched, missing) + len(self._running) > self.pool.free and self._running:
            return None
        self.pool.acquire(matched)
        fresh = self.pool.allocate(missing)
        assert fresh is not None
        self._waiting.remove(sequence)
        sequence.blocks.extend(matched)
        sequence.blocks.extend(fresh)
        sequence.computed = len(matched) * size
        sequence.status = Status.RUNNING
        self.pool.stats.queries += sequence.total
        self.pool.stats.hits += sequence.computed
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            sequence.served = sequence.computed  # what the cache gave costs the tenant nothing
        insort(self._running, sequence, key=attrgetter("rank"))
        state = sequence.state
        state.started = True
        self._unstarted.pop(state.request.id, None)
        return sequence

    def _spend(self, sequence: Sequence, budget: int, scheduled: list[tuple[Sequence, int]]) -> int:
        count = min(budget, sequence.total - sequence.computed)
        if count > 0:
            scheduled.append((sequence, count))
            end = sequence.computed + count
            # Tokens recomputed after a preemption were paid for the first time.
            if end > sequence.served:
                self._waiting.charge(sequence.request.tenant, end - sequence.served)
                sequence.served = end
        return count

    def _make_room(self, sequence: Sequence) -> bool:
        """A slot for one more token, at the cost of less important sequences. False if it had to give way itself."""
        if sequence.computed < len(sequence.blocks) * self.config.block_size:
            return True
        while (fresh := self.pool.allocate(1)) is None:
            victim = self._running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks.extend(fresh)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._stop_running(sequence)
        sequence.status = Status.WAITING
        self._waiting.push(sequence)
        self.preemptions += 1

    def _stop_running(self, sequence: Sequence) -> None:
        index = bisect_left(self._running, sequence.rank, key=attrgetter("rank"))
        assert self._running[index] is sequence
        del self._running[index]
        self.pool.release(sequence.blocks)
        del sequence.blocks[:]
        sequence.computed = 0

    def _take_planned(self, plan: StepPlan) -> list[tuple[Sequence, int]]:
        if self._planned is None or plan.step != self._step:
            raise EngineError("not the step that is under way", where="plan.step", found=plan.step, expected=self._step)
        planned, self._planned = self._planned, None
        return planned

    def _advance(self, sequence: Sequence, count: int, row: int | None, token_id: int | None) -> Update:
        size = self.config.block_size
        first_full = sequence.computed // size
        sequence.computed += count
        if self.config.prefix_cache:
            for index in range(first_full, sequence.computed // size):
                self.pool.register(sequence.blocks[index], sequence.key(index, size))
        self._release_held(sequence.state)
        if token_id is None:
            return Update(sequence)
        if token_id == FAILED_ROW:
            self.finish(sequence, "error", "the next token could not be sampled")
            return Update(sequence, row=row, reason="error")
        sequence.token_ids.append(token_id)
        reason = self._end_reason(sequence, token_id)
        if reason is not None:
            self.finish(sequence, reason)
        return Update(sequence, token_id, row, reason)

    def _end_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        sampling = sequence.request.sampling
        if token_id in sampling.stop_token_ids or (token_id in self.config.eos_token_ids and not sampling.ignore_eos):
            return "stop"
        if sequence.generated >= sampling.max_tokens or sequence.total >= self.max_length:
            return "length"
        return None

    def _forget(self, state: RequestState) -> None:
        request = state.request
        del self._requests[request.id]
        self._unstarted.pop(request.id, None)
        self._waiting.leave(request.tenant)
        if request.deadline is not None:
            entry = (request.deadline, state.sequences[0].rank.order, request.id)
            del self._deadlines[bisect_left(self._deadlines, entry)]

    def _breaches(self) -> Iterator[str]:
        size = self.config.block_size
        running, waiting = set(self._running), set(self._waiting)
        held = {sequence for state in self._requests.values() for sequence in state.held}
        if (
            self._running != sorted(self._running, key=attrgetter("rank"))
            or len(self._running) > self.config.max_sequences
        ):
            yield "the running list is out of order or too long"
        if len(waiting) != len(self._waiting):
            yield "the waiting queue miscounts"
        for state in self._requests.values():
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
                if sequence not in running and (sequence.blocks or sequence.computed):
                    yield f"{sequence} holds blocks while it does not run"
        alive = sum(len(state.sequences) for state in self._requests.values())
        done = sum(s.status is Status.FINISHED for state in self._requests.values() for s in state.sequences)
        if len(running) + len(waiting) + len(held) != alive - done:
            yield "a sequence of an ended request is still about"

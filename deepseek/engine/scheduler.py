"""Which tokens are computed in the next step: one loop over one budget.

Every sequence has `computed` tokens chasing `total` tokens (the idea of vLLM's V1 scheduler). A step
has a budget of tokens, spent on running sequences first: those one token behind get that token (decode),
then those further behind share the rest (chunked prefill); what is left admits waiting ones, by
priority and fair share. Prefix hits only move where `computed` starts; preemption only sets it back to 0.
What is left after all that may be spent on drafts: they never take a block or a place from anyone.

Why it cannot stall: no request is admitted that could not run alone in the whole pool; running sequences
are kept in one fixed order of importance; if the pool is full the last of them gives way. So the first
always advances and ends, and the next one becomes first. Sequences that a lease keeps from advancing are
not among them, and give way to any that can.

    plan = scheduler.schedule(now)                 # None: nothing is alive, or nothing may run now
    updates = scheduler.apply(plan, token_per_row, drafts)
    for state in scheduler.take_ended(): ...       # each request exactly once

`places` knows who runs and who gives way to whom; `planner` makes a plan of what is chosen here. Leases
are not asked here: `grant` says what they allow, and a request that has one starts with nothing.

Not thread-safe: one thread makes all calls.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, insort
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from deepseek.core.engine import FinishReason, Load, Request
from deepseek.core.errors import AdmissionError, EngineError
from deepseek.core.sampling import MAX_SEED
from deepseek.engine.audit import check_scheduler
from deepseek.engine.blocks import cache_root
from deepseek.engine.places import Places
from deepseek.engine.plan import DRAFT_NOW, Part, StepPlan
from deepseek.engine.planner import Chosen, Planner
from deepseek.engine.progress import Limits, TokenReader, Update, advance, trusting
from deepseek.engine.request import RequestState, Sequence, Status, samples
from deepseek.engine.result import FAILED_ROW
from deepseek.engine.scheduler_config import SchedulerConfig

if TYPE_CHECKING:
    from deepseek.engine.grammar.matcher import Matcher

__all__ = ["FAILED_ROW", "Scheduler", "SchedulerConfig", "TokenReader", "Update"]


class Scheduler:
    def __init__(
        self, config: SchedulerConfig, *, draw_seed: Callable[[], int] = lambda: secrets.randbelow(MAX_SEED)
    ) -> None:
        self.config = config
        self.max_length = min(config.max_model_len, config.num_blocks * config.block_size)
        self.places = Places(config)
        self.pool = self.places.pool
        self.planner = Planner(config, self.pool, self.max_length, self._fail_alone)
        self.weights_version = 0
        self.draining = False
        """While true, no request is started; those that have been go on to their end."""
        self.paused = False
        """While true, nothing is computed; deadlines still hold."""
        self._draw_seed = draw_seed
        self._requests: dict[str, RequestState] = {}
        self._unstarted: dict[str, RequestState] = {}
        self._leased: dict[str, RequestState] = {}
        self._deadlines: list[tuple[float, int, str]] = []  # sorted
        self._ended: list[RequestState] = []
        self._limits = Limits(self.max_length, config.eos_token_ids)
        self._order = 0

    # Requests come and go.

    def add(
        self,
        request: Request,
        arrival: float,
        adapter: int = -1,
        new_grammar: Callable[[], Matcher] | None = None,
    ) -> RequestState:
        """Take a request into the queue; `arrival` on the clock that `schedule` gets, `adapter` the handle of the one
        it names, `new_grammar` makes the matcher of its constraint for one choice. Raises AdmissionError."""
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
            cache_root=self._cache_root(request, adapter),
            adapter=adapter,
            new_grammar=new_grammar,
        )
        self._order += len(state.sequences)
        self._requests[request.id] = self._unstarted[request.id] = state
        if state.lease is not None:
            self._leased[request.id] = state
        if request.deadline is not None:
            insort(self._deadlines, (request.deadline, state.sequences[0].rank.order, request.id))
        self.places.waiting.enter(request.tenant)
        self.places.queue(state.sequences[0])
        self._release_held(state)
        return state

    def require_servable(self, request: Request) -> None:
        """Raise AdmissionError if the request could not even be served alone."""
        if not request.prompt_ids:
            raise AdmissionError("the prompt has no tokens", where="prompt")
        generates = samples(request)
        room = self.max_length - 1 if generates else self.max_length
        if len(request.prompt_ids) > room:
            raise AdmissionError(
                "the prompt leaves no room for a single new token" if generates else "the prompt is too long",
                reason="too_long",
                where="prompt",
                found=f"{len(request.prompt_ids)} tokens",
                expected=f"at most {room}",
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
        """End one choice. Nothing changes if it has ended already."""
        state = sequence.state
        if sequence.status is Status.FINISHED:
            return
        if sequence.status is Status.HELD:
            state.held.remove(sequence)
        else:
            self.places.leave(sequence)
        sequence.status = Status.FINISHED
        sequence.finish_reason = reason
        if error is not None:
            state.note_error(error)
        self._release_held(state)
        if state.finished:
            self._forget(state)
            self._ended.append(state)

    def grant(self, state: RequestState, granted: int, final: bool) -> None:
        """What a live request's lease says: the tokens that its choices may generate together, since its start.

        final: there will be no more; if they are used up already it ends with reason "budget".
        """
        state.granted, state.final = max(state.granted, granted), state.final or final
        if state.final:
            self._share_out(state)

    def take_ended(self) -> list[RequestState]:
        """Requests whose last choice ended since the last call: every request appears here exactly once."""
        ended, self._ended = self._ended, []
        return ended

    # Steps.

    def schedule(self, now: float) -> StepPlan | None:
        """Choose the next step's tokens. None if no request is alive. `apply` or `fail` must follow a plan."""
        if self.planner.under_way is not None:
            raise EngineError("the last step's results have not been applied", where=f"step {self.planner.step}")
        while self._deadlines and self._deadlines[0][0] <= now:
            self.end(self._deadlines[0][2], "deadline")
        if self._leased:
            for state in list(self._leased.values()):
                self._share_out(state)
        if self.paused:
            return None

        # Whatever a sequence does wrong while its part is prepared ends it alone, and leaves room for others.
        while chosen := self._choose(now):
            plan = self.planner.plan(chosen)
            if plan is not None:
                return plan
        return None

    def apply(
        self,
        plan: StepPlan,
        token_ids: Seq[int],
        drafts: list[list[int]] | None = None,
        reader: TokenReader = trusting,
    ) -> list[Update]:
        """Take a step's results: the token id (or FAILED_ROW) of each of the plan's R rows, and what the worker drafted
        for each of its B sequences.

        Returns an update for every sequence of the plan that was not ended while the step ran.
        """
        planner = self.planner
        parts = planner.take(plan)
        if len(token_ids) != plan.num_rows:
            planner.under_way = parts
            raise EngineError(
                "wrong number of sampled tokens",
                where=f"step {plan.step}",
                found=len(token_ids),
                expected=plan.num_rows,
            )
        if plan.draft_layer == DRAFT_NOW:
            planner.speculation.hear(drafts)
        updates = []
        owners = plan.row_sequence.tolist()
        row, gained, drafted, accepted, plain = 0, 0, 0, 0, True
        for index, part in enumerate(parts):
            first = row
            while row < len(owners) and owners[row] == index:
                row += 1
            plain = plain and part.num_tokens == part.drafted + 1
            sequence = part.sequence
            if sequence.status is Status.RUNNING:
                update = self._advance(part, first, row, token_ids, reader)
                gained += len(update.token_ids)
                drafted += part.drafted
                accepted += max(0, len(update.token_ids) - 1)
                if drafts is not None and sequence.status is Status.RUNNING:
                    sequence.draft = drafts[index]
                updates.append(update)
        planner.note(parts, drafted, accepted, gained, plain)
        return updates

    def observe(self, seconds: float) -> None:
        """How long the last step took, all in all."""
        self.planner.observe(seconds)

    def split(self, plan: StepPlan) -> list[tuple[Sequence, StepPlan | None]]:
        """See `Planner.split`."""
        return self.planner.split(plan)

    def fail(self, plan: StepPlan, error: str) -> None:
        """The worker could not compute this step: its sequences end with "error", all others go on."""
        for part in self.planner.take(plan):
            self.finish(part.sequence, "error", error)

    def set_weights_version(self, version: int) -> None:
        """From now on compute with other weights: everything alive is recomputed, nothing cached before is found.

        Between steps only.
        """
        if self.planner.under_way is not None:
            raise EngineError("weights cannot change while a step runs", where=f"step {self.planner.step}")
        self.weights_version = version
        self.places.set_back_all()
        for state in self._requests.values():
            state.cache_root = self._cache_root(state.request, state.adapter)
            for sequence in state.sequences:
                sequence.forget_keys()
                if sequence.reported < sequence.prompt_tokens:
                    sequence.reported = 0  # one prompt is not read under two weights

    def pause(self) -> None:
        """Compute nothing until `resume`: what runs is set back and waits, and the cache's contents are forgotten.

        Between steps only.
        """
        if self.planner.under_way is not None:
            raise EngineError("a step is under way", where=f"step {self.planner.step}")
        self.places.set_back_all()
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    # Readings.

    def load(self, now: float) -> Load:
        """Waiting and running count sequences; those that starve run as long as they keep their blocks. The oldest wait
        is that of a request not started yet."""
        oldest = next(iter(self._unstarted.values()), None)
        places, planner = self.places, self.planner
        held = sum(len(state.held) for state in self._requests.values())
        return Load(
            waiting=len(places.waiting) + held + len(places.starved) - places.keeping,
            running=len(places.running) + places.keeping,
            blocks_used=self.pool.used,
            blocks_total=self.pool.num_blocks,
            oldest_wait_s=0.0 if oldest is None else max(0.0, now - oldest.arrival),
            prefix_query_tokens=self.pool.stats.queries,
            prefix_hit_tokens=self.pool.stats.hits,
            preemptions=places.preemptions,
            weights_version=self.weights_version,
            sleeping=self.paused,
            prefix_evicted_blocks=self.pool.stats.evictions,
            drafted_tokens=planner.drafted_tokens,
            accepted_tokens=planner.accepted_tokens,
            speculating=planner.speculation.drafting,
        )

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def drained(self) -> bool:
        """Whether every request that was started has ended."""
        return len(self._unstarted) == len(self._requests)

    @property
    def next_deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def served(self, tenant: str) -> int:
        """The tenant's virtual token counter."""
        return self.places.waiting.served(tenant)

    def check(self) -> None:
        """Raise AssertionError at any breach of the scheduler's or the pool's accounting. For tests and diagnosis."""
        check_scheduler(self)

    # Helpers.

    def _cache_root(self, request: Request, adapter: int) -> bytes:
        return cache_root(
            request.tenant,
            request.cache_salt,
            weights_version=self.weights_version,
            adapter="" if adapter < 0 else str(adapter),
            numeric_mode=self.config.numeric_mode,
        )

    def _shareable_tokens(self, sequence: Sequence) -> int:
        return (sequence.prompt_tokens - 1) // self.config.block_size * self.config.block_size

    def _release_held(self, state: RequestState) -> None:
        first = state.sequences[0]
        if not state.held or (first.status is not Status.FINISHED and first.computed < self._shareable_tokens(first)):
            return
        for sequence in state.held:
            self.places.queue(sequence)
        state.held = []

    def _share_out(self, state: RequestState) -> None:
        left = state.granted - state.generated
        if left <= 0 and state.final:
            for sequence in state.sequences:
                self.finish(sequence, "budget")
        else:
            self.places.share_out(state, left)

    def _admit(self, now: float) -> Sequence | None:
        sequence = self.places.admit(now, started=self.draining)
        if sequence is not None:
            sequence.state.started = True
            self._unstarted.pop(sequence.request.id, None)
        return sequence

    def _choose(self, now: float) -> Chosen:
        """Which sequences compute how many tokens now, apart from drafts."""
        scheduled: Chosen = []
        places = self.places
        running, preemptions = places.running, places.preemptions
        budget = self.config.max_tokens_per_step
        # Decodes: in order of importance, so that whoever gives way has not been scheduled yet.
        index = 0
        while index < len(running):
            sequence = running[index]
            if sequence.total - sequence.computed == 1:
                if not places.make_room(sequence):
                    break
                budget -= self._spend(sequence, 1, scheduled)
            index += 1
        # Prefills: their blocks were allocated at admission.
        behind = [sequence for sequence in running if sequence.total - sequence.computed > 1]
        for sequence in places.waiting.in_turn(behind, now):
            budget -= self._spend(sequence, budget, scheduled)
        # After a preemption memory is short: admitting now would only preempt again.
        while budget > 0 and preemptions == places.preemptions:
            admitted = self._admit(now)
            if admitted is None:
                break
            budget -= self._spend(admitted, budget, scheduled)
        return scheduled

    def _fail_alone(self, sequence: Sequence, error: str) -> None:
        self.finish(sequence, "error", error)

    def _spend(self, sequence: Sequence, budget: int, scheduled: Chosen) -> int:
        count = min(budget, sequence.total - sequence.computed)
        if count > 0:
            scheduled.append((sequence, count))
            self._charge(sequence, sequence.computed + count)
        return count

    def _charge(self, sequence: Sequence, end: int) -> None:
        # Tokens recomputed after a preemption were paid for the first time.
        if end > sequence.served:
            self.places.waiting.charge(sequence.request.tenant, end - sequence.served)
            sequence.served = end

    def _advance(self, part: Part, first: int, last: int, token_ids: Seq[int], reader: TokenReader) -> Update:
        """Take the results of one part, whose rows are `first` to `last` of the plan's."""
        sequence, state, size = part.sequence, part.sequence.state, self.config.block_size
        first_full = sequence.computed // size
        update = advance(part, first, token_ids[first:last], self._limits, reader)
        if part.drafted:
            self._charge(sequence, sequence.computed)
        if self.config.prefix_cache:
            for index in range(first_full, sequence.computed // size):
                self.pool.register(sequence.blocks[index], sequence.key(index, size))
        if update.reason is not None:
            self.finish(sequence, update.reason)
        elif part.drafted:
            self.planner.drop_draft(sequence)
        if state.held:
            self._release_held(state)
        return update

    def _forget(self, state: RequestState) -> None:
        request = state.request
        del self._requests[request.id]
        self._unstarted.pop(request.id, None)
        self._leased.pop(request.id, None)
        self.places.waiting.leave(request.tenant)
        if request.deadline is not None:
            entry = (request.deadline, state.sequences[0].rank.order, request.id)
            del self._deadlines[bisect_left(self._deadlines, entry)]

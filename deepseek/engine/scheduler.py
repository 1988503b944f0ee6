"""Which tokens are computed in the next step: one loop over one budget.

Every sequence has `computed` tokens chasing `total` tokens (the idea of vLLM's V1 scheduler). A step
has a budget of tokens, spent on running sequences first: those one token behind get that token (decode),
then those further behind share the rest (chunked prefill); what is left admits waiting ones, by
priority and fair share. Prefix hits only move where `computed` starts; preemption only sets it back to 0.
What is left after all that may be spent on drafts: they never take a block or a place from anyone.

Why it cannot stall: no request is admitted that could not run alone in the whole pool; running sequences
are kept in one fixed order of importance; if the pool is full the last of them gives way. So the first
always advances and ends, and the next one becomes first.

    plan = scheduler.schedule(now)                 # None: nothing is alive, or nothing may run now
    updates = scheduler.apply(plan, token_per_row, drafts)
    for state in scheduler.take_ended(): ...       # each request exactly once

Not thread-safe: one thread makes all calls.
"""

from __future__ import annotations

import logging
import secrets
from bisect import bisect_left, insort
from collections.abc import Callable
from collections.abc import Sequence as Seq
from operator import attrgetter
from typing import TYPE_CHECKING

from deepseek.core.engine import FinishReason, Load, Request
from deepseek.core.errors import INTERRUPTS, AdmissionError, EngineError
from deepseek.core.sampling import MAX_SEED
from deepseek.engine.audit import check_scheduler
from deepseek.engine.blocks import BlockPool, cache_root
from deepseek.engine.fairness import FairQueue
from deepseek.engine.plan import DRAFT_NOW, Part, StepPlan, build_plan
from deepseek.engine.progress import Limits, TokenReader, Update, describe_failure, gain, trusting
from deepseek.engine.request import RequestState, Sequence, Status
from deepseek.engine.result import FAILED_ROW
from deepseek.engine.scheduler_config import SchedulerConfig
from deepseek.engine.speculation.policy import Speculation

if TYPE_CHECKING:
    from deepseek.engine.grammar.matcher import Matcher

__all__ = ["FAILED_ROW", "Scheduler", "SchedulerConfig", "TokenReader", "Update"]

log = logging.getLogger("deepseek.engine")


class Scheduler:
    def __init__(
        self, config: SchedulerConfig, *, draw_seed: Callable[[], int] = lambda: secrets.randbelow(MAX_SEED)
    ) -> None:
        self.config = config
        self.max_length = min(config.max_model_len, config.num_blocks * config.block_size)
        self.pool = BlockPool(config.num_blocks, config.block_size)
        self.preemptions = 0
        self.drafted_tokens = self.accepted_tokens = 0
        self.weights_version = 0
        self.draining = False
        """While true, no request is started; those that have been go on to their end."""
        self.paused = False
        """While true, nothing is computed; deadlines still hold."""
        self._draw_seed = draw_seed
        self._requests: dict[str, RequestState] = {}
        self._unstarted: dict[str, RequestState] = {}
        self._waiting = FairQueue(config.ageing_s)
        self._running: list[Sequence] = []  # sorted by rank
        self._deadlines: list[tuple[float, int, str]] = []  # sorted
        self._ended: list[RequestState] = []
        self._limits = Limits(self.max_length, config.eos_token_ids)
        self._speculation = Speculation(config.speculation, config.max_draft_tokens)
        self._planned: list[Part] | None = None
        self._decoded: tuple[int, bool, int] | None = None  # the last step: sequences, any drafts, tokens gained
        self._step = 0
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
        generates = request.task == "generate" and request.sampling.max_tokens > 0
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
        if sequence.status is Status.RUNNING:
            self._stop_running(sequence)
        elif sequence in state.held:
            state.held.remove(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.status = Status.FINISHED
        sequence.finish_reason = reason
        if error is not None:
            state.note_error(error)
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
        if self.paused:
            return None

        # Whatever a sequence does wrong while its part is prepared ends it alone, and leaves room for others.
        while chosen := self._choose(now):
            parts = self._prepare(chosen)
            plan = self._plan(parts) if parts else None
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
        parts = self._take_planned(plan)
        if len(token_ids) != plan.num_rows:
            self._planned = parts
            raise EngineError(
                "wrong number of sampled tokens",
                where=f"step {plan.step}",
                found=len(token_ids),
                expected=plan.num_rows,
            )
        if plan.draft_layer == DRAFT_NOW:
            self._speculation.hear(drafts)
        updates = []
        owners = plan.row_sequence.tolist()
        row, gained, drafted, plain = 0, 0, False, True
        for index, part in enumerate(parts):
            first = row
            while row < len(owners) and owners[row] == index:
                row += 1
            plain = plain and part.num_tokens == part.drafted + 1
            drafted = drafted or part.drafted > 0
            sequence = part.sequence
            if sequence.status is Status.RUNNING:
                update = self._advance(part, first, row, token_ids, reader)
                gained += len(update.token_ids)
                self.drafted_tokens += part.drafted
                self.accepted_tokens += max(0, len(update.token_ids) - 1)
                if drafts is not None and sequence.status is Status.RUNNING:
                    sequence.draft = drafts[index]
                updates.append(update)
        self._decoded = (len(parts), drafted, gained) if plain and gained else None
        return updates

    def observe(self, seconds: float) -> None:
        """How long the last step took, all in all: what drafts are judged by."""
        if self._decoded is not None:
            self._speculation.observe(*self._decoded, seconds)
            self._decoded = None

    def split(self, plan: StepPlan) -> list[tuple[Sequence, StepPlan | None]]:
        """The step that is under way as one for each of its B sequences; None for those that have ended meanwhile.

        What they give can be joined, and applied as the step's own.
        """
        if self._planned is None:
            raise EngineError("no step is under way", where="plan.step", found=plan.step)
        return [
            (
                part.sequence,
                self._lay_out(plan.step, [part]) if part.sequence.status is Status.RUNNING else None,
            )
            for part in self._planned
        ]

    def fail(self, plan: StepPlan, error: str) -> None:
        """The worker could not compute this step: its sequences end with "error", all others go on."""
        for part in self._take_planned(plan):
            self.finish(part.sequence, "error", error)

    def set_weights_version(self, version: int) -> None:
        """From now on compute with other weights: everything alive is recomputed, nothing cached before is found.

        Between steps only.
        """
        if self._planned is not None:
            raise EngineError("weights cannot change while a step runs", where=f"step {self._step}")
        self.weights_version = version
        self._set_back_all()
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
        if self._planned is not None:
            raise EngineError("a step is under way", where=f"step {self._step}")
        self._set_back_all()
        self.paused = True

    def resume(self) -> None:
        self.paused = False

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
            prefix_query_tokens=self.pool.stats.queries,
            prefix_hit_tokens=self.pool.stats.hits,
            preemptions=self.preemptions,
            weights_version=self.weights_version,
            sleeping=self.paused,
            prefix_evicted_blocks=self.pool.stats.evictions,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            speculating=self._speculation.drafting,
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
        return self._waiting.served(tenant)

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
            self._waiting.push(sequence)
        state.held = []

    def _admit(self, now: float) -> Sequence | None:
        """Move the waiting sequence whose turn it is to the running ones, if a place and blocks are free.

        If its blocks are not, nobody overtakes it: a long prompt is not starved by short ones.
        """
        if len(self._running) >= self.config.max_sequences:
            return None
        sequence = self._waiting.peek(now, started=self.draining)
        if sequence is None:
            return None
        size = self.config.block_size
        full = self._readable_tokens(sequence) // size if self.config.prefix_cache else 0
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

    def _readable_tokens(self, sequence: Sequence) -> int:
        """How far the prefix cache may be read: up to the first row that something is still wanted of."""
        # The last token is always computed: there must be a row to sample from.
        state, last = sequence.state, sequence.total - 1
        if not state.reads_prompt or sequence.choice > 0 or (state.embeds and state.request.pooling == "last"):
            return last
        return min(last, sequence.reported)

    def _choose(self, now: float) -> list[tuple[Sequence, int]]:
        """Which sequences compute how many tokens now, apart from drafts."""
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
        return scheduled

    def _prepare(self, chosen: list[tuple[Sequence, int]]) -> list[Part]:
        """Add drafts, as far as budget and blocks are left over, and what grammars allow."""
        speculation = self._speculation
        speculation.begin([sequence for sequence, _ in chosen])
        budget = self.config.max_tokens_per_step - sum([count for _, count in chosen]) if speculation.on else 0
        parts = []
        for sequence, count in chosen:
            part = Part(sequence, count)
            if part.samples and (speculation.on or sequence.grammar is not None):
                try:
                    drafted = self._draft(sequence, budget) if count == 1 and budget > 0 else 0
                    masks = None if sequence.grammar is None else sequence.grammar.masks(sequence.draft[:drafted])
                except INTERRUPTS:
                    raise
                except BaseException as error:
                    self._fail_alone(sequence, "its grammar failed", error)
                    continue
                budget -= drafted
                part = Part(sequence, count + drafted, drafted, masks)
            parts.append(part)
        return parts

    def _plan(self, parts: list[Part]) -> StepPlan | None:
        """The step of these parts; None if one of them could not be laid out, and has been ended."""
        try:
            plan = self._lay_out(self._step + 1, parts)
        except Exception as failure:
            sound = []
            for part in parts:
                try:
                    self._lay_out(self._step + 1, [part])
                    sound.append(part)
                except Exception as error:
                    self._fail_alone(part.sequence, "its step could not be prepared", error)
            for part in sound:
                self._drop_draft(part.sequence)
            if len(sound) < len(parts):
                return None
            # Each can be laid out, but not beside the others: the most important one goes alone.
            log.error("a step could not be laid out; one sequence is computed", exc_info=failure)
            part = parts[0]
            parts = [
                Part(part.sequence, part.num_tokens - part.drafted, 0, None if part.masks is None else part.masks[:1])
            ]
            plan = self._lay_out(self._step + 1, parts)
        self._step += 1
        self._planned = parts
        return plan

    def _lay_out(self, step: int, parts: list[Part]) -> StepPlan:
        return build_plan(
            step,
            parts,
            self.config.block_size,
            end_ids=self.config.eos_token_ids,
            draft_layer=self._speculation.draft_layer,
            propose=self._speculation.proposals([part.sequence for part in parts]),
        )

    def _drop_draft(self, sequence: Sequence) -> None:
        """Forget its guesses, and the blocks that only they need."""
        sequence.draft = []
        needed = -(-sequence.total // self.config.block_size)
        self.pool.release(sequence.blocks[needed:])
        del sequence.blocks[needed:]

    def _draft(self, sequence: Sequence, budget: int) -> int:
        """Guess what the sequence says next; how many tokens of it there is room for."""
        limit = min(budget, sequence.request.sampling.max_tokens - sequence.generated, self.max_length - sequence.total)
        # One token is gained in any case, and the last one allowed needs no row of its own.
        draft = self._speculation.guess(sequence, limit - 1) if limit > 1 else []
        if draft:
            room = len(sequence.blocks) * self.config.block_size - sequence.total
            while room < len(draft) and (fresh := self.pool.allocate(1)) is not None:
                sequence.blocks.extend(fresh)
                room += self.config.block_size
            del draft[room:]
        sequence.draft = draft
        return len(draft)

    def _fail_alone(self, sequence: Sequence, what: str, error: BaseException) -> None:
        self.finish(sequence, "error", describe_failure(sequence, what, error))

    def _spend(self, sequence: Sequence, budget: int, scheduled: list[tuple[Sequence, int]]) -> int:
        count = min(budget, sequence.total - sequence.computed)
        if count > 0:
            scheduled.append((sequence, count))
            self._charge(sequence, sequence.computed + count)
        return count

    def _charge(self, sequence: Sequence, end: int) -> None:
        # Tokens recomputed after a preemption were paid for the first time.
        if end > sequence.served:
            self._waiting.charge(sequence.request.tenant, end - sequence.served)
            sequence.served = end

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

    def _set_back_all(self) -> None:
        while self._running:
            self._preempt(self._running[-1])
        self.pool.forget()

    def _stop_running(self, sequence: Sequence) -> None:
        index = bisect_left(self._running, sequence.rank, key=attrgetter("rank"))
        assert self._running[index] is sequence
        del self._running[index]
        self.pool.release(sequence.blocks)
        del sequence.blocks[:]
        sequence.computed = 0
        sequence.draft = []
        sequence.holes = False

    def _take_planned(self, plan: StepPlan) -> list[Part]:
        if self._planned is None or plan.step != self._step:
            raise EngineError("not the step that is under way", where="plan.step", found=plan.step, expected=self._step)
        planned, self._planned = self._planned, None
        return planned

    def _advance(self, part: Part, first: int, last: int, token_ids: Seq[int], reader: TokenReader) -> Update:
        """Take the results of one part, whose rows are `first` to `last` of the plan's."""
        sequence, count, drafted, _ = part
        state, size = sequence.state, self.config.block_size
        reason: FinishReason | None = None
        gained: list[int] = []
        positions = range(0)
        first_full = sequence.computed // size
        end = sequence.computed + count - drafted
        sampled = last
        if part.samples:
            sampled = last - drafted - 1
            try:
                gained, reason = gain(sequence, token_ids[sampled:last], drafted, self._limits, reader, sampled)
            except Exception as error:
                state.note_error(describe_failure(sequence, "its tokens could not be taken", error))
                reason = "error"
        elif end == sequence.total:
            reason = "stop" if state.embeds else "length"
        if first < sampled:
            if FAILED_ROW in token_ids[first:sampled]:
                state.note_error("the prompt gave values that are not numbers")
                reason = "error"
            final = min(end, sequence.prompt_tokens if state.embeds else sequence.prompt_tokens - 1)
            positions = range(final - (sampled - first), final)
        if state.reads_prompt:
            sequence.reported = max(sequence.reported, min(end, sequence.prompt_tokens))
        sequence.draft = []
        # Of the drafts those that were right are in the cache now, as any other token.
        sequence.computed = end + max(0, len(gained) - 1)
        if drafted:
            self._charge(sequence, sequence.computed)
        if self.config.prefix_cache:
            for index in range(first_full, sequence.computed // size):
                self.pool.register(sequence.blocks[index], sequence.key(index, size))
        if reason is not None:
            self.finish(sequence, reason)
        elif drafted:
            self._drop_draft(sequence)
        if state.held:
            self._release_held(state)
        return Update(sequence, gained, reason, positions, first)

    def _forget(self, state: RequestState) -> None:
        request = state.request
        del self._requests[request.id]
        self._unstarted.pop(request.id, None)
        self._waiting.leave(request.tenant)
        if request.deadline is not None:
            entry = (request.deadline, state.sequences[0].rank.order, request.id)
            del self._deadlines[bisect_left(self._deadlines, entry)]

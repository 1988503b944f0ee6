"""What was chosen for a step, made into the plan that a worker gets: guesses added, grammars asked, arrays laid out.

Whatever a sequence does wrong on the way ends it alone. One step at a time: `plan`, then `take`, which says what it
was made of, or `split`, where it has to be computed piece by piece.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq

from deepseek.core.errors import INTERRUPTS, EngineError
from deepseek.engine.blocks import BlockPool
from deepseek.engine.plan import Part, StepPlan, build_plan
from deepseek.engine.progress import describe_failure
from deepseek.engine.request import Sequence, Status
from deepseek.engine.scheduler_config import SchedulerConfig
from deepseek.engine.speculation.policy import Speculation

log = logging.getLogger("deepseek.engine")

Chosen = list[tuple[Sequence, int]]
"""Sequences, and how many tokens of each are computed, apart from drafts."""


class Planner:
    """max_length: of any sequence, in tokens. fail: ends a sequence with an error, of this text.

    step: number of the last plan. under_way: its parts, until they are taken.
    drafted_tokens, accepted_tokens: since the start, guesses that were computed, and those that became output.
    """

    def __init__(
        self, config: SchedulerConfig, pool: BlockPool, max_length: int, fail: Callable[[Sequence, str], None]
    ) -> None:
        self.speculation = Speculation(config.speculation, config.max_draft_tokens)
        self.drafted_tokens = self.accepted_tokens = 0
        self.step = 0
        self.under_way: list[Part] | None = None
        self._config, self._pool, self._max_length, self._fail = config, pool, max_length, fail
        self._decoded: tuple[int, bool, int] | None = None  # the last step: sequences, any drafts, tokens gained

    def plan(self, chosen: Chosen) -> StepPlan | None:
        """The next step. None if nothing is left of it: some of those chosen have then been ended."""
        parts = self._prepare(chosen)
        return self._lay_out_or_fail(parts) if parts else None

    def take(self, plan: StepPlan) -> list[Part]:
        """The parts of the step that is under way, which is over with this."""
        if self.under_way is None or plan.step != self.step:
            raise EngineError("not the step that is under way", where="plan.step", found=plan.step, expected=self.step)
        parts, self.under_way = self.under_way, None
        return parts

    def split(self, plan: StepPlan) -> list[tuple[Sequence, StepPlan | None]]:
        """The step that is under way as one for each of its B sequences; None for those that have ended meanwhile.

        What they give can be joined, and applied as the step's own.
        """
        if self.under_way is None:
            raise EngineError("no step is under way", where="plan.step", found=plan.step)
        return [
            (
                part.sequence,
                self._lay_out(plan.step, [part]) if part.sequence.status is Status.RUNNING else None,
            )
            for part in self.under_way
        ]

    def note(self, parts: Seq[Part], drafted: int, accepted: int, gained: int, plain: bool) -> None:
        """What became of the step of these parts: guesses computed, those that were right, tokens gained in all.

        plain: it read no prompts; only then does its time say something about drafts.
        """
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted
        self._decoded = (len(parts), any(part.drafted for part in parts), gained) if plain and gained else None

    def observe(self, seconds: float) -> None:
        """How long the last step took, all in all: what drafts are judged by."""
        if self._decoded is not None:
            self.speculation.observe(*self._decoded, seconds)
            self._decoded = None

    def drop_draft(self, sequence: Sequence) -> None:
        """Forget its guesses, and the blocks that only they need."""
        sequence.draft = []
        needed = -(-sequence.total // self._config.block_size)
        self._pool.release(sequence.blocks[needed:])
        del sequence.blocks[needed:]

    def _prepare(self, chosen: Chosen) -> list[Part]:
        """Add drafts, as far as budget and blocks are left over, and what grammars allow."""
        speculation = self.speculation
        speculation.begin([sequence for sequence, _ in chosen])
        budget = self._config.max_tokens_per_step - sum([count for _, count in chosen]) if speculation.on else 0
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

    def _draft(self, sequence: Sequence, budget: int) -> int:
        """Guess what the sequence says next; how many tokens of it there is room for."""
        state = sequence.state
        limit = min(budget, state.request.sampling.max_tokens - sequence.generated, self._max_length - sequence.total)
        if state.lease is not None:
            limit = min(limit, state.spare + 1)
        # One token is gained in any case, and the last one allowed needs no row of its own.
        draft = self.speculation.guess(sequence, limit - 1) if limit > 1 else []
        if draft:
            room = len(sequence.blocks) * self._config.block_size - sequence.total
            while room < len(draft) and (fresh := self._pool.allocate(1)) is not None:
                sequence.blocks.extend(fresh)
                room += self._config.block_size
            del draft[room:]
        sequence.draft = draft
        if state.lease is not None:
            state.spare -= len(draft)
        return len(draft)

    def _lay_out_or_fail(self, parts: list[Part]) -> StepPlan | None:
        """The step of these parts; None if one of them could not be laid out, and has been ended."""
        try:
            plan = self._lay_out(self.step + 1, parts)
        except Exception as failure:
            sound = []
            for part in parts:
                try:
                    self._lay_out(self.step + 1, [part])
                    sound.append(part)
                except Exception as error:
                    self._fail_alone(part.sequence, "its step could not be prepared", error)
            for part in sound:
                self.drop_draft(part.sequence)
            if len(sound) < len(parts):
                return None
            # Each can be laid out, but not beside the others: the most important one goes alone.
            log.error("a step could not be laid out; one sequence is computed", exc_info=failure)
            part = parts[0]
            parts = [
                Part(part.sequence, part.num_tokens - part.drafted, 0, None if part.masks is None else part.masks[:1])
            ]
            plan = self._lay_out(self.step + 1, parts)
        self.step += 1
        self.under_way = parts
        return plan

    def _lay_out(self, step: int, parts: list[Part]) -> StepPlan:
        return build_plan(
            step,
            parts,
            self._config.block_size,
            end_ids=self._config.eos_token_ids,
            draft_layer=self.speculation.draft_layer,
            propose=self.speculation.proposals([part.sequence for part in parts]),
        )

    def _fail_alone(self, sequence: Sequence, what: str, error: BaseException) -> None:
        self._fail(sequence, describe_failure(sequence, what, error))

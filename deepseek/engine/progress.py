"""What a step's results make of a sequence: which tokens it gains, and whether it ends."""

from __future__ import annotations

import logging
from collections.abc import Collection
from collections.abc import Sequence as Seq
from typing import NamedTuple, Protocol

from deepseek.core.engine import FinishReason
from deepseek.core.errors import INTERRUPTS
from deepseek.engine.plan import Part
from deepseek.engine.request import Sequence
from deepseek.engine.result import FAILED_ROW
from deepseek.engine.speculation.policy import confirmed

log = logging.getLogger("deepseek.engine")


class Update(NamedTuple):
    """What one step did for one sequence.

    token_ids: what it gained, in order; empty if only a part of the prompt was computed. reason: why it ended.
    positions: of the prompt, those whose scores or hidden states the step brought; row: where among the plan's R rows
    the first of them is.
    """

    sequence: Sequence
    token_ids: list[int]
    reason: FinishReason | None
    positions: range
    row: int


class Limits(NamedTuple):
    """Where any sequence ends: its length in tokens, and the model's end-of-sequence ids."""

    max_length: int
    eos_token_ids: Collection[int]


class TokenReader(Protocol):
    """Told each token as a sequence gains it, before the next one is looked at."""

    def __call__(
        self, sequence: Sequence, token_id: int, row: int, reason: FinishReason | None, hidden: bool
    ) -> FinishReason | None:
        """Whether, and why, the sequence ends with this token.

        row: its row among the plan's R. reason: why it ends as far as the scheduler knows. hidden: the token is an
        end or stop id and not part of the text.
        """
        ...


def trusting(
    sequence: Sequence, token_id: int, row: int, reason: FinishReason | None, hidden: bool
) -> FinishReason | None:
    """Reads nothing."""
    return reason


def advance(part: Part, first: int, drawn: Seq[int], limits: Limits, reader: TokenReader) -> Update:
    """Move a sequence by what a step brought for its part: the tokens that it gains, and what of it is computed now.

    first: the first of the part's rows among the plan's. drawn: the token (or FAILED_ROW) of each of them.
    """
    sequence, count, drafted, _ = part
    state = sequence.state
    reason: FinishReason | None = None
    gained: list[int] = []
    positions = range(0)
    end = sequence.computed + count - drafted
    read = len(drawn)  # rows that say something about the prompt; those that sample come last
    if part.samples:
        read -= drafted + 1
        try:
            gained, reason = gain(sequence, drawn[read:], drafted, limits, reader, first + read)
        except Exception as error:
            state.note_error(describe_failure(sequence, "its tokens could not be taken", error))
            reason = "error"
    elif end == sequence.total:
        reason = "stop" if state.embeds else "length"
    if read:
        if FAILED_ROW in drawn[:read]:
            state.note_error("the prompt gave values that are not numbers")
            reason = "error"
        final = min(end, sequence.prompt_tokens if state.embeds else sequence.prompt_tokens - 1)
        positions = range(final - read, final)
    if state.reads_prompt:
        sequence.reported = max(sequence.reported, min(end, sequence.prompt_tokens))
    sequence.draft = []
    # Of the drafts those that were right are in the cache now, as any other token.
    sequence.computed = end + max(0, len(gained) - 1)
    return Update(sequence, gained, reason, positions, first)


def gain(
    sequence: Sequence, drawn: Seq[int], drafted: int, limits: Limits, reader: TokenReader, row: int
) -> tuple[list[int], FinishReason | None]:
    """Append to the sequence what was drawn at its rows, as far as it counts. The tokens, and why it ends, if it does.

    drawn: a token, or FAILED_ROW, for the row of its last token and for each of the first `drafted` of its draft, from
    the plan's row `row` on. What comes after the end, or after a wrong draft, is as if it had never been drawn.
    """
    state, sampling, grammar = sequence.state, sequence.state.request.sampling, sequence.grammar
    gained: list[int] = []
    for index in range(1 + (confirmed(sequence.draft[:drafted], drawn) if drafted else 0)):
        token_id = drawn[index]
        if token_id == FAILED_ROW:
            state.note_error("the next token could not be sampled")
            return gained, "error"
        sequence.token_ids.append(token_id)
        gained.append(token_id)
        reason: FinishReason | None = None
        # Where a grammar rules, it allows an end only where the text may end.
        hidden = token_id in sampling.stop_token_ids or (
            token_id in limits.eos_token_ids and (grammar is not None or not sampling.ignore_eos)
        )
        if hidden:
            reason = "stop"
        elif grammar is not None:
            try:
                grammar.accept(token_id)
                reason = "stop" if grammar.done else None
            except INTERRUPTS:
                raise
            except BaseException as error:
                state.note_error(describe_failure(sequence, "its grammar failed", error))
                return gained, "error"
        if reason is None and (sequence.generated >= sampling.max_tokens or sequence.total >= limits.max_length):
            reason = "length"
        reason = reader(sequence, token_id, row + index, reason, hidden)
        if reason is not None:
            return gained, reason
    return gained, None


def describe_failure(sequence: Sequence, what: str, error: BaseException) -> str:
    """What its request is told; the rest is for the log."""
    log.error("request %s: %s; it ends with an error", sequence.request.id, what, exc_info=error)
    return f"{what}: {type(error).__name__}"

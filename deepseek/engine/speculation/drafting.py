"""Drafts from the model's own multi-token-prediction head (DeepSeek-V3 technical report, section 2.2).

The draft layer sees, at each position, the model's last hidden state there and the token that follows, and predicts the
token after that. It has keys and values of its own, in the layer of the cache after the model's last. They must have no
holes, so it runs over every token; at a place whose next token has just been drawn, its output begins a draft. To guess
further it is fed its own hidden state and its own guess (as EAGLE does: Li et al., 2024). What it writes then is
overwritten when those tokens, or others in their place, are computed.

A draft is drawn with the parameters and the noise of the row that will check it, so that it agrees as often as the two
distributions do, at any temperature. The last token of a cached block was computed with the token that then came next;
after a prefix hit that may be another one. Like everything here this can cost agreement, never correctness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from deepseek.engine.plan import KIND_SAMPLE, StepPlan
from deepseek.engine.result import FAILED_ROW
from deepseek.engine.sampling.plan import SamplingPlan, select_rows
from deepseek.engine.sampling.sampler import sample
from deepseek.engine.speculation.policy import confirmed
from deepseek.models.context import Paged
from deepseek.models.transformer import Model


def propose(
    model: Model, plan: StepPlan, context: Paged, hidden: Tensor, token_ids: Sequence[int], *, guess: bool = True
) -> list[list[int]]:
    """Run the draft layer over a step and guess on: for each of the plan's B sequences up to `plan.propose` tokens.

    guess: False only keeps the layer's cache without holes, and the drafts are empty.
    hidden: float32 [T, D], the model's output for the step's tokens. token_ids: what was drawn at its R rows.
    """
    drafts: list[list[int]] = [[] for _ in range(plan.num_sequences)]
    next_ids = np.roll(plan.token_ids, -1)
    ends = plan.cu_q[1:] - 1
    next_ids[ends] = np.maximum(plan.next_ids, 0)
    heads = _heads(plan, token_ids)
    for head in heads:
        next_ids[head.token] = head.drawn
    drafted = model.draft(hidden, torch.from_numpy(next_ids), context)
    heads = [head for head in heads if plan.propose[head.sequence]] if guess else []
    if not heads:
        return drafts

    state = drafted[[head.token for head in heads]]  # [H, D]
    rules = _ahead(plan.sampling, [head.row for head in heads])
    most = int(plan.propose.max())
    for ahead in range(1, most + 1):
        drawn = sample(model.logits(state), replace(rules, position=rules.position + ahead)).token_ids
        going: list[int] = []
        for place, (head, token) in enumerate(zip(heads, drawn, strict=True)):
            if token != FAILED_ROW:
                drafts[head.sequence].append(token)
                # Its keys and values need a slot of the sequence's own.
                owned = -(-int(plan.lengths[head.sequence]) // context.block_size) * context.block_size
                if head.position + ahead < owned and ahead < plan.propose[head.sequence]:
                    going.append(place)
        if not going:
            break
        if len(going) < len(heads):
            heads, state, rules = [heads[i] for i in going], state[going], select_rows(rules, np.array(going))
        ids = torch.tensor([drawn[place] for place in going])
        state = model.draft(state, ids, _context(plan, context, heads, ahead))
    return drafts


class _Head:
    """Where a sequence's known tokens end: the step's last token that counts, its row, and the token drawn there."""

    __slots__ = ("drawn", "position", "row", "sequence", "token")

    def __init__(self, sequence: int, token: int, row: int, drawn: int, position: int) -> None:
        self.sequence, self.token, self.row, self.drawn, self.position = sequence, token, row, drawn, position


def _heads(plan: StepPlan, token_ids: Sequence[int]) -> list[_Head]:
    heads = []
    owners, kinds, rows = plan.row_sequence.tolist(), plan.row_kind.tolist(), plan.rows.tolist()
    for last, (sequence, kind) in enumerate(zip(owners, kinds, strict=True)):
        if kind != KIND_SAMPLE or (last + 1 < len(owners) and owners[last + 1] == sequence):
            continue
        count = int(plan.drafted[sequence])
        first, end = last - count, rows[last]
        right = confirmed(plan.token_ids[end - count + 1 : end + 1].tolist(), token_ids[first : last + 1])
        row = first + right
        if token_ids[row] != FAILED_ROW:
            heads.append(_Head(sequence, rows[row], row, token_ids[row], int(plan.positions[rows[row]])))
    return heads


def _ahead(plan: SamplingPlan, rows: list[int]) -> SamplingPlan:
    """How to draw at these rows without what is known of the very next token only: masks, and reports."""
    chosen = select_rows(plan, np.array(rows))
    nothing = np.full(len(rows), -1, np.int32)
    return replace(chosen, mask_of_row=nothing, masks=plan.masks[:0], logprobs=nothing)


def _context(plan: StepPlan, context: Paged, heads: list[_Head], ahead: int) -> Paged:
    """One token for each head, `ahead` of its last known one."""
    size = context.block_size
    positions = np.array([head.position + ahead for head in heads], np.int64)
    tables = plan.block_tables[[head.sequence for head in heads]]
    places = np.arange(len(heads))
    slots = tables[places, positions // size].astype(np.int64) * size + positions % size
    return replace(
        context,
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(slots),
        seq_of_token=torch.from_numpy(places.astype(np.int32)),
        block_tables=torch.from_numpy(tables),
        adapters=None,
    )

"""Next-token loss and the multi-token-prediction loss, each a sum over counted tokens divided by their number.

A batch is flat: sequences laid end to end, `counted` [T] saying which *tokens* count as targets. Position i predicts
token i + 1 of its own sequence; the draft layer, from position i and token i + 1, predicts token i + 2
(V3 technical report, section 2.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek.models.context import Packed
from deepseek.models.transformer import Model
from deepseek.training.head_loss import head_cross_entropy


@dataclass(frozen=True)
class Batch:
    """tokens int64 [T], counted bool [T] (is this token a target?), and how they are packed."""

    tokens: Tensor
    counted: Tensor
    context: Packed


def shifted_rows(batch: Batch, ahead: int) -> tuple[Tensor, Tensor]:
    """Rows whose token `ahead` places later is counted and in the same sequence, with those tokens: both int64 [N]."""
    total = batch.tokens.shape[0]
    rows = torch.arange(max(total - ahead, 0))
    target = rows + ahead
    same_sequence = batch.context.positions[target] >= ahead
    rows = rows[same_sequence & batch.counted[target]]
    return rows, batch.tokens[rows + ahead]


def target_counts(batches: Iterable[Batch]) -> tuple[int, int]:
    """How many tokens the next-token loss and the draft loss count over all these batches (at least 1 each)."""
    batches = list(batches)
    main, draft = (sum(shifted_rows(batch, ahead)[0].shape[0] for batch in batches) for ahead in (1, 2))
    return max(1, main), max(1, draft)


def language_loss(
    model: Model, batch: Batch, mtp_weight: float, counts: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(total, next-token loss, draft loss or None), in nats, each a sum divided by its count.

    counts: of the whole step when `batch` is a part of it, so that the parts' losses and gradients add up to the whole's.
    """
    main_count, draft_count = counts or target_counts([batch])
    hidden = model(batch.tokens, batch.context)
    rows, targets = shifted_rows(batch, 1)
    main = head_cross_entropy(hidden[rows], model.head_weight, targets, main_count, model.compute_dtype)
    if not len(model.mtp) or mtp_weight == 0:
        return main, main, None
    next_ids = torch.cat(
        [batch.tokens[1:], batch.tokens[:1]]
    )  # a sequence's last row gets a wrong id and is not counted
    drafted = model.draft(hidden, next_ids, batch.context)
    rows, targets = shifted_rows(batch, 2)
    draft = head_cross_entropy(drafted[rows], model.head_weight, targets, draft_count, model.compute_dtype)
    return main + mtp_weight * draft, main, draft

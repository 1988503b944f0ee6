"""From logits to token ids, one row at a time, so that a row's token never depends on its neighbours.

    sample(logits, plan, kinds, targets) -> Sampled

The order, as in vLLM up to the temperature and as in transformers from there on: logit bias and bans; repetition,
then frequency and presence penalty; the grammar's mask; temperature; top-k; top-p; min-p. Log-probabilities are
those of the raw logits at temperature 1, whatever was done to them for the draw.

Noise is counter-based: Philox (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011) keyed by
(seed, choice), counted by (position, draw). The same request therefore draws the same numbers alone, in a batch,
after a preemption, or in another process. A token is the point where the cumulative distribution passes the drawn
number; probabilities are float64. Everything but the greedy choice, which no neighbour can touch, is computed on
one row alone: a sum over rows side by side may round differently.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from deepseek.core.engine import TokenLogprob
from deepseek.engine.result import FAILED_ROW
from deepseek.engine.sampling.draw import Floats, draw, draw_uniform, largest, scratch_for
from deepseek.engine.sampling.plan import KIND_EMBED, KIND_SAMPLE, KIND_SCORE, Int32, Int64, SamplingPlan

Row = npt.NDArray[np.float32]

log = logging.getLogger("deepseek.engine")


@dataclass(frozen=True, slots=True)
class Sampled:
    """One entry for each of the plan's R rows.

    token_ids: the token drawn; of a score row its target. FAILED_ROW where the logits were not numbers, where
    nothing was allowed, and for embed rows. logprobs: that token's, if asked for; a score row's always.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprob | None]


def sample(logits: Tensor, plan: SamplingPlan, kinds: Int32 | None = None, targets: Int64 | None = None) -> Sampled:
    """Draw, or score, a token for each row of the plan.

    logits: float32 [L, V], the rows whose kind is not KIND_EMBED, in the plan's order; not changed.
    kinds, targets: [R], each row's kind (None: all KIND_SAMPLE) and the token to score.
    Ids that the vocabulary lacks have no effect in biases and penalties; as a target they fail the row.
    """
    rows: npt.NDArray[np.float32] = logits.numpy()
    count = len(plan.temperature)
    # Lists: on the few rows of a decoding step numpy's calls would cost more than they do.
    kind_of = [KIND_SAMPLE] * count if kinds is None else kinds.tolist()
    which = [row for row, kind in enumerate(kind_of) if kind != KIND_EMBED]
    token_ids = [FAILED_ROW] * count
    logprobs: list[TokenLogprob | None] = [None] * count
    if not which:
        return Sampled(token_ids, logprobs)
    best = rows.argmax(axis=1).tolist()  # NaN counts as the largest
    special = _special(plan)
    scratch: Floats | None = None
    for index, row_index in enumerate(which):
        kind, token = kind_of[row_index], best[index]
        if not math.isfinite(rows[index, token]):
            continue
        if kind == KIND_SAMPLE and not special[row_index]:
            token_ids[row_index] = token
            continue
        target = FAILED_ROW if targets is None else int(targets[row_index])
        if scratch is None:
            scratch = scratch_for(rows.shape[1])
        try:
            token, logprob = _one(rows[index], token, plan, row_index, kind, target, scratch)
        except Exception:
            log.exception("a row could not be sampled; its sequence ends with an error")
            continue
        token_ids[row_index], logprobs[row_index] = token, logprob
    return Sampled(token_ids, logprobs)


def describe(row: Row, token: int, alternatives: int, scratch: Floats | None = None) -> TokenLogprob:
    """The token's log-probability at temperature 1 over the whole vocabulary, and those of the likeliest tokens."""
    weights = (scratch_for(len(row)) if scratch is None else scratch)[0]
    best = float(row.max())
    np.copyto(weights, row)
    weights -= best
    log_total = best + float(np.log(np.exp(weights, out=weights).sum()))
    top = largest(row, alternatives).tolist() if alternatives else ()
    return TokenLogprob(token, float(row[token]) - log_total, tuple((i, float(row[i]) - log_total) for i in top))


def _special(plan: SamplingPlan) -> list[bool]:
    """Which rows ask for more than the best of their logits. [R]"""
    biased, seen = plan.bias_start.tolist(), plan.seen_start.tolist()
    asked = zip(plan.temperature.tolist(), plan.logprobs.tolist(), plan.mask_of_row.tolist(), strict=True)
    return [
        heat > 0 or wanted >= 0 or mask >= 0 or biased[row + 1] > biased[row] or seen[row + 1] > seen[row]
        for row, (heat, wanted, mask) in enumerate(asked)
    ]


def _one(
    row: Row, best: int, plan: SamplingPlan, index: int, kind: int, target: int, scratch: Floats
) -> tuple[int, TokenLogprob | None]:
    """Row `index` of the plan, whose logits are `row` [V], the largest at `best`."""
    wanted = int(plan.logprobs[index])
    if kind == KIND_SCORE:
        if not 0 <= target < len(row):
            return FAILED_ROW, None
        return target, describe(row, target, max(wanted, 0), scratch)
    changed = _changed(row, plan, index)
    token = best
    if changed is not row:
        token = int(changed.argmax())
        if not np.isfinite(changed[token]):
            return FAILED_ROW, None
    temperature = float(plan.temperature[index])
    if temperature > 0.0:
        uniform = draw_uniform(int(plan.seed[index]), int(plan.choice[index]), int(plan.position[index]))
        top_p, top_k, min_p = float(plan.top_p[index]), int(plan.top_k[index]), float(plan.min_p[index])
        token = draw(changed, temperature, top_p, top_k, uniform, min_p, scratch=scratch)
    return token, None if wanted < 0 else describe(row, token, wanted, scratch)


def _changed(row: Row, plan: SamplingPlan, index: int) -> Row:
    """The logits after biases, penalties and mask; `row` itself where there are none."""
    biased = slice(int(plan.bias_start[index]), int(plan.bias_start[index + 1]))
    seen = slice(int(plan.seen_start[index]), int(plan.seen_start[index + 1]))
    mask_index = int(plan.mask_of_row[index])
    if biased.start == biased.stop and seen.start == seen.stop and mask_index < 0:
        return row
    row = row.copy()
    with np.errstate(over="ignore"):  # what overflows is infinite, and fails the row
        if biased.start < biased.stop:
            ids, values = _known(plan.bias_ids[biased], plan.bias_values[biased], len(row))
            row[ids] += values
        if seen.start < seen.stop:
            ids, counts = _known(plan.seen_ids[seen], plan.seen_counts[seen], len(row))
            penalised = row[ids].astype(np.float64)
            repetition = float(plan.repetition[index])
            penalised = np.where(penalised > 0, penalised / repetition, penalised * repetition)
            penalised -= float(plan.frequency[index]) * counts
            penalised -= float(plan.presence[index]) * (counts > 0)
            row[ids] = penalised
    if mask_index >= 0:
        allowed = np.unpackbits(plan.masks[mask_index].astype("<i4", copy=False).view(np.uint8), bitorder="little")
        covered = min(len(allowed), len(row))
        row[:covered] = np.where(allowed[:covered], row[:covered], np.float32(-np.inf))
        row[covered:] = -np.inf
    return row


def _known(ids: Int32, values: npt.NDArray[Any], size: int) -> tuple[Int32, npt.NDArray[Any]]:
    known = (ids >= 0) & (ids < size)
    return (ids, values) if known.all() else (ids[known], values[known])

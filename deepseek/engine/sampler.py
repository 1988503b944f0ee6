"""From logits to token ids, one row at a time, so that a row's token never depends on its neighbours.

Noise is counter-based: Philox (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011) keyed by
(seed, choice), counted by (position, draw). The same request therefore draws the same numbers alone, in a batch,
after a preemption, or in another process. A token is the point where the cumulative distribution passes the drawn
number; probabilities are float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from deepseek.core.engine import TokenLogprob
from deepseek.engine.plan import SamplingPlan

FAILED_ROW = -1
_HEAD = 512  # candidates looked at first when only top-p cuts: nearly always enough

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One entry per sampled row: the token id (FAILED_ROW where the logits were not numbers) and its logprob if asked."""

    token_ids: list[int]
    logprobs: list[TokenLogprob | None]


def sample(logits: Tensor, plan: SamplingPlan) -> Sampled:
    """Draw a token for each row of `logits` float32 [R, V]."""
    rows: npt.NDArray[np.float32] = logits.numpy()
    best = rows.argmax(axis=1) if len(rows) else np.zeros(0, np.int64)
    token_ids: list[int] = []
    logprobs: list[TokenLogprob | None] = []
    for index, row in enumerate(rows):
        token = int(best[index])
        if not np.isfinite(row[token]):
            token_ids.append(FAILED_ROW)
            logprobs.append(None)
            continue
        temperature = float(plan.temperature[index])
        if temperature > 0.0:
            uniform = draw_uniform(int(plan.seed[index]), int(plan.choice[index]), int(plan.position[index]))
            token = draw(row, temperature, float(plan.top_p[index]), int(plan.top_k[index]), uniform)
        wanted = int(plan.logprobs[index])
        token_ids.append(token)
        logprobs.append(None if wanted < 0 else describe(row, token, wanted))
    return Sampled(token_ids, logprobs)


def draw_uniform(seed: int, choice: int, position: int, draw: int = 0) -> float:
    """The number in [0, 1) that belongs to this place: 53 bits of Philox4x64."""
    bits = np.random.Philox(
        key=np.array([seed, choice], np.uint64), counter=np.array([position, draw, 0, 0], np.uint64)
    )
    return float(int(bits.random_raw()) >> 11) * 2.0**-53


def draw(row: npt.NDArray[np.float32], temperature: float, top_p: float, top_k: int, uniform: float) -> int:
    """One token of `row` [V]: scale by temperature, keep the top k, of those the smallest set reaching top-p, draw."""
    scaled = row.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    if top_k <= 0 and top_p >= 1.0:
        return _pick(weights, uniform)
    candidates = _candidates(weights, top_p, top_k)
    kept = weights[candidates]
    if top_p < 1.0:
        total = kept.sum() if top_k > 0 else weights.sum()
        reached = int(np.searchsorted(np.cumsum(kept), top_p * total)) + 1
        candidates, kept = candidates[:reached], kept[:reached]
    return int(candidates[_pick(kept, uniform)])


def describe(row: npt.NDArray[np.float32], token: int, alternatives: int) -> TokenLogprob:
    """The token's log-probability at temperature 1 over the whole vocabulary, and those of the likeliest tokens."""
    wide = row.astype(np.float64)
    largest = wide.max()
    log_total = largest + np.log(np.exp(wide - largest).sum())
    top = _largest(wide, alternatives) if alternatives else ()
    return TokenLogprob(token, float(wide[token] - log_total), tuple((int(i), float(wide[i] - log_total)) for i in top))


def _candidates(weights: Floats, top_p: float, top_k: int) -> npt.NDArray[np.int64]:
    """Token ids by falling weight: the top k, or at least as many as top-p can need."""
    size = len(weights)
    if top_k > 0:
        return _largest(weights, min(top_k, size))
    head = _largest(weights, min(_HEAD, size))
    if weights[head].sum() >= top_p * weights.sum():
        return head
    return _largest(weights, size)


def _largest(values: Floats, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest, largest first, ties by smaller index."""
    if count >= len(values):
        found = np.arange(len(values))
    else:
        border = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > border)
        found = np.concatenate([above, np.flatnonzero(values == border)[: count - len(above)]])
    return found[np.argsort(-values[found], kind="stable")]


def _pick(weights: Floats, uniform: float) -> int:
    """The first index at which the running sum exceeds `uniform` of the whole; never one of weight 0."""
    running = np.cumsum(weights)
    index = int(np.searchsorted(running, uniform * running[-1], side="right"))
    return min(index, int(np.flatnonzero(weights)[-1]))

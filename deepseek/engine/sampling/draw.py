"""One token from one row of logits: temperature, top-k, top-p, min-p, and a number in [0, 1) that decides.

What top-k and top-p keep of a row is a beginning of its tokens ordered by falling logit (ties: smaller id first), so
only the head of that order is ever sorted. Where top-p reaches beyond the head, tokens are counted into narrow
buckets by their logit, and only the two buckets that matter are sorted. Probabilities are float64.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

HEAD = 512
"""Candidates that top-p looks at first: nearly always enough."""
_SPAN = 128  # weights summed together when looking for the place a number falls on
_BUCKETS = 4096
_BUCKET_RANGE = 40.0  # in nats below the best; all that is less likely than e^-40 of it shares the last bucket

Row = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def draw_uniform(seed: int, choice: int, position: int, draw: int = 0) -> float:
    """The number in [0, 1) that belongs to this place: 53 bits of Philox4x64."""
    bits = np.random.Philox(
        key=np.array([seed, choice], np.uint64), counter=np.array([position, draw, 0, 0], np.uint64)
    )
    return float(int(bits.random_raw()) >> 11) * 2.0**-53


def scratch_for(vocab_size: int) -> Floats:
    """Room to compute rows of this size in. Fresh pages for every row would cost more than the arithmetic."""
    return np.empty((3, vocab_size))


def draw(
    row: Row,
    temperature: float,
    top_p: float,
    top_k: int,
    uniform: float,
    min_p: float = 0.0,
    *,
    scratch: Floats | None = None,
) -> int:
    """One token of `row` [V] whose largest logit is finite.

    Kept are the `top_k` best (0: all), of those the smallest set whose share of their probability reaches `top_p`,
    of those the ones at least `min_p` times as likely as the best. `uniform` in [0, 1) picks among them.
    """
    best = float(row.max())
    if 0 < top_k < len(row):
        head = largest(row, top_k)
        weights = _weights(row[head], best, temperature)
        share = top_p * float(weights.sum()) if top_p < 1.0 else math.inf
        return int(head[_pick_in_order(_cut(weights, min_p), share, uniform)])
    if top_p >= 1.0 and min_p > 0.0:
        # With a margin for rounding; `_cut` decides.
        lowest = best + temperature * math.log(min_p)
        likely = np.flatnonzero(row >= lowest - 1e-3 * (1.0 + abs(lowest)))
        return int(likely[_pick(_cut(_weights(row[likely], best, temperature), min_p), uniform)])

    below, weights, _ = scratch_for(len(row)) if scratch is None else scratch
    _weights(row, best, temperature, out=(below, weights))
    if top_p >= 1.0:
        return _pick(weights, uniform)
    share = top_p * float(weights.sum())
    head = largest(row, min(HEAD, len(row)))
    likeliest = _cut(weights[head], min_p)
    if likeliest[-1] == 0.0 or len(head) == len(row) or likeliest.sum() >= share:
        return int(head[_pick_in_order(likeliest, share, uniform)])
    return _pick_in_buckets(row, below, _cut(weights, min_p), share, uniform)


def largest(values: Row, count: int) -> Indices:
    """Indices of the `count` largest, largest first, ties by smaller index. No value may be NaN."""
    size = len(values)
    if count >= size:
        return np.argsort(-values, kind="stable")
    # At least `count` values reach the count-th largest of any maxima over disjoint parts: few others do.
    columns = max(4 * count, 512)
    parts = size // columns
    maxima = values[: parts * columns].reshape(parts, columns).max(axis=0) if parts > 1 else values
    border = np.partition(maxima, len(maxima) - count)[len(maxima) - count]
    found = np.flatnonzero(values >= border if border > -np.inf else values > border)
    if len(found) < count:  # where all but a few are banned
        found = np.concatenate([found, np.flatnonzero(values == border)[: count - len(found)]])
    return found[np.argsort(-values[found], kind="stable")][:count]


def _weights(row: Row, best: float, temperature: float, out: tuple[Floats, Floats] | None = None) -> Floats:
    """Probabilities relative to the best one, which is 1. out: room for the scaled logits less the best, and for them."""
    below, weights = (np.empty(len(row)), np.empty(len(row))) if out is None else out
    np.copyto(below, row)
    below -= best
    if temperature != 1.0:
        below /= temperature
    return np.exp(below, out=weights)


def _cut(weights: Floats, min_p: float) -> Floats:
    """In place: no weight is left to those below `min_p`."""
    if min_p > 0.0:
        weights *= weights >= min_p
    return weights


def _pick(weights: Floats, uniform: float) -> int:
    """The first index at which the running sum exceeds `uniform` of the whole; never one of weight 0."""
    sums = np.add.reduceat(weights, _span_starts(len(weights)))
    running = np.cumsum(sums)
    at = uniform * float(running[-1])
    span = _place(running, sums, at)
    start = span * _SPAN
    inside = weights[start : start + _SPAN]
    return start + _place((float(running[span - 1]) if span else 0.0) + np.cumsum(inside), inside, at)


def _pick_in_order(weights: Floats, share: float, uniform: float) -> int:
    """`_pick` among the shortest beginning of falling `weights` that reaches `share`."""
    running = np.cumsum(weights)
    last = _last_needed(running, weights, share)
    return _place(running[: last + 1], weights, uniform * float(running[last]))


def _pick_in_buckets(row: Row, below: Floats, weights: Floats, share: float, uniform: float) -> int:
    """`_pick_in_order` on the whole row, without ordering it. below: scaled logits less the best; overwritten."""
    below *= -_BUCKETS / _BUCKET_RANGE
    bucket = np.minimum(below, _BUCKETS - 1, out=below).astype(np.intp)
    sums: Floats = np.bincount(bucket, weights, _BUCKETS).astype(np.float64, copy=False)
    running = np.cumsum(sums)

    def members_of(index: int) -> tuple[Indices, Floats]:
        """A bucket's tokens in order, and the running sum at each."""
        members = np.flatnonzero(bucket == index)
        members = members[np.argsort(-row[members], kind="stable")]
        return members, (float(running[index - 1]) if index else 0.0) + np.cumsum(weights[members])

    border = _last_needed(running, sums, share)
    members, reached = members_of(border)
    last = _last_needed(reached, weights[members], share)
    at = uniform * float(reached[last])
    place = int(np.searchsorted(running[:border], at, side="right"))
    if place < border:
        members, reached = members_of(place)
        last = len(members) - 1
    return int(members[_place(reached[: last + 1], weights[members], at)])


def _last_needed(running: Floats, weights: Floats, share: float) -> int:
    """The last index of the shortest beginning whose running sum reaches `share`: at most the last that has weight."""
    return min(int(np.searchsorted(running, share)), int(np.flatnonzero(weights)[-1]))


def _place(running: Floats, weights: Floats, at: float) -> int:
    """Where the running sum first exceeds `at`. Rounding may put `at` past the end: then the last that has weight."""
    index = int(np.searchsorted(running, at, side="right"))
    return index if index < len(running) else int(np.flatnonzero(weights[: len(running)])[-1])


@lru_cache(maxsize=64)
def _span_starts(size: int) -> Indices:
    return np.arange(0, size, _SPAN)

"""Sampling plans written by hand, and logits to draw from: shared by the tests of sampling."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from deepseek.engine.sampling.plan import SamplingPlan

SCALARS = {
    "temperature": ("f4", 1.0),
    "top_p": ("f4", 1.0),
    "top_k": ("i4", 0),
    "min_p": ("f4", 0.0),
    "frequency": ("f4", 0.0),
    "presence": ("f4", 0.0),
    "repetition": ("f4", 1.0),
    "seed": ("u8", 1),
    "choice": ("i4", 0),
    "position": ("i8", 0),
    "logprobs": ("i4", -1),
}


def plan(
    rows: int,
    *,
    bias: dict[int, dict[int, float]] | None = None,
    seen: dict[int, dict[int, int]] | None = None,
    allowed: dict[int, list[bool]] | None = None,
    **changes: object,
) -> SamplingPlan:
    """One value for all rows, or a list; tables by row."""
    columns: dict[str, np.ndarray] = {
        name: np.broadcast_to(np.asarray(changes.get(name, default), kind), (rows,))
        for name, (kind, default) in SCALARS.items()
    }
    for prefix, table, value in (("bias", bias or {}, "values"), ("seen", seen or {}, "counts")):
        entries = [table.get(row, {}) for row in range(rows)]
        columns[f"{prefix}_start"] = np.cumsum([0, *(len(entry) for entry in entries)], dtype="i4")
        columns[f"{prefix}_ids"] = np.array([token for entry in entries for token in entry], "i4")
        columns[f"{prefix}_{value}"] = np.array(
            [v for entry in entries for v in entry.values()], "f4" if prefix == "bias" else "i4"
        )
    masks = [packed(bits) for bits in (allowed or {}).values()]
    columns["mask_of_row"] = np.full(rows, -1, "i4")
    columns["mask_of_row"][list(allowed or ())] = np.arange(len(masks))
    columns["masks"] = np.stack(masks) if masks else np.zeros((0, 0), "i4")
    return SamplingPlan(**columns)  # type: ignore[arg-type]


def packed(bits: list[bool]) -> np.ndarray:
    """int32 words, token i in bit i % 32 of word i // 32."""
    words = [0] * -(-len(bits) // 32)
    for token, bit in enumerate(bits):
        words[token // 32] |= int(bit) << token % 32
    return np.array(words, "u4").view("i4")


def row_of(whole: SamplingPlan, row: int) -> SamplingPlan:
    """The plan of this row alone."""
    columns: dict[str, np.ndarray] = {name: getattr(whole, name)[row : row + 1] for name in SCALARS}
    for prefix, value in (("bias", "values"), ("seen", "counts")):
        start, stop = getattr(whole, f"{prefix}_start")[row : row + 2]
        columns[f"{prefix}_start"] = np.array([0, stop - start], "i4")
        for name in ("ids", value):
            columns[f"{prefix}_{name}"] = getattr(whole, f"{prefix}_{name}")[start:stop]
    mask = int(whole.mask_of_row[row])
    columns["mask_of_row"] = np.array([min(mask, 0)], "i4")
    columns["masks"] = whole.masks[mask : mask + 1] if mask >= 0 else np.zeros((0, 0), "i4")
    return SamplingPlan(**columns)  # type: ignore[arg-type]


def rich_plan(rows: int, size: int, seed: int = 0) -> SamplingPlan:
    """Rows that each want something else: every feature alone, none, and all together."""
    random = np.random.default_rng(seed)
    every = np.arange(rows)

    def some(values: object, step: int, off: float) -> np.ndarray:
        return np.where((every % step == 0) | (every % 7 == 6), values, off)

    return plan(
        rows,
        temperature=some(0.8, 2, 0.0),
        top_p=some(random.uniform(0.2, 1, rows), 3, 1.0),
        top_k=some(random.integers(1, size, rows), 4, 0),
        min_p=some(random.uniform(0, 0.3, rows), 5, 0.0),
        frequency=0.7,
        presence=-0.3,
        repetition=1.3,
        seed=every,
        position=every * 3,
        logprobs=some(3, 3, -1),
        bias={
            r: {int(t): -math.inf if t % 3 else 2.5 for t in random.permutation(size)[:5]} for r in range(0, rows, 3)
        },
        seen={r: {int(t): int(t % 4) for t in random.permutation(size)[:20]} for r in range(1, rows, 3)},
        allowed={r: list(random.random(size) < 0.3) for r in range(0, rows, 5)},
    )


def random_logits(rows: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3

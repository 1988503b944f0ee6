"""Passages by meaning: every vector of a tenant in one matrix, kept in memory until something changes, and multiplied through.

That is exact, and at the sizes that one file holds as quick as an index would be: 20,000 passages of 512 numbers are 10
million multiplications. Reciprocal rank fusion joins what it finds with what the words find: a passage's score is the sum of
1 / (60 + its rank) over both lists (Cormack, Clarke and Buettcher, 2009).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseek.core.errors import ModelError

RANK_CONSTANT = 60
KEPT = 8
"""Matrices in memory, of as many tenants."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Matrix:
    """ids: of the passages, one a row."""

    changes: int
    ids: NDArray[np.int64]
    rows: Floats  # [passages, dimensions]

    def nearest(self, vector: Floats, most: int) -> list[int]:
        """Ids, nearest first; with equal distances the one that came in first."""
        if self.rows.shape[0] == 0 or self.rows.shape[1] != vector.shape[0]:
            return []
        scores = self.rows @ vector
        return [int(self.ids[at]) for at in np.argsort(-scores, kind="stable")[:most]]


class Matrices:
    """Those used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, Matrix] = OrderedDict()

    def get(self, key: Any, changes: int) -> Matrix | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None or found.changes != changes:
                return None
            self._kept.move_to_end(key)
            return found

    def put(self, key: Any, matrix: Matrix) -> None:
        with self._lock:
            self._kept[key] = matrix
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def matrix(changes: int, rows: Sequence[tuple[int, bytes]]) -> Matrix:
    size = len(rows[0][1]) if rows else 0
    same = [(passage, blob) for passage, blob in rows if len(blob) == size]
    numbers = np.frombuffer(b"".join(blob for _, blob in same), dtype="<f4").reshape(len(same), size // 4)
    return Matrix(changes, np.array([passage for passage, _ in same], dtype=np.int64), numbers)


def packed(vector: Sequence[float]) -> bytes:
    """A vector, made length 1. Raises ModelError for what is none."""
    return unit(vector).astype("<f4").tobytes()


def unit(vector: Sequence[float]) -> Floats:
    numbers = np.asarray(vector, dtype=np.float32)
    length = float(np.linalg.norm(numbers)) if numbers.ndim == 1 else 0.0
    if not np.isfinite(length) or length == 0.0:
        raise ModelError("the embedding model gave no vector", found=f"length {length}")
    found: Floats = numbers / np.float32(length)
    return found


def fused(*lists: Sequence[int]) -> list[tuple[int, float]]:
    """Ids by their score over all lists, best first; with equal scores in the order they were met."""
    scores: dict[int, float] = {}
    for ranked in lists:
        for rank, found in enumerate(ranked, 1):
            scores[found] = scores.get(found, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(scores.items(), key=lambda item: -item[1])

"""Low-rank adapters at work: several in one batch, each on its own rows (Hu et al., LoRA, 2021).

An adapter adds B A to a matrix W [out, in], with A [r, in], B [out, r] and r small. The packed W is never touched:
    y[rows] = x[rows] W^T + (x[rows] A^T) B^T
for the rows that are the adapter's, with the same exact kernels as the rest of the model. So a token's result is the
same bits alone and beside any other adapter, and a token without one gets the base model's bits.
`Assignment` says whose the rows are; it travels in the step's context. What the adapters add stands at the modules
(`Linear.low_rank`), under the adapters' handles.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from deepseek import kernels
from deepseek.kernels import PackedHeads, PackedWeight

Rows = Tensor | slice
_Addition = TypeVar("_Addition")
_ALL = slice(None)


@dataclass(frozen=True, eq=False)
class LowRank:
    """What an adapter adds to a matrix [out, in]: a [r, in] and b [out, r], which carries the adapter's scaling."""

    a: PackedWeight
    b: PackedWeight

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> LowRank:
        # Not lasting: adapters come and go.
        return cls(kernels.pack_weight(a, lasting=False), kernels.pack_weight(b, lasting=False))

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    def __call__(self, x: Tensor) -> Tensor:  # [T, in] -> [T, out]
        return kernels.linear(kernels.linear(x, self.a), self.b)


@dataclass(frozen=True, eq=False)
class LatentLowRank:
    """What an adapter adds to latent attention's `kv_b_proj` [H * (nope + v), R], in the absorbed form.

    With b's rows for head h's keys b_k [nope, r] and values b_v [v, r], the absorbed query grows by (q_nope b_k) a and
    the head's output by b_v (a mixed), where `mixed` is the head's sum of latents.
    """

    a: PackedWeight  # [r, R]
    a_turned: PackedWeight  # [R, r]
    keys: PackedHeads  # [H, r, nope]
    values: PackedHeads  # [H, v, r]

    @classmethod
    def of(cls, a: Tensor, b: Tensor, heads: int, nope: int) -> LatentLowRank:
        per_head = b.view(heads, -1, b.shape[1])
        keys, values = per_head[:, :nope].transpose(1, 2), per_head[:, nope:]
        down, turned = (kernels.pack_weight(matrix, lasting=False) for matrix in (a, a.T))
        return cls(down, turned, *(kernels.pack_heads(half, lasting=False) for half in (keys, values)))

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.a_turned.nbytes + self.keys.nbytes + self.values.nbytes

    def query(self, q_nope: Tensor) -> Tensor:  # [T, H, nope] -> [T, H, R]
        narrow = kernels.head_linear(q_nope.contiguous(), self.keys)  # [T, H, r]
        wide = kernels.linear(narrow.view(-1, narrow.shape[2]), self.a_turned)
        return wide.view(*q_nope.shape[:2], -1)

    def value(self, mixed: Tensor) -> Tensor:  # [T, H, R] -> [T, H, v]
        narrow = kernels.linear(mixed.reshape(-1, mixed.shape[2]), self.a)
        return kernels.head_linear(narrow.view(*mixed.shape[:2], -1), self.values)


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which adapter each row of a step has.

    of_row: integers [T], the adapter's handle, -1 for none. groups: each adapter's handle with its rows, int64 or all.
    """

    of_row: Tensor
    groups: tuple[tuple[int, Rows], ...]

    @classmethod
    def of(cls, of_row: Tensor) -> Assignment | None:
        """None where no row has an adapter: such a step is the base model's alone."""
        if not bool((of_row >= 0).any()):
            return None
        handles = [handle for handle in torch.unique(of_row).tolist() if handle >= 0]
        groups = [(handle, (of_row == handle).nonzero().squeeze(1)) for handle in handles]
        if groups[0][1].shape[0] == of_row.shape[0]:
            return cls(of_row, ((handles[0], _ALL),))
        return cls(of_row, tuple(groups))

    def at(self, rows: Tensor) -> Assignment | None:
        """The assignment of a selection of rows, int64 [R]."""
        return Assignment.of(self.of_row[rows])

    def parts(self, additions: Mapping[int, _Addition]) -> Iterator[tuple[_Addition, Rows]]:
        """What is to be added, with the rows it is added to, for the adapters that have something in `additions`."""
        for handle, rows in self.groups:
            if handle in additions:
                yield additions[handle], rows

    def alone(self, wanted: Container[int]) -> Iterator[tuple[Assignment, Rows]]:
        """Each adapter whose handle is wanted as an assignment of its own rows, with where they stand in this one."""
        for handle, rows in self.groups:
            if handle in wanted:
                yield Assignment(self.of_row[rows], ((handle, _ALL),)), rows

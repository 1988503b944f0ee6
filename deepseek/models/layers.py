"""The layers every architecture shares: linear, norm, embedding, gated MLP.

Each has two forms of the same meaning. As made, it holds ordinary parameters and computes with torch, so
that gradients flow (training). Packed (`Model.pack`, or the loader), its weights stand in the kernels'
layout, in the form they were stored in, and it computes exactly: a token's result never depends on what
else is in the batch (serving, scoring).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepseek import kernels
from deepseek.core.errors import LayoutError
from deepseek.kernels import PackedExperts, PackedWeight
from deepseek.kernels import reference as ref
from deepseek.models.low_rank import Assignment, LowRank
from deepseek.precision.integer import IntegerPieces


def join_rows(shape: tuple[int, ...], pieces: Iterable[Tensor]) -> Tensor:
    """Pieces of whole rows as one tensor of their type, in memory of its own."""
    whole: Tensor | None = None
    row = 0
    for piece in pieces:
        if whole is None:
            whole = torch.empty(shape, dtype=piece.dtype)
        whole[row : row + piece.shape[0]] = piece
        row += piece.shape[0]
        del piece
    if whole is None or row != shape[0]:
        raise LayoutError("the pieces do not fill the tensor", found=f"{row} rows", expected=f"{shape[0]} rows")
    return whole


def pack_rows(
    shape: tuple[int, int], source: Iterable[Tensor] | IntegerPieces, scale_inv: Tensor | None = None
) -> PackedWeight:
    """A weight [N, K] for the kernels: in its stored form (pieces of whole rows; FP8 with block scales), or quantised."""
    if isinstance(source, IntegerPieces):
        return kernels.pack_integer_pieces(shape, source.pieces, source.bits)
    return kernels.pack_pieces(shape, source, scale_inv)


class Linear(nn.Module):
    """y = x W^T + b, with W [out, in]. `compute_dtype` is what training multiplies in; None means the weight's own.

    low_rank: what adapters add to W while serving, by their handles.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.packed: PackedWeight | None = None
        self.compute_dtype: torch.dtype | None = None
        self.low_rank: dict[int, LowRank] = {}

    def forward(self, x: Tensor, adapted: Assignment | None = None) -> Tensor:  # [T, in] -> [T, out]
        if self.packed is not None:
            y = kernels.linear(x, self.packed, self.bias)
            for addition, rows in () if adapted is None else adapted.parts(self.low_rank):
                y[rows] += addition(x[rows])
            return y
        weight = self.require_weight()
        dtype = self.compute_dtype or weight.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(x.to(dtype), weight.to(dtype), bias)

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def require_weight(self) -> nn.Parameter:
        if self.weight is None:
            raise LayoutError("the weight is packed for serving and cannot be trained", fix="load it with packed=False")
        return self.weight

    def adopt(self, source: Iterable[Tensor] | IntegerPieces, scale_inv: Tensor | None = None) -> None:
        """Take a weight [out, in] as `pack_rows` does and pack it for serving."""
        self.packed = pack_rows(self.shape, source, scale_inv)
        self.weight = None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, in float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    @property
    def trains(self) -> bool:
        return self.weight.requires_grad

    def forward(self, x: Tensor) -> Tensor:
        if self.trains:
            return ref.rms_norm(x.float(), self.weight, self.eps)
        return kernels.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual); the sum stays in float32."""
        if self.trains:
            total = residual + x
            return ref.rms_norm(total, self.weight, self.eps), total
        return kernels.add_rms_norm(x, residual, self.weight, self.eps)


class Embedding(nn.Module):
    """Rows of [vocab, hidden] by token id. Packed, it keeps the stored rows, or reads a packed matrix: the output matrix
    it is tied to, or rows of its own that were quantised."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self.rows: Tensor | None = None
        self.packed: PackedWeight | None = None

    def forward(self, tokens: Tensor) -> Tensor:  # [T] -> [T, D] float32
        if self.packed is not None:
            return kernels.gather_rows(self.packed, tokens).float()
        if self.rows is not None:
            return self.rows[tokens].float()
        assert self.weight is not None
        return F.embedding(tokens, self.weight).float()


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, GLU variants, 2020)."""

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias)
        self.up_proj = Linear(hidden_size, intermediate_size, bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias)
        self._packed: list[PackedExperts] | None = None

    def forward(self, x: Tensor, adapted: Assignment | None = None) -> Tensor:  # [T, D] -> [T, D]
        gate, up, down = self.gate_proj, self.up_proj, self.down_proj
        if down.packed is None:
            trained: Tensor = down(F.silu(gate(x)) * up(x))
            return trained
        if gate.packed is None or up.packed is None:
            raise LayoutError("the gated MLP is only partly packed", fix="load every tensor of the layer")
        if down.bias is not None:
            return self._in_steps(x, adapted)
        if adapted is None:
            return self._in_one_call(x)
        out, plain = torch.empty_like(x), torch.ones(x.shape[0], dtype=torch.bool)
        for alone, rows in adapted.alone(gate.low_rank.keys() | up.low_rank.keys() | down.low_rank.keys()):
            out[rows] = self._in_steps(x[rows], alone)
            plain[rows] = False
        if plain.any():
            out[plain] = self._in_one_call(x[plain])
        return out

    def _in_steps(self, x: Tensor, adapted: Assignment | None) -> Tensor:
        gate_up = torch.cat([self.gate_proj(x, adapted), self.up_proj(x, adapted)], dim=1)
        out: Tensor = self.down_proj(kernels.silu_mul(gate_up), adapted)
        return out

    def _in_one_call(self, x: Tensor) -> Tensor:
        # One expert that every token takes, with weight 1.
        everyone = x.new_zeros(x.shape[0], 1, dtype=torch.int64)
        return kernels.expert_ffn(x, everyone, x.new_ones(x.shape[0], 1), *self._as_experts())

    def _as_experts(self) -> list[PackedExperts]:
        if self._packed is None:
            weights = [part.packed for part in (self.gate_proj, self.up_proj, self.down_proj)]
            self._packed = [kernels.pack_experts([weight]) for weight in weights if weight is not None]
        return self._packed

"""The backend for machines without a C++ compiler: plain torch, arranged so that a row's result is its own.

Linear layers run in tiles of 16 rows, the last one padded with zeros, so that the library's matrix product always
sees one shape; everything else works within a row. What holds: a row's result does not depend on the number of other
rows. That it does not depend on its place in a tile or on the thread count rests on the library summing all 16 rows
alike, which torch's CPU builds do for these sizes (tests/kernels checks it) but do not promise. Integer weights need no
tiles: their sums of products are exact. Slow: weights are widened at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deepseek.core.errors import LayoutError
from deepseek.kernels import reference
from deepseek.kernels.packed import INTEGER_BITS, PackedExperts, PackedHeads, PackedWeight, StoredType
from deepseek.kernels.stack import LayerSpec, Routing, Stack, StackPools, StackStep

ROW_TILE = 16


class ReferenceBackend:
    """`reference.py` in row-exact form; `reason` says in `describe` why it is in use."""

    name = "reference"

    def __init__(self, reason: str = "asked for") -> None:
        self.reason = reason

    def advise_large_pages(self, memory: Tensor) -> None:
        pass  # speed only

    def pack(self, weight: Tensor, stored: StoredType, scales: Tensor | None, lasting: bool = True) -> PackedWeight:
        n, k = weight.shape
        return PackedWeight(n, k, stored, weight.detach().contiguous(), scales, "rows")

    def pack_integer(self, codes: Tensor, scales: Tensor, bits: int, lasting: bool = True) -> PackedWeight:
        n, k = codes.shape
        return PackedWeight(n, k, "int8" if bits == 8 else "int4", codes.contiguous(), scales.contiguous(), "rows")

    def unpack_integer(self, w: PackedWeight) -> tuple[Tensor, Tensor]:
        return w.data, _integer_scales(w)

    def pack_heads(self, n: int, k: int, weights: Sequence[PackedWeight]) -> PackedHeads:
        return PackedHeads(n, k, tuple(weights))

    def pack_experts(self, n: int, k: int, weights: Sequence[PackedWeight]) -> PackedExperts:
        return PackedExperts(n, k, tuple(weights))

    def unpack(self, w: PackedWeight) -> Tensor:
        return w.data

    def gather_rows(self, w: PackedWeight, ids: Tensor) -> Tensor:
        _check_range("ids", ids, w.n)
        if w.dtype in INTEGER_BITS:
            return reference.dequantise_integer(w.data[ids], _integer_scales(w)[ids], INTEGER_BITS[w.dtype])
        return w.data[ids]

    def linear(self, x: Tensor, w: PackedWeight, bias: Tensor | None) -> Tensor:
        if w.dtype in INTEGER_BITS:
            y = reference.integer_linear(x, w.data, _integer_scales(w), INTEGER_BITS[w.dtype])
        else:
            weight = _dequantise(w)
            y = _in_row_tiles(x, lambda tile: reference.linear(tile, weight), w.n)
        return y if bias is None else y + bias

    def head_linear(self, x: Tensor, w: PackedHeads, out: Tensor) -> None:
        for head, weight in enumerate(w.weights):
            out[:, head] = self.linear(x[:, head], weight, None)

    def expert_ffn(
        self,
        x: Tensor,
        topk_ids: Tensor,
        topk_weights: Tensor,
        gate: PackedExperts,
        up: PackedExperts,
        down: PackedExperts,
    ) -> Tensor:
        _check_range("topk_ids", topk_ids, len(gate.weights))
        rows = x.new_empty((*topk_ids.shape, x.shape[1]))  # [T, k, D]
        for expert in sorted(set(topk_ids.flatten().tolist())):
            token, choice = (topk_ids == expert).nonzero(as_tuple=True)
            inner = [self.linear(x[token], part.weights[expert], None) for part in (gate, up)]
            hidden = self.silu_mul(torch.cat(inner, dim=1))
            rows[token, choice] = self.linear(hidden, down.weights[expert], None)
        y = torch.zeros_like(x)
        for choice_index in range(topk_ids.shape[1]):
            y = y + topk_weights[:, choice_index, None] * rows[:, choice_index]
        return y

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return _by_row(x, lambda row: reference.rms_norm(row, weight, eps))

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        h = x + residual
        return self.rms_norm(h, weight, eps), h

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return _by_row(gate_up, reference.silu_mul, gate_up.shape[1] // 2)

    def rope(self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, out: Tensor) -> None:
        _check_range("positions", positions, cos.shape[0])
        out.copy_(reference.rope(x, positions, cos, sin, interleaved))

    def attention(
        self,
        q: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
        positions: Tensor,
        block_tables: Tensor,
        seq_of_token: Tensor,
        block_size: int,
        scale: float,
    ) -> Tensor:
        _check_range("seq_of_token", seq_of_token, block_tables.shape[0])
        _check_range("positions", positions, block_tables.shape[1] * block_size)
        for position, sequence in zip(positions.tolist(), seq_of_token.tolist(), strict=True):
            j = torch.arange(position + 1)
            slots = block_tables[sequence, j // block_size].long() * block_size + j % block_size
            _check_range("block_tables", slots, k_pool.shape[0])
        # Token by token, in shapes that only the token's own position decides, and from memory of its own: the library's
        # products round differently when a query starts off a vector's boundary.
        out = q.new_empty(q.shape[0], q.shape[1], v_pool.shape[2])
        for t in range(q.shape[0]):
            one = slice(t, t + 1)
            query = q[one].clone()
            out[one] = reference.attention(
                query, k_pool, v_pool, positions[one], block_tables, seq_of_token[one], block_size, scale
            )
        return out

    def write_kv(self, pool: Tensor, slots: Tensor, values: Tensor) -> None:
        if slots.numel() and int(slots.max()) >= pool.shape[0]:
            raise LayoutError("a slot lies outside the pool", found=int(slots.max()), expected=f"< {pool.shape[0]}")
        reference.write_kv(pool, slots, values)

    def route(self, logits: Tensor, correction: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
        rows = [reference.route(logits[t : t + 1], correction, routing) for t in range(logits.shape[0])]
        if not rows:
            return torch.empty(0, routing.topk, dtype=torch.int64), logits.new_empty(0, routing.topk)
        return torch.cat([ids for ids, _ in rows]), torch.cat([weights for _, weights in rows])

    def compile_stack(self, layers: Sequence[LayerSpec], last_norm: Tensor, last_eps: float) -> Stack | None:
        return None  # operation by operation is all there is

    def stack_pools(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> StackPools:
        return StackPools(tuple(pairs), None)

    def run_stack(self, stack: Stack, hidden: Tensor, step: StackStep) -> Tensor:
        raise LayoutError("a stack compiled by another backend", fix="compile it again")

    def sigmoid(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1)
        # Whole vectors only: torch computes the last few elements of a tensor with another exp.
        padded = flat.new_zeros(-(-flat.numel() // 64) * 64)
        padded[: flat.numel()] = flat
        return reference.sigmoid(padded)[: flat.numel()].view(x.shape)

    def softmax(self, x: Tensor) -> Tensor:
        return _by_row(x, reference.softmax)

    def set_num_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def num_threads(self) -> int:
        return torch.get_num_threads()

    def available_isas(self) -> list[str]:
        return []  # torch chooses

    def refused_isas(self) -> list[str]:
        return []

    def describe(self) -> dict[str, object]:
        return {
            "backend": self.name,
            "isa": torch.backends.cpu.get_cpu_capability().lower(),
            "threads": self.num_threads(),
            "library": None,
            "build": f"torch-{torch.__version__}",
            "reason": self.reason,
        }


def _dequantise(w: PackedWeight) -> Tensor:
    _check_layout(w)
    return reference.dequantise(w.data, w.scales)


def _integer_scales(w: PackedWeight) -> Tensor:
    _check_layout(w)
    assert w.scales is not None
    return w.scales


def _check_layout(w: PackedWeight) -> None:
    if w.layout != "rows":
        raise LayoutError(
            "this weight was packed for another backend", found=w.layout, expected="rows", fix="pack it again"
        )


def _in_row_tiles(x: Tensor, f: Callable[[Tensor], Tensor], width: int) -> Tensor:
    y = x.new_empty((x.shape[0], width))
    tile = x.new_zeros((ROW_TILE, x.shape[1]))
    for start in range(0, x.shape[0], ROW_TILE):
        rows = x[start : start + ROW_TILE]
        tile[: len(rows)] = rows
        tile[len(rows) :] = 0
        y[start : start + len(rows)] = f(tile)[: len(rows)]
    return y


def _by_row(x: Tensor, f: Callable[[Tensor], Tensor], width: int | None = None) -> Tensor:
    y = x.new_empty((x.shape[0], x.shape[1] if width is None else width))
    for t in range(x.shape[0]):
        y[t] = f(x[t : t + 1])[0]
    return y


def _check_range(what: str, index: Tensor, limit: int) -> None:
    wrong = ((index < 0) | (index >= limit)).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise LayoutError(
            f"{what} out of range at {list(place)}", found=int(index[place]), expected=f"0 to {limit - 1}"
        )

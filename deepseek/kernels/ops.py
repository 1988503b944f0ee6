"""The operations of serving: checked here, computed by the backend in use.

All take and return CPU tensors in float32. A row's result never depends on how many other rows there are, where it
stands, or on the number of threads. Every function raises LayoutError for a wrong shape, dtype, layout or index, and
computes nothing then. None of them is differentiable: training runs on `reference.py`, which also says what each one
means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from deepseek.core.errors import ConfigError, LayoutError
from deepseek.kernels.backend import current
from deepseek.kernels.packed import (
    INTEGER_BITS,
    PANEL,
    SCALE_BLOCK,
    PackedExperts,
    PackedHeads,
    PackedWeight,
    check_integer,
    same_shape,
    stored_type,
)
from deepseek.kernels.stack import LayerSpec, Routing, Stack, StackPools, StackStep

_F32, _I32, _I64 = torch.float32, torch.int32, torch.int64


def zeros_for_reading(shape: tuple[int, ...]) -> Tensor:
    """Float32 zeros that take memory only as they are written, in large pages where the system has them: for what is read
    at scattered places, such as a key-value cache, where looking up small pages costs more than the reading."""
    zeros = torch.from_numpy(np.zeros(shape, np.float32))
    current().advise_large_pages(zeros)
    return zeros


def pack_weight(weight: Tensor, scale_inv: Tensor | None = None, *, lasting: bool = True) -> PackedWeight:
    """Lays a `[N, K]` weight (float32, bfloat16, float16, or float8_e4m3fn with `scale_inv [N/128, K/128]`, rounded
    up) out for `linear`. The values are copied and keep their type.

    lasting: False for what is soon copied elsewhere; it then takes no place among the weights that stay.
    """
    return current().pack(weight, stored_type(weight, scale_inv), scale_inv, lasting)


def pack_pieces(shape: tuple[int, int], pieces: Iterable[Tensor], scale_inv: Tensor | None = None) -> PackedWeight:
    """`pack_weight` of a `[N, K]` weight that comes as pieces of whole rows in order, each but the last a multiple of 128
    rows. Besides the result, memory holds one piece at a time: a checkpoint's largest matrix is never there twice.
    """
    whole: PackedWeight | None = None
    row = 0
    for piece in pieces:
        last = row + piece.shape[0]
        if (
            piece.dim() != 2
            or piece.shape[1] != shape[1]
            or last > shape[0]
            or (last < shape[0] and last % SCALE_BLOCK)
        ):
            raise LayoutError(
                "a piece does not continue the weight",
                found=f"{list(piece.shape)} at row {row}",
                expected=f"rows up to a multiple of {SCALE_BLOCK} of a [{shape[0]}, {shape[1]}] weight",
            )
        if last - row == shape[0]:
            return pack_weight(piece, scale_inv)
        if whole is None:  # one row of zeros repeated: the right size and kind, to be filled piece by piece
            whole = pack_weight(piece.new_zeros(shape[1]).expand(shape), scale_inv)
        scales = None if scale_inv is None else scale_inv[row // SCALE_BLOCK : -(-last // SCALE_BLOCK)]
        values = pack_weight(piece, scales, lasting=False).data.view(-1)
        first = row * shape[1]
        whole.data.view(-1)[first : first + values.shape[0]] = values
        row = last
        del piece, values
    if whole is None or row != shape[0]:
        raise LayoutError("the pieces do not fill the weight", found=f"{row} rows", expected=f"{shape[0]} rows")
    return whole


def pack_integer(codes: Tensor, scales: Tensor, bits: int, *, lasting: bool = True) -> PackedWeight:
    """Lays an integer weight out for `linear`: `codes [N, K]` int8 and `scales [N, ceil(K/B)]` bfloat16, whose product
    is the weight. 8 bits: B = 128, codes -127 to 127. 4 bits: B = 32, codes -8 to 7.

    `linear` and the rest quantise their input too, as `reference.integer_linear` says. lasting: as in `pack_weight`.
    """
    check_integer(codes, scales, bits)
    return current().pack_integer(codes, scales, bits, lasting)


def pack_integer_pieces(shape: tuple[int, int], pieces: Iterable[tuple[Tensor, Tensor]], bits: int) -> PackedWeight:
    """`pack_integer` of a `[N, K]` weight whose codes and scales come as pieces of whole rows in order, each but the last
    a multiple of 128 rows. Besides the result, memory holds one piece at a time.
    """
    whole: PackedWeight | None = None
    row = 0
    for codes, scales in pieces:
        last = row + codes.shape[0]
        if (
            codes.dim() != 2
            or codes.shape[1] != shape[1]
            or last > shape[0]
            or (last < shape[0] and last % SCALE_BLOCK)
        ):
            raise LayoutError(
                "a piece does not continue the weight",
                found=f"{list(codes.shape)} at row {row}",
                expected=f"rows up to a multiple of {SCALE_BLOCK} of a [{shape[0]}, {shape[1]}] weight",
            )
        part = pack_integer(codes, scales, bits, lasting=last - row == shape[0])
        if last - row == shape[0]:
            return part
        if whole is None:
            # Zeros that the system gives out page by page: reading them takes no memory.
            nothing = [
                torch.from_numpy(np.zeros((shape[0], width), np.int8)) for width in (shape[1], 2 * scales.shape[1])
            ]
            whole = current().pack_integer(nothing[0], nothing[1].view(torch.bfloat16), bits)
        unit = PANEL if whole.layout == "panels" else 1
        place = row // unit * (part.data.numel() // -(-codes.shape[0] // unit))
        whole.data.view(-1)[place : place + part.data.numel()] = part.data.view(-1)
        if whole.scales is not None:
            whole.scales[row:last] = scales
        row = last
        del codes, scales, part
    if whole is None or row != shape[0]:
        raise LayoutError("the pieces do not fill the weight", found=f"{row} rows", expected=f"{shape[0]} rows")
    return whole


def unpack_weight(w: PackedWeight) -> tuple[Tensor, Tensor | None]:
    """Back to row-major `[N, K]` in the stored type, and the scales: what `pack_weight` or `pack_integer` was given."""
    if w.dtype in INTEGER_BITS:
        return current().unpack_integer(w)
    return current().unpack(w), w.scales


def pack_heads(weight: Tensor, *, lasting: bool = True) -> PackedHeads:
    """Lays `[H, N, K]` (float32, bfloat16 or float16), one matrix for each head, out for `head_linear`. lasting: as in
    `pack_weight`."""
    if weight.dim() != 3 or 0 in weight.shape:
        raise LayoutError("pack_heads needs three sides", found=list(weight.shape), expected="[H, N, K]")
    return join_heads([pack_weight(head, lasting=lasting) for head in weight])


def join_heads(weights: Sequence[PackedWeight]) -> PackedHeads:
    """Groups packed matrices, one for each head, for `head_linear`. Stored types may differ between heads."""
    return current().pack_heads(*same_shape(weights, "heads"), weights)


def pack_experts(weights: Sequence[PackedWeight]) -> PackedExperts:
    """Groups the matrices of all experts, in order of their ids, for `expert_ffn`."""
    return current().pack_experts(*same_shape(weights, "experts"), weights)


def gather_rows(w: PackedWeight, ids: Tensor) -> Tensor:
    """Rows `ids [T]` (int64) of a packed weight: `[T, K]` in the stored type. An embedding tied to the output layer
    needs no second copy. Rows of an integer weight come dequantised, in float32; FP8 rows come without their scales
    and are refused.
    """
    _index("ids", ids, (_I64,), 1)
    if w.dtype == "fp8_e4m3":
        raise LayoutError(
            "rows of an FP8 weight mean nothing without their scales", found=w.dtype, fix="store it as bf16"
        )
    return current().gather_rows(w, ids)


def linear(x: Tensor, w: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """`x [T, K] @ w^T + bias [N]` -> `[T, N]`. Rows of `x` may be strided."""
    if x.dtype is not _F32 or x.dim() != 2 or x.shape[1] != w.k or x.stride(1) != 1 or not x.is_cpu or x.requires_grad:
        _refuse("x", x, ("T", w.k))
    if bias is not None:
        _vector("bias", bias, w.n)
    return current().linear(x, w, bias)


def head_linear(x: Tensor, w: PackedHeads, out: Tensor | None = None) -> Tensor:
    """One matrix a head: `x [T, H, K]` -> `[T, H, N]`. `x` and `out` may be slices of the last dimension."""
    _dense("x", x, 3)
    _sides("x", x, (x.shape[0], w.heads, w.k))
    if out is None:
        out = x.new_empty(x.shape[0], w.heads, w.n)
    else:
        _dense("out", out, 3)
        _sides("out", out, (x.shape[0], w.heads, w.n))
    current().head_linear(x, w, out)
    return out


def expert_ffn(
    x: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    gate: PackedExperts | Sequence[PackedWeight],
    up: PackedExperts | Sequence[PackedWeight],
    down: PackedExperts | Sequence[PackedWeight],
) -> Tensor:
    """Routed experts: `x [T, D]`, `topk_ids [T, k]` (int32 or int64), `topk_weights [T, k]` float32 -> `[T, D]`.

    `gate` and `up` hold `[F, D]` and `down` `[D, F]` for each expert. A token's experts are summed in top-k order.
    """
    gate, up, down = (w if isinstance(w, PackedExperts) else pack_experts(w) for w in (gate, up, down))
    sides = [(len(w.weights), w.n, w.k) for w in (gate, up, down)]
    count, width, dim = sides[0]
    if sides != [(count, width, dim), (count, width, dim), (count, dim, width)]:
        raise LayoutError(
            "the experts' matrices do not fit together",
            found=", ".join(
                f"{name} {e} x [{n}, {k}]" for name, (e, n, k) in zip(("gate", "up", "down"), sides, strict=True)
            ),
            expected="gate and up E x [F, D], down E x [D, F]",
        )
    _dense("x", x, 2)
    _sides("x", x, (x.shape[0], dim))
    _index("topk_ids", topk_ids, (_I32, _I64), 2)
    if topk_ids.shape[0] != x.shape[0] or topk_ids.shape[1] == 0:
        _refuse("topk_ids", topk_ids, (x.shape[0], "k >= 1"), "torch.int64")
    _dense("topk_weights", topk_weights, 2)
    _sides("topk_weights", topk_weights, topk_ids.shape)
    return current().expert_ffn(x, topk_ids.long(), topk_weights.contiguous(), gate, up, down)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight`: `x [T, D]`, `weight [D]` -> `[T, D]`."""
    _dense("x", x, 2)
    _vector("weight", weight, x.shape[1])
    return current().rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`h = x + residual`; returns `rms_norm(h)` and `h`, both `[T, D]`."""
    _dense("x", x, 2)
    _dense("residual", residual, 2)
    _sides("residual", residual, x.shape)
    _vector("weight", weight, x.shape[1])
    return current().add_rms_norm(x, residual, weight, eps)


def silu_mul(gate_up: Tensor) -> Tensor:
    """`[T, 2F]` -> `silu(gate) * up  [T, F]`."""
    _dense("gate_up", gate_up, 2)
    if gate_up.shape[1] % 2:
        _refuse("gate_up", gate_up, ("T", "2F"))
    return current().silu_mul(gate_up)


def rope(
    x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, out: Tensor | None = None
) -> Tensor:
    """Rotary positions: `x [T, H, D]`, `positions [T]` int64, tables `[P, D/2]` -> `[T, H, D]`.

    Rotates the pairs `(i, i + D/2)`, or `(2i, 2i + 1)` when `interleaved`; a pair stays where it was. `x` and `out`
    may be slices of the last dimension, and may be the same tensor.
    """
    _dense("x", x, 3)
    if x.shape[2] % 2:
        _refuse("x", x, ("T", "H", "even D"))
    _index("positions", positions, (_I64,), 1, x.shape[0])
    _table("cos", cos, x.shape[2] // 2)
    _table("sin", sin, x.shape[2] // 2, cos.shape[0])
    if out is None:
        out = x.new_empty(*x.shape)
    else:
        _dense("out", out, 3)
        _sides("out", out, x.shape)
    current().rope(x, positions, cos, sin, interleaved, out)
    return out


def attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    positions: Tensor,
    block_tables: Tensor,
    seq_of_token: Tensor,
    block_size: int,
    scale: float,
) -> Tensor:
    """Causal attention over paged keys and values: `q [T, Hq, Dk]`, `k_pool [S, Hkv, Dk]`, `v_pool [S, Hkv, Dv]` ->
    `[T, Hq, Dv]`. Any of them may be a strided view with a dense last dimension; with latent attention the values are
    the first `Dv` of the keys.

    `positions [T]` int64 is each query's position in its sequence `seq_of_token [T]` int32, a row of `block_tables
    [B, M]` int32. The query sees keys 0 to its position; key `j` lies in the slot `block_tables[b, j // block_size] *
    block_size + j % block_size`.
    """
    if q.dim() != 3 or k_pool.dim() != 3 or v_pool.dim() != 3 or 0 in k_pool.shape or 0 in v_pool.shape:
        raise LayoutError(
            "attention needs three-sided, non-empty tensors",
            found=f"q {list(q.shape)}, k_pool {list(k_pool.shape)}, v_pool {list(v_pool.shape)}",
            expected="q [T, Hq, Dk], k_pool [S, Hkv, Dk], v_pool [S, Hkv, Dv]",
        )
    tokens, kv_heads = q.shape[0], k_pool.shape[1]
    _dense("q", q, 3)
    _sides("q", q, (tokens, q.shape[1], k_pool.shape[2]))
    _dense("k_pool", k_pool, 3)
    _dense("v_pool", v_pool, 3)
    _sides("v_pool", v_pool, (k_pool.shape[0], kv_heads, v_pool.shape[2]))
    if q.shape[1] == 0 or q.shape[1] % kv_heads:
        raise LayoutError("query heads must be a multiple of kv heads", found=f"{q.shape[1]} and {kv_heads}")
    _index("positions", positions, (_I64,), 1, tokens)
    _index("seq_of_token", seq_of_token, (_I32,), 1, tokens)
    _index("block_tables", block_tables, (_I32,), 2)
    if block_size < 1:
        raise LayoutError("block_size must be positive", found=block_size)
    return current().attention(q, k_pool, v_pool, positions, block_tables, seq_of_token, block_size, scale)


def write_kv(pool: Tensor, slots: Tensor, values: Tensor) -> None:
    """`pool[slots[t]] = values[t]` in place: `pool [S, D]` or `[S, H, D]`, `slots [T]` int64, `values [T, ...]`.

    Tokens with a negative slot are skipped. `pool` and `values` may be slices of the last dimension.
    """
    if pool.dim() == 2:
        pool, values = pool.unsqueeze(1), values.unsqueeze(1)
    _dense("pool", pool, 3)
    _index("slots", slots, (_I64,), 1)
    _dense("values", values, 3)
    _sides("values", values, (slots.shape[0], pool.shape[1], pool.shape[2]))
    current().write_kv(pool, slots, values)


def route(logits: Tensor, correction: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
    """Which experts each token takes, and with what weight: `logits [T, E]` -> ids int64 `[T, topk]` and weights
    `[T, topk]`, best first; `reference.route` says how. `correction [E]` steers the choice only.
    """
    _dense("logits", logits, 2)
    experts = logits.shape[1]
    if correction is not None:
        _vector("correction", correction, experts)
    if not (
        1 <= routing.topk <= experts and 1 <= routing.top_groups <= routing.groups and experts % routing.groups == 0
    ):
        raise LayoutError("the routing does not fit the experts", found=routing, expected=f"choices among {experts}")
    return current().route(logits.contiguous(), correction, routing)


def compile_stack(layers: Sequence[LayerSpec], last_norm: Tensor, last_eps: float) -> Stack | None:
    """Decoder layers and the norm behind them, ready for `run_stack`; None where the backend runs single operations only.

    The specs' weights must have been packed by this backend; they are checked when they are made, in models/stack.py.
    """
    return current().compile_stack(layers, last_norm, last_eps)


def stack_pools(stack: Stack, pairs: Sequence[tuple[Tensor, Tensor]]) -> StackPools:
    """Keys and values `[S, Hkv, D]` of the stack's layers, as its steps read and write them."""
    if len(pairs) != len(stack.layers):
        raise LayoutError("as many pools as layers are needed", found=len(pairs), expected=len(stack.layers))
    for layer, (k_pool, v_pool) in zip(stack.layers, pairs, strict=True):
        latent, slots = layer.latent, pairs[0][0].shape[0]
        _dense("k_pool", k_pool, 3)
        _sides("k_pool", k_pool, (slots, layer.kv_heads, latent.rank + latent.rope_dim if latent else layer.head_dim))
        _dense("v_pool", v_pool, 3)
        _sides("v_pool", v_pool, (slots, layer.kv_heads, latent.rank if latent else layer.head_dim))
    return current().stack_pools(pairs)


def run_stack(stack: Stack, hidden: Tensor, step: StackStep) -> Tensor:
    """`hidden [T, D]` through all layers and the last norm -> `[T, D]`, writing this step's keys and values. The bits are
    those of the single operations.
    """
    _dense("hidden", hidden, 2)
    tokens, dim = hidden.shape[0], stack.last_norm.shape[0]
    if hidden.shape[1] != dim or not hidden.is_contiguous():
        _refuse("hidden", hidden, (tokens, dim))
    _index("positions", step.positions, (_I64,), 1, tokens)
    _index("slots", step.slots, (_I64,), 1, tokens)
    _index("seq_of_token", step.seq_of_token, (_I32,), 1, tokens)
    _index("block_tables", step.block_tables, (_I32,), 2)
    _table("cos", step.cos, step.cos.shape[-1])
    _table("sin", step.sin, step.cos.shape[1], step.cos.shape[0])
    if step.block_size < 1 or len(step.pools.pairs) != len(stack.layers):
        raise LayoutError(
            "the step does not fit the stack",
            found=f"block_size {step.block_size}, {len(step.pools.pairs)} pools",
            expected=f"a positive block_size, {len(stack.layers)} pools",
        )
    latent = stack.layers[0].latent
    rotated = latent.rope_dim if latent else stack.layers[0].head_dim
    if step.cos.shape[1] * 2 != rotated:
        _refuse("cos", step.cos, ("P", rotated // 2))
    return current().run_stack(stack, hidden, step)


def sigmoid(x: Tensor) -> Tensor:
    """`1 / (1 + exp(-x))`, elementwise, any shape."""
    if x.dtype is not _F32 or not x.is_cpu or x.requires_grad:
        _refuse("x", x, ("any shape",))
    return current().sigmoid(x.contiguous())


def softmax(x: Tensor) -> Tensor:
    """Softmax of each row of `x [T, E]`."""
    _dense("x", x, 2)
    if x.shape[1] == 0:
        _refuse("x", x, ("T", "E >= 1"))
    return current().softmax(x)


def set_num_threads(threads: int) -> None:
    """Sets the threads of the operations, 1 to 256. Results do not depend on it."""
    if not 1 <= threads <= 256:
        raise ConfigError("not a number of threads", found=threads, expected="1 to 256")
    current().set_num_threads(threads)


def num_threads() -> int:
    """Threads the operations use; by default the physical cores."""
    return current().num_threads()


def describe() -> dict[str, object]:
    """`backend`, `isa`, `threads`, `library` and `build`: what a run's fingerprint records. Results are equal bit for
    bit wherever backend, isa and build are."""
    return current().describe()


def available_isas() -> list[str]:
    """The instruction sets that the compiled kernels can use on this machine, best first; empty where torch computes."""
    return current().available_isas()


def refused_isas() -> list[str]:
    """Instruction sets that this machine has but whose results differed from those they must equal: never used."""
    return current().refused_isas()


def _dense(what: str, x: Tensor, dims: int) -> None:
    """A float32 CPU tensor of `dims` dimensions, the last of them dense."""
    if x.dtype is not _F32 or x.dim() != dims or not x.is_cpu or x.requires_grad:
        _refuse(what, x, ("any",) * dims)
    if x.stride(-1) != 1 and x.shape[-1] != 1:
        _refuse(what, x, ("any",) * dims)


def _sides(what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        _refuse(what, x, shape)


def _vector(what: str, x: Tensor, size: int) -> None:
    if x.dtype is not _F32 or x.dim() != 1 or x.shape[0] != size or not x.is_contiguous() or not x.is_cpu:
        _refuse(what, x, (size,))


def _table(what: str, x: Tensor, columns: int, rows: int | None = None) -> None:
    if x.dtype is not _F32 or x.dim() != 2 or x.shape[1] != columns or not x.is_contiguous() or not x.is_cpu:
        _refuse(what, x, ("P", columns))
    if rows is not None and x.shape[0] != rows:
        _refuse(what, x, (rows, columns))


def _index(what: str, x: Tensor, dtypes: tuple[torch.dtype, ...], dims: int, length: int | None = None) -> None:
    if x.dtype not in dtypes or x.dim() != dims or not x.is_contiguous() or not x.is_cpu:
        _refuse(what, x, (length,) if dims == 1 else ("any",) * dims, " or ".join(map(str, dtypes)))
    if length is not None and x.shape[0] != length:
        _refuse(what, x, (length,), str(x.dtype))


def _refuse(what: str, x: Tensor, shape: tuple[object, ...], dtype: str = "torch.float32") -> NoReturn:
    sides = ", ".join(map(str, shape))
    found = f"{x.dtype} {list(x.shape)} with strides {list(x.stride())} on {x.device}"
    fix = None
    if x.requires_grad:
        found, fix = (
            found + ", requiring gradients",
            "detach it, or use deepseek.kernels.reference, which is differentiable",
        )
    raise LayoutError(
        f"{what} is not what this operation takes", found=found, expected=f"{dtype} [{sides}], dense, on cpu", fix=fix
    )

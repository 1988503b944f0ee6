"""What each operation means, in plain torch.

These few lines are the definition; the C++ kernels and any later ones are tested against them. They take float32 or
float64, are differentiable, and training runs on them. They promise nothing about rounding: a library's matrix
product may sum in an order that depends on the number of rows. The backends that serving uses (`fallback.py`, `cpu/`)
do promise it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek.kernels.stack import Routing

SCALE_BLOCK = 128


def dequantise(weight: Tensor, scale_inv: Tensor | None) -> Tensor:
    """A stored weight `[N, K]` in float32; FP8 values times the scale of their 128 x 128 block (DeepSeek-V3 report,
    3.3.2)."""
    wide = weight.float()
    if scale_inv is None:
        return wide
    n, k = weight.shape
    scale = scale_inv.repeat_interleave(SCALE_BLOCK, 0)[:n].repeat_interleave(SCALE_BLOCK, 1)[:, :k]
    return wide * scale


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x [T, K]`, `weight [N, K]` -> `[T, N]`."""
    y = x @ weight.T
    return y if bias is None else y + bias


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x [T, K]` as 8-bit codes with a scale for every 128 inputs of a row: float32 codes `[T, K]`, whole numbers from
    -127 to 127, and float32 scales `[T, ceil(K / 128)]`.

    The scale is max|x| / 127, and 0 for a block of zeros, which anything below 2^-100 counts as; NaN if the block holds
    anything that is not finite, whose codes are 0.
    """
    t, k = x.shape
    blocks = F.pad(x.float(), (0, -k % SCALE_BLOCK)).view(t, -(-k // SCALE_BLOCK), SCALE_BLOCK)
    largest = blocks.abs().amax(-1)
    finite = blocks.isfinite().all(-1)
    kept = finite & (largest >= 2.0**-100)
    # Not `127.0 / largest`: torch turns that into a product with the reciprocal, which rounds twice.
    inverse = torch.where(kept, torch.full_like(largest, 127.0) / largest, 0.0)
    codes = (torch.where(kept[..., None], blocks, 0.0) * inverse[..., None]).round().clamp(-127, 127)
    scales = torch.where(kept, largest / 127.0, 0.0).masked_fill(~finite, float("nan"))
    return codes.flatten(1)[:, :k], scales


def integer_linear(x: Tensor, codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    """`x [T, K]` times an integer weight, `codes [N, K]` and `scales [N, ceil(K / B)]` as `pack_integer` takes them ->
    `[T, N]`, in x's type.

    The input is quantised too (`quantise_rows`). Products of codes are summed as integers within a block of the weight;
    times the weight's scale, blocks are summed in order within 128 inputs; times the input's scale, those in order again.
    """
    k, block = x.shape[1], SCALE_BLOCK if bits == 8 else 32
    values, input_scales = quantise_rows(x)
    values, wide, weight_scales = (part.to(x.dtype) for part in (values, codes, scales))
    y = x.new_zeros(x.shape[0], codes.shape[0])
    for first in range(0, k, SCALE_BLOCK):
        inner = torch.zeros_like(y)
        for start in range(first, min(first + SCALE_BLOCK, k), block):
            here = slice(start, min(start + block, k))
            # Exact in float32 in any order: no partial sum passes 128 * 127^2 < 2^24.
            inner = inner + values[:, here] @ wide[:, here].T * weight_scales[:, start // block]
        y = y + inner * input_scales[:, first // SCALE_BLOCK, None].to(x.dtype)
    return y


def dequantise_integer(codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Codes `[N, K]` and their scales to float32 `[N, K]`, exactly: a code and a scale have 8 bits each."""
    block = SCALE_BLOCK if bits == 8 else 32
    return codes.float() * scales.float().repeat_interleave(block, 1)[:, : codes.shape[1]]


def head_linear(x: Tensor, weight: Tensor) -> Tensor:
    """One matrix a head: `x [T, H, K]`, `weight [H, N, K]` -> `[T, H, N]`."""
    return torch.einsum("thk,hnk->thn", x, weight)


def expert_ffn(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Routed experts: `x [T, D]`, `topk_* [T, k]`, `gate`, `up [E, F, D]`, `down [E, D, F]` -> `[T, D]`.

    The sum over a token's experts runs in top-k order.
    """
    outputs = []
    for choice in range(topk_ids.shape[1]):
        rows = []
        for t, e in enumerate(topk_ids[:, choice].tolist()):
            hidden = torch.cat([x[t : t + 1] @ gate[e].T, x[t : t + 1] @ up[e].T], dim=-1)
            rows.append(silu_mul(hidden) @ down[e].T)
        outputs.append(torch.cat(rows) if rows else x.new_zeros(0, x.shape[1]))
    y = torch.zeros_like(x)
    for choice, rows_of_choice in enumerate(outputs):
        y = y + topk_weights[:, choice, None] * rows_of_choice
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang & Sennrich, 2019)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`h = x + residual`; returns the norm of `h`, and `h`."""
    h = x + residual
    return rms_norm(h, weight, eps), h


def silu_mul(gate_up: Tensor) -> Tensor:
    """`[T, 2F]` -> `silu(gate) * up  [T, F]` (SwiGLU; Shazeer, 2020)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotary positions (Su et al., 2021): `x [T, H, D]`, `positions [T]`, tables `[P, D/2]` -> `[T, H, D]`.

    Rotates the pairs `(i, i + D/2)`, or `(2i, 2i + 1)` when `interleaved`; a pair stays where it was.
    """
    c, s = cos[positions][:, None], sin[positions][:, None]  # [T, 1, D/2]
    if interleaved:
        x1, x2 = x[..., 0::2], x[..., 1::2]
        return torch.stack((x1 * c - x2 * s, x2 * c + x1 * s), dim=-1).flatten(-2)
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * c - x2 * s, x2 * c + x1 * s), dim=-1)


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
    `[T, Hq, Dv]`.

    The query of token `t` stands at `positions[t]` and sees the keys 0 to there. Key `j` of sequence `b` lies in the
    slot `block_tables[b, j // block_size] * block_size + j % block_size`. Query heads `h * Hq/Hkv ...` share kv head
    `h`.
    """
    heads, kv_heads = q.shape[1], k_pool.shape[1]
    outputs = []
    for t, (position, sequence) in enumerate(zip(positions.tolist(), seq_of_token.tolist(), strict=True)):
        j = torch.arange(position + 1)
        slots = block_tables[sequence, j // block_size].long() * block_size + j % block_size
        k, v = k_pool[slots], v_pool[slots]  # [p + 1, Hkv, D]
        grouped = q[t].view(kv_heads, heads // kv_heads, -1)
        weights = torch.softmax(torch.einsum("hgd,jhd->hgj", grouped, k) * scale, dim=-1)
        outputs.append(torch.einsum("hgj,jhd->hgd", weights, v).reshape(heads, -1))
    return torch.stack(outputs) if outputs else q.new_zeros(0, heads, v_pool.shape[2])


def write_kv(pool: Tensor, slots: Tensor, values: Tensor) -> None:
    """`pool[slots[t]] = values[t]`, in place; tokens with a negative slot are skipped."""
    kept = slots >= 0
    pool[slots[kept]] = values[kept]


def route(logits: Tensor, correction: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
    """Router logits `[T, E]` to expert ids int64 and weights, both `[T, topk]`, best first, the smaller id first where two
    are equal (DeepSeek-V2, 2.2.2; V3, 2.1.2).

    Scores are the softmax or the sigmoid of the logits. The choice goes by score plus correction, inside the best groups;
    the weights are the plain scores, normalised to sum 1 where asked for, times `scale`.
    """
    scores = torch.sigmoid(logits) if routing.sigmoid else torch.softmax(logits, dim=-1)
    chosen = scores if correction is None else scores + correction
    if routing.top_groups < routing.groups:
        grouped = chosen.view(chosen.shape[0], routing.groups, chosen.shape[1] // routing.groups)
        totals = grouped.sort(dim=-1, descending=True).values[..., : routing.group_best].sum(-1)
        best = totals.sort(dim=-1, descending=True, stable=True).indices[:, : routing.top_groups]
        is_open = torch.zeros_like(totals, dtype=torch.bool).scatter_(1, best, True)
        chosen = grouped.masked_fill(~is_open.unsqueeze(-1), routing.closed).flatten(1)
    ids = chosen.sort(dim=-1, descending=True, stable=True).indices[:, : routing.topk]
    weights = scores.gather(1, ids)
    if routing.normalise:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return ids, weights * routing.scale


def sigmoid(x: Tensor) -> Tensor:
    """`1 / (1 + exp(-x))`."""
    return torch.sigmoid(x)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    return torch.softmax(x, dim=-1)

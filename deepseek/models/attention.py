"""Attention: grouped-query (Llama, Qwen2) and latent (DeepSeek-V2 and V3).

Latent attention keeps one compressed vector c per token instead of keys and values. Its up-projections
can be *absorbed*: with W_UK and W_UV the key and value parts of `kv_b_proj`,
    q_nope . (W_UK c) = (W_UK^T q_nope) . c        and        sum_j p_j W_UV c_j = W_UV (sum_j p_j c_j),
so attention runs over the latents themselves, like multi-query attention with one key head of width
kv_lora_rank + qk_rope_head_dim (DeepSeek-V2, appendix C). Packed models always compute this form, for
scoring, prefill and decode alike, which is what makes them bit-equal; training expands, which costs less
when all queries are there at once.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepseek import kernels
from deepseek.core.errors import LayoutError
from deepseek.kernels import PackedHeads
from deepseek.kernels import reference as ref
from deepseek.models.config import LatentConfig, ModelConfig
from deepseek.models.context import Context, Packed, Paged
from deepseek.models.layers import Linear, RMSNorm, join_rows
from deepseek.models.low_rank import Assignment, LatentLowRank
from deepseek.models.rope import latent_softmax_scale
from deepseek.precision.fp8 import dequantize_blocks
from deepseek.precision.integer import Bits, IntegerPieces, quantize_integer

# Both releases and transformers fix the latent norms' epsilon, whatever `rms_norm_eps` says.
LATENT_NORM_EPS = 1e-6
SHORT_SEQUENCE = 256


class Rotation:
    """This step's positions with the cosines and sines that cover them: computed once, used by every layer."""

    def __init__(self, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> None:
        self.positions, self.cos, self.sin, self.interleaved = positions, cos, sin, interleaved

    def __call__(self, x: Tensor, exact: bool) -> Tensor:  # [T, H, d] -> [T, H, d]
        turn = kernels.rope if exact else ref.rope
        return turn(x, self.positions, self.cos, self.sin, self.interleaved)


class GroupedQueryAttention(nn.Module):
    """Every group of query heads shares one key and value head (Ainslie et al., GQA, 2023)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.scale = config.head_dim**-0.5
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, queries, config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, keys, config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, keys, config.qkv_bias)
        self.o_proj = Linear(queries, config.hidden_size, config.o_bias)

    def forward(self, x: Tensor, context: Context, rotate: Rotation) -> Tensor:
        exact = self.o_proj.packed is not None
        dim, adapted = self.config.head_dim, context.adapters
        q = rotate(self.q_proj(x, adapted).view(x.shape[0], -1, dim), exact)  # [T, Hq, d]
        k = rotate(self.k_proj(x, adapted).view(x.shape[0], -1, dim), exact)  # [T, Hkv, d]
        v = self.v_proj(x, adapted).view(x.shape[0], -1, dim)
        if exact:
            out = attend_paged(q, k, v, context, self.layer, self.config, self.scale)
        else:
            out = attend_packed(q, k, v, context, self.scale)
        projected: Tensor = self.o_proj(out.reshape(x.shape[0], -1), adapted)
        return projected


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2, section 2.1); queries are compressed too where `q_lora_rank` is set."""

    def __init__(self, config: ModelConfig, layer: int, latent: LatentConfig) -> None:
        super().__init__()
        self.config, self.layer, self.latent = config, layer, latent
        self.scale = latent_softmax_scale(config.rope, latent.qk_head_dim)
        heads, hidden = config.num_attention_heads, config.hidden_size
        if latent.q_lora_rank is None:
            self.q_proj = Linear(hidden, heads * latent.qk_head_dim)
        else:
            self.q_a_proj = Linear(hidden, latent.q_lora_rank, config.qkv_bias)
            self.q_a_layernorm = RMSNorm(latent.q_lora_rank, LATENT_NORM_EPS)
            self.q_b_proj = Linear(latent.q_lora_rank, heads * latent.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(hidden, latent.cache_dim, config.qkv_bias)
        self.kv_a_layernorm = RMSNorm(latent.kv_lora_rank, LATENT_NORM_EPS)
        self.kv_b_proj = LatentUpProjection(heads, latent)
        self.o_proj = Linear(heads * latent.v_head_dim, hidden, config.o_bias)

    def forward(self, x: Tensor, context: Context, rotate: Rotation) -> Tensor:
        latent, adapted = self.latent, context.adapters
        exact = self.o_proj.packed is not None
        q = self._queries(x, adapted)  # [T, H, nope + r]
        q_nope, q_rope = torch.split(q, [latent.qk_nope_head_dim, latent.qk_rope_head_dim], dim=-1)
        compressed = self.kv_a_proj_with_mqa(x, adapted)
        c, k_rope = torch.split(compressed, [latent.kv_lora_rank, latent.qk_rope_head_dim], dim=-1)
        c = self.kv_a_layernorm(c)  # [T, R]
        q_rope = rotate(q_rope, exact)  # [T, H, r]
        k_rope = rotate(k_rope.unsqueeze(1), exact)  # [T, 1, r]
        if exact:
            q_full = torch.cat([self.kv_b_proj.absorb_query(q_nope, adapted), q_rope], dim=-1)  # [T, H, R + r]
            key = torch.cat([c.unsqueeze(1), k_rope], dim=-1)  # [T, 1, R + r]
            mixed = attend_paged(q_full, key, None, context, self.layer, self.config, self.scale)
            out = self.kv_b_proj.absorb_value(mixed, adapted)  # [T, H, v]
        else:
            k_nope, v = self.kv_b_proj.expand(c)
            k = torch.cat([k_nope, k_rope.to(k_nope.dtype).expand(-1, k_nope.shape[1], -1)], dim=-1)
            q_full = torch.cat([q_nope, q_rope], dim=-1)
            out = attend_packed(q_full, k, v, context, self.scale)
        projected: Tensor = self.o_proj(out.reshape(x.shape[0], -1), adapted)
        return projected

    def _queries(self, x: Tensor, adapted: Assignment | None) -> Tensor:
        compressed = x if self.latent.q_lora_rank is None else self.q_a_layernorm(self.q_a_proj(x, adapted))
        project = self.q_proj if self.latent.q_lora_rank is None else self.q_b_proj
        q: Tensor = project(compressed, adapted)
        return q.view(x.shape[0], -1, self.latent.qk_head_dim)


class LatentUpProjection(Linear):
    """`kv_b_proj` [H * (nope + v), R]: keys and values out of the latent, whole for training or absorbed per head.

    Packed, it holds the two absorbed halves; an FP8 weight keeps its stored form beside them, for lossless saving.
    """

    def __init__(self, heads: int, latent: LatentConfig) -> None:
        self.heads, self.latent = heads, latent
        super().__init__(latent.kv_lora_rank, heads * (latent.qk_nope_head_dim + latent.v_head_dim))
        self.fp8: tuple[Tensor, Tensor] | None = None
        self.query_heads: PackedHeads | None = None
        self.value_heads: PackedHeads | None = None
        self.latent_low_rank: dict[int, LatentLowRank] = {}

    def expand(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [T, R] to keys [T, H, nope] and values [T, H, v]."""
        both = self.forward(c).view(c.shape[0], self.heads, -1)
        keys, values = torch.split(both, [self.latent.qk_nope_head_dim, self.latent.v_head_dim], dim=-1)
        return keys, values

    def absorb_query(self, q_nope: Tensor, adapted: Assignment | None) -> Tensor:  # [T, H, nope] -> [T, H, R]
        assert self.query_heads is not None
        absorbed = kernels.head_linear(q_nope.contiguous(), self.query_heads)
        for addition, rows in () if adapted is None else adapted.parts(self.latent_low_rank):
            absorbed[rows] += addition.query(q_nope[rows])
        return absorbed

    def absorb_value(self, mixed: Tensor, adapted: Assignment | None) -> Tensor:  # [T, H, R] -> [T, H, v]
        assert self.value_heads is not None
        values = kernels.head_linear(mixed, self.value_heads)
        for addition, rows in () if adapted is None else adapted.parts(self.latent_low_rank):
            values[rows] += addition.value(mixed[rows])
        return values

    def adopt(self, source: Iterable[Tensor] | IntegerPieces, scale_inv: Tensor | None = None) -> None:
        if isinstance(source, IntegerPieces):
            raise LayoutError("its absorbed halves are quantised, not its rows", fix="adopt it, then quantize_heads")
        stored = join_rows(self.shape, source)
        whole = stored
        if scale_inv is not None:
            # The transposed half would straddle FP8 blocks, so it is widened; it is a small share of a model.
            self.fp8 = stored, scale_inv.clone()
            whole = dequantize_blocks(stored, scale_inv)
        per_head = whole.view(self.heads, -1, self.latent.kv_lora_rank)
        nope = self.latent.qk_nope_head_dim
        # Not lasting: most models are quantised, and these give way to what `quantize_heads` makes of them.
        self.query_heads = kernels.pack_heads(per_head[:, :nope].transpose(1, 2), lasting=False)
        self.value_heads = kernels.pack_heads(per_head[:, nope:], lasting=False)
        self.weight = None

    def quantize_heads(self, bits: Bits) -> None:
        """Quantise the two absorbed halves, each along its own inputs; the stored form goes."""
        assert self.query_heads is not None and self.value_heads is not None
        self.query_heads, self.value_heads = (
            kernels.join_heads(
                [
                    kernels.pack_integer(*quantize_integer(kernels.unpack_weight(head)[0], bits), bits)
                    for head in heads.weights
                ]
            )
            for heads in (self.query_heads, self.value_heads)
        )
        self.fp8 = None

    def stored(self) -> tuple[Tensor, Tensor | None]:
        """The packed weight as the checkpoint had it, with block scales if it is FP8."""
        if self.fp8 is not None:
            return self.fp8
        assert self.query_heads is not None and self.value_heads is not None
        rows = []
        for query, value in zip(self.query_heads.weights, self.value_heads.weights, strict=True):
            rows += [kernels.unpack_weight(query)[0].T, kernels.unpack_weight(value)[0]]
        return torch.cat(rows), None


def attend_packed(q: Tensor, k: Tensor, v: Tensor, context: Context, scale: float) -> Tensor:
    """Causal attention inside each packed sequence, with gradients. q [T, Hq, d], k [T, Hkv, d], v [T, Hkv, dv]."""
    if not isinstance(context, Packed):
        raise LayoutError(
            "an unpacked model computes whole sequences only", fix="pack the model before serving from a cache"
        )
    sizes = [group.tokens for group in context.groups]
    outputs = []
    for group, *parts in zip(context.groups, *(torch.split(t.to(v.dtype), sizes) for t in (q, k, v)), strict=True):
        q_g, k_g, v_g = (group.pad(part).transpose(1, 2) for part in parts)  # [B, H, L, d]
        attend = _attend_short if group.length <= SHORT_SEQUENCE else _attend_fused
        outputs.append(group.unpad(attend(q_g, k_g, v_g, scale).transpose(1, 2)))
    return torch.cat(outputs)


def _attend_short(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention by two batched products, [B, H, L, d]: twice as fast as the fused kernel on short sequences."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    length = q.shape[2]
    future = torch.ones(length, length, dtype=torch.bool).triu_(1)
    scores = (q * scale) @ k.transpose(-1, -2)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """The same by torch's fused kernel, which never holds all scores. Float32: its bfloat16 form is slower on CPUs."""
    value_dim, dtype = v.shape[-1], v.dtype
    if value_dim < q.shape[-1]:  # the kernel wants one width for all three
        v = F.pad(v, (0, q.shape[-1] - value_dim))
    q, k, v = q.float(), k.float(), v.float()
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[..., :value_dim].to(dtype)


def attend_paged(
    q: Tensor, k: Tensor, v: Tensor | None, context: Context, layer: int, config: ModelConfig, scale: float
) -> Tensor:
    """Write this step's keys and values to their slots, then attend through the block tables. v None: part of k."""
    if not isinstance(context, Paged):
        raise LayoutError("attention kernels read paged keys", fix="pass Packed.paged()")
    k_pool, v_pool = context.pools(layer, config)
    kernels.write_kv(k_pool, context.slots, k)
    if v is not None:
        kernels.write_kv(v_pool, context.slots, v)
    return kernels.attention(
        q.contiguous(),
        k_pool,
        v_pool,
        context.positions,
        context.block_tables,
        context.seq_of_token,
        context.block_size,
        scale,
    )

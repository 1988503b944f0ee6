"""A packed model's decoder layers as the kernels' one-call form (`deepseek.kernels.run_stack`).

Serving computes a step through it: no Python runs between the operations of a step, which is what a small model spends
most of its time on otherwise. The modules' own `forward` stays the definition, and the path of everything the call does
not know (adapters, biases in MLPs): tests hold the two to equal bits.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from deepseek import kernels
from deepseek.kernels import LatentSpec, LayerSpec, Projection, RoutedSpec, Stack
from deepseek.models.attention import LATENT_NORM_EPS, GroupedQueryAttention, LatentAttention
from deepseek.models.experts import ExpertLayer
from deepseek.models.layers import GatedMLP, Linear, RMSNorm


def compile_layers(layers: Iterable[nn.Module], last_norm: RMSNorm) -> Stack | None:
    """The stack of packed decoder layers; None where a layer or the backend has no such form."""
    specs = [_layer(layer) for layer in layers]
    known = [spec for spec in specs if spec is not None]
    if not known or len(known) < len(specs):
        return None
    return kernels.compile_stack(known, last_norm.weight.detach(), last_norm.eps)


def _layer(layer: nn.Module) -> LayerSpec | None:
    attention, mlp = layer.self_attn, layer.mlp
    assert isinstance(layer.input_layernorm, RMSNorm) and isinstance(layer.post_attention_layernorm, RMSNorm)
    dense = mlp.shared_experts if isinstance(mlp, ExpertLayer) else mlp
    assert dense is None or isinstance(dense, GatedMLP)
    shared = None
    if dense is not None:
        parts = (dense.gate_proj, dense.up_proj, dense.down_proj)
        if any(part.bias is not None for part in parts):
            return None
        shared = _packed(parts[0]), _packed(parts[1]), _packed(parts[2])
    routed = _routed(mlp) if isinstance(mlp, ExpertLayer) else None
    norms = layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()
    eps = layer.input_layernorm.eps
    if isinstance(attention, GroupedQueryAttention):
        config = attention.config
        return LayerSpec(
            *norms,
            eps,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            scale=attention.scale,
            q=_projection(attention.q_proj),
            k=_projection(attention.k_proj),
            v=_projection(attention.v_proj),
            o=_projection(attention.o_proj),
            routed=routed,
            shared=shared,
        )
    assert isinstance(attention, LatentAttention)
    compressed = attention.latent.q_lora_rank is not None
    return LayerSpec(
        *norms,
        eps,
        heads=attention.config.num_attention_heads,
        kv_heads=1,
        head_dim=attention.latent.qk_head_dim,
        scale=attention.scale,
        q=_projection(attention.q_b_proj if compressed else attention.q_proj),
        o=_projection(attention.o_proj),
        latent=_latent(attention, compressed),
        routed=routed,
        shared=shared,
    )


def _latent(attention: LatentAttention, compressed: bool) -> LatentSpec:
    latent, up = attention.latent, attention.kv_b_proj
    assert up.query_heads is not None and up.value_heads is not None
    return LatentSpec(
        rank=latent.kv_lora_rank,
        rope_dim=latent.qk_rope_head_dim,
        value_dim=latent.v_head_dim,
        eps=LATENT_NORM_EPS,
        kv_a=_projection(attention.kv_a_proj_with_mqa),
        kv_a_norm=attention.kv_a_layernorm.weight.detach(),
        query_heads=up.query_heads,
        value_heads=up.value_heads,
        q_a=_projection(attention.q_a_proj) if compressed else None,
        q_a_norm=attention.q_a_layernorm.weight.detach() if compressed else None,
    )


def _routed(mlp: ExpertLayer) -> RoutedSpec:
    router, experts = mlp.gate, mlp.experts
    assert router.packed is not None
    return RoutedSpec(
        router.packed,
        router.correction,
        router.routing,
        gate=experts.packed["gate_proj"],
        up=experts.packed["up_proj"],
        down=experts.packed["down_proj"],
    )


def _packed(linear: Linear) -> kernels.PackedWeight:
    assert linear.packed is not None
    return linear.packed


def _projection(linear: Linear) -> Projection:
    return Projection(_packed(linear), None if linear.bias is None else linear.bias.detach())

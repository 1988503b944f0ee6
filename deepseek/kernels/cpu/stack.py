"""The decoder stack's descriptor in C: `Layer` of layers.cpp, field for field, and how a LayerSpec fills it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from deepseek.kernels.packed import PackedExperts, PackedHeads, PackedWeight
from deepseek.kernels.stack import LayerSpec, Projection

_I, _P, _D = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double


class _Projection(ctypes.Structure):
    _fields_ = (("w", _P), ("bias", _P))


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, _P) for name in ("input_norm", "post_norm")),
        *((name, _D) for name in ("eps", "scale")),
        *((name, _I) for name in ("heads", "kv_heads", "head_dim", "rank", "rope_dim", "value_dim")),
        ("latent_eps", _D),
        *((name, _Projection) for name in ("q", "k", "v", "o", "q_a", "kv_a")),
        *((name, _P) for name in ("q_a_norm", "kv_a_norm", "query_heads", "value_heads")),
        *((name, _I) for name in ("experts", "topk", "groups", "top_groups", "group_best", "sigmoid", "normalise")),
        *((name, _D) for name in ("routed_scale", "closed")),
        *(
            (name, _P)
            for name in ("correction", "router", "gate", "up", "down", "shared_gate", "shared_up", "shared_down")
        ),
    )


class LayerPool(ctypes.Structure):
    _fields_ = (
        *(("k", _P), ("k_slot", _I), ("k_head", _I)),
        *(("v", _P), ("v_slot", _I), ("v_head", _I), ("slots", _I)),
    )


def fill(spec: LayerSpec) -> Layer:
    """The descriptor of one layer. It points into the spec, which must outlive it."""
    layer = Layer(
        input_norm=_tensor(spec.input_norm),
        post_norm=_tensor(spec.post_norm),
        eps=spec.eps,
        scale=spec.scale,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        q=_projection(spec.q),
        k=_projection(spec.k),
        v=_projection(spec.v),
        o=_projection(spec.o),
    )
    if (latent := spec.latent) is not None:
        layer.rank, layer.rope_dim, layer.value_dim = latent.rank, latent.rope_dim, latent.value_dim
        layer.latent_eps = latent.eps
        layer.q_a, layer.kv_a = _projection(latent.q_a), _projection(latent.kv_a)
        layer.q_a_norm, layer.kv_a_norm = _tensor(latent.q_a_norm), _tensor(latent.kv_a_norm)
        layer.query_heads, layer.value_heads = _weight(latent.query_heads), _weight(latent.value_heads)
    if (routed := spec.routed) is not None:
        routing = routed.routing
        layer.experts, layer.topk = routed.router.n, routing.topk
        layer.groups, layer.top_groups, layer.group_best = routing.groups, routing.top_groups, routing.group_best
        layer.sigmoid, layer.normalise = routing.sigmoid, routing.normalise
        layer.routed_scale, layer.closed = routing.scale, routing.closed
        layer.correction, layer.router = _tensor(routed.correction), _weight(routed.router)
        layer.gate, layer.up, layer.down = (_weight(w) for w in (routed.gate, routed.up, routed.down))
    if spec.shared is not None:
        layer.shared_gate, layer.shared_up, layer.shared_down = (_weight(w) for w in spec.shared)
    return layer


def fill_pools(pools: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """The addresses of each layer's keys and values."""
    array = (LayerPool * len(pools))()
    for entry, (k, v) in zip(array, pools, strict=True):
        (entry.k_slot, entry.k_head, _), (entry.v_slot, entry.v_head, _) = k.stride(), v.stride()
        entry.k, entry.v, entry.slots = k.data_ptr(), v.data_ptr(), k.shape[0]
    return array


def _tensor(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _weight(weight: PackedWeight | PackedHeads | PackedExperts) -> int:
    return weight.address


def _projection(projection: Projection | None) -> _Projection:
    if projection is None:
        return _Projection(None, None)
    return _Projection(_weight(projection.weight), _tensor(projection.bias))

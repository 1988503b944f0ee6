"""The whole decoder stack as one call: what a layer is made of, for a backend that computes a step without coming back
to Python between operations.

A `LayerSpec` names the packed weights and the constants of one decoder layer; `ops.compile_stack` turns a list of them
into a `Stack`, or into None where the backend has no such call (the model then computes operation by operation, with
the same bits).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from deepseek.kernels.packed import PackedExperts, PackedHeads, PackedWeight


@dataclass(frozen=True, eq=False)
class Projection:
    """A packed linear layer and its bias."""

    weight: PackedWeight
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LatentSpec:
    """Latent attention in its absorbed form: `kv_a` [rank + rope_dim, D], the norm of its first `rank`, W_UK^T and W_UV of
    each head; `q_a` and its norm where queries are compressed too. `eps` is that of both norms."""

    rank: int
    rope_dim: int
    value_dim: int
    eps: float
    kv_a: Projection
    kv_a_norm: Tensor
    query_heads: PackedHeads
    value_heads: PackedHeads
    q_a: Projection | None = None
    q_a_norm: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """How a router picks experts; the meaning is `reference.route`'s.

    groups of neighbouring experts, of which the `top_groups` whose `group_best` (1 or 2) highest scores sum highest stay
    open; `closed` is what the scores of the others become.
    """

    topk: int
    sigmoid: bool
    normalise: bool
    scale: float
    groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    closed: float = 0.0


@dataclass(frozen=True, eq=False)
class RoutedSpec:
    """The router [E, D], the correction that steers its choice, and the experts' matrices."""

    router: PackedWeight
    correction: Tensor | None
    routing: Routing
    gate: PackedExperts
    up: PackedExperts
    down: PackedExperts


@dataclass(frozen=True, eq=False)
class LayerSpec:
    """One decoder layer. `k` and `v` are there for grouped-query attention, `latent` for latent attention.

    head_dim: of queries and keys (latent: the plain and the rotated part together). shared: gate, up and down of the MLP
    every token takes, which is the whole MLP where `routed` is None.
    """

    input_norm: Tensor
    post_norm: Tensor
    eps: float
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    q: Projection
    o: Projection
    k: Projection | None = None
    v: Projection | None = None
    latent: LatentSpec | None = None
    routed: RoutedSpec | None = None
    shared: tuple[PackedWeight, PackedWeight, PackedWeight] | None = None


@dataclass(frozen=True, eq=False)
class Stack:
    """Decoder layers ready to run; made by `compile_stack`. Keeps what it points to alive."""

    layers: tuple[LayerSpec, ...]
    last_norm: Tensor
    last_eps: float
    descriptor: Any = field(repr=False)


@dataclass(frozen=True, eq=False)
class StackPools:
    """Each layer's keys and values, for as many steps as they live; made by `stack_pools`."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    descriptor: Any = field(repr=False)

    @property
    def slots(self) -> int:
        return self.pairs[0][0].shape[0]


@dataclass(frozen=True, eq=False)
class StackStep:
    """One step's tokens: shapes as in `ops.attention`, `ops.rope` and `ops.write_kv`."""

    positions: Tensor
    slots: Tensor
    cos: Tensor
    sin: Tensor
    interleaved: bool
    seq_of_token: Tensor
    block_tables: Tensor
    block_size: int
    pools: StackPools

"""How a token finds its keys and values: the `context` a forward pass is given.

`Packed`: whole sequences laid end to end (training, scoring). `Paged`: tokens of many sequences, each with
a block table into a `KVCache` (serving). Both describe flat tokens `[T]`; there is no batch dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from deepseek import kernels
from deepseek.core.errors import LayoutError
from deepseek.kernels import Stack, StackPools
from deepseek.models.config import ModelConfig
from deepseek.models.low_rank import Assignment

SCORING_BLOCK = 16


@dataclass(frozen=True)
class Group:
    """Neighbouring packed sequences that are padded to one length for a batched attention call.

    tokens: how many tokens they have together. rows: int64 [tokens], where each stands in `count * length` padded rows.
    """

    tokens: int
    count: int
    length: int
    rows: Tensor = field(repr=False)

    def pad(self, x: Tensor) -> Tensor:
        """[tokens, ...] to [count, length, ...], zeros behind each sequence's end."""
        if self.tokens < self.count * self.length:
            x = x.new_zeros(self.count * self.length, *x.shape[1:]).index_copy(0, self.rows, x)
        return x.view(self.count, self.length, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """[count, length, ...] back to [tokens, ...]."""
        flat = x.flatten(0, 1)
        return flat.index_select(0, self.rows) if self.tokens < flat.shape[0] else flat


@dataclass(frozen=True)
class Packed:
    """Sequences laid end to end.

    cu_seqlens: int64 [B + 1], where each sequence starts; the last entry is T.
    positions: int64 [T], each token's place in its own sequence.
    groups: runs of neighbours of similar length; laying sequences in order of length makes them few and tight.
    """

    cu_seqlens: Tensor
    positions: Tensor
    groups: tuple[Group, ...]
    adapters: ClassVar[None] = None  # only packed models compute with adapters

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Packed:
        """Describe sequences of these lengths, in tokens, in the order they are laid."""
        if not lengths or min(lengths) < 1:
            raise LayoutError("packed sequences need at least one token each", found=list(lengths))
        sizes = torch.tensor(list(lengths), dtype=torch.int64)
        cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        positions = torch.arange(int(cu_seqlens[-1])) - torch.repeat_interleave(cu_seqlens[:-1], sizes)
        return cls(cu_seqlens, positions, tuple(_group(run) for run in _similar_runs(lengths)))

    def paged(self) -> Paged:
        """The same tokens as one step over an empty cache: scoring then computes exactly what serving does."""
        lengths = (self.cu_seqlens[1:] - self.cu_seqlens[:-1]).tolist()
        blocks = [-(-length // SCORING_BLOCK) for length in lengths]
        tables = torch.zeros(len(lengths), max(blocks), dtype=torch.int32)
        first = 0
        for row, count in enumerate(blocks):
            tables[row, :count] = torch.arange(first, first + count, dtype=torch.int32)
            first += count
        sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        blocks_of_tokens = tables[sequence, self.positions // SCORING_BLOCK].long()
        slots = blocks_of_tokens * SCORING_BLOCK + self.positions % SCORING_BLOCK
        return Paged(None, self.positions, slots, sequence.int(), tables, SCORING_BLOCK, first * SCORING_BLOCK)


def _similar_runs(lengths: Sequence[int]) -> list[list[int]]:
    """Cut into runs of neighbours whose padding to the longest stays below a fifth of the padded size."""
    runs: list[list[int]] = []
    for length in lengths:
        run = [*runs[-1], length] if runs else []
        if run and max(run) * len(run) * 0.8 <= sum(run):
            runs[-1] = run
        else:
            runs.append([length])
    return runs


def _group(run: list[int]) -> Group:
    longest = max(run)
    rows = torch.cat([torch.arange(length) + place * longest for place, length in enumerate(run)])
    return Group(sum(run), len(run), longest, rows)


class KVCache:
    """Keys and values of every layer, by slot: float32.

    Grouped-query attention keeps `[slots, kv_heads, head_dim]` twice a layer; latent attention keeps one
    `[slots, 1, kv_lora_rank + qk_rope_head_dim]`, whose first part serves as the values too. The layers of
    multi-token prediction follow those of the model.
    """

    def __init__(self, config: ModelConfig, num_slots: int, layers: int | None = None) -> None:
        self.num_slots = num_slots
        self.pools: list[tuple[Tensor, Tensor]] = []
        for _ in range(config.num_hidden_layers if layers is None else layers):
            self.pools.append(new_pool(config, num_slots))
        # A stack that is no longer served, after a weight update, takes its entry along.
        self.stack_pools: WeakKeyDictionary[Stack, StackPools] = WeakKeyDictionary()

    @staticmethod
    def bytes_per_token(config: ModelConfig, layers: int | None = None) -> int:
        """Bytes of cache one token takes in that many layers; None: in the model's, without draft layers."""
        floats = config.latent.cache_dim if config.latent else 2 * config.num_key_value_heads * config.head_dim
        return 4 * floats * (config.num_hidden_layers if layers is None else layers)


def new_pool(config: ModelConfig, num_slots: int) -> tuple[Tensor, Tensor]:
    """One layer's keys and values. For latent attention the second is a view of the first."""
    if config.latent:
        pool = kernels.zeros_for_reading((num_slots, 1, config.latent.cache_dim))
        return pool, pool[..., : config.latent.kv_lora_rank]
    shape = (num_slots, config.num_key_value_heads, config.head_dim)
    return kernels.zeros_for_reading(shape), kernels.zeros_for_reading(shape)


@dataclass(frozen=True)
class Paged:
    """One serving step.

    cache: where keys and values live; None makes a throw-away one per layer (scoring).
    positions: int64 [T], each token's place in its sequence.
    slots: int64 [T], where its key and value are written.
    seq_of_token: int32 [T], row of `block_tables`.
    block_tables: int32 [B, blocks]; key j lies in slot table[j // block_size] * block_size + j % block_size.
    adapters: which tokens have a low-rank adapter; None: no token has one.
    """

    cache: KVCache | None
    positions: Tensor
    slots: Tensor
    seq_of_token: Tensor
    block_tables: Tensor
    block_size: int
    num_slots: int = 0
    adapters: Assignment | None = None

    def pools(self, layer: int, config: ModelConfig) -> tuple[Tensor, Tensor]:
        """Layer `layer`'s keys and values. Raises LayoutError for a layer the cache was not made for."""
        if self.cache is None:
            return new_pool(config, self.num_slots)
        if layer >= len(self.cache.pools):
            raise LayoutError(
                "the cache has no such layer",
                found=layer,
                expected=f"below {len(self.cache.pools)}",
                fix="count the draft layers too: KVCache(config, slots, layers=...)",
            )
        return self.cache.pools[layer]

    def stack_pools(self, stack: Stack, first: int, config: ModelConfig) -> StackPools:
        """The pools of a stack whose first layer is `first`. Without a cache its layers share one: each writes what it reads."""
        if self.cache is None:
            return kernels.stack_pools(stack, [new_pool(config, self.num_slots)] * len(stack.layers))
        kept = self.cache.stack_pools.get(stack)
        if kept is None:
            pairs = [self.pools(layer, config) for layer in range(first, first + len(stack.layers))]
            kept = self.cache.stack_pools[stack] = kernels.stack_pools(stack, pairs)
        return kept


Context = Packed | Paged

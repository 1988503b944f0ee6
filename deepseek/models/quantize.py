"""Which tensors of a checkpoint are quantised while it loads, and to what.

`int8` and `int4` make integer weights (`precision/integer.py`) of all matrices that are multiplied with, and of the
embedding. What stays:

- norms, biases and routers keep their form: together a thousandth of a model, and a router's smallest change sends tokens
  to other experts;
- the embedding and the output matrix have 8 bits in `int4` too: every token meets them, one row or all;
- so have the two absorbed halves of `kv_b_proj`, each quantised along its own inputs;
- so have the two kinds of projection that measured as the most sensitive (docs/quantization.md, on the built-in model with
  everything else as it was): `kv_a_proj_with_mqa`, a hundredth of the weights but what every head sees of every token, and
  the first layer's `down_proj`, whose error all other layers inherit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from deepseek.core.errors import ConfigError
from deepseek.kernels import PackedExperts, PackedHeads, PackedWeight
from deepseek.models.attention import LatentUpProjection
from deepseek.models.experts import RoutedExperts, Router
from deepseek.models.layers import Embedding, Linear
from deepseek.models.quantize_cache import CacheWriter, Plan, Quantized
from deepseek.models.safetensors_files import Entry
from deepseek.models.tensors import Slot
from deepseek.models.transformer import Model, Quantization
from deepseek.precision.integer import Bits, IntegerPieces, bits_per_weight, quantize_pieces

QuantizationChoice = Literal["none", "int8", "int4", "auto"]
CHOICES: tuple[QuantizationChoice, ...] = ("none", "int8", "int4", "auto")
MODES: tuple[Quantization, ...] = ("none", "int8", "int4")  # largest first
SENSITIVE = ("lm_head.weight", ".kv_a_proj_with_mqa.weight", "model.layers.0.mlp.down_proj.weight")  # 8 bits in int4
RULES_VERSION = 1  # of what follows and of the formats: a cache of quantised weights is only good for its own

# Weights may take this share of the free memory; the rest is for the key-value cache, buffers and other programs.
COMFORTABLE_SHARE = 0.6


def bits_of(name: str, slot: Slot, quantization: Quantization) -> Bits | None:
    """The bits of tensor `name`, by its Hugging Face name; None: it keeps its stored form."""
    if quantization == "none" or not (slot.may_be_fp8 or slot.is_table):
        return None
    if quantization == "int8" or slot.is_table or slot.quantize_heads is not None or name.endswith(SENSITIVE):
        return 8
    return 4


def pack_tensor(
    name: str,
    slot: Slot,
    pieces: Iterable[Tensor],
    scale_inv: Tensor | None,
    quantization: Quantization,
    keep: CacheWriter | None = None,
) -> None:
    """Give the model a tensor for serving, quantised as the rules say. Its form in the checkpoint: pieces of whole rows,
    each but the last a multiple of 128, and the block scales of an FP8 one. keep: writes what is quantised to a cache.

    Raises LayoutError.
    """
    bits = bits_of(name, slot, quantization)
    if bits is None:
        slot.pack(pieces, scale_inv)
    elif slot.quantize_heads is not None:
        slot.pack(pieces, scale_inv)
        slot.quantize_heads(bits)
    else:
        quantized = IntegerPieces(bits, quantize_pieces(pieces, bits, scale_inv))
        slot.pack(quantized if keep is None else keep.pieces(name, quantized), None)


def cache_plan(names: Iterable[str], slots: dict[str, Slot], quantization: Quantization) -> Plan:
    """The tensors a cache holds: all that `pack_tensor` makes integer pieces of."""
    plan: dict[str, Quantized] = {}
    for name in names:
        slot = slots[name]
        bits = bits_of(name, slot, quantization)
        if bits is not None and slot.quantize_heads is None:
            plan[name] = Quantized((slot.shape[0], slot.shape[1]), bits)
    return plan


def choose(
    wanted: QuantizationChoice, entries: dict[str, Entry], slots: dict[str, Slot], free_bytes: int
) -> tuple[Quantization, str]:
    """What `wanted` comes to for this checkpoint and this much free memory, and why.

    `auto` takes the first of none, int8 and int4 whose weights take at most 60 % of the free memory, and int4 where none
    does. Raises ConfigError for an unknown name.
    """
    if wanted not in CHOICES:
        raise ConfigError("no such quantization", where="quantization", found=wanted, expected=" or ".join(CHOICES))
    if wanted != "auto":
        return wanted, "asked for"
    sizes = {mode: expected_bytes(entries, slots, mode) for mode in MODES}
    room = free_bytes * COMFORTABLE_SHARE
    chosen: Quantization = next((mode for mode in MODES if sizes[mode] <= room), "int4")
    told = ", ".join(f"{mode} {sizes[mode] / 2**30:.2f} GiB" for mode in MODES)
    verdict = "fits" if sizes[chosen] <= room else "is the smallest, and may not fit"
    return (
        chosen,
        f"auto: {chosen} {verdict} into {COMFORTABLE_SHARE:.0%} of {free_bytes / 2**30:.2f} GiB free ({told})",
    )


def expected_bytes(entries: dict[str, Entry], slots: dict[str, Slot], quantization: Quantization) -> int:
    """Bytes the weights will take in memory."""
    total = 0.0
    for name, slot in slots.items():
        bits = bits_of(name, slot, quantization)
        if bits is not None:
            total += math.prod(slot.shape) * bits_per_weight(bits) / 8
        else:
            total += entries[name].nbytes if len(slot.shape) > 1 else 4 * math.prod(slot.shape)
    return int(total)


@dataclass(frozen=True, slots=True)
class WeightSize:
    """What a packed model's weights are: their number, and the bytes they take with scales and padding."""

    weights: int
    nbytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.weights


def weight_size(model: Model) -> WeightSize:
    """Counts the weights of a packed model; a tied matrix once."""
    weights = nbytes = 0

    def count(*packed: PackedWeight | PackedHeads | PackedExperts | None) -> None:
        nonlocal weights, nbytes
        for one in packed:
            if one is not None:
                matrices = 1 if isinstance(one, PackedWeight) else len(one.weights)
                weights, nbytes = weights + matrices * one.n * one.k, nbytes + one.nbytes

    for module in model.modules():
        if isinstance(module, LatentUpProjection):
            count(module.query_heads, module.value_heads)
        elif isinstance(module, Linear | Router):
            count(module.packed)
        elif isinstance(module, RoutedExperts):
            count(*module.packed.values())
        elif isinstance(module, Embedding) and model.tied_head is None:
            count(module.packed)
            if module.rows is not None:
                weights, nbytes = weights + module.rows.numel(), nbytes + module.rows.nbytes
        for vector in _vectors(module):
            weights, nbytes = weights + vector.numel(), nbytes + vector.nbytes
    return WeightSize(weights, nbytes)


def _vectors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]

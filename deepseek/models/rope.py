"""Rotary position embeddings and their scalings: none, linear, Llama 3 and YaRN.

A pair of dimensions i is turned by the angle position * inv_freq[i], with inv_freq[i] = theta^(-2i/d)
(Su et al., RoFormer). The scalings change inv_freq so that a model can read further than it was trained:
linear divides it; Llama 3 divides only slow turns and blends between; YaRN (Peng et al., section 3) blends
over a range of dimensions and multiplies the softmax temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """`theta` is the base; the rest belongs to `kind`. Lengths in tokens."""

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's length-dependent magnitude, 0.1 * mscale * ln(factor) + 1 (YaRN, equation 22)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotation_scale(rope: RopeConfig) -> float:
    """What cosines and sines are multiplied with."""
    if rope.kind != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim)
    return yarn_mscale(rope.factor)


def latent_softmax_scale(rope: RopeConfig, qk_head_dim: int) -> float:
    """Latent attention's softmax scale: 1/sqrt(d), times mscale_all_dim's magnitude squared (DeepSeek-V2 release)."""
    scale: float = qk_head_dim**-0.5
    if rope.kind != "default" and rope.mscale_all_dim:
        magnitude = yarn_mscale(rope.factor, rope.mscale_all_dim)
        scale *= magnitude * magnitude
    return scale


def inverse_frequencies(rope: RopeConfig, dim: int) -> Tensor:
    """Turns per token of each pair of dimensions, float32 [dim / 2]."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    inv_freq = 1.0 / rope.theta**exponents
    if rope.kind == "linear":
        return inv_freq / rope.factor
    if rope.kind == "llama3":
        return _llama3(inv_freq, rope)
    if rope.kind == "yarn":
        return _yarn(rope.theta**exponents, rope, dim)
    return inv_freq


def _llama3(inv_freq: Tensor, rope: RopeConfig) -> Tensor:
    context = rope.original_max_position_embeddings
    wavelength = 2 * math.pi / inv_freq
    slow, fast = context / rope.low_freq_factor, context / rope.high_freq_factor
    blend = (context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - blend) * inv_freq / rope.factor + blend * inv_freq
    scaled = torch.where(wavelength > slow, inv_freq / rope.factor, blended)
    return torch.where(wavelength < fast, inv_freq, scaled)


def _yarn(base_powers: Tensor, rope: RopeConfig, dim: int) -> Tensor:
    def dimension_of(turns: float) -> float:
        """The pair that makes this many turns over the original context."""
        context = rope.original_max_position_embeddings
        return dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    extrapolated, interpolated = 1.0 / base_powers, 1.0 / (rope.factor * base_powers)
    keep = 1 - ramp
    return interpolated * (1 - keep) + extrapolated * keep


class RotaryTables:
    """Cosines and sines by position, float32 [positions, dim / 2], grown on demand up to the model's length."""

    def __init__(self, rope: RopeConfig, dim: int, limit: int) -> None:
        self.rope, self.dim, self.limit = rope, dim, limit
        self._tables: tuple[Tensor, Tensor] | None = None

    def upto(self, length: int) -> tuple[Tensor, Tensor]:
        """Tables that cover positions 0 .. length - 1 at least."""
        have = self._tables[0].shape[0] if self._tables else 0
        if self._tables is None or length > have:
            rows = max(length, min(max(2 * have, 256), self.limit))
            positions = torch.arange(rows, dtype=torch.float32)
            angles = positions[:, None] * inverse_frequencies(self.rope, self.dim)[None, :]
            scale = rotation_scale(self.rope)
            self._tables = angles.cos() * scale, angles.sin() * scale
        return self._tables

"""Comparisons with the float64 meaning of an operation."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close64(actual: Tensor, expected64: Tensor, magnitude: Tensor | float, terms: int = 1) -> None:
    """`actual` is within the rounding that `terms` float32 operations on values of size `magnitude` may add up to.

    2^-24 is one rounding; eight times the square root of the terms is far beyond chance and far below a wrong formula.
    """
    assert actual.shape == expected64.shape
    allowed = 2.0**-24 * 8 * (terms**0.5 + 4) * torch.as_tensor(magnitude, dtype=torch.float64) + 1e-37
    error = (actual.double() - expected64).abs()
    worst = (error / allowed).max().item() if error.numel() else 0.0
    assert worst <= 1.0, f"error {worst:.2f} times what rounding explains"


def bits(x: Tensor) -> Tensor:
    """The float32 bit patterns, so that equality means identity (and NaN equals itself)."""
    return x.contiguous().view(torch.int32)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    different = (bits(actual) != bits(expected)).sum().item()
    assert different == 0, f"{different} of {actual.numel()} elements differ"

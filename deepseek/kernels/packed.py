"""Weights laid out for the kernels, in the number format they were stored in.

The C++ kernels want `[ceil(N / 32)][K][32]`: 32 output features side by side, so that one vector load feeds 32
independent sums. Rows beyond N are zero. The reference backend keeps row-major `[N, K]`; `layout` tells which it is.
Either way a weight is never held in a wider type than its checkpoint's: it is widened in registers, at each use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from deepseek.core.errors import LayoutError

StoredType = Literal["f32", "bf16", "f16", "fp8_e4m3", "int8", "int4"]
Layout = Literal["panels", "rows"]

PANEL = 32
SCALE_BLOCK = 128
STORED_TYPES: dict[torch.dtype, StoredType] = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float8_e4m3fn: "fp8_e4m3",
}
INTEGER_BITS = {"int8": 8, "int4": 4}


def integer_block(stored: StoredType) -> int:
    """Inputs that share a scale of an integer weight."""
    return 128 if stored == "int8" else 32


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight `[n, k]`; made by `pack_weight`.

    `data` holds the stored values, `scales` the float32 `[ceil(n/128), ceil(k/128)]` block scales of FP8. The bfloat16
    scales of an integer weight stand in `scales` where the layout is "rows", and in `data`, panel by panel, where it is
    "panels".
    """

    n: int
    k: int
    dtype: StoredType
    data: Tensor
    scales: Tensor | None
    layout: Layout
    # What the C++ side reads: the descriptor and its address. The descriptor lives as long as the weight.
    descriptor: Any = field(default=None, repr=False)
    address: int = field(default=0, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes held, padding and scales included."""
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)


@dataclass(frozen=True, eq=False)
class PackedHeads:
    """A weight `[heads, n, k]`, one matrix for each attention head; made by `pack_heads`."""

    n: int
    k: int
    weights: tuple[PackedWeight, ...]
    descriptor: Any = field(default=None, repr=False)
    address: int = field(default=0, repr=False)

    @property
    def heads(self) -> int:
        return len(self.weights)

    @property
    def nbytes(self) -> int:
        """Bytes held, padding included."""
        return sum(weight.nbytes for weight in self.weights)


@dataclass(frozen=True, eq=False)
class PackedExperts:
    """One matrix `[n, k]` for each expert; made by `pack_experts`. Stored types may differ between experts."""

    n: int
    k: int
    weights: tuple[PackedWeight, ...]
    descriptor: Any = field(default=None, repr=False)
    address: int = field(default=0, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes held, padding and scales included."""
        return sum(weight.nbytes for weight in self.weights)


def stored_type(weight: Tensor, scale_inv: Tensor | None) -> StoredType:
    """The stored type of a `[N, K]` checkpoint tensor, after checking that it and its scales can be packed."""
    if weight.device.type != "cpu" or weight.dim() != 2 or 0 in weight.shape:
        raise LayoutError(
            "a weight to pack must be a CPU matrix with no empty side",
            found=f"{list(weight.shape)} on {weight.device}",
            expected="[N, K] on cpu",
        )
    stored = STORED_TYPES.get(weight.dtype)
    if stored is None:
        raise LayoutError(
            "a weight of this type cannot be packed",
            found=weight.dtype,
            expected=", ".join(str(dtype) for dtype in STORED_TYPES),
            fix="convert it first",
        )
    if stored != "fp8_e4m3":
        if scale_inv is not None:
            raise LayoutError("scale_inv goes with FP8 weights only", found=weight.dtype, expected=torch.float8_e4m3fn)
        return stored
    if scale_inv is None:
        raise LayoutError("an FP8 weight needs its block scales", found="scale_inv=None", fix="pass weight_scale_inv")
    expected = [-(-side // SCALE_BLOCK) for side in weight.shape]
    if list(scale_inv.shape) != expected or scale_inv.dtype != torch.float32:
        raise LayoutError(
            f"scale_inv does not fit a weight of {list(weight.shape)}",
            found=f"{scale_inv.dtype} {list(scale_inv.shape)}",
            expected=f"torch.float32 {expected} (one scale for each block of 128 x 128)",
        )
    # 2^100 leaves room for the factor 2^8 that the kernels fold into a scale.
    if not bool((scale_inv.abs() < 2.0**100).all()):
        raise LayoutError("scale_inv has values that are not finite, or beyond 2^100")
    return stored


def check_integer(codes: Tensor, scales: Tensor, bits: int) -> None:
    """Raises LayoutError unless codes `[N, K]` and scales make an integer weight of `bits` bits."""
    names: dict[int, StoredType] = {8: "int8", 4: "int4"}
    if bits not in names:
        raise LayoutError("no such integer format", found=f"{bits} bits", expected="8 or 4")
    if codes.dtype != torch.int8 or codes.dim() != 2 or 0 in codes.shape or not codes.is_cpu:
        raise LayoutError(
            "codes are not what an integer weight takes",
            found=f"{codes.dtype} {list(codes.shape)} on {codes.device}",
            expected="torch.int8 [N, K] on cpu, no side empty",
        )
    n, k = codes.shape
    block = integer_block(names[bits])
    expected = [n, -(-k // block)]
    if list(scales.shape) != expected or scales.dtype != torch.bfloat16 or not scales.is_cpu:
        raise LayoutError(
            f"scales do not fit codes of [{n}, {k}]",
            found=f"{scales.dtype} {list(scales.shape)} on {scales.device}",
            expected=f"torch.bfloat16 {expected} on cpu (one scale for {block} inputs of a row)",
        )
    lowest, highest = (int(bound) for bound in torch.aminmax(codes))
    allowed = (-127, 127) if bits == 8 else (-8, 7)
    if lowest < allowed[0] or highest > allowed[1]:
        raise LayoutError(
            f"a code does not fit {bits} bits",
            found=lowest if lowest < allowed[0] else highest,
            expected=f"{allowed[0]} to {allowed[1]}",
        )
    if not bool(scales.isfinite().all()):
        raise LayoutError("a scale of an integer weight is not finite")


def same_shape(weights: Sequence[PackedWeight], what: str) -> tuple[int, int]:
    """The shape that all `weights` share. Raises LayoutError when there is none, or more than one."""
    shapes = {(weight.n, weight.k) for weight in weights}
    if len(shapes) != 1:
        raise LayoutError(f"{what} need one shape", found=sorted(shapes) or "no weights", expected="one [N, K]")
    return shapes.pop()

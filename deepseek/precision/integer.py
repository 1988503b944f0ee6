"""Integer weights: int8 with one bfloat16 scale for 128 inputs of a row, int4 with one for 32. Weight = code * scale.

Both are symmetric, without a zero point. Codes are computed against the scale as it is stored, so rounding a scale to
bfloat16 makes steps a little wider or narrower and adds no error of its own.

int8: the scale is max|w| / 127, rounded up so that no code passes 127. An error of at most half a step, 0.4 % of the
block's largest value.

int4: codes -8 to 7, and the scale may be negative, so that the largest value may meet the end that reaches further (as
in llama.cpp's Q4_0). Mapping it to -8 exactly is not best: each block tries a few scales around that, and for the codes
each gives takes the scale of least squared error, s = sum(w q) / sum(q q). The best of five leaves 6 % less squared error
than the first alone, and 1 % more than forty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deepseek.core.errors import LayoutError
from deepseek.kernels import num_threads
from deepseek.kernels.reference import dequantise_integer
from deepseek.precision.fp8 import BLOCK, dequantize_blocks

Bits = Literal[8, 4]
Floats = npt.NDArray[np.float32]

INT8_BLOCK, INT4_BLOCK = 128, 32
# Where the largest value of a block goes, as a share of the code -8.
_INT4_REACH = (1.0, 0.925, 1.075, 0.85, 1.15)
_CHUNK_ELEMENTS = 2**17  # what a thread works on: stays in its cache
_NOTHING = 2.0**-100  # a block below this counts as zeros: its codes would need a scale float32 has no inverse for


@dataclass(frozen=True)
class IntegerPieces:
    """A quantised weight on its way into a model: codes and scales in pieces of whole rows, each but the last a multiple
    of 128 of them."""

    bits: Bits
    pieces: Iterable[tuple[Tensor, Tensor]]


def integer_block(bits: Bits) -> int:
    """Inputs that share a scale."""
    return INT8_BLOCK if bits == 8 else INT4_BLOCK


def quantize_integer(
    weight: Tensor, bits: Bits, scale_inv: Tensor | None = None, threads: int | None = None
) -> tuple[Tensor, Tensor]:
    """A weight `[N, K]` (float32, bfloat16, float16, or FP8 with the scales of its 128x128 blocks) to codes int8 `[N, K]`
    and scales bfloat16 `[N, ceil(K / B)]`, B = 128 for 8 bits and 32 for 4. A block of zeros gets scale 1.

    threads: how many compute at once; None: as many as the kernels use. Raises LayoutError naming the first value that is
    not finite.
    """
    n, k = weight.shape
    codes = torch.empty((n, k), dtype=torch.int8)
    scales = torch.empty((n, -(-k // integer_block(bits))), dtype=torch.bfloat16)
    # An FP8 weight is widened in whole blocks of its scales.
    step = max(1, _CHUNK_ELEMENTS // k) if scale_inv is None else BLOCK

    def quantize(first: int) -> None:
        rows = slice(first, min(first + step, n))
        values = weight[rows]
        wide = values.float() if scale_inv is None else dequantize_blocks(values, scale_inv[first // BLOCK, None])
        try:
            quantized, fitted = _quantize_chunk(wide.numpy(), bits)
        except _NotFiniteError:
            row, column = (~wide.isfinite()).nonzero()[0].tolist()
            raise LayoutError(
                "holds a value that is not finite and cannot be quantised",
                found=f"{wide[row, column].item()} at [{first + row}, {column}]",
                expected="finite values",
            ) from None
        codes[rows], scales[rows] = torch.from_numpy(quantized), torch.from_numpy(fitted)

    with ThreadPoolExecutor(threads or num_threads()) as pool:
        for _ in pool.map(quantize, range(0, n, step)):
            pass  # raises what the first chunk in order raised
    return codes, scales


def quantize_pieces(
    pieces: Iterable[Tensor], bits: Bits, scale_inv: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """`quantize_integer` of a weight that comes as pieces of whole rows, each but the last a multiple of 128 of them."""
    row = 0
    for piece in pieces:
        last = row + piece.shape[0]
        scales = None if scale_inv is None else scale_inv[row // BLOCK : -(-last // BLOCK)]
        try:
            codes = quantize_integer(piece, bits, scales)
        except LayoutError as error:
            where = None if row == 0 else f"rows from {row}"
            raise LayoutError(error.what, where=where, found=error.found, expected=error.expected) from None
        row = last
        del piece
        yield codes
        del codes


def dequantize_integer(codes: Tensor, scales: Tensor, bits: Bits) -> Tensor:
    """Codes int8 `[N, K]` and their scales to float32 `[N, K]`, exactly."""
    return dequantise_integer(codes, scales, bits)


def bits_per_weight(bits: Bits) -> float:
    """Scales included, for whole blocks."""
    return bits + 16 / integer_block(bits)


class _NotFiniteError(Exception):
    """Somewhere in the chunk."""


def _quantize_chunk(wide: Floats, bits: Bits) -> tuple[npt.NDArray[np.int8], Floats]:
    """Codes [n, k] of float32 [n, k], and the scales, which bfloat16 holds exactly. In numpy: unlike torch's, its
    operations stay in the calling thread, and hand-offs would cost more than what is done on a chunk."""
    n, k = wide.shape
    block = integer_block(bits)
    # [block, blocks of all rows]: what one scale is for lies in a column, so that every step below runs along rows.
    columns = np.ascontiguousarray(np.pad(wide, ((0, 0), (0, -k % block))).reshape(-1, block).T)
    highest, lowest = columns.max(0), columns.min(0)
    if not (np.isfinite(highest).all() and np.isfinite(lowest).all()):
        raise _NotFiniteError
    extreme = np.where(highest > -lowest, highest, lowest)
    nothing = np.abs(extreme) < _NOTHING
    extreme[nothing] = 1.0
    scale = _int8_scales(extreme) if bits == 8 else _int4_scales(columns, extreme)
    scale[nothing] = 1.0
    codes = columns / scale
    np.rint(codes, out=codes)
    np.clip(codes, *((-127, 127) if bits == 8 else (-8, 7)), out=codes)
    return codes.astype(np.int8).T.reshape(n, -1)[:, :k], scale.reshape(n, -1)


def _int8_scales(extreme: Floats) -> Floats:
    # Rounded up to bfloat16: the next value whose low 16 bits are zero.
    bits = (np.abs(extreme) / np.float32(127)).view(np.uint32)
    rounded: Floats = ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


def _int4_scales(columns: Floats, extreme: Floats) -> Floats:
    # In units in which the extreme is -8: nothing overflows, and candidates compare alike.
    units = columns * (np.float32(-8) / extreme)
    best, scale = np.full_like(extreme, -1), np.ones_like(extreme)
    codes, product = np.empty_like(units), np.empty_like(units)
    for reach in _INT4_REACH:
        np.multiply(units, np.float32(reach), out=codes)
        np.rint(codes, out=codes)
        np.clip(codes, -8, 7, out=codes)
        # Least squares over s of |w - s q|^2: s = wq / qq, and it takes wq^2 / qq off |w|^2.
        wq = np.multiply(codes, units, out=product).sum(0)
        qq = np.multiply(codes, codes, out=product).sum(0)
        fitted = wq / np.maximum(qq, 1)  # 0 in a block of nothing
        gain = wq * fitted
        better = gain > best
        best, scale = np.where(better, gain, best), np.where(better, fitted, scale)
    nearest = torch.from_numpy(scale * (extreme / np.float32(-8))).to(torch.bfloat16).float()
    rounded: Floats = nearest.numpy()
    return rounded

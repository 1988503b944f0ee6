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
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek.core.errors import LayoutError
from deepseek.precision.fp8 import BLOCK, dequantize_blocks

Bits = Literal[8, 4]

INT8_BLOCK, INT4_BLOCK = 128, 32
# Where the largest value of a block goes, as a share of the code -8.
_INT4_REACH = (1.0, 0.925, 1.075, 0.85, 1.15)
_CHUNK_ELEMENTS = 2**15  # worked on at once: stays in the cache, and torch does not split it over threads
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


def quantize_integer(weight: Tensor, bits: Bits, scale_inv: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A weight `[N, K]` (float32, bfloat16, float16, or FP8 with the scales of its 128x128 blocks) to codes int8 `[N, K]`
    and scales bfloat16 `[N, ceil(K / B)]`, B = 128 for 8 bits and 32 for 4. A block of zeros gets scale 1.

    Raises LayoutError naming the first value that is not finite.
    """
    n, k = weight.shape
    codes = torch.empty((n, k), dtype=torch.int8)
    scales = torch.empty((n, -(-k // integer_block(bits))), dtype=torch.bfloat16)
    # An FP8 weight is widened in whole blocks of its scales.
    wide_step = n if scale_inv is None else BLOCK
    step = max(1, _CHUNK_ELEMENTS // k)
    for start in range(0, n, wide_step):
        rows = slice(start, min(start + wide_step, n))
        values = weight if scale_inv is None else dequantize_blocks(weight[rows], scale_inv[start // BLOCK, None])
        for first in range(0, rows.stop - start, step):
            chunk = values[first : first + step].float()
            _require_finite(chunk, start + first)
            here = slice(start + first, start + first + chunk.shape[0])
            codes[here], scales[here] = _quantize_chunk(chunk, bits)
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
    return codes.float() * scales.float().repeat_interleave(integer_block(bits), 1)[:, : codes.shape[1]]


def bits_per_weight(bits: Bits) -> float:
    """Scales included, for whole blocks."""
    return bits + 16 / integer_block(bits)


def _require_finite(wide: Tensor, first_row: int) -> None:
    # One pass and no mask: the sum of x * 0 is 0 unless some x is not finite.
    if not bool(torch.isfinite((wide * 0).sum())):
        row, column = (~wide.isfinite()).nonzero()[0].tolist()
        raise LayoutError(
            "holds a value that is not finite and cannot be quantised",
            found=f"{wide[row, column].item()} at [{first_row + row}, {column}]",
            expected="finite values",
        )


def _quantize_chunk(wide: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    n, k = wide.shape
    block = integer_block(bits)
    # [block, blocks of all rows]: what one scale is for lies in a column, so that every step below runs along rows.
    columns = F.pad(wide, (0, -k % block)).view(-1, block).T.contiguous()
    scale = _int8_scales(columns) if bits == 8 else _int4_scales(columns)
    lowest, highest = (-127, 127) if bits == 8 else (-8, 7)
    codes = (columns / scale).round_().clamp_(lowest, highest).to(torch.int8)
    return codes.T.reshape(n, -1)[:, :k], scale.to(torch.bfloat16).view(n, -1)


def _int8_scales(columns: Tensor) -> Tensor:
    largest = columns.abs().amax(0)
    # Rounded up to bfloat16: the next value whose low 16 bits are zero.
    up = ((largest / 127).view(torch.int32) + 0xFFFF).bitwise_and_(-0x10000).view(torch.float32)
    return torch.where(largest < _NOTHING, 1.0, up)


def _int4_scales(columns: Tensor) -> Tensor:
    highest, lowest = columns.amax(0), columns.amin(0)
    extreme = torch.where(highest > -lowest, highest, lowest)
    nothing = extreme.abs() < _NOTHING
    # In units in which the extreme is -8: nothing overflows, and candidates compare alike.
    columns = columns * (-8 / extreme.masked_fill(nothing, 1.0))
    best = torch.full_like(extreme, -1.0)
    scale = torch.ones_like(extreme)
    for reach in _INT4_REACH:
        codes = (columns * reach).round_().clamp_(-8, 7)
        # Least squares over s of |w - s q|^2: s = wq / qq, and it takes wq^2 / qq off |w|^2.
        wq, qq = (codes * columns).sum(0), codes.square().sum(0)
        fitted = wq / qq
        gain = wq * fitted
        better = gain > best
        best, scale = torch.where(better, gain, best), torch.where(better, fitted, scale)
    scale = (scale * (extreme / -8)).to(torch.bfloat16).float()
    return torch.where(nothing, 1.0, scale)

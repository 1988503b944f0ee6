"""FP8 e4m3 weights with one float32 scale per 128x128 block (DeepSeek-V3 technical report, section 3.3.2).

A block is stored as w / s rounded to e4m3, with s = max|w| / 448, so that its largest value meets the format's.
Checkpoints call s `weight_scale_inv`: what stored values are multiplied with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek.core.errors import LayoutError

BLOCK = 128
E4M3_MAX = 448.0


def scale_shape(rows: int, columns: int) -> tuple[int, int]:
    """Shape of the scales of a [rows, columns] weight; blocks at the edges may be partial."""
    return -(-rows // BLOCK), -(-columns // BLOCK)


def quantize_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] to (float8_e4m3fn [N, K], float32 scales [ceil(N/128), ceil(K/128)]). A block of zeros gets scale 1."""
    n, k = weight.shape
    tiles = _tiles(weight.float())
    largest = tiles.abs().amax(dim=(1, 3))
    scale = torch.where(largest > 0, largest / E4M3_MAX, torch.ones_like(largest))
    quantized = (tiles / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    return quantized.reshape(tiles.shape[0] * BLOCK, -1)[:n, :k].contiguous(), scale


def dequantize_blocks(weight: Tensor, scale_inv: Tensor) -> Tensor:
    """float8_e4m3fn [N, K] and its scales to float32 [N, K]. Raises LayoutError when the scales do not fit."""
    n, k = weight.shape
    if tuple(scale_inv.shape) != scale_shape(n, k):
        raise LayoutError(
            "block scales do not fit the weight", found=tuple(scale_inv.shape), expected=scale_shape(n, k)
        )
    rows = scale_inv.float().repeat_interleave(BLOCK, 0)[:n]
    return weight.float() * rows.repeat_interleave(BLOCK, 1)[:, :k]


def _tiles(weight: Tensor) -> Tensor:
    n, k = weight.shape
    rows, columns = scale_shape(n, k)
    padded = F.pad(weight, (0, columns * BLOCK - k, 0, rows * BLOCK - n))
    return padded.view(rows, BLOCK, columns, BLOCK)

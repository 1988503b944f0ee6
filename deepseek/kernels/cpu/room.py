"""Memory for packed weights, cut from slabs of whole large pages.

A weight of its own allocation gets large pages only where it spans whole ones, and an expert's matrix is smaller than one:
in ordinary pages a decoding step, which reads every byte once, spends a fifth of its time on looking addresses up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

LARGE_PAGE = 2 * 1024 * 1024
SLAB = 16 * LARGE_PAGE
ALIGNMENT = 64


class Room:
    """Cuts tensors off slabs. A slab is freed with the last tensor of it, but for the one that is being cut.

    advise: asks the system for large pages under a tensor. May be used from several threads.
    """

    def __init__(self, advise: Callable[[Tensor], None]) -> None:
        self._advise = advise
        self._lock = threading.Lock()
        self._left: Tensor | None = None  # of the slab that is being cut

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor [count] that begins on a multiple of 64 bytes."""
        size = count * dtype.itemsize
        padded = -(-size // ALIGNMENT) * ALIGNMENT
        with self._lock:
            if padded > SLAB // 4:
                return self._pages(padded)[:size].view(dtype)
            if self._left is None or self._left.numel() < padded:
                self._left = self._pages(SLAB)
            taken, self._left = self._left[:size], self._left[padded:]
        return taken.view(dtype)

    def _pages(self, size: int) -> Tensor:
        """Bytes that begin where a large page does."""
        raw = torch.empty(size + LARGE_PAGE, dtype=torch.uint8)
        pages = raw[-raw.data_ptr() % LARGE_PAGE :][:size]
        self._advise(pages)
        return pages

"""What exactness costs: the same model, in the same float32, computed the way that is free to choose its order of additions.

The free way is the module's own training path: the library's matrix products, latent attention expanded into keys and
values, torch's fused attention. It has no cache, so what is compared is a prompt.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from deepseek.models.checkpoint import load_model
from deepseek.models.context import Packed
from deepseek.models.transformer import Model
from support.report import Result, compared


def compare_with_library(name: str, checkpoint: Path, tokens: int, runs: int, wanted: float) -> dict[str, Result]:
    """Prompts of `tokens` ids through both, interleaved; the ratio is exact over free, 1 being no cost."""
    exact, free = load_model(checkpoint), load_model(checkpoint, packed=False).requires_grad_(False).eval()
    speeds: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 1):
        ids = torch.randint(0, exact.config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(turn))
        for model, into in zip((exact, free), speeds, strict=True):
            speed = _speed(model, ids)
            if turn:  # the first round warms up
                into.append(speed)
    return {f"{name} float32: exact beside the library's order, prefill": compared(*speeds, "tok/s", wanted)}


def _speed(model: Model, ids: torch.Tensor) -> float:
    context = Packed.of([len(ids)])
    started = time.perf_counter()
    with torch.no_grad():
        model.logits(model(ids, context)[-1:])
    return len(ids) / (time.perf_counter() - started)

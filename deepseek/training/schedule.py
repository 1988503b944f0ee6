"""Learning rate over a run: linear warm-up, then half a cosine (Loshchilov and Hutter, SGDR)."""

from __future__ import annotations

import math


def warmup_cosine(step: int, total_steps: int, peak: float, warmup_steps: int, final_share: float) -> float:
    """The rate of `step`, counted from 0.

    It rises to `peak` over the warm-up (never 0, so that the first step counts), then falls to `final_share * peak`,
    which is reached when `total_steps` are done and kept from there on.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    span = max(1, total_steps - warmup_steps)
    done = min(1.0, (step - warmup_steps) / span)
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done)))

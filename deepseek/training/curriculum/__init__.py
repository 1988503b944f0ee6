"""The curriculum of the built-in model: conversations without end, generated from seeds.

`sample_at` gives training samples by index, `eval_draws` held-out ones; `encode` turns a sample into token ids.
"""

from deepseek.training.curriculum.mix import FAMILIES, eval_draws, sample_at, stage_mix
from deepseek.training.curriculum.sample import Sample, Segment, encode, encode_segments, render

__all__ = [
    "FAMILIES",
    "Sample",
    "Segment",
    "encode",
    "encode_segments",
    "eval_draws",
    "render",
    "sample_at",
    "stage_mix",
]

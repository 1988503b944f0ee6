"""The curriculum of the built-in model: conversations without end, generated from seeds.

`sample_at` gives training samples by index, `course_sample_at` those of the agent's course; `eval_draws` gives held-out
ones; `encode` turns a sample into token ids.
"""

from deepseek.training.curriculum.course import course_mix, course_sample_at
from deepseek.training.curriculum.draws import AGENT_FAMILIES, eval_draws
from deepseek.training.curriculum.mix import FAMILIES, sample_at, stage_mix
from deepseek.training.curriculum.sample import Sample, Segment, Turn, encode, encode_segments, render

__all__ = [
    "AGENT_FAMILIES",
    "FAMILIES",
    "Sample",
    "Segment",
    "Turn",
    "course_mix",
    "course_sample_at",
    "encode",
    "encode_segments",
    "eval_draws",
    "render",
    "sample_at",
    "stage_mix",
]

"""Samples by global index, packed into batches. The only state of the data is one integer: the next index."""

from __future__ import annotations

from typing import Protocol

import torch

from deepseek.core.errors import ConfigError
from deepseek.models.context import Packed
from deepseek.training.losses import Batch

Encoded = tuple[list[int], list[bool]]
"""Token ids, and for each whether the assistant wrote it."""


class SampleSource(Protocol):
    """An endless, index-addressed supply of token sequences."""

    @property
    def vocab_size(self) -> int: ...

    def sample(self, index: int, share: float) -> Encoded:
        """Sample `index`, the same whenever it is asked for. `share` of the run done, 0 to 1, is the curriculum's clock."""
        ...


def pack_batch(
    source: SampleSource, first: int, share: float, tokens_per_step: int, *, assistant_only: bool, parts: int = 1
) -> tuple[list[Batch], int]:
    """Whole samples from index `first` on, at most `tokens_per_step` tokens, dealt into `parts` of about equal size.

    assistant_only: count only what the assistant wrote as targets, else every token. Returns the parts (fewer than asked
    for when there are fewer samples) and the next index. Raises ConfigError for a sample that is empty or fits no step.
    """
    taken: list[Encoded] = []
    total = 0
    index = first
    while True:
        ids, by_assistant = source.sample(index, share)
        if not 0 < len(ids) <= tokens_per_step:
            raise ConfigError(
                "does not fit a step",
                where=f"sample {index}",
                found=f"{len(ids)} tokens",
                expected=f"1 to {tokens_per_step}",
                fix="lower data.max_length or raise tokens_per_step",
            )
        if total + len(ids) > tokens_per_step:
            break
        taken.append((ids, by_assistant))
        total += len(ids)
        index += 1
    taken.sort(key=lambda sample: len(sample[0]))  # similar lengths side by side: little padding in attention
    dealt = [taken[part::parts] for part in range(min(parts, len(taken)))]
    return [_lay(samples, assistant_only) for samples in dealt], index


def _lay(samples: list[Encoded], assistant_only: bool) -> Batch:
    tokens = torch.tensor([token for ids, _ in samples for token in ids])
    counted = torch.tensor([by or not assistant_only for _, flags in samples for by in flags])
    return Batch(tokens, counted, Packed.of([len(ids) for ids, _ in samples]))

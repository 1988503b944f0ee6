"""Batches follow from the index of their first sample and nothing else."""

from __future__ import annotations

import pytest
import torch

from deepseek.core.errors import ConfigError
from deepseek.training.data import pack_batch
from deepseek.training.losses import Batch
from tests.training.micro import Counting


class Fixed:
    """Every sample has the same length."""

    vocab_size = 32

    def __init__(self, length: int) -> None:
        self.length = length

    def sample(self, index: int, share: float) -> tuple[list[int], list[bool]]:
        return [index % 32] * self.length, [False] * self.length


def sequences(batch: Batch) -> list[list[int]]:
    sizes = (batch.context.cu_seqlens[1:] - batch.context.cu_seqlens[:-1]).tolist()
    return [part.tolist() for part in batch.tokens.split(sizes)]


def test_the_same_index_gives_the_same_batch() -> None:
    (one, _), (other, _) = (pack_batch(Counting(), 7, 0.2, 128, assistant_only=False, parts=2) for _ in range(2))
    assert [sequences(batch) for batch in one] == [sequences(batch) for batch in other]


def test_batches_follow_each_other_without_a_gap_or_a_repeat() -> None:
    source, first = Counting(), 0
    seen: list[list[int]] = []
    for _ in range(5):
        parts, first = pack_batch(source, first, 0.0, 128, assistant_only=False, parts=2)
        seen += [ids for part in parts for ids in sequences(part)]
    assert sorted(seen) == sorted(Counting().sample(index, 0.0)[0] for index in range(first))


def test_a_batch_is_as_full_as_whole_samples_make_it() -> None:
    parts, following = pack_batch(Counting(), 0, 0.0, 128, assistant_only=False)
    total = sum(part.tokens.shape[0] for part in parts)
    assert total <= 128 < total + len(Counting().sample(following, 0.0)[0])


def test_parts_have_about_the_same_number_of_tokens() -> None:
    parts, _ = pack_batch(Counting(), 0, 0.0, 1024, assistant_only=False, parts=4)
    sizes = [part.tokens.shape[0] for part in parts]
    assert len(sizes) == 4 and max(sizes) - min(sizes) <= 32


def test_fewer_samples_than_parts_make_fewer_parts() -> None:
    parts, following = pack_batch(Fixed(60), 0, 0.0, 128, assistant_only=False, parts=4)
    assert (len(parts), following) == (2, 2)


@pytest.mark.parametrize("assistant_only", [False, True])
def test_only_the_assistants_tokens_count_when_asked_for(assistant_only: bool) -> None:
    parts, following = pack_batch(Counting(), 0, 0.0, 128, assistant_only=assistant_only)
    flags = [flag for index in range(following) for flag in Counting().sample(index, 0.0)[1]]
    assert int(parts[0].counted.sum()) == (sum(flags) if assistant_only else len(flags))
    assert parts[0].counted.dtype == torch.bool and parts[0].tokens.dtype == torch.int64


@pytest.mark.parametrize("length", [0, 129])
def test_a_sample_that_fits_no_step_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match=rf"sample 3: does not fit a step; found {length} tokens; expected 1 to 128"):
        pack_batch(Fixed(length), 3, 0.0, 128, assistant_only=False)

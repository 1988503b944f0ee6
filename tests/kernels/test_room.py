"""Memory for packed weights: where it begins, who shares it, and when it is given back."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek.kernels.cpu.room import ALIGNMENT, LARGE_PAGE, SLAB, Room


def span(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100_000), st.sampled_from([torch.uint8, torch.bfloat16, torch.float32]))))
def test_tensors_are_aligned_of_the_size_asked_for_and_never_overlap(wanted: list[tuple[int, torch.dtype]]) -> None:
    room = Room(lambda pages: None)
    taken = [room.take(count, dtype) for count, dtype in wanted]
    assert [(len(tensor), tensor.dtype) for tensor in taken] == wanted
    assert all(tensor.data_ptr() % ALIGNMENT == 0 and tensor.is_contiguous() for tensor in taken)
    spans = sorted(span(tensor) for tensor in taken)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_small_tensors_share_large_pages_that_the_system_was_asked_for() -> None:
    asked: list[tuple[int, int]] = []
    room = Room(lambda pages: asked.append(span(pages)))
    taken = [room.take(800_000, torch.uint8) for _ in range(20)]
    assert len(asked) == 1 and asked[0][0] % LARGE_PAGE == 0 and asked[0][1] - asked[0][0] == SLAB
    assert all(asked[0][0] <= begin and end <= asked[0][1] for begin, end in map(span, taken))


def test_a_large_tensor_has_pages_of_its_own_and_ends_no_slab() -> None:
    asked: list[int] = []
    room = Room(lambda pages: asked.append(pages.nbytes))
    before = room.take(1, torch.uint8)
    alone = room.take(SLAB, torch.float32)
    after = room.take(1, torch.uint8)
    assert asked == [SLAB, 4 * SLAB]
    assert alone.data_ptr() % LARGE_PAGE == 0
    assert after.data_ptr() == before.data_ptr() + ALIGNMENT


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not show what is mapped")
def test_a_slab_goes_with_the_last_tensor_of_it() -> None:
    room = Room(lambda pages: None)
    taken = [room.take(SLAB // 8, torch.uint8) for _ in range(9)]  # the ninth is on another slab
    address = taken[0].untyped_storage().data_ptr()
    assert [tensor.untyped_storage().data_ptr() == address for tensor in taken] == [True] * 8 + [False]
    del taken[:7]
    assert is_mapped(address)
    del taken[0]
    assert not is_mapped(address)


def is_mapped(address: int) -> bool:
    spans = (line.split(" ", 1)[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(begin, 16) <= address < int(end, 16) for begin, end in spans)


def test_threads_never_get_the_same_memory() -> None:
    room = Room(lambda pages: None)
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda size: room.take(size, torch.uint8), range(1, 3000)))
    spans = sorted(span(tensor) for tensor in taken)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))

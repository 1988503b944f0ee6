"""Nothing a caller passes can crash the process: it is refused, with what was found and what was expected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from deepseek import kernels as K
from deepseek.core.errors import ConfigError, LayoutError
from deepseek.kernels import Backend, use_backend
from deepseek.kernels.cpu.backend import CppBackend
from deepseek.kernels.fallback import ReferenceBackend

f32 = torch.zeros


def weight(n: int = 4, k: int = 8) -> K.PackedWeight:
    return K.pack_weight(torch.ones(n, k))


def experts(e: int, n: int, k: int) -> K.PackedExperts:
    return K.pack_experts([weight(n, k) for _ in range(e)])


fp8 = torch.zeros(4, 8).to(torch.float8_e4m3fn)
ids = torch.zeros(2, 1, dtype=torch.long)
BAD_CALLS: dict[str, Callable[[], object]] = {
    "x has the wrong width": lambda: K.linear(f32(2, 7), weight()),
    "x has the wrong type": lambda: K.linear(f32(2, 8, dtype=torch.float64), weight()),
    "x has three sides": lambda: K.linear(f32(1, 2, 8), weight()),
    "x is not dense": lambda: K.linear(f32(8, 2).T, weight()),
    "x lies on another device": lambda: K.linear(f32(2, 8, device="meta"), weight()),
    "x requires gradients": lambda: K.linear(f32(2, 8, requires_grad=True), weight()),
    "bias is too long": lambda: K.linear(f32(2, 8), weight(), f32(5)),
    "the weight is a vector": lambda: K.pack_weight(f32(8)),
    "the weight is empty": lambda: K.pack_weight(f32(0, 8)),
    "the weight is of integers": lambda: K.pack_weight(f32(4, 8, dtype=torch.int8)),
    "FP8 without scales": lambda: K.pack_weight(fp8),
    "FP8 with scales of the wrong shape": lambda: K.pack_weight(fp8, f32(2, 1)),
    "FP8 with infinite scales": lambda: K.pack_weight(fp8, torch.full((1, 1), float("inf"))),
    "scales without FP8": lambda: K.pack_weight(f32(4, 8), f32(1, 1)),
    "FP8 rows without scales": lambda: K.gather_rows(K.pack_weight(fp8, f32(1, 1)), torch.tensor([0])),
    "a row that is not there": lambda: K.gather_rows(weight(), torch.tensor([0, 4])),
    "a negative row": lambda: K.gather_rows(weight(), torch.tensor([-1])),
    "heads that do not match": lambda: K.head_linear(f32(2, 3, 8), K.pack_heads(f32(2, 4, 8))),
    "an output of the wrong shape": lambda: K.head_linear(f32(2, 2, 8), K.pack_heads(f32(2, 4, 8)), out=f32(2, 2, 5)),
    "an expert that is not there": lambda: K.expert_ffn(
        f32(2, 8), ids + 3, f32(2, 1), experts(3, 3, 8), experts(3, 3, 8), experts(3, 8, 3)
    ),
    "a negative expert": lambda: K.expert_ffn(
        f32(2, 8), ids - 1, f32(2, 1), experts(3, 3, 8), experts(3, 3, 8), experts(3, 8, 3)
    ),
    "experts that do not fit": lambda: K.expert_ffn(
        f32(2, 8), ids, f32(2, 1), experts(3, 3, 8), experts(3, 3, 8), experts(3, 8, 4)
    ),
    "experts of another number": lambda: K.expert_ffn(
        f32(2, 8), ids, f32(2, 1), experts(3, 3, 8), experts(3, 3, 8), experts(2, 8, 3)
    ),
    "no experts": lambda: K.pack_experts([]),
    "experts of two shapes": lambda: K.pack_experts([weight(4, 8), weight(4, 9)]),
    "weights for other tokens": lambda: K.expert_ffn(
        f32(2, 8), ids, f32(1, 1), experts(3, 3, 8), experts(3, 3, 8), experts(3, 8, 3)
    ),
    "a norm of another width": lambda: K.rms_norm(f32(2, 8), f32(7), 1e-6),
    "a residual of another shape": lambda: K.add_rms_norm(f32(2, 8), f32(1, 8), f32(8), 1e-6),
    "an odd gate and up": lambda: K.silu_mul(f32(2, 7)),
    "a position beyond the table": lambda: K.rope(f32(1, 1, 4), torch.tensor([3]), f32(3, 2), f32(3, 2), False),
    "a negative position": lambda: K.rope(f32(1, 1, 4), torch.tensor([-1]), f32(3, 2), f32(3, 2), True),
    "positions of another length": lambda: K.rope(f32(2, 1, 4), torch.tensor([0]), f32(3, 2), f32(3, 2), True),
    "a short sine table": lambda: K.rope(f32(1, 1, 4), torch.tensor([0]), f32(3, 2), f32(2, 2), True),
    "softmax over nothing": lambda: K.softmax(f32(2, 0)),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused(name: str, cpp: CppBackend) -> None:
    with use_backend(cpp), pytest.raises(LayoutError):
        BAD_CALLS[name]()
    with use_backend(ReferenceBackend()), pytest.raises(LayoutError):
        BAD_CALLS[name]()


def test_an_fp8_nan_is_named_when_packing(cpp: CppBackend) -> None:
    codes = torch.zeros(4, 8, dtype=torch.uint8)
    codes[2, 5] = 0x7F
    with use_backend(cpp), pytest.raises(LayoutError, match=r"\[2, 5\]"):
        K.pack_weight(codes.view(torch.float8_e4m3fn), torch.ones(1, 1))


def test_a_message_says_what_was_found_and_expected(isa: Backend) -> None:
    with pytest.raises(
        LayoutError, match=r"x is not .* found torch.float32 \[2, 7\].* expected torch.float32 \[T, 8\]"
    ):
        K.linear(f32(2, 7), weight())


def test_a_weight_packed_for_another_backend_is_refused(cpp: CppBackend) -> None:
    with use_backend(cpp):
        panels = weight()
    with use_backend(ReferenceBackend()):
        rows = weight()
        with pytest.raises(LayoutError, match="another backend"):
            K.linear(f32(1, 8), panels)
    with use_backend(cpp), pytest.raises(LayoutError, match="another backend"):
        K.linear(f32(1, 8), rows)


def test_a_number_of_threads_that_makes_no_sense_is_refused() -> None:
    for threads in (0, -1, 257):
        with pytest.raises(ConfigError):
            K.set_num_threads(threads)

"""What a product with integer weights means, held against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepseek import kernels as K
from deepseek.core.errors import LayoutError
from deepseek.kernels import reference, use_backend
from deepseek.kernels.backend import current
from deepseek.kernels.fallback import ReferenceBackend

each_example = settings(deadline=None, max_examples=25)


def integer_weight(n: int, k: int, bits: int) -> tuple[Tensor, Tensor]:
    low, high, block = (-127, 127, 128) if bits == 8 else (-8, 7, 32)
    scales = torch.randn(n, -(-k // block)) * 0.02
    return torch.randint(low, high + 1, (n, k), dtype=torch.int8), scales.bfloat16()


def in_loops(x: Tensor, codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The contract word by word: quantise the input in float32, sum codes as Python integers, the rest in float64."""
    t, k = x.shape
    block = 128 if bits == 8 else 32
    y = torch.zeros(t, codes.shape[0], dtype=torch.float64)
    for row in range(t):
        for first in range(0, k, 128):
            part = x[row, first : first + 128]
            largest = part.abs().max()
            if largest < 2.0**-100:
                continue
            values = (part * (127.0 / largest)).round().clamp(-127, 127).to(torch.int64).tolist()
            for n in range(codes.shape[0]):
                inner = 0.0
                for start in range(first, min(first + 128, k), block):
                    here = codes[n, start : min(start + block, first + 128)].tolist()
                    dot = sum(a * b for a, b in zip(values[start - first :], here, strict=False))
                    inner += dot * float(scales[n, start // block])
                y[row, n] += float(largest / 127.0) * inner
    return y


@each_example
@given(t=st.integers(1, 4), n=st.integers(1, 6), k=st.integers(1, 300), bits=st.sampled_from((8, 4)))
def test_integer_linear_is_the_contract_word_by_word(t: int, n: int, k: int, bits: int) -> None:
    codes, scales = integer_weight(n, k, bits)
    x = torch.randn(t, k)
    expected = in_loops(x, codes, scales, bits)
    assert torch.allclose(reference.integer_linear(x.double(), codes, scales, bits), expected, rtol=1e-12, atol=1e-12)
    close = (reference.integer_linear(x, codes, scales, bits).double() - expected).abs()
    assert float(close.max()) <= 1e-5 * math.sqrt(k) * max(1.0, float(expected.abs().max()))


def test_inputs_reach_plus_and_minus_127_and_halves_round_to_even() -> None:
    x = torch.tensor([[127.0, -127.0, 0.5, 1.5, -2.5, 0.0]])
    codes, scales = reference.quantise_rows(x)
    assert codes.tolist() == [[127, -127, 0, 2, -2, 0]]
    assert scales.tolist() == [[1.0]]


def test_each_block_of_128_inputs_has_its_own_scale_and_zeros_have_none() -> None:
    x = torch.cat([torch.full((1, 128), 12.7), torch.zeros(1, 128), torch.full((1, 5), -1.27)], 1)
    codes, scales = reference.quantise_rows(x)
    assert scales.tolist()[0] == pytest.approx([0.1, 0.0, 0.01])
    assert codes[0, :128].unique().tolist() == [127] and not codes[0, 128:256].any() and codes[0, -1] == -127


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_not_finite_makes_its_row_nan_and_no_other(value: float, bits: int) -> None:
    codes, scales = integer_weight(5, 200, bits)
    x = torch.randn(3, 200)
    plain = reference.integer_linear(x, codes, scales, bits)
    x[1, 150] = value
    y = reference.integer_linear(x, codes, scales, bits)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], plain[[0, 2]])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("size", [128, 256, 384, 1000])
def test_pieces_pack_to_what_the_whole_packs_to(bits: int, size: int) -> None:
    codes, scales = integer_weight(1000, 70, bits)
    x = torch.randn(3, 70)
    for backend in (ReferenceBackend(), current()):
        with use_backend(backend):
            whole = K.pack_integer(codes, scales, bits)
            joined = K.pack_integer_pieces((1000, 70), zip(codes.split(size), scales.split(size), strict=True), bits)
            assert torch.equal(joined.data.view(-1), whole.data.view(-1))
            assert torch.equal(K.linear(x, joined), K.linear(x, whole))
            assert all(torch.equal(*pair) for pair in zip(K.unpack_weight(joined), (codes, scales), strict=True))


def test_pieces_that_do_not_fill_the_weight_are_refused() -> None:
    codes, scales = integer_weight(256, 40, 8)
    for sizes, message in (([100, 156], "does not continue"), ([128], "do not fill"), ([128, 128, 128], "continue")):
        pieces = [(codes[:size], scales[:size]) for size in sizes]
        with pytest.raises(LayoutError, match=message):
            K.pack_integer_pieces((256, 40), pieces, 8)


@pytest.mark.parametrize(
    ("codes", "scales", "bits", "message"),
    [
        (torch.zeros(4, 40, dtype=torch.int8), torch.zeros(4, 1).bfloat16(), 3, "no such integer format; found 3 bits"),
        (torch.zeros(4, 40), torch.zeros(4, 1).bfloat16(), 8, r"codes are not.*found torch.float32 \[4, 40\]"),
        (torch.zeros(4, 40, dtype=torch.int8), torch.zeros(4, 1).bfloat16(), 4, r"expected torch.bfloat16 \[4, 2\]"),
        (torch.zeros(4, 40, dtype=torch.int8), torch.zeros(4, 1), 8, "scales do not fit codes"),
        (torch.full((4, 40), -128, dtype=torch.int8), torch.zeros(4, 1).bfloat16(), 8, "8 bits; found -128"),
        (
            torch.full((4, 40), 8, dtype=torch.int8),
            torch.zeros(4, 2).bfloat16(),
            4,
            "4 bits; found 8; expected -8 to 7",
        ),
        (torch.zeros(4, 40, dtype=torch.int8), torch.full((4, 1), float("inf")).bfloat16(), 8, "not finite"),
    ],
)
def test_codes_and_scales_that_make_no_weight_are_refused(
    codes: Tensor, scales: Tensor, bits: int, message: str
) -> None:
    with pytest.raises(LayoutError, match=message):
        K.pack_integer(codes, scales, bits)

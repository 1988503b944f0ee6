"""Integer weights: what quantising one may change, at every size, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepseek.core.errors import LayoutError
from deepseek.precision.fp8 import dequantize_blocks, quantize_blocks
from deepseek.precision.integer import (
    Bits,
    bits_per_weight,
    dequantize_integer,
    integer_block,
    quantize_integer,
    quantize_pieces,
)

each_example = settings(deadline=None, max_examples=60)
BITS: tuple[Bits, ...] = (8, 4)
bits_of_a_weight = st.sampled_from(BITS)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Matrices of any sides, of normal, heavy-tailed or one-sided values, at any magnitude, with blocks of zeros."""
    n, k = draw(st.integers(1, 40)), draw(st.integers(1, 300))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(n, k, generator=generator)
    values = draw(st.sampled_from((lambda x: x, lambda x: x**5, lambda x: x.abs(), lambda x: x.abs() + 7)))(values)
    values = values * 10.0 ** draw(st.integers(-25, 30))
    if draw(st.booleans()):
        values[:, : k // 2] = 0
    return values.to(draw(st.sampled_from((torch.float32, torch.bfloat16))))


def largest_of_block(weight: Tensor, bits: Bits) -> Tensor:
    """[N, K]: the largest magnitude among those that share a weight's scale."""
    block = integer_block(bits)
    padded = F.pad(weight.double().abs(), (0, -weight.shape[1] % block))
    largest = padded.view(weight.shape[0], -1, block).amax(-1)
    return largest.repeat_interleave(block, 1)[:, : weight.shape[1]]


@each_example
@given(weight=weights(), bits=bits_of_a_weight)
def test_codes_keep_to_their_range_and_scales_are_finite(weight: Tensor, bits: Bits) -> None:
    codes, scales = quantize_integer(weight, bits)
    assert codes.dtype == torch.int8 and scales.dtype == torch.bfloat16
    assert codes.shape == weight.shape
    assert scales.shape == (weight.shape[0], -(-weight.shape[1] // integer_block(bits)))
    assert bool(scales.isfinite().all())
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    assert low <= int(codes.min()) and int(codes.max()) <= high


@each_example
@given(weight=weights())
def test_int8_is_never_off_by_more_than_half_a_step_of_its_block(weight: Tensor) -> None:
    codes, scales = quantize_integer(weight, 8)
    steps = scales.double().repeat_interleave(128, 1)[:, : weight.shape[1]]
    error = (dequantize_integer(codes, scales, 8).double() - weight.double()).abs()
    assert bool((error <= steps * (0.5 + 1e-5)).all())
    # The scale was rounded up by less than one part in 128.
    largest = largest_of_block(weight, 8)
    assert bool((steps <= largest / 127 * (1 + 2**-7) + (largest == 0)).all())


def int4_errors(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each block: our squared error, that of mapping the largest value to -8 (Q4_0 of llama.cpp, its scale rounded to
    bfloat16 as ours is), and the squared values."""
    codes, scales = quantize_integer(weight, 4)
    blocks = F.pad(weight.double(), (0, -weight.shape[1] % 32)).view(-1, 32)
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    simple = torch.where(extreme == 0, 1.0, extreme / -8).to(torch.bfloat16).double()
    theirs = blocks - (blocks / simple).round().clamp(-8, 7) * simple
    ours = blocks - F.pad(dequantize_integer(codes, scales, 4).double(), (0, -weight.shape[1] % 32)).view(-1, 32)
    return ours.square().sum(1), theirs.square().sum(1), blocks.square().sum(1)


@each_example
@given(weight=weights())
def test_int4_is_as_good_as_mapping_the_largest_value_to_minus_eight(weight: Tensor) -> None:
    ours, theirs, size = int4_errors(weight)
    # Candidates are compared before their scales are rounded, so a block may lose a hair.
    assert bool((ours <= theirs * 1.01 + size * 2.0**-12).all())


def test_int4_leaves_a_twentieth_less_error_on_normal_weights() -> None:
    ours, theirs, _ = int4_errors(torch.randn(500, 320))
    assert float(ours.sum()) < 0.95 * float(theirs.sum())


@pytest.mark.parametrize("sign", [1, -1])
def test_a_scale_may_be_negative_so_that_the_largest_value_meets_minus_eight(sign: int) -> None:
    weight = torch.zeros(1, 32)
    weight[0, :3] = torch.tensor([8.0, 4.0, -1.0]) * sign
    codes, scales = quantize_integer(weight, 4)
    assert codes[0, :4].tolist() == [-8, -4, 1, 0]
    assert scales.item() == -sign


@pytest.mark.parametrize("bits", BITS)
def test_what_is_on_the_grid_comes_back_exactly(bits: Bits) -> None:
    high = 127 if bits == 8 else 7
    codes = torch.arange(-high, high + 1).repeat(3)[None].float()
    codes = F.pad(codes, (0, -codes.shape[1] % 128))
    if bits == 4:
        codes[:, ::32] = -8
    else:
        codes[:, ::128] = 127
    weight = codes * 2.0**-9
    assert torch.equal(dequantize_integer(*quantize_integer(weight, bits), bits), weight)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-45, 1e-38, 2.0**-101])
def test_blocks_of_nothing_have_code_0_and_scale_1(bits: Bits, tiny: float) -> None:
    codes, scales = quantize_integer(torch.full((2, 130), tiny), bits)
    assert not codes.any() and bool((scales == 1).all())


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_numbers_of_float32_do_not_overflow(bits: Bits) -> None:
    weight = torch.tensor([[torch.finfo(torch.float32).max, -1e38, 3e37, 0.0] * 20])
    back = dequantize_integer(*quantize_integer(weight, bits), bits)
    assert bool(((back - weight).abs() <= 3.5e38 / (127 if bits == 8 else 10)).all())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_with_its_place(bits: Bits, value: float) -> None:
    weight = torch.randn(5000, 257)  # several chunks
    weight[4321, 17] = value
    with pytest.raises(LayoutError, match=rf"not finite.*found {value} at \[4321, 17\]; expected finite values"):
        quantize_integer(weight, bits)
    with pytest.raises(LayoutError, match=r"rows from 4096: .*at \[225, 17\]"):
        list(quantize_pieces(weight.split(2048), bits))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("chunk", [128, 384, 1000])
def test_pieces_give_what_the_whole_gives(bits: Bits, chunk: int) -> None:
    weight = torch.randn(1000, 65).bfloat16()
    codes, scales = quantize_integer(weight, bits)
    pieces = list(quantize_pieces(weight.split(chunk), bits))
    assert torch.equal(torch.cat([piece for piece, _ in pieces]), codes)
    assert torch.equal(torch.cat([piece for _, piece in pieces]), scales)


@pytest.mark.parametrize("bits", BITS)
def test_an_fp8_weight_is_quantised_as_its_float32_widening(bits: Bits) -> None:
    stored, scale_inv = quantize_blocks(torch.randn(700, 300) * torch.logspace(-3, 2, 700)[:, None])
    expected = quantize_integer(dequantize_blocks(stored, scale_inv), bits)
    for found in (
        quantize_integer(stored, bits, scale_inv),
        tuple(map(torch.cat, zip(*quantize_pieces(stored.split(256), bits, scale_inv), strict=True))),
    ):
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_bits_per_weight_count_the_scales() -> None:
    assert (bits_per_weight(8), bits_per_weight(4)) == (8.125, 4.5)

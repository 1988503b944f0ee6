"""Integer weights: the meaning of `reference.integer_linear`, without saturation, and every row the same bits anywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek import kernels as K
from deepseek.kernels import Backend, reference
from deepseek.kernels.cpu.backend import CppBackend
from tests.kernels.oracle import assert_close64, assert_same_bits, bits

each_example = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
BITS = (8, 4)


def integer_weight(n: int, k: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low, high = (-127, 127) if width == 8 else (-8, 7)
    codes = torch.randint(low, high + 1, (n, k), dtype=torch.int8, generator=generator)
    block = 128 if width == 8 else 32
    scales = (torch.rand(n, -(-k // block), generator=generator) * 0.02 + 1e-3).bfloat16()
    return codes, scales


def expected64(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, width: int) -> torch.Tensor:
    """`reference.integer_linear` with its sums in float64; the quantisation of x stays the float32 one."""
    values, input_scales = reference.quantise_rows(x)
    wide = values.double() * input_scales.double().repeat_interleave(128, 1)[:, : x.shape[1]]
    return wide @ reference.dequantise_integer(codes, scales, width).double().T


@each_example
@given(
    t=st.integers(0, 30), n=st.integers(1, 150), k=st.integers(1, 400), width=st.sampled_from(BITS), bias=st.booleans()
)
def test_a_product_means_what_the_reference_says(
    backend: Backend, t: int, n: int, k: int, width: int, bias: bool
) -> None:
    codes, scales = integer_weight(n, k, width)
    x, b = torch.randn(t, k), torch.randn(n) if bias else None
    expected = expected64(x, codes, scales, width) + (0 if b is None else b.double())
    magnitude = x.double().abs() @ reference.dequantise_integer(codes, scales, width).double().abs().T + 1
    assert_close64(K.linear(x, K.pack_integer(codes, scales, width), b), expected, magnitude, k)


@pytest.mark.parametrize("width", BITS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (33, 31), (96, 128), (70, 260), (40, 1100)])
def test_a_row_has_the_same_bits_alone_and_in_every_batch(backend: Backend, width: int, n: int, k: int) -> None:
    w = K.pack_integer(*integer_weight(n, k, width), width)
    x, bias = torch.randn(70, k), torch.randn(n)
    alone = torch.cat([K.linear(x[i : i + 1], w, bias) for i in range(70)])
    for size in (2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 69, 70):
        assert_same_bits(K.linear(x[:size], w, bias), alone[:size])
    order = torch.randperm(70)
    assert_same_bits(K.linear(x[order], w, bias), alone[order])


@pytest.mark.parametrize("width", BITS)
@pytest.mark.parametrize("k", [128, 512])
def test_the_largest_codes_do_not_saturate(backend: Backend, width: int, k: int) -> None:
    low, high = (-127, 127) if width == 8 else (-8, 7)
    codes = torch.stack([torch.full((k,), value, dtype=torch.int8) for value in (low, high)] * 20)
    scales = torch.ones(40, -(-k // (128 if width == 8 else 32)), dtype=torch.bfloat16)
    w = K.pack_integer(codes, scales, width)
    for value in (127.0, -127.0):
        for rows in (1, 2, 7, 13):
            y = K.linear(torch.full((rows, k), value), w)
            assert y[0, 0] == low * value * k and y[0, 1] == high * value * k
            assert (y == y[0]).all()


@pytest.mark.parametrize("width", BITS)
def test_every_instruction_set_with_fused_multiply_adds_gives_one_result(cpp: CppBackend, width: int) -> None:
    names = [name for name in cpp.available_isas() if name != "portable"]
    if len(names) < 2:
        pytest.skip("this processor has one such instruction set")
    codes, scales = integer_weight(100, 900, width)
    x = torch.randn(15, 900)
    results = []
    for name in names:
        cpp.set_isa(name)
        results.append(cpp.linear(x, cpp.pack_integer(codes, scales, width), None))
    cpp.set_isa(None)
    for result in results[1:]:
        assert_same_bits(result, results[0])


@pytest.mark.parametrize("width", BITS)
def test_threads_do_not_change_a_bit(isa: Backend, width: int) -> None:
    w = K.pack_integer(*integer_weight(700, 600, width), width)
    x = torch.randn(200, 600)
    expected = K.linear(x, w)
    for threads in (2, 3):
        K.set_num_threads(threads)
        assert_same_bits(K.linear(x, w), expected)
        assert_same_bits(K.linear(x[:1], w), expected[:1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_gives_no_numbers_and_spoils_no_neighbour(backend: Backend, bad: float) -> None:
    w = K.pack_integer(*integer_weight(40, 300, 8), 8)
    x = torch.randn(9, 300)
    clean = K.linear(x, w)
    x[4, 200] = bad
    y = K.linear(x, w)
    assert y[4].isnan().all()
    kept = [row for row in range(9) if row != 4]
    assert_same_bits(y[kept], clean[kept])


def test_rows_of_zeros_and_of_the_tiniest_numbers_give_zeros(backend: Backend) -> None:
    w = K.pack_integer(*integer_weight(40, 300, 8), 8)
    for value in (0.0, -0.0, 2.0**-140, -(2.0**-120)):
        assert (K.linear(torch.full((3, 300), value), w) == 0).all()


@each_example
@given(n=st.integers(1, 100), k=st.integers(1, 300), width=st.sampled_from(BITS))
def test_packing_loses_nothing(backend: Backend, n: int, k: int, width: int) -> None:
    codes, scales = integer_weight(n, k, width)
    w = K.pack_integer(codes, scales, width)
    back_codes, back_scales = K.unpack_weight(w)
    assert torch.equal(back_codes, codes) and back_scales is not None and torch.equal(back_scales, scales)
    ids = torch.randint(0, n, (5,))
    assert_same_bits(K.gather_rows(w, ids), reference.dequantise_integer(codes, scales, width)[ids])


@pytest.mark.parametrize("width", BITS)
def test_heads_and_experts_compute_with_integer_weights(backend: Backend, width: int) -> None:
    heads = [integer_weight(24, 40, width, seed) for seed in range(3)]
    packed = [K.pack_integer(*head, width) for head in heads]
    x = torch.randn(7, 3, 40)
    together = K.head_linear(x, _heads(packed))
    for head in range(3):
        assert_same_bits(together[:, head], K.linear(x[:, head].contiguous(), packed[head]))

    def experts(n: int, k: int, first: int) -> list[K.PackedWeight]:
        return [K.pack_integer(*integer_weight(n, k, width, first + e), width) for e in range(4)]

    gate, up, down = experts(30, 50, 0), experts(30, 50, 10), experts(50, 30, 20)
    rows = torch.randn(11, 50)
    ids = torch.stack([torch.randperm(4)[:2] for _ in range(11)])
    weights = torch.rand(11, 2)
    y = K.expert_ffn(rows, ids, weights, gate, up, down)
    for t in range(11):
        parts = []
        for choice in range(2):
            e = int(ids[t, choice])
            hidden = torch.cat([K.linear(rows[t : t + 1], gate[e]), K.linear(rows[t : t + 1], up[e])], dim=1)
            parts.append(K.linear(K.silu_mul(hidden), down[e]))
        one = torch.zeros(1, 1, dtype=torch.int64)
        combined = K.expert_ffn(rows[t : t + 1], ids[t : t + 1], weights[t : t + 1], gate, up, down)
        assert_same_bits(y[t : t + 1], combined)
        alone = K.expert_ffn(
            rows[t : t + 1],
            one,
            torch.ones(1, 1),
            [gate[int(ids[t, 0])]],
            [up[int(ids[t, 0])]],
            [down[int(ids[t, 0])]],
        )
        assert_same_bits(alone, parts[0])


def test_a_code_that_the_format_has_no_place_for_is_refused(backend: Backend) -> None:
    codes, scales = integer_weight(4, 64, 8)
    codes[1, 2] = -128
    with pytest.raises(K.ops.LayoutError, match="-128"):
        K.pack_integer(codes, scales, 8)


def _heads(packed: list[K.PackedWeight]) -> K.PackedHeads:
    from deepseek.kernels.backend import current

    return current().pack_heads(packed[0].n, packed[0].k, packed)


def test_bits_compare_patterns_not_values() -> None:
    assert (bits(torch.tensor([0.0])) != bits(torch.tensor([-0.0]))).all()

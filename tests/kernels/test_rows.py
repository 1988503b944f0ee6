"""Norms, activations, softmax, rotary positions and experts: right in float64 terms, each row by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek import kernels as K
from deepseek.kernels import Backend, reference
from tests.kernels.oracle import assert_close64, assert_same_bits

each_example = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
sides = {"t": st.integers(0, 20), "d": st.integers(1, 150)}


@each_example
@given(**sides)
def test_rms_norm_means_what_the_reference_says(backend: Backend, t: int, d: int) -> None:
    x, residual, weight = torch.randn(t, d) * 5, torch.randn(t, d), torch.randn(d)
    expected = reference.rms_norm(x.double(), weight.double(), 1e-6)
    assert_close64(K.rms_norm(x, weight, 1e-6), expected, expected.abs() + 1e-6)
    normed, total = K.add_rms_norm(x, residual, weight, 1e-6)
    assert_same_bits(total, x + residual)
    assert_same_bits(normed, K.rms_norm(x + residual, weight, 1e-6))


@each_example
@given(**sides)
def test_silu_mul_means_what_the_reference_says(backend: Backend, t: int, d: int) -> None:
    x = torch.randn(t, 2 * d) * 10
    expected = reference.silu_mul(x.double())
    assert_close64(K.silu_mul(x), expected, expected.abs() + 1e-30)


@each_example
@given(**sides)
def test_softmax_means_what_the_reference_says(backend: Backend, t: int, d: int) -> None:
    x = torch.randn(t, d) * 10
    expected = reference.softmax(x.double())
    # A logit's own rounding comes out of the exponential as a relative error of its size.
    assert_close64(K.softmax(x), expected, expected * 20 + 1e-30)


def test_sigmoid_is_right_over_its_whole_range(backend: Backend) -> None:
    x = torch.cat([torch.linspace(-80, 80, 10001), torch.tensor([0.0, 1e-30, -1e-30, 1e30])])
    expected = reference.sigmoid(x.double())
    assert_close64(K.sigmoid(x), expected, expected)
    extreme = K.sigmoid(torch.tensor([float("-inf"), -1e4, float("inf"), float("nan")]))
    assert extreme[:2].max() < 1e-37 and extreme[2] == 1 and extreme[3].isnan()


@each_example
@given(t=st.integers(0, 12), h=st.integers(1, 4), half=st.integers(1, 40), interleaved=st.booleans())
def test_rope_is_the_reference_bit_for_bit(backend: Backend, t: int, h: int, half: int, interleaved: bool) -> None:
    x, positions = torch.randn(t, h, 2 * half), torch.randint(0, 30, (t,))
    cos, sin = torch.randn(30, half), torch.randn(30, half)
    expected = reference.rope(x, positions, cos, sin, interleaved)
    assert_same_bits(K.rope(x, positions, cos, sin, interleaved), expected)
    wide = torch.cat([torch.randn(t, h, 3), x], -1)
    K.rope(wide[..., 3:], positions, cos, sin, interleaved, out=wide[..., 3:])
    assert_same_bits(wide[..., 3:], expected)


@pytest.mark.parametrize("width", [1, 16, 30, 97, 256])
def test_a_row_has_the_same_bits_in_any_company_and_place(backend: Backend, width: int) -> None:
    x, residual, weight = torch.randn(41, 2 * width), torch.randn(41, 2 * width), torch.randn(2 * width)
    operations = {
        "rms_norm": lambda rows: K.rms_norm(x[rows], weight, 1e-6),
        "add_rms_norm": lambda rows: K.add_rms_norm(x[rows], residual[rows], weight, 1e-6)[0],
        "silu_mul": lambda rows: K.silu_mul(x[rows]),
        "softmax": lambda rows: K.softmax(x[rows]),
        "sigmoid": lambda rows: K.sigmoid(x[rows]),
    }
    order = torch.randperm(41)
    for name, operation in operations.items():
        together = operation(torch.arange(41))
        alone = torch.cat([operation(torch.tensor([i])) for i in range(41)])
        assert torch.equal(alone, together), name
        assert torch.equal(operation(order), together[order]), name


def test_an_activation_does_not_depend_on_the_place_in_a_row(isa: Backend) -> None:
    value = torch.full((1, 75), 0.7311)
    assert K.sigmoid(value).unique().numel() == 1
    assert K.silu_mul(torch.cat([value, value], 1)).unique().numel() == 1


Matrices = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_experts(e: int, d: int, f: int) -> Matrices:
    """Gate and up [E, F, D], down [E, D, F]."""
    gate, up = torch.randn(2, e, f, d) * d**-0.5
    return gate, up, torch.randn(e, d, f) * f**-0.5


def pack_all(matrices: Matrices) -> list[K.PackedExperts]:
    return [K.pack_experts([K.pack_weight(w) for w in stacked]) for stacked in matrices]


@each_example
@given(t=st.integers(0, 40), e=st.integers(2, 9), topk=st.integers(1, 3), d=st.integers(1, 80), f=st.integers(1, 80))
def test_expert_ffn_means_what_the_reference_says(backend: Backend, t: int, e: int, topk: int, d: int, f: int) -> None:
    matrices = random_experts(e, d, f)
    x, ids, weights = torch.randn(t, d), torch.randint(0, e, (t, topk)), torch.rand(t, topk)
    actual = K.expert_ffn(x, ids, weights, *([K.pack_weight(w) for w in stacked] for stacked in matrices))
    arguments = (ids, weights.double(), *(stacked.double() for stacked in matrices))
    assert_close64(actual, reference.expert_ffn(x.double(), *arguments), 10.0, d + f)


def test_a_token_has_the_same_bits_whichever_tokens_its_experts_also_serve(backend: Backend) -> None:
    packed = pack_all(random_experts(8, 64, 48))
    x, weights = torch.randn(50, 64), torch.rand(50, 2)
    ids = torch.stack([torch.randperm(8)[:2] for _ in range(50)])
    together = K.expert_ffn(x, ids, weights, *packed)
    alone = torch.cat([K.expert_ffn(x[i : i + 1], ids[i : i + 1], weights[i : i + 1], *packed) for i in range(50)])
    assert_same_bits(together, alone)
    order = torch.randperm(50)
    assert_same_bits(K.expert_ffn(x[order], ids[order].int(), weights[order], *packed), together[order])
    K.set_num_threads(1)
    assert_same_bits(K.expert_ffn(x, ids, weights, *packed), together)


def test_experts_are_summed_in_top_k_order(backend: Backend) -> None:
    gate, up, down = (w[:1].expand(3, -1, -1) for w in random_experts(1, 16, 16))
    packed = [K.pack_experts([K.pack_weight(w) for w in matrices]) for matrices in (gate, up, down)]
    x, ids = torch.randn(1, 16), torch.tensor([[0, 1, 2]])
    output = K.expert_ffn(x, ids[:, :1], torch.ones(1, 1), *packed)
    # All three experts are equal: the large terms cancel exactly if they come first, and swallow the small one if not.
    large = 2.0**30
    assert torch.equal(K.expert_ffn(x, ids, torch.tensor([[large, -large, 1.0]]), *packed), output)
    assert not torch.equal(K.expert_ffn(x, ids, torch.tensor([[1.0, large, -large]]), *packed), output)

"""Linear layers: right in float64 terms, and every row the same bits in any company."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek import kernels as K
from deepseek.kernels import Backend, reference
from deepseek.kernels.cpu.backend import CppBackend
from tests.kernels.oracle import assert_close64, assert_same_bits

STORED = ("f32", "bf16", "f16", "fp8_e4m3")
each_example = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stored_weight(n: int, k: int, stored: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=generator)
    if stored == "f32":
        return weight, None
    if stored != "fp8_e4m3":
        return weight.to({"bf16": torch.bfloat16, "f16": torch.float16}[stored]), None
    scale = torch.rand(-(-n // 128), -(-k // 128), generator=generator) * 0.1 + 1e-3
    return (weight * 30).to(torch.float8_e4m3fn), scale


@each_example
@given(
    t=st.integers(0, 30),
    n=st.integers(1, 200),
    k=st.integers(1, 400),
    stored=st.sampled_from(STORED),
    bias=st.booleans(),
)
def test_linear_means_what_the_reference_says(
    backend: Backend, t: int, n: int, k: int, stored: str, bias: bool
) -> None:
    weight, scale = stored_weight(n, k, stored)
    x, b = torch.randn(t, k), torch.randn(n) if bias else None
    wide = reference.dequantise(weight, scale).double()
    expected = reference.linear(x.double(), wide, None if b is None else b.double())
    actual = K.linear(x, K.pack_weight(weight, scale), b)
    assert_close64(actual, expected, x.double().abs() @ wide.abs().T + 1, k)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (33, 127), (96, 128), (300, 257), (70, 1100)])
def test_a_row_has_the_same_bits_alone_and_in_every_batch(backend: Backend, stored: str, n: int, k: int) -> None:
    w = K.pack_weight(*stored_weight(n, k, stored))
    x, bias = torch.randn(70, k), torch.randn(n)
    alone = torch.cat([K.linear(x[i : i + 1], w, bias) for i in range(70)])
    for size in (2, 3, 4, 5, 7, 11, 12, 13, 25, 69, 70):
        assert_same_bits(K.linear(x[:size], w, bias), alone[:size])
    order = torch.randperm(70)
    assert_same_bits(K.linear(x[order], w, bias), alone[order])


def test_a_row_has_the_same_bits_in_a_batch_longer_than_a_task(isa: Backend) -> None:
    w = K.pack_weight(*stored_weight(100, 300, "fp8_e4m3"))
    x = torch.randn(771, 300)
    assert_same_bits(K.linear(x, w)[380:390], K.linear(x[380:390].clone(), w))
    assert_same_bits(K.linear(x, w)[-1:], K.linear(x[-1:].clone(), w))


@pytest.mark.parametrize("t", [1, 2, 9, 400])
def test_the_number_of_threads_does_not_reach_the_result(isa: Backend, t: int) -> None:
    w = K.pack_weight(*stored_weight(1500, 500, "bf16"))
    x = torch.randn(t, 500)
    results = []
    for threads in (1, 2, 5):
        K.set_num_threads(threads)
        results.append(K.linear(x, w))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize("stored", ["bf16", "f16", "fp8_e4m3"])
@pytest.mark.parametrize("t", [1, 2, 3, 4, 40])
def test_a_stored_weight_computes_as_its_float32_widening_does(isa: Backend, stored: str, t: int) -> None:
    weight, scale = stored_weight(200, 300, stored)
    x = torch.randn(t, 300)
    widened = K.pack_weight(reference.dequantise(weight, scale))
    assert_same_bits(K.linear(x, K.pack_weight(weight, scale)), K.linear(x, widened))


@pytest.mark.parametrize("t", [1, 4])
def test_every_fp8_and_half_code_is_widened_exactly_subnormals_included(isa: Backend, t: int) -> None:
    x = torch.eye(256)[:t] if t == 1 else torch.ones(t, 1)
    codes = torch.arange(256, dtype=torch.uint8)
    finite = codes[(codes & 0x7F) != 0x7F].view(torch.float8_e4m3fn)[:, None]
    for scale in (1.0, 0.0371, 1e-37):
        scales = torch.full((2, 1), scale)
        expected = reference.dequantise(finite, scales)
        assert_same_bits(K.linear(torch.ones(t, 1), K.pack_weight(finite, scales))[:1].T + 0.0, expected + 0.0)
    halves = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    halves = halves[halves.isfinite()][:, None]
    assert_same_bits(K.linear(x[:, :1] * 0 + 1, K.pack_weight(halves))[:1].T + 0.0, halves.float() + 0.0)


def test_flushing_subnormals_in_the_callers_thread_changes_nothing(isa: Backend) -> None:
    w = K.pack_weight(torch.full((64, 8), 1e-39))
    x = torch.ones(1, 8)
    expected = K.linear(x, w)
    assert (expected > 0).all()
    torch.set_flush_denormal(True)
    try:
        assert_same_bits(K.linear(x, w), expected)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("stored", STORED)
def test_packing_and_unpacking_gives_the_checkpoint_back(backend: Backend, stored: str) -> None:
    weight, scale = stored_weight(131, 77, stored)
    w = K.pack_weight(weight, scale)
    back, back_scale = K.unpack_weight(w)
    assert back.dtype == weight.dtype
    assert torch.equal(back.view(torch.uint8), weight.view(torch.uint8))
    assert (back_scale is None) if scale is None else torch.equal(back_scale, scale)
    assert w.nbytes <= 160 * 77 * weight.element_size() + (0 if scale is None else scale.nbytes)


def test_a_transposed_or_sliced_weight_packs_as_its_copy_does(isa: Backend) -> None:
    weight, x = torch.randn(40, 90), torch.randn(3, 30)
    for view in (weight[:, 10:40], weight.T[:30].T, weight[::2, :30]):
        assert_same_bits(K.linear(x, K.pack_weight(view)), K.linear(x, K.pack_weight(view.clone().contiguous())))


@pytest.mark.parametrize("stored", ["f32", "bf16", "f16"])
def test_gathered_rows_are_the_stored_rows(backend: Backend, stored: str) -> None:
    weight, _ = stored_weight(70, 50, stored)
    ids = torch.tensor([0, 69, 31, 32, 69])
    assert torch.equal(K.gather_rows(K.pack_weight(weight), ids), weight[ids])


@each_example
@given(t=st.integers(0, 20), h=st.integers(1, 5), n=st.integers(1, 70), k=st.integers(1, 70))
def test_head_linear_is_one_linear_a_head(backend: Backend, t: int, h: int, n: int, k: int) -> None:
    weight, x = torch.randn(h, n, k), torch.randn(t, h, k + 3)[..., :k]
    y = K.head_linear(x, K.pack_heads(weight))
    for head in range(h):
        assert_same_bits(y[:, head], K.linear(x[:, head], K.pack_weight(weight[head])))
    out = torch.zeros(t, h, n + 5)
    K.head_linear(x, K.pack_heads(weight), out=out[..., 2 : 2 + n])
    assert_same_bits(out[..., 2 : 2 + n], y)
    assert out[..., :2].abs().sum() == 0 and out[..., 2 + n :].abs().sum() == 0


def test_threads_that_call_at_once_each_get_their_own_result(cpp: CppBackend) -> None:
    import threading

    with K.use_backend(cpp):
        cpp.set_num_threads(2)
        w = K.pack_weight(torch.randn(512, 512))
        inputs = [torch.randn(1 + i, 512) for i in range(4)]
        expected = [K.linear(x, w) for x in inputs]
    wrong: list[int] = []

    def caller(i: int) -> None:
        with K.use_backend(cpp):
            for _ in range(50):
                if not torch.equal(K.linear(inputs[i], w), expected[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

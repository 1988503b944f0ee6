"""The sliced cross-entropy equals torch's own on whole logits, in value and in both gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek.training.head_loss import SLICE_ROWS, head_cross_entropy


def inputs(rows: int, dim: int = 24, vocab: int = 41, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=generator)
    weight = torch.randn(vocab, dim, generator=generator) * 0.5
    return hidden, weight, torch.randint(0, vocab, (rows,), generator=generator)


def oracle(hidden: Tensor, weight: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    x, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    loss = F.cross_entropy(x @ w.T, targets, reduction="sum") / count
    return loss.detach(), *torch.autograd.grad(loss, [x, w])


def ours(
    hidden: Tensor, weight: Tensor, targets: Tensor, count: int | None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = head_cross_entropy(x, w, targets, count, dtype)
    return loss.detach(), *torch.autograd.grad(loss, [x, w])


@pytest.mark.parametrize("rows", [1, SLICE_ROWS - 1, SLICE_ROWS, SLICE_ROWS + 1, 3 * SLICE_ROWS + 7])
def test_value_and_gradients_equal_float64_cross_entropy_over_any_number_of_slices(rows: int) -> None:
    given = inputs(rows)
    for own, expected in zip(ours(*given, None), oracle(*given, rows), strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=2e-5, atol=2e-7)


def test_float64_inputs_are_computed_in_float64() -> None:
    hidden, weight, targets = inputs(2 * SLICE_ROWS + 3)
    got = ours(hidden.double(), weight.double(), targets, None)
    for own, expected in zip(got, oracle(hidden, weight, targets, len(targets)), strict=True):
        assert own.dtype == torch.float64
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-15)


def test_the_sum_is_divided_by_the_count_given() -> None:
    given = inputs(10)
    for own, expected in zip(ours(*given, 37), oracle(*given, 37), strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=2e-5, atol=2e-7)


def test_parts_with_the_whole_count_add_up_to_the_whole() -> None:
    hidden, weight, targets = (t.double() if t.is_floating_point() else t for t in inputs(600))
    whole = ours(hidden, weight, targets, 600)
    first = ours(hidden[:250], weight, targets[:250], 600)
    second = ours(hidden[250:], weight, targets[250:], 600)
    torch.testing.assert_close(first[0] + second[0], whole[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), whole[1], rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(first[2] + second[2], whole[2], rtol=1e-12, atol=1e-15)


def test_bfloat16_products_stay_within_their_rounding_and_keep_the_inputs_types() -> None:
    given = inputs(SLICE_ROWS + 50)
    for own, expected in zip(ours(*given, None, torch.bfloat16), oracle(*given, SLICE_ROWS + 50), strict=True):
        assert own.dtype == torch.float32
        assert (own.double() - expected).norm() <= 0.02 * expected.norm()


def test_a_scaled_loss_has_scaled_gradients() -> None:
    hidden, weight, targets = inputs(9)
    x = hidden.clone().requires_grad_()
    (head_cross_entropy(x, weight, targets) * 0.3).backward()
    expected = oracle(hidden, weight, targets, 9)[1] * 0.3
    torch.testing.assert_close(x.grad.double(), expected, rtol=2e-5, atol=2e-7)


def test_huge_logits_do_not_overflow() -> None:
    hidden, weight, targets = inputs(5)
    given = (hidden * 1e3, weight * 1e2, targets)
    torch.testing.assert_close(ours(*given, None)[0].double(), oracle(*given, 5)[0], rtol=1e-5, atol=0)


def test_no_rows_make_no_loss_and_no_gradient() -> None:
    loss, grad_x, grad_w = ours(*inputs(0), None)
    assert loss == 0 and grad_x.shape == (0, 24) and not grad_w.any()


def test_a_second_derivative_is_refused_instead_of_being_wrong() -> None:
    hidden, weight, targets = inputs(4)
    x = hidden.requires_grad_()
    (first,) = torch.autograd.grad(head_cross_entropy(x, weight, targets), [x], create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()

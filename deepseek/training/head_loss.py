"""Cross-entropy over a vocabulary without ever holding all logits.

The output matrix, the softmax and their gradients are worked through in slices of rows that fit the cache: each slice's
logits are computed, turned into probabilities minus targets in place, and used at once for both gradients. Memory is
O(slice * V) instead of O(N * V), and the logits cross the memory bus once instead of seven times.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SLICE_ROWS = 256


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        softmax_type = torch.promote_types(dtype, torch.float32)
        x, w = hidden.to(dtype), weight.to(dtype)
        grad_x = torch.empty_like(x)
        grad_w = torch.zeros(weight.shape, dtype=softmax_type)
        loss = torch.zeros((), dtype=torch.float64)
        share = 1.0 / count
        for start in range(0, targets.shape[0], SLICE_ROWS):
            rows = slice(start, start + SLICE_ROWS)
            wanted = targets[rows, None]
            scores = (x[rows] @ w.T).to(softmax_type)
            log_total = scores.logsumexp(1, keepdim=True)
            loss += (log_total - scores.gather(1, wanted)).sum(dtype=torch.float64)
            probabilities = scores.sub_(log_total).exp_()
            probabilities.scatter_add_(1, wanted, torch.full(wanted.shape, -1.0, dtype=softmax_type))
            grad = probabilities.mul_(share).to(dtype)
            torch.mm(grad, w, out=grad_x[rows])
            grad_w += grad.T @ x[rows]
        ctx.save_for_backward(grad_x, grad_w)
        ctx.types = hidden.dtype, weight.dtype
        return (loss * share).to(softmax_type)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_x, grad_w = ctx.saved_tensors
        hidden_type, weight_type = ctx.types
        return (grad_x.to(hidden_type) * factor), (grad_w * factor).to(weight_type), None, None, None


def head_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, count: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Cross-entropy in nats of `hidden [N, D] @ weight [V, D]^T` against `targets` int64 [N], summed and divided by
    `count` (None: by N, the mean). No rows make 0.

    dtype: what matrices are multiplied in (None: the weight's own); softmax and result are float32, or float64 where
    that is the dtype, and the sum is float64. Differentiable once, in hidden and weight; twice raises RuntimeError.
    """
    divisor = max(1, targets.shape[0]) if count is None else count
    loss = _HeadLoss.apply(hidden, weight, targets, divisor, dtype or weight.dtype)  # type: ignore[no-untyped-call]
    return cast(Tensor, loss)

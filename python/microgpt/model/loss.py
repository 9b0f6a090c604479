"""Cross-entropy of the head's logits, in nats, without holding all logits at once.

N positions, C width, V ids. A 50,257-id head over 32 x 512 positions would need 3.3 GB for its
float32 logits and as much for their gradient. Above `CHUNK_LOGITS` the loss is taken a chunk of
positions at a time, and each chunk's gradient is worked out while its logits are at hand, so
nothing is computed twice and only one chunk lives (the idea of Hsu et al. 2024, Liger Kernel).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from microgpt.config import IGNORED
from microgpt.model.sizes import CHUNK_LOGITS


def head_loss(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None
) -> Tensor:
    """Returns the summed cross-entropy (a float32 scalar) of softcap(x weight^T + bias).

    `x` (N, C), `weight` (V, C), `bias` (V,), `targets` (N,) with `IGNORED` where none counts.
    """
    rows = max(1, CHUNK_LOGITS // weight.size(0))
    if x.size(0) <= rows:
        return _plain_loss(x, weight, bias, targets, softcap)
    if torch.is_grad_enabled():
        return _ChunkedLoss.apply(x, weight, bias, targets, softcap, rows)
    parts = zip(x.split(rows), targets.split(rows), strict=True)
    return sum(
        (_plain_loss(part, weight, bias, goal, softcap) for part, goal in parts),
        start=torch.zeros((), device=x.device),
    )


def _plain_loss(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, softcap: float | None
) -> Tensor:
    logits = softcapped(F.linear(x, weight, bias).float(), softcap)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """Returns softcap x tanh(logits / softcap), or `logits` where there is no cap."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


class _ChunkedLoss(torch.autograd.Function):
    """`_plain_loss`, `rows` positions at a time, with the gradients worked out on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        softcap: float | None,
        rows: int,
    ) -> Tensor:
        loss = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start in range(0, x.size(0), rows):
            part = x[start : start + rows]
            raw = F.linear(part, weight, bias)
            part_loss, slope = _loss_and_slope(raw.float(), targets[start : start + rows], softcap)
            loss += part_loss
            slope = slope.to(raw.dtype)
            grad_x[start : start + rows] = slope @ weight.to(raw.dtype)
            grad_weight += slope.T @ part.to(raw.dtype)
            if grad_bias is not None:
                grad_bias += slope.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_x, grad_weight.to(weight.dtype), grad_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        grad_x, grad_weight, grad_bias = ctx.saved_tensors
        bias = None if grad_bias is None else grad * grad_bias
        return grad.to(grad_x.dtype) * grad_x, grad * grad_weight, bias, None, None, None


def _loss_and_slope(raw: Tensor, targets: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Returns the summed loss of one chunk's raw logits, and its derivative by them."""
    logits = softcapped(raw, softcap)
    counts = targets != IGNORED
    goal = targets.clamp(min=0)[:, None]
    log_total = logits.logsumexp(-1, keepdim=True)
    loss = ((log_total - logits.gather(1, goal))[:, 0] * counts).sum()
    slope = (logits - log_total).exp_()
    slope.scatter_add_(1, goal, slope.new_full(goal.shape, -1.0))
    slope *= counts[:, None]
    if softcap is not None:
        slope *= 1 - (logits / softcap).square()
    return loss, slope

"""Norms, heads and activations in one pass each on the CPU, through the Rust core.

Eager torch takes six to sixteen passes over memory for each of these, which at the widths of a
small GPT costs more than the matrix products. They compute what `norm.py`, `position.py` and
`feed_forward.py` write in plain torch, which stays in use on accelerators, under autocast, and
under `torch.compile`, whose own fusion does the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable


def _load_core() -> Any:
    """Returns the Rust core, or None in a source tree where it was not built since this file."""
    try:
        from microgpt import _core
    except ImportError:
        return None
    return _core if hasattr(_core, "part_heads") else None


_core = _load_core()
Pair = tuple[Tensor, Tensor]


def usable(x: Tensor) -> bool:
    """Says whether the kernels can take `x`."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and _core is not None
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def rms_norm(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """Returns `x` (..., width) over its root mean square, times `gain` (width,)."""
    return _RMSNorm.apply(x, gain, eps)


def swiglu(x: Tensor) -> Tensor:
    """Returns silu(gate) * up, (..., F), for `x` (..., 2F) of gate, then up."""
    return _SwiGLU.apply(x)


def squared_relu(x: Tensor) -> Tensor:
    """Returns max(x, 0)^2."""
    return _SquaredReLU.apply(x)


def part_heads(
    qkv: Tensor,
    heads: tuple[int, int],
    gains: Pair | None,
    eps: float,
    rotation: Pair | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns q (B, H, T, D), k and v (B, K, T, D) of `qkv` (B, T, (H + 2K) D), `heads` = (H, K).

    Queries and keys are normalised with `gains` (D,) each, then rotated by `rotation`, cosines and
    signed sines of T x D numbers; None leaves either out.
    """
    q_gain, k_gain = gains or (None, None)
    cos, sin = rotation or (None, None)
    return _PartHeads.apply(qkv, heads, q_gain, k_gain, eps, cos, sin)


def _flat(x: Tensor) -> NDArray[np.float32]:
    """Returns the numbers of `x` as an array, without a copy where they lie in order."""
    return x.detach().contiguous().view(-1).numpy()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        width = x.size(-1)
        x = x.contiguous()
        y, scale = torch.empty_like(x), x.new_empty(x.numel() // width)
        used = torch.ones(width) if gain is None else gain
        threads = torch.get_num_threads()
        _core.rms_norm(_flat(x), _flat(used), eps, _flat(y), _flat(scale), threads)
        ctx.save_for_backward(x, used, scale)
        ctx.has_gain = gain is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, gain, scale = ctx.saved_tensors
        x_slope, gain_slope = torch.empty_like(x), torch.empty_like(gain)
        inputs = [_flat(slope), _flat(x), _flat(gain), _flat(scale)]
        threads = torch.get_num_threads()
        _core.rms_norm_back(*inputs, _flat(x_slope), _flat(gain_slope), threads)
        return x_slope, gain_slope if ctx.has_gain else None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        width = x.size(-1) // 2
        y = x.new_empty((*x.shape[:-1], width))
        _core.swiglu(_flat(x), width, _flat(y), torch.get_num_threads())
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        x_slope = torch.empty_like(x)
        threads = torch.get_num_threads()
        _core.swiglu_back(_flat(slope), _flat(x), x.size(-1) // 2, _flat(x_slope), threads)
        return x_slope


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        _core.squared_relu(_flat(x), _flat(y), torch.get_num_threads())
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        x_slope = torch.empty_like(x)
        _core.squared_relu_back(_flat(slope), _flat(x), _flat(x_slope), torch.get_num_threads())
        return x_slope


class _Heads(NamedTuple):
    """How rows are parted, as the Rust core reads it."""

    length: int
    queries: int
    keys: int
    width: int
    gains: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    eps: float
    rotation: tuple[NDArray[np.float32], NDArray[np.float32]] | None


def _heads(
    qkv: Tensor,
    heads: tuple[int, int],
    tensors: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    eps: float,
) -> _Heads:
    q_gain, k_gain, cos, sin = tensors
    queries, keys = heads
    return _Heads(
        length=qkv.size(1),
        queries=queries,
        keys=keys,
        width=qkv.size(2) // (queries + 2 * keys),
        gains=None if q_gain is None or k_gain is None else (_flat(q_gain), _flat(k_gain)),
        eps=eps,
        rotation=None if cos is None or sin is None else (_flat(cos), _flat(sin)),
    )


class _PartHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        heads: tuple[int, int],
        q_gain: Tensor | None,
        k_gain: Tensor | None,
        eps: float,
        cos: Tensor | None,
        sin: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv = qkv.contiguous()
        parting = _heads(qkv, heads, (q_gain, k_gain, cos, sin), eps)
        batch, length, _ = qkv.shape
        queries, keys = heads
        q = qkv.new_empty(batch, queries, length, parting.width)
        k = qkv.new_empty(batch, keys, length, parting.width)
        v = torch.empty_like(k)
        scale = qkv.new_empty(batch * length * (queries + keys))
        outputs = [_flat(q), _flat(k), _flat(v), _flat(scale)]
        _core.part_heads(parting, _flat(qkv), *outputs, torch.get_num_threads())
        ctx.save_for_backward(qkv, scale, q_gain, k_gain, cos, sin)
        ctx.heads, ctx.eps = heads, eps
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        qkv, scale, *tensors = ctx.saved_tensors
        parting = _heads(qkv, ctx.heads, tuple(tensors), ctx.eps)
        qkv_slope = torch.empty_like(qkv)
        gain_slopes = qkv.new_empty(2, parting.width)
        outputs = [_flat(qkv_slope), _flat(gain_slopes)]
        q, k, v = (_flat(slope) for slope in slopes)
        threads = torch.get_num_threads()
        _core.part_heads_back(parting, (q, k, v), _flat(qkv), _flat(scale), *outputs, threads)
        q_slope, k_slope = gain_slopes if tensors[0] is not None else (None, None)
        return qkv_slope, None, q_slope, k_slope, None, None, None

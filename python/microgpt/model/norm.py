"""Normalisation: RMSNorm (Zhang and Sennrich 2019), LayerNorm (Ba et al. 2016), or none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microgpt.config import ModelConfig


class RMSNorm(nn.Module):
    """Divides by the root of the mean square over the last dimension, then multiplies by a gain."""

    def __init__(self, width: int, eps: float, gain: bool = True) -> None:
        super().__init__()
        self.width = width
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` normalised, in its own shape (..., width)."""
        return F.rms_norm(x, (self.width,), self.weight, self.eps)


class LayerNorm(nn.Module):
    """Centres and scales the last dimension to variance 1, then applies a gain and an offset."""

    def __init__(self, width: int, eps: float, gain: bool, bias: bool) -> None:
        super().__init__()
        self.width = width
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if gain else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` normalised, in its own shape (..., width)."""
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)


def make_norm(config: ModelConfig) -> nn.Module:
    """Returns the norm that `config` asks for, over the width of the residual stream."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.n_embd, config.norm_eps, config.norm_gain)
    if config.norm == "layernorm":
        return LayerNorm(config.n_embd, config.norm_eps, config.norm_gain, config.norm_bias)
    return nn.Identity()

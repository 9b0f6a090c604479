"""The feed-forward: SwiGLU (Shazeer 2020), GELU, ReLU, squared ReLU (So et al. 2021)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from microgpt.config import ModelConfig


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), with gate and up in one matrix, gate's rows first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, bias = config.hidden_width, config.feed_forward_bias
        self.gate_up = nn.Linear(config.n_embd, 2 * hidden, bias=bias)
        self.down = nn.Linear(hidden, config.n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., C) for `x` (..., C)."""
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, bias = config.hidden_width, config.feed_forward_bias
        self.up = nn.Linear(config.n_embd, hidden, bias=bias)
        self.down = nn.Linear(hidden, config.n_embd, bias=bias)
        self.kind = config.feed_forward

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., C) for `x` (..., C)."""
        return self.down(self._activated(self.up(x)))

    def _activated(self, x: Tensor) -> Tensor:
        if self.kind == "gelu":
            return F.gelu(x)
        if self.kind == "relu":
            return F.relu(x)
        return F.relu(x).square()


def make_feed_forward(config: ModelConfig) -> nn.Module:
    """Returns the feed-forward that `config` asks for."""
    return SwiGLU(config) if config.feed_forward == "swiglu" else MLP(config)

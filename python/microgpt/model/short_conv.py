"""A short causal convolution of each channel, beside the identity, in front of attention.

What stands right before a token is then known without attention that looks for it (Allen-Zhu 2025,
"Canon layers"; So et al. 2021 have one behind the projections).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microgpt.config import ModelConfig
from microgpt.model.kv_cache import KVCache


class ShortConv(nn.Module):
    """x_t + sum over i of weight_i * x_(t - i), for i from 0; begins as the identity."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.short_conv is not None
        self.layer = layer
        self.weight = nn.Parameter(torch.zeros(config.short_conv, config.n_embd))

    def forward(self, x: Tensor, documents: Tensor | None, cache: KVCache | None) -> Tensor:
        """Returns (B, T, C) for `x` (B, T, C). `documents` (B, S) numbers the documents of all
        positions up to these, where one must not see another; None: there is but one."""
        length, taps = x.size(1), self.weight.size(0)
        if cache is None:
            rows = F.pad(x, (0, 0, taps - 1, 0))
        else:
            rows = torch.cat((cache.recent(self.layer, x, taps - 1), x), 1)
        y = x + x * self.weight[0].to(x.dtype)
        for i in range(1, taps):
            earlier = rows[:, taps - 1 - i : taps - 1 - i + length]
            if documents is not None:
                same = F.pad(documents, (i, 0), value=-1)[:, : documents.size(1)] == documents
                earlier = earlier * same[:, -length:, None]
            y = y + earlier * self.weight[i].to(x.dtype)
        return y

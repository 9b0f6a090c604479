"""Keys and values of the positions already seen, so that a new token costs one position's work."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microgpt.config import ModelConfig


class KVCache:
    """Room for `config.context` positions of every layer, (B, K, context, D) each, made at once.

    A full cache does not slide by itself: learned and sinusoidal positions end there, and rotated
    keys further back than the training context would be out of distribution. Whoever generates
    clears it and feeds the later half of the context again (`inference.generate`).
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        width = config.head_width
        linear = config.attention == "linear"
        kept = 0 if linear else config.context
        shape = (config.n_layer, batch, config.kv_heads, kept, width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        heads = config.n_head if linear else 0
        self.states = torch.zeros(config.n_layer, batch, heads, width, width, device=device)
        """Of linear attention, in place of keys and values: (layers, B, H, D, D)."""
        kept = config.context if config.short_conv else 0
        shape = (config.n_layer, batch, kept, config.n_embd)
        self.rows = torch.zeros(shape, device=device, dtype=dtype)
        """What positions gave each layer's short convolution: (layers, B, context, C)."""
        self.documents = torch.zeros(batch, config.context, device=device, dtype=torch.long)
        """Numbers of the documents that positions belong to, where attention stays inside them."""
        self.capacity = config.context
        self.length = 0
        """Positions that hold keys and values of every layer."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k and v (B, K, T, D) behind the `length` positions of `layer`; returns views of
        all its positions, (B, K, length + T, D) each. `advance` makes the new length hold."""
        end = self.length + k.size(2)
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def recent(self, layer: int, x: Tensor, count: int) -> Tensor:
        """Returns what the last `count` positions gave the layer's short convolution, (B, count, C)
        with zeros where there were none, and keeps `x` (B, T, C) for those to come."""
        rows = self.rows[layer]
        before = rows[:, max(0, self.length - count) : self.length].to(x.dtype)
        rows[:, self.length : self.length + x.size(1)] = x
        return F.pad(before, (0, 0, count - before.size(1), 0))

    def advance(self, positions: int) -> None:
        """Counts `positions` more, after every layer has appended them."""
        self.length += positions

    def truncate(self, length: int) -> None:
        """Forgets all positions from `length` on. Of linear attention's sums only 0 takes back."""
        self.length = min(self.length, length)
        if self.length == 0:
            self.states.zero_()

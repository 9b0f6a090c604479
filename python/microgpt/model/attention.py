"""Causal self-attention over heads, through torch's `scaled_dot_product_attention`.

B batch, T positions of this call, S positions attended to (S = T without a cache), C width,
H query heads, K key/value heads (K divides H; fewer are grouped-query attention), D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microgpt.config import ModelConfig
from microgpt.model.kv_cache import KVCache
from microgpt.model.norm import RMSNorm
from microgpt.model.position import rotate

Rope = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Queries, keys and values from one matrix, rows in that order; heads are contiguous rows."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head, self.n_kv, self.width = config.n_head, config.kv_heads, config.head_width
        rows = (self.n_head + 2 * self.n_kv) * self.width
        self.qkv = nn.Linear(config.n_embd, rows, bias=config.qkv_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.width, config.norm_eps)
            self.k_norm = RMSNorm(self.width, config.norm_eps)
        self.output = nn.Linear(config.n_embd, config.n_embd, bias=config.attention_output_bias)
        self.qk_norm, self.eps = config.qk_norm, config.norm_eps
        self.scale = config.qk_scale**2 / self.width**0.5
        self.dropout = config.dropout
        self.window = config.sliding_window

    def forward(
        self, x: Tensor, rope: Rope | None, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """Returns what each position gathers, (B, T, C).

        `mask` (T, S) is true where attention may look; None is causal, or everything for the one
        query that follows a filled `cache`.
        """
        batch, length, _ = x.shape
        q, k, v = self._heads(self.qkv(x), rope)
        if cache is None:
            y = self._attend(q, k, v, mask)
        else:
            k, v = cache.append(self.layer, k, v)
            y = self._attend(q, k, v, mask) if length > 1 else self._attend_one(q, k, v)
        return self.output(y.transpose(1, 2).reshape(batch, length, -1))

    def _heads(self, qkv: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q (B, H, T, D), k and v (B, K, T, D), normalised and rotated where asked."""
        qkv = qkv.unflatten(-1, (-1, self.width))
        qk, v = qkv.split((self.n_head + self.n_kv, self.n_kv), 2)  # (B, T, H + K, D), (B, T, K, D)
        if self.qk_norm:
            q_gain, k_gain = self.gains()
            gains = torch.cat((q_gain.expand(self.n_head, -1), k_gain.expand(self.n_kv, -1)))
            qk = F.rms_norm(qk, (self.width,), None, self.eps) * gains
        if rope is not None:
            qk = rotate(qk, *rope)
        q, k = qk.split((self.n_head, self.n_kv), 2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def gains(self) -> tuple[Tensor, Tensor]:
        """Returns the gains of normalised queries and of keys, (D,) each."""
        q, k = self.q_norm.weight, self.k_norm.weight
        assert q is not None
        assert k is not None
        return q, k

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Returns (B, H, T, D) for q (B, H, T, D) and k, v (B, K, S, D)."""
        grouped = self.n_kv != self.n_head
        if grouped and not q.is_cuda:
            # Only CUDA's kernels share a key head without a copy, and MPS has ignored the flag.
            k = k.repeat_interleave(self.n_head // self.n_kv, 1)
            v = v.repeat_interleave(self.n_head // self.n_kv, 1)
        return F.scaled_dot_product_attention(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
            enable_gqa=grouped and q.is_cuda,
        )

    def _attend_one(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Returns (B, H, 1, D) for one query that may look at all S cached positions.

        The queries that share a key head stand in for a sequence, so nothing is copied.
        """
        batch = q.size(0)
        if self.window is not None:
            k, v = k[:, :, -self.window :], v[:, :, -self.window :]
        q = q.reshape(batch, self.n_kv, self.n_head // self.n_kv, self.width)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return y.reshape(batch, self.n_head, 1, self.width)


def window_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Returns the (queries, keys) mask, true where the last `queries` of `keys` positions may look:
    at themselves and back over at most `window` positions in all."""
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    back = query - torch.arange(keys, device=device)
    seen = back >= 0
    return seen if window is None else seen & (back < window)

"""Causal self-attention over heads: through torch's `scaled_dot_product_attention`, or, on devices
where it works, `flex_attention` for windows and documents, whose masked blocks it skips; or linear.

B batch, T positions of this call, S positions attended to (S = T without a cache), C width,
H query heads, K key/value heads (K divides H; fewer are grouped-query attention), D head width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microgpt.config import ModelConfig
from microgpt.model.kv_cache import KVCache
from microgpt.model.linear_attention import linear_attention, linear_step
from microgpt.model.norm import RMSNorm
from microgpt.model.position import rotate

Rope = tuple[Tensor, Tensor]
Mask = Any
"""None, a tensor that is true where attention may look, or flex_attention's `BlockMask`."""


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
        linear = config.attention == "linear"
        self.decay = nn.Linear(config.n_embd, config.n_head) if linear else None
        """The logits of the share of its sum that a head keeps, linear attention only."""

    def forward(self, x: Tensor, rope: Rope | None, mask: Mask, cache: KVCache | None) -> Tensor:
        """Returns what each position gathers, (B, T, C).

        `mask` (T, S) or (B, 1, T, S) is true where attention may look; None is causal, or
        everything in the window for the one query that follows a filled `cache`.
        """
        batch, length, _ = x.shape
        q, k, v = self._heads(self.qkv(x), rope)
        if self.decay is not None:
            y = self._sum(q, k, v, self.decay(x), cache).to(x.dtype)
        elif cache is None:
            y = self._attend(q, k, v, mask)
        else:
            k, v = cache.append(self.layer, k, v)
            y = self._attend(q, k, v, mask) if length > 1 else self._attend_one(q, k, v, mask)
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

    def _sum(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, cache: KVCache | None) -> Tensor:
        """Returns (B, H, T, D) for `decay` (B, T, H): linear attention in float32, each position
        normalised, since the sums grow with the memory of a head."""
        k = k.repeat_interleave(self.n_head // self.n_kv, 1)
        v = v.repeat_interleave(self.n_head // self.n_kv, 1)
        state = q.new_zeros(1, 1, self.width, self.width, dtype=torch.float32)
        if cache is not None:
            state = cache.states[self.layer]
        one = linear_step if q.size(2) == 1 and cache is not None else linear_attention
        with torch.autocast(q.device.type, enabled=False):
            log_decay = F.logsigmoid(decay.float()).mT
            y, state = one(self.scale * q.float(), k.float(), v.float(), log_decay, state)
        if cache is not None:
            cache.states[self.layer] = state
        return F.rms_norm(y, (self.width,), None, self.eps)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Returns (B, H, T, D) for q (B, H, T, D) and k, v (B, K, S, D)."""
        if mask is not None and not isinstance(mask, Tensor):
            q, k = q.to(v.dtype), k.to(v.dtype)
            grouped = self.n_kv != self.n_head
            flex = flexible(v.device.type)
            assert flex is not None
            return flex(q, k, v, block_mask=mask, scale=self.scale, enable_gqa=grouped)
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

    def _attend_one(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Returns (B, H, 1, D) for one query that may look at all S cached positions in its window,
        or where `mask` (B, 1, 1, S) is true.

        The queries that share a key head stand in for a sequence, so nothing is copied.
        """
        batch = q.size(0)
        if self.window is not None and mask is None:
            k, v = k[:, :, -self.window :], v[:, :, -self.window :]
        q = q.reshape(batch, self.n_kv, self.n_head // self.n_kv, self.width)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return y.reshape(batch, self.n_head, 1, self.width)


def window_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Returns the (queries, keys) mask, true where the last `queries` of `keys` positions may look:
    at themselves and back over at most `window` positions in all."""
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    back = query - torch.arange(keys, device=device)
    seen = back >= 0
    return seen if window is None else seen & (back < window)


def first_seen(ids: Tensor, window: int | None, document_start: int | None) -> Tensor:
    """Returns the first position that each position of `ids` (B, T) sees, (B, T) of int32."""
    position = torch.arange(ids.size(1), dtype=torch.int32, device=ids.device)
    first = torch.zeros_like(ids, dtype=torch.int32)
    if document_start is not None:
        first = torch.where(ids == document_start, position, 0).cummax(1).values
    return first if window is None else first.maximum(position - (window - 1))


def document_mask(seen: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Returns `seen` (T, S) where query and key are of one document, (B, 1, T, S); `queries` (B, T)
    and `keys` (B, S) are the documents' numbers."""
    return seen & (queries[:, None, :, None] == keys[:, None, None, :])


def block_mask(
    length: int, window: int | None, documents: Tensor | None, device: torch.device
) -> Mask:
    """Returns the mask of `length` positions without a cache as flex_attention takes it."""
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(batch: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        may = query >= key
        if window is not None:
            may = may & (query - key < window)
        if documents is not None:
            may = may & (documents[batch, query] == documents[batch, key])
        return may

    rows = None if documents is None else documents.size(0)
    return create_block_mask(seen, rows, None, length, length, device.type)


@functools.cache
def flexible(kind: str) -> Callable[..., Tensor] | None:
    """Returns a compiled `flex_attention` where it trains on devices of this kind, else None."""
    if kind == "cpu":
        return None  # it has no backward pass there
    try:
        from torch.nn.attention.flex_attention import flex_attention

        flex = torch.compile(flex_attention)
        q = torch.zeros(1, 1, 128, 64, device=kind, requires_grad=True)
        flex(q, q, q, block_mask=block_mask(128, 64, None, q.device)).sum().backward()
    except Exception:  # whatever this torch, its compiler or the device lacks
        return None
    return flex

"""Attention as a decaying sum: o_t = q_t S_t with S_t = a_t S_(t-1) + k_t v_t, a_t in (0, 1).

What a position keeps of the past is one D x D matrix a head, whatever the length, and each token
and head says how fast it forgets (Yang et al. 2024; with a_t constant, Sun et al. 2023). Training
takes the sum in chunks: products within a chunk, the state from one chunk to the next. Generation
takes a position at a time. Both are the same function of the same state.

B batch, H heads, T positions, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64
"""Positions whose products are taken at once."""


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns what each position reads, (B, H, T, D), and the state behind the last.

    `q`, `k`, `v` (B, H, T, D), `log_decay` (B, H, T) below 0, `state` (B, H, D, D), zeros at first;
    all float32.
    """
    read = []
    steps = (x.split(CHUNK, 2) for x in (q, k, v, log_decay))
    for q, k, v, log_decay in zip(*steps, strict=True):
        since = log_decay.cumsum(-1)  # of the chunk's start
        between = since[..., :, None] - since[..., None, :]
        # What lies ahead is masked before exp, which would overflow there.
        causal = torch.ones(between.shape[-2:], dtype=torch.bool, device=q.device).tril()
        shares = between.masked_fill(~causal, -torch.inf).exp()
        inside = (q @ k.mT * shares) @ v
        read.append(inside + since.exp()[..., None] * (q @ state))
        left = (since[..., -1:] - since).exp()[..., None]
        state = since[..., -1, None, None].exp() * state + (k * left).mT @ v
    return torch.cat(read, 2), state


def linear_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns what `linear_attention` does for one position, by the recurrence itself."""
    state = log_decay[..., None].exp() * state + k.mT @ v
    return q @ state, state

"""Where a token stands: rotary tables (Su et al. 2021) and sinusoids (Vaswani et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_tables(context: int, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Returns cosines and signed sines, (context, head_width) each, float32.

    Channel i turns with channel i + head_width / 2 (the half-rotation layout of Llama and Qwen) by
    the angle position x theta^(-2i / head_width). The sines of the first half carry a minus, so
    that `rotate` needs no negation.
    """
    half = torch.arange(0, head_width, 2, dtype=torch.float64) / head_width
    angles = torch.outer(torch.arange(context, dtype=torch.float64), theta**-half)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).float(), torch.cat((-sin, sin), -1).float()


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Returns `x` (..., head_width) turned by its position's angles; the tables broadcast to it.

    Rolling by half the width brings each channel's partner into its place.
    """
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), signed_sin)


def sinusoids(context: int, width: int) -> Tensor:
    """Returns the (context, width) table of sines (even channels) and cosines (odd channels)."""
    channel = torch.arange(0, width, 2, dtype=torch.float64)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), 10_000.0 ** (-channel / width))
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, :width].float()

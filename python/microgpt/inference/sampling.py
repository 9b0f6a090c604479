"""From logits to the next id: temperature, top-k, top-p, min-p, a draw.

They act in that order, as in Hugging Face's transformers, each on what the ones before it left:
temperature divides the logits; top-k keeps the k most likely ids; top-p (nucleus, Holtzman et al.
2020) the fewest whose share reaches p; min-p (Nguyen et al. 2024) those at least that fraction as
likely as the most likely one. Of equally likely ids the lower comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from microgpt.config import require_seed
from microgpt.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How the next id is drawn. None is off."""

    temperature: float = 0.8
    """0 takes the most likely id (greedy); 1 draws as the model was trained."""
    top_k: int | None = None
    top_p: float | None = 0.95
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"temperature is {self.temperature}, but must lie in 0..100")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k is {self.top_k}, but must be at least 1 (off: leave it out)")
        for name, value in (("top-p", self.top_p), ("min-p", self.min_p)):
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{name} is {value}, but must lie in (0, 1] (off: leave it out)")


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Returns each id's chance to be drawn, (V,) float32 summing to 1, for `logits` (V,)."""
    logits = logits.float()
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(0, logits.argmax(keepdim=True), 1.0)
    # The largest logit goes first, so that no temperature, however small, gives inf - inf.
    shares = torch.softmax((logits - logits.max()) / sampling.temperature, -1)
    if sampling.top_k is None and sampling.top_p is None and sampling.min_p is None:
        return shares
    ranked, ids = shares.sort(descending=True, stable=True)
    if sampling.top_k is not None:
        ranked, ids = ranked[: sampling.top_k], ids[: sampling.top_k]
    if sampling.top_p is not None:
        before = ranked.cumsum(0) - ranked
        keep = int((before < sampling.top_p * ranked.sum()).sum())
        ranked, ids = ranked[: max(1, keep)], ids[: max(1, keep)]
    if sampling.min_p is not None:
        keep = int((ranked >= sampling.min_p * ranked[0]).sum())
        ranked, ids = ranked[:keep], ids[:keep]
    return torch.zeros_like(shares).scatter_(0, ids, ranked / ranked.sum())


def draw(chances: Tensor, generator: torch.Generator) -> int:
    """Returns an id drawn with the probabilities `chances` (V,) on the CPU."""
    return int(torch.multinomial(chances, 1, generator=generator))


def new_generator(seed: int | None) -> torch.Generator:
    """Returns a generator that repeats for a `seed`; None seeds it from the system.

    Raises:
        UsageError: the seed does not fit into 64 bits.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        require_seed(seed)
        generator.manual_seed(seed)
    return generator

"""Measurements of a model and its text that say whether training is healthy; health.py judges them.

None of them changes the bits of training: models are looked at without gradients or dropout, on a
few rows, through hooks that are gone afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from microgpt.config import IGNORED
from microgpt.data.loader import Ids, Loader
from microgpt.device import Compute
from microgpt.model.gpt import GPT

PROBE_TOKENS = 2048
"""Tokens that a model is looked at with."""
SAMPLED_WEIGHTS = 65_536
"""Numbers of each parameter whose update is measured."""
COUNTED_TOKENS = 4_000_000
"""Tokens of a split that counts go by, in evenly spread stretches."""
STRETCHES = 16


@dataclass(frozen=True)
class Layer:
    """One block, as a batch sees it; root mean squares over all positions and channels."""

    stream: float
    """Scale of the residual stream behind the block."""
    write: float
    """Scale of what the block changes, as a share of the stream before it."""
    skip_error: float
    """How far the stream behind the block is from the stream before it plus what attention and
    feed-forward gave, as a share of the stream before; 0 where norms come after the sums."""


@dataclass(frozen=True)
class Streams:
    """The residual stream by depth."""

    embedding: float
    """Scale of what enters the first block."""
    layers: tuple[Layer, ...]


@torch.no_grad()
def streams(model: GPT, ids: NDArray[np.int64], compute: Compute) -> Streams:
    """Returns what `ids` (rows, positions) do in `model`; looks at about `PROBE_TOKENS` of them."""
    rows = max(1, PROBE_TOKENS // ids.shape[1])
    seen: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    handles = []

    def note(layer: int, part: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            seen[layer, part] = inputs[0].float(), output.float()

        return hook

    for layer, block in enumerate(model.blocks):
        parts = {"block": block, "attention": block.attention, "feed_forward": block.feed_forward}
        for part, module in parts.items():
            assert isinstance(module, nn.Module)
            handles.append(module.register_forward_hook(note(layer, part)))
    was_training = model.training
    model.eval()
    try:
        with compute.autocast():
            model.hidden(compute.tensor(ids[:rows]))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    pre_norm = model.config.norm_place == "pre"
    layers = [_layer(seen, layer, pre_norm) for layer in range(len(model.blocks))]
    return Streams(_scale(seen[0, "block"][0]), tuple(layers))


def _layer(seen: dict[tuple[int, str], tuple[Tensor, Tensor]], layer: int, pre_norm: bool) -> Layer:
    before, after = seen[layer, "block"]
    change, scale = after - before, max(_scale(before), 1e-30)
    error = 0.0
    if pre_norm:
        branches = seen[layer, "attention"][1] + seen[layer, "feed_forward"][1]
        error = _scale(change - branches) / scale
    return Layer(_scale(after), _scale(change) / scale, error)


def _scale(x: Tensor) -> float:
    """Returns the root mean square."""
    return float(x.square().mean().sqrt())


def gains(model: GPT) -> dict[str, float]:
    """Returns the root mean square of each norm's gain outside attention, by name."""
    return {
        name: _scale(parameter.detach().float())
        for name, parameter in model.named_parameters()
        if parameter.dim() == 1 and name.endswith("norm.weight") and ".attention." not in name
    }


class Updates:
    """What one step changes of each matrix, as a share of it: make it before, ask after."""

    def __init__(self, model: nn.Module) -> None:
        self._before = {name: _sampled(p).clone() for name, p in _matrices(model)}

    def ratios(self, model: nn.Module) -> dict[str, float]:
        """Returns, by name, the update's scale over the weight's."""
        result = {}
        for name, parameter in _matrices(model):
            before = self._before[name]
            result[name] = _scale(_sampled(parameter) - before) / max(_scale(before), 1e-30)
        return result


def _matrices(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((name, p.detach()) for name, p in model.named_parameters() if p.dim() >= 2)


def _sampled(parameter: Tensor) -> Tensor:
    """Returns a view of evenly spread numbers, so that large models cost no second copy."""
    flat = parameter.flatten()
    return flat[:: -(-flat.numel() // SAMPLED_WEIGHTS)]


# Text


def stretches(split: Ids, tokens: int = COUNTED_TOKENS) -> list[NDArray[Any]]:
    """Returns the split's ids, or where it has more than `tokens`, evenly spread parts of it."""
    if split.tokens <= tokens:
        return [split.read(0, split.tokens)]
    length = tokens // STRETCHES
    room = split.tokens - length
    return [split.read(i * room // (STRETCHES - 1), length) for i in range(STRETCHES)]


def unigram_entropy(loader: Loader, vocab_size: int) -> float:
    """Returns the entropy of single targets in nats: the loss of a model that knows only how
    frequent each id is. By counts, with Miller and Madow's correction of their bias (1955)."""
    if loader.lines is not None and loader.lines.marks is not None:
        steps = range(max(1, COUNTED_TOKENS // (64 * loader.batch_rows * loader.context)))
        parts = [targets[targets != IGNORED] for _, targets in map(loader.batch, steps[:64])]
    else:
        parts = stretches(loader.split)
    counts = sum(np.bincount(part, minlength=vocab_size) for part in parts)
    counts = np.asarray(counts)[np.asarray(counts) > 0]
    total = int(counts.sum())
    if total == 0:
        return math.nan
    shares = counts / total
    return float(-(shares * np.log(shares)).sum() + (len(counts) - 1) / (2 * total))


def unused_ids(split: Ids, vocab_size: int) -> int:
    """Returns how many ids of the vocabulary never occur in (a large sample of) the split."""
    counts = sum(np.bincount(part, minlength=vocab_size) for part in stretches(split))
    return int((np.asarray(counts) == 0).sum())


def repeated_share(
    train: Ids, valid: Ids, decode: Callable[[NDArray[Any]], bytes], least_bytes: int
) -> tuple[float, int]:
    """Returns the share of the validation set's lines of at least `least_bytes` that also stand in
    the training set, and how many such lines there are. Of large sets samples are compared, so the
    share is then a lower bound."""
    lines = [
        line
        for part in stretches(valid, COUNTED_TOKENS // 4)
        for line in decode(part).split(b"\n")[1:-1]
        if len(line) >= least_bytes
    ]
    if not lines:
        return 0.0, 0
    wanted, found = set(lines), set()
    for part in stretches(train):
        found.update(wanted.intersection(decode(part).split(b"\n")))
    return sum(line in found for line in lines) / len(lines), len(lines)


def long_line_share(split: Ids, ends: NDArray[np.bool_], context: int) -> float:
    """Returns the share of lines that take more tokens than a row's `context + 1`; `ends` is true
    for ids whose text ends in a line feed."""
    lengths = [np.diff(np.flatnonzero(ends[part])) for part in stretches(split)]
    every = np.concatenate(lengths)
    return float((every > context + 1).mean()) if every.size else 0.0

"""A model's loss on a split, each token predicted once, and which answers it gets right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from microgpt.config import IGNORED
from microgpt.data.loader import Ids, LineRules, after_marks
from microgpt.device import Compute
from microgpt.model.sizes import CHUNK_LOGITS
from microgpt.training.ranks import ALONE, Ranks

CPU_BATCH_TOKENS, BATCH_TOKENS = 4096, 32_768
"""An evaluation's batch holds about so many; on a CPU it shall be little beside what training
holds."""


def evaluation_rows(context: int, device: torch.device) -> int:
    """Returns how many windows an evaluation takes at once."""
    return max(1, (CPU_BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS) // context)


@dataclass(frozen=True)
class Evaluation:
    """A loss over `tokens` predicted tokens."""

    loss: float
    """Nats per token."""
    tokens: int
    bytes_per_token: float
    """Bytes of text that a token of the split stands for, on average."""
    answers: int = 0
    """Where answers alone count, their number; one that two windows share counts in both."""
    right: int = 0
    """How many of them are wholly right: each token is the likeliest after the ones before it."""

    @property
    def perplexity(self) -> float:
        """exp(loss), per token; infinite where it overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def nats_per_byte(self) -> float:
        """The loss per byte of text."""
        return self.loss / self.bytes_per_token

    @property
    def bits_per_byte(self) -> float:
        """The loss per byte of text in bits: comparable between tokenizers."""
        return self.nats_per_byte / math.log(2)


def evaluate(
    model: nn.Module,
    split: Ids,
    text_bytes: int,
    context: int,
    compute: Compute,
    *,
    rows: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    lines: LineRules | None = None,
    ranks: Ranks = ALONE,
    forward: Callable[..., torch.Tensor] | None = None,
) -> Evaluation:
    """Returns the loss of `model` on `split`, which stands for `text_bytes` of text.

    Windows of `context`, `rows` at once (None: for the device), follow one another by `stride`
    (None: `context`, none overlap); each token but the split's first is predicted once, in the
    first window that reaches it, so after at least `context - stride` others (fewer near the
    start). With `max_tokens`, evenly spread windows that hold about so many. Where rows are aligned
    (`lines`), a window leaves out the torn line that it would begin with, and begins with the first
    line end among what is not counted. The split must have at least two tokens. Of several
    processes each measures some of the batches; all get the same sum of the same addends, however
    many they are. They call the model equally often, the last time maybe for nothing, since they
    may hold it together. `forward` may compute in the model's place (`FusedPass.forward`).
    """
    losses: list[float] = []
    hits: list[float] = []
    count = answers = 0
    was_training = model.training
    model.eval()
    rows = rows or evaluation_rows(context, compute.device)
    asking = lines if lines is not None and lines.marks is not None else None
    if asking is not None:  # all logits are held then
        rows = max(1, min(rows, CHUNK_LOGITS // (context * len(asking.ends))))
    with torch.inference_mode(), compute.exact():
        batches = _batches(split, context, stride or context, rows, max_tokens, lines)
        for turn in iter(lambda: list(itertools.islice(batches, ranks.data_world)), []):
            count += sum(int((targets != IGNORED).sum()) for _, targets in turn)
            if asking is not None:
                answers += sum(int(_begins(targets).sum()) for _, targets in turn)
            losses += [0.0] * len(turn)
            hits += [0.0] * len(turn)
            mine = turn[min(ranks.data_rank, len(turn) - 1)]
            loss, right = _score(forward or model, *mine, compute, asking is not None)
            if ranks.counts and ranks.data_rank < len(turn):
                losses[ranks.data_rank - len(turn)] = loss
                hits[ranks.data_rank - len(turn)] = right
    model.train(was_training)
    sums = ranks.summed(losses + hits)
    loss = sum(sums[: len(losses)]) / count if count else math.nan
    right = round(sum(sums[len(losses) :]))
    return Evaluation(loss, count, text_bytes / max(1, split.tokens), answers, right)


def _score(
    model: Callable[..., torch.Tensor],
    inputs: NDArray[np.int64],
    targets: NDArray[np.int64],
    compute: Compute,
    asks: bool,
) -> tuple[float, int]:
    """Returns the summed loss, and where the model is asked how many answers are wholly right."""
    ids, goals = compute.tensor(inputs), compute.tensor(targets)
    if not asks:
        return float(model(ids, goals, reduction="sum")), 0
    logits = model(ids).float()
    flat = logits.flatten(0, 1), goals.flatten()
    loss = F.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum")
    return float(loss), _wholly_right(logits.argmax(-1).cpu().numpy(), targets)


def _begins(targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns where runs of targets begin in rows, (rows, context)."""
    begins = targets != IGNORED
    begins[:, 1:] &= targets[:, :-1] == IGNORED
    return begins


def _wholly_right(likeliest: NDArray[np.int64], targets: NDArray[np.int64]) -> int:
    """Returns how many runs of `targets` in rows are `likeliest` everywhere."""
    begins = _begins(targets)
    number = begins.cumsum().reshape(targets.shape)
    wrong = number[(targets != IGNORED) & (likeliest != targets)]
    return int(begins.sum()) - len(np.unique(wrong))


def _torn(ids: NDArray[Any], lines: LineRules) -> int:
    """Returns how many of `ids` stand before the first line end."""
    found = np.flatnonzero(lines.ends[ids])
    return int(found[0]) if found.size else 0


def _batches(
    split: Ids,
    context: int,
    stride: int,
    rows: int,
    max_tokens: int | None,
    lines: LineRules | None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Inputs and targets, (rows, context) each, the last batch smaller; padding is not counted."""
    pairs = split.tokens - 1
    context = min(context, pairs)
    starts = list(range(0, max(1, pairs - context + stride), stride))
    if max_tokens is not None and len(starts) * stride > max_tokens:
        wanted = max(1, max_tokens // stride)
        starts = [starts[i * len(starts) // wanted] for i in range(wanted)]
    for first in range(0, len(starts), rows):
        group = starts[first : first + rows]
        ids = np.zeros((len(group), context + 1), np.int64)
        targets = np.full((len(group), context), IGNORED, np.int64)
        for row, start in enumerate(group):
            window = split.read(start, min(context, pairs - start) + 1)
            fresh = 0 if start == 0 else context - stride
            if lines is not None and lines.align:
                torn = _torn(window[: fresh + 1], lines)
                window, fresh = window[torn:], fresh - torn
            length = len(window) - 1
            ids[row, : length + 1] = window
            if lines is not None and lines.align:
                lines.begun(ids[row : row + 1])
            targets[row, fresh:length] = ids[row, fresh + 1 : length + 1]
        if lines is not None and lines.marks is not None:
            counted = after_marks(ids[:, :-1], lines.marks, lines.ends)
            targets = np.where(counted, targets, IGNORED)
        yield ids[:, :-1], targets

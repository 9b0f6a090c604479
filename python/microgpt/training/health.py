"""What measurements say about a run's health: a sentence for each thing that is wrong.

The limits stand here once. docs/training.md has the figures of healthy runs that they come from:
each lies well outside of those, so that a sentence is worth reading.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microgpt.config import RunConfig
from microgpt.data.loader import Loader
from microgpt.data.shards import Dataset
from microgpt.device import Compute
from microgpt.model.gpt import GPT
from microgpt.training import probe, schedule

EARLY_STEPS = 100
"""By this step a healthy model has learnt something."""
FIRST_LOSS_NATS = 0.5
"""The first loss may differ so much from ln V, the loss of a model that favours no id."""
UNIGRAM_NATS = 0.1
"""The early loss may lie so much above the entropy of single ids."""
SKIP_ERROR = 0.02
"""A block's output may differ so much from its input plus its branches, as a share of the input."""
STREAM_SHRINKS, STREAM_GROWS = 0.5, 100.0
"""Within one block, and from the embedding (at least 1) to the last block."""
DEAD_WRITE = 0.01
"""A block that changes less of the stream than this share, once trained, is dead."""
SMALL_GAIN = 0.1
"""Norms' gains begin at 1."""
UPDATE_MOST, UPDATE_LEAST, FROZEN = 0.1, 1e-4, 1e-8
"""Of the weights, in a step: the most for any matrix; what the liveliest one must reach; what none
may stay below."""
UNUSED_SHARE = 0.2
"""Of the vocabulary that never occurs in the training text; 256 ids are free, since bytes that do
not occur cost next to nothing."""
REPEATED_SHARE, REPEATED_BYTES = 0.2, 32
"""Of the validation lines of so many bytes that also stand in the training text. Shorter lines
repeat by chance."""
LONG_LINE_SHARE = 0.01
"""Of the lines that are longer than a row, where lines hold questions and answers."""
UNREAD_SHARE = 0.9
"""Of the training text that all the steps of a run never come to."""


class Checkup:
    """Looks at a run in its first steps: `before` each step, `after` it, in a few of them only."""

    def __init__(self, config: RunConfig, loader: Loader, compute: Compute) -> None:
        self._config = config
        self._loader, self._compute = loader, compute
        self._updates: probe.Updates | None = None
        self._late = late_step(config)
        self.signs: dict[str, Any] = {}
        """What was measured, for the run's folder."""

    def before(self, step: int, model: GPT) -> list[str]:
        """Returns what is wrong before the first step, and prepares for `after`."""
        if step == EARLY_STEPS:
            self._updates = probe.Updates(model)
        if step != 1:
            return []
        streams = self._streams(0, model)
        self.signs["first_streams"] = as_numbers(streams)
        return [*gain_findings(probe.gains(model)), *stream_findings(streams, trained=False)]

    def after(self, step: int, loss: float, recent: float, model: GPT) -> list[str]:
        """Returns what is wrong after a step of this loss; `recent` is the mean of the last few."""
        found: list[str] = []
        if step == 1:
            self.signs["first_loss"] = loss
            found += first_loss_findings(loss, self._config.model.vocab_size)
        if step == EARLY_STEPS and self._updates is not None:
            ratios, self._updates = self._updates.ratios(model), None
            streams = self._streams(step, model)
            self.signs |= {"early_streams": as_numbers(streams), "early_updates": ratios}
            found += update_findings(ratios)
            found += stream_findings(streams, trained=True)
        if step == self._late:
            entropy = probe.unigram_entropy(self._loader, self._config.model.vocab_size)
            self.signs |= {"early_loss": recent, "early_step": step, "unigram_entropy": entropy}
            found += unigram_findings(step, recent, entropy)
        return found

    def is_due_before(self, step: int) -> bool:
        """Whether `before` measures anything at this step."""
        return step in (1, EARLY_STEPS)

    def is_due(self, step: int) -> bool:
        """Whether `after` measures anything at this step."""
        return step in (1, EARLY_STEPS, self._late)

    def _streams(self, step: int, model: GPT) -> probe.Streams:
        return probe.streams(model, self._loader.batch(step)[0], self._compute)


def late_step(config: RunConfig) -> int:
    """Returns the step by which a model is better than single ids' entropy: warm-up is over."""
    warmup, _ = schedule.resolve(config.schedule, config.training.steps or 0)
    return max(EARLY_STEPS, 2 * warmup)


def as_numbers(streams: probe.Streams) -> list[float]:
    """Returns the stream's scales by depth, the embedding's first."""
    return [streams.embedding, *(layer.stream for layer in streams.layers)]


# Judgement: one sentence with value, limit and way out


def first_loss_findings(loss: float, vocab_size: int) -> list[str]:
    """Judges the loss before anything was learnt."""
    fair = math.log(vocab_size)
    if abs(loss - fair) <= FIRST_LOSS_NATS:
        return []
    why = "the head is drawn too large" if loss > fair else "the targets leak into the input"
    return [
        f"the first loss is {loss:.2f}, more than {FIRST_LOSS_NATS} nats from ln V = {fair:.2f}, "
        f"that of a model without a preference: {why}; look at the initial weights and the batches"
    ]


def unigram_findings(step: int, loss: float, entropy: float) -> list[str]:
    """Judges the loss once the warm-up is over."""
    if not loss > entropy + UNIGRAM_NATS:
        return []
    return [
        f"at step {step} the loss is {loss:.2f}, above {entropy:.2f}, the entropy of single ids, "
        "which a model without any context reaches: change --lr and --muon-lr (tenfold, either "
        "way), or see what other findings say"
    ]


def gain_findings(gains: Mapping[str, float]) -> list[str]:
    """Judges the norms' gains before training."""
    small = {name: gain for name, gain in gains.items() if gain < SMALL_GAIN}
    if not small:
        return []
    name = min(small, key=small.__getitem__)
    return [
        f"{len(small)} of {len(gains)} norms begin with gains below {SMALL_GAIN} ({name}: "
        f"{small[name]:.2g}), which shrinks what they feed: start gains at 1"
    ]


def stream_findings(streams: probe.Streams, trained: bool) -> list[str]:
    """Judges the residual stream by depth."""
    found = []
    layers = streams.layers
    errors = [layer.skip_error for layer in layers]
    if max(errors) > SKIP_ERROR:
        worst = errors.index(max(errors))
        found.append(
            f"block {worst} does not add to the stream: its output differs from input + attention "
            f"+ feed-forward by {errors[worst]:.2g} of the input (limit {SKIP_ERROR}); take the "
            "skip from the stream itself, not from the normalised activations"
        )
    scales = as_numbers(streams)
    ratios = [after / max(before, 1e-30) for before, after in itertools.pairwise(scales)]
    if min(ratios) < STREAM_SHRINKS:
        worst = ratios.index(min(ratios))
        found.append(
            f"the stream shrinks in block {worst}, from {scales[worst]:.2g} to "
            f"{scales[worst + 1]:.2g} (limit {STREAM_SHRINKS} times): the layers below are lost; "
            "see the norms' gains and where the skip begins"
        )
    if scales[-1] > STREAM_GROWS * max(1.0, scales[0]):
        found.append(
            f"the stream grows from {scales[0]:.2g} to {scales[-1]:.2g} over {len(layers)} blocks "
            f"(limit {STREAM_GROWS:g} times): the layers explode; lower --lr and --muon-lr"
        )
    dead = [i for i, layer in enumerate(layers) if trained and layer.write < DEAD_WRITE]
    if dead:
        found.append(
            f"{len(dead)} of {len(layers)} blocks are dead: block {dead[0]} changes "
            f"{layers[dead[0]].write:.2g} of the stream (limit {DEAD_WRITE}); raise the rate, or "
            "take fewer layers"
        )
    return found


def update_findings(ratios: Mapping[str, float]) -> list[str]:
    """Judges what a step changes of each matrix."""
    most, least = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
    found = []
    if ratios[most] > UPDATE_MOST:
        found.append(
            f"a step changes {most} by {ratios[most]:.2g} of itself (limit {UPDATE_MOST}): lower "
            "--lr and --muon-lr"
        )
    if ratios[most] < UPDATE_LEAST:
        found.append(
            f"a step changes no matrix by more than {ratios[most]:.2g} of itself (at least "
            f"{UPDATE_LEAST:g} is usual): raise --lr and --muon-lr"
        )
    elif ratios[least] < FROZEN:
        found.append(
            f"{least} stands still: a step changes {ratios[least]:.2g} of it (at least {FROZEN:g} "
            "is usual), so it is not being trained"
        )
    return found


# The text


def data_findings(
    config: RunConfig,
    dataset: Dataset,
    decode: Callable[[NDArray[Any]], bytes],
    ends: NDArray[np.bool_] | None,
) -> list[str]:
    """Judges a dataset for this run. `decode` gives the text of ids; `ends` is true for ids whose
    text ends in a line feed, and None where lines are no units of the run."""
    vocab = config.model.vocab_size
    unused = probe.unused_ids(dataset.train, vocab)
    found = []
    if unused - 256 > UNUSED_SHARE * vocab:
        found.append(
            f"{unused:,} of {vocab:,} ids never occur in the training text (limit "
            f"{UNUSED_SHARE:.0%} beyond 256): train a tokenizer on it with a smaller --vocab-size"
        )
    share, lines = probe.repeated_share(dataset.train, dataset.valid, decode, REPEATED_BYTES)
    if share > REPEATED_SHARE:
        found.append(
            f"{share:.0%} of the {lines:,} longer validation lines also stand in the training text "
            f"(limit {REPEATED_SHARE:.0%} of those of {REPEATED_BYTES} bytes or more), so the "
            "validation loss flatters: remove duplicates, or part documents with --separator"
        )
    if ends is not None:
        share = probe.long_line_share(dataset.train, ends, config.model.context)
        if share > LONG_LINE_SHARE:
            found.append(
                f"{share:.1%} of the lines do not fit into the context of {config.model.context} "
                f"tokens (limit {LONG_LINE_SHARE:.0%}), so the model never sees question and "
                "answer together: give a longer --context"
            )
    return [*found, *unread_findings(config, dataset.train.tokens)]


def unread_findings(config: RunConfig, train_tokens: int) -> list[str]:
    """Judges how much of the training text a run reads, once its steps are decided."""
    training = config.training
    if training.steps is None or training.batch_rows is None:
        return []
    read = training.steps * training.batch_rows * config.model.context / train_tokens
    if 1 - read <= UNREAD_SHARE:
        return []
    return [
        f"{training.steps:,} steps read {read:.1%} of the training text, and never see the rest "
        f"(limit {UNREAD_SHARE:.0%} unread): give more --minutes or --steps, or a smaller file"
    ]

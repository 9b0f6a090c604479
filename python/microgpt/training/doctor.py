"""A run examined from outside: what its checkup saw, and how the model is now."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microgpt.config import RunConfig
from microgpt.data.loader import LineRules, Loader
from microgpt.data.shards import Dataset
from microgpt.device import Compute
from microgpt.run_folder import RunFolder
from microgpt.training import checkpoint, health, probe
from microgpt.training.average import Average
from microgpt.training.optimizer import Optimizer
from microgpt.training.trainer import Stepper, initialized_model


@dataclass
class Examination:
    """What was measured, and what is wrong."""

    step: int
    """Steps done by the checkpoint that was looked at; 0 without one."""
    signs: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def examine(
    run: RunFolder,
    config: RunConfig,
    dataset: Dataset,
    decode: Callable[[NDArray[Any]], bytes],
    lines: LineRules | None,
    ends: NDArray[np.bool_] | None,
) -> Examination:
    """Returns how the run is: its text, its initial model drawn again, its newest checkpoint.

    The run is not changed, and may be training meanwhile. `lines` are the rules of its
    rows; `ends` is true for ids that end lines, where anything heeds lines.

    Raises:
        CheckpointError: the checkpoint belongs to another tokenizer or model.
    """
    assert config.training.batch_rows is not None
    compute = Compute.of("auto", config.training.dtype, config.training.tf32)
    rows = config.training.batch_rows
    loader = Loader(dataset.train, config.model.context, rows, config.data.seed, lines)
    result = Examination(0, findings=health.data_findings(config, dataset, decode, ends))
    _look_at_the_first(result, config, loader, compute)
    _look_at_the_newest(result, run, config, dataset, loader, compute)
    return result


def _look_at_the_first(
    result: Examination, config: RunConfig, loader: Loader, compute: Compute
) -> None:
    """Draws the initial model again and looks at it before any training."""
    model = initialized_model(config, compute)
    inputs, targets = loader.batch(0)
    loss = Stepper(model, config, compute).gradients(inputs, targets, 1)
    streams = probe.streams(model, inputs, compute)
    result.signs |= {
        "first_loss": loss,
        "fair_loss": math.log(config.model.vocab_size),
        "first_streams": health.as_numbers(streams),
    }
    result.findings += health.first_loss_findings(loss, config.model.vocab_size)
    result.findings += health.gain_findings(probe.gains(model))
    result.findings += health.stream_findings(streams, trained=False)


def _look_at_the_newest(
    result: Examination,
    run: RunFolder,
    config: RunConfig,
    dataset: Dataset,
    loader: Loader,
    compute: Compute,
) -> None:
    """Loads the newest checkpoint, and takes its next step in memory, at the peak rate."""
    newest = run.newest_checkpoint()
    if newest is None:
        return
    model = initialized_model(config, compute)
    optimizer = Optimizer(model, config.optimizer)
    share = config.optimizer.average_share
    average = None if share is None else Average(optimizer.placement.here, share)
    fingerprint = dataset.manifest.tokenizer.fingerprint
    position = checkpoint.restore(newest, optimizer, average, fingerprint)
    inputs, targets = loader.batch(position.step)
    streams = probe.streams(model, inputs, compute)
    loss = Stepper(model, config, compute).gradients(inputs, targets, position.step + 1)
    optimizer.clip()
    updates = probe.Updates(model)
    optimizer.step(position.step + 1, position.recovery.rate)
    ratios = updates.ratios(model)
    entropy = probe.unigram_entropy(loader, config.model.vocab_size)
    result.step = position.step
    result.signs |= {
        "loss": loss,
        "unigram_entropy": entropy,
        "streams": health.as_numbers(streams),
        "writes": [layer.write for layer in streams.layers],
        "updates": ratios,
    }
    trained = position.step >= health.late_step(config)
    new = health.stream_findings(streams, trained)
    if trained:
        new += health.unigram_findings(position.step, loss, entropy)
        new += health.update_findings(ratios)
    result.findings += [finding for finding in new if finding not in result.findings]

"""What a run must remember to go on as if it had never stopped.

Weights and the optimizer's moments are tensors; the rest is a few numbers, because the data order
and dropout's noise are functions of (seed, step). Where weights are averaged, the average is the
model, and the weights that training goes on with lie beside the moments.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from microgpt.errors import CheckpointError
from microgpt.model.gpt import GPT
from microgpt.model.weights import load_weights, save_weights
from microgpt.run_folder import Checkpoint, RunFolder
from microgpt.training.average import Average
from microgpt.training.optimizer import Optimizer
from microgpt.training.recovery import Recovery

WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
_UNAVERAGED = "weights."
"""Begins the names of the weights that training goes on with, in the optimizer's file."""


@dataclass
class Position:
    """How far a run has come."""

    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Tokens that the model was trained on so far."""
    elapsed_seconds: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None
    """Lowest validation loss so far, in nats per token, and where it was measured."""
    evaluations_without_gain: int = 0
    recovery: Recovery = field(default_factory=Recovery)


def save(
    run: RunFolder,
    position: Position,
    model: GPT,
    moments: Mapping[str, Tensor],
    average: Average | None,
    tokenizer_fingerprint: str,
    keep: int,
) -> Checkpoint:
    """Writes a checkpoint of this moment; of the older ones stay the best and the newest, `keep`
    with this one. `moments` is the optimizer's state.

    Raises:
        CheckpointError: the system refused; the earlier ones are intact.
    """
    state = {
        "tokens": position.tokens,
        "elapsed_seconds": round(position.elapsed_seconds, 3),
        "best": None
        if position.best_step is None
        else {"step": position.best_step, "valid_loss": position.best_loss},
        "evaluations_without_gain": position.evaluations_without_gain,
        "recovery": position.recovery.as_state(),
        "tokenizer_fingerprint": tokenizer_fingerprint,
    }
    writers = {
        WEIGHTS_FILE: lambda path: _refusing(lambda: _save_model(model, average, path)),
        OPTIMIZER_FILE: lambda path: _refusing(lambda: _save_optimizer(moments, average, path)),
    }
    return run.write_checkpoint(position.step, state, writers, keep)


def restore(
    checkpoint: Checkpoint,
    model: GPT,
    optimizer: Optimizer,
    average: Average | None,
    tokenizer_fingerprint: str,
) -> Position:
    """Brings model, optimizer and average to the checkpoint's moment; returns how far that was.

    Raises:
        CheckpointError: it belongs to another tokenizer or model.
    """
    state = checkpoint.state
    if state["tokenizer_fingerprint"] != tokenizer_fingerprint:
        raise CheckpointError(
            f"{checkpoint.path} was trained with another tokenizer than the dataset's: "
            "give the dataset it was trained on, or start a new run"
        )
    load_weights(model, checkpoint.path / WEIGHTS_FILE)
    path = checkpoint.path / OPTIMIZER_FILE
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    unaveraged = [name for name in tensors if name.startswith(_UNAVERAGED)]
    weights = {name.removeprefix(_UNAVERAGED): tensors.pop(name) for name in unaveraged}
    if average is not None:
        # A checkpoint of a run without averages begins with one of its weights alone.
        average.restore(weights or average.weights())
    optimizer.load(tensors)
    best = state["best"] or {}
    return Position(
        step=checkpoint.step,
        tokens=state["tokens"],
        elapsed_seconds=state["elapsed_seconds"],
        best_step=best.get("step"),
        best_loss=best.get("valid_loss"),
        evaluations_without_gain=state["evaluations_without_gain"],
        recovery=Recovery.of(state.get("recovery")),
    )


def _save_model(model: GPT, average: Average | None, path: Path) -> None:
    with nullcontext() if average is None else average.in_place():
        save_weights(model, path)


def _save_optimizer(moments: Mapping[str, Tensor], average: Average | None, path: Path) -> None:
    state = dict(moments)
    if average is not None:
        state |= {_UNAVERAGED + name: value for name, value in average.weights().items()}
    # Momenta of one shape share a stack, and safetensors wants each tensor by itself.
    tensors = {name: value.cpu().clone() for name, value in state.items()}
    safetensors.torch.save_file(tensors, path)


def _refusing(write) -> None:
    """Turns what safetensors says of a full disk into the system's own error."""
    try:
        write()
    except safetensors.SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise OSError(str(error)) from error
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

"""What a run must remember to go on as if it had never stopped.

Weights and the optimizer's moments are tensors; the rest is a few numbers, because the data order
and dropout's noise are functions of (seed, step). Where weights are averaged, the average is the
model, and the weights that training goes on with lie beside the moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

import torch

from microgpt.errors import CheckpointError
from microgpt.model.weights import Entry, TensorFile, write_tensors
from microgpt.run_folder import Checkpoint, Judgement, RunFolder
from microgpt.training.average import Average
from microgpt.training.loss_scale import LossScale
from microgpt.training.optimizer import Optimizer
from microgpt.training.recovery import Recovery
from microgpt.training.sharding import Placement

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
    best: Judgement | None = None
    """The best evaluation so far."""
    evaluations_without_gain: int = 0
    recovery: Recovery = field(default_factory=Recovery)
    loss_scale: LossScale = field(default_factory=LossScale)
    """Used under float16 alone."""


Contents = dict[str, list[Entry]]
"""By file, the tensors of a checkpoint."""


def contents(placement: Placement, optimizer: Optimizer, average: Average | None) -> Contents:
    """Returns what a checkpoint of this moment holds. Of several processes, all must ask for each
    value, in order; the first gets it."""
    weights = {name: p.detach() for name, p in placement.here.items()}

    def entries(values: Mapping[str, torch.Tensor], prefix: str = "") -> list[Entry]:
        return [
            Entry(prefix + name, placement.shapes[name], partial(placement.whole, name, value))
            for name, value in values.items()
        ]

    unaveraged = [] if average is None else entries(weights, _UNAVERAGED)
    return {
        WEIGHTS_FILE: entries(weights if average is None else average.averages()),
        OPTIMIZER_FILE: [*optimizer.entries(), *unaveraged],
    }


def save(
    run: RunFolder,
    position: Position,
    contents: Contents,
    tokenizer_fingerprint: str,
    keep: int,
) -> Checkpoint:
    """Writes a checkpoint of this moment; of the older ones stay the best and the newest, `keep`
    with this one.

    Raises:
        CheckpointError: the system refused; the earlier ones are intact.
    """
    best = position.best
    state = {
        "tokens": position.tokens,
        "elapsed_seconds": round(position.elapsed_seconds, 3),
        "best": None
        if best is None
        else {"step": best.step, "valid_loss": best.loss, "answers_right": best.right},
        "evaluations_without_gain": position.evaluations_without_gain,
        "recovery": position.recovery.as_state(),
        "loss_scale": asdict(position.loss_scale),
        "tokenizer_fingerprint": tokenizer_fingerprint,
    }
    writers = {
        file: lambda path, entries=entries: write_tensors(path, entries)
        for file, entries in contents.items()
    }
    return run.write_checkpoint(position.step, state, writers, keep)


def restore(
    checkpoint: Checkpoint,
    optimizer: Optimizer,
    average: Average | None,
    tokenizer_fingerprint: str,
) -> Position:
    """Brings model, optimizer and average to the checkpoint's moment; returns how far that was.
    Tensors are read one at a time.

    Raises:
        CheckpointError: it belongs to another tokenizer or model.
    """
    state = checkpoint.state
    if state["tokenizer_fingerprint"] != tokenizer_fingerprint:
        raise CheckpointError(
            f"{checkpoint.path} was trained with another tokenizer than the dataset's: "
            "give the dataset it was trained on, or start a new run"
        )
    placement = optimizer.placement
    weights = TensorFile(checkpoint.path / WEIGHTS_FILE)
    moments = TensorFile(checkpoint.path / OPTIMIZER_FILE)
    weights.require(placement.shapes)
    with torch.no_grad():
        for name, part in placement.here.items():
            part.copy_(placement.cut(name, weights[name]))
    stored = [name for name in moments if name.startswith(_UNAVERAGED)]
    if average is not None:
        names = {key.removeprefix(_UNAVERAGED): key for key in stored}
        unaveraged = _Lazy({n: partial(_cut, placement, n, moments, names[n]) for n in names})
        # A checkpoint of a run without averages begins with one of its weights alone.
        average.restore(unaveraged or average.weights())
    rest = moments.keys() - set(stored)
    optimizer.load(_Lazy({name: partial(moments.__getitem__, name) for name in rest}))
    return Position(
        step=checkpoint.step,
        tokens=state["tokens"],
        elapsed_seconds=state["elapsed_seconds"],
        best=checkpoint.best,
        evaluations_without_gain=state["evaluations_without_gain"],
        recovery=Recovery.of(state.get("recovery")),
        loss_scale=LossScale(**state.get("loss_scale", {})),
    )


def _cut(placement: Placement, name: str, file: TensorFile, key: str) -> torch.Tensor:
    return placement.cut(name, file[key])


class _Lazy(Mapping[str, torch.Tensor]):
    """Tensors that are read when they are asked for."""

    def __init__(self, values: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._values[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

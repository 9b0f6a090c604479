"""What a run came to, read from its folder alone, however much of it there is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from microgpt.config import to_dict
from microgpt.errors import CheckpointError
from microgpt.run_folder import Judgement, RunFolder

Row = dict[str, Any]


@dataclass(frozen=True)
class RunSummary:
    """A run's settings and results; None, or nothing, where the folder does not say."""

    name: str
    status: str
    """`running`, `finished`, `stopped`, `failed`, or `killed`: running, but in no process."""
    facts: dict[str, Any]
    """`run.json`."""
    settings: dict[str, Any]
    """The resolved configuration, flat: `{"model.n_layer": 4, ...}`."""
    metrics: list[Row]
    """Every row of the metrics that has a step, in order."""
    evaluations: list[Row] = field(init=False)
    """Those rows in which the validation loss was measured."""

    def __post_init__(self) -> None:
        measured = [row for row in self.metrics if number(row, "valid_loss") is not None]
        object.__setattr__(self, "evaluations", measured)

    @property
    def step(self) -> int:
        """Steps done."""
        return int(number(self.metrics[-1], "step") or 0) if self.metrics else 0

    @property
    def tokens(self) -> int | None:
        """Tokens trained on, each as often as it was seen."""
        return next((int(r["tokens"]) for r in reversed(self.metrics) if number(r, "tokens")), None)

    @property
    def elapsed_seconds(self) -> float | None:
        """Seconds of training, without the pauses between resumptions."""
        known = number(self.facts, "elapsed_seconds")
        if known is not None:
            return known
        return number(self.metrics[-1], "elapsed_seconds") if self.metrics else None

    @property
    def loss(self) -> float | None:
        """Training loss in nats a token: the mean over the last twentieth of the steps."""
        losses = [number(r, "loss") for r in self.metrics if r["step"] > 0.95 * self.step]
        known = [loss for loss in losses if loss is not None]
        return math.fsum(known) / len(known) if known else None

    @property
    def best(self) -> Row | None:
        """The evaluation with the lowest validation loss."""
        return min(self.evaluations, key=lambda row: row["valid_loss"], default=None)

    @property
    def best_at_answers(self) -> Row | None:
        """The evaluation that was best at answers, whose checkpoint is used; None where the run was
        not judged by answers."""
        best: tuple[Row, Judgement] | None = None
        for row in self.evaluations:
            loss, right = number(row, "valid_answer_loss"), number(row, "valid_answers_right")
            if loss is None:
                continue
            judged = Judgement(row["step"], loss, right)
            if best is None or judged.replaces(best[1]):
                best = row, judged
        return best and best[0]

    @property
    def valid_loss(self) -> float | None:
        """The lowest validation loss, in nats a token."""
        return number(self.best, "valid_loss") if self.best else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of validation text, where the validation loss is lowest."""
        return number(self.best, "bits_per_byte") if self.best else None

    @property
    def floor(self) -> float | None:
        """The corpus' entropy in nats a byte, where it is known."""
        return number(self.facts.get("dataset"), "floor_nats_per_byte")

    @property
    def above_floor(self) -> float | None:
        """Nats per byte by which the lowest validation loss lies above the corpus' entropy."""
        if self.floor is None or self.bits_per_byte is None:
            return None
        return self.bits_per_byte * math.log(2) - self.floor


def summarise(run: RunFolder) -> RunSummary:
    """Returns what the folder says; a part that is missing or torn is left out.

    Raises:
        CheckpointError: there is no readable `run.json`, so it is no run.
    """
    facts = run.read_facts()
    try:
        settings = _flat(to_dict(run.read_config()))
    except CheckpointError:
        settings = {}
    status = str(facts.get("status") or "unknown")
    if status == "running" and not run.in_use():
        status = "killed"
    rows = [r for r in run.read_metrics() if isinstance(r, dict) and number(r, "step") is not None]
    return RunSummary(run.name, status, facts, settings, rows)


def number(mapping: Any, key: str) -> float | None:
    """Returns the finite number under `key`, or None."""
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result

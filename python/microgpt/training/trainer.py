"""The loop: batch, loss, gradients, update; now and then an evaluation, a sample, a checkpoint.

A run is a function of its configuration and dataset. Batches depend on (seed, step), dropout's
noise too, and nothing else is random; so a run that goes on from a checkpoint ends in the same bits
as one that was never stopped (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from microgpt.config import RunConfig
from microgpt.data.loader import IGNORED, LineRules, Loader
from microgpt.data.shards import Dataset
from microgpt.device import Compute
from microgpt.errors import TrainingError
from microgpt.model.gpt import GPT
from microgpt.run_folder import RunFolder
from microgpt.training import checkpoint, schedule
from microgpt.training.average import Average
from microgpt.training.checkpoint import Position
from microgpt.training.evaluate import Evaluation, evaluate
from microgpt.training.interrupt import Interrupt
from microgpt.training.optimizer import Optimizer

MAX_ROWS = 10_000
"""About so many rows of metrics are written in a run, however long."""
_log = logging.getLogger("microgpt")


class Watcher(Protocol):
    """Somebody who is told how training goes."""

    def step(self, row: Mapping[str, Any]) -> None:
        """A step was done; `row` is as in `metrics.jsonl`, with validation keys where measured."""

    def sample(self, step: int, text: str) -> None:
        """A sample was written."""


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    status: Literal["finished", "stopped"]
    reason: str
    position: Position
    last: Mapping[str, Any] | None
    """The last row of metrics that has a validation loss."""


class Trainer:
    """Trains one model on one dataset in one run folder, from wherever the folder is."""

    def __init__(
        self,
        run: RunFolder,
        config: RunConfig,
        dataset: Dataset,
        watcher: Watcher,
        sampler: Callable[[GPT, int], str] | None = None,
        lines: LineRules | None = None,
        answers: LineRules | None = None,
    ) -> None:
        """Builds the model and, where the run has a sound checkpoint, goes back to it.

        `config` is resolved: it names steps, batch, threads. `sampler` gives a text for a model and
        a seed. With `answers`, the best checkpoint is that with the lowest validation loss on what
        follows their marks: a model that begins to learn its questions by heart, which nobody asks
        of it, still gets better at answers.

        Raises:
            CheckpointError: the checkpoint belongs to another tokenizer or model.
        """
        self.run, self.config, self.dataset, self.lines = run, config, dataset, lines
        self.answers = answers
        self.watcher, self.sampler = watcher, sampler
        settings = config.training
        assert settings.steps is not None
        assert settings.batch_rows is not None
        assert settings.evaluate_every is not None
        self.steps, self.evaluate_every = settings.steps, settings.evaluate_every
        self.compute = Compute.of(settings.device, settings.dtype)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.model = initialized_model(config, self.compute)
        self.optimizer = Optimizer(self.model, config.optimizer)
        share = config.optimizer.average_share
        self.average = None if share is None else Average(self.model, share)
        self.stepper = Stepper(self.model, config, self.compute)
        self.loader = Loader(
            dataset.train, config.model.context, settings.batch_rows, config.data.seed, lines
        )
        self.position = self._restored()

    def train(self) -> Outcome:
        """Runs to the end of the budget, to the end of patience, or to a signal.

        Raises:
            TrainingError: a loss or gradient that is no number; the last checkpoint is kept.
            CheckpointError: a checkpoint could not be written; the last one is kept.
        """
        position, last = self.position, None
        began = time.monotonic() - position.elapsed_seconds
        saved_at = time.monotonic()
        with Interrupt() as interrupt:
            while position.step < self.steps and not self._patience_is_over():
                row = self._step()
                position.elapsed_seconds = time.monotonic() - began
                row["elapsed_seconds"] = round(position.elapsed_seconds, 3)
                due = position.step % self.evaluate_every == 0 or position.step == self.steps
                if due and self._evaluate(row):
                    last = row
                self._note(row)
                if due:
                    self._sample()
                signal = interrupt.requested
                if due or signal or self._is_stale(saved_at):
                    position.elapsed_seconds = time.monotonic() - began
                    self._save()
                    saved_at = time.monotonic()
                if signal:
                    return Outcome("stopped", signal, position, last)
        reason = "patience" if position.step < self.steps else "budget"
        return Outcome("finished", reason, position, last)

    def _restored(self) -> Position:
        newest = self.run.newest_checkpoint()
        self.run.rewind(newest)
        if newest is None:
            return Position()
        fingerprint = self.dataset.manifest.tokenizer.fingerprint
        return checkpoint.restore(newest, self.model, self.optimizer, self.average, fingerprint)

    def _save(self) -> None:
        fingerprint = self.dataset.manifest.tokenizer.fingerprint
        checkpoint.save(
            self.run, self.position, self.model, self.optimizer, self.average, fingerprint
        )

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """While it lasts, the model is what is saved: where asked for, the weights' average."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def _step(self) -> dict[str, Any]:
        """Does one step and returns its row of metrics."""
        started = time.perf_counter()
        number = self.position.step + 1
        inputs, targets = self.loader.batch(self.position.step)
        loss = self.stepper.gradients(inputs, targets, number)
        norm = float(self.optimizer.clip())
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(self._not_a_number(number, loss))
        factor = schedule.factor(self.config.schedule, number, self.steps)
        self.optimizer.step(number, factor)
        if self.average is not None:
            self.average.update(number)
        self.position.step = number
        self.position.tokens += inputs.size
        return {
            "step": number,
            "tokens": self.position.tokens,
            "elapsed_seconds": 0.0,
            "loss": loss,
            "learning_rate": self.config.optimizer.lr * factor,
            "gradient_norm": norm,
            "memory_bytes": self.compute.peak_memory_bytes(),
            "step_seconds": round(time.perf_counter() - started, 6),
        }

    def _not_a_number(self, step: int, loss: float) -> str:
        what = "loss" if not math.isfinite(loss) else "gradient"
        kept = self.run.checkpoints()
        last = f"the checkpoint of step {kept[0].step} is kept" if kept else "no checkpoint yet"
        return (
            f"the {what} of step {step} is not a finite number, so training cannot go on ({last}): "
            "start again with a lower --lr and --muon-lr"
        )

    def _evaluate(self, row: dict[str, Any]) -> bool:
        """Puts the validation loss in `row` and notes the best; False without a validation set."""
        position = self.position
        if self.dataset.valid.tokens < 2:
            return False
        with self._averaged():
            measured = self._measured(self.lines)
            row["valid_loss"] = judged = measured.loss
            row["perplexity"] = measured.perplexity
            row["bits_per_byte"] = measured.bits_per_byte
            if self.answers is not None:
                row["valid_answer_loss"] = judged = self._measured(self.answers).loss
        if position.best_loss is None or judged < position.best_loss:
            position.best_step, position.best_loss = position.step, judged
            position.evaluations_without_gain = 0
        else:
            position.evaluations_without_gain += 1
        return True

    def _measured(self, lines: LineRules | None) -> Evaluation:
        return evaluate(
            self.model,
            self.dataset.valid,
            self.dataset.manifest.valid.text_bytes,
            self.config.model.context,
            self.compute,
            stride=max(1, self.config.model.context // 2),
            max_tokens=self.config.training.evaluate_tokens,
            lines=lines,
        )

    def _note(self, row: Mapping[str, Any]) -> None:
        every = max(1, self.steps // MAX_ROWS)
        if self.position.step % every == 0 or "valid_loss" in row:
            self.run.append_metrics(row)
        self.watcher.step(row)

    def _sample(self) -> None:
        if self.sampler is None:
            return
        with self._averaged():
            text = self.sampler(self.model, self.position.step)
        self.model.train()
        self.run.append_sample(self.position.step, text)
        self.watcher.sample(self.position.step, text)

    def _is_stale(self, saved_at: float) -> bool:
        return time.monotonic() - saved_at > 60 * self.config.training.checkpoint_minutes

    def _patience_is_over(self) -> bool:
        patience = self.config.training.patience
        return patience is not None and self.position.evaluations_without_gain >= patience


def initialized_model(config: RunConfig, compute: Compute) -> GPT:
    """Returns the model of `config` as its seed draws it, ready to train on the device."""
    torch.manual_seed(config.training.seed)
    return GPT(config.model).to(compute.device).train()


class Stepper:
    """Forward and backward over one batch, in micro-batches where the settings say so."""

    def __init__(self, model: GPT, config: RunConfig, compute: Compute) -> None:
        settings = config.training
        self.compute, self.seed = compute, settings.seed
        self.has_noise = config.model.dropout > 0
        self.micro_batch_rows = settings.micro_batch_rows or settings.batch_rows or 1
        self.forward: Callable[..., Tensor] = model
        if settings.compile:
            self._compile(model, config.model.context)

    def _compile(self, model: GPT, context: int) -> None:
        """Compiles by a step on nothing, whose gradients are dropped; leaves it where that fails,
        mostly because there is no C++ compiler."""
        self.forward = torch.compile(model)
        nothing = np.zeros((self.micro_batch_rows, context), np.int64)
        try:
            self.gradients(nothing, nothing, 0)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            _log.warning("the model is not compiled, and trains as it is: %s", reason)
            self.forward = model
        for parameter in model.parameters():
            parameter.grad = None

    def gradients(self, inputs: Any, targets: Any, step: int) -> float:
        """Adds the gradients of the batch's mean loss to the parameters; returns that loss, in
        nats per target. `inputs` and `targets` are int64 arrays (rows, context)."""
        if self.has_noise:
            torch.manual_seed((self.seed << 32 | step) % 2**63)
        count = max(1, int((targets != IGNORED).sum()))
        losses = []
        for first in range(0, len(inputs), self.micro_batch_rows):
            rows = slice(first, first + self.micro_batch_rows)
            ids, goals = self.compute.tensor(inputs[rows]), self.compute.tensor(targets[rows])
            with self.compute.autocast():
                loss = self.forward(ids, goals, reduction="sum") / count
            loss.backward()
            losses.append(loss.detach())
        return float(torch.stack(losses).sum())

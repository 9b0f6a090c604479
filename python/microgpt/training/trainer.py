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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from microgpt.config import IGNORED, RunConfig
from microgpt.data.loader import Ahead, LineRules, Loader
from microgpt.data.shards import Dataset
from microgpt.device import Compute
from microgpt.errors import CheckpointError
from microgpt.model.fused import FusedPass, fits
from microgpt.model.gpt import GPT
from microgpt.model.weights import Entry
from microgpt.run_folder import Judgement, RunFolder
from microgpt.training import checkpoint, schedule, sharding
from microgpt.training.average import Average
from microgpt.training.checkpoint import Position
from microgpt.training.disk import DiskPatience
from microgpt.training.evaluate import Evaluation, evaluate
from microgpt.training.health import Checkup
from microgpt.training.interrupt import Interrupt
from microgpt.training.loss_scale import LEAST
from microgpt.training.optimizer import Optimizer
from microgpt.training.ranks import ALONE, Ranks, peers_told_of
from microgpt.training.recovery import WentWrong
from microgpt.training.sharding import Placement
from microgpt.training.threads import ThreadWatch

ALL = slice(None)
MAX_ROWS = 10_000
"""About so many rows of metrics are written in a run, however long."""
_log = logging.getLogger("microgpt")


class Watcher(Protocol):
    """Somebody who is told how training goes."""

    def step(self, row: Mapping[str, Any]) -> None:
        """A step was done; `row` is as in `metrics.jsonl`, with validation keys where measured."""

    def sample(self, step: int, text: str) -> None:
        """A sample was written."""

    def say(self, sentence: str) -> None:
        """Something happened that the user should know."""


class Silent:
    """A watcher who says nothing."""

    def step(self, row: Mapping[str, Any]) -> None:
        """Says nothing."""

    def sample(self, step: int, text: str) -> None:
        """Says nothing."""

    def say(self, sentence: str) -> None:
        """Says nothing."""


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
        ranks: Ranks = ALONE,
    ) -> None:
        """Builds the model and, where the run has a sound checkpoint, goes back to it.

        `config` is resolved: it names steps, batch, threads. `sampler` gives a text for a model and
        a seed. With `answers`, the best checkpoint is that with the lowest validation loss on what
        follows their marks: a model that begins to learn its questions by heart, which nobody asks
        of it, still gets better at answers. Of several processes (`ranks`) each gets the same
        arguments, and the first writes.

        Raises:
            UsageError: more processes than rows in a batch, or that cannot share the model.
            CheckpointError: the checkpoint belongs to another tokenizer or model.
        """
        self.run, self.config, self.dataset, self.lines = run, config, dataset, lines
        self.answers = answers
        self.watcher, self.sampler, self.ranks = watcher, sampler, ranks
        settings = config.training
        assert settings.steps is not None
        assert settings.batch_rows is not None
        assert settings.evaluate_every is not None
        self.steps, self.evaluate_every = settings.steps, settings.evaluate_every
        self.rows = ranks.rows(config)
        self.compute = Compute.of(ranks.device(settings.device), settings.dtype, settings.tf32)
        if settings.threads is not None:
            torch.set_num_threads(ranks.threads(settings.threads))
        self.model = initialized_model(config, self.compute)
        ranks.spread([[p.detach() for p in self.model.parameters()]])
        self.placement = sharding.place(self.model, ranks, self.compute.device)
        self.optimizer = Optimizer(self.model, config.optimizer, self.placement)
        self.average = self._new_average()
        self.stepper = Stepper(self.model, config, self.compute, self.placement)
        many = settings.threads or 1
        adapts = settings.adapt_threads and many > 1 and ranks.world == 1
        self.threads = ThreadWatch(many) if adapts else None
        self.loader = Loader(
            dataset.train, config.model.context, settings.batch_rows, config.data.seed, lines
        )
        # On a CPU a batch takes 0.2 % of a step; a device that computes meanwhile need not wait.
        on_cpu = self.compute.device.type == "cpu"
        self.batches = self.loader if on_cpu else Ahead(self.loader)
        self.position = self._restored()
        self._checkup = Checkup(config, self.loader, self.compute)
        self._disk = DiskPatience(settings.disk_minutes, watcher.say)
        self._began = time.monotonic() - self.position.elapsed_seconds
        self._saved_at = time.monotonic()
        self._last: Mapping[str, Any] | None = None

    def train(self) -> Outcome:
        """Runs to the end of the budget, to the end of patience, or to a signal.

        Raises:
            TrainingError: steps went wrong too often in a row; the last checkpoint is kept.
            CheckpointError: a checkpoint could not be written; the last one is kept.
        """
        with Interrupt() as interrupt, peers_told_of():
            self._disk.interrupted = lambda: interrupt.requested
            while self.position.step < self.steps and not self._patience_is_over():
                try:
                    stop = self._advance(interrupt)
                except WentWrong as fault:
                    stop = self._roll_back(fault)
                if stop:
                    reason = interrupt.requested or "a signal to another process"
                    return Outcome("stopped", reason, self.position, self._last)
        reason = "patience" if self.position.step < self.steps else "budget"
        return Outcome("finished", reason, self.position, self._last)

    def _advance(self, interrupt: Interrupt) -> bool:
        """Does one step, and what is due after it; returns whether somebody asked to stop."""
        self._check_before(self.position.step + 1)
        row = self._step()
        row["elapsed_seconds"] = round(self._elapsed(), 3)
        self._check(row)
        due = self.position.step % self.evaluate_every == 0 or self.position.step == self.steps
        if due:
            self._require_sound_weights()
        if due and self._evaluate(row):
            self._last = row
        self._note(row)
        self._adapt_threads(row)
        if due:
            self._sample()
        stop = self.ranks.any(interrupt.requested)
        if due or stop or self.ranks.any(self._is_stale()):
            self._save()
        return stop

    def _elapsed(self) -> float:
        return time.monotonic() - self._began - self._disk.waited

    def _restored(self) -> Position:
        """Brings run and model to the newest sound checkpoint, which the first process chooses."""
        newest = self.run.newest_checkpoint() if self.ranks.is_first else None
        if self.ranks.is_first:
            self.run.rewind(newest)
        step = self.ranks.from_first(lambda: newest.step if newest else 0)
        if step == 0:
            return Position()
        if newest is None:
            newest = self.run.checkpoint_of(step)
        fingerprint = self.dataset.manifest.tokenizer.fingerprint
        return checkpoint.restore(newest, self.optimizer, self.average, fingerprint)

    def _roll_back(self, fault: WentWrong) -> bool:
        """Goes back to the newest checkpoint, or the start, and leaves out what went wrong."""
        newest = self.run.newest_checkpoint() if self.ranks.is_first else None
        back_to = self.ranks.from_first(lambda: newest.step if newest else 0)
        most = self.config.training.rollbacks
        recovery = self.position.recovery.after(fault, back_to, most)
        self.optimizer.forget()
        if back_to == 0:
            self._begin_anew()
        self.position = self._restored()
        self.position.recovery = replace(recovery, recent=self.position.recovery.recent)
        self.watcher.say(recovery.events[-1])
        self._note_facts(rollbacks=list(recovery.events))
        return False

    @torch.no_grad()
    def _begin_anew(self) -> None:
        """Brings everything to where it was before the first step."""
        first = initialized_model(self.config, self.compute)
        self.ranks.spread([[p.detach() for p in first.parameters()]])
        for name, p in first.named_parameters():
            self.placement.here[name].copy_(self.placement.cut(name, p.detach()))
        self.optimizer = Optimizer(self.model, self.config.optimizer, self.placement)
        self.average = self._new_average()

    def _require_sound_weights(self) -> None:
        """Does nothing where the weights are ones to go back to.

        Raises:
            WentWrong: one is no finite number.
        """
        if not self.placement.is_sound():
            step = self.position.step
            raise WentWrong(step, f"a weight after step {step} is not a finite number")

    def _save(self) -> None:
        self._require_sound_weights()
        step = self.position.step
        self.position.elapsed_seconds = self._elapsed()
        contents = checkpoint.contents(self.placement, self.optimizer, self.average)
        if self.ranks.is_first:
            try:
                self._disk(f"the checkpoint of step {step}", lambda: self._save_from_all(contents))
            finally:
                self.ranks.from_first(lambda: 0)
        else:
            while self.ranks.from_first(lambda: 0):
                _give(contents, 0)
        self._saved_at = time.monotonic()

    def _save_from_all(self, contents: checkpoint.Contents) -> None:
        """Tries to write a checkpoint; the others send their parts, also where it fails."""
        self.ranks.from_first(lambda: 1)
        asked = 0

        def counted(entry: Entry) -> Entry:
            def value() -> Tensor:
                nonlocal asked
                asked += 1
                return entry.value()

            return entry._replace(value=value)

        try:
            checkpoint.save(
                self.run,
                self.position,
                {file: [counted(entry) for entry in entries] for file, entries in contents.items()},
                self.dataset.manifest.tokenizer.fingerprint,
                self.config.training.keep_checkpoints,
            )
        except (OSError, CheckpointError):
            _give(contents, asked)
            raise

    def _write(self, what: str, write: Callable[[], Any]) -> None:
        """Writes in the run's folder, where this process is the one to."""
        if self.ranks.is_first:
            self._disk(what, write)

    def _note_facts(self, **facts: Any) -> None:
        self._write("run.json", lambda: self.run.update_facts(**facts))

    def _seen(self) -> GPT | None:
        """Returns the model for the first process to look at, None for the others."""
        model = self.placement.seen(self.placement.here)
        return model if self.ranks.is_first else None

    def _check_before(self, step: int) -> None:
        """Reports what the checkup finds wrong before a step, where it looks."""
        if self._checkup.is_due_before(step) and (model := self._seen()) is not None:
            self._report(self._checkup.before(step, model))

    def _check(self, row: Mapping[str, Any]) -> None:
        """Reports what the checkup finds wrong, in the few steps where it looks."""
        step = row["step"]
        if not self._checkup.is_due(step) or not math.isfinite(row["loss"]):
            return
        if (model := self._seen()) is None:
            return
        losses = self.position.recovery.recent[-10:]
        recent = math.fsum(losses) / len(losses)
        self._report(self._checkup.after(step, row["loss"], recent, model))
        known = self.run.read_facts().get("signs", {})
        self._note_facts(signs={**known, **self._checkup.signs})

    def _report(self, findings: list[str]) -> None:
        if not findings:
            return
        known = self.run.read_facts().get("findings", [])
        new = [finding for finding in findings if finding not in known]
        for finding in new:
            self.watcher.say(f"not healthy: {finding}")
        self._note_facts(findings=[*known, *new])

    def _new_average(self) -> Average | None:
        share = self.config.optimizer.average_share
        return None if share is None else Average(self.placement.here, share)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """While it lasts, the model is what is saved: where asked for, the weights' average."""
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            try:
                yield
            finally:
                self.placement.settle()

    def _step(self) -> dict[str, Any]:
        """Does one step, or passes over one that went wrong; returns its row of metrics.

        Raises:
            WentWrong: the loss or the gradient is not to be learnt from.
        """
        started = time.perf_counter()
        number = self.position.step + 1
        factor = schedule.factor(self.config.schedule, number, self.steps)
        factor *= self.position.recovery.rate
        loss = norm = math.nan
        if number not in self.position.recovery.skipped:
            inputs, targets = self.batches.batch(self.position.step)
            scale = self.position.loss_scale if self.stepper.is_scaled else None
            factors = () if scale is None else (scale.factor,)
            loss = self.stepper.gradients(inputs, targets, number, self.rows, *factors)
            (loss,) = self.ranks.summed([loss if self.ranks.counts else 0.0])
            self.placement.collect()
            norm = float(self.optimizer.clip(*factors))
            spike = self.config.training.spike_nats
            overflows = scale is not None and scale.factor > LEAST and not math.isfinite(norm)
            self.position.recovery.require_sound(number, loss, 0.0 if overflows else norm, spike)
            if scale is not None:
                self.position.loss_scale = scale.after(not overflows)
            if overflows:
                self.optimizer.forget()
            else:
                self.optimizer.step(number, factor)
            if self.average is not None:
                self.average.update(number)
            self.position.tokens += inputs.size
            self.position.recovery = self.position.recovery.with_loss(number, loss)
        self.position.step = number
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

    def _evaluate(self, row: dict[str, Any]) -> bool:
        """Puts the validation loss in `row` and notes the best; False without a validation set."""
        position = self.position
        if self.dataset.valid.tokens < 2:
            return False
        with self._averaged():
            measured = self._measured(self.lines)
            if measured.tokens and not math.isfinite(measured.loss):
                step = position.step
                raise WentWrong(step, f"the validation loss of step {step} is not a finite number")
            row["valid_loss"] = measured.loss
            row["perplexity"] = measured.perplexity
            row["bits_per_byte"] = measured.bits_per_byte
            if self.answers is not None:
                answers = self._measured(self.answers)
                if answers.answers:  # else all text must do
                    row["valid_answer_loss"] = answers.loss
                    row["valid_answers_right"] = answers.right / answers.answers
        best, judged = position.best, Judgement.of(row)
        gains = best is None or judged.gains_on(best)
        position.evaluations_without_gain = 0 if gains else position.evaluations_without_gain + 1
        if best is None or judged.replaces(best):
            position.best = judged
        return True

    def _measured(self, lines: LineRules | None) -> Evaluation:
        fused = self.stepper.fused
        return evaluate(
            self.model,
            self.dataset.valid,
            self.dataset.manifest.valid.text_bytes,
            self.config.model.context,
            self.compute,
            stride=max(1, self.config.model.context // 2),
            max_tokens=self.config.training.evaluate_tokens,
            lines=lines,
            ranks=self.ranks,
            rows=None if fused is None else self.stepper.micro_batch_rows,
            forward=None if fused is None else fused.forward,
        )

    def _note(self, row: Mapping[str, Any]) -> None:
        every = max(1, self.steps // MAX_ROWS)
        if self.position.step % every == 0 or "valid_loss" in row:
            self._write("a row of metrics", lambda: self.run.append_metrics(row))
        self.watcher.step(row)

    def _sample(self) -> None:
        with self._averaged():
            model = self._seen()
            if model is None or self.sampler is None:
                return
            text = self.sampler(model, self.position.step)
        self.model.train()
        self._write("a sample", lambda: self.run.append_sample(self.position.step, text))
        self.watcher.sample(self.position.step, text)

    def _adapt_threads(self, row: Mapping[str, Any]) -> None:
        threads = self.threads.after(row["step_seconds"]) if self.threads else None
        if threads is not None:
            torch.set_num_threads(threads)
            _log.info("step %d: going on with %d threads", row["step"], threads)

    def _is_stale(self) -> bool:
        return time.monotonic() - self._saved_at > 60 * self.config.training.checkpoint_minutes

    def _patience_is_over(self) -> bool:
        patience = self.config.training.patience
        return patience is not None and self.position.evaluations_without_gain >= patience


def _give(contents: checkpoint.Contents, given: int) -> None:
    """Takes part in gathering the contents of a checkpoint, but for the first so many tensors."""
    for entry in [entry for entries in contents.values() for entry in entries][given:]:
        entry.value()


def initialized_model(config: RunConfig, compute: Compute) -> GPT:
    """Returns the model of `config` as its seed draws it, ready to train on the device."""
    torch.manual_seed(config.training.seed)
    model = GPT(config.model).to(compute.device).train()
    model.recompute_activations = config.training.recompute_activations
    return model


class Stepper:
    """Forward and backward over one batch, in micro-batches where the settings say so."""

    def __init__(
        self,
        model: GPT,
        config: RunConfig,
        compute: Compute,
        placement: Placement | None = None,
    ) -> None:
        settings = config.training
        self.compute, self.seed = compute, settings.seed
        is_split = placement is not None and placement.is_split
        self.shares = placement.ranks.data_world if placement is not None and is_split else 1
        """FSDP averages gradients over so many processes, where sums are wanted."""
        self.is_scaled = compute.dtype == "float16"
        """Whether gradients need a factor, lest small ones become zero."""
        self.has_noise = config.model.dropout > 0
        self.micro_batch_rows = settings.micro_batch_rows or settings.batch_rows or 1
        self.forward: Callable[..., Tensor] = model
        self.fused: FusedPass | None = None
        is_compiled = settings.compile and self._compile(model, config.model.context)
        if (
            not is_compiled
            and fits(config.model, self.compute.device, self.compute.dtype)
            and not settings.recompute_activations
            and not is_split
        ):
            self.fused = FusedPass(model, getattr(torch, self.compute.dtype))

    def _compile(self, model: GPT, context: int) -> bool:
        """Compiles by a step on nothing, whose gradients are dropped, and says whether that went
        well: mostly it fails because there is no C++ compiler."""
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
        return self.forward is not model

    def gradients(
        self, inputs: Any, targets: Any, step: int, share: slice = ALL, factor: float = 1.0
    ) -> float:
        """Adds the gradients of `factor` times the batch's mean loss to the parameters; returns
        that loss, in nats per target. `inputs` and `targets` are int64 arrays (rows, context). Of
        a `share` of the rows it is that share of the gradients and of the loss."""
        if self.has_noise:
            torch.manual_seed(((self.seed << 32 | step) + ((share.start or 0) << 48)) % 2**63)
        count = max(1, int((targets != IGNORED).sum()))
        losses = []
        inputs, targets = inputs[share], targets[share]
        for first in range(0, len(inputs), self.micro_batch_rows):
            rows = slice(first, first + self.micro_batch_rows)
            ids, goals = self.compute.tensor(inputs[rows]), self.compute.tensor(targets[rows])
            if self.fused is not None:
                losses.append(torch.tensor(self.fused.gradients(ids, goals, 1 / count)))
                continue
            with self.compute.autocast():
                loss = self.forward(ids, goals, reduction="sum") / count
            (loss * (self.shares * factor)).backward()
            losses.append(loss.detach())
        return float(torch.stack(losses).sum())

"""Training lowers the loss, and stopping, failing and going on lose nothing."""

import errno
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from microgpt import run_folder
from microgpt.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)
from microgpt.data.shards import Dataset
from microgpt.errors import CheckpointError, TrainingError
from microgpt.run_folder import RunFolder
from microgpt.training import checkpoint, disk, recovery, schedule
from microgpt.training.evaluate import Evaluation
from microgpt.training.trainer import Outcome, Stepper, Trainer
from reference.dataset_folder import write_dataset_folder

CLOCKS = ("elapsed_seconds", "step_seconds", "memory_bytes")
CONFIG = RunConfig(
    model=ModelConfig(vocab_size=256, context=16, n_layer=2, n_head=2, n_embd=32, dropout=0.1),
    data=DataConfig(seed=3),
    schedule=ScheduleConfig(warmup_steps=2),
    training=TrainingConfig(
        batch_rows=4, steps=12, evaluate_every=4, evaluate_tokens=64, device="cpu", threads=1
    ),
)


class Watch:
    """Does something when a step has been done."""

    def __init__(self, at: int | None = None, act=None) -> None:
        self.at, self.act = at, act
        self.rows: list[dict] = []
        self.said: list[str] = []

    def step(self, row) -> None:
        self.rows.append(dict(row))
        if row["step"] == self.at:
            self.act()

    def sample(self, step, text) -> None:
        pass

    def say(self, sentence) -> None:
        self.said.append(sentence)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    text = b"".join(b"%d + %d = %d;\n" % (a, b, a + b) for a in range(12) for b in range(12))
    return Dataset.open(write_dataset_folder(tmp_path / "sums", list(text), list(text[:300])))


def sampler(model, step: int) -> str:
    return f"{step}: {next(model.parameters()).sum().item():.6f}"


def train(tmp_path: Path, dataset: Dataset, name: str, config=CONFIG, watch=None) -> Outcome:
    path = tmp_path / "runs" / name
    run = RunFolder(path) if path.exists() else RunFolder.create(tmp_path / "runs", name)
    return Trainer(run, config, dataset, watch or Watch(), sampler).train()


def record(tmp_path: Path, name: str) -> dict:
    """All that a run left, without what clocks and memory say."""
    run = RunFolder(tmp_path / "runs" / name)
    rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in run.read_metrics()]
    files = {}
    for path in sorted(run.checkpoints_path.glob("*/*")):
        name = f"{path.parent.name}/{path.name}"
        if path.suffix == ".json":
            state = json.loads(path.read_text())
            files[name] = {
                k: v for k, v in state.items() if k not in ("elapsed_seconds", "metrics_bytes")
            }
        else:
            files[name] = path.read_bytes()
    return {"rows": rows, "samples": run.samples_path.read_text(), "files": files}


def test_training_lowers_the_loss_and_measures_as_it_goes(tmp_path, dataset):
    config = replace(CONFIG, training=replace(CONFIG.training, steps=60, evaluate_every=20))
    outcome = train(tmp_path, dataset, "run", config)
    rows = RunFolder(tmp_path / "runs" / "run").read_metrics()
    assert outcome.status == "finished"
    assert rows[0]["loss"] == pytest.approx(math.log(256), abs=0.15)
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    measured = [row["step"] for row in rows if "valid_loss" in row]
    assert measured == [20, 40, 60]
    last = rows[-1]
    assert last["perplexity"] == pytest.approx(math.exp(last["valid_loss"]))
    assert last["bits_per_byte"] == pytest.approx(last["valid_loss"] / math.log(2))
    assert last["tokens"] == 60 * 4 * 16


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stop_at", [1, 4, 6, 11])
def test_a_stopped_and_resumed_run_equals_an_unbroken_one(tmp_path, dataset, stop_at, optimizer):
    config = replace(CONFIG, optimizer=OptimizerConfig(name=optimizer))
    train(tmp_path, dataset, "whole", config)
    watch = Watch(stop_at, lambda: signal.raise_signal(signal.SIGTERM))
    outcome = train(tmp_path, dataset, "broken", config, watch)
    assert (outcome.status, outcome.position.step) == ("stopped", stop_at)
    assert train(tmp_path, dataset, "broken", config).status == "finished"
    whole, broken = record(tmp_path, "whole"), record(tmp_path, "broken")
    last = "step-00000012"
    assert whole["rows"] == broken["rows"]
    assert whole["samples"] == broken["samples"]
    for name in (
        f"{last}/model.safetensors",
        f"{last}/optimizer.safetensors",
        f"{last}/state.json",
    ):
        assert whole["files"][name] == broken["files"][name]


@pytest.mark.parametrize("die_at", [2, 4, 9])
def test_a_run_that_dies_between_checkpoints_goes_on_from_the_last(tmp_path, dataset, die_at):
    class Death(BaseException):
        pass

    def die() -> None:
        raise Death

    train(tmp_path, dataset, "whole")
    with pytest.raises(Death):
        train(tmp_path, dataset, "broken", watch=Watch(die_at, die))
    train(tmp_path, dataset, "broken")
    assert record(tmp_path, "whole") == record(tmp_path, "broken")


def test_a_torn_newest_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path, dataset):
    train(tmp_path, dataset, "whole")
    train(tmp_path, dataset, "torn")
    folder = tmp_path / "runs" / "torn" / "checkpoints" / "step-00000012"
    os.truncate(folder / "optimizer.safetensors", 1000)
    watch = Watch()
    train(tmp_path, dataset, "torn", watch=watch)
    assert [row["step"] for row in watch.rows] == [9, 10, 11, 12]
    assert record(tmp_path, "whole") == record(tmp_path, "torn")


def test_accumulated_micro_batches_give_the_gradient_of_the_batch(tmp_path, dataset):
    config = replace(CONFIG, model=replace(CONFIG.model, dropout=0.0))
    split = replace(config, training=replace(config.training, micro_batch_rows=1))
    train(tmp_path, dataset, "whole", config)
    train(tmp_path, dataset, "split", split)
    for one, two in zip(
        *(RunFolder(tmp_path / "runs" / n).read_metrics() for n in ("whole", "split")), strict=True
    ):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        assert one["gradient_norm"] == pytest.approx(two["gradient_norm"], rel=1e-3)


def faulty(monkeypatch, faults: dict[int, list[float]]) -> None:
    """Makes the batches of these steps give these losses, one each time they are tried; the last
    for good."""
    honest = Stepper.gradients

    def gradients(self, inputs, targets, step, *share):
        loss = honest(self, inputs, targets, step, *share)
        if step not in faults:
            return loss
        values = faults[step]
        return values.pop(0) if len(values) > 1 else values[0]

    monkeypatch.setattr(Stepper, "gradients", gradients)


def test_a_loss_that_is_no_number_goes_back_and_leaves_the_batch_out(
    tmp_path, dataset, monkeypatch
):
    faulty(monkeypatch, {7: [math.nan]})
    watch = Watch()
    outcome = train(tmp_path, dataset, "run", watch=watch)
    run = RunFolder(tmp_path / "runs" / "run")
    said = "the loss of step 7 is not a finite number: back to step 4, without that batch (try 1 of"
    assert outcome.status == "finished"
    assert said in watch.said[0]
    assert run.read_facts()["rollbacks"] == watch.said
    assert [row["step"] for row in watch.rows] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10, 11, 12]
    rows = run.read_metrics()
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert (rows[6]["loss"], rows[6]["tokens"]) == (None, rows[5]["tokens"])
    assert outcome.position.recovery.skipped == (7,)
    assert outcome.position.recovery.rate == 1.0


def test_a_spike_goes_back_too(tmp_path, dataset, monkeypatch):
    faulty(monkeypatch, {30: [40.0]})
    config = replace(CONFIG, training=replace(CONFIG.training, steps=40))
    watch = Watch()
    outcome = train(tmp_path, dataset, "run", config, watch)
    assert "the loss of step 30 leaps from" in watch.said[0]
    assert "back to step 28" in watch.said[0]
    assert outcome.position.recovery.skipped == (30,)
    off = replace(config, training=replace(config.training, spike_nats=None))
    assert train(tmp_path, dataset, "off", off).position.recovery.skipped == ()


def test_the_second_try_in_a_row_lowers_the_rate_and_the_last_gives_up(
    tmp_path, dataset, monkeypatch
):
    monkeypatch.setattr(recovery, "SETTLED", 2)
    faulty(monkeypatch, {5: [math.nan], 6: [math.nan], 7: [math.nan], 10: [math.nan]})
    outcome = train(tmp_path, dataset, "run")
    learnt = outcome.position.recovery
    assert (learnt.skipped, learnt.rate, learnt.tries) == ((5, 6, 7, 10), 0.25, 1)
    rows = RunFolder(tmp_path / "runs" / "run").read_metrics()
    assert rows[7]["learning_rate"] == pytest.approx(
        0.25 * CONFIG.optimizer.lr * schedule.factor(CONFIG.schedule, 8, 12)
    )
    faulty(monkeypatch, {step: [math.nan] for step in range(5, 9)})
    with pytest.raises(TrainingError, match=r"step 8 .* after 3 roll-backs.*checkpoint of step 4"):
        train(tmp_path, dataset, "hopeless")
    newest = RunFolder(tmp_path / "runs" / "hopeless").newest_checkpoint()
    assert newest is not None
    assert newest.step == 4


def test_without_a_checkpoint_it_begins_anew(tmp_path, dataset, monkeypatch):
    watch = Watch()
    faulty(monkeypatch, {3: [math.inf]})
    train(tmp_path, dataset, "run", watch=watch)
    assert "back to step 0" in watch.said[0]
    first, again = watch.rows[0], watch.rows[2]
    assert (first["step"], again["step"]) == (1, 1)
    assert first["loss"] == again["loss"]


def test_weights_that_are_no_numbers_are_never_saved(tmp_path, dataset):
    run = RunFolder.create(tmp_path / "runs", "run")
    trainer: list[Trainer] = []
    poisoned = []

    def poison() -> None:
        if not poisoned:
            poisoned.append(True)
            with torch.no_grad():
                trainer[0].model.head.weight.fill_(float("nan"))

    config = replace(CONFIG, training=replace(CONFIG.training, evaluate_every=4))
    trainer.append(Trainer(run, config, dataset, Watch(8, poison)))
    outcome = trainer[0].train()
    assert outcome.position.recovery.skipped == (8,)
    assert all(torch.isfinite(p).all() for p in trainer[0].model.parameters())


@pytest.mark.parametrize("die_at", [8, 9, 11])
def test_a_run_that_dies_after_a_roll_back_ends_in_the_same_bits(
    tmp_path, dataset, monkeypatch, die_at
):
    class Death(BaseException):
        pass

    def die() -> None:
        raise Death

    faulty(monkeypatch, {6: [math.nan], 7: [math.nan], 10: [math.nan]})
    train(tmp_path, dataset, "whole")
    with pytest.raises(Death):
        train(tmp_path, dataset, "broken", watch=Watch(die_at, die))
    train(tmp_path, dataset, "broken")
    assert record(tmp_path, "whole") == record(tmp_path, "broken")
    facts = [RunFolder(tmp_path / "runs" / n).read_facts() for n in ("whole", "broken")]
    assert facts[0]["rollbacks"] == facts[1]["rollbacks"]


def test_a_full_disk_pauses_the_run_until_there_is_room(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(disk, "RETRY_SECONDS", 0.01)
    train(tmp_path, dataset, "whole")
    refused = []
    written = {checkpoint: "write_tensors", run_folder: "_append"}
    for module, name in written.items():
        honest = getattr(module, name)

        def write(*arguments, honest=honest) -> None:
            if arguments[0].name == checkpoint.OPTIMIZER_FILE:
                return honest(*arguments)
            if len(refused) % 3 != 2:
                refused.append(arguments)
                raise OSError(errno.ENOSPC, "No space left on device")
            refused.append(None)
            return honest(*arguments)

        monkeypatch.setattr(module, name, write)
    watch = Watch()
    train(tmp_path, dataset, "run", watch=watch)
    assert "the disk is full: no room for" in watch.said[0]
    assert "there is room on the disk again" in watch.said[1]
    assert record(tmp_path, "whole") == record(tmp_path, "run")


def test_ctrl_c_leaves_a_run_that_waits_for_room(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(disk, "RETRY_SECONDS", 5.0)

    def full(path, entries) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Leaving(Watch):
        def say(self, sentence) -> None:
            super().say(sentence)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(CheckpointError, match="No space left"):
        train(tmp_path, dataset, "run", watch=Leaving())


def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, dataset, monkeypatch):
    def full(path, entries) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    train(tmp_path, dataset, "whole")
    monkeypatch.setattr(checkpoint, "write_tensors", full)
    impatient = replace(CONFIG, training=replace(CONFIG.training, disk_minutes=0.0))
    with pytest.raises(CheckpointError, match=r"step 4 .*No space left on device; there is none"):
        train(tmp_path, dataset, "run", impatient)
    monkeypatch.undo()
    train(tmp_path, dataset, "run")
    assert record(tmp_path, "whole") == record(tmp_path, "run")


def test_patience_ends_a_run_that_gains_no_more(tmp_path, dataset):
    training = replace(CONFIG.training, steps=200, evaluate_every=1, patience=3)
    frozen = OptimizerConfig(lr=1e-12, muon_lr=1e-12)
    outcome = train(tmp_path, dataset, "run", replace(CONFIG, training=training, optimizer=frozen))
    assert outcome.reason == "patience"
    assert outcome.position.evaluations_without_gain == 3
    assert outcome.position.step < 200


def test_the_best_checkpoint_outlives_the_thinning(tmp_path, dataset, monkeypatch):
    losses = iter([5.0, 4.0, 3.0, *[3.5] * 9])
    monkeypatch.setattr(
        "microgpt.training.trainer.evaluate", lambda *_, **__: Evaluation(next(losses), 9, 1.0)
    )
    train(
        tmp_path,
        dataset,
        "run",
        replace(CONFIG, training=replace(CONFIG.training, evaluate_every=1)),
    )
    run = RunFolder(tmp_path / "runs" / "run")
    assert [c.step for c in run.checkpoints()] == [12, 11, 3]
    best = run.best_checkpoint()
    assert best is not None
    assert best.step == 3


def test_a_dataset_of_another_tokenizer_is_refused(tmp_path, dataset):
    train(tmp_path, dataset, "run")
    manifest = json.loads((dataset.folder / "manifest.json").read_text())
    manifest["tokenizer"]["fingerprint"] = "f" * 64
    (dataset.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        train(tmp_path, Dataset.open(dataset.folder), "run")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, dataset):
    train(tmp_path, dataset, "run")
    wide = replace(CONFIG, model=replace(CONFIG.model, n_embd=64))
    with pytest.raises(CheckpointError, match="another model"):
        train(tmp_path, dataset, "run", wide)


def test_without_a_validation_set_checkpoints_are_written_all_the_same(tmp_path):
    folder = write_dataset_folder(tmp_path / "all", list(b"abcdefgh" * 40), [])
    outcome = train(tmp_path, Dataset.open(folder), "run")
    run = RunFolder(tmp_path / "runs" / "run")
    assert outcome.last is None
    assert [c.step for c in run.checkpoints()] == [12, 8]
    assert not any("valid_loss" in row for row in run.read_metrics())


def test_a_model_that_cannot_be_compiled_trains_as_it_is(tmp_path, dataset, monkeypatch, caplog):
    def refuse(model):
        def forward(*_, **__):
            raise RuntimeError("no C++ compiler found\nand a long explanation")

        return forward

    train(tmp_path, dataset, "plain")
    monkeypatch.setattr(torch, "compile", refuse)
    config = replace(CONFIG, training=replace(CONFIG.training, compile=True))
    train(tmp_path, dataset, "asked", config)
    assert "trains as it is: no C++ compiler found" in caplog.text
    assert "long explanation" not in caplog.text
    assert record(tmp_path, "asked") == record(tmp_path, "plain")


@pytest.mark.skipif(os.name == "nt", reason="the compiler is looked for by another variable")
def test_without_a_compiler_a_compiled_run_says_so_in_a_line_and_trains(
    tmp_path, dataset, monkeypatch, caplog
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, str(tmp_path / "no-such-compiler")))
    config = replace(CONFIG, training=replace(CONFIG.training, compile=True))
    assert train(tmp_path, dataset, "asked", config).status == "finished"
    (line,) = [r.getMessage() for r in caplog.records if "trains as it is" in r.getMessage()]
    assert "compiler" in line
    assert "\n" not in line

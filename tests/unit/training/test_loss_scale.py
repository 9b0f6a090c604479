"""float16 with a scaled loss: the factor finds its place, and a resumed run repeats its bits."""

import signal
from dataclasses import replace

import pytest

from microgpt.run_folder import RunFolder
from microgpt.training import loss_scale
from microgpt.training.loss_scale import LossScale
from microgpt.training.trainer import Trainer
from unit.training.test_trainer import CONFIG, Watch, dataset, record, sampler

__all__ = ["dataset"]

HALF = replace(CONFIG, training=replace(CONFIG.training, dtype="float16"))


def train(tmp_path, dataset, name, config=HALF, watch=None):
    path = tmp_path / "runs" / name
    run = RunFolder(path) if path.exists() else RunFolder.create(tmp_path / "runs", name)
    trainer = Trainer(run, config, dataset, watch or Watch(), sampler)
    if trainer.position.step == 0:
        trainer.position.loss_scale = LossScale(2.0**45)
    return trainer.train()


def test_the_factor_halves_at_once_and_doubles_after_many_good_steps(monkeypatch):
    monkeypatch.setattr(loss_scale, "PATIENCE", 3)
    scale = LossScale(8.0)
    assert scale.after(False) == LossScale(4.0)
    assert scale.after(True).after(True) == LossScale(8.0, 2)
    assert scale.after(True).after(True).after(True) == LossScale(16.0)
    assert scale.after(True).after(False) == LossScale(4.0)
    assert LossScale(1.0).after(False) == LossScale(1.0)


def test_gradients_that_overflow_lower_the_factor_and_cost_their_batch_alone(tmp_path, dataset):
    longer = replace(HALF, training=replace(HALF.training, steps=60, evaluate_every=20))
    watch = Watch()
    outcome = train(tmp_path, dataset, "half", longer, watch)
    assert outcome.position.recovery.skipped == ()
    assert watch.said == []
    scale = outcome.position.loss_scale
    assert 1 < scale.factor < 2.0**45
    assert 20 < scale.good_steps < 60
    exact = replace(longer, training=replace(longer.training, dtype="float32"))
    full = Watch()
    train(tmp_path, dataset, "full", exact, full)
    assert watch.rows[0]["loss"] == pytest.approx(full.rows[0]["loss"], rel=1e-3)
    assert watch.rows[-1]["loss"] < 0.7 * watch.rows[0]["loss"]


@pytest.mark.parametrize("stop_at", [1, 6])
def test_a_stopped_and_resumed_run_in_float16_equals_an_unbroken_one(tmp_path, dataset, stop_at):
    train(tmp_path, dataset, "whole")
    watch = Watch(stop_at, lambda: signal.raise_signal(signal.SIGTERM))
    assert train(tmp_path, dataset, "broken", watch=watch).status == "stopped"
    train(tmp_path, dataset, "broken")
    whole, broken = record(tmp_path, "whole"), record(tmp_path, "broken")
    assert whole["rows"] == broken["rows"]
    last = [name for name in whole["files"] if name.startswith("step-00000012")]
    assert len(last) == 3
    assert all(whole["files"][name] == broken["files"][name] for name in last)

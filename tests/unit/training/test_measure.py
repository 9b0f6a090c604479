"""Threads are chosen by what they bring, and a step's time is measured without a trace."""

from dataclasses import replace

import pytest
import torch

from microgpt.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from microgpt.device import Compute
from microgpt.training import measure


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(threads: int | None = None) -> RunConfig:
    model = ModelConfig(context=8, n_layer=1, n_head=1, n_embd=8)
    return RunConfig(
        model=model, training=TrainingConfig(batch_rows=2, device="cpu", threads=threads)
    )


@pytest.mark.parametrize(("with_all", "chosen"), [(0.5, 4), (0.89, 4), (0.95, 1), (15.0, 1)])
def test_all_cores_are_used_where_they_win_by_a_tenth(monkeypatch, with_all, chosen):
    monkeypatch.setattr(measure, "cores", lambda: 4)
    monkeypatch.setattr(
        measure, "step_seconds", lambda *_: {1: 1.0, 4: with_all}[torch.get_num_threads()]
    )
    assert measure.measured_threads(config()) == (chosen, 1.0 if chosen == 1 else with_all)
    assert torch.get_num_threads() == chosen


def test_threads_that_were_given_are_kept(monkeypatch):
    monkeypatch.setattr(measure, "step_seconds", lambda *_: float(torch.get_num_threads()))
    assert measure.measured_threads(config(threads=3)) == (3, 3.0)


@pytest.mark.parametrize(
    ("fast", "fused", "low", "chosen"),
    [
        (True, True, 0.5, ("bfloat16", 0.5)),
        (True, True, 0.95, ("float32", 1.0)),
        (True, False, 0.5, ("float32", 1.0)),
        (False, True, 0.5, ("float32", 1.0)),
    ],
)
def test_bfloat16_is_used_where_it_is_quicker(monkeypatch, fast, fused, low, chosen):
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda _: fast)
    monkeypatch.setattr(measure, "fits", lambda *_: fused)
    monkeypatch.setattr(
        measure, "step_seconds", lambda _, compute: low if compute.dtype == "bfloat16" else 1.0
    )
    assert measure.measured_dtype(config(), 1.0) == chosen


def test_an_evaluation_takes_time_by_the_tokens_it_measures(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(measure, "evaluation_rows", lambda *_: 4)
    few = measure.evaluation_seconds(config(), 64)
    assert few == 64 / 4 / 4  # windows of 8 that overlap by half, 4 at once, a second each time
    limited = replace(config(), training=replace(config().training, evaluate_tokens=32))
    assert measure.evaluation_seconds(limited, 64) == few / 2
    judged = replace(config(), data=DataConfig(answers_after="="))
    assert measure.evaluation_seconds(judged, 64) == 2 * few
    assert measure.evaluation_seconds(config(), 0) == 0


def test_a_step_takes_time_and_the_measurement_ends_early_where_steps_are_long(monkeypatch):
    steps = []
    gradients = measure.Stepper.gradients

    def counted(self, inputs, targets, step):
        steps.append(step)
        return gradients(self, inputs, targets, step)

    monkeypatch.setattr(measure.Stepper, "gradients", counted)
    compute = Compute(torch.device("cpu"))
    monkeypatch.setattr(measure, "MAX_SECONDS", 1e9)
    assert measure.step_seconds(config(), compute) > 0
    assert len(steps) == measure.STEPS + 1
    monkeypatch.setattr(measure, "MAX_SECONDS", 0.0)
    assert measure.step_seconds(config(), compute) > 0
    assert len(steps) == measure.STEPS + 2

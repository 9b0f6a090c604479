"""The learning rate's values at the corners of each shape."""

import pytest

from microgpt.config import ScheduleConfig
from microgpt.training.schedule import factor, resolve


def test_wsd_rises_stays_and_falls_in_a_line():
    config = ScheduleConfig(warmup_steps=10, decay_steps=40, final=0.1)
    values = {step: factor(config, step, 100) for step in range(1, 101)}
    assert values[1] == pytest.approx(0.1)
    assert values[10] == values[11] == values[60] == 1.0
    assert values[80] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle_and_stays_at_the_end():
    config = ScheduleConfig(shape="cosine", warmup_steps=10, decay_steps=80, final=0.0)
    assert factor(config, 10, 100) == 1.0
    assert factor(config, 50, 100) == pytest.approx(0.5)
    assert factor(config, 30, 100) == pytest.approx(0.853553, abs=1e-6)
    assert factor(config, 90, 100) == pytest.approx(0.0, abs=1e-12)
    assert factor(config, 100, 100) == pytest.approx(0.0, abs=1e-12)


def test_constant_stays_at_the_peak_after_the_warm_up():
    config = ScheduleConfig(shape="constant", warmup_steps=4)
    assert [factor(config, step, 100) for step in (1, 2, 4, 5, 100)] == [0.25, 0.5, 1, 1, 1]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(2000, (40, 1000)), (300, (10, 150)), (1, (0, 0)), (100_000, (1000, 50_000))],
)
def test_undecided_lengths_follow_the_run(steps, expected):
    assert resolve(ScheduleConfig(), steps) == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_shortest_runs_have_a_positive_rate_at_every_step(steps):
    for shape in ("wsd", "cosine", "constant"):
        config = ScheduleConfig(shape=shape)
        assert all(factor(config, step, steps) > 0 for step in range(1, steps + 1))


def test_a_warm_up_longer_than_the_run_is_cut_to_it():
    assert factor(ScheduleConfig(warmup_steps=50), 10, 10) == 1.0

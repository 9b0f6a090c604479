"""The list of runs and their comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from microgpt.cli.runs import command
from microgpt.lab.compare import ordered
from microgpt.lab.summary import summarise
from microgpt.run_folder import RunFolder

MakeRun = Callable[..., RunFolder]


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., str]:
    def call(*arguments: str) -> str:
        result = CliRunner().invoke(
            command, [*arguments, "--runs", str(tmp_path / "runs")], catch_exceptions=False
        )
        assert result.exit_code == 0
        return result.output

    return call


def test_a_line_for_each_run_the_last_started_first(make_run: MakeRun, runs) -> None:
    make_run("old", started="2026-11-20T10:00:00.000+00:00")
    make_run("new", valid_losses=(5.5, 0.66), started="2026-11-21T10:00:00.000+00:00")
    assert runs() == (
        "name  status    params  steps  tokens    loss  valid loss  bits per byte  above floor"
        "  elapsed           started\n"
        "new   finished   232 k    100   205 k  0.6600      0.6600         0.9522       0.0155"
        "   2m 16s  2026-11-21 10:00\n"
        "old   finished   232 k    400   819 k  0.6500      0.6500         0.9378       0.0055"
        "   2m 16s  2026-11-20 10:00\n"
    )


def test_sorting_puts_those_without_the_figure_last(make_run: MakeRun) -> None:
    summaries = [
        summarise(make_run("middle", valid_losses=(5.0, 1.5))),
        summarise(make_run("none", valid_losses=())),
        summarise(make_run("low", valid_losses=(5.0, 1.0))),
    ]
    names = [run.name for run in ordered(summaries, "valid_loss")]
    assert names == ["low", "middle", "none"]
    names = [run.name for run in ordered(summaries, "valid_loss", reverse=True)]
    assert names == ["middle", "low", "none"]


def test_comparison_shows_settings_that_differ_and_no_others(make_run: MakeRun, runs) -> None:
    make_run("a")
    make_run("b", settings={"optimizer": {"name": "adamw"}}, device="cuda")
    lines = runs("a", "b").splitlines()
    settings = [line.split() for line in lines[1 : lines.index("")]]
    assert settings == [["optimizer.name", "muon", "adamw"], ["device", "cpu", "cuda"]]
    assert ["valid", "loss", "0.6500", "0.6500"] in [line.split() for line in lines]


def test_equal_settings_are_said_to_be_equal(make_run: MakeRun, runs) -> None:
    make_run("a")
    make_run("b")
    assert "(all settings are equal)" in runs("a", "b")


def test_a_single_name_shows_all_its_settings(make_run: MakeRun, runs) -> None:
    make_run("a")
    output = runs("a")
    assert ["model.n_embd", "64"] in [line.split() for line in output.splitlines()]
    assert ["data", "dataset.txt"] in [line.split() for line in output.splitlines()]


def test_json_holds_numbers_and_settings(make_run: MakeRun, runs) -> None:
    make_run("a")
    (record,) = json.loads(runs("--json"))
    assert record["valid_loss"] == 0.65
    assert record["params"] == 232_320
    assert record["settings"]["model.n_embd"] == 64


def test_half_written_runs_are_listed_with_what_they_hold(
    make_run: MakeRun, runs, tmp_path: Path
) -> None:
    make_run("whole")
    begun = RunFolder.create(tmp_path / "runs", "begun")
    (begun.path / "metrics.jsonl").write_text(
        '{"step": 7, "loss": 1.5}\n[1]\nnull\n{"step": 8, "lo'
    )
    torn = make_run("torn")
    torn.config_path.write_text("[model\n")
    (tmp_path / "runs" / "foreign").mkdir()
    (tmp_path / "runs" / "foreign" / "run.json").write_text("{}")
    lines = {line.split()[0]: line.split() for line in runs().splitlines()}
    assert lines["begun"][:6] == ["begun", "killed", "-", "7", "-", "1.5000"]
    assert lines["torn"][1:3] == ["finished", "232"]
    assert "foreign" not in lines


def test_a_run_is_killed_when_no_process_holds_it(make_run: MakeRun) -> None:
    run = make_run(status="running")
    assert summarise(run).status == "killed"
    with run.lock():
        assert summarise(run).status == "running"


def test_no_runs_are_said_to_be_none(runs, tmp_path: Path) -> None:
    assert "holds no runs yet: microgpt train FILE makes one" in runs()


def test_the_best_evaluation_is_reported_not_the_last(make_run: MakeRun) -> None:
    summary = summarise(make_run(valid_losses=(5.0, 1.0, 1.5)))
    assert summary.valid_loss == 1.0
    assert summary.loss == 1.5
    assert summary.step == 200


def test_numbers_that_are_none_count_as_missing(make_run: MakeRun) -> None:
    run = make_run()
    run.append_metrics({"step": 500, "loss": float("nan"), "valid_loss": float("inf")})
    summary = summarise(run)
    assert summary.valid_loss == 0.65
    assert summary.loss is None
    assert summary.step == 500

"""A run on several processes is the run of one, and survives the death of any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microgpt.config import RunConfig, TrainingConfig
from microgpt.errors import UsageError
from microgpt.run_folder import RunFolder
from reference.dataset_folder import write_dataset_folder

pytest.importorskip("torch")

from microgpt.training.ranks import Ranks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")


def trained(folder: Path, name: str, processes: int, *kill_at: str) -> list[dict]:
    """Trains `name` to the end, or on to it; returns what each process tells, by rank."""
    dataset = folder / "sums"
    if not dataset.exists():
        text = b"".join(b"%d + %d = %d;\n" % (a, b, a + b) for a in range(12) for b in range(12))
        write_dataset_folder(dataset, list(text), list(text[:300]))
    script = Path(__file__).with_name("ranked_trainer.py")
    run = [sys.executable, script, dataset, folder / name, str(processes), *kill_at]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted(told, key=lambda one: one["rank"])


def rows(folder: Path, name: str) -> list[dict]:
    return RunFolder(folder / name).read_metrics()


def assert_equal_within_rounding(folder: Path, name: str, alone: str = "alone") -> None:
    assert [row["step"] for row in rows(folder, name)] == list(range(1, 17))
    for one, many in zip(rows(folder, alone), rows(folder, name), strict=True):
        for key in one.keys() & {"loss", "valid_loss", "gradient_norm", "tokens"}:
            assert many[key] == pytest.approx(one[key], rel=2e-3), (one, many)


def files(folder: Path, name: str) -> set[str]:
    return {path.name for path in (folder / name / "checkpoints/step-00000016").iterdir()}


def test_two_processes_train_as_one_and_measure_the_same_to_the_bit(tmp_path):
    (alone,) = trained(tmp_path, "alone", 1)
    both = trained(tmp_path, "both", 2)
    assert [one["status"] for one in both] == ["finished"] * 2
    assert {one["loss"] for one in both} == {alone["loss"]}
    assert_equal_within_rounding(tmp_path, "both")
    assert files(tmp_path, "both") == files(tmp_path, "alone")


def test_a_killed_process_ends_the_run_with_a_sentence_and_another_number_goes_on(tmp_path):
    trained(tmp_path, "alone", 1)
    began = time.monotonic()
    (left,) = trained(tmp_path, "killed", 2, "10")
    assert "another process of this run has ended" in left["error"]
    assert "--resume" in left["error"]
    assert time.monotonic() - began < 120
    newest = RunFolder(tmp_path / "killed").newest_checkpoint()
    assert newest is not None
    assert newest.step == 8
    (told,) = trained(tmp_path, "killed", 1)
    assert told["status"] == "finished"
    assert_equal_within_rounding(tmp_path, "killed")


@pytest.mark.slow
def test_four_processes_one_dies_and_three_go_on(tmp_path):
    trained(tmp_path, "alone", 1)
    trained(tmp_path, "four", 4)
    assert_equal_within_rounding(tmp_path, "four")
    assert len(trained(tmp_path, "killed", 4, "6")) == 3
    assert [one["status"] for one in trained(tmp_path, "killed", 3)] == ["finished"] * 3
    assert_equal_within_rounding(tmp_path, "killed")


def test_the_command_starts_as_many_processes_as_asked_for(microgpt):
    microgpt.corpus("simple", "--lines", "300")
    flags = ["--device=cpu", *(flag for flag in microgpt.tiny if not flag.startswith("--threads"))]
    done = microgpt.process("train", "dataset.txt", "--name", "two", "--processes", "2", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("talk to it: microgpt chat two") == 1
    run = RunFolder(microgpt.folder / "runs/two")
    assert run.read_facts()["processes"] == 2
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4, 5, 6]
    assert microgpt.process("generate", "a", "--run", "two", "--length", "3").returncode == 0


def test_rows_are_shared_out_and_too_few_are_refused():
    config = RunConfig(training=TrainingConfig(batch_rows=5))
    shares = [Ranks(rank, 3, rank, 3).rows(config) for rank in range(3)]
    assert [(share.start, share.stop) for share in shares] == [(0, 1), (1, 3), (3, 5)]
    with pytest.raises(UsageError, match="5 rows, too few for 6 processes"):
        Ranks(0, 6, 0, 6).rows(config)


def test_the_environment_of_torchrun_is_read(monkeypatch):
    assert Ranks.of_environment() == Ranks()
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="LOCAL_WORLD_SIZE"):
        Ranks.of_environment()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Ranks.of_environment() == Ranks(3, 4, 1, 2)
    assert Ranks(3, 4, 1, 2).device("cuda") == "cuda:1"
    assert Ranks().device("cuda") == "cuda"

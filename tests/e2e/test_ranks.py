"""A run on several processes is the run of one, and survives the death of any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microgpt.config import ModelConfig, RunConfig, TrainingConfig
from microgpt.errors import TrainingError, UsageError
from microgpt.run_folder import RunFolder
from reference.dataset_folder import write_dataset_folder

pytest.importorskip("torch")

import torch.distributed as dist
from safetensors.torch import load_file

from microgpt.training.ranks import Ranks, peers_told_of
from microgpt.training.sharding import require_divisible

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")


def trained(folder: Path, name: str, processes: int, *flags: str) -> list[dict]:
    """Trains `name` to the end, or on to it; returns what each process tells, by rank."""
    dataset = folder / "sums"
    if not dataset.exists():
        text = b"".join(b"%d + %d = %d;\n" % (a, b, a + b) for a in range(12) for b in range(12))
        write_dataset_folder(dataset, list(text), list(text[:300]))
    script = Path(__file__).with_name("ranked_trainer.py")
    run = [sys.executable, script, dataset, folder / name, str(processes), *flags]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=240)
    if "does not support" in done.stderr:
        pytest.skip(f"this torch's gloo is too old: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted(told, key=lambda one: one["rank"])


def rows(folder: Path, name: str) -> list[dict]:
    return RunFolder(folder / name).read_metrics()


def assert_equal_within_rounding(folder: Path, name: str, alone: str = "alone") -> None:
    assert [row["step"] for row in rows(folder, name)] == list(range(1, 17))
    for one, many in zip(rows(folder, alone), rows(folder, name), strict=True):
        for key in one.keys() & {"loss", "valid_loss", "gradient_norm", "tokens"}:
            if one[key] is None:  # a step that was passed over
                assert many[key] is None
                continue
            assert many[key] == pytest.approx(one[key], rel=2e-3), (one, many)


def assert_equal_weights(folder: Path, name: str) -> None:
    """All tensors of the last checkpoint are those of the run alone, but for rounding."""
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, many = (
            load_file(folder / run / "checkpoints/step-00000016" / file) for run in ("alone", name)
        )
        assert one.keys() == many.keys()
        for key, tensor in one.items():
            error = (many[key] - tensor).norm() / tensor.norm().clamp(min=1e-12)
            assert error < 0.03, (file, key, float(error))


def files(folder: Path, name: str) -> set[str]:
    return {path.name for path in (folder / name / "checkpoints/step-00000016").iterdir()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs; the one that others are held against is there."""
    folder = tmp_path_factory.mktemp("runs")
    assert trained(folder, "alone", 1)[0]["status"] == "finished"
    return folder


def test_two_processes_train_as_one_and_measure_the_same_to_the_bit(runs):
    both = trained(runs, "both", 2)
    (again,) = trained(runs, "both", 1)
    assert [one["status"] for one in both] == ["finished"] * 2
    assert {one["loss"] for one in both} == {again["loss"]}
    assert_equal_within_rounding(runs, "both")
    assert files(runs, "both") == files(runs, "alone")


def test_a_killed_process_ends_the_run_with_a_sentence_and_another_number_goes_on(runs):
    began = time.monotonic()
    (left,) = trained(runs, "killed", 2, "--kill-at=10")
    assert "another process of this run has ended" in left["error"]
    assert "--resume" in left["error"]
    assert time.monotonic() - began < 120
    newest = RunFolder(runs / "killed").newest_checkpoint()
    assert newest is not None
    assert newest.step == 8
    (told,) = trained(runs, "killed", 1)
    assert told["status"] == "finished"
    assert_equal_within_rounding(runs, "killed")


SPLITS = {
    "sharded": (2, "--shard"),
    "tensor": (2, "--tensor=2"),
    "grid": (4, "--shard", "--tensor=2"),
}


@pytest.mark.parametrize(
    "split", ["sharded", *(pytest.param(s, marks=pytest.mark.slow) for s in ("tensor", "grid"))]
)
def test_a_model_in_parts_trains_as_one_and_its_checkpoints_are_read_by_one(runs, split):
    processes, *flags = SPLITS[split]
    left = trained(runs, split, processes, *flags, "--kill-at=10")
    assert all("another process of this run has ended" in one["error"] for one in left)
    assert len(left) == processes - 1
    (alone,) = trained(runs, split, 1)
    assert_equal_within_rounding(runs, split)
    assert_equal_weights(runs, split)
    # And the reverse: begun alone, on in parts.
    assert trained(runs, f"to-{split}", 1, "--kill-at=10") == []
    told = trained(runs, f"to-{split}", processes, *flags)
    assert [one["status"] for one in told] == ["finished"] * processes
    assert all(one["held"] < 0.8 * alone["held"] for one in told)
    assert_equal_within_rounding(runs, f"to-{split}")
    assert_equal_weights(runs, f"to-{split}")
    assert files(runs, f"to-{split}") == files(runs, "alone")


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 6])
def test_a_model_in_parts_rolls_back_as_one_does(runs, step):
    """Before the first checkpoint, and behind it."""
    trained(runs, f"alone-{step}", 1, f"--fault={step}")
    trained(runs, f"parts-{step}", 2, "--shard", f"--fault={step}")
    assert_equal_within_rounding(runs, f"parts-{step}", f"alone-{step}")
    assert len(RunFolder(runs / f"parts-{step}").read_facts()["rollbacks"]) == 1


def test_heads_that_cannot_be_shared_out_are_refused_with_a_sentence():
    config = ModelConfig(n_head=4, n_kv_head=2)
    require_divisible(config, 2)
    with pytest.raises(UsageError, match="the model's 2 key heads do not divide"):
        require_divisible(config, 4)


@pytest.mark.slow
def test_four_processes_one_dies_and_three_go_on(runs):
    trained(runs, "four", 4)
    assert_equal_within_rounding(runs, "four")
    assert len(trained(runs, "three", 4, "--kill-at=6")) == 3
    assert [one["status"] for one in trained(runs, "three", 3)] == ["finished"] * 3
    assert_equal_within_rounding(runs, "three")


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


def test_the_command_splits_a_model_where_it_is_told_to(microgpt):
    microgpt.corpus("simple", "--lines", "300")
    flags = ["--device=cpu", *(flag for flag in microgpt.tiny if not flag.startswith("--threads"))]
    split = ["--processes=2", "--tensor-parallel=2"]
    done = microgpt.process("train", "dataset.txt", "--name", "wide", *split, *flags)
    assert done.returncode == 0, done.stderr
    run = RunFolder(microgpt.folder / "runs/wide")
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4, 5, 6]
    assert run.samples_path.read_text().count("== step") == 2
    assert microgpt.process("generate", "a", "--run", "wide", "--length", "3").returncode == 0
    sentence = microgpt.error("train", "dataset.txt", "--tensor-parallel=2", status=2)
    assert "needs a multiple of so many processes, not 1" in sentence


def test_rows_are_shared_out_and_too_few_are_refused():
    config = RunConfig(training=TrainingConfig(batch_rows=5))
    shares = [Ranks(rank, 3, rank, 3).rows(config) for rank in range(3)]
    assert [(share.start, share.stop) for share in shares] == [(0, 1), (1, 3), (3, 5)]
    with pytest.raises(UsageError, match="5 rows, too few for 6 processes"):
        Ranks(0, 6, 0, 6).rows(config)
    assert [Ranks(rank, 4, rank, 4, 2).rows(config).start for rank in range(4)] == [0, 0, 2, 2]


def test_the_environment_of_torchrun_is_read(monkeypatch):
    assert Ranks.of_environment() == Ranks()
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="LOCAL_WORLD_SIZE"):
        Ranks.of_environment()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Ranks.of_environment() == Ranks(3, 4, 1, 2)
    assert Ranks.of_environment(2) == Ranks(3, 4, 1, 2, 2)
    with pytest.raises(UsageError, match="4 processes do not divide by --tensor-parallel 3"):
        Ranks.of_environment(3)
    assert Ranks(3, 4, 1, 2).device("cuda") == "cuda:1"
    assert Ranks().device("cuda") == "cuda"


def test_what_torch_says_is_told_and_nothing_to_resume_before_there_is_a_run(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("Connection closed by peer\nstack")

    monkeypatch.setattr(dist, "all_reduce", broken)
    two = Ranks(0, 2, 0, 2)
    with pytest.raises(TrainingError, match=r"has ended.*\(Connection closed by peer\)$"):
        two.text_from_first("runs/a")
    advice = r"\(Connection closed by peer\).*--resume"
    with pytest.raises(TrainingError, match=advice), peers_told_of():
        two.summed([1.0])
    monkeypatch.setattr(dist, "init_process_group", broken)
    sentence = "0 of 2 cannot connect to the others: Connection"
    with pytest.raises(TrainingError, match=sentence), two.connected("cpu"):
        pass

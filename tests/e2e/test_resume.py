"""A run that is killed at any moment, also inside a checkpoint, ends as if it never was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from microgpt.run_folder import RunFolder
from reference.dataset_folder import write_dataset_folder

CLOCKS = ("elapsed_seconds", "step_seconds", "memory_bytes")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the killer forks")


def trained(dataset: Path, run: Path, recipe: str, kills: int, *words: str) -> int:
    """Trains to the end under so many kills; returns how many struck. `words`: seed, faults."""
    script = Path(__file__).with_name("killed_trainer.py")
    done = subprocess.run(
        [sys.executable, script, dataset, run, recipe, str(kills), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def record(run: RunFolder) -> dict:
    """All that a run left, without what clocks and memory say."""
    rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in run.read_metrics()]
    tensors, states = {}, {}
    for path in run.checkpoints_path.rglob("*.safetensors"):
        tensors[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    for path in run.checkpoints_path.rglob("state.json"):
        state = json.loads(path.read_text())
        states[path.parent.name] = {
            k: v for k, v in state.items() if k not in ("elapsed_seconds", "metrics_bytes")
        }
    return {
        "rows": rows,
        "samples": run.samples_path.read_text(),
        "tensors": tensors,
        "states": states,
        "folders": sorted(path.name for path in run.checkpoints_path.iterdir()),
    }


def compare(
    tmp_path: Path, kills: int, seed: int, recipe: str = "autograd", faults: tuple[str, ...] = ()
) -> int:
    text = b"".join(b"%d + %d = %d;\n" % (a, b, a + b) for a in range(12) for b in range(12))
    dataset = write_dataset_folder(tmp_path / "sums", list(text), list(text[:300]))
    trained(dataset, tmp_path / "whole", recipe, 0, "0", *faults)
    struck = trained(dataset, tmp_path / "killed", recipe, kills, str(seed), *faults)
    whole, killed = (record(RunFolder(tmp_path / name)) for name in ("whole", "killed"))
    assert len(whole["rows"]) == 80
    assert killed == whole
    return struck


@pytest.mark.parametrize("recipe", ["autograd", "fused-bfloat16"])
def test_a_killed_run_ends_like_an_unbroken_one(tmp_path, recipe):
    assert compare(tmp_path, kills=5, seed=1, recipe=recipe) >= 3


def test_a_run_that_rolls_back_and_is_killed_ends_like_one_that_only_rolls_back(tmp_path):
    """The second fault in a row lowers the rate; the third is another matter again."""
    assert compare(tmp_path, kills=3, seed=2, faults=("22,23,61",)) >= 2
    facts = RunFolder(tmp_path / "killed").read_facts()
    assert [event.partition(":")[0] for event in facts["rollbacks"]] == [
        f"the loss of step {step} is not a finite number" for step in (22, 23, 61)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["autograd", "autograd-bfloat16", "fused", "fused-bfloat16", "float16"]
)
def test_a_run_killed_a_hundred_times_ends_like_an_unbroken_one(tmp_path, recipe):
    struck = 0
    for seed in range(1000):
        (tmp_path / str(seed)).mkdir()
        struck += compare(tmp_path / str(seed), kills=15, seed=seed, recipe=recipe)
        print(f"{recipe}: round {seed + 1} ended equal, {struck} kills so far", flush=True)
        if struck >= 100:
            return
    pytest.fail(f"only {struck} kills struck")

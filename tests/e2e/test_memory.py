"""The memory that a plan tells of is what the run takes."""

from __future__ import annotations

import re

import pytest

from microgpt.run_folder import RunFolder

pytest.importorskip("torch")
pytest.importorskip("resource", reason="this system does not tell a process' peak")

SHAPE = ["--n-layer=6", "--n-head=4", "--n-embd=256", "--context=128", "--batch-rows=128"]
UNITS = {"MB": 1e6, "GB": 1e9}


@pytest.mark.slow
def test_a_run_takes_the_memory_that_was_predicted(microgpt) -> None:
    text = microgpt.corpus("simple", "--lines", "20000")
    flags = ["--device=cpu", "--threads=1", "--dtype=float32", "--steps=3", "--evaluate-every=3"]
    done = microgpt.process("train", text, "--name", "run", *flags, *SHAPE, timeout=600)
    assert done.returncode == 0, done.stderr
    told = re.search(r"([\d.]+) ([MG]B) of memory", done.stderr)
    assert told is not None, done.stderr
    predicted = float(told[1]) * UNITS[told[2]]
    measured = RunFolder(microgpt.folder / "runs/run").read_facts()["peak_memory_bytes"]
    print(f"predicted {predicted / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB")
    assert measured == pytest.approx(predicted, rel=0.15)

"""The memory that a plan tells of is what the run takes."""

from __future__ import annotations

import re

import pytest

from microgpt.run_folder import RunFolder

pytest.importorskip("torch")
pytest.importorskip("resource", reason="this system does not tell a process' peak")

ROWS_WEIGH = ["--n-layer=6", "--n-head=4", "--n-embd=256", "--context=128", "--batch-rows=128"]
WEIGHTS_WEIGH = ["--n-layer=8", "--n-head=8", "--n-embd=512", "--context=256", "--batch-rows=16"]
UNITS = {"MB": 1e6, "GB": 1e9}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [ROWS_WEIGH, WEIGHTS_WEIGH], ids=["4.9M", "25.6M"])
def test_a_run_takes_the_memory_that_was_predicted(microgpt, shape, dtype) -> None:
    text = microgpt.corpus("simple", "--lines", "20000")
    flags = ["--device=cpu", "--threads=1", f"--dtype={dtype}", "--steps=3", "--evaluate-every=3"]
    done = microgpt.process("train", text, "--name", "run", *flags, *shape, timeout=600)
    assert done.returncode == 0, done.stderr
    told = re.search(r"([\d.]+) ([MG]B) of memory", done.stderr)
    assert told is not None, done.stderr
    predicted = float(told[1]) * UNITS[told[2]]
    measured = RunFolder(microgpt.folder / "runs/run").read_facts()["peak_memory_bytes"]
    print(f"predicted {predicted / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB")
    assert measured == pytest.approx(predicted, rel=0.15)

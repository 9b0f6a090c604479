"""From text to conversation, command by command, as the README says."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import pytest

pytest.importorskip("torch", reason="training needs the extra `train`")


def test_text_becomes_tokens_a_model_an_entry_and_text_again(microgpt) -> None:
    microgpt.corpus("addition", "--lines", "400", "--max", "9")
    microgpt.corpus("addition", "--lines", "40", "--max", "9", "--held-out", to="held_out.txt")

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        result = microgpt.process(*arguments, stdin=stdin)
        assert result.returncode == 0, result
        return result

    run("tokenize")
    manifest = json.loads((microgpt.folder / "datasets/dataset/manifest.json").read_text())
    assert manifest["tokenizer"]["kind"] == "byte"

    run("train", "dataset.txt", "--name", "tiny", *microgpt.tiny)
    facts = json.loads((microgpt.folder / "runs/tiny/run.json").read_text())
    assert facts["status"] == "finished"
    assert facts["dataset"]["corpus"] == "addition"
    entry = (microgpt.folder / "LOG.md").read_text()
    assert "# 1. Training on addition: tiny (short of the floor)" in entry
    assert "- step: 6 of 6" in entry
    assert "sums of two numbers" not in entry

    said = run("generate", "1 + 1 = ", "--run", "tiny", "--length", "5", "--json").stdout
    reply = json.loads(said)
    assert reply["prompt"] == "1 + 1 = "
    assert len(reply["ids"]) <= 5

    measured = json.loads(run("eval", "tiny", "held_out.txt", "--json").stdout)
    assert 0 < measured["bits_per_byte"] < 16

    talked = run("chat", "tiny", stdin="1 + 1 = \n/quit\n")
    assert "Traceback" not in talked.stderr

    (listed,) = json.loads(run("runs", "--json").stdout)
    assert listed["name"] == "tiny"
    assert listed["steps"] == 6
    assert listed["params"] == facts["parameters"]
    assert re.search(r"^tiny +finished ", run("runs").stdout, re.MULTILINE)


def test_training_alone_is_enough(microgpt) -> None:
    microgpt.corpus("simple", "--lines", "300")
    microgpt.train()
    (run,) = (microgpt.folder / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["dataset"]["corpus"] == "simple"
    assert microgpt("generate", "ba", "--length", "3").stdout


def test_a_second_training_takes_the_tokens_of_the_first(microgpt) -> None:
    microgpt.corpus("simple", "--lines", "300")
    microgpt.train("dataset.txt")
    manifest = microgpt.folder / "datasets/dataset/manifest.json"
    written = manifest.stat().st_mtime_ns
    microgpt.train("dataset.txt")
    assert manifest.stat().st_mtime_ns == written
    microgpt.corpus("simple", "--lines", "301")
    microgpt.train("dataset.txt")
    names = [
        json.loads(line.read_text())["name"] for line in microgpt.folder.glob("runs/*/run.json")
    ]
    assert len(names) == 3


def test_an_interrupted_run_resumes_to_its_end_with_both_in_the_log(microgpt) -> None:
    microgpt.corpus("simple", "--lines", "300")
    flags = ["--n-layer=1", "--n-head=2", "--n-embd=16", "--context=16", "--batch-rows=4"]
    budget = ["--steps=400000", "--evaluate-every=50", "--threads=1", "--device=cpu"]
    process = microgpt.start("train", "--name", "long", *flags, *budget)
    metrics = microgpt.folder / "runs/long/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert "--resume long" in err
    assert re.search(r"^long +stopped ", microgpt("runs").stdout, re.MULTILINE)
    assert "# 1. Training on simple: long (stopped)" in (microgpt.folder / "LOG.md").read_text()

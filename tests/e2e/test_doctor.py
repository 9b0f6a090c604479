"""`microgpt doctor`, and the checkup of every run: quiet where all is well."""

from __future__ import annotations

import json

import pytest

from microgpt.run_folder import RunFolder

pytest.importorskip("torch")
pytest.importorskip("microgpt._core", reason="the Rust extension is not built")

SHORT = ["--params=60k", "--batch-rows=8", "--steps=110", "--evaluate-every=110", "--threads=1"]


@pytest.mark.parametrize("corpus", ["addition", "simple", "actions", "sequence"])
def test_a_default_run_on_a_synthetic_corpus_is_healthy(microgpt, corpus: str) -> None:
    text = microgpt.corpus(corpus)
    trained = microgpt("train", text, "--name", "run", "--device=cpu", *SHORT)
    assert "not healthy" not in trained.stderr
    facts = RunFolder(microgpt.folder / "runs/run").read_facts()
    assert facts["findings"] == []
    assert {"first_loss", "early_streams", "early_updates"} <= set(facts["signs"])
    assert "not healthy" not in (microgpt.folder / "LOG.md").read_text()
    assert microgpt("doctor", "run").stdout.endswith("healthy\n")


def test_what_is_wrong_is_said_by_the_run_the_log_and_the_doctor(microgpt) -> None:
    text = microgpt.corpus("simple", "--lines", "300")
    rates = ["--lr=1e-7", "--muon-lr=1e-7"]
    trained = microgpt("train", text, "--name", "slow", "--device=cpu", *SHORT, *rates)
    assert "not healthy: at step 100 the loss is 5." in trained.stderr
    assert "- not healthy: at step 100 the loss" in (microgpt.folder / "LOG.md").read_text()
    printed = microgpt("doctor", "slow", "--json", status=1).stdout
    record = json.loads(printed)
    assert record["step"] == 110
    assert any("the entropy of single ids" in finding for finding in record["findings"])
    assert any("raise --lr" in finding for finding in record["findings"])
    assert "not healthy, in training: " in microgpt("doctor", status=1).stdout


def test_a_run_without_a_checkpoint_can_be_examined_and_no_run_is_said(microgpt) -> None:
    assert "holds no run" in microgpt.error("doctor")
    microgpt.corpus("simple", "--lines", "300")
    microgpt.train("dataset.txt", "--name", "tiny")
    for folder in (microgpt.folder / "runs/tiny/checkpoints").iterdir():
        for file in folder.iterdir():
            file.unlink()
    assert "step 0" in microgpt("doctor", "tiny").stdout

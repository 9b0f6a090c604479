"""What is wrong is found, by its cause; what is right is passed over in silence."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from microgpt.config import ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainingConfig
from microgpt.data.loader import ArrayIds, LineRules, Loader
from microgpt.data.shards import Dataset
from microgpt.device import Compute
from microgpt.model.gpt import GPT, Block
from microgpt.run_folder import RunFolder
from microgpt.training import health, probe
from microgpt.training.trainer import Trainer, initialized_model
from reference.dataset_folder import write_dataset_folder
from unit.training.test_trainer import Watch

COMPUTE = Compute(torch.device("cpu"))
CONFIG = RunConfig(
    model=ModelConfig(vocab_size=256, context=16, n_layer=3, n_head=2, n_embd=32),
    schedule=ScheduleConfig(warmup_steps=10),
    training=TrainingConfig(
        batch_rows=8, steps=120, evaluate_every=60, evaluate_tokens=64, device="cpu", threads=1
    ),
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    draws = np.random.default_rng(0).integers(0, 100, (900, 2)).tolist()
    text = b"".join(b"%d + %d = %d;\n" % (a, b, a + b) for a, b in draws)
    return Dataset.open(write_dataset_folder(tmp_path / "sums", list(text), list(text[:300])))


def findings(tmp_path: Path, dataset: Dataset, config: RunConfig = CONFIG) -> list[str]:
    run = RunFolder.create(tmp_path / "runs")
    watch = Watch()
    Trainer(run, config, dataset, watch).train()
    found = [said.removeprefix("not healthy: ") for said in watch.said]
    assert found == run.read_facts().get("findings", [])
    return found


def through_normalised(self, x, reach, cache=None):
    """Log 003's block: the skip is taken behind the norm."""
    x = self.attention_norm(x)
    x = x + self.attention(x, reach.rope, reach.mask, cache)
    x = self.feed_forward_norm(x)
    return x + self.feed_forward(x)


def small_gains(self, generator=None, initialize=GPT.initialize):
    """Log 003's gains: drawn around 0 instead of 1."""
    initialize(self, generator)
    with torch.no_grad():
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.normal_(std=0.02)


@pytest.mark.parametrize("norm_place", ["pre", "post"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_healthy_run_is_quiet(tmp_path, dataset, norm_place, optimizer):
    model = replace(CONFIG.model, norm_place=norm_place)
    config = replace(CONFIG, model=model, optimizer=OptimizerConfig(name=optimizer))
    assert findings(tmp_path, dataset, config) == []
    signs = RunFolder(tmp_path / "runs" / "run-1").read_facts()["signs"]
    assert signs["first_loss"] == pytest.approx(math.log(256), abs=0.2)
    assert signs["early_loss"] < signs["unigram_entropy"]


def test_gains_near_zero_are_found(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(GPT, "initialize", small_gains)
    found = findings(tmp_path, dataset)
    assert any("norms begin with gains below 0.1" in finding for finding in found)


def test_a_skip_from_normalised_activations_is_found(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(Block, "forward", through_normalised)
    found = findings(tmp_path, dataset)
    assert any("does not add to the stream" in finding for finding in found)


def test_both_faults_of_log_003_at_once_are_found(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(GPT, "initialize", small_gains)
    monkeypatch.setattr(Block, "forward", through_normalised)
    found = " ".join(findings(tmp_path, dataset))
    assert "norms begin with gains below" in found
    assert "does not add to the stream" in found
    assert "the stream shrinks in block 0" in found


@pytest.mark.parametrize(
    ("rate", "sentence"),
    [(1e-7, "raise --lr and --muon-lr"), (1e-7, "the entropy of single ids"), (3.0, "of itself")],
)
def test_a_rate_that_is_far_off_is_found(tmp_path, dataset, rate, sentence):
    config = replace(CONFIG, optimizer=OptimizerConfig(lr=rate, muon_lr=rate))
    off = replace(config, training=replace(config.training, spike_nats=None))
    assert any(sentence in finding for finding in findings(tmp_path, dataset, off))


def test_a_frozen_layer_a_dead_one_and_a_wild_head_are_found():
    ratios = {"a": 0.01, "b": 0.0}
    assert "b stands still" in health.update_findings(ratios)[0]
    layers = (probe.Layer(1.0, 0.5, 0.0), probe.Layer(1.0, 0.001, 0.0))
    assert health.stream_findings(probe.Streams(1.0, layers), trained=False) == []
    (dead,) = health.stream_findings(probe.Streams(1.0, layers), trained=True)
    assert "1 of 2 blocks are dead: block 1 changes 0.001" in dead
    (wild,) = health.stream_findings(
        probe.Streams(1.0, (probe.Layer(900.0, 900.0, 0.0),)), trained=True
    )
    assert "the layers explode" in wild
    assert "first loss is 7.00" in health.first_loss_findings(7.0, 256)[0]
    assert "leak" in health.first_loss_findings(3.0, 256)[0]


def test_looking_at_a_model_does_not_change_it():
    model = initialized_model(replace(CONFIG, model=replace(CONFIG.model, dropout=0.5)), COMPUTE)
    before = torch.get_rng_state()
    ids = np.arange(64).reshape(4, 16)
    streams = probe.streams(model, ids, COMPUTE)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert len(streams.layers) == 3
    assert max(layer.skip_error for layer in streams.layers) < 1e-5
    assert not model.blocks[0]._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_unigram_entropy_is_that_of_the_targets():
    even = Loader(ArrayIds(np.tile(np.arange(4), 500)), 8, 2, 0)
    assert probe.unigram_entropy(even, 256) == pytest.approx(math.log(4), abs=0.01)
    ids = np.tile(
        np.array([1, 5, 9, 5, 7]), 400
    )  # after a mark (5) up to the end (7): only 9, 5, 7
    table = np.zeros(256, bool)
    ends, marks = table.copy(), table.copy()
    ends[7] = marks[5] = True
    marked = Loader(ArrayIds(ids), 10, 2, 0, LineRules(ends, False, None, marks))
    assert probe.unigram_entropy(marked, 256) == pytest.approx(math.log(3), abs=0.1)


def test_the_text_is_judged(tmp_path):
    decode = lambda ids: bytes(ids.astype(np.uint8).tolist())  # noqa: E731
    numbers = np.random.default_rng(1).integers(10**15, 10**17, 400).tolist()
    lines = [b"a long line of its own, number %d\n" % n for n in numbers]
    train, valid = b"".join(lines[:300]), b"".join(lines[300:])
    fresh = Dataset.open(write_dataset_folder(tmp_path / "fresh", list(train), list(valid)))
    assert health.data_findings(CONFIG, fresh, decode, None) == []
    leaky = Dataset.open(
        write_dataset_folder(tmp_path / "leaky", list(train), list(valid + train[:5000]))
    )
    (found,) = health.data_findings(CONFIG, leaky, decode, None)
    assert "longer validation lines also stand in the training text" in found
    ends = np.arange(256) == ord("\n")
    (found,) = health.data_findings(CONFIG, fresh, decode, ends)
    assert "100.0% of the lines do not fit into the context of 16 tokens" in found
    large = replace(CONFIG, model=replace(CONFIG.model, vocab_size=1000))
    (found,) = health.data_findings(large, fresh, decode, None)
    assert "of 1,000 ids never occur" in found


def test_text_that_a_run_never_comes_to_is_told_of():
    training = replace(CONFIG.training, steps=10, batch_rows=8)
    short = replace(CONFIG, model=replace(CONFIG.model, context=16), training=training)
    assert health.unread_findings(short, 10 * 8 * 16 * 9) == []
    (found,) = health.unread_findings(short, 10 * 8 * 16 * 20)
    assert "10 steps read 5.0% of the training text" in found
    assert health.unread_findings(replace(short, training=TrainingConfig()), 10**9) == []

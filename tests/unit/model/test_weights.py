import dataclasses

import pytest
import safetensors.torch
import torch

from microgpt.config import ModelConfig
from microgpt.errors import CheckpointError
from microgpt.model import GPT, load_weights, save_weights

SMALL = ModelConfig(vocab_size=40, context=16, n_layer=2, n_head=4, n_embd=32)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_read_back_bit_for_bit(tmp_path, tied):
    config = dataclasses.replace(SMALL, tied_head=tied)
    first, second = GPT(config), GPT(config)
    save_weights(first, tmp_path / "model.safetensors")
    load_weights(second, tmp_path / "model.safetensors")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (second.head.weight is second.embedding.weight) == tied


def test_tied_head_is_stored_once(tmp_path):
    save_weights(GPT(dataclasses.replace(SMALL, tied_head=True)), tmp_path / "w")
    names = safetensors.torch.load_file(tmp_path / "w").keys()
    assert "embedding.weight" in names
    assert "head.weight" not in names


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_layer": 3}, "lacks tensor 'blocks.2.attention.k_norm.weight'"),
        ({"n_layer": 1}, "has an unknown tensor 'blocks.1.attention.k_norm.weight'"),
        ({"vocab_size": 50}, r"holds 'embedding.weight' in shape \(40, 32\).* is \(50, 32\)"),
    ],
)
def test_another_models_weights_are_refused_and_change_nothing(tmp_path, changes, sentence):
    save_weights(GPT(SMALL), tmp_path / "w")
    other = GPT(dataclasses.replace(SMALL, **changes))
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(CheckpointError, match=sentence):
        load_weights(other, tmp_path / "w")
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


@pytest.mark.parametrize("bytes_kept", [0, 4, 1000, -1])
def test_a_torn_file_is_refused_with_a_sentence(tmp_path, bytes_kept):
    path = tmp_path / "w"
    save_weights(GPT(SMALL), path)
    path.write_bytes(path.read_bytes()[:bytes_kept])
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        load_weights(GPT(SMALL), path)


def test_a_missing_file_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read the weights in .*missing"):
        load_weights(GPT(SMALL), tmp_path / "missing")

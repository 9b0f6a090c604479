"""The counts that the three logs report, and the closed form against the module."""

import dataclasses

import pytest
import torch

from microgpt.config import ModelConfig, RunConfig, updated
from microgpt.errors import UsageError
from microgpt.model import GPT
from microgpt.model.sizes import parameter_count, shape_for
from microgpt.presets import PRESETS, preset


def model_of(name, **changes):
    config = updated(RunConfig(), preset(name), f"preset {name}").model
    return dataclasses.replace(config, **changes)


def counted(config):
    with torch.device("meta"):
        return sum(p.numel() for p in GPT(config).parameters())


@pytest.mark.parametrize(
    ("vocab", "width", "layers", "heads", "expected"),
    [
        (256, 64, 4, 4, 232_320),
        (256, 64, 6, 4, 331_904),
        (256, 256, 8, 8, 6_443_776),
        (256, 80, 6, 4, 506_976),
        (256, 32, 4, 2, 67_136),
        (256, 128, 6, 8, 1_253_376),
        (566, 160, 8, 8, 2_652_406),
    ],
)
def test_femto_has_the_logged_parameters(vocab, width, layers, heads, expected):
    config = model_of("femto", vocab_size=vocab, n_embd=width, n_layer=layers, n_head=heads)
    assert counted(config) == expected
    assert parameter_count(config) == expected


@pytest.mark.parametrize(
    ("width", "heads", "hidden", "layers", "expected"),
    [(16, 2, 64, 2, 869_153), (128, 8, 512, 4, 7_342_033)],
)
def test_gpt2_tied_has_the_logged_parameters(width, heads, hidden, layers, expected):
    config = model_of(
        "gpt2-tied",
        vocab_size=50_257,
        context=512,
        n_embd=width,
        n_head=heads,
        n_hidden=hidden,
        n_layer=layers,
    )
    assert counted(config) == expected
    assert parameter_count(config) == expected


VARIANTS = [
    ModelConfig(),
    ModelConfig(n_kv_head=2, tied_head=True, position="learned", head_bias=True),
    ModelConfig(norm="none", final_norm=False, feed_forward="relu", qkv_bias=True),
    ModelConfig(norm="layernorm", norm_gain=False, norm_bias=True, feed_forward_bias=True),
    ModelConfig(attention="linear", n_kv_head=2),
    ModelConfig(feed_forward="squared_relu", attention_output_bias=True, n_hidden=100),
    *(updated(RunConfig(), changes, name).model for name, changes in PRESETS.items()),
]


@pytest.mark.parametrize("config", VARIANTS)
def test_closed_form_counts_every_parameter(config):
    assert parameter_count(config) == counted(config) == GPT(config).parameter_count()


@pytest.mark.parametrize("vocab", [256, 1024, 8192])
@pytest.mark.parametrize("asked", [800_000, 5_000_000, 30_000_000, 124_000_000, 1_000_000_000])
def test_shape_for_comes_within_ten_percent(vocab, asked):
    shape = shape_for(asked, vocab)
    assert abs(parameter_count(shape) / asked - 1) < 0.1
    assert shape.vocab_size == vocab
    assert 20 <= shape.n_embd / shape.n_layer <= 100


def test_shape_for_ties_the_head_only_when_embeddings_weigh_much():
    assert shape_for(5_000_000, 32_768).tied_head
    assert not shape_for(5_000_000, 256).tied_head


def test_shape_for_keeps_other_choices():
    base = ModelConfig(feed_forward="relu", position="learned", context=64)
    shape = shape_for(1_000_000, 256, base)
    assert (shape.feed_forward, shape.position, shape.context) == ("relu", "learned", 64)


def test_shape_for_refuses_fewer_parameters_than_the_vocabulary_needs():
    with pytest.raises(UsageError, match="50,257 ids comes near 10,000 parameters"):
        shape_for(10_000, 50_257)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'femto'"):
        preset("fento")

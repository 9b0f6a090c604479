"""The module's attention against the formulas written out in float64."""

import numpy as np
import pytest
import torch

from microgpt.config import ModelConfig
from microgpt.model.attention import Attention, window_mask
from microgpt.model.position import rope_tables, rotate, sinusoids
from reference.attention import attention


def module_and_weights(config):
    torch.manual_seed(5)
    module = Attention(config, 0).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    width, kv = config.n_embd, config.kv_heads * config.head_width
    names, rows = ("q", "k", "v"), (width, kv, kv)
    matrices = module.qkv.weight.detach().split(rows)
    weights = {name: matrix.numpy() for name, matrix in zip(names, matrices, strict=True)}
    if module.qkv.bias is not None:
        biases = module.qkv.bias.detach().split(rows)
        weights |= {name + "_bias": b.numpy() for name, b in zip(names, biases, strict=True)}
    if config.qk_norm:
        weights["q_gain"] = module.q_norm.weight.detach().numpy()
        weights["k_gain"] = module.k_norm.weight.detach().numpy()
    weights["output"] = module.output.weight.detach().numpy()
    if module.output.bias is not None:
        weights["output_bias"] = module.output.bias.detach().numpy()
    return module, weights


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": False, "position": "none"},
        {"n_kv_head": 1},
        {"n_kv_head": 2, "qkv_bias": True, "attention_output_bias": True},
        {"sliding_window": 3},
        {"sliding_window": 1, "n_kv_head": 2},
        {"qk_scale": 1.1, "rope_theta": 500.0},
    ],
    ids=str,
)
def test_attention_equals_the_formulas(changes):
    config = ModelConfig(n_embd=24, n_head=4, context=8, **changes)
    module, weights = module_and_weights(config)
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    rope = None
    if config.position == "rope":
        cos, sin = rope_tables(8, config.head_width, config.rope_theta)
        rope = (cos[:7, None].double(), sin[:7, None].double())
    mask = None
    if config.sliding_window is not None:
        mask = window_mask(7, 7, config.sliding_window, torch.device("cpu"))
    found = module(x, rope, mask, None).detach().numpy()
    for row in range(2):
        expected = attention(x[row].numpy(), weights, config)
        # The rope tables are float32, hence not closer.
        np.testing.assert_allclose(found[row], expected, rtol=2e-6, atol=2e-6)


def test_attention_sees_nothing_later():
    config = ModelConfig(n_embd=24, n_head=4, position="none")
    module, _ = module_and_weights(config)
    x = torch.randn(1, 6, 24, dtype=torch.float64)
    before = module(x, None, None, None)[:, :4]
    x[:, 4:] += 1
    torch.testing.assert_close(module(x, None, None, None)[:, :4], before, rtol=0, atol=0)


def test_rotated_products_depend_on_distance_alone():
    cos, sin = rope_tables(32, 8, 10_000.0)
    q, k = torch.randn(8), torch.randn(8)
    dots = [rotate(q, cos[t], sin[t]) @ rotate(k, cos[t - 3], sin[t - 3]) for t in (3, 10, 31)]
    torch.testing.assert_close(dots[0], dots[1])
    torch.testing.assert_close(dots[0], dots[2])


def test_sinusoids_alternate_sine_and_cosine():
    table = sinusoids(10, 5)
    assert table.shape == (10, 5)
    torch.testing.assert_close(table[7, 0], torch.tensor(7.0).sin())
    torch.testing.assert_close(table[7, 3], torch.tensor(7.0 / 10_000 ** (2 / 5)).cos())


def test_window_mask_looks_back_over_the_window_only():
    seen = window_mask(2, 5, 3, torch.device("cpu"))
    assert seen.int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]

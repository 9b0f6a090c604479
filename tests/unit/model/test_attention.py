"""The module's attention against the formulas written out in float64."""

import numpy as np
import pytest
import torch

from microgpt.config import ModelConfig
from microgpt.model import attention as module
from microgpt.model.attention import Attention, block_mask, document_mask, window_mask
from microgpt.model.gpt import GPT
from microgpt.model.linear_attention import CHUNK, linear_attention, linear_step
from microgpt.model.position import rope_tables, rotate, sinusoids
from reference.attention import attention
from reference.attention import linear_attention as slow_linear_attention


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


DOCUMENTS = [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("kv", [4, 2])
def test_attention_inside_documents_equals_the_formulas(window, kv):
    config = ModelConfig(n_embd=24, n_head=4, n_kv_head=kv, position="none", sliding_window=window)
    module, weights = module_and_weights(config)
    x = torch.randn(1, 7, 24, dtype=torch.float64)
    numbers = torch.tensor([DOCUMENTS])
    mask = document_mask(window_mask(7, 7, window, torch.device("cpu")), numbers, numbers)
    expected = attention(x[0].numpy(), weights, config, DOCUMENTS)
    np.testing.assert_allclose(module(x, None, mask, None)[0].detach().numpy(), expected)


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 2}], ids=str)
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("start", [None, 7])
def test_flex_attention_gives_what_masks_give(monkeypatch, changes, window, start):
    """Its plain form runs anywhere, forward; a device it trains on takes it compiled."""
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    config = ModelConfig(
        vocab_size=20, context=40, n_layer=2, n_head=4, n_embd=64,
        sliding_window=window, document_start=start, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT(config).eval()
    ids = torch.randint(20, (3, 40))
    ids[:, 11] = 7
    with torch.no_grad():
        expected = model(ids)
        taken = []

        def plain(*arguments, **options):
            taken.append(options)
            return flex.flex_attention(*arguments, **options)

        monkeypatch.setattr("microgpt.model.gpt.flexible", lambda kind: plain)
        monkeypatch.setattr(module, "flexible", lambda kind: plain)
        found = model(ids)
    assert len(taken) == (0 if window is None and start is None else 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flex_attention_trains_on_a_gpu_as_masks_do(monkeypatch):
    if module.flexible("cuda") is None:
        pytest.skip("this torch has no flex_attention that trains here")
    config = ModelConfig(context=256, n_head=2, n_embd=128, sliding_window=100, document_start=7)
    model = GPT(config).cuda()
    ids = torch.randint(256, (4, 256), device="cuda")
    gradients = []
    for flex in (module.flexible("cuda"), None):
        monkeypatch.setattr("microgpt.model.gpt.flexible", lambda kind, flex=flex: flex)
        model.zero_grad()
        model(ids, ids.roll(-1, 1)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-2, atol=2e-3)


def test_the_block_mask_is_the_plain_mask():
    pytest.importorskip("torch.nn.attention.flex_attention")
    numbers = torch.tensor([DOCUMENTS])
    mask = block_mask(7, 3, numbers, torch.device("cpu"))
    seen = document_mask(window_mask(7, 7, 3, torch.device("cpu")), numbers, numbers)
    places = torch.arange(7)
    found = mask.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places[None, :])
    assert torch.equal(found, seen[0, 0])


@pytest.mark.parametrize("length", [1, 5, CHUNK, 2 * CHUNK + 3])
def test_linear_attention_in_chunks_and_in_steps_equals_the_sum(length):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, length, 4, dtype=torch.float64)
    decay = torch.rand(1, 2, length, dtype=torch.float64)
    zero = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    found, state = linear_attention(q, k, v, decay.log(), zero)
    for head in range(2):
        arrays = (x[0, head].numpy() for x in (q, k, v, decay))
        np.testing.assert_allclose(found[0, head].numpy(), slow_linear_attention(*arrays))
    steps, kept = [], zero
    for t in range(length):
        at = slice(t, t + 1)
        parts = q[:, :, at], k[:, :, at], v[:, :, at], decay[:, :, at].log()
        read, kept = linear_step(*parts, kept)
        steps.append(read)
    torch.testing.assert_close(torch.cat(steps, 2), found)
    torch.testing.assert_close(kept, state)


def test_linear_attention_goes_on_from_a_state_and_forgets_without_overflow():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 200, 4)
    log_decay = -50 * torch.rand(1, 2, 200)
    zero = torch.zeros(1, 2, 4, 4)
    whole, end = linear_attention(q, k, v, log_decay, zero)
    first, state = linear_attention(*(x[:, :, :77] for x in (q, k, v, log_decay)), zero)
    rest, state = linear_attention(*(x[:, :, 77:] for x in (q, k, v, log_decay)), state)
    # Of a sum of logarithms in the thousands float32 keeps three digits behind the point.
    torch.testing.assert_close(torch.cat((first, rest), 2), whole, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(state, end)
    assert torch.isfinite(whole).all()

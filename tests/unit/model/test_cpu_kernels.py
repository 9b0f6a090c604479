"""The Rust kernels against plain torch in float64, values and every gradient."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from microgpt.config import ModelConfig
from microgpt.model import GPT, cpu_kernels
from microgpt.model.position import rope_tables, rotate

pytest.importorskip("microgpt._core", reason="the Rust core is not built")


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def assert_same(fast, plain, inputs):
    """Both give the same values, and the same gradients by all inputs (float32; then float64)."""
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    found, expected = fast(*inputs), plain(*exact_inputs)
    found = found if isinstance(found, tuple) else (found,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    slopes = [torch.randn_like(y) for y in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-6)
    torch.autograd.backward(found, [slope.float() for slope in slopes])
    torch.autograd.backward(expected, slopes)
    for one, other in zip(inputs, exact_inputs, strict=True):
        size = other.grad.abs().max().item()
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=2e-5, atol=4e-6 * size)


def leaf(*shape, scale=1.0):
    return (scale * torch.randn(shape)).requires_grad_()


@pytest.mark.parametrize("shape", [(2, 3, 64), (5, 3), (3, 7, 5), (4, 1, 33), (600, 500)])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_rms_norm(shape, scale):
    width = shape[-1]
    inputs = [leaf(*shape, scale=scale), leaf(width)]
    assert_same(
        lambda x, w: cpu_kernels.rms_norm(x, w, 1e-6),
        lambda x, w: F.rms_norm(x, (width,), w, 1e-6),
        inputs,
    )


def test_rms_norm_without_gain():
    assert_same(
        lambda x: cpu_kernels.rms_norm(x, None, 1e-6),
        lambda x: F.rms_norm(x, (48,), None, 1e-6),
        [leaf(3, 5, 48)],
    )


@pytest.mark.parametrize("shape", [(2, 3, 64), (1, 2), (7, 10), (300, 1000)])
def test_swiglu(shape):
    x = leaf(*shape, scale=4.0)
    assert_same(cpu_kernels.swiglu, lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], [x])


def test_swiglu_far_from_zero_is_finite_and_right():
    gate = torch.tensor([-1e4, -100.0, -88.0, -50.0, 0.0, 50.0, 88.0, 100.0, 1e4])
    x = torch.cat((gate, torch.ones(9)))[None].requires_grad_()
    y = cpu_kernels.swiglu(x)
    torch.testing.assert_close(y[0], F.silu(gate), rtol=1e-5, atol=1e-30)
    y.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3, 64), (1,), (1000, 400)])
def test_squared_relu(shape):
    assert_same(cpu_kernels.squared_relu, lambda x: F.relu(x).square(), [leaf(*shape)])


def plain_heads(qkv, q_gain, k_gain, heads, eps, rotation):
    queries, keys = heads
    width = qkv.size(2) // (queries + 2 * keys)
    q, k, v = qkv.unflatten(-1, (-1, width)).split((queries, keys, keys), 2)
    if q_gain is not None:
        q, k = F.rms_norm(q, (width,), q_gain, eps), F.rms_norm(k, (width,), k_gain, eps)
    if rotation is not None:
        cos, sin = (table[:, None].double() for table in rotation)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


@pytest.mark.parametrize(
    ("batch", "length", "heads", "width"),
    [(2, 5, (4, 4), 16), (1, 1, (4, 2), 6), (3, 7, (2, 1), 32), (1, 3, (1, 1), 2),
     (8, 64, (6, 3), 64)],
)  # fmt: skip
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("normed", [True, False])
def test_part_heads(batch, length, heads, width, rotated, normed):
    rotation = rope_tables(length, width, 10_000.0) if rotated else None
    inputs = [leaf(batch, length, (heads[0] + 2 * heads[1]) * width)]
    if normed:
        inputs += [leaf(width), leaf(width)]

    def fast(qkv, *gains):
        return cpu_kernels.part_heads(qkv, heads, gains or None, 1e-6, rotation)

    def plain(qkv, *gains):
        return plain_heads(qkv, *(gains or (None, None)), heads, 1e-6, rotation)

    assert_same(fast, plain, inputs)


def test_heads_of_odd_width_go_unrotated():
    inputs = [leaf(2, 3, 9)]
    assert_same(
        lambda x: cpu_kernels.part_heads(x, (1, 1), None, 1e-6, None),
        lambda x: plain_heads(x, None, None, (1, 1), 1e-6, None),
        inputs,
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_head": 2, "tied_head": True}, {"feed_forward": "squared_relu", "norm_gain": False},
     {"position": "none", "qk_norm": False}],
)  # fmt: skip
def test_the_whole_model_learns_the_same_with_and_without(monkeypatch, changes):
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=50, context=16, n_layer=2, n_head=4, n_embd=32)
    model = GPT(dataclasses.replace(config, **changes))
    ids = torch.randint(50, (3, 16))
    results = []
    for usable in (cpu_kernels.usable, lambda x: False):
        monkeypatch.setattr(cpu_kernels, "usable", usable)
        model.zero_grad()
        loss = model(ids, ids.roll(-1, 1))
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    assert len(results[0]) > 8
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_kernels_leave_other_precisions_and_compilers_alone():
    assert cpu_kernels.usable(torch.ones(2))
    assert not cpu_kernels.usable(torch.ones(2, dtype=torch.float64))
    assert not cpu_kernels.usable(torch.ones(2, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not cpu_kernels.usable(torch.ones(2))

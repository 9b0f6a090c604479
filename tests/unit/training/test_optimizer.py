"""AdamW against its formula, Muon against the polar factor, both across a save and a load."""

import pytest
import torch

from microgpt.config import ModelConfig, OptimizerConfig
from microgpt.errors import CheckpointError
from microgpt.model.gpt import GPT
from microgpt.training import optimizer as module
from microgpt.training.optimizer import Optimizer, orthogonalized

SHAPE = ModelConfig(vocab_size=11, context=8, n_layer=2, n_head=2, n_embd=16)


def small(seed: int = 0, shape: ModelConfig = SHAPE) -> GPT:
    torch.manual_seed(seed)
    return GPT(shape)


def backward(model: GPT, step: int) -> None:
    ids = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(step))
    model(ids[:, :-1], ids[:, 1:]).backward()


def state(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {entry.name: entry.value().clone() for entry in optimizer.entries()}


def train(model: GPT, optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        backward(model, step)
        optimizer.clip()
        optimizer.step(step, 0.5)


def test_adamw_follows_its_formula_and_decays_matrices_only():
    config = OptimizerConfig(name="adamw", lr=0.01, weight_decay=0.2, clip=None)
    model = small()
    optimizer = Optimizer(model, config)
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step in range(1, 4):
        backward(model, step)
        for name, p in model.named_parameters():
            assert p.grad is not None
            g = p.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.95 * second[name] + 0.05 * g**2
            move = first[name] / (1 - 0.9**step)
            move /= (second[name] / (1 - 0.95**step)).sqrt() + 1e-8
            decay = 0.2 if p.dim() == 2 else 0.0
            expected[name] = expected[name] * (1 - 0.005 * decay) - 0.005 * move
        optimizer.step(step, 0.5)
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [8, 24])
def test_newton_schulz_keeps_singular_vectors_and_brings_the_values_near_one(rows):
    matrices = torch.randn(3, rows, 24, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ orthogonalized(matrices, steps=8) @ v.mT
    values = core.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.65
    assert values.max() < 1.25
    assert (core - torch.diag_embed(values)).abs().max() < 1e-3


def test_bfloat16_is_precise_enough_for_newton_schulz():
    matrices = torch.randn(4, 16, 40, generator=torch.Generator().manual_seed(2))
    exact, rough = orthogonalized(matrices), orthogonalized(matrices.bfloat16()).float()
    cosine = torch.nn.functional.cosine_similarity(exact.flatten(1), rough.flatten(1))
    assert cosine.min() > 0.999


def test_muon_moves_each_projection_by_its_own_polar_factor(monkeypatch):
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda device: False)
    config = OptimizerConfig(muon_lr=0.1, weight_decay=0.0, clip=None)
    model = small()
    optimizer = Optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    backward(model, 1)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step(1, 1.0)
    after = dict(model.named_parameters())
    for matrix in model.block_matrices():
        start = 0
        for height in matrix.rows:
            rows = slice(start, start + height)
            g = gradients[matrix.name][rows]
            # The first step's momentum is a multiple of the gradient, and the factor has no scale.
            factor = orthogonalized(g[None])[0]
            scale = max(1.0, height / g.shape[1]) ** 0.5
            moved = before[matrix.name][rows] - after[matrix.name][rows]
            torch.testing.assert_close(moved, 0.1 * scale * factor, rtol=1e-3, atol=1e-5)
            start += height


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("together", [1, 3 * 16 * 16, 1 << 20])
def test_muons_rust_passes_do_what_plain_torch_does(monkeypatch, fast, unit, together):
    pytest.importorskip("microgpt._core", reason="the Rust core is not built")
    monkeypatch.setattr(module, "CHUNK_MATRICES", together)
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda device: fast)
    results = []
    for core in (module.core, None):
        monkeypatch.setattr(module, "core", core)
        model = small()
        optimizer = Optimizer(model, OptimizerConfig(muon_unit_gradients=unit))
        for step in range(1, 4):
            for p, g in zip(model.parameters(), small(step).parameters(), strict=True):
                p.grad = g.detach().clone()
            optimizer.step(step, 0.5)
        results.append([*(p.detach() for p in model.parameters()), *state(optimizer).values()])
    for rust, plain in zip(*results, strict=True):
        error = 1e-3 if fast else 1e-6
        torch.testing.assert_close(rust, plain, rtol=1e-2 if fast else 1e-5, atol=error)


@pytest.mark.parametrize("core", ["rust", "torch"])
def test_with_unit_gradients_a_batch_of_large_ones_counts_no_more_than_others(monkeypatch, core):
    if core == "torch":
        monkeypatch.setattr(module, "core", None)
    else:
        pytest.importorskip("microgpt._core", reason="the Rust core is not built")
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda device: False)

    def weights(unit: bool, factor: float):
        model = small()
        optimizer = Optimizer(model, OptimizerConfig(clip=None, muon_unit_gradients=unit))
        for step in range(1, 4):
            for p, g in zip(model.parameters(), small(step).parameters(), strict=True):
                p.grad = g.detach() * (factor if step == 2 else 1.0)
            optimizer.step(step, 1.0)
        return [matrix.parameter.detach() for matrix in model.block_matrices()]

    def difference(unit: bool) -> float:
        pairs = zip(weights(unit, 1.0), weights(unit, 1000.0), strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs)

    assert difference(unit=True) < 1e-4
    assert difference(unit=False) > 1e-2


def test_embedding_head_and_gains_are_adamws_under_muon():
    model = small()
    optimizer = Optimizer(model, OptimizerConfig())
    train(model, optimizer, 1, 2)
    adamw = {key for key in state(optimizer) if key.startswith("adamw.")}
    assert "adamw.embedding.weight.exp_avg" in adamw
    assert "adamw.head.weight.exp_avg" in adamw
    assert not any("qkv" in key or "down" in key for key in adamw)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_loaded_optimizer_goes_on_bit_for_bit(name):
    config = OptimizerConfig(name=name)
    model, other = small(), small()
    whole, part = Optimizer(model, config), Optimizer(other, config)
    train(model, whole, 1, 7)
    train(other, part, 1, 4)
    fresh = Optimizer(other, config)
    fresh.load(state(part))
    train(other, fresh, 4, 7)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_state_of_another_model_is_refused():
    wide = small(shape=ModelConfig(vocab_size=11, context=8, n_layer=3, n_head=2, n_embd=16))
    optimizer = Optimizer(wide, OptimizerConfig())
    train(wide, optimizer, 1, 2)
    with pytest.raises(CheckpointError, match="another model"):
        Optimizer(small(), OptimizerConfig()).load(state(optimizer))


def test_clipping_limits_the_norm_and_tells_the_one_before():
    model = small()
    optimizer = Optimizer(model, OptimizerConfig(clip=1e-3))
    backward(model, 1)
    before = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert float(optimizer.clip()) == pytest.approx(float(before), rel=1e-5)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert float(after) == pytest.approx(1e-3, rel=1e-2)

"""The pass of Rust kernels against plain torch and autograd in float64: loss and every gradient."""

import copy
import math

import pytest
import torch

from microgpt.config import ModelConfig
from microgpt.model import GPT, fused
from microgpt.model.kernels import core

pytestmark = pytest.mark.skipif(core is None, reason="the Rust core is not built")
CPU = torch.device("cpu")
FAMILY = {
    "modern": {},
    "grouped and tied": {"n_kv_head": 2, "tied_head": True},
    "speed records": {"feed_forward": "squared_relu", "norm_gain": False, "embedding_norm": True,
             "logit_softcap": 15.0, "qk_scale": 1.1},
    "bare": {"position": "none", "qk_norm": False},
    "narrow heads": {"n_head": 7, "n_embd": 56, "n_hidden": 37},
    "one wide head": {"n_head": 1, "n_embd": 80},
    "long": {"context": 131, "n_layer": 1},
    "short": {"context": 3},
    "window": {"sliding_window": 8},
    "nano": {"short_conv": 4},
    "short convolution in documents": {"short_conv": 4, "document_start": 3, "n_embd": 56},
    "documents": {"document_start": 3},
    "long documents in a window": {"context": 131, "document_start": 3, "sliding_window": 40},
}  # fmt: skip


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def make(changes, rows=3):
    """A model with gains that are not 1, ids, targets of which a few do not count."""
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "context": 40, "n_layer": 2, "n_head": 4, "n_embd": 64}
    config = ModelConfig(**(shape | changes))
    model = GPT(config)
    for parameter in model.parameters():
        if parameter.dim() == 1 or not parameter.any():
            parameter.data += 0.1 * torch.randn_like(parameter)
    ids = torch.randint(50, (rows, config.context))
    targets = ids.roll(-1, 1)
    targets[0, : config.context // 4] = -100
    return model, ids, targets


def exact(model, ids, targets):
    """Loss and gradients by plain torch in float64."""
    oracle = copy.deepcopy(model).double()
    loss = oracle(ids, targets, reduction="sum") / 100
    loss.backward()
    return loss.item(), [p.grad for p in oracle.parameters()]


def worst(model, gradients):
    """The largest error, each tensor's over its largest number."""
    pairs = zip(model.parameters(), gradients, strict=True)
    return max(((p.grad - g).abs().max() / g.abs().max()).item() for p, g in pairs)


@pytest.mark.parametrize("changes", FAMILY.values(), ids=FAMILY.keys())
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.bfloat16, 0.06)])
def test_loss_and_gradients_are_those_of_the_plain_model(changes, dtype, error):
    model, ids, targets = make(changes)
    assert fused.fits(model.config, CPU)
    loss, gradients = exact(model, ids, targets)
    found = fused.FusedPass(model, dtype).gradients(ids, targets, 0.01)
    assert found == pytest.approx(loss, rel=error / 10)
    assert worst(model, gradients) < error


class Given(torch.nn.Module):
    """Multiplies with numbers drawn before, others each time, in the place of a dropout."""

    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, x):
        return x * self.factors.pop(0)


def exact_with_dropout(monkeypatch, model, ids, targets, run):
    """The same where what falls out is what `run` dropped in its last pass."""

    def factors(dropout, rows, width):
        ones = torch.ones(rows, width)
        core.drop_out(dropout, ones.view(-1).numpy(), width, 1)
        return ones.double()

    def attention(q, k, v, attn_mask=None, is_causal=False, dropout_p=0.0, scale=None, **_):
        assert dropout_p == model.config.dropout
        length = q.size(2)
        seen = torch.ones(length, length, dtype=torch.bool).tril() if is_causal else attn_mask
        weights = (scale * q @ k.mT).masked_fill(~seen, -math.inf).softmax(-1)
        dropped = factors(next(layers).dropouts[0], weights[..., 0].numel(), length)
        return weights * dropped.view_as(weights) @ v

    layers, (rows, length), width = iter(run.layers), ids.shape, model.config.n_embd
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    plain = copy.deepcopy(model)
    chosen = [[run.first_dropout], *(layer.dropouts[1:] for layer in run.layers)]
    for module, dropouts in zip([plain, *plain.blocks], chosen, strict=True):
        dropped = [factors(dropout, rows * length, width) for dropout in dropouts]
        module.dropout = Given([one.view(rows, length, width) for one in dropped])
    return exact(plain, ids, targets)


@pytest.mark.parametrize(
    "changes",
    [{}, FAMILY["speed records"], FAMILY["grouped and tied"], FAMILY["narrow heads"],
     FAMILY["long documents in a window"], FAMILY["nano"]],
)  # fmt: skip
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.bfloat16, 0.06)])
def test_with_dropout_too(monkeypatch, changes, dtype, error):
    model, ids, targets = make(changes | {"dropout": 0.2})
    assert fused.fits(model.config, CPU)
    run = fused.FusedPass(model, dtype)
    found = run.gradients(ids, targets, 0.01)
    loss, gradients = exact_with_dropout(monkeypatch, model, ids, targets, run)
    assert found == pytest.approx(loss, rel=error / 10)
    assert worst(model, gradients) < error


def test_what_falls_out_follows_the_generator():
    model, ids, targets = make({"dropout": 0.2})
    run, losses = fused.FusedPass(model), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(run.gradients(ids, targets, 0.01))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("changes", FAMILY.values(), ids=FAMILY.keys())
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_an_evaluation_is_that_of_the_plain_model_without_dropout(changes, dtype, error):
    model, ids, targets = make(changes | {"dropout": 0.2}, rows=5)
    run = fused.FusedPass(model, dtype)
    run.gradients(ids[:3], targets[:3], 0.01)  # so three rows are taken at once
    gradients = [p.grad.clone() for p in model.parameters()]
    oracle = copy.deepcopy(model).double().eval()
    loss, logits = oracle(ids, targets, reduction="sum"), oracle(ids)
    assert run.forward(ids, targets, reduction="sum") == pytest.approx(loss.item(), rel=error / 10)
    found = run.forward(ids)
    assert found.dtype == torch.float32
    assert (found - logits).abs().max() < error * logits.abs().max()
    for before, p in zip(gradients, model.parameters(), strict=True):
        assert torch.equal(before, p.grad)


def test_enough_rows_for_several_threads():
    model, ids, targets = make({"n_embd": 128}, rows=40)
    _, gradients = exact(model, ids, targets)
    fused.FusedPass(model).gradients(ids, targets, 0.01)
    assert worst(model, gradients) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_micro_batches_and_chunks_of_the_head_add_up(monkeypatch, dtype, tied):
    monkeypatch.setattr(fused, "CHUNK_LOGITS", 50 * 17)
    model, ids, targets = make({"tied_head": tied})
    loss, gradients = exact(model, ids, targets)
    run = fused.FusedPass(model, dtype)
    found = sum(run.gradients(ids[[i]], targets[[i]], 0.01) for i in range(3))
    assert found == pytest.approx(loss, rel=5e-3)
    assert worst(model, gradients) < (2e-5 if dtype == torch.float32 else 0.06)


def test_each_pass_is_by_itself_and_follows_weights_and_shape():
    model, ids, targets = make({})
    run = fused.FusedPass(model)
    for rows in (3, 2, 3):
        model.zero_grad()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        loss, gradients = exact(model, ids[:rows], targets[:rows])
        assert run.gradients(ids[:rows], targets[:rows], 0.01) == pytest.approx(loss, rel=1e-5)
        assert worst(model, gradients) < 2e-5


def test_the_same_bits_again():
    model, ids, targets = make({})
    found = []
    for _ in range(2):
        model.zero_grad()
        loss = fused.FusedPass(model).gradients(ids, targets, 0.01)
        found.append([torch.tensor(loss), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_number_that_is_none_shows_in_the_loss(dtype, odd):
    model, ids, targets = make({})
    with torch.no_grad():
        model.blocks[0].feed_forward.down.weight[0, 0] = odd
    assert not math.isfinite(fused.FusedPass(model, dtype).gradients(ids, targets, 0.01))


@pytest.mark.parametrize(
    "changes",
    [{"norm": "layernorm"}, {"norm_place": "post"}, {"feed_forward": "gelu"},
     {"attention": "linear"}, {"head_bias": True}, {"position": "learned"}, {"final_norm": False}],
)  # fmt: skip
def test_other_families_and_devices_are_left_to_torch(changes):
    assert not fused.fits(ModelConfig(**changes), CPU)
    assert not fused.fits(ModelConfig(), torch.device("meta"))
    assert not fused.fits(ModelConfig(), CPU, "float16")

"""The whole model: first loss, causality, loss paths, cache, gradients, refusals."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from microgpt.config import ModelConfig, RunConfig, updated
from microgpt.errors import UsageError
from microgpt.model import GPT, KVCache, loss
from microgpt.model.gpt import Reach
from microgpt.presets import PRESETS

SMALL = ModelConfig(vocab_size=40, context=16, n_layer=2, n_head=4, n_embd=32)
VARIANTS = {
    "modern": {},
    "grouped": {"n_kv_head": 2},
    "one key head": {"n_kv_head": 1},
    "window": {"sliding_window": 5},
    "window of grouped": {"sliding_window": 3, "n_kv_head": 2},
    "documents": {"document_start": 7},
    "documents in a window": {"document_start": 7, "sliding_window": 4, "n_kv_head": 2},
    "nano": PRESETS["nano"]["model"],
    "short convolution in documents": {"short_conv": 4, "document_start": 7, "position": "none"},
    "linear": {"attention": "linear"},
    "linear, grouped": {"attention": "linear", "n_kv_head": 2, "qk_norm": False},
    "learned": {"position": "learned", "norm": "layernorm", "norm_bias": True, "qkv_bias": True},
    "sinusoidal": {"position": "sinusoidal", "feed_forward": "gelu", "qk_norm": False},
    "no positions": {"position": "none", "norm": "none", "feed_forward": "relu"},
    "post-norm": {"norm_place": "post", "final_norm": False, "tied_head": True},
    "speed records": {"feed_forward": "squared_relu", "norm_gain": False, "embedding_norm": True,
                      "logit_softcap": 15.0, "qk_scale": 1.1},
}  # fmt: skip


def small(name, **changes):
    torch.manual_seed(3)
    model = GPT(dataclasses.replace(SMALL, **VARIANTS[name], **changes)).eval()
    with torch.no_grad():
        model.head.weight.normal_(std=0.5)  # logits that differ visibly
        for name, parameter in model.named_parameters():
            if name.endswith("short_conv.weight"):
                parameter.normal_(std=0.5)  # they begin at zero
    return model


def some_ids(rows=2, length=16, vocab=40):
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("vocab", [256, 8192])
def test_first_loss_lies_near_ln_v(name, vocab):
    torch.manual_seed(0)
    config = updated(RunConfig(), PRESETS[name], name).model
    model = GPT(dataclasses.replace(config, vocab_size=vocab)).eval()
    ids = some_ids(8, 64, vocab)
    assert abs(model(ids, ids.roll(-1, 1)).item() - math.log(vocab)) < 0.06


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_depend_on_no_later_token(name):
    model, ids = small(name), some_ids()
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 40
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=1e-6)
    assert (before[:, 9:] != after[:, 9:]).any()


@pytest.mark.parametrize("name", VARIANTS)
def test_cached_decoding_gives_the_uncached_logits(name):
    model, ids = small(name), some_ids()
    expected = model(ids)
    cache = KVCache(model.config, batch=2)
    with torch.inference_mode():
        parts = [model(ids[:, :6], cache=cache), model(ids[:, 6:9], cache=cache)]
        parts += [model(ids[:, t : t + 1], cache=cache) for t in range(9, 16)]
    assert cache.length == 16
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-5, atol=1e-5)


def test_a_document_is_read_as_if_it_stood_alone():
    model, ids = small("documents", position="none"), some_ids(vocab=6)
    ids[:, 9] = 7
    torch.testing.assert_close(model(ids)[:, 9:], model(ids[:, 9:]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(small("modern", position="none")(ids)[:, 9:], model(ids[:, 9:]))


def test_linear_attention_begins_anew_in_an_emptied_cache():
    model, ids = small("linear"), some_ids()
    cache = KVCache(model.config, batch=2)
    first = model(ids[:, :5], cache=cache)
    cache.truncate(0)
    torch.testing.assert_close(model(ids[:, :5], cache=cache), first, rtol=0, atol=0)


def test_truncated_cache_continues_from_there():
    model, ids = small("modern"), some_ids()
    cache = KVCache(model.config, batch=2)
    model(ids, cache=cache)
    cache.truncate(4)
    found = model(ids[:, 4:8] * 0 + 7, cache=cache)
    expected = model(torch.cat((ids[:, :4], ids[:, 4:8] * 0 + 7), 1))[:, 4:]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_last_only_gives_the_last_logits():
    model, ids = small("modern"), some_ids()
    torch.testing.assert_close(model(ids, last_only=True), model(ids)[:, -1:])


def test_loss_is_the_mean_over_targets_that_count():
    model, ids = small("modern"), some_ids()
    targets = ids.roll(-1, 1)
    targets[:, :7] = -100
    logits = model(ids)[:, 7:].reshape(-1, 40)
    expected = F.cross_entropy(logits, targets[:, 7:].reshape(-1))
    torch.testing.assert_close(model(ids, targets), expected)
    torch.testing.assert_close(model(ids, targets, reduction="sum"), expected * 18)


def test_loss_without_a_target_that_counts_is_zero():
    model, ids = small("modern"), some_ids()
    assert model(ids, torch.full_like(ids, -100)).item() == 0


@pytest.mark.parametrize("changes", [{}, {"head_bias": True, "tied_head": True}, {"softcap": 2.0}])
def test_chunked_loss_and_gradients_equal_the_plain_ones(monkeypatch, changes):
    changes = dict(changes)
    model = small("modern", logit_softcap=changes.pop("softcap", None), **changes)
    ids = some_ids()
    targets = ids.roll(-1, 1)
    targets[0, 3] = -100
    results = []
    for limit in (2**24, 40 * 5):
        monkeypatch.setattr(loss, "CHUNK_LOGITS", limit)
        model.zero_grad()
        value = model(ids, targets)
        value.backward()
        results.append([value.detach(), *(p.grad.clone() for p in model.parameters())])
        with torch.no_grad():
            torch.testing.assert_close(model(ids, targets), value.detach())
    for plain, chunked in zip(*results, strict=True):
        torch.testing.assert_close(plain, chunked, rtol=1e-4, atol=1e-6)


def test_large_head_never_holds_all_logits():
    rows, vocab, width = 2048, 50_257, 8
    x = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        loss.head_loss(x, weight, None, torch.zeros(rows, dtype=torch.long), None).backward()
    assert largest <= loss.CHUNK_LOGITS < rows * vocab


def test_recomputed_activations_give_the_same_gradients():
    model, ids = small("modern").train(), some_ids()
    gradients = []
    for recompute in (False, True):
        model.recompute_activations = recompute
        model.zero_grad()
        model(ids, ids.roll(-1, 1)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_zero_output_makes_each_block_an_identity():
    model = GPT(dataclasses.replace(SMALL, zero_output=True))
    x = torch.randn(1, 16, 32)
    torch.testing.assert_close(model.blocks[0](x, Reach(model._rope(0, 16), None, None)), x)


def test_stream_keeps_its_scale_with_depth():
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(SMALL, n_layer=24, n_embd=128))
    x = model.embedding(some_ids())
    start = x.std()
    for block in model.blocks:
        x = block(x, Reach(model._rope(0, 16), None, None))
    assert 0.7 < x.std() / start < 1.5


def test_dropout_acts_in_training_only():
    model, ids = small("modern", dropout=0.5), some_ids()
    torch.testing.assert_close(model(ids), model(ids), rtol=0, atol=0)
    model.train()
    assert (model(ids) != model(ids)).any()


def test_initialisation_follows_the_generator():
    model = GPT(SMALL)
    draws = []
    for seed in (1, 1, 2):
        model.initialize(torch.Generator().manual_seed(seed))
        draws.append(model.blocks[1].attention.qkv.weight.clone())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_block_matrices_name_the_projections_stacked_in_them():
    model = GPT(dataclasses.replace(SMALL, n_kv_head=2, n_hidden=48))
    rows = {matrix.name: matrix.rows for matrix in model.block_matrices()}
    assert len(rows) == 8
    assert rows["blocks.1.attention.qkv.weight"] == (32, 16, 16)
    assert rows["blocks.1.feed_forward.gate_up.weight"] == (48, 48)
    assert rows["blocks.0.feed_forward.down.weight"] == (32,)


def test_more_positions_than_the_context_are_refused():
    model = GPT(SMALL)
    with pytest.raises(UsageError, match="17 positions, but the model's context holds 16"):
        model(some_ids(length=17))
    cache = KVCache(SMALL, batch=2)
    model(some_ids(), cache=cache)
    with pytest.raises(UsageError, match="17 positions"):
        model(some_ids(length=1), cache=cache)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"norm_bias": True}, "norm_bias belongs to norm = 'layernorm'"),
        ({"logit_softcap": 0.0}, "logit_softcap is 0.0, but must be positive"),
        ({"n_head": 33}, "more than the width"),
        ({"n_head": 5}, "does not divide"),
        ({"n_kv_head": 3}, "n_kv_head is 3, but must divide n_head = 4"),
        ({"attention": "linear", "sliding_window": 4}, "linear attention forgets by itself"),
        ({"document_start": -1}, "document_start is -1, but must be an id"),
        ({"sliding_window": 0}, "sliding_window is 0, but must be at least 1"),
    ],
)
def test_impossible_shapes_are_refused_with_a_sentence(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        dataclasses.replace(SMALL, **changes)

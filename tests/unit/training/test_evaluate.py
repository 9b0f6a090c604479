"""Evaluation predicts each token once, whatever the window, stride and batch."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from microgpt.config import ModelConfig
from microgpt.data.loader import LineRules
from microgpt.data.shards import Split
from microgpt.device import Compute
from microgpt.model.gpt import GPT
from microgpt.training.evaluate import evaluate
from reference.dataset_folder import write_split

CPU = Compute(torch.device("cpu"))


def split_of(tmp_path, ids) -> Split:
    files = write_split(tmp_path, "valid", list(ids), "uint16", 10_000)
    return Split.from_files([tmp_path / file["file"] for file in files])


class Counting(nn.Module):
    """Counts how often each target is asked for; its loss is the target's own number."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.zeros(1000, dtype=torch.int64)

    def forward(self, ids, targets, reduction):
        goals = targets[targets != -100]
        self.seen += torch.bincount(goals, minlength=1000)
        return goals.sum().float()


@pytest.mark.parametrize("tokens", [2, 3, 8, 9, 10, 17, 50, 101])
@pytest.mark.parametrize("stride", [1, 3, 4, 8, None])
def test_each_token_but_the_first_is_predicted_once(tmp_path, tokens, stride):
    model = Counting()
    measured = evaluate(
        model, split_of(tmp_path, range(tokens)), 2 * tokens, 8, CPU, rows=3, stride=stride
    )
    assert model.seen[:tokens].tolist() == [0] + [1] * (tokens - 1)
    assert measured.tokens == tokens - 1
    assert measured.loss == pytest.approx(sum(range(tokens)) / (tokens - 1))
    assert measured.bits_per_byte == pytest.approx(measured.loss / 2 / math.log(2))


def test_the_loss_is_that_of_a_plain_loop(tmp_path):
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=16, context=8, n_layer=1, n_head=2, n_embd=16))
    ids = np.random.default_rng(0).integers(0, 16, 40)
    losses = []
    for place in range(1, 40):
        start = 0 if place <= 8 else (place - 9) // 4 * 4 + 4
        window = torch.tensor(ids[start:place])[None]
        logits = model(window)[0, -1]
        losses.append(-torch.log_softmax(logits, -1)[ids[place]].item())
    measured = evaluate(model, split_of(tmp_path, ids), 40, 8, CPU, rows=2, stride=4)
    assert measured.loss == pytest.approx(sum(losses) / 39, rel=1e-5)


def test_a_limit_takes_windows_from_all_of_the_split(tmp_path):
    model = Counting()
    measured = evaluate(model, split_of(tmp_path, range(800)), 800, 8, CPU, max_tokens=80)
    asked = model.seen[:800].nonzero().flatten()
    assert measured.tokens == 80
    assert asked.min() < 80
    assert asked.max() > 700


class Bigram(nn.Module):
    """Says 2 after =, then ; and a line end, each with e^3 times the weight of any other byte."""

    def forward(self, ids):
        following = torch.full((256,), ord(";"))
        following[ord("=")], following[ord(";")] = ord("2"), 10
        return 3 * torch.nn.functional.one_hot(following[ids], 256).float()


def test_only_answers_are_scored_and_counted_where_they_are_wholly_right(tmp_path):
    ends, marks = np.zeros(256, bool), np.zeros(256, bool)
    ends[10] = marks[ord("=")] = True
    rules = LineRules(ends=ends, marks=marks)
    text = b"1+1=2;\n3+4=7;\n2+0=2;\n9+99=108;\n8+18=26;\n"
    split = split_of(tmp_path, text)
    for context, parts in ((64, 0), (28, 1)):  # of 28, the second window counts ; behind 108
        measured = evaluate(
            Bigram(), split, len(text), context, CPU, stride=context // 2, lines=rules
        )
        assert (measured.tokens, measured.answers) == (18, 5 + parts)
        assert measured.right == 2 + parts
        # Wrong are 7, 1 and 0 and 8, 6.
        likely, unlikely = (math.log(math.exp(3) + 255) - logit for logit in (3, 0))
        assert measured.loss == pytest.approx((13 * likely + 5 * unlikely) / 18, rel=1e-5)


def test_aligned_windows_leave_out_torn_lines_and_count_the_same_tokens(tmp_path):
    class Recording(Counting):
        def __init__(self):
            super().__init__()
            self.begins = []

        def forward(self, ids, targets, **how):
            self.begins += ids[:, 0].tolist()
            return super().forward(ids, targets, **how)

    text = b"".join(b"%d=%d;\n" % (a, 2 * a) for a in range(40))
    split, ends = split_of(tmp_path, text), np.zeros(256, bool)
    ends[10] = True
    plain, aligned = Recording(), Recording()
    evaluate(plain, split, 1, 32, CPU, stride=16)
    measured = evaluate(
        aligned, split, 1, 32, CPU, stride=16, lines=LineRules(ends=ends, align=True)
    )
    assert measured.tokens == len(text) - 1
    assert (aligned.seen == plain.seen).all()
    assert set(aligned.begins[1:]) == {10}
    assert set(plain.begins[1:]) != {10}


def test_the_model_is_left_in_the_mode_it_was_in(tmp_path):
    model = Counting()
    model.train()
    evaluate(model, split_of(tmp_path, range(20)), 20, 8, CPU)
    assert model.training

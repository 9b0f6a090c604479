"""The filters against a naive reading of their definitions, and draws against their chances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.errors import UsageError
from microgpt.inference.sampling import Sampling, draw, new_generator, probabilities


def naive(logits, sampling):
    """The definitions, over a list of (probability, id) in order of rank."""
    if sampling.temperature == 0:
        best = max(range(len(logits)), key=lambda i: (logits[i], -i))
        return [float(i == best) for i in range(len(logits))]
    powers = [math.exp((x - max(logits)) / sampling.temperature) for x in logits]
    ranked = sorted(
        ((p / sum(powers), i) for i, p in enumerate(powers)), key=lambda e: (-e[0], e[1])
    )
    if sampling.top_k is not None:
        ranked = ranked[: sampling.top_k]
    if sampling.top_p is not None:
        total, kept = sum(p for p, _ in ranked), []
        for p, i in ranked:
            if sum(q for q, _ in kept) >= sampling.top_p * total and kept:
                break
            kept.append((p, i))
        ranked = kept
    if sampling.min_p is not None:
        ranked = [(p, i) for p, i in ranked if p >= sampling.min_p * ranked[0][0]]
    total = sum(p for p, _ in ranked)
    chances = {i: p / total for p, i in ranked}
    return [chances.get(i, 0.0) for i in range(len(logits))]


def optional(strategy):
    return st.one_of(st.none(), strategy)


@settings(max_examples=150, deadline=None)
@given(
    # Quarters: sums of their powers stay clear of the thresholds below in float32 and float64.
    logits=st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=1, max_size=12),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=optional(st.integers(1, 14)),
    top_p=optional(st.sampled_from([0.013, 0.317, 0.631, 0.937])),
    min_p=optional(st.sampled_from([0.0171, 0.113, 0.713])),
)
def test_probabilities_equal_the_definitions(logits, temperature, top_k, top_p, min_p):
    sampling = Sampling(temperature, top_k, top_p, min_p)
    found = probabilities(torch.tensor(logits), sampling)
    torch.testing.assert_close(found, torch.tensor(naive(logits, sampling)), rtol=1e-4, atol=1e-6)


def test_filters_act_in_the_stated_order():
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1])
    # Top-k leaves 4/7 and 3/7; top-p of 0.5 is reached by the first of these alone.
    chances = probabilities(shares.log(), Sampling(1.0, top_k=2, top_p=0.5))
    torch.testing.assert_close(chances, torch.tensor([1.0, 0, 0, 0]))
    chances = probabilities(shares.log(), Sampling(1.0, top_p=None, min_p=0.45))
    torch.testing.assert_close(chances, torch.tensor([4 / 9, 3 / 9, 2 / 9, 0]))


def test_a_tiny_temperature_is_greedy_not_nan():
    logits = torch.tensor([1.0, 3.0, 2.0])
    chances = probabilities(logits, Sampling(1e-30, top_p=None))
    torch.testing.assert_close(chances, torch.tensor([0.0, 1.0, 0.0]))


def test_of_equal_logits_greedy_takes_the_lowest_id():
    assert probabilities(torch.tensor([1.0, 2.0, 2.0]), Sampling(0)).tolist() == [0, 1, 0]


def test_draws_come_as_often_as_their_chances_say():
    generator = new_generator(7)
    chances = torch.tensor([0.5, 0.0, 0.3, 0.2])
    drawn = [draw(chances, generator) for _ in range(20_000)]
    for id, chance in enumerate(chances.tolist()):
        # Four standard deviations of a binomial.
        assert abs(drawn.count(id) / 20_000 - chance) <= 4 * math.sqrt(chance * 0.5 / 20_000)


def test_a_seed_repeats_and_no_seed_differs():
    def draws(seed):
        generator = new_generator(seed)
        return [draw(torch.full((1000,), 0.001), generator) for _ in range(10)]

    assert draws(3) == draws(3) != draws(4)
    assert draws(None) != draws(None)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top-k is 0"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"min_p": -1.0}, "min-p is -1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        Sampling(**settings)

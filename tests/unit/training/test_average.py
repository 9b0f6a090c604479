"""The average of the weights is what its formula says, and goes in and out of place unchanged."""

import pytest
import torch
from torch import nn

from microgpt.errors import CheckpointError
from microgpt.training.average import Average


def trained(steps: int, share: float) -> tuple[nn.Linear, Average, list[torch.Tensor]]:
    model = nn.Linear(3, 2)
    average, seen = Average(dict(model.named_parameters()), share), []
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight.normal_(generator=torch.Generator().manual_seed(step))
        average.update(step)
        seen.append(model.weight.detach().clone())
    return model, average, seen


def test_one_over_all_steps_is_the_plain_mean():
    model, average, seen = trained(7, share=1.0)
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), torch.stack(seen).mean(0))


def test_a_share_weighs_late_steps_as_a_power_of_their_time():
    model, average, seen = trained(40, share=0.25)
    # (1 - 1/t)^4 telescopes: after step n, step t has the weight (t/n)^4 - ((t - 1)/n)^4.
    steps = torch.arange(1, 41) / 40
    weights = steps**4 - (steps - 1 / 40) ** 4
    wanted = (weights[:, None, None] * torch.stack(seen)).sum(0)
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), wanted)


def test_the_average_leaves_its_place_to_the_very_weights():
    model, average, seen = trained(5, share=0.5)
    with average.in_place():
        assert not torch.equal(model.weight, seen[-1])
    assert torch.equal(model.weight, seen[-1])


def test_a_restored_average_goes_on_bit_for_bit():
    model, average, _ = trained(5, share=0.5)
    weights = {name: value.clone() for name, value in average.weights().items()}
    other = nn.Linear(3, 2)
    with average.in_place():
        other.load_state_dict(model.state_dict())
    again = Average(dict(other.named_parameters()), 0.5)
    again.restore(weights)
    for each in (average, again):
        each.update(6)
    assert torch.equal(model.weight, other.weight)
    with average.in_place(), again.in_place():
        assert torch.equal(model.weight, other.weight)


def test_weights_of_another_model_are_refused():
    _, average, _ = trained(1, share=0.5)
    with pytest.raises(CheckpointError, match="see 'bias'"):
        average.restore({"weight": torch.zeros(2, 3)})

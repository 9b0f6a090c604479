"""The average of the weights over the last part of training, which predicts better than the last
weights do.

An exponential moving average whose memory grows with the run: the average after step t moves to the
weights by 1 - (1 - 1/t)^(1/share), so it is one over about the last `share` of the steps so far,
however many there are (the power function of Karras et al. 2024). Training goes on with weights of
its own; the average is measured, sampled from, and saved as the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from microgpt.errors import CheckpointError


class Average:
    """The running average of a model's parameters, or of what this process holds of them."""

    def __init__(self, parameters: Mapping[str, Tensor], share: float) -> None:
        self.share = share
        self._parameters = dict(parameters)
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights as they are after `step`, counted from 1."""
        averages, weights = [*self._averages.values()], [*self.weights().values()]
        get_ema_multi_avg_fn((1 - 1 / step) ** (1 / self.share))(averages, weights, step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While this lasts, the model's parameters are the averages."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(kept)

    def averages(self) -> dict[str, Tensor]:
        """Returns the averages, by name, while they are out of place."""
        return self._averages

    def weights(self) -> dict[str, Tensor]:
        """Returns the weights that training goes on with, by name; `restore` takes them back."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Takes what the model holds for the averages, and puts `weights` in their place.

        Raises:
            CheckpointError: they are another model's, or none.
        """
        if odd := sorted(weights.keys() ^ self._parameters.keys()):
            raise CheckpointError(f"the weights are of another model: see {odd[0]!r}")
        for name, parameter in self._parameters.items():
            self._averages[name].copy_(parameter)
            parameter.copy_(weights[name])

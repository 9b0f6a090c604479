"""The learning rate over steps."""

from __future__ import annotations

import math

from microgpt.config import ScheduleConfig


def resolve(config: ScheduleConfig, steps: int) -> tuple[int, int]:
    """Returns the steps of warm-up and of decay for a run of `steps`, which hold both."""
    warmup = config.warmup_steps
    if warmup is None:
        warmup = min(max(10, steps // 50), 1000, steps // 4)
    warmup = min(warmup, steps)
    decay = config.decay_steps
    if decay is None:
        decay = steps // 2 if config.shape == "wsd" else steps
    return warmup, min(decay, steps - warmup)


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Returns the factor of the peak rate for `step`, counted from 1 to `steps`.

    Warm-up rises linearly and reaches 1 at its last step; decay falls to `final` at its own last
    step, in a line for `wsd` and in half a cosine for `cosine`. Where the decay ends before the run
    does, the rate stays at `final` (`cosine`) or the decay comes at the end of the run (`wsd`).
    """
    warmup, decay = resolve(config, steps)
    if step <= warmup:
        return step / warmup
    if config.shape == "constant" or decay == 0:
        return 1.0
    begin = steps - decay if config.shape == "wsd" else warmup
    share = min(1.0, max(0.0, (step - begin) / decay))
    if config.shape == "cosine":
        share = 0.5 - 0.5 * math.cos(math.pi * share)
    return 1.0 + (config.final - 1.0) * share

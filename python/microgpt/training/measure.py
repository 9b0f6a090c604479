"""What a step takes on this machine, with one thread or all and in which precision, and what an
evaluation takes.

Threads are no gift for small models: with other work on the machine, two OpenMP threads that wait
for one another have run at a fifteenth of the speed of one. So both are tried.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from microgpt.config import ModelConfig, RunConfig, TrainingConfig
from microgpt.device import Compute, cores, give_memory_back, has_fast_bfloat16
from microgpt.model.fused import fits
from microgpt.model.gpt import GPT
from microgpt.training.evaluate import evaluation_rows
from microgpt.training.optimizer import Optimizer
from microgpt.training.threads import ADVANTAGE
from microgpt.training.trainer import Stepper, initialized_model

STEPS = 5
MAX_SECONDS = 3.0
"""For each number of threads; one step is taken in any case."""


def measured_threads(config: RunConfig) -> tuple[int, float]:
    """Returns the number of threads to train with, and the seconds that a step takes then.

    A GPU's work has one thread; with `config.training.threads` given only that is measured.
    """
    compute = Compute.of(config.training.device, config.training.dtype, config.training.tf32)
    candidates: Sequence[int] = sorted({1, cores()})
    if config.training.threads is not None:
        candidates = [config.training.threads]
    elif compute.device.type != "cpu":
        candidates = [1]
    best: tuple[int, float] | None = None
    for threads in candidates:
        torch.set_num_threads(threads)
        seconds = step_seconds(config, compute)
        if best is None or seconds < ADVANTAGE * best[1]:
            best = threads, seconds
    assert best is not None
    torch.set_num_threads(best[0])
    return best


def measured_dtype(config: RunConfig, seconds: float) -> tuple[str, float]:
    """Returns the precision for a run on the CPU that left it open, and the seconds of its step.

    It is bfloat16 where the processor has instructions for it, where `model.fused` computes the
    rest of a step (torch's own operations under autocast are slower), and where a step is then
    quicker by a tenth than the `seconds` of float32.
    """
    compute = Compute.of(config.training.device, "float32")
    fused = fits(config.model, compute.device) and not config.training.needs_autograd
    if fused and has_fast_bfloat16(compute.device):
        low = step_seconds(config, replace(compute, dtype="bfloat16"))
        if low < ADVANTAGE * seconds:
            return "bfloat16", low
    return "float32", seconds


def idle_memory_bytes(compute: Compute) -> int:
    """Returns what this process holds once it has trained at all, a model of no size: libraries.
    On a GPU, whose memory is counted apart, it is nothing."""
    if compute.device.type == "cuda":
        return 0
    smallest = RunConfig(
        model=ModelConfig(n_layer=1, n_head=1, n_embd=8, context=8),
        training=TrainingConfig(batch_rows=1),
    )
    step_seconds(smallest, compute)
    return compute.peak_memory_bytes()


def step_seconds(config: RunConfig, compute: Compute) -> float:
    """Returns the median time of a few steps of a model like the run's, on noise."""
    model, stepper = _eager(config, compute)
    optimizer = Optimizer(model, config.optimizer)
    shape = (config.training.batch_rows or 1, config.model.context + 1)
    rows = np.random.default_rng(0).integers(0, config.model.vocab_size, shape)
    times: list[float] = []
    for step in range(1, STEPS + 2):
        started = time.perf_counter()
        stepper.gradients(rows[:, :-1], rows[:, 1:], step)
        float(optimizer.clip())
        optimizer.step(step, 1.0)
        times.append(time.perf_counter() - started)
        if sum(times) > MAX_SECONDS:
            break
    del model, optimizer, stepper  # they refer to one another, and the run needs the room
    give_memory_back()
    return float(np.median(times[1:] or times))


def evaluation_seconds(config: RunConfig, valid_tokens: int) -> float:
    """Returns the time of an evaluation in a run of `config` with so many tokens to validate: that
    of a batch, on noise, times their number."""
    compute = Compute.of(config.training.device, config.training.dtype, config.training.tf32)
    (model, stepper), context = _eager(config, compute), config.model.context
    forward = model.eval() if stepper.fused is None else stepper.fused.forward
    rows = evaluation_rows(context, compute.device)
    noise = np.random.default_rng(0).integers(0, config.model.vocab_size, (rows, context))
    ids, seconds = compute.tensor(noise), 0.0
    with torch.inference_mode(), compute.exact():
        for _ in range(2):  # the first makes room
            started = time.perf_counter()
            float(forward(ids, ids, reduction="sum"))
            seconds = time.perf_counter() - started
    del model, stepper, forward
    give_memory_back()
    tokens = min(valid_tokens, config.training.evaluate_tokens or valid_tokens)
    windows = tokens / max(1, context // 2)  # they overlap by half
    times = 1 if config.data.answers_after is None else 2
    return seconds * times * windows / rows


def _eager(config: RunConfig, compute: Compute) -> tuple[GPT, Stepper]:
    """Returns a model like the run's and what steps it, not compiled, which takes longer than what
    is measured here."""
    model = initialized_model(config, compute)
    eager = replace(config, training=replace(config.training, compile=False))
    return model, Stepper(model, eager, compute)

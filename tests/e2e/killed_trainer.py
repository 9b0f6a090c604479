"""Trains in a child process and kills it, over and over; run by test_resume.py.

    python killed_trainer.py DATASET RUN RECIPE KILLS SEED [FAULTS]

RECIPE is one of RECIPES; FAULTS are steps, such as 30,31, whose loss is no number.

The children are forked from here, so that torch is imported once. Each goes on from what the one
before it left; after so many kills, or when one is through before its time, the last may finish.
Prints how many were killed.
"""

import math
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from microgpt.config import ModelConfig, RunConfig, ScheduleConfig, TrainingConfig
from microgpt.data.shards import Dataset
from microgpt.run_folder import RunFolder
from microgpt.training.trainer import Silent, Stepper, Trainer

CONFIG = RunConfig(
    model=ModelConfig(vocab_size=256, context=16, n_layer=2, n_head=2, n_embd=32, dropout=0.1),
    schedule=ScheduleConfig(warmup_steps=2),
    training=TrainingConfig(
        batch_rows=4, steps=80, evaluate_every=4, evaluate_tokens=64, device="cpu", threads=1
    ),
)


def recipe(dtype: Literal["float32", "bfloat16", "float16"], has_biases: bool = False) -> RunConfig:
    """With biases a step on the CPU goes through autograd."""
    return replace(
        CONFIG,
        model=replace(CONFIG.model, qkv_bias=has_biases),
        training=replace(CONFIG.training, dtype=dtype),
    )


RECIPES = {
    "fused": recipe("float32"),
    "fused-bfloat16": recipe("bfloat16"),
    "autograd": recipe("float32", has_biases=True),
    "autograd-bfloat16": recipe("bfloat16", has_biases=True),
    "float16": recipe("float16"),
}


def train(dataset: Path, run: Path, config: RunConfig) -> None:
    folder = RunFolder(run)
    with folder.lock():
        sampler = lambda model, step: f"{step} {model.head.weight.sum().item():.6f}"  # noqa: E731
        Trainer(folder, config, Dataset.open(dataset), Silent(), sampler).train()


def child(dataset: Path, run: Path, config: RunConfig) -> int:
    pid = os.fork()
    if pid == 0:
        train(dataset, run, config)
        os._exit(0)
    return pid


def plant(faults: set[int]) -> None:
    honest = Stepper.gradients

    def gradients(self, inputs, targets, step, *share):
        loss = honest(self, inputs, targets, step, *share)
        return math.nan if step in faults else loss

    Stepper.gradients = gradients


def main() -> None:
    dataset, run, config = Path(sys.argv[1]), Path(sys.argv[2]), RECIPES[sys.argv[3]]
    kills, seed = map(int, sys.argv[4:6])
    if len(sys.argv) > 6:
        plant({int(step) for step in sys.argv[6].split(",")})
    torch.set_num_threads(1)
    RunFolder.create(run.parent, run.name)
    moments, killed = random.Random(seed), 0
    for _ in range(kills):
        pid = child(dataset, run, config)
        time.sleep(moments.uniform(0.02, 0.5))
        os.kill(pid, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            killed += 1
        else:
            break
    status = os.waitpid(child(dataset, run, config), 0)[1]
    print(killed)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()

"""Trains in several processes that talk through gloo; run by test_ranks.py.

    python ranked_trainer.py DATASET RUN PROCESSES [--kill-at STEP] [--fault STEP] [--shard]
        [--tensor N]

With --kill-at the last process ends itself with SIGKILL after that step; with --fault the loss of
that one is no number. Prints, for each process,
how it ended, and the loss of the initial model as it measured it.
"""

import argparse
import json
import os
import signal
import socket
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from killed_trainer import CONFIG, plant

from microgpt.data.shards import Dataset
from microgpt.device import Compute
from microgpt.errors import MicrogptError
from microgpt.run_folder import RunFolder
from microgpt.training.evaluate import evaluate
from microgpt.training.ranks import Ranks
from microgpt.training.trainer import Silent, Trainer, initialized_model


class Suicidal(Silent):
    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, row) -> None:
        if row["step"] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def work(dataset: Path, run: Path, ranks: Ranks, kill_at: int) -> dict:
    # Dropout's noise would differ with the rows of a process.
    shape = {"dropout": 0.0, "n_head": 4, "n_kv_head": 2, "short_conv": 4}
    config = replace(CONFIG, model=replace(CONFIG.model, **shape))
    config = replace(config, training=replace(config.training, steps=16, batch_rows=5))
    opened = Dataset.open(dataset)
    compute = Compute(torch.device("cpu"))
    sampler = lambda model, step: f"{step} {model.head.weight.sum().item():.3f}"  # noqa: E731
    with ranks.connected("cpu"):
        model = initialized_model(config, compute)
        loss = evaluate(model, opened.valid, 1, 16, compute, rows=2, stride=8, ranks=ranks).loss
        watcher = Suicidal(kill_at if ranks.rank == ranks.world - 1 else 0)
        try:
            trainer = Trainer(RunFolder(run), config, opened, watcher, sampler, ranks=ranks)
            outcome = trainer.train()
        except MicrogptError as error:
            return {"rank": ranks.rank, "error": str(error)}
        held = sum(part.numel() for part in trainer.placement.here.values())
    return {"rank": ranks.rank, "status": outcome.status, "loss": repr(loss), "held": held}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("processes", type=int)
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--fault", type=int)
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--tensor", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.fault is not None:
        plant({given.fault})
    if not given.run.exists():
        RunFolder.create(given.run.parent, given.run.name)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(given.processes):
        if (child := os.fork()) == 0:
            here = rank, given.processes, rank, given.processes
            ranks = Ranks(*here, given.tensor, given.shard)
            try:
                told = work(given.dataset, given.run, ranks, given.kill_at)
                os.write(1, (json.dumps(told) + "\n").encode())
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(os.WIFEXITED(status) and os.WEXITSTATUS(status) for status in ended))


if __name__ == "__main__":
    main()

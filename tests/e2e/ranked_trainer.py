"""Trains in several processes that talk through gloo; run by test_ranks.py.

    python ranked_trainer.py DATASET RUN PROCESSES [KILL_AT]

With KILL_AT the last process ends itself with SIGKILL after that step. Prints, for each process,
how it ended, and the loss of the initial model as it measured it.
"""

import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import torch
from killed_trainer import CONFIG

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
    config = replace(CONFIG, model=replace(CONFIG.model, dropout=0.0))
    config = replace(config, training=replace(config.training, steps=16, batch_rows=5))
    opened = Dataset.open(dataset)
    compute = Compute(torch.device("cpu"), False)
    with ranks.connected("cpu"):
        model = initialized_model(config, compute)
        loss = evaluate(model, opened.valid, 1, 16, compute, rows=2, stride=8, ranks=ranks).loss
        watcher = Suicidal(kill_at if ranks.rank == ranks.world - 1 else 0)
        try:
            outcome = Trainer(RunFolder(run), config, opened, watcher, ranks=ranks).train()
        except MicrogptError as error:
            return {"rank": ranks.rank, "error": str(error)}
    return {"rank": ranks.rank, "status": outcome.status, "loss": repr(loss)}


def main() -> None:
    dataset, run, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    kill_at = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    torch.set_num_threads(1)
    if not run.exists():
        RunFolder.create(run.parent, run.name)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(processes):
        if (child := os.fork()) == 0:
            ranks = Ranks(rank, processes, rank, processes)
            told = json.dumps(work(dataset, run, ranks, kill_at)) + "\n"
            os.write(1, told.encode())
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()

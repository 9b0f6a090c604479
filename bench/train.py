"""Training speed beside nanoGPT's unmodified `train.py`, at equal shape and batch.

    python bench/train.py --nanogpt PATH [--shapes 0.2M,0.8M] [--rounds 3] [--threads 1]

PATH is a checkout of github.com/karpathy/nanoGPT. Both train on the same random bytes, eager, in
float32 on the CPU with the same number of threads, in turns; ours is the default recipe (Muon,
QK-norm, SwiGLU, data loading and metrics included). A step's time is the median over all rounds,
its CPU time the median of the rounds' means. Prints Markdown for `bench/results/`.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
STEPS = 40
TOKENS = 400_000


@dataclass(frozen=True)
class Shape:
    """What both sides build."""

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    context: int
    rows: int


SHAPES = [
    Shape("0.2M", 4, 4, 64, 64, 32),
    Shape("0.8M", 4, 4, 128, 64, 12),
    Shape("7M", 9, 4, 256, 256, 8),
    Shape("30M", 10, 8, 512, 256, 4),
]


@dataclass
class Timing:
    """Seconds of single steps, and CPU seconds by step."""

    steps: list[float]
    cpu: list[float]


def nanogpt(path: Path, shape: Shape, steps: int) -> list[str]:
    """Returns the command that trains nanoGPT for `steps`."""
    settings = {
        "dataset": "bench", "device": "cpu", "compile": False, "dtype": "float32",
        "eval_interval": 10**6, "eval_iters": 1, "log_interval": 1, "max_iters": steps,
        "lr_decay_iters": steps, "warmup_iters": 1, "gradient_accumulation_steps": 1,
        "batch_size": shape.rows, "block_size": shape.context, "n_layer": shape.n_layer,
        "n_head": shape.n_head, "n_embd": shape.n_embd, "dropout": 0.0, "learning_rate": 1e-3,
        "always_save_checkpoint": False, "out_dir": str(path / "out-bench"),
    }  # fmt: skip
    return [sys.executable, "train.py", *(f"--{key}={value}" for key, value in settings.items())]


def prepare(nanogpt_path: Path, folder: Path) -> None:
    """Writes the same random bytes as nanoGPT's data and as ours."""
    sys.path.insert(0, str(ROOT / "tests"))
    from reference.dataset_folder import write_dataset_folder  # type: ignore[import-not-found]

    ids = np.random.default_rng(0).integers(0, 256, TOKENS)
    theirs = nanogpt_path / "data" / "bench"
    theirs.mkdir(parents=True, exist_ok=True)
    for name in ("train", "val"):
        ids.astype(np.uint16).tofile(theirs / f"{name}.bin")
    # nanoGPT reads the size of its vocabulary from a pickle; nothing of ours does.
    (theirs / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 256}))
    write_dataset_folder(folder / "data", ids.tolist(), ids[:1000].tolist())


def timed(command: list[str], cwd: Path, threads: int) -> tuple[list[float], float]:
    """Runs a training; returns its steps' seconds, and CPU seconds a step, the first two left out.

    The process' own CPU time is read whenever it prints a step, so start and end do not count.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    times, spent = [], []
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout is not None
        for line in p.stdout:
            if step := re.search(r"time ([\d.]+)ms", line):
                times.append(float(step[1]) / 1000)
                spent.append(cpu_seconds(p.pid))
    if p.returncode:
        raise SystemExit(f"{command} failed")
    return times[2:], (spent[-1] - spent[1]) / (len(spent) - 2)


def cpu_seconds(pid: int) -> float:
    """Returns the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ours(folder: Path, shape: Shape, threads: int) -> None:
    """Trains in this process, printing steps as nanoGPT does."""
    from microgpt.device import calm_threads

    calm_threads()
    from microgpt.config import ModelConfig, RunConfig, TrainingConfig
    from microgpt.data.shards import Dataset
    from microgpt.run_folder import RunFolder
    from microgpt.training.trainer import Trainer

    model = ModelConfig(
        n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd, context=shape.context
    )
    training = TrainingConfig(batch_rows=shape.rows, steps=STEPS, evaluate_every=10**6,
                              evaluate_tokens=1, device="cpu", threads=threads)  # fmt: skip

    class Printer:
        def step(self, row) -> None:
            print(f"time {1000 * row['step_seconds']:.2f}ms")

        def sample(self, step, text) -> None:
            pass

        def say(self, sentence) -> None:
            pass

    run = RunFolder.create(folder / "runs")
    config = RunConfig(model=model, training=training)
    Trainer(run, config, Dataset.open(folder / "data"), Printer()).train()


def compare(path: Path, shapes: list[Shape], rounds: int, threads: int) -> None:
    """Prints the table."""
    from microgpt.config import ModelConfig
    from microgpt.model.sizes import parameter_count

    print(
        "| shape | layers x width, context, rows | parameters, nanoGPT / ours "
        "| nanoGPT, ms a step (CPU) | ours | tokens/s, ours | ratio by CPU time | by median |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(path, folder)
        for shape in shapes:
            sides = {"nanogpt": Timing([], []), "ours": Timing([], [])}
            for _ in range(rounds):
                for side, timing in sides.items():
                    command = nanogpt(path, shape, STEPS)
                    if side == "ours":
                        command = [sys.executable, __file__, "--ours", temporary, shape.name,
                                   str(threads)]  # fmt: skip
                    times, cpu = timed(command, path if side == "nanogpt" else ROOT, threads)
                    timing.steps += times
                    timing.cpu.append(cpu)
            them, us = sides["nanogpt"], sides["ours"]
            cpu = [statistics.median(side.cpu) for side in (them, us)]
            wall = [statistics.median(side.steps) for side in (them, us)]
            model = ModelConfig(n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd)
            width = shape.n_embd
            theirs = 12 * shape.n_layer * width**2 + width * (256 + shape.context)
            print(
                f"| {shape.name} | {shape.n_layer} x {width}, {shape.context}, {shape.rows} "
                f"| {theirs:,} / {parameter_count(model):,} "
                f"| {1000 * wall[0]:.1f} ({1000 * cpu[0]:.1f}) "
                f"| {1000 * wall[1]:.1f} ({1000 * cpu[1]:.1f}) "
                f"| {shape.rows * shape.context / wall[1]:,.0f} "
                f"| {cpu[0] / cpu[1]:.2f} | {wall[0] / wall[1]:.2f} |",
                flush=True,
            )


def main() -> None:
    if sys.argv[1:2] == ["--ours"]:
        folder, name, threads = sys.argv[2:]
        shape = next(shape for shape in SHAPES if shape.name == name)
        ours(Path(folder), shape, int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--shapes", default="0.2M,0.8M,7M,30M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    wanted = arguments.shapes.split(",")
    shapes = [shape for shape in SHAPES if shape.name in wanted]
    compare(arguments.nanogpt.resolve(), shapes, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()

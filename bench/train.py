"""Training speed beside nanoGPT's unmodified `train.py`, at equal shape and batch.

    python bench/train.py --nanogpt PATH [--shapes 0.2M,0.8M] [--rounds 3] [--threads 1]
        [--dtype float32,bfloat16] [--dropout 0.1] [--compiled]

PATH is a checkout of github.com/karpathy/nanoGPT. Both train on the same random bytes, on the CPU
with the same number of threads, in turns: nanoGPT in float32, as it always does there, eager or
with `--compiled`; ours is the default recipe (Muon, QK-norm, SwiGLU, data loading and the step's
checks included, writing its metrics not), with matrix products in each `--dtype`. A step's time is
the median over all rounds, its CPU time the median of the rounds' means. `share` is the model's
operations in a step (6 a weight and token, and attention without the saving of causality) over what
one large float32 product does in that CPU time. `--dropout` is for both. With `--compiled` the
ratios are those of a run of 2,000 steps, with what compiling takes counted.
Prints Markdown for `bench/results/`.
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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RUN_STEPS = 2000
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
    steps: int


SHAPES = [
    Shape("0.2M", 4, 4, 64, 64, 32, 40),
    Shape("0.8M", 4, 4, 128, 64, 12, 40),
    Shape("7M", 9, 4, 256, 256, 8, 8),
    Shape("30M", 10, 8, 512, 256, 4, 6),
]


@dataclass
class Timing:
    """Seconds of single steps; by round, CPU seconds a step, and those before the steps counted."""

    steps: list[float]
    cpu: list[float]
    start: list[float]

    def run(self, steps: int) -> tuple[float, float]:
        """CPU and wall seconds of a run of `steps`, with its start where that is counted."""
        start = statistics.median(self.start) if self.start else 0.0
        return (
            start + steps * statistics.median(self.cpu),
            start + steps * statistics.median(self.steps),
        )


def nanogpt(path: Path, shape: Shape, dropout: float, compiled: bool) -> list[str]:
    """Returns the command that trains nanoGPT."""
    settings = {
        "dataset": "bench", "device": "cpu", "compile": compiled, "dtype": "float32",
        "eval_interval": 10**6, "eval_iters": 1, "log_interval": 1, "max_iters": shape.steps,
        "lr_decay_iters": shape.steps, "warmup_iters": 1, "gradient_accumulation_steps": 1,
        "batch_size": shape.rows, "block_size": shape.context, "n_layer": shape.n_layer,
        "n_head": shape.n_head, "n_embd": shape.n_embd, "dropout": dropout, "learning_rate": 1e-3,
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


def timed(command: list[str], cwd: Path, threads: int) -> tuple[list[float], float, float]:
    """Runs a training; returns its steps' seconds, CPU seconds a step, and CPU seconds of the first
    two steps, which are left out of both.

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
    return times[2:], (spent[-1] - spent[1]) / (len(spent) - 2), sum(times[:2])


def matrix_rate(threads: int) -> float:
    """Returns the operations a second of a float32 product of 1,024 x 1,024 matrices."""
    import torch

    torch.set_num_threads(threads)
    a, b, c = (torch.randn(1024, 1024) for _ in range(3))
    times = []
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b, out=c)
        times.append(time.perf_counter() - started)
    return 2 * 1024**3 / statistics.median(times)


def cpu_seconds(pid: int) -> float:
    """Returns the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ours(folder: Path, shape: Shape, threads: int, dtype: Any, dropout: float) -> None:
    """Trains in this process, printing steps as nanoGPT does."""
    from microgpt.device import calm_threads

    calm_threads()
    from microgpt.config import ModelConfig, RunConfig, TrainingConfig
    from microgpt.data.shards import Dataset
    from microgpt.run_folder import RunFolder
    from microgpt.training.trainer import Trainer

    model = ModelConfig(
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        context=shape.context,
        dropout=dropout,
    )
    training = TrainingConfig(
        batch_rows=shape.rows,
        steps=shape.steps,
        evaluate_every=10**6,
        evaluate_tokens=1,
        device="cpu",
        threads=threads,
        dtype=dtype,
    )

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


def compare(path: Path, shapes: list[Shape], options: argparse.Namespace) -> None:
    """Prints the table, with a row for each shape and precision of ours."""
    print(f"One {options.threads}-thread float32 product: {matrix_rate(options.threads) / 1e9:.0f} "
          "billion operations a second.\n")  # fmt: skip
    print(
        "| shape | layers x width, context, rows | parameters, nanoGPT / ours "
        "| nanoGPT, ms a step (CPU) | ours | tokens/s, ours | share "
        "| ratio by CPU time | by median |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    dtypes = options.dtype.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(path, folder)
        for shape in shapes:
            timings = {side: Timing([], [], []) for side in ("nanogpt", *dtypes)}
            for _ in range(options.rounds):
                for side, timing in timings.items():
                    command = nanogpt(path, shape, options.dropout, options.compiled)
                    if side != "nanogpt":
                        command = [sys.executable, __file__, "--ours", temporary, shape.name,
                                   str(options.threads), side, str(options.dropout)]  # fmt: skip
                    cwd = path if side == "nanogpt" else ROOT
                    steps, cpu, start = timed(command, cwd, options.threads)
                    timing.steps += steps
                    timing.cpu.append(cpu)
                    if options.compiled:
                        timing.start.append(start)
            for dtype in dtypes:
                print_row(shape, dtype, timings["nanogpt"], timings[dtype], options.threads)


def print_row(shape: Shape, dtype: str, them: Timing, us: Timing, threads: int) -> None:
    """Prints one row of the table."""
    from microgpt.config import ModelConfig
    from microgpt.model.sizes import flops_per_token, parameter_count

    width, tokens = shape.n_embd, shape.rows * shape.context
    model = ModelConfig(
        n_layer=shape.n_layer, n_head=shape.n_head, n_embd=width, context=shape.context
    )
    theirs = 12 * shape.n_layer * width**2 + width * (256 + shape.context)
    cells = []
    for side in (them, us):
        start = f" + {statistics.median(side.start):.1f} s" if side.start else ""
        step, cpu = statistics.median(side.steps), statistics.median(side.cpu)
        cells.append(f"{1000 * step:.1f} ({1000 * cpu:.1f}){start}")
    share = tokens * flops_per_token(model) / statistics.median(us.cpu) / matrix_rate(threads)
    ratios = [a / b for a, b in zip(them.run(RUN_STEPS), us.run(RUN_STEPS), strict=True)]
    print(
        f"| {shape.name}, {dtype} | {shape.n_layer} x {width}, {shape.context}, {shape.rows} "
        f"| {theirs:,} / {parameter_count(model):,} | {cells[0]} | {cells[1]} "
        f"| {tokens / statistics.median(us.steps):,.0f} | {share:.2f} "
        f"| {ratios[0]:.2f} | {ratios[1]:.2f} |",
        flush=True,
    )


def main() -> None:
    if sys.argv[1:2] == ["--ours"]:
        folder, name, threads, dtype, dropout = sys.argv[2:]
        shape = next(shape for shape in SHAPES if shape.name == name)
        ours(Path(folder), shape, int(threads), dtype, float(dropout))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--shapes", default="0.2M,0.8M,7M,30M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    wanted = options.shapes.split(",")
    shapes = [shape for shape in SHAPES if shape.name in wanted]
    compare(options.nanogpt.resolve(), shapes, options)


if __name__ == "__main__":
    main()

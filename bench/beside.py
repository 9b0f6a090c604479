"""Training speed while other work keeps all processors but one busy.

    python bench/beside.py [--shapes 0.2M,0.8M] [--rounds 3] [--steps 150]

In turns: `microgpt train --threads 1` alone; `microgpt train`, which chooses its threads, beside a
process that spins on each processor but one; and beside them with a thread for each processor, as
torch would train by itself. Bytes are random; a step's time is the median over all rounds, without
the first ten steps of each. Prints Markdown for `bench/results/`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

SHAPES = {
    "0.2M": ["--n-layer=4", "--n-head=4", "--n-embd=64", "--context=64", "--batch-rows=32"],
    "0.8M": ["--n-layer=4", "--n-head=4", "--n-embd=128", "--context=64", "--batch-rows=12"],
}
TOKENS = {"0.2M": 32 * 64, "0.8M": 12 * 64}
UNCOUNTED = 10


def main() -> None:
    """Prints a row for each shape and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    flags = parser.parse_args()
    processors = len(os.sched_getaffinity(0))
    ways: dict[str, tuple[int, list[str]]] = {
        "one thread, alone": (0, ["--threads=1"]),
        "threads as chosen, beside": (processors - 1, []),
        f"{processors} threads, beside": (processors - 1, [f"--threads={processors}"]),
    }
    print("| shape | way | ms a step | tokens/s | of one thread alone |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = np.random.default_rng(0).integers(97, 123, 400_000, np.uint8)
        (folder / "text.txt").write_bytes(text.tobytes())
        for shape in flags.shapes.split(","):
            times: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(flags.rounds):
                for place, (way, (spinners, options)) in enumerate(ways.items()):
                    name = f"{shape}-{number}-{place}"
                    with spinning(spinners):
                        times[way] += steps(folder, name, [*SHAPES[shape], *options], flags.steps)
            alone = statistics.median(times["one thread, alone"])
            for way, seconds in times.items():
                step = statistics.median(seconds)
                print(
                    f"| {shape} | {way} | {1000 * step:.1f} | {TOKENS[shape] / step:,.0f} "
                    f"| {alone / step:.2f} |",
                    flush=True,
                )


@contextmanager
def spinning(processes: int) -> Iterator[None]:
    """Keeps so many processors busy."""
    command = [sys.executable, "-c", "while True: pass"]
    spinners = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def steps(folder: Path, name: str, options: list[str], count: int) -> list[float]:
    """Trains and returns the seconds of the steps that count."""
    command = [sys.executable, "-m", "microgpt", "train", "text.txt", "--byte", "--device=cpu",
               f"--steps={count}", f"--evaluate-every={10**6}", "--log=off", f"--name={name}",
               "--set", "training.evaluate_tokens=64", *options]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    rows = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["step_seconds"] for row in rows][UNCOUNTED:]


if __name__ == "__main__":
    main()

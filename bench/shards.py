"""Text -> shards as a share of encode speed, and its peak memory as the input grows.

    python bench/shards.py TEXT [--scratch FOLDER] [--copies 1,10] [--rounds 5] [--threads 1,2]

Equality first: the ids in the shards of TEXT are those that `Tokenizer.encode` gives. Then, turn
and turn about, each in a process of its own (so caches are cold for both): TEXT repeated `copies`
times is encoded in memory, some 500 MB at a time, and written as shards into SCRATCH. The tokenizer
is trained on TEXT. Encoding has its text in memory and keeps its ids there; shards read, hash,
split, write and sync. Give a SCRATCH on tmpfs to measure the program, on a disk to measure both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from conditions import processor

from microgpt import _core
from microgpt.data.prepare import SHARD_TOKENS, Source
from microgpt.data.shards import Dataset
from microgpt.text.tokenizer import Tokenizer

VOCAB_SIZE = 32_768
SLICE_BYTES = 500_000_000
"""Text encoded in memory at once."""


def main() -> None:
    arguments = parse()
    if arguments.only:
        print(json.dumps(measure(arguments)))
        return
    place = Path(arguments.scratch)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="microgpt-", dir=place) as scratch:
        compare(arguments, Path(scratch))


def compare(arguments: argparse.Namespace, scratch: Path) -> None:
    tokenizer = Tokenizer.train(arguments.text, vocab_size=VOCAB_SIZE)
    tokenizer.save(scratch / "tokenizer.json")
    print(
        f"{processor()}, {os.cpu_count()} cores; {tokenizer.vocab_size} ids trained on "
        f"{arguments.text.name}, pattern {tokenizer.pattern}; into {scratch.parent}; "
        f"medians of {arguments.rounds}\n"
    )
    print(
        "| copies | MB | threads | encode MB/s | shards MB/s | share | encode CPU-s | shards CPU-s "
        "| encode peak MB | shards peak MB |\n" + "|---" * 10 + "|"
    )
    check_equal(arguments.text, tokenizer, scratch)
    for copies in arguments.copies:
        text = repeated(arguments.text, copies, scratch)
        for threads in arguments.threads:
            print(row(text, copies, threads, arguments.rounds, scratch), flush=True)
        text.unlink()


def parse() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--scratch", default=tempfile.gettempdir())
    parser.add_argument("--copies", type=numbers, default=[1, 10])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["encode", "shards"], help=argparse.SUPPRESS)
    return parser.parse_args()


def repeated(text: Path, copies: int, scratch: Path) -> Path:
    path = scratch / f"text-{copies}.txt"
    content = text.read_bytes()
    with path.open("wb") as file:
        for _ in range(copies):
            file.write(content)
    return path


def write_shards(
    text: Path, tokenizer: Tokenizer, folder: Path, threads: int, valid_fraction: float | None
) -> None:
    _core.write_dataset(
        tokenizer._core,
        folder,
        Source((str(text),), valid_fraction=valid_fraction),
        shard_tokens=SHARD_TOKENS,
        threads=threads,
        progress=None,
    )


def check_equal(text: Path, tokenizer: Tokenizer, scratch: Path) -> None:
    folder = scratch / "checked"
    write_shards(text, tokenizer, folder, 2, 0.0)
    train = Dataset.open(folder).train
    ids = tokenizer.encode_ordinary(text.read_bytes())
    assert np.array_equal(train.read(0, train.tokens), ids), "the shards hold other ids"
    shutil.rmtree(folder)


def row(text: Path, copies: int, threads: int, rounds: int, scratch: Path) -> str:
    """Returns a line of the table: medians over rounds of the two, interleaved."""
    results: dict[str, list[dict[str, float]]] = {"encode": [], "shards": []}
    for _ in range(rounds):
        for what, seen in results.items():
            command = [sys.executable, __file__, str(text), "--only", what]
            command += ["--scratch", str(scratch), "--threads", str(threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            seen.append(json.loads(done.stdout))
    megabytes = text.stat().st_size / 1e6

    def median(what: str, key: str) -> float:
        return statistics.median(result[key] for result in results[what])

    shares = [
        encode["seconds"] / shards["seconds"]
        for encode, shards in zip(results["encode"], results["shards"], strict=True)
    ]
    return (
        f"| {copies} | {megabytes:.0f} | {threads} | {megabytes / median('encode', 'seconds'):.0f} "
        f"| {megabytes / median('shards', 'seconds'):.0f} | {statistics.median(shares):.0%} "
        f"| {median('encode', 'cpu'):.2f} | {median('shards', 'cpu'):.2f} "
        f"| {median('encode', 'peak') / 1e6:.0f} | {median('shards', 'peak') / 1e6:.0f} |"
    )


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Returns wall and CPU seconds, and peak memory in bytes, of one round in this process."""
    scratch, threads = Path(arguments.scratch), arguments.threads[0]
    tokenizer = Tokenizer.from_file(scratch / "tokenizer.json")
    folder = scratch / "dataset"
    shutil.rmtree(folder, ignore_errors=True)
    clocks = time.perf_counter, time.process_time
    spent = [0.0, 0.0]

    def timed(work: Callable[[], object]) -> None:
        began = [clock() for clock in clocks]
        work()
        for i, clock in enumerate(clocks):
            spent[i] += clock() - began[i]

    if arguments.only == "encode":
        with arguments.text.open("rb") as file:
            while text := file.read(SLICE_BYTES):
                timed(partial(tokenizer.encode_ordinary, text, threads=threads))
    else:
        timed(lambda: write_shards(arguments.text, tokenizer, folder, threads, None))
    seconds, cpu = spent
    return {"seconds": seconds, "cpu": cpu, "peak": peak_bytes()}


def peak_bytes() -> int:
    """Returns this process's peak memory; Linux's ru_maxrss would count the parent's too."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()

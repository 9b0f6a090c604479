"""Training a BPE tokenizer: CPU time, wall time and memory against rustbpe, ffbpe and gigatoken.

    python bench/train_tokenizer.py english.txt code.txt.xz --sizes 1000 8000 --rounds 5

Every run is a process of its own, and the trainers take turns within each round. What is timed is
the training alone, from the text to the finished merges: microgpt and gigatoken read the file in
it, the others are handed the text as a string. All use the gpt2 pattern and break ties by ids. A
trainer whose merges are not those of microgpt is reported as unequal, and gets no time.

The peers may live in another environment: `--peer-python` names its interpreter.
"""

import argparse
import hashlib
import importlib
import json
import lzma
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from conditions import commit, keep, on_processors, processor

GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
MEGABYTE = 1 << 20


def prepare_microgpt(path, size, threads):
    from microgpt import Tokenizer

    def tokens(trained):
        return [trained.token_bytes(id) for id in range(256, size)]

    return lambda: Tokenizer.train(path, vocab_size=size, threads=threads), tokens


def prepare_rustbpe(path, size, threads):
    text, trainer = read(path), importlib.import_module("rustbpe").Tokenizer()

    def train():
        trainer.train_from_iterator(iter([text]), size, pattern=GPT2)
        return trainer

    def tokens(trained):
        ranked = sorted(trained.get_mergeable_ranks(), key=lambda token: token[1])
        return [bytes(token) for token, _ in ranked][256:]

    return train, tokens


def prepare_ffbpe(path, size, threads):
    ffbpe, text = importlib.import_module("ffbpe"), read(path)

    def tokens(trained):
        return sorted(trained.vocab, key=trained.vocab.__getitem__)[256:]

    return lambda: ffbpe.train_bpe(text, vocab_size=size), tokens


def prepare_gigatoken(path, size, threads):
    gigatoken = importlib.import_module("gigatoken")

    def train():
        source = gigatoken.TextFileSource([path])
        return gigatoken.train_bpe(source, size, [], "raw_token_ids")

    return train, lambda trained: [trained[0][id] for id in range(256, size)]


TRAINERS = {
    "microgpt": prepare_microgpt,
    "gigatoken": prepare_gigatoken,
    "ffbpe": prepare_ffbpe,
    "rustbpe": prepare_rustbpe,
}


def read(path):
    return Path(path).read_bytes().decode()


def measure_here(name, path, size, threads):
    """Trains once in this process; prints the measurements and a hash of the merges as JSON."""
    train, tokens = TRAINERS[name](path, size, threads)
    # gigatoken talks while it works; what it says must not mix with the answer.
    answer = os.dup(1)
    os.dup2(2, 1)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    trained = train()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = tokens(trained)
    digest = hashlib.sha256(b"".join(len(t).to_bytes(4, "little") + t for t in found)).hexdigest()
    unit = 1 if sys.platform == "darwin" else 1024
    facts = {"cpu": cpu, "wall": wall, "peak": after.ru_maxrss * unit, "merges": digest}
    os.write(answer, json.dumps(facts).encode())


def measure(name, path, size, threads, interpreter):
    """One run in a new process, on `threads` processors; None where the trainer fails."""
    command = [interpreter, __file__, "--run", name, str(path), str(size), str(threads)]
    done = subprocess.run(
        command, capture_output=True, check=False, preexec_fn=on_processors(threads)
    )
    if done.returncode:
        print(f"{name}: {done.stderr.decode(errors='replace').strip()[-300:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


def compare(path, size, arguments):
    """A list of measurements for each trainer, taken in turns."""
    runs = {name: [] for name in arguments.trainers}
    for _ in range(arguments.rounds):
        for name, measured in runs.items():
            interpreter = sys.executable if name == "microgpt" else arguments.peer_python
            if run := measure(name, path, size, arguments.threads, interpreter):
                measured.append(run)
    return {name: measured for name, measured in runs.items() if measured}


def rows(corpus, size, runs):
    """One line of the table for each trainer."""
    expected = runs["microgpt"][0]["merges"]
    ours = median(runs["microgpt"], "cpu")
    for name, measured in runs.items():
        label = f"| {corpus} | {size:,} | {name} |"
        if any(run["merges"] != expected for run in measured):
            yield f"{label} unequal merges | | | |"
            continue
        cpu, wall, peak = (median(measured, key) for key in ("cpu", "wall", "peak"))
        yield f"{label} {cpu:.3f} | {wall:.3f} | {peak / MEGABYTE:.0f} | {cpu / ours:.1f} |"


def median(measured, key):
    return statistics.median(run[key] for run in measured)


def heading(arguments):
    date = datetime.now(UTC).date().isoformat()
    return [
        f"# Training a tokenizer, {date}",
        "",
        f"{processor()}, {os.cpu_count()} processors, {platform.system()}; "
        f"commit {commit()}; {arguments.threads} thread(s); "
        f"medians of {arguments.rounds} interleaved rounds, each run a new process; "
        "gpt2 pattern, ties by ids, equal merges checked first.",
        "",
        "| corpus | ids | trainer | CPU s | wall s | peak MB | CPU / ours |",
        "|---|---|---|---|---|---|---|",
    ]


def unpacked(path, folder):
    """The path of the plain text."""
    if path.suffix != ".xz":
        return path
    plain = folder / path.stem
    plain.write_bytes(lzma.decompress(path.read_bytes()))
    return plain


def main():
    if sys.argv[1:2] == ["--run"]:
        name, path, size, threads = sys.argv[2:]
        return measure_here(name, path, int(size), int(threads))
    parser = argparse.ArgumentParser(
        description="Time the training of a tokenizer against its peers."
    )
    parser.add_argument("texts", nargs="+", type=Path, help="plain text, or .xz of it")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 8000, 32_768, 50_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=list(TRAINERS))
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    if "microgpt" not in arguments.trainers:
        parser.error("--trainers must name microgpt: the others are compared with it")
    lines = heading(arguments)
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for text in arguments.texts:
            path = unpacked(text, Path(folder))
            for size in arguments.sizes:
                for row in rows(path.stem, size, compare(path, size, arguments)):
                    print(row, flush=True)
                    lines.append(row)
    keep(lines, arguments.output)
    return None


if __name__ == "__main__":
    main()

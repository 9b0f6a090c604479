"""Encoding one piece without a split point: speed against the peers, growth with the length.

    python bench/pieces.py --vocabularies ../shared/data/openai

Pieces of one letter, random letters, digits and spaces, in gpt2's vocabulary. Each run is a process
of its own, and its first call counts, as if the piece came from a file; ids are compared first. The
second table is ours alone, from 10 KB to 100 MB: n log n would add a constant to the time a byte
with every tenfold.
"""

import argparse
import random
import string
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from conditions import commit, keep, processor
from encode import ENCODERS, MEGABYTE, VOCABULARIES, measure, median

KINDS = {
    "one letter": "a",
    "random letters": string.ascii_lowercase,
    "digits": string.digits,
    "spaces": " ",
}
GROWTH = [10_000, 100_000, MEGABYTE, 10 * MEGABYTE, 100 * MEGABYTE]


def piece(kind, length, folder):
    """The path of a file that holds such a piece."""
    path = folder / f"{kind.replace(' ', '-')}-{length}"
    if not path.exists():
        letters = KINDS[kind]
        drawn = random.Random(length).choices(letters, k=length)
        path.write_text("".join(drawn), encoding="ascii")
    return path


def runs(kind, length, encoders, folder, arguments):
    """For each encoder the runs of the rounds, in turns."""
    text = piece(kind, length, folder)
    found = {name: [] for name in encoders}
    for _ in range(arguments.rounds):
        for name, measured in found.items():
            if run := measure(name, "gpt2", folder / "gpt2.tiktoken", text, arguments):
                measured.append(run)
    return {name: measured for name, measured in found.items() if measured}


def compared(folder, arguments):
    """A line for each kind, length and encoder."""
    for kind in KINDS:
        for length in (MEGABYTE, 10 * MEGABYTE):
            found = runs(kind, length, arguments.encoders, folder, arguments)
            ours = median(found["microgpt"], "cold")
            for name, measured in found.items():
                label = f"| {kind} | {length // MEGABYTE} MB | {name} |"
                if any(run["ids"] != found["microgpt"][0]["ids"] for run in measured):
                    yield f"{label} other ids | |"
                    continue
                rate = median(measured, "cold")
                yield f"{label} {length / rate * 1000:.1f} | {ours / rate:.2f} |"


def grown(folder, arguments):
    """A line for each kind: nanoseconds a byte at each length."""
    for kind in KINDS:
        found = [runs(kind, length, ["microgpt"], folder, arguments) for length in GROWTH]
        times = [1e9 / median(run["microgpt"], "cold") for run in found]
        yield f"| {kind} | " + " | ".join(f"{time:.1f}" for time in times) + " |"


def prepare(folder, vocabularies):
    """Puts gpt2's ranks, and the same as `tokenizer.json`, into the folder."""
    from microgpt import Tokenizer

    ranks = folder / "gpt2.tiktoken"
    ranks.write_bytes((vocabularies / f"{VOCABULARIES['gpt2']}.tiktoken").read_bytes())
    Tokenizer.from_tiktoken(ranks, "gpt2").save(ranks.with_suffix(".json"))


def main():
    parser = argparse.ArgumentParser(description="Time the encoding of one long piece.")
    parser.add_argument(
        "--vocabularies", type=Path, required=True, help="folder of .tiktoken files"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--encoders",
        nargs="+",
        default=["microgpt", "gigatoken", "tokie"],
        choices=list(ENCODERS),
    )
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    if "microgpt" not in arguments.encoders:
        parser.error("the ratios are ours to each: --encoders needs microgpt")
    # What `measure` asks for besides.
    for name, value in {"limit": GROWTH[-1], "threads": 1, "repeats": 1}.items():
        setattr(arguments, name, value)
    arguments.documents = arguments.cjk = False
    lines = [
        f"# Encoding one piece, {datetime.now(UTC).date().isoformat()}",
        "",
        f"{processor()}; commit {commit()}; gpt2's vocabulary, one thread, CPU time of the first "
        f"call; medians of {arguments.rounds} interleaved rounds, each run a new process.",
        "",
        "| piece | length | encoder | ms | time / ours |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.vocabularies)
        lines += compared(folder, arguments)
        lengths = " | ".join(f"{length:,}" for length in GROWTH)
        lines += ["", f"| ns a byte | {lengths} |", "|---|" + "---|" * len(GROWTH)]
        lines += grown(folder, arguments)
    print("\n".join(lines))
    keep(lines, arguments.output)


if __name__ == "__main__":
    main()

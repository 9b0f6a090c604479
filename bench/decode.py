"""What surrounds encoding: decoding, lists of ids, loading: against gigatoken and fastokens.

    python bench/decode.py english.txt.xz --vocabularies ../shared/data/openai

Every run is a process of its own, and the tokenizers take turns within each round. Results are
compared first: decoded bytes with the text, lists with tiktoken's rule as our arrays give it (which
`encode.py` compares with tiktoken). CPU time on one processor; a rate is that of the text.

The peers may live in another environment: `--peer-python` names its interpreter.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from conditions import commit, keep, on_processors, processor
from encode import GPT2, MEGABYTE, VOCABULARIES, read

LOADED = "o200k"
"""The vocabulary that is loaded, of 200,000 ids; text is encoded with gpt2's."""


def prepare_microgpt(folder):
    from microgpt import Tokenizer

    def load(name):
        return Tokenizer.from_file(folder / f"{VOCABULARIES[name]}.tiktoken")

    one = load("gpt2")
    return load, {
        "encode to a list": lambda text, ids, listed: one.encode_to_list(
            text, disallowed_special=(), threads=1
        ),
        "decode to bytes": lambda text, ids, listed: one.decode_bytes(ids),
        "decode to str": lambda text, ids, listed: one.decode(ids),
        "decode a list": lambda text, ids, listed: one.decode_bytes(listed),
    }


def prepare_gigatoken(folder):
    gigatoken = importlib.import_module("gigatoken")

    def load(name):
        path = folder / f"{VOCABULARIES[name]}.tiktoken"
        return gigatoken.Tokenizer.from_tiktoken(path, name, {})

    one = load("gpt2")
    return load, {
        "encode to a list": lambda text, ids, listed: one.encode_batch_list([text])[0],
        "decode to bytes": lambda text, ids, listed: one.decode(ids),
        "decode to str": lambda text, ids, listed: one.decode(ids).decode(),
        "decode a list": lambda text, ids, listed: one.decode(listed),
    }


def prepare_fastokens(folder):
    fastokens = importlib.import_module("fastokens")

    def load(name):
        known = {"pattern": GPT2} if name == "gpt2" else {"encoding": VOCABULARIES[name]}
        path = folder / f"{VOCABULARIES[name]}.tiktoken"
        return fastokens.Tokenizer.from_tiktoken(str(path), **known)

    one = load("gpt2")
    return load, {
        "encode to a list": lambda text, ids, listed: one.encode(text).ids,
        "decode to str": lambda text, ids, listed: one.decode(listed),
    }


TOKENIZERS = {
    "microgpt": prepare_microgpt,
    "gigatoken": prepare_gigatoken,
    "fastokens": prepare_fastokens,
}


def seconds(work, repeats):
    """The median CPU time of a call, the first left out."""
    times = []
    for _ in range(1 + repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times[1:])


def measure_here(name, folder, text, limit, repeats, ids_file):
    """Prints what each task took, or that its result is not what it should be."""
    import numpy as np

    text = read(Path(text), limit)
    ids = np.load(ids_file)
    listed = ids.tolist()
    load, tasks = TOKENIZERS[name](Path(folder))
    expected = {"encode to a list": listed, "decode to str": text}
    taken = {}
    for task, work in tasks.items():
        equal = work(text, ids, listed) == expected.get(task, text.encode())
        taken[task] = seconds(lambda work=work: work(text, ids, listed), repeats) if equal else None
    taken["load"] = seconds(lambda: load(LOADED), repeats)
    print(json.dumps(taken))


def measure(name, arguments, ids_file):
    """One run in a new process; None where it fails."""
    interpreter = sys.executable if name == "microgpt" else arguments.peer_python
    settings = (
        arguments.vocabularies,
        arguments.text,
        arguments.limit,
        arguments.repeats,
        ids_file,
    )
    command = [interpreter, __file__, "--run", name, *map(str, settings)]
    done = subprocess.run(command, capture_output=True, check=False, preexec_fn=on_processors(1))
    if done.returncode:
        print(f"{name}: {done.stderr.decode(errors='replace').strip()[-300:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def write_ids(arguments, path):
    """Our ids of the text, and the number of its bytes."""
    import numpy as np

    from microgpt import Tokenizer

    text = read(arguments.text, arguments.limit)
    ranks = arguments.vocabularies / f"{VOCABULARIES['gpt2']}.tiktoken"
    np.save(path, Tokenizer.from_file(ranks).encode_ordinary(text))
    return len(text.encode())


def rows(runs, bytes_):
    """A line for each task and tokenizer."""
    for task in runs["microgpt"][0]:
        ours = statistics.median(run[task] for run in runs["microgpt"])
        for name, measured in runs.items():
            times = [run.get(task) for run in measured]
            if any(time is None for time in times):
                if all(task in run for run in measured):
                    yield f"| {task} | {name} | unequal | |"
                continue
            median = statistics.median(times)
            rate = f"{bytes_ / median / MEGABYTE:.0f} MB/s"
            shown = f"{median * 1000:.0f} ms" if task == "load" else rate
            yield f"| {task} | {name} | {shown} | {median / ours:.2f} |"


def import_row(rounds):
    """Wall time of a new interpreter that imports the package, less that of one that does not."""

    def wall(code):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    pairs = [
        (wall("pass"), wall("import microgpt"), wall("from microgpt import Tokenizer"))
        for _ in range(rounds * 3)
    ]
    bare, light, whole = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    return (
        f"`import microgpt` takes {light - bare:.0f} ms, `from microgpt import Tokenizer` (with "
        f"NumPy) {whole - bare:.0f} ms, over the {bare:.0f} ms of a bare interpreter (wall time)."
    )


def main():
    if sys.argv[1:2] == ["--run"]:
        name, folder, text, limit, repeats, ids_file = sys.argv[2:]
        return measure_here(name, folder, text, int(limit), int(repeats), ids_file)
    parser = argparse.ArgumentParser(description="Time decoding, lists of ids and loading.")
    parser.add_argument("text", type=Path, help="plain text, or .xz of it")
    parser.add_argument(
        "--vocabularies", type=Path, required=True, help="folder of .tiktoken files"
    )
    parser.add_argument("--limit", type=int, default=15 * MEGABYTE, help="bytes of the text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="timed calls in a run")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    ids_file = Path(os.environ.get("TMPDIR", "/tmp")) / f"decode-{os.getpid()}.npy"
    try:
        bytes_ = write_ids(arguments, ids_file)
        runs = {name: [] for name in TOKENIZERS}
        for _ in range(arguments.rounds):
            for name, measured in runs.items():
                if run := measure(name, arguments, ids_file):
                    measured.append(run)
    finally:
        ids_file.unlink(missing_ok=True)
    lines = [
        f"# Decoding, lists, loading, {datetime.now(UTC).date().isoformat()}",
        "",
        f"{processor()}, {os.cpu_count()} processors; commit {commit()}; one processor, CPU time; "
        f"{bytes_ / MEGABYTE:.0f} MB of {arguments.text.name.split('.')[0]} in gpt2's ids; load: "
        f"{LOADED}'s ranks; medians of {arguments.rounds} interleaved rounds, each run a new "
        "process; results compared first.",
        "",
        "| task | tokenizer | | time / ours |",
        "|---|---|---|---|",
        *rows({name: measured for name, measured in runs.items() if measured}, bytes_),
        "",
        import_row(arguments.rounds),
    ]
    print("\n".join(lines))
    keep(lines, arguments.output)
    return None


if __name__ == "__main__":
    main()

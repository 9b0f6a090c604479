"""Encoding text to NumPy ids: speed against tiktoken, gigatoken and fastokens, cold and warm.

    python bench/encode.py english.txt.xz code.txt.xz --vocabularies ../shared/data/openai

Every run is a process of its own, and the encoders take turns within each round. Cold is the first
text that a new tokenizer encodes, warm the median of the calls after it, both in CPU time from
`str` to a NumPy array; `microgpt-bytes` is given UTF-8 instead, as it comes from a file. With
`--documents` the text is cut into parts of 100 to 2,500 bytes, which one call encodes to flat ids
and offsets; `--cjk` leaves the lines that are mostly Chinese, Japanese or Korean. More than one
thread is measured in wall time. An encoder whose ids are not those of tiktoken is reported as
unequal, and gets no time. Only ratios within one table mean anything.

The peers may live in another environment: `--peer-python` names its interpreter.
"""

import argparse
import hashlib
import importlib
import itertools
import json
import lzma
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np
from conditions import commit, keep, on_processors, processor

MEGABYTE = 1_000_000
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
VOCABULARIES = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}


def prepare_microgpt(path, name, threads):
    from microgpt import Tokenizer

    tokenizer = Tokenizer.from_tiktoken(path, name)
    options = {"disallowed_special": (), "threads": threads}
    return (
        lambda text: tokenizer.encode(text, **options),
        lambda texts: tokenizer.encode_batch(texts, **options),
    )


def prepare_tiktoken(path, name, threads):
    tiktoken = importlib.import_module("tiktoken")
    public = importlib.import_module("tiktoken_ext.openai_public")
    ranks = importlib.import_module("tiktoken.load").load_tiktoken_bpe(str(path))
    with mock.patch.object(public, "load_tiktoken_bpe", return_value=ranks):
        settings = getattr(public, VOCABULARIES[name])()
    settings.pop("explicit_n_vocab", None)
    encoding = tiktoken.Encoding(**settings)

    def batch(texts):
        lists = encoding.encode_ordinary_batch(texts, num_threads=threads)
        lengths = np.fromiter(map(len, lists), np.uint64, len(lists))
        ids = np.fromiter(itertools.chain.from_iterable(lists), np.uint32, int(lengths.sum()))
        return ids, np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths)])

    return lambda text: encoding.encode_to_numpy(text, disallowed_special=()), batch


def prepare_gigatoken(path, name, threads):
    gigatoken = importlib.import_module("gigatoken")
    tokenizer = gigatoken.Tokenizer.from_tiktoken(path, name, {})
    # Its first batch imports awkward, which is no part of encoding.
    importlib.import_module("awkward")

    def batch(texts):
        layout = tokenizer.encode_batch(texts, parallel=threads > 1).layout
        return layout.content.data, layout.offsets.data

    return tokenizer.encode, batch


def prepare_fastokens(path, name, threads):
    fastokens = importlib.import_module("fastokens")
    known = {"pattern": GPT2} if name == "gpt2" else {"encoding": VOCABULARIES[name]}
    flat = fastokens.Tokenizer.from_tiktoken(str(path), **known).encode_batch_flat

    def batch(texts):
        ids, offsets = flat(texts, False, True)
        return np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64)

    return lambda text: batch([text])[0], batch


def prepare_tokie(path, name, threads):
    tokie = importlib.import_module("tokie")
    tokenizer = tokie.Tokenizer.from_json(str(path.with_suffix(".json")))

    def batch(texts):
        ids, lengths = tokenizer.encode_batch_flat(texts)
        return ids, np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths)])

    return lambda text: tokenizer.encode(text).ids, batch


ENCODERS = {
    "microgpt": prepare_microgpt,
    "microgpt-bytes": prepare_microgpt,
    "gigatoken": prepare_gigatoken,
    "fastokens": prepare_fastokens,
    "tiktoken": prepare_tiktoken,
    "tokie": prepare_tokie,
}
"""What prepares each: a function of a text to ids, and one of texts to flat ids and offsets."""

USUAL = [name for name in ENCODERS if name != "tokie"]
"""tokie reads a `tokenizer.json` beside the ranks, which `pieces.py` writes."""


def read(path, limit, cjk=False):
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rb") as file:
        if not cjk:
            return file.read(limit).decode(errors="ignore")
        lines = filter(mostly_cjk, file.read().decode(errors="ignore").splitlines(keepends=True))
    return "".join(lines).encode()[:limit].decode(errors="ignore")


def mostly_cjk(line):
    """Whether more than half of the characters are ideographs, kana or Hangul."""
    found = sum("\u3041" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3" for c in line)
    return 2 * found > len(line)


def documents(text):
    """The text in parts of 100 to 2,500 bytes, wherever they end."""
    lengths, parts, start, data = random.Random(1), [], 0, text.encode()
    while start < len(data):
        end = start + lengths.randint(100, 2500)
        parts.append(data[start:end].decode(errors="ignore"))
        start = end
    return parts


def hashed(result):
    """A hash of ids, and of offsets where there are some."""
    parts = result if isinstance(result, tuple) else (result,)
    digest = hashlib.sha256()
    for part, dtype in zip(parts, (np.uint32, np.uint64), strict=False):
        digest.update(np.asarray(part, dtype).tobytes())
    return digest.hexdigest()


def measure_here(name, vocabulary, path, text, limit, threads, repeats, in_documents, cjk):
    """Encodes `1 + repeats` times in this process; prints the rates and a hash of the ids."""
    text = read(Path(text), limit, cjk)
    encode, encode_batch = ENCODERS[name](Path(path), vocabulary, threads)
    if in_documents:
        text, encode = documents(text), encode_batch
        bytes_ = sum(len(document.encode()) for document in text)
    else:
        utf8 = text.encode()
        bytes_ = len(utf8)
        if name == "microgpt-bytes":
            text = utf8
        del utf8
    ids, times = None, []
    for _ in range(1 + repeats):
        ids, started, cpu = None, time.perf_counter(), time.process_time()
        ids = encode(text)
        times.append((time.process_time() - cpu, time.perf_counter() - started))
    clock = 0 if threads == 1 else 1
    warm = statistics.median(time[clock] for time in times[1:])
    facts = {"cold": bytes_ / times[0][clock], "warm": bytes_ / warm, "ids": hashed(ids)}
    print(json.dumps(facts))


def measure(name, vocabulary, path, text, arguments):
    """One run in a new process; None where the encoder fails."""
    interpreter = sys.executable if name.startswith("microgpt") else arguments.peer_python
    settings = (
        arguments.limit,
        arguments.threads,
        arguments.repeats,
        int(arguments.documents),
        int(arguments.cjk),
    )
    command = [interpreter, __file__, "--run", name, vocabulary, str(path), str(text)]
    command += [str(setting) for setting in settings]
    done = subprocess.run(
        command, capture_output=True, check=False, preexec_fn=on_processors(arguments.threads)
    )
    if done.returncode:
        print(f"{name}: {done.stderr.decode(errors='replace').strip()[-300:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def rows(vocabulary, text, arguments):
    """One line of the table for each encoder, measured in turns."""
    path = arguments.vocabularies / f"{VOCABULARIES[vocabulary]}.tiktoken"
    runs = {name: [] for name in arguments.encoders}
    for _ in range(arguments.rounds):
        for name, measured in runs.items():
            if run := measure(name, vocabulary, path, text, arguments):
                measured.append(run)
    runs = {name: measured for name, measured in runs.items() if measured}
    expected = runs["tiktoken" if "tiktoken" in runs else "microgpt"][0]["ids"]
    ours = {key: median(runs["microgpt"], key) for key in ("cold", "warm")}
    for name, measured in runs.items():
        label = f"| {vocabulary} | {text.name.split('.')[0]} | {name} |"
        if any(run["ids"] != expected for run in measured):
            yield f"{label} unequal ids | | | |"
            continue
        cold, warm = median(measured, "cold"), median(measured, "warm")
        ratios = f"{ours['cold'] / cold:.2f} | {ours['warm'] / warm:.2f}"
        yield f"{label} {cold / MEGABYTE:.1f} | {warm / MEGABYTE:.1f} | {ratios} |"


def median(measured, key):
    return statistics.median(run[key] for run in measured)


def heading(arguments):
    clock = "CPU time" if arguments.threads == 1 else "wall time"
    return [
        f"# Encoding text, {datetime.now(UTC).date().isoformat()}",
        "",
        f"{processor()}, {os.cpu_count()} processors, {platform.system()}; "
        f"commit {commit()}; {arguments.threads} thread(s), {clock}; the first "
        f"{arguments.limit / MEGABYTE:.0f} MB of each text; medians of {arguments.rounds} "
        f"interleaved rounds, each run a new process; equal ids checked first."
        + " Documents of 100 to 2,500 bytes in one call, with offsets." * arguments.documents
        + " Lines that are mostly Chinese, Japanese or Korean." * arguments.cjk,
        "",
        "| vocabulary | text | encoder | cold MB/s | warm MB/s | ours / it, cold | warm |",
        "|---|---|---|---|---|---|---|",
    ]


def main():
    if sys.argv[1:2] == ["--run"]:
        name, vocabulary, path, text, *numbers = sys.argv[2:]
        return measure_here(name, vocabulary, path, text, *map(int, numbers))
    parser = argparse.ArgumentParser(description="Time the encoding of text against the peers.")
    parser.add_argument("texts", nargs="+", type=Path, help="plain text, or .xz of it")
    parser.add_argument(
        "--vocabularies", type=Path, required=True, help="folder of .tiktoken files"
    )
    parser.add_argument("--patterns", nargs="+", default=list(VOCABULARIES), choices=VOCABULARIES)
    parser.add_argument("--limit", type=int, default=15 * MEGABYTE, help="bytes of each text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5, help="warm calls in a run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--documents", action="store_true", help="many small texts in one call")
    parser.add_argument("--cjk", action="store_true", help="only lines in scripts without spaces")
    parser.add_argument("--encoders", nargs="+", default=USUAL, choices=list(ENCODERS))
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    if "microgpt" not in arguments.encoders:
        parser.error("the ratios are ours to each: --encoders needs microgpt")
    lines = heading(arguments)
    print("\n".join(lines), flush=True)
    for vocabulary in arguments.patterns:
        for text in arguments.texts:
            for row in rows(vocabulary, text, arguments):
                print(row, flush=True)
                lines.append(row)
    keep(lines, arguments.output)
    return None


if __name__ == "__main__":
    main()

"""Millions of generated strings, each encoded here, by tiktoken and by Hugging Face's tokenizers.

    python tests/differential.py --seeds 10000          # ten million strings, 20 minutes or more

A seed stands for a thousand strings (`reference/strings.py`). tiktoken's ids are compared under
every published vocabulary; those of `tokenizers`, which is slower, under one pattern a seed, in
turns. The first difference ends the run with its seed, tokenizer and string.
"""

import argparse
import os
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import tokenizers

from microgpt import Tokenizer
from reference.strings import strings
from unit.text.conftest import PUBLISHED, published, tiktoken_of

STRINGS = 1000
PATTERNS = ("gpt2", "cl100k", "o200k", "llama3", "qwen2", "none")


def in_huggingface(folder):
    """For each pattern, a tokenizer of ours with it, and theirs from the file that ours wrote."""
    merges, pairs = published("cl100k_base").merges, []
    # Ids of a trained vocabulary: cl100k's own order of bytes is another.
    first = {published("cl100k_base").token_id(bytes([byte])): byte for byte in range(256)}
    merges = np.vectorize(lambda id: first.get(id, id))(merges)
    for pattern in PATTERNS:
        ours = Tokenizer.from_merges(merges, pattern, ["<|endoftext|>"])
        path = folder / f"{pattern}.json"
        ours.save(path)
        pairs.append((pattern, ours, tokenizers.Tokenizer.from_file(str(path))))
    return pairs


def compare(seed, name, ours, texts, expected):
    """Ends the program where our ids of `texts` are not the expected ones."""
    ids, offsets = ours.encode_batch(texts, disallowed_special=(), threads=1)
    if not np.array_equal(ids, np.fromiter(chain.from_iterable(expected), np.uint32)):
        for place, text in enumerate(texts):
            found = ids[offsets[place] : offsets[place + 1]].tolist()
            if found != list(expected[place]):
                sys.exit(f"seed {seed}, {name}: {text!r} is {found}, not {list(expected[place])}")
        sys.exit(f"seed {seed}, {name}: ids agree, but not where texts begin")
    if ours.decode_bytes(ids) != "".join(texts).encode():
        sys.exit(f"seed {seed}, {name}: the ids do not decode to the texts")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10_000)
    arguments = parser.parse_args()
    ours_and_tiktokens = [(name, published(name), tiktoken_of(name)) for name in PUBLISHED]
    with tempfile.TemporaryDirectory() as folder:
        huggingface = in_huggingface(Path(folder))
    began = time.time()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for done, seed in enumerate(seeds, 1):
        texts = strings(seed, STRINGS)
        for name, ours, theirs in ours_and_tiktokens:
            compare(seed, f"tiktoken {name}", ours, texts, [*map(theirs.encode_ordinary, texts)])
        name, ours, theirs = huggingface[seed % len(huggingface)]
        # Their special token would be found in text; there is no way to make it plain.
        plain = [text.replace("<|endoftext|>", "") for text in texts]
        theirs_ids = [one.ids for one in theirs.encode_batch(plain, add_special_tokens=False)]
        compare(seed, f"tokenizers, pattern {name}", ours, plain, theirs_ids)
        if done % 100 == 0:
            print(f"{done * STRINGS:,} strings equal, {time.time() - began:.0f} s", flush=True)
    print(f"seeds {seeds.start} to {seeds.stop - 1}: all equal")


if __name__ == "__main__":
    main()

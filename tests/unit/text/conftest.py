"""Real text and published vocabularies, from beside the repository where they are there."""

import base64
import hashlib
import importlib
import lzma
import random
import tempfile
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

from microgpt import Tokenizer

DATA = Path(__file__).parents[4] / "shared" / "data"
PUBLISHED = {
    "r50k_base": "gpt2",
    "p50k_base": "gpt2",
    "cl100k_base": "cl100k",
    "o200k_base": "o200k",
}
CORPORA = (
    *("english", "code", "multilingual", "shakespeare", "tinystories-train"),
    *("tinystories-valid", "web", "wikitext-train-head", "wikitext-valid", "wikitext-test"),
)


def data_file(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@cache
def corpus(name, limit):
    """The beginning of a corpus, without a cut character at its end."""
    packed = DATA / f"{name}.txt.xz"
    path = packed if packed.exists() else data_file(f"{name}.txt")
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rb") as file:
        return file.read(limit).decode(errors="ignore")


P50K_SHA256 = "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"


@cache
def ranks_of(name):
    """The lines of a published vocabulary."""
    if name != "p50k_base":
        return data_file(f"openai/{name}.tiktoken").read_bytes()
    # p50k is r50k and the runs of 2 to 25 spaces; tiktoken states the hash of the whole file.
    runs = [(base64.b64encode(b" " * length), 50255 + length) for length in range(2, 26)]
    lines = ranks_of("r50k_base") + b"".join(b"%s %d\n" % run for run in runs)
    assert hashlib.sha256(lines).hexdigest() == P50K_SHA256
    return lines


@cache
def published(name):
    """Our tokenizer of a published vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.tiktoken"
        path.write_bytes(ranks_of(name))
        return Tokenizer.from_file(path)


@cache
def tiktoken_of(name):
    """tiktoken's own, offline."""
    tiktoken = pytest.importorskip("tiktoken")
    public = importlib.import_module("tiktoken_ext.openai_public")
    pairs = [line.split() for line in ranks_of(name).splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    with mock.patch.object(public, "load_tiktoken_bpe", return_value=ranks):
        settings = getattr(public, name)()
    # The published number of ids counts no special tokens that a file may leave out.
    settings.pop("explicit_n_vocab", None)
    return tiktoken.Encoding(**settings)


WORDS = (
    *("don't", "I'LL", "we've", "'S", "'ſ", "K", "naïve", "e\u0301", "日本語", "한국어", "прИвет"),
    *("12345", "²³", "Ⅷ", "٣٤", "…", "--", "/*", "\r\n", "\n", "\n\n", " ", "  ", "\t", "\u3000"),
    *("\u00a0", "\u2028", "\u200b", "👩‍👩‍👧", "🇫🇷", "\U0001f600", "<|x|>", "a", "Z", "hello", "\0"),
    *("ǅ", "ʰ", "ಠ", "\ufffd", "\U00010ffff"[:1], "x" * 70, " " * 70, "=" * 40),
)


def generated(seed, pieces=400):
    """A string of awkward parts; the same for the same seed."""
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) for _ in range(pieces))

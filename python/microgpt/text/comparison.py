"""Two tokenizers side by side: what they share, and what they make of one text."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from microgpt.text.tokenizer import Tokenizer

ROUNDS = 3
"""Timed calls of each tokenizer, in turns, after one that is not timed."""
SPLIT_BYTES = 4_000_000
"""Bytes of a text whose splits are compared."""


@dataclass(frozen=True)
class Overlap:
    """How many tokens (by their bytes, special ones by their text) two vocabularies share."""

    shared: int
    only_left: int
    only_right: int
    same_id: int
    """Shared tokens that have one id in both."""


@dataclass(frozen=True)
class Difference:
    """A stretch of text between two cuts that both make, which they cut differently inside."""

    left: tuple[bytes, ...]
    right: tuple[bytes, ...]
    count: int


@dataclass(frozen=True)
class OnText:
    """What two tokenizers make of one text; pairs are (left, right)."""

    text_bytes: int
    tokens: tuple[int, int]
    bytes_per_token: tuple[float, float]
    seconds: tuple[float, float]
    """Of one encoding on one thread: the median of a few, in turns, each tokenizer warm."""
    differing_bytes: int
    """Bytes that lie in differing stretches, of the first `compared_bytes`."""
    compared_bytes: int
    differences: list[Difference]
    """The most frequent first."""


def overlap(left: Tokenizer, right: Tokenizer) -> Overlap:
    """Returns what the vocabularies share."""
    ours = {token: id for id, token in enumerate(left.tokens()) if token is not None}
    theirs = {token: id for id, token in enumerate(right.tokens()) if token is not None}
    shared = ours.keys() & theirs.keys()
    return Overlap(
        shared=len(shared),
        only_left=len(ours) - len(shared),
        only_right=len(theirs) - len(shared),
        same_id=sum(ours[token] == theirs[token] for token in shared),
    )


def compare_on(left: Tokenizer, right: Tokenizer, text: bytes) -> OnText:
    """Returns sizes, times and differing splits on a text of at least one byte."""
    pair = (left, right)
    tokens = tuple(len(one.encode_ordinary(text, threads=1)) for one in pair)
    seconds = _seconds(pair, text)
    compared = text[:SPLIT_BYTES]
    differences, differing = _differences(pair, compared)
    return OnText(
        text_bytes=len(text),
        tokens=(tokens[0], tokens[1]),
        bytes_per_token=(len(text) / tokens[0], len(text) / tokens[1]),
        seconds=seconds,
        differing_bytes=differing,
        compared_bytes=len(compared),
        differences=differences,
    )


def _seconds(pair: tuple[Tokenizer, Tokenizer], text: bytes) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for tokenizer, taken in zip(pair, times, strict=True):
            began = time.perf_counter()
            tokenizer.encode_ordinary(text, threads=1)
            taken.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def _differences(pair: tuple[Tokenizer, Tokenizer], text: bytes) -> tuple[list[Difference], int]:
    """The stretches between shared cuts that are cut differently, and their bytes in all."""
    cuts = [_cuts(tokenizer, text) for tokenizer in pair]
    shared = np.intersect1d(*cuts, assume_unique=True)
    inner = [np.diff(np.searchsorted(one, shared)) for one in cuts]
    places = np.flatnonzero((inner[0] > 1) | (inner[1] > 1))
    found: Counter[tuple[tuple[bytes, ...], tuple[bytes, ...]]] = Counter()
    differing = 0
    for place in places.tolist():
        start, end = int(shared[place]), int(shared[place + 1])
        differing += end - start
        left, right = (_parts(text, one, start, end) for one in cuts)
        found[left, right] += 1
    differences = [Difference(*parts, count) for parts, count in found.most_common()]
    return differences, differing


def _cuts(tokenizer: Tokenizer, text: bytes) -> NDArray[np.int64]:
    """Where tokens begin in the text, and its end."""
    _, spans = tokenizer.encode_with_offsets(text, disallowed_special=(), threads=1)
    return np.append(spans[:, 0], len(text)).astype(np.int64)


def _parts(text: bytes, cuts: NDArray[np.int64], start: int, end: int) -> tuple[bytes, ...]:
    first, last = np.searchsorted(cuts, (start, end))
    inner = cuts[first : last + 1].tolist()
    return tuple(text[a:b] for a, b in pairwise(inner))

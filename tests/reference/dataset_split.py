"""The split of docs/formats.md, and the documents of a text, as plainly as they can be written."""

from __future__ import annotations

import hashlib
import math

LINE_SEARCH_BYTES = 1 << 20


def documents_of(text: bytes, separator: bytes) -> list[bytes]:
    first, *rest = text.split(separator)
    after = [
        part[2:] if part.startswith(b"\r\n") else part[1:] if part.startswith(b"\n") else part
        for part in rest
    ]
    return [document for document in [first, *after] if document]


def default_fraction(text_bytes: int) -> float:
    return 0.1 if text_bytes <= 1_000_000 else min(0.05, 20e6 / text_bytes)


def number(document: bytes, seed: int) -> int:
    digest = hashlib.sha256(seed.to_bytes(8, "little") + document[:4096]).digest()
    return int.from_bytes(digest[:8], "big")


def tail_start(document: bytes, fraction: float) -> int:
    start = math.ceil((1.0 - fraction) * len(document))
    tail = len(document) - start
    if tail < 8:
        return len(document)
    found = document.find(b"\n", start - 1, start - 1 + min(tail // 2, LINE_SEARCH_BYTES))
    if found >= 0:
        return found + 1
    while document[start] & 0xC0 == 0x80:
        start += 1
    return start


def split_documents(
    documents: list[bytes], fraction: float | None, seed: int
) -> tuple[list[bytes], list[bytes]]:
    """Returns what training gets and what validation gets."""
    total = sum(map(len, documents))
    if fraction is None:
        fraction = default_fraction(total)
    if fraction == 0:
        return documents, []
    if len(documents) >= max(20, math.ceil(10 / fraction)):
        kept = {n for d in documents if (n := number(d, seed)) < fraction * 2.0**64}
        return by_number(documents, kept, seed)
    kept = lowest_numbers(documents, fraction * total, seed) if len(documents) >= 20 else set()
    if kept:
        return by_number(documents, kept, seed)
    cuts = [tail_start(document, fraction) for document in documents]
    train = [document[:cut] for document, cut in zip(documents, cuts, strict=True)]
    valid = [document[cut:] for document, cut in zip(documents, cuts, strict=True)]
    return train, [tail for tail in valid if tail]


def by_number(documents: list[bytes], kept: set[int], seed: int) -> tuple[list[bytes], list[bytes]]:
    train = [document for document in documents if number(document, seed) not in kept]
    return train, [document for document in documents if number(document, seed) in kept]


def lowest_numbers(documents: list[bytes], wanted: float, seed: int) -> set[int]:
    groups: dict[int, int] = {}
    for document in documents:
        groups[number(document, seed)] = groups.get(number(document, seed), 0) + len(document)
    kept, held = set(), 0
    for one in sorted(groups):
        if held < wanted and held + groups[one] <= 2 * wanted:
            held += groups[one]
            kept.add(one)
    return kept

"""Awkward strings to compare tokenizers on; a seed gives the same ones on every machine."""

import random
import unicodedata
from functools import cache

PARTS = (
    *("don't", "I'LL", "we've", "'S", "'ſ", "'s", "'re", "'K", "K", "naïve", "e\u0301", "日本語"),
    *("한국어", "прИвет", "ΣΊΣΥΦΟΣ", "İi", "ǅ", "ʰ", "ಠ_ಠ", "हिन्दी", "ไทย", "العربية", "a\u0345"),
    *("12345", "1", "²³", "Ⅷ", "٣٤", "…", "--", "/*", "//", "={", "});", "_x", "a.b", "http://"),
    *("\r\n", "\n", "\n\n", "\r", " ", "  ", "   ", "\t", "\u3000", "\u00a0", "\u2028", "\u200b"),
    *("\x0b", "\x0c", "\x85", "\x1c", "\u180e", "\ufeff", "\0", "\x7f", "\ufffd", "\U0010ffff"),
    *("👩‍👩‍👧", "🇫🇷", "\U0001f600", "<|x|>", "<|endoftext|>", "<|endo", "a", "Z", "hello", "World"),
    *("McDonald", "camelCase", "XMLHttp", "ZZz", "zZ", "'", "''", '"', ".", ",", "!?", "x" * 17),
    *(" " * 15, "=" * 16, "ab" * 40, "\n " * 9, "é" * 20),
)
DRAWN = 200
"""Characters that each seed adds to `PARTS`."""


def strings(seed: int, count: int) -> list[str]:
    """Returns `count` strings of 1 to 15 parts."""
    rng = random.Random(seed)
    kinds = list(_by_category().values())
    drawn = [rng.choice(rng.choice(kinds)) for _ in range(DRAWN)]
    parts = (*PARTS, *drawn)
    lengths = rng.choices(range(1, 16), k=count)
    chosen = iter(rng.choices(parts, k=sum(lengths)))
    return ["".join(next(chosen) for _ in range(length)) for length in lengths]


@cache
def _by_category() -> dict[str, list[str]]:
    """All characters, unassigned ones too, by general category (that of Python's Unicode)."""
    found: dict[str, list[str]] = {}
    for point in range(0x110000):
        char = chr(point)
        category = unicodedata.category(char)
        if category != "Cs":
            found.setdefault(category, []).append(char)
    return found

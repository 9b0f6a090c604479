"""The synthetic corpora of `dummy_data/`, recognised from their text, with their entropy floors.

No model's loss on fresh text of such a corpus can be lower than the floor, so a run on one can say
how far from perfect it is. A text is recognised when a large sample of it obeys the grammar of one
corpus line for line and its draws look even; the scripts derive the floors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLE_BYTES = 4 * 2**20
"""A longer text is judged by four stretches of a quarter of this each."""
FEWEST_LINES = 50
"""Of fewer lines nobody can say from what they were drawn."""
DEVIATIONS = 6.0
"""Standard deviations by which a mean of even draws may be off."""

_ADDITION = re.compile(rb"(?:\d{1,18} \+ \d{1,18} = \d{1,19};\n)+")
_NUMBERS = re.compile(rb"(\d+) \+ (\d+) = (\d+)")
_SIMPLE = re.compile(rb"(?:(?:[bcdfghjk][aeiou]){2,3};\n)+")
_ACTIONS = re.compile(rb"(?:[a-f]{4,8}(?:0|[1256][a-f]{0,3}|[3478][g-l]{0,3}|9z);\n)+")
_ACTION = re.compile(r"([a-f]+)([0-9])([a-z]*)")
_SEQUENCE_PERIOD = b"".join(
    bytes([b"abcdefgh"[i % 8], b"@#$%^"[i % 5], b"@#$%^"[i % 5]]) for i in range(40)
)
_SIX_ON = str.maketrans("abcdef", "ghijkl")
_PRINTED_BARE = {
    "27139d27f950000db91a0ff2dda0914420b016980c36cd65e4d6dd7b25dce8d4": "addition",
    "56b9c61ae2c861939f37728b1e672231082007368679acc91fd4bd599f2d501b": "simple",
    "6723383b2a8606f2e88ba42a7715f1df2f84dae085022ea4eab5f6eb60afb088": "actions",
    "9d26ed27e21589e9df35c321a3dd9e12653defc1344e9c2f28e400389f382037": "sequence",
}
"""SHA-256 of what each script prints when run bare."""


@dataclass(frozen=True)
class KnownCorpus:
    """A corpus whose entropy is known."""

    name: str
    """As in `dummy_data/NAME_dummy.py`."""
    floor_nats_per_byte: float
    """The entropy per byte, line ends included."""
    description: str
    """What is in it, for people."""


@dataclass(frozen=True)
class _Stretch:
    """Whole lines from a text; `first` when they are its first lines."""

    text: bytes
    first: bool


def recognise(source: Path | bytes) -> KnownCorpus | None:
    """Returns which synthetic corpus a text file, or a text, was drawn from; None for any other.

    A path that is no regular file is none of them.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        size, chunks = len(source), [source[:SAMPLE_BYTES]]
        if size > SAMPLE_BYTES:
            chunks = [source[start : start + length] for start, length in _places(size)]
    else:
        if not source.is_file():
            return None
        size = source.stat().st_size
        chunks = list(_read(source, size))
    if _is_sequence(chunks):
        return KnownCorpus("sequence", 0.0, "two interleaved cycles, all foreseeable")
    stretches = [_whole_lines(chunk, i, len(chunks)) for i, chunk in enumerate(chunks)]
    for judge in (_addition, _simple, _actions):
        known = judge(stretches)
        if known is not None:
            return known
    return None


def command_of(sha256: str) -> str | None:
    """Returns the command that prints the text with this SHA-256 in hexadecimal, where known."""
    name = _PRINTED_BARE.get(sha256)
    return f"python dummy_data/{name}_dummy.py" if name else None


def _places(size: int) -> list[tuple[int, int]]:
    """Returns the start and length of each chunk to look at: the whole, or four parts of it."""
    if size <= SAMPLE_BYTES:
        return [(0, size)]
    length = SAMPLE_BYTES // 4
    return [((size - length) * i // 3, length) for i in range(4)]


def _read(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        for start, length in _places(size):
            file.seek(start)
            yield file.read(length)


def _whole_lines(chunk: bytes, index: int, count: int) -> _Stretch:
    """Returns the chunk without the lines that its edges, those inside the text, cut through."""
    if index > 0:
        chunk = chunk[chunk.find(b"\n") + 1 :]
    if index < count - 1 or not chunk.endswith(b"\n"):
        chunk = chunk[: chunk.rfind(b"\n") + 1]
    return _Stretch(chunk, index == 0)


def _off_centre(total: float, count: int, mean: float, variance: float) -> bool:
    """Returns whether `count` independent draws with this mean and variance hardly sum to this."""
    return abs(total - count * mean) > DEVIATIONS * math.sqrt(count * variance) + 1e-9


def _is_sequence(chunks: list[bytes]) -> bool:
    """Returns whether every chunk lies on the cycle, in any phase; a last line end may follow."""
    for chunk in (*chunks[:-1], chunks[-1].removesuffix(b"\n")):
        if len(chunk) < len(_SEQUENCE_PERIOD):
            return False
        phase = (2 * _SEQUENCE_PERIOD).find(chunk[: len(_SEQUENCE_PERIOD)])
        repeated = _SEQUENCE_PERIOD * (len(chunk) // len(_SEQUENCE_PERIOD) + 2)
        if phase < 0 or chunk != repeated[phase : phase + len(chunk)]:
            return False
    return True


def _addition(stretches: list[_Stretch]) -> KnownCorpus | None:
    draws: list[int] = []
    for stretch in stretches:
        if _ADDITION.fullmatch(stretch.text) is None:
            return None
        for first, second, answer in _NUMBERS.findall(stretch.text):
            a, b = int(first), int(second)
            if b"%d + %d = %d" % (a, b, a + b) != b"%b + %b = %b" % (first, second, answer):
                return None
            draws += (a, b)
    if len(draws) < 2 * FEWEST_LINES or not _even(draws):
        return None
    low, high = min(draws), max(draws)
    floor = 2 * math.log(high - low + 1) / _addition_length(low, high)
    return KnownCorpus("addition", floor, f"sums of two numbers in {low}..{high}")


def _even(draws: list[int]) -> bool:
    """Returns whether the numbers look drawn evenly from their range, and each anew.

    Sums listed in order, as in a held-out set, would pass for neither.
    """
    low, high = min(draws), max(draws)
    mean, variance = (low + high) / 2, ((high - low + 1) ** 2 - 1) / 12
    if variance == 0:
        return True
    if _off_centre(sum(draws), len(draws), mean, variance):
        return False
    for lag in (1, 2):
        products = sum((x - mean) * (y - mean) for x, y in zip(draws, draws[lag:], strict=False))
        if _off_centre(products, len(draws) - lag, 0, variance**2):
            return False
    return True


def _addition_length(low: int, high: int) -> float:
    """Returns the mean length of a line in bytes, its end included: see `addition_dummy.py`."""
    count = high - low + 1
    digits = 3.0
    power = 10
    while power <= 2 * high:
        digits += 2 * max(0, min(count, high - power + 1)) / count
        above = power - 2 * low
        if above <= 0:
            below = 0.0
        elif above <= count:
            below = above * (above + 1) / 2
        else:
            below = count**2 - (2 * count - 1 - above) * (2 * count - above) / 2
        digits += 1 - below / count**2
        power *= 10
    return 8 + digits


def _simple(stretches: list[_Stretch]) -> KnownCorpus | None:
    words = long = 0
    for stretch in stretches:
        if _SIMPLE.fullmatch(stretch.text) is None:
            return None
        lines = stretch.text.decode("ascii").split(";\n")[:-1]
        firsts = [word[0] for word in lines]
        for i, word in enumerate(lines):
            if len(set(word)) < len(word) or word[0] in firsts[max(0, i - 3) : i]:
                return None
        words += len(lines)
        long += sum(len(word) == 6 for word in lines)
    if words < FEWEST_LINES or _off_centre(long, words, 0.5, 0.25):
        return None
    nats = 2 * math.log(5) + math.log(7) + math.log(4) + math.log(2) + math.log(6 * 3) / 2
    return KnownCorpus("simple", nats / 7, "made-up words of four or six letters")


def _actions(stretches: list[_Stretch]) -> KnownCorpus | None:
    lines = letters_total = digits_total = 0
    for stretch in stretches:
        if _ACTIONS.fullmatch(stretch.text) is None:
            return None
        before = "" if stretch.first else None
        for letters, digit, result in _ACTION.findall(stretch.text.decode("ascii")):
            action = int(digit)
            source = before if 5 <= action <= 8 else letters
            if source is not None and result != _action_result(source, action):
                return None
            before = letters
            lines += 1
            letters_total += len(letters)
            digits_total += action
    if (
        lines < FEWEST_LINES
        or _off_centre(letters_total, lines, 6, 2)
        or _off_centre(digits_total, lines, 4.5, 8.25)
    ):
        return None
    nats = math.log(5) + 6 * math.log(6) + math.log(10)
    return KnownCorpus("actions", nats / 11.5, "letters, an action, and what it makes of them")


def _action_result(source: str, action: int) -> str:
    """Returns what an action makes of the letters that it works on: see `actions_dummy.py`."""
    if action in (0, 9):
        return "z" if action == 9 else ""
    three = source[:3] if action % 2 else source[-3:]
    return three.translate(_SIX_ON) if action in (3, 4, 7, 8) else three

"""Prints actions on letters, `deacdc9z;` a line: python dummy_data/actions_dummy.py > dataset.txt

A line is 4 to 8 letters of `abcdef`, a digit, what the action of that digit makes, and `;`:

    0  nothing
    1  the first three letters             2  the last three letters
    3  as 1, each letter moved six on      4  as 2, each letter moved six on (a -> g, f -> l)
    5-8  as 1-4, on the letters of the line before (nothing on the first line, which has none)
    9  z

"The letters of a line" are those before its digit. The length, each letter and the digit are drawn
evenly. --held-out prints lines whose letters and digit, together, the corpus of the same seed and
lines does not hold; they stand in one text of their own, so that 5-8 have a line before.

Entropy. What the action makes follows from the rest, so a line carries the choice of its length, of
6 letters on average, and of its digit: ln 5 + 6 ln 6 + ln 10 = 14.6626 nats, in 6 letters, the
digit, (8 * 3 + 1) / 10 = 2.5 letters made, `;` and the line end, 11.5 characters on average:
1.2750 nats a character. (The first line, which may make less, does not matter.)
"""

import argparse
import math
import os
import random
import sys
from collections.abc import Collection

LETTERS = "abcdef"
LENGTHS = range(4, 9)
SIX_ON = str.maketrans(LETTERS, "ghijkl")

Line = tuple[str, int]
"""A line's letters and its digit."""


def made(letters: str, digit: int, letters_before: str) -> str:
    """Returns what the action `digit` makes."""
    if digit in (0, 9):
        return "z" if digit == 9 else ""
    source, action = (letters_before, digit - 4) if digit > 4 else (letters, digit)
    three = source[:3] if action in (1, 3) else source[-3:]
    return three.translate(SIX_ON) if action > 2 else three


def draw_lines(choices: random.Random, lines: int, unwanted: Collection[Line] = ()) -> list[Line]:
    """Returns letters and digits in order, drawing again in place of any that are unwanted."""
    drawn: list[Line] = []
    while len(drawn) < lines:
        letters = "".join(choices.choices(LETTERS, k=choices.choice(LENGTHS)))
        line = letters, choices.randrange(10)
        if line not in unwanted:
            drawn.append(line)
    return drawn


def as_text(lines: list[Line]) -> str:
    """Returns the lines with what their actions make."""
    before = ["", *(letters for letters, _ in lines)]
    return "".join(
        f"{letters}{digit}{made(letters, digit, letters_before)};\n"
        for (letters, digit), letters_before in zip(lines, before, strict=False)
    )


def entropy() -> float:
    """Returns the corpus' entropy in nats a character."""
    return (math.log(5) + 6 * math.log(6) + math.log(10)) / 11.5


def main() -> None:
    """Prints what the flags ask for."""
    parser = argparse.ArgumentParser(description="Prints actions on letters, one a line.")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus (0)")
    parser.add_argument("--lines", type=int, default=50_000, help="lines of the corpus (50000)")
    parser.add_argument("--held-out", action="store_true", help="lines that the corpus lacks")
    parser.add_argument("--sample", type=int, default=1000, help="how many of those (1000)")
    parser.add_argument("--entropy", action="store_true", help="nats and bits a character")
    flags = parser.parse_args()
    if flags.lines < 0 or flags.sample < 0:
        parser.error("--lines and --sample must not be negative")

    lines = draw_lines(random.Random(flags.seed), 0 if flags.entropy else flags.lines)
    if flags.entropy:
        nats = entropy()
        text = f"{nats:.6f} nats a character, {nats / math.log(2):.6f} bits a character\n"
    elif flags.held_out:
        fresh = random.Random(f"held out {flags.seed}")
        text = as_text(draw_lines(fresh, flags.sample, set(lines)))
    else:
        text = as_text(lines)
    write(text)


def write(text: str) -> None:
    """Writes to standard output, the same bytes on every system; a reader may leave early."""
    try:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

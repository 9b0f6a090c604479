"""Prints additions, `13 + 29 = 42;` a line: python dummy_data/addition_dummy.py > dataset.txt

Both numbers are drawn evenly and independently from --min..--max (0..100). The held-out set, all
sums that the corpus of the same seed, lines and range does not hold, comes with --held-out:

    python dummy_data/addition_dummy.py --held-out > held_out.txt

Entropy. Of a line, only the two numbers are news: the rest follows. With n = max - min + 1 numbers
to draw from, a line carries 2 ln n nats in

    8 + 2 E[digits of a number] + E[digits of a sum]

characters on average (8: two times three around the signs, `;`, the line end), so no model can do
better, over lines that it has not learnt by heart, than the quotient. For 0..100 that is
2 ln 101 / 14.3213 = 0.6445 nats a character. --entropy prints it for any range.
"""

import argparse
import math
import os
import random
import sys

LARGEST_LISTING = 20_000_000
"""Pairs that --held-out goes through at most, unless --sample says how many to draw."""


def draw_pairs(seed: int, lines: int, low: int, high: int) -> list[tuple[int, int]]:
    """Returns the corpus' pairs of numbers, in order."""
    numbers = random.Random(seed)
    return [(numbers.randint(low, high), numbers.randint(low, high)) for _ in range(lines)]


def held_out_pairs(
    seed: int, lines: int, low: int, high: int, sample: int | None
) -> list[tuple[int, int]]:
    """Returns the pairs that the corpus lacks: all in order, or `sample` of them at random."""
    count = high - low + 1
    seen = {(a - low) * count + (b - low) for a, b in draw_pairs(seed, lines, low, high)}
    if sample is None:
        codes = [code for code in range(count * count) if code not in seen]
    else:
        # Drawing as many more as may be in the corpus leaves at least `sample`, or all there are.
        wanted = min(sample + len(seen), count * count)
        drawn = random.Random(f"held out {seed}").sample(range(count * count), wanted)
        codes = [code for code in drawn if code not in seen][:sample]
    return [(low + code // count, low + code % count) for code in codes]


def as_text(pairs: list[tuple[int, int]]) -> str:
    """Returns one line for each pair."""
    return "".join(f"{a} + {b} = {a + b};\n" for a, b in pairs)


def mean_length(low: int, high: int) -> float:
    """Returns the exact mean number of characters in a line, its end included."""
    count = high - low + 1
    number_digits = sum_digits = 1.0
    power = 10
    while power <= 2 * high:
        number_digits += max(0, min(count, high - power + 1)) / count
        # Pairs whose sum stays below the power, by how far it lies above the smallest sum.
        above = power - 2 * low
        if above <= 0:
            below = 0
        elif above <= count:
            below = above * (above + 1) // 2
        else:
            below = count**2 - (2 * count - 1 - above) * (2 * count - above) // 2
        sum_digits += 1 - below / count**2
        power *= 10
    return 8 + 2 * number_digits + sum_digits


def entropy(low: int, high: int) -> float:
    """Returns the corpus' entropy in nats a character."""
    return 2 * math.log(high - low + 1) / mean_length(low, high)


def main() -> None:
    """Prints what the flags ask for."""
    parser = argparse.ArgumentParser(description="Prints additions, one a line.")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus (0)")
    parser.add_argument("--lines", type=int, default=8000, help="lines of the corpus (8000)")
    parser.add_argument("--min", type=int, default=0, help="smallest number (0)")
    parser.add_argument("--max", type=int, default=100, help="largest number (100)")
    parser.add_argument("--held-out", action="store_true", help="the sums that the corpus lacks")
    parser.add_argument("--sample", type=int, help="only so many of the held-out sums")
    parser.add_argument("--entropy", action="store_true", help="nats and bits a character")
    flags = parser.parse_args()
    if flags.lines < 0 or (flags.sample or 0) < 0:
        parser.error("--lines and --sample must not be negative")
    if not 0 <= flags.min <= flags.max:
        parser.error(f"the range {flags.min}..{flags.max} must begin at 0 or more and not be empty")
    pairs = (flags.max - flags.min + 1) ** 2
    if flags.held_out and flags.sample is None and pairs > LARGEST_LISTING:
        parser.error(f"the range has {pairs} sums: say how many to print with --sample")

    if flags.entropy:
        nats = entropy(flags.min, flags.max)
        text = f"{nats:.6f} nats a character, {nats / math.log(2):.6f} bits a character\n"
    elif flags.held_out:
        held_out = held_out_pairs(flags.seed, flags.lines, flags.min, flags.max, flags.sample)
        text = as_text(held_out)
    else:
        text = as_text(draw_pairs(flags.seed, flags.lines, flags.min, flags.max))
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

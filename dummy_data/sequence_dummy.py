"""Prints two interleaved cycles, `a@@b##c$$`: python dummy_data/sequence_dummy.py > dataset.txt

2,000 times the next letter of the cycle `abcdefgh` and, twice, the next symbol of the cycle
`@#$%^`; no line ends. The whole repeats after 40 letters. --held-out prints how it goes on after
the corpus: nothing in it is new, which is the point.

Entropy. Each character follows from the three before it, so there is none: 0 nats a character. (The
phase could be chosen, but is not: the text begins with `a@@`.)
"""

import argparse
import os
import sys

LETTERS = "abcdefgh"
SYMBOLS = "@#$%^"


def as_text(start: int, count: int) -> str:
    """Returns `count` letters, each with its doubled symbol, from the place `start` on."""
    places = range(start, start + count)
    return "".join(LETTERS[i % 8] + 2 * SYMBOLS[i % 5] for i in places)


def entropy() -> float:
    """Returns the corpus' entropy in nats a character."""
    return 0.0


def main() -> None:
    """Prints what the flags ask for."""
    parser = argparse.ArgumentParser(description="Prints two interleaved cycles.")
    parser.add_argument("--seed", type=int, default=0, help="without effect: nothing is drawn")
    parser.add_argument("--lines", type=int, default=2000, help="letters of the corpus (2000)")
    parser.add_argument("--held-out", action="store_true", help="how it goes on after the corpus")
    parser.add_argument("--sample", type=int, default=1000, help="for how many letters (1000)")
    parser.add_argument("--entropy", action="store_true", help="nats and bits a character")
    flags = parser.parse_args()
    if flags.lines < 0 or flags.sample < 0:
        parser.error("--lines and --sample must not be negative")

    if flags.entropy:
        nats = entropy()
        write(f"{nats:.6f} nats a character, {nats:.6f} bits a character\n")
    elif flags.held_out:
        write(as_text(flags.lines, flags.sample))
    else:
        write(as_text(0, flags.lines))


def write(text: str) -> None:
    """Writes to standard output, the same bytes on every system; a reader may leave early."""
    try:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

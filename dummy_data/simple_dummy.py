"""Prints made-up words, `kabe;` a line: python dummy_data/simple_dummy.py > dataset.txt

Letters alternate, a consonant of `bcdfghjk` and a vowel of `aeiou`, beginning with a consonant. No
letter comes twice in a word, the first letter is none of the last three words' first letters, and a
word ends at 4 letters with probability 1/2, else at 6. Every choice is even among what is allowed.
--held-out prints words that the corpus of the same seed and lines does not hold.

Entropy. The last three first letters always differ, so the choices of a word are

    first letter 5 (of 8, less 3), vowel 5, consonant 7, vowel 4, end or not 2,
    and in half of the words consonant 6 and vowel 3:

ln 5 + ln 5 + ln 7 + ln 4 + ln 2 + (ln 6 + ln 3) / 2 = 8.6893 nats in 4 or 6 letters, `;` and the
line end, 7 characters on average: 1.2413 nats a character. (The corpus' first three words, which
have more first letters to choose from, add less than 0.8 nats in all.)
"""

import argparse
import math
import os
import random
import sys
from collections.abc import Collection

CONSONANTS = "bcdfghjk"
VOWELS = "aeiou"


def draw_word(letters: random.Random, last_firsts: list[str]) -> str:
    """Returns one word; `last_firsts` are the first letters of the three words before it."""
    word = letters.choice([c for c in CONSONANTS if c not in last_firsts])
    word += letters.choice(VOWELS)
    for length in (4, 6):
        word += letters.choice([c for c in CONSONANTS if c not in word])
        word += letters.choice([v for v in VOWELS if v not in word])
        if length == 4 and letters.random() < 0.5:
            break
    return word


def draw_words(letters: random.Random, lines: int, unwanted: Collection[str] = ()) -> list[str]:
    """Returns `lines` words in order, drawing again in place of any that is unwanted."""
    words: list[str] = []
    while len(words) < lines:
        word = draw_word(letters, [earlier[0] for earlier in words[-3:]])
        if word not in unwanted:
            words.append(word)
    return words


def entropy() -> float:
    """Returns the corpus' entropy in nats a character."""
    four_letters = math.log(5) + math.log(5) + math.log(7) + math.log(4)
    word = four_letters + math.log(2) + (math.log(6) + math.log(3)) / 2
    return word / 7


def main() -> None:
    """Prints what the flags ask for."""
    parser = argparse.ArgumentParser(description="Prints made-up words, one a line.")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus (0)")
    parser.add_argument("--lines", type=int, default=8000, help="lines of the corpus (8000)")
    parser.add_argument("--held-out", action="store_true", help="words that the corpus lacks")
    parser.add_argument("--sample", type=int, default=1000, help="how many of those (1000)")
    parser.add_argument("--entropy", action="store_true", help="nats and bits a character")
    flags = parser.parse_args()
    if flags.lines < 0 or flags.sample < 0:
        parser.error("--lines and --sample must not be negative")
    if flags.held_out and flags.lines > 100_000:
        parser.error(f"{flags.lines} lines leave next to no word unseen: give at most 100000")

    words = draw_words(random.Random(flags.seed), 0 if flags.entropy else flags.lines)
    if flags.entropy:
        nats = entropy()
        text = f"{nats:.6f} nats a character, {nats / math.log(2):.6f} bits a character\n"
    elif flags.held_out:
        fresh = random.Random(f"held out {flags.seed}")
        text = "".join(f"{word};\n" for word in draw_words(fresh, flags.sample, set(words)))
    else:
        text = "".join(f"{word};\n" for word in words)
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

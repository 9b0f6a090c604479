"""The synthetic corpora: what they print, what they hold out, and their entropies."""

from __future__ import annotations

import itertools
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "dummy_data"
NAMES = ["addition", "simple", "actions", "sequence"]


def printed(name: str, *flags: str) -> str:
    """Returns what a script prints, checked to be ASCII with bare line ends."""
    run = [sys.executable, "-I", str(SCRIPTS / f"{name}_dummy.py"), *flags]
    text = subprocess.run(run, capture_output=True, check=True, timeout=60).stdout.decode("ascii")
    assert "\r" not in text
    return text


def functions(name: str) -> dict:
    return runpy.run_path(str(SCRIPTS / f"{name}_dummy.py"))


def nats_of_word(word: str, last_firsts: list[str]) -> float:
    """Returns -ln of the probability that the simple corpus goes on with `word`."""
    assert re.fullmatch("(?:[bcdfghjk][aeiou]){2,3}", word)
    assert len(set(word)) == len(word)
    assert word[0] not in last_firsts
    choices = [8 - len(set(last_firsts)), 5, 7, 4, 2, 6, 3]
    return sum(map(math.log, choices[: len(word) + 1]))


def action_result(letters: str, digit: str, before: str) -> str:
    """Returns an action's result, from a table rather than by arithmetic."""
    source = before if digit in "5678" else letters
    six_on = dict(zip("abcdef", "ghijkl", strict=True))
    moved = [six_on[letter] for letter in source]
    return {
        "0": "",
        "9": "z",
        **dict.fromkeys("15", source[:3]),
        **dict.fromkeys("26", source[-3:]),
        **dict.fromkeys("37", "".join(moved[:3])),
        **dict.fromkeys("48", "".join(moved[-3:])),
    }[digit]


@pytest.mark.parametrize(
    ("name", "lines"), [("addition", 8000), ("simple", 8000), ("actions", 50_000)]
)
def test_a_bare_call_prints_the_whole_corpus(name: str, lines: int) -> None:
    text = printed(name)
    assert text.count(";\n") == text.count("\n") == lines
    assert text.endswith("\n")


def test_the_sequence_is_two_thousand_letters_with_doubled_symbols_and_no_line_end() -> None:
    text = printed("sequence")
    assert text.startswith("a@@b##c$$d%%e^^f@@")
    assert len(text) == 6000
    cycles = zip(itertools.cycle("abcdefgh"), itertools.cycle("@#$%^"), strict=False)
    assert text == "".join(a + 2 * b for a, b in itertools.islice(cycles, 2000))


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_seed_gives_one_corpus_and_another_seed_another(name: str) -> None:
    assert printed(name, "--seed", "5") == printed(name, "--seed", "5") != printed(name)


def test_every_sum_is_right_and_every_number_in_range() -> None:
    text = printed("addition", "--min", "7", "--max", "12", "--lines", "500")
    numbers = set()
    for line in text.splitlines():
        a, b, c = map(int, re.fullmatch(r"(\d+) \+ (\d+) = (\d+);", line).groups())  # type: ignore[union-attr]
        assert a + b == c
        numbers |= {a, b}
    assert numbers == set(range(7, 13))


def test_corpus_and_held_out_sums_are_every_sum_and_share_none() -> None:
    corpus = set(printed("addition").splitlines())
    held_out = printed("addition", "--held-out").splitlines()
    assert len(set(held_out)) == len(held_out)
    assert not corpus & set(held_out)
    assert corpus | set(held_out) == {
        f"{a} + {b} = {a + b};" for a in range(101) for b in range(101)
    }


def test_a_sample_of_held_out_sums_is_drawn_from_them() -> None:
    sample = printed("addition", "--held-out", "--sample", "300").splitlines()
    assert len(set(sample)) == 300
    assert set(sample) < set(printed("addition", "--held-out").splitlines())


def test_a_sample_larger_than_what_is_held_out_is_all_of_it() -> None:
    flags = ("--max", "5", "--lines", "30", "--held-out")
    all_of_it = printed("addition", *flags).splitlines()
    assert sorted(printed("addition", *flags, "--sample", "99").splitlines()) == sorted(all_of_it)


def test_a_range_too_large_to_list_asks_for_a_sample() -> None:
    run = [sys.executable, str(SCRIPTS / "addition_dummy.py"), "--max", "99999", "--held-out"]
    result = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "10000000000 sums: say how many to print with --sample" in result.stderr


def test_held_out_words_are_none_of_the_corpus() -> None:
    held_out = printed("simple", "--held-out").splitlines()
    assert len(held_out) == 1000
    assert not set(held_out) & set(printed("simple").splitlines())


def test_held_out_actions_are_none_of_the_corpus() -> None:
    def questions(text: str) -> list[str]:
        return [re.match("[a-f]+[0-9]", line)[0] for line in text.splitlines()]  # type: ignore[index]

    held_out = questions(printed("actions", "--held-out"))
    assert len(held_out) == 1000
    assert not set(held_out) & set(questions(printed("actions")))


def test_held_out_of_the_sequence_is_how_it_goes_on() -> None:
    longer = printed("sequence", "--lines", "3000")
    assert printed("sequence") + printed("sequence", "--held-out") == longer


def test_actions_do_what_their_table_says_also_on_the_first_line() -> None:
    before = ""
    digits = set()
    for line in printed("actions").splitlines():
        letters, digit, result = re.fullmatch("([a-f]{4,8})([0-9])([a-z]*);", line).groups()  # type: ignore[union-attr]
        assert result == action_result(letters, digit, before)
        before = letters
        digits.add(digit)
    assert digits == set("0123456789")


@pytest.mark.parametrize(("low", "high"), [(0, 100), (0, 9), (5, 5), (0, 57), (95, 120), (40, 60)])
def test_mean_length_of_a_sum_is_that_of_all_sums(low: int, high: int) -> None:
    every = range(low, high + 1)
    lines = [f"{a} + {b} = {a + b};\n" for a in every for b in every]
    exact = sum(map(len, lines)) / len(lines)
    assert functions("addition")["mean_length"](low, high) == pytest.approx(exact, abs=1e-12)


def test_entropy_of_addition_is_its_code_length_per_character() -> None:
    text = printed("addition", "--lines", "200000", "--seed", "1")
    nats = text.count("\n") * 2 * math.log(101)
    assert nats / len(text) == pytest.approx(functions("addition")["entropy"](0, 100), abs=3e-4)


def test_entropy_of_simple_is_its_code_length_per_character() -> None:
    words = printed("simple", "--lines", "100000", "--seed", "1").split(";\n")[:-1]
    nats = sum(
        nats_of_word(word, [w[0] for w in words[max(0, i - 3) : i]]) for i, word in enumerate(words)
    )
    characters = sum(len(word) + 2 for word in words)
    assert nats / characters == pytest.approx(functions("simple")["entropy"](), abs=1.5e-3)


def test_entropy_of_actions_is_its_code_length_per_character() -> None:
    text = printed("actions", "--lines", "100000", "--seed", "1")
    letters = len(re.findall("[a-f](?=[a-f]*[0-9])", text))
    lines = text.count("\n")
    nats = lines * (math.log(5) + math.log(10)) + letters * math.log(6)
    assert nats / len(text) == pytest.approx(functions("actions")["entropy"](), abs=3e-3)


def test_entropy_of_the_sequence_is_none_as_three_characters_tell_the_next() -> None:
    text = printed("sequence")
    following: dict[str, set[str]] = {}
    for i in range(3, len(text)):
        following.setdefault(text[i - 3 : i], set()).add(text[i])
    assert all(len(characters) == 1 for characters in following.values())
    assert functions("sequence")["entropy"]() == 0


def test_addition_of_0_to_100_carries_the_figure_of_the_logs() -> None:
    assert printed("addition", "--entropy").startswith("0.6445")


@pytest.mark.parametrize("name", NAMES)
def test_printed_and_computed_entropy_agree(name: str) -> None:
    arguments = (0, 100) if name == "addition" else ()
    nats = functions(name)["entropy"](*arguments)
    assert printed(name, "--entropy") == (
        f"{nats:.6f} nats a character, {nats / math.log(2):.6f} bits a character\n"
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_lines_are_an_empty_corpus_and_fewer_than_none_a_sentence(name: str) -> None:
    assert printed(name, "--lines", "0") == ""
    run = [sys.executable, str(SCRIPTS / f"{name}_dummy.py"), "--lines", "-1"]
    result = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("must not be negative")

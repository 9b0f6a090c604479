"""Recognising the synthetic corpora, and nothing else."""

from __future__ import annotations

import hashlib
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt.text import corpora
from microgpt.text.corpora import command_of, recognise

SCRIPTS = Path(__file__).parents[3] / "dummy_data"


def script(name: str) -> dict:
    return runpy.run_path(str(SCRIPTS / f"{name}_dummy.py"))


def addition(lines: int, low: int = 0, high: int = 100) -> bytes:
    module = script("addition")
    return module["as_text"](module["draw_pairs"](3, lines, low, high)).encode()


def simple(lines: int) -> bytes:
    words = script("simple")["draw_words"](random.Random(3), lines)
    return "".join(f"{word};\n" for word in words).encode()


def actions(lines: int) -> bytes:
    module = script("actions")
    return module["as_text"](module["draw_lines"](random.Random(3), lines)).encode()


def sequence(lines: int) -> bytes:
    return script("sequence")["as_text"](0, lines).encode()


CORPORA: dict[str, Callable[[int], bytes]] = {
    "addition": addition,
    "simple": simple,
    "actions": actions,
    "sequence": sequence,
}


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("lines", [200, 20_000])
def test_a_corpus_is_recognised_with_the_floor_that_its_script_states(
    name: str, lines: int
) -> None:
    known = recognise(CORPORA[name](lines))
    assert known is not None
    assert known.name == name
    arguments = (0, 100) if name == "addition" else ()
    stated = script(name)["entropy"](*arguments)
    # 200 lines may leave the ends of the range undrawn; the floor then moves in the third digit.
    tolerance = 2e-3 if (name, lines) == ("addition", 200) else 1e-12
    assert known.floor_nats_per_byte == pytest.approx(stated, abs=tolerance)


@pytest.mark.parametrize(("low", "high"), [(0, 9), (0, 999), (50, 149), (900, 1100)])
def test_the_range_of_additions_is_found(low: int, high: int) -> None:
    known = recognise(addition(20_000, low, high))
    assert known is not None
    assert known.description == f"sums of two numbers in {low}..{high}"
    stated = script("addition")["entropy"](low, high)
    assert known.floor_nats_per_byte == pytest.approx(stated, abs=1e-12)


@pytest.mark.parametrize("name", CORPORA)
def test_a_file_larger_than_the_sample_is_judged_by_stretches(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "SAMPLE_BYTES", 40_000)
    text = CORPORA[name](20_000)
    file = tmp_path / "dataset.txt"
    file.write_bytes(text)
    known = recognise(file)
    assert known is not None
    assert known == recognise(text)
    assert known.name == name
    with file.open("r+b") as altered:
        altered.seek(len(text) - 5_000)
        altered.write(b"foreign\n")
    assert recognise(file) is None


@pytest.mark.parametrize(
    ("name", "rule", "broken"),
    [
        ("addition", rb"= (\d*)4;", rb"= \g<1>5;"),
        ("simple", rb"\n(.)(.*;\n)[^;]", rb"\n\1\2\1"),
        ("actions", rb"a(...)1a", rb"a\g<1>1b"),
        ("sequence", rb"\$\$d%%e", rb"$$d%%f"),
    ],
)
def test_one_broken_rule_makes_another_text(name: str, rule: bytes, broken: bytes) -> None:
    text = CORPORA[name](1000)
    altered, count = re.subn(rule, broken, text, count=1)
    assert count == 1
    assert recognise(altered) is None


def test_a_cut_last_line_does_not_matter() -> None:
    text = addition(1000)
    assert recognise(text[:-3]) == recognise(text[: text[:-3].rfind(b"\n") + 1]) is not None


def test_held_out_sums_are_no_even_draws() -> None:
    module = script("addition")
    pairs = module["held_out_pairs"](0, 8000, 0, 100, None)
    assert recognise(module["as_text"](pairs).encode()) is None


def test_sums_of_mostly_small_numbers_have_another_floor() -> None:
    draw = random.Random(0)
    pairs = [(draw.randrange(10) ** 2, draw.randrange(10) ** 2) for _ in range(2000)]
    assert recognise("".join(f"{a} + {b} = {a + b};\n" for a, b in pairs).encode()) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"hello\n" * 1000,
        b"1 + 1 = 2;\n" * 10,
        b"9" * 100_000,
        b"9" * 5000 + b" + 1 = 2;\n",
        b"1 + 1 = 3;\n" * 1000,
        b"01 + 1 = 2;\n" * 1000,
        bytes(range(256)) * 100,
        "größer;\n".encode() * 1000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_other_texts_are_not_recognised(text: bytes) -> None:
    assert recognise(text) is None


def test_a_folder_and_a_missing_file_are_not_recognised(tmp_path: Path) -> None:
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "missing.txt") is None


@pytest.mark.parametrize("name", CORPORA)
def test_what_a_script_prints_is_traced_to_its_command(name: str) -> None:
    script = SCRIPTS / f"{name}_dummy.py"
    text = subprocess.run([sys.executable, script], capture_output=True, check=True).stdout
    assert command_of(hashlib.sha256(text).hexdigest()) == f"python dummy_data/{name}_dummy.py"


def test_another_text_is_traced_to_none() -> None:
    assert command_of("0" * 64) is None

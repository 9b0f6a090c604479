"""The display of long work, and how sizes and durations are written."""

from __future__ import annotations

import io

import pytest

from microgpt import progress
from microgpt.progress import Progress, count_text, duration_text, size_text


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_999, "1.00 MB"), (12_345_678, "12.3 MB")],
)
def test_sizes_have_three_digits(value: int, text: str) -> None:
    assert size_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (0.5, "0.50"), (232_320, "232 k"), (1_253_376, "1.25 M")]
)
def test_counts_have_three_digits(value: float, text: str) -> None:
    assert count_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4ms"), (0.31, "0.31s"), (59.7, "1m 00s"), (136, "2m 16s"), (11_100, "3h 05m")],
)
def test_durations_read_as_in_the_logs(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_without_a_terminal_a_line_comes_every_few_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("encode", 1000, "B", stream=stream) as bar:
        for step in range(1, 11):
            clock.now += 1
            bar.update(step * 100)
    assert stream.getvalue().splitlines() == [
        "encode: 500 B of 1.00 kB, 100 B/s, 5s left",
        "encode: 1.00 kB of 1.00 kB, 100 B/s",
        "encode: 1.00 kB in 10s, 100 B/s",
    ]


def test_on_a_terminal_the_bar_is_redrawn_in_place_and_ends_as_a_line(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with Progress("train", 200, "steps", stream=stream) as bar:
        clock.now += 1
        bar.update(50, note="loss 1.23")
    drawn, cleared, last = stream.getvalue().lstrip("\r").rsplit("\r", 2)
    words = "50 of 200 steps  50 steps/s  3s left  loss 1.23"
    assert drawn == f"train  25% {'━' * 5}{'─' * 15} {words}"
    assert cleared == " " * 79
    assert last == "train: 50 steps in 1s, 50 steps/s, loss 1.23\n"


def test_what_was_done_before_a_resume_counts_for_the_share_only(clock: Clock) -> None:
    stream = io.StringIO()
    bar = Progress("train", 1000, "steps", start=900, stream=stream)
    clock.now += 10
    bar.update(950)
    assert stream.getvalue() == "train: 950 of 1.00 k steps, 5 steps/s, 10s left\n"


def test_the_core_s_stages_follow_each_other(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("read", stream=stream) as bar:
        bar.core("idle", 0, 0)
        bar.core("count", 0, 500)
        clock.now += 2
        bar.core("count", 500, 500)
        bar.core("merge", 0, 10)
        clock.now += 1
        bar.core("merge", 10, 10)
    assert stream.getvalue().splitlines() == [
        "count: 500 B in 2s, 250 B/s",
        "merge: 10 merges in 1s, 10 merges/s",
    ]


def test_a_narrow_terminal_gets_no_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    bar = Progress("train", 200, "steps", stream=stream)
    clock.now += 1
    bar.update(50, note="loss 1.23")
    assert stream.getvalue().strip() == "train  25% 50 of 200 steps  50 steps/s  3s left  loss 1.23"


def test_a_long_note_never_wraps_the_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    bar = Progress("train", 10, "steps", stream=stream)
    clock.now += 1
    bar.update(1, note="x" * 200)
    assert len(stream.getvalue().lstrip("\r")) == 59


def test_lines_above_the_bar_leave_none_of_it_behind(clock: Clock) -> None:
    stream = Terminal()
    bar = Progress("train", 10, "steps", stream=stream)
    clock.now += 1
    bar.update(1)
    before = stream.getvalue().lstrip("\r")
    bar.write("step 1: valid loss 2.0")
    after = stream.getvalue()[len(before) + 1 :]
    assert after.startswith("\r" + " " * len(before) + "\rstep 1: valid loss 2.0\n\rtrain  10%")


def test_a_closed_stream_does_not_stop_the_work(clock: Clock) -> None:
    stream = Terminal()
    with Progress("train", 10, "steps", stream=stream) as bar:
        stream.close()
        clock.now += 1
        bar.update(5)

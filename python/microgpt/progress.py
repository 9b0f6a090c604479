"""How far long work is, on standard error: a bar on a terminal, a line every few seconds elsewhere.

Standard output stays clean for what a command was asked to print. The module also holds the one
way in which sizes, counts and durations are written for people.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from types import TracebackType
from typing import TextIO

BAR_WIDTH = 24
REDRAW_SECONDS = 0.1
"""Between two drawings of a bar."""
LINE_SECONDS = 5.0
"""Between two lines where there is no terminal."""
RATE_SECONDS = 15.0
"""The rate shown is that of the last so many seconds, so that it follows a slow-down."""

_COUNTING = ("count", "join", "merge")
"""Stages in which the distinct pieces are worth telling."""
_CORE_UNITS = {"count": "B", "join": "B", "encode": "B", "read": "B", "merge": "merges"}


def size_text(count: float) -> str:
    """Returns a number of bytes as people read it: `"999 B"`, `"1.23 MB"`."""
    return f"{_scaled(count, ('', 'k', 'M', 'G', 'T', 'P'))}B"


def count_text(count: float) -> str:
    """Returns a count in three digits: `"232"`, `"232 k"`, `"1.25 M"`."""
    return _scaled(count, ("", "k", "M", "G", "T", "P")).rstrip()


def duration_text(seconds: float) -> str:
    """Returns a duration as the logs write it: `"0.31s"`, `"12s"`, `"2m 16s"`, `"3h 05m"`."""
    if seconds < 9.95:
        return f"{seconds:.2g}s" if seconds >= 0.1 else f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def _scaled(value: float, prefixes: tuple[str, ...]) -> str:
    """Returns `value` in three digits, a space, and the decimal prefix that fits it."""
    scale = 0
    while abs(value) >= 999.5 and scale + 1 < len(prefixes):
        value, scale = value / 1000, scale + 1
    if scale == 0 and float(value).is_integer():
        return f"{value:.0f} "
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {prefixes[scale]}"


class Progress:
    """A display of one stage after another of long work; use it in a `with` statement.

    `total` is the amount of work, 0 where nobody knows; `unit` is "B" for bytes or a plural such as
    "tokens" or "steps"; `start` is what was already done before (a resumed run), which counts
    neither for the rate nor for the time left.
    """

    def __init__(
        self,
        label: str,
        total: int = 0,
        unit: str = "B",
        *,
        start: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream is not None and self._stream.isatty()
        self._drawn = 0
        self._begin(label, total, unit, start)

    def _begin(self, label: str, total: int, unit: str, start: int) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._start = self._done = start
        self._note = ""
        self._started = self._shown = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self._started, start)])

    def update(self, done: int, note: str | None = None, total: int | None = None) -> None:
        """Sets the work done so far (not the increment) and, where given, the note and the total.

        Cheap enough to be called a few thousand times a second.
        """
        self._done = done
        if note is not None:
            self._note = note
        if total is not None:
            self.total = total
        now = time.monotonic()
        if now - self._shown >= (REDRAW_SECONDS if self._terminal else LINE_SECONDS):
            self._remember(now)
            self._shown = now
            self._draw(now)

    def stage(self, label: str, total: int = 0, unit: str | None = None, *, start: int = 0) -> None:
        """Ends the stage before, where it did any work, and begins another."""
        self._conclude()
        self._begin(label, total, self.unit if unit is None else unit, start)

    def core(self, stage: str, done: int, total: int, pieces: int = 0) -> None:
        """Follows the Rust core: `progress.core` is what its functions take as `progress`."""
        if stage == "idle":
            return
        if stage != self.label:
            self.stage(stage, total, _CORE_UNITS.get(stage, "B"))
        note = f"{count_text(pieces)} distinct pieces" if pieces and stage in _COUNTING else ""
        self.update(done, note, total=total)

    def write(self, text: str) -> None:
        """Prints lines above the bar, such as an evaluation or a sample."""
        self._clear()
        self._put(text + "\n")
        if self._terminal:
            self._draw(time.monotonic())

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._conclude()
        elif self._drawn:
            self._put("\n")
            self._drawn = 0

    def _remember(self, now: float) -> None:
        self._recent.append((now, self._done))
        while len(self._recent) > 2 and now - self._recent[1][0] > RATE_SECONDS:
            self._recent.popleft()

    def _rate(self, now: float) -> float:
        """Returns units a second over the recent past; 0 where it cannot be told yet."""
        then, done = self._recent[0]
        return max(0.0, (self._done - done) / (now - then)) if now > then else 0.0

    def _amount(self, value: float) -> str:
        return size_text(value) if self.unit == "B" else count_text(value)

    def _per_second(self, rate: float) -> str:
        return (
            f"{self._amount(rate)}/s" if self.unit == "B" else f"{count_text(rate)} {self.unit}/s"
        )

    def _draw(self, now: float) -> None:
        if self._terminal:
            self._draw_bar(now)
            return
        self._put(f"{self.label}: " + ", ".join(self._parts(now)) + "\n")

    def _parts(self, now: float) -> list[str]:
        """Returns what is to be said about the work now: amount, rate, time left, note."""
        unit = "" if self.unit == "B" else f" {self.unit}"
        rate = self._rate(now)
        of = f" of {self._amount(self.total)}" if self.total else ""
        parts = [f"{self._amount(self._done)}{of}{unit}"]
        if rate > 0:
            parts.append(self._per_second(rate))
            if self.total > self._done:
                parts.append(f"{duration_text((self.total - self._done) / rate)} left")
        return [*parts, self._note] if self._note else parts

    def _draw_bar(self, now: float) -> None:
        room = shutil.get_terminal_size().columns - 1
        words = "  ".join(self._parts(now))
        line = f"{self.label} {words}"
        if self.total:
            share = min(1.0, max(0.0, self._done / self.total))
            line = f"{self.label} {share:4.0%} {words}"
            width = min(BAR_WIDTH, room - len(line) - 1)
            if width >= 4:
                full, empty = self._bar_characters()
                bar = full * round(share * width)
                line = f"{self.label} {share:4.0%} {bar:{empty}<{width}} {words}"
        line = line[:room]
        # Spaces over what the line before left, rather than an escape that some consoles print.
        self._put("\r" + line + " " * (self._drawn - len(line)))
        self._drawn = len(line)

    def _bar_characters(self) -> tuple[str, str]:
        encoding = (getattr(self._stream, "encoding", None) or "ascii").lower()
        return ("━", "─") if encoding.startswith("utf") else ("#", "-")

    def _clear(self) -> None:
        if self._drawn:
            self._put("\r" + " " * self._drawn + "\r")
            self._drawn = 0

    def _conclude(self) -> None:
        """Replaces the bar by a line that says how much was done, in what time, at what rate."""
        self._clear()
        work, seconds = self._done - self._start, time.monotonic() - self._started
        if work <= 0:
            return
        unit = "" if self.unit == "B" else f" {self.unit}"
        rate = self._per_second(work / max(seconds, 1e-9))
        line = f"{self.label}: {self._amount(work)}{unit} in {duration_text(seconds)}, {rate}"
        self._put(line + (f", {self._note}\n" if self._note else "\n"))

    def _put(self, text: str) -> None:
        """Writes to the stream; a display that cannot be written must not stop the work."""
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None

"""Looks again at the number of threads when training slows down.

Threads that pay on an idle machine can cost a multiple when other work takes a core: all wait for
the one that was put aside. So when steps become much slower than they were, one thread is tried,
and later all of them again.
"""

from __future__ import annotations

from statistics import median

WINDOW = 10
"""Steps whose median is one measurement."""
TRIAL = 3
"""Steps of a trial; its first is not counted, since caches follow the threads."""
DROP = 1.4
"""Steps that take so many times their usual time call for a trial."""
ADVANTAGE = 0.9
"""More threads are taken when a step takes less than this share of what it takes with fewer."""
PATIENCE = 50
"""Windows on one thread before all are tried again."""


class ThreadWatch:
    """Says how many threads to go on with: one, or `many`, with which it begins."""

    def __init__(self, many: int) -> None:
        self.many = self.threads = many
        self._times: list[float] = []
        self._usual: float | None = None
        self._before: float | None = None
        """The median that a trial has to beat; None: no trial is on."""
        self._windows = 0

    def after(self, seconds: float) -> int | None:
        """Returns the threads to go on with after a step of `seconds`; None: as before."""
        self._times.append(seconds)
        trial = self._before is not None
        if len(self._times) < (TRIAL if trial else WINDOW):
            return None
        now = median(self._times[1:] if trial else self._times)
        self._times.clear()
        before = self.threads
        if trial:
            self._judge(now)
        else:
            self._look(now)
        return None if self.threads == before else self.threads

    def _look(self, now: float) -> None:
        """Begins a trial where there is reason for one."""
        self._windows += 1
        self._usual = now if self._usual is None else min(now, self._usual)
        slower = self.threads > 1 and now > DROP * self._usual
        if slower or (self.threads == 1 and self._windows >= PATIENCE):
            self._before, self._windows = now, 0
            self._turn()

    def _judge(self, now: float) -> None:
        """Ends a trial: what was measured last is usual from here on."""
        assert self._before is not None
        needed = self._before * (ADVANTAGE if self.threads > 1 else 1.0)
        self._usual = now
        if now >= needed:
            self._usual = self._before
            self._turn()
        self._before = None

    def _turn(self) -> None:
        self.threads = 1 if self.threads > 1 else self.many

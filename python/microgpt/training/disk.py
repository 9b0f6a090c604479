"""A full disk is no reason to lose a run: what could not be written is tried again."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from microgpt.errors import CheckpointError

RETRY_SECONDS = 10.0
"""Between two tries."""
_LOOK_SECONDS = 0.2
"""Between two looks whether somebody asked to stop."""

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows knows no quota

Result = TypeVar("Result")


class DiskPatience:
    """Writes; while the disk is full, says so and tries again.

    Ctrl-C ends the wait, and so do `minutes` where nobody sits at a terminal to make room.
    """

    def __init__(self, minutes: float, say: Callable[[str], None]) -> None:
        self.minutes, self._say = minutes, say
        self.interrupted: Callable[[], object] = lambda: False
        """Whether somebody asked to stop."""
        self.waited = 0.0
        """Seconds spent waiting so far."""

    def __call__(self, what: str, write: Callable[[], Result]) -> Result:
        """Returns what `write` returns, which must leave nothing behind where it fails.

        Raises:
            CheckpointError: the wait for room was in vain.
            Exception: what `write` raised, where it is no full disk.
        """
        began: float | None = None
        while True:
            try:
                result = write()
            except (OSError, CheckpointError) as error:
                if not is_full_disk(error):
                    raise
                if began is None:
                    began = time.monotonic()
                    self._say(f"the disk is full: no room for {what}; training {self._terms()}")
                if self._in_vain(began):
                    if isinstance(error, CheckpointError):
                        raise
                    raise CheckpointError(
                        f"the disk is full: no room for {what}; make room, then go on with --resume"
                    ) from error
                continue
            if began is not None:
                self.waited += time.monotonic() - began
                self._say("there is room on the disk again: training goes on")
            return result

    def _terms(self) -> str:
        limit = "" if _somebody_is_there() else f"for at most {self.minutes:g} minutes "
        return f"pauses {limit}and tries again every {RETRY_SECONDS:g} s (Ctrl-C leaves)"

    def _in_vain(self, began: float) -> bool:
        """Waits until the next try; true where there shall be none."""
        until = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < until:
            over = time.monotonic() - began >= 60 * self.minutes and not _somebody_is_there()
            if over or self.interrupted():
                return True
            time.sleep(_LOOK_SECONDS)
        return False


def is_full_disk(error: BaseException | None) -> bool:
    """Returns whether the system refused to write for want of room, in `error` or its causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


def _somebody_is_there() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()

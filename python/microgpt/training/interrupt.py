"""Ctrl-C, SIGTERM and a terminal that closes as a request to stop after the step at hand."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

_NOTICE = b"\nstopping after this step; once more stops at once\n"


def hangup() -> list[int]:
    """Returns the signal of a terminal that closes; none where there is no such signal, or where it
    is to be ignored (nohup)."""
    number = getattr(signal, "SIGHUP", None)
    return [] if number is None or signal.getsignal(number) is signal.SIG_IGN else [number]


class Interrupt:
    """In a `with` statement: the first signal sets `requested`, a second one raises at once, but
    for a second SIGHUP."""

    def __init__(self) -> None:
        self.requested: str | None = None
        """The name of the signal that came."""
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *hangup()):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            if number in hangup():  # the system and the shell both send one
                return
            raise KeyboardInterrupt
        self.requested = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        with contextlib.suppress(OSError):  # Not through sys.stderr, which may be in mid-write.
            os.write(2, _NOTICE)

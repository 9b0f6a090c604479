"""Ctrl-C and SIGTERM as a request to stop after the step at hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class Interrupt:
    """In a `with` statement: the first signal sets `requested`, a second one raises at once."""

    def __init__(self, on_request: Callable[[str], None] | None = None) -> None:
        """`on_request` is called with the signal's name when the first one comes."""
        self.requested: str | None = None
        self._on_request = on_request
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        if self._on_request is not None:
            self._on_request(self.requested)

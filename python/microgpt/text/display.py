"""Tokens as people read them: on one line, with spaces and controls in a form that can be seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click

COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")


def wants_colour() -> bool:
    """Whether standard output is a terminal whose user has not set `NO_COLOR`."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def visible(token: bytes) -> str:
    """Returns a token's text; a space is `·`, and what cannot be printed is its escape."""
    shown = token.decode("utf-8", "backslashreplace").replace(" ", "·")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def cut_text(tokens: Iterable[bytes], coloured: bool) -> str:
    """Returns how a text is cut: tokens side by side in colours, or each in brackets."""
    shown = [visible(token) for token in tokens]
    if not coloured:
        return "".join(f"[{token}]" for token in shown)
    return "".join(
        click.style(token, fg=COLOURS[place % len(COLOURS)]) for place, token in enumerate(shown)
    )

"""Runs side by side: a table of many, or what a few differ in and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from microgpt.lab.summary import RunSummary, number
from microgpt.progress import count_text, duration_text

Column = Callable[[RunSummary], Any]

COLUMNS: dict[str, Column] = {
    "name": lambda run: run.name,
    "status": lambda run: run.status,
    "params": lambda run: number(run.facts, "parameters"),
    "steps": lambda run: run.step or None,
    "tokens": lambda run: run.tokens,
    "loss": lambda run: run.loss,
    "valid_loss": lambda run: run.valid_loss,
    "bits_per_byte": lambda run: run.bits_per_byte,
    "above_floor": lambda run: run.above_floor,
    "elapsed": lambda run: run.elapsed_seconds,
    "started": lambda run: run.facts.get("started"),
}
"""What is listed of a run, by name; the value is None where it is not known."""

_FACTS = {
    "data": ("dataset", "path"),
    "data fingerprint": ("dataset", "fingerprint"),
    "tokenizer": ("tokenizer", "kind"),
    "tokenizer fingerprint": ("tokenizer", "fingerprint"),
    "machine": ("machine",),
    "device": ("device",),
    "torch": ("torch",),
}
"""Facts that count as settings in a comparison, by where `run.json` has them."""


def ordered(runs: Iterable[RunSummary], column: str, reverse: bool = False) -> list[RunSummary]:
    """Returns the runs by a column, least first; those that lack it come last either way."""
    known: list[tuple[Any, RunSummary]] = []
    unknown: list[RunSummary] = []
    for run in runs:
        value = COLUMNS[column](run)
        if value is None:
            unknown.append(run)
        else:
            known.append((value, run))
    known.sort(key=lambda pair: pair[0], reverse=reverse)
    return [run for _, run in known] + unknown


def as_records(runs: Iterable[RunSummary]) -> list[dict[str, Any]]:
    """Returns each run's columns and settings, ready for JSON; seconds and nats are numbers."""
    return [
        {name: column(run) for name, column in COLUMNS.items()} | {"settings": run.settings}
        for run in runs
    ]


def listing(runs: Sequence[RunSummary]) -> str:
    """Returns a table with a line for each run; a column that none fills is left out."""
    shown = [name for name in COLUMNS if any(COLUMNS[name](run) is not None for run in runs)]
    rows = [[_cell(name, COLUMNS[name](run)) for name in shown] for run in runs]
    return table([name.replace("_", " ") for name in shown], rows, left={0, 1})


def comparison(runs: Sequence[RunSummary]) -> str:
    """Returns the settings in which the runs differ and, below, their results, a column a run.

    Of a single run, all its settings.
    """
    header = ["", *(run.name for run in runs)]
    settings = [
        [name, *("-" if value is None else str(value) for value in values)]
        for name, values in _settings(runs)
        if len(runs) == 1 or any(value != values[0] for value in values)
    ]
    results = [
        [name.replace("_", " "), *(_cell(name, column(run)) for run in runs)]
        for name, column in COLUMNS.items()
        if name != "name"
    ]
    same = [["(all settings are equal)", *("" for _ in runs)]]
    gap = [["" for _ in header]]
    text = table(header, (settings or same) + gap + results, left={0})
    return "\n".join(line.rstrip() for line in text.split("\n"))


def _settings(runs: Sequence[RunSummary]) -> list[tuple[str, list[Any]]]:
    """Returns each setting that any run has, with the value in every run."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = [(name, [run.settings.get(name) for run in runs]) for name in names]
    for name, path in _FACTS.items():
        rows.append((name, [_short(_at(run.facts, path)) for run in runs]))
    return rows


def _at(facts: Any, path: Sequence[str]) -> Any:
    for key in path:
        facts = facts.get(key) if isinstance(facts, dict) else None
    return facts


def _short(value: Any) -> Any:
    """Returns a fingerprint's first digits, anything else as it is."""
    long = isinstance(value, str) and len(value) == 64 and value.isalnum()
    return value[:12] if long else value


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in ("params", "tokens"):
        return count_text(value)
    if name == "elapsed":
        return duration_text(value)
    if name == "started":
        return str(value)[:16].replace("T", " ")
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """Returns rows under a header in aligned columns, those in `left` to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines)

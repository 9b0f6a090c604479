"""`microgpt runs`: the runs there are, or a few of them side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from microgpt.errors import CheckpointError
from microgpt.lab.compare import COLUMNS, as_records, comparison, listing, ordered
from microgpt.lab.summary import RunSummary, summarise
from microgpt.run_folder import RUNS, RunFolder


@click.command("runs")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--runs",
    "root",
    type=click.Path(path_type=Path),
    default=RUNS,
    show_default=True,
    help="Folder that holds the runs.",
)
@click.option(
    "--sort",
    type=click.Choice(list(COLUMNS)),
    help="Order by this column, least first. Without it: last started first.",
)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object for each run.")
def command(
    names: tuple[str, ...], root: Path, sort: str | None, reverse: bool, as_json: bool
) -> None:
    """List training runs, or compare them.

    Without a NAME, every run is a line. With one or more, their settings (where they differ) and
    results stand side by side. The losses are the lowest on validation text, in nats a token.
    """
    runs = [RunFolder.open(name, root) for name in names] if names else RunFolder.all(root)
    summaries = _summaries(runs)
    if sort is not None:
        summaries = ordered(summaries, sort, reverse)
    elif reverse:
        summaries.reverse()
    if as_json:
        click.echo(json.dumps(as_records(summaries), indent=2))
    elif names:
        click.echo(comparison(summaries))
    elif summaries:
        click.echo(listing(summaries))
    else:
        click.echo(f"{root} holds no runs yet: microgpt train FILE makes one", err=True)


def _summaries(runs: list[RunFolder]) -> list[RunSummary]:
    """Returns what can be read; a run that vanished or is torn is told of, and left out."""
    summaries = []
    for run in runs:
        try:
            summaries.append(summarise(run))
        except CheckpointError as error:
            click.echo(f"left out: {error}", err=True)
    return summaries

"""`microgpt doctor`: whether a run is healthy."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from microgpt.cli import require_training
from microgpt.errors import CheckpointError

if TYPE_CHECKING:
    from microgpt.run_folder import RunFolder
    from microgpt.training.doctor import Examination


@click.command("doctor")
@click.argument("name", required=False, metavar="[RUN]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """Examine RUN, the last one if none is named: its text, its first model, its newest checkpoint.

    Nothing is changed, and the run may be training meanwhile. Each finding is a sentence with what
    was measured, the limit, and the way out. The exit status is 0 where there is none, else 1.
    """
    require_training("doctor")
    from microgpt.device import calm_threads
    from microgpt.run_folder import RUNS, RunFolder

    calm_threads()
    if name is not None:
        run = RunFolder.open(name)
    else:
        run = next(iter(RunFolder.all(RUNS)), None)
        if run is None:
            raise CheckpointError(f"{RUNS} holds no run: start one with `microgpt train FILE`")
    examined = _examined(run)
    facts = run.read_facts()
    earlier = [f for f in facts.get("findings") or () if f not in examined.findings]
    rollbacks: list[str] = facts.get("rollbacks") or []
    if as_json:
        record = {"run": run.name, "step": examined.step, "findings": examined.findings}
        record |= {"in_training": earlier, "rollbacks": rollbacks, "signs": examined.signs}
        click.echo(json.dumps(record, ensure_ascii=False))
    else:
        click.echo("\n".join(_as_text(run, examined, earlier, rollbacks)))
    if examined.findings or earlier:
        sys.exit(1)


def _examined(run: RunFolder) -> Examination:
    from microgpt.data.lines import line_rules
    from microgpt.data.shards import Dataset
    from microgpt.text.tokenizer import Tokenizer
    from microgpt.training.doctor import examine

    config = run.read_config()
    if config.data.dataset is None:
        raise CheckpointError(f"{run.config_path} names no dataset: there is nothing to examine")
    tokenizer = Tokenizer.from_file(run.tokenizer_path)
    rules = line_rules(config.data, tokenizer)
    dataset = Dataset.open(config.data.dataset)
    return examine(run, config, dataset, tokenizer.decode_bytes, rules.training, rules.ends)


def _as_text(
    run: RunFolder, examined: Examination, earlier: list[str], rollbacks: list[str]
) -> list[str]:
    signs = examined.signs
    lines = [
        f"run      {run.path}, step {examined.step:,}",
        f"at first loss {signs['first_loss']:.3f} (ln V = {signs['fair_loss']:.3f}), stream by "
        f"depth {_numbers(signs['first_streams'])}",
    ]
    if "loss" in signs:
        updates: dict[str, float] = signs["updates"]
        least, most = min(updates, key=updates.__getitem__), max(updates, key=updates.__getitem__)
        lines += [
            f"now      loss {signs['loss']:.3f} (single ids' entropy "
            f"{signs['unigram_entropy']:.3f}), stream by depth {_numbers(signs['streams'])}",
            f"blocks   change {_numbers(signs['writes'])} of the stream",
            f"updates  {updates[least]:.2g} ({least}) to {updates[most]:.2g} ({most}) of a matrix "
            "at the peak rate",
        ]
    lines += [f"rolled back: {event}" for event in rollbacks]
    lines += [f"not healthy: {finding}" for finding in examined.findings]
    lines += [f"not healthy, in training: {finding}" for finding in earlier]
    return lines if examined.findings or earlier else [*lines, "healthy"]


def _numbers(values: list[Any]) -> str:
    return " ".join(f"{value:.2g}" for value in values)

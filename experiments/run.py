"""Repeats a line of evidence: python experiments/run.py addition [--seeds 0,1,2] [--data FOLDER]

`experiments/NAME.toml` says under `[experiment]` what is trained on and judged by; the rest of it
are settings of a run, and each of `[[variants]]` changes some of them. `microgpt train` trains each
variant with each seed, one after the other; `microgpt eval` judges it; a row is printed. Runs lie
in `experiments/out/NAME/`: what is finished is not done again, what broke off goes on.

A text is a script of `dummy_data/` with its flags, or a file of --data (`.xz` is unpacked). `part`
takes a share of it, such as [0.0, 0.9]. With `tokenize`, flags of `microgpt tokenize`, a dataset is
made of the text first ({data} stands for --data); `flags` are for `microgpt train`. A variant may
have both of its own.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OWN = ("tokenize", "flags")
"""What a variant says that is no setting of a run."""


def main() -> None:
    """Runs what the flags ask for and prints a table."""
    parser = argparse.ArgumentParser(description="Repeats a line of evidence.")
    parser.add_argument("name", choices=sorted(path.stem for path in HERE.glob("*.toml")))
    parser.add_argument("--seeds", help="such as 0,1,2; default: as the experiment says")
    parser.add_argument("--variants", help="names, comma between; default: all")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument(
        "--log", type=Path, default=HERE / "out/LOG.md", help="notebook of the runs"
    )
    flags = parser.parse_args()
    settings = tomllib.loads((HERE / f"{flags.name}.toml").read_text())
    experiment = settings.pop("experiment")
    variants = {v.pop("name"): v for v in settings.pop("variants", [{"name": flags.name}])}
    own = {name: {key: v.pop(key) for key in OWN if key in v} for name, v in variants.items()}
    names = flags.variants.split(",") if flags.variants else list(variants)
    seeds = [int(s) for s in flags.seeds.split(",")] if flags.seeds else experiment["seeds"]
    folder = HERE / "out" / flags.name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{experiment['claim']}\n")
    for name in names:
        for seed in seeds:
            run = f"{name}-{seed}"
            source = Source(folder, flags.data)
            log = os.path.relpath(flags.log, folder)
            plan = {**experiment, **own[name]}
            train(source, run, plan, merged(settings, variants[name]), seed, log)
            print(row(source, run, experiment), flush=True)


@dataclass(frozen=True)
class Source:
    """Where texts are made, and from which files."""

    folder: Path
    data: Path

    def text(self, title: str, recipe: dict[str, Any]) -> str:
        """Returns the name of the text's file in the folder, made where it is missing."""
        path = self.folder / f"{title.replace(' ', '-')}.txt"
        if not path.exists():
            whole = self._whole(recipe)
            first, last = recipe.get("part", [0.0, 1.0])
            made = path.with_suffix(".made")  # a broken-off one is not taken for the text
            made.write_bytes(whole[int(first * len(whole)) : int(last * len(whole))])
            made.replace(path)
        return path.name

    def dataset(self, text: str, flags: str) -> str:
        """Returns the name of the dataset folder made of a text, made where it is missing."""
        name = "datasets/" + re.sub(r"[^\w.]+", "-", Path(text).stem + flags.format(data=""))
        if not (self.folder / name / "manifest.json").exists():
            given = flags.format(data=self.data.resolve()).split()
            microgpt(self.folder, "tokenize", text, *given, "--out", name)
        return name

    def _whole(self, recipe: dict[str, Any]) -> bytes:
        if "script" in recipe:
            script, *flags = recipe["script"].split()
            command = [sys.executable, ROOT / "dummy_data" / script, *flags]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        packed = (self.data / recipe["file"]).read_bytes()
        return lzma.decompress(packed) if recipe["file"].endswith(".xz") else packed


def train(
    source: Source,
    run: str,
    experiment: dict[str, Any],
    settings: dict[str, Any],
    seed: int,
    log: str,
) -> None:
    """Trains the run, or goes on with it, or leaves it where it is finished."""
    folder = source.folder
    record, config = folder / "runs" / run / "run.json", folder / f"{run}.toml"
    if record.exists():
        if config.read_text() != as_toml(settings):
            sys.exit(f"{record.parent} is of other settings than the experiment has now: remove it")
        if json.loads(record.read_text())["status"] != "finished":
            microgpt(folder, "train", "--resume", run, "--log", log)
        return
    config.write_text(as_toml(settings))
    corpus = source.text("corpus", experiment["corpus"])
    if "tokenize" in experiment:
        corpus = source.dataset(corpus, experiment["tokenize"])
    how = [*experiment.get("flags", []), "--config", config.name, "--seed", str(seed)]
    microgpt(folder, "train", corpus, "--name", run, *how, "--log", log)


def row(source: Source, run: str, experiment: dict[str, Any]) -> str:
    """Returns the run's figures: what the experiment judges by, in a line."""
    facts = json.loads((source.folder / "runs" / run / "run.json").read_text())
    cells = [f"{run}: {facts['parameters']:,} parameters, {facts['elapsed_seconds']:.0f} s"]
    for title, judge in experiment["judges"].items():
        text = source.text(title, judge["text"])
        flags = ["--json", *judge.get("flags", [])]
        found = json.loads(microgpt(source.folder, "eval", run, text, *flags))
        if "correct" in found:
            share = f"{found['share']:.3%}"
            cells.append(f"{title} {found['correct']:,} of {found['lines']:,}, {share}")
            for mark, counts in found.get("by_mark", {}).items():
                cells.append(f"{mark} {counts['correct'] / counts['lines']:.2%}")
        else:
            nats = found["loss"] * found["tokens"] / found["bytes"]
            cells.append(f"{title} {nats:.4f} nats, {found['bits_per_byte']:.4f} bits a byte")
    return "; ".join(cells)


def microgpt(folder: Path, *command: str) -> str:
    """Runs a command in `folder` and returns what it prints; its progress goes to the terminal."""
    whole = [sys.executable, "-m", "microgpt", *command]
    done = subprocess.run(whole, cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns tables of settings with some of them changed."""
    names = [*settings, *(name for name in changes if name not in settings)]
    return {name: {**settings.get(name, {}), **changes.get(name, {})} for name in names}


def as_toml(settings: dict[str, Any]) -> str:
    """Returns tables of plain values as TOML."""
    lines = []
    for table, values in settings.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

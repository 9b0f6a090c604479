"""A run's folder: its configuration, facts, metrics, samples and checkpoints (docs/formats.md).

Everything here is safe against a kill at any moment. A checkpoint is written beside its place,
synced and renamed, so a folder under its final name is whole unless the disk failed; each is held
against the hashes in its `state.json` before use, and the one before it taken where it is torn.
Metrics and samples are only ever appended to; a checkpoint notes their lengths, and going back to
it cuts them there.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import itertools
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microgpt.config import RunConfig, read_toml, to_dict, updated
from microgpt.errors import CheckpointError, UsageError
from microgpt.files import sha256, sync, try_lock, write_atomically

RUNS = Path("runs")
RUN_FORMAT = "microgpt-run"
CHECKPOINT_FORMAT = "microgpt-checkpoint"
VERSION = 1

_STEP_FOLDER = re.compile(r"step-(\d{8,})")
_log = logging.getLogger("microgpt")


@dataclass(frozen=True)
class Judgement:
    """What an evaluation says of the checkpoint of its step, to find the best one."""

    step: int
    loss: float
    """Validation loss in nats a token, on answers alone where the run is judged by those."""
    right: float | None = None
    """Share of validation's answers that are wholly right, where the run is judged by those."""

    @staticmethod
    def of(row: Mapping[str, Any]) -> Judgement:
        """Returns that of a row of the metrics that holds a validation loss."""
        loss = row.get("valid_answer_loss", row["valid_loss"])
        return Judgement(row["step"], loss, row.get("valid_answers_right"))

    def text(self) -> str:
        """Returns it in words."""
        if self.right is None:
            return f"validation loss {self.loss:.4f}"
        return f"{self.right:.2%} of validation's answers right, their loss {self.loss:.4f}"

    def gains_on(self, other: Judgement) -> bool:
        """Whether more answers are right, or as many at a lower loss."""
        return (-(self.right or 0), self.loss) < (-(other.right or 0), other.loss)

    def replaces(self, earlier: Judgement) -> bool:
        """Whether its checkpoint is better than that of the `earlier` one: it gains on it, or as
        many answers are right. What loss is left by then is chance, while the rate still falls."""
        return self.gains_on(earlier) or (bool(self.right) and self.right == earlier.right)


@dataclass(frozen=True)
class Checkpoint:
    """One `step-.../` folder and what its `state.json` says."""

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done when it was written."""
        return self.state["step"]

    @property
    def best(self) -> Judgement | None:
        """The best evaluation until then."""
        best = self.state.get("best")
        if not best:
            return None
        return Judgement(best["step"], best["valid_loss"], best.get("answers_right"))

    def fault(self) -> str | None:
        """What differs between the files and `state.json`, or None where they agree."""
        for name, expected in self.state["files"].items():
            file = self.path / name
            try:
                if file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
                    return f"{name} is not what state.json says"
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
        return None

    def require_tokenizer(self, fingerprint: str) -> None:
        """Does nothing where this is the fingerprint of the tokenizer it was trained with.

        Raises:
            CheckpointError: it is another's, so ids would mean something else.
        """
        if fingerprint != self.state.get("tokenizer_fingerprint"):
            raise CheckpointError(
                f"the tokenizer in {self.path.parents[1]} is not the one that {self.path.name} was "
                "trained with: put that one back"
            )


class RunFolder:
    """A folder that holds a run, by convention `runs/NAME/`."""

    def __init__(self, path: Path) -> None:
        """Names the folder; `create` and `open` are the doors that check it."""
        self.path = path

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # Finding and making

    @staticmethod
    def create(root: Path, name: str | None = None, stem: str = "run") -> RunFolder:
        """Makes the folder `root/name`, or, without a name, the first free of `stem-1`, `stem-2`...

        Raises:
            UsageError: the name is taken or no plain folder name, or the folder cannot be made.
        """
        if name is not None:
            RunFolder.require_free(root, name)
        path = root / (name or stem)
        try:
            root.mkdir(parents=True, exist_ok=True)
            names = [name] if name else (f"{stem}-{number}" for number in itertools.count(1))
            for candidate in names:
                path = root / candidate
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    break
            else:
                raise _taken(path)
        except OSError as error:
            raise UsageError(f"cannot make a run in {root}: {error.strerror}") from error
        run = RunFolder(path)
        run.update_facts(name=path.name, started=now(), status="running")
        return run

    @staticmethod
    def require_free(root: Path, name: str) -> None:
        """Does nothing where a run of this name can be made under `root`.

        Raises:
            UsageError: the name is taken or no plain folder name.
        """
        if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
            raise UsageError(f"{name!r} is no name for a run: give a plain folder name")
        if os.path.lexists(root / name):
            raise _taken(root / name)

    @staticmethod
    def open(name_or_path: str | Path, root: Path = RUNS) -> RunFolder:
        """The run of that name under `root`, or at that path.

        Raises:
            CheckpointError: there is none; the nearest name is given.
        """
        for path in (root / name_or_path, Path(name_or_path)):
            if (path / "run.json").is_file():
                return RunFolder(path)
        known = [run.name for run in RunFolder.all(root)]
        near = difflib.get_close_matches(str(name_or_path), known, n=1)
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif known:
            hint = f"there are {', '.join(known[:8])}"
        else:
            hint = f"{root} holds none; `microgpt train FILE` makes one"
        raise CheckpointError(f"no run {str(name_or_path)!r}: {hint}")

    @staticmethod
    def all(root: Path = RUNS) -> list[RunFolder]:
        """The runs under `root`, last started or resumed first; unreadable ones left out."""
        runs: list[tuple[str, str, RunFolder]] = []
        for file in root.glob("*/run.json"):
            run = RunFolder(file.parent)
            try:
                facts = run.read_facts()
            except CheckpointError as error:
                _log.warning("%s", error)
                continue
            runs.append((facts.get("resumed") or facts.get("started") or "", run.name, run))
        return [run for _, _, run in sorted(runs, key=lambda entry: entry[:2], reverse=True)]

    @staticmethod
    def newest(root: Path = RUNS) -> RunFolder:
        """The last started or resumed run that holds a checkpoint.

        Raises:
            CheckpointError: there is none under `root`.
        """
        for run in RunFolder.all(root):
            if run.checkpoints():
                return run
        raise CheckpointError(f"{root} holds no trained run: make one with `microgpt train FILE`")

    # Names

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def config_path(self) -> Path:
        """Where the resolved configuration is."""
        return self.path / "config.toml"

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer is."""
        return self.path / "tokenizer.json"

    @property
    def metrics_path(self) -> Path:
        """Where the metrics are, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def samples_path(self) -> Path:
        """Where the samples are."""
        return self.path / "samples.txt"

    @property
    def checkpoints_path(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    # One writer at a time

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for this process; the system lets go when the process ends, however.

        Raises:
            CheckpointError: another process holds it, or nothing can be locked there: going on
                without a lock would let two processes write one run.
        """
        path = self.path / "lock"
        try:
            file = path.open("a+")
        except OSError as error:
            raise CheckpointError(f"cannot write in {self.path}: {error.strerror}") from error
        with file:
            try:
                is_free = try_lock(file.fileno())
            except OSError as error:
                raise CheckpointError(
                    f"the file system of {path} cannot lock files ({error.strerror}): keep runs on "
                    "one that can, such as a local disk"
                ) from error
            if not is_free:
                holder = path.read_text().strip() or "unknown"
                raise CheckpointError(
                    f"run {self.name!r} is in use by process {holder}: wait for it or stop it, or "
                    "train under another --name"
                )
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def in_use(self) -> bool:
        """Whether a process holds the run now."""
        try:
            with (self.path / "lock").open("r+") as file:
                return not try_lock(file.fileno())
        except OSError:
            return False

    # Configuration and facts

    def read_config(self) -> RunConfig:
        """The resolved configuration.

        Raises:
            CheckpointError: `config.toml` is missing or not one of ours.
        """
        try:
            return updated(RunConfig(), read_toml(self.config_path), str(self.config_path))
        except UsageError as error:
            raise CheckpointError(str(error)) from error

    def write_config(self, config: RunConfig) -> None:
        """Puts the resolved configuration in its place."""
        import tomli_w  # comes with the extra `train`, as everything that makes a run does

        write_atomically(self.config_path, tomli_w.dumps(to_dict(config)))

    def read_facts(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            CheckpointError: it is missing, torn or foreign.
        """
        return _read_json(self.path / "run.json", RUN_FORMAT)

    def update_facts(self, **facts: Any) -> None:
        """Sets these keys of `run.json` and leaves the others."""
        path = self.path / "run.json"
        known = self.read_facts() if path.exists() else {"format": RUN_FORMAT, "version": VERSION}
        write_atomically(path, json.dumps({**known, **facts}, indent=2) + "\n")

    # Metrics and samples

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`; a number that is none becomes null."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        _append(self.metrics_path, json.dumps(finite) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, without a last line that a kill tore."""
        try:
            lines = self.metrics_path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows: list[dict[str, Any]] = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return rows

    def append_sample(self, step: int, text: str) -> None:
        """Adds a sample to `samples.txt`, under a line with the step."""
        _append(self.samples_path, f"== step {step} ==\n{text}\n\n")

    # Checkpoints

    def checkpoints(self) -> list[Checkpoint]:
        """Those with a readable `state.json`, newest first; the files are not checked."""
        found: list[Checkpoint] = []
        for path in self._checkpoint_folders():
            try:
                found.append(Checkpoint(path, _read_state(path)))
            except CheckpointError as error:
                _log.warning("%s: passed over", error)
        return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest whose files are what its `state.json` says; torn ones are warned of."""
        return next((c for c in self.checkpoints() if _is_sound(c)), None)

    def checkpoint_of(self, step: int) -> Checkpoint:
        """The one of this step, which another process has found sound.

        Raises:
            CheckpointError: this process does not see it.
        """
        for checkpoint in self.checkpoints():
            if checkpoint.step == step:
                return checkpoint
        raise CheckpointError(
            f"{self.checkpoints_path} holds no checkpoint of step {step} for this process: all "
            "processes of a run must see one file system"
        )

    def best_checkpoint(self) -> Checkpoint | None:
        """The sound one that `Judgement` prefers, or the newest where nothing was measured."""
        newest = self.newest_checkpoint()
        best = newest and newest.best
        if newest and best and best.step != newest.step:
            for checkpoint in self.checkpoints():
                if checkpoint.step == best.step and _is_sound(checkpoint):
                    return checkpoint
        return newest

    def write_checkpoint(
        self,
        step: int,
        state: Mapping[str, Any],
        writers: Mapping[str, Callable[[Path], None]],
        keep: int = 2,
    ) -> Checkpoint:
        """Writes `checkpoints/step-.../`: each writer makes its file, `state` goes to `state.json`.

        Then the older ones are thinned to the newest `keep` and the best.

        Raises:
            CheckpointError: the system refused (a full disk); the earlier ones are untouched.
        """
        final = self.checkpoints_path / f"step-{step:08d}"
        temporary = final.with_name(final.name + ".tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            whole = {
                "format": CHECKPOINT_FORMAT,
                "version": VERSION,
                "step": step,
                **state,
                "metrics_bytes": _synced_length(self.metrics_path),
                "samples_bytes": _synced_length(self.samples_path),
                "files": _write_files(temporary, writers),
            }
            write_atomically(temporary / "state.json", json.dumps(whole, indent=2) + "\n")
            _remove(final)
            temporary.rename(final)
            sync(self.checkpoints_path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(self._refusal(step, error)) from error
        checkpoint = Checkpoint(final, whole)
        self._thin(checkpoint, keep)
        return checkpoint

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Brings the folder to where it was at `checkpoint` (None: at the start)."""
        for path, key in (
            (self.metrics_path, "metrics_bytes"),
            (self.samples_path, "samples_bytes"),
        ):
            length = checkpoint.state[key] if checkpoint else 0
            if path.exists() and path.stat().st_size > length:
                os.truncate(path, length)
        for path in self._checkpoint_folders():
            if checkpoint is None or int(path.name.removeprefix("step-")) > checkpoint.step:
                _remove(path)

    def _checkpoint_folders(self) -> list[Path]:
        return [p for p in self.checkpoints_path.glob("step-*") if _STEP_FOLDER.fullmatch(p.name)]

    def _refusal(self, step: int, error: OSError) -> str:
        kept = self.checkpoints()
        last = f"the one of step {kept[0].step} is intact" if kept else "there is none before it"
        return (
            f"cannot write the checkpoint of step {step} in {self.checkpoints_path}: "
            f"{error.strerror or error}; {last}: make room, then `microgpt train --resume "
            f"{self.name}`"
        )

    def _thin(self, newest: Checkpoint, keep: int) -> None:
        """Keeps the newest `keep` and the best, and clears what broken-off writes left."""
        steps = sorted(int(p.name.removeprefix("step-")) for p in self._checkpoint_folders())
        kept = set(steps[-keep:])
        if newest.best is not None:
            kept.add(newest.best.step)
        for path in self.checkpoints_path.iterdir():
            match = _STEP_FOLDER.fullmatch(path.name)
            if match is None or int(match[1]) not in kept:
                _remove(path)


def now() -> str:
    """The present moment, UTC, as ISO 8601 with milliseconds; such strings sort by time."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _append(path: Path, text: str) -> None:
    """Adds `text` at the end of a file, or, where the system refuses, nothing."""
    with path.open("ab", buffering=0) as file:
        length = file.tell()
        try:
            rest = memoryview(text.encode())
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(length)
            raise


def _read_json(path: Path, expected_format: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is torn or foreign: it is no JSON") from error
    if not isinstance(content, dict) or content.get("format") != expected_format:
        raise CheckpointError(f"{path} is foreign: its format is not {expected_format!r}")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {content.get('version')}, but this program reads {VERSION}"
        )
    return content


def _taken(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists already: choose another --name, or continue that run with "
        f"--resume {path.name}"
    )


def _read_state(folder: Path) -> dict[str, Any]:
    state = _read_json(folder / "state.json", CHECKPOINT_FORMAT)
    if state.get("step") != int(folder.name.removeprefix("step-")):
        raise CheckpointError(f"{folder} is foreign: its state.json is of step {state.get('step')}")
    if not isinstance(state.get("files"), dict):
        raise CheckpointError(f"{folder / 'state.json'} is foreign: it lists no files")
    return state


def _is_sound(checkpoint: Checkpoint) -> bool:
    if fault := checkpoint.fault():
        _log.warning("%s is torn and passed over: %s", checkpoint.path, fault)
    return fault is None


def _write_files(
    folder: Path, writers: Mapping[str, Callable[[Path], None]]
) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = {}
    for name, write in writers.items():
        path = folder / name
        write(path)
        sync(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return files


def _synced_length(path: Path) -> int:
    """Bytes in the file, which are on the disk when this returns."""
    sync(path)
    return path.stat().st_size if path.exists() else 0


def _remove(path: Path) -> None:
    """Removes a folder so that a kill halfway leaves no torn one under its final name."""
    doomed = path.with_name(path.name + ".old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)

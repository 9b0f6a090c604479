"""Whole commands in an empty folder, as a user calls them."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from microgpt.cli import main

ROOT = Path(__file__).parents[2]
TINY = [
    *("--n-layer=1", "--n-head=2", "--n-embd=16", "--context=16", "--batch-rows=4"),
    *("--steps=6", "--evaluate-every=3", "--threads=1", "--device=cpu"),
]
"""Flags of a training run that takes no time."""

Result = subprocess.CompletedProcess[str]


class Commands:
    """Calls `microgpt` in a folder of its own."""

    tiny = TINY

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix: list[str | Path] = []

    def start(self, *arguments: str | Path, **options) -> subprocess.Popen[str]:
        """Returns the command as a running process, its standard streams as pipes."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "COLUMNS": "100"}
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "microgpt", *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def process(self, *arguments: str | Path, stdin: str = "", timeout: float = 120) -> Result:
        """Runs the command to its end in a process of its own."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(stdin, timeout)
        finally:
            process.kill()
        return Result(arguments, process.returncode, out, err)

    def inside(self, *arguments: str | Path, stdin: str = "") -> Result:
        """Runs the command to its end in this process, which has torch imported already."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            patch.setattr(sys, "argv", ["microgpt", *map(str, arguments)])
            with pytest.raises(SystemExit) as exit:
                main()
        printed = []
        for stream in (out, err):
            stream.flush()
            printed.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
        return Result(arguments, int(exit.value.code or 0), *printed)

    def __call__(self, *arguments: str | Path, stdin: str = "", status: int = 0) -> Result:
        """Runs the command to its end, which must have this exit status."""
        result = (self.process if self.prefix else self.inside)(*arguments, stdin=stdin)
        assert result.returncode == status, result
        return result

    def error(self, *arguments: str | Path, status: int = 1, stdin: str = "") -> str:
        """Runs a command that must fail with one line; returns that line without `error: `."""
        result = self(*arguments, status=status, stdin=stdin)
        lines = result.stderr.splitlines()
        assert "Traceback" not in result.stderr
        assert "panicked" not in result.stderr
        errors = [line for line in lines if line.startswith("error: ")]
        assert lines[-1:] == errors, f"not one line, the last: {result.stderr}"
        assert "bug in microgpt" not in errors[0]
        return errors[0].removeprefix("error: ")

    def train(self, *arguments: str | Path) -> Result:
        """Trains a tiny model."""
        return self("train", *TINY, *arguments)

    def corpus(self, name: str, *flags: str, to: str = "dataset.txt") -> Path:
        """Writes a synthetic corpus into the folder; returns its path."""
        run = [sys.executable, str(ROOT / "dummy_data" / f"{name}_dummy.py"), *flags]
        path = self.folder / to
        path.write_bytes(subprocess.run(run, capture_output=True, check=True).stdout)
        return path


@pytest.fixture
def microgpt(tmp_path: Path) -> Commands:
    """Returns a caller of `microgpt` whose folder is empty."""
    folder = tmp_path / "user"
    folder.mkdir()
    return Commands(folder)

"""`microgpt train --processes N`, or `--gpus N`: the same command N times on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from microgpt.training.interrupt import hangup

GRACE_SECONDS = 20.0
"""How long the others may take to end by themselves after one has failed."""
_LOOK_SECONDS = 0.1


def is_launched() -> bool:
    """Whether this process is one of several of a run, whoever started them."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(arguments: Sequence[str], processes: int) -> int:
    """Runs `microgpt` with `arguments` in so many processes; returns the exit status.

    The first one's output is shown. When one fails the others end, and this says which it was.
    """
    command = [sys.executable, "-m", "microgpt", *arguments]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    folder = Path(tempfile.mkdtemp(prefix="microgpt-"))
    children = [
        _started(
            command,
            {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            folder / str(rank) if rank else None,
        )
        for rank in range(processes)
    ]
    # A terminal's Ctrl-C reaches the children by itself; they agree on when to stop.
    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        **{
            number: signal.signal(number, lambda number, _: _tell(children, number))
            for number in (signal.SIGTERM, *hangup())
        },
    }
    try:
        return _watched(children, folder)
    finally:
        _tell(children, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _started(
    command: list[str], environment: dict[str, str], words: Path | None
) -> subprocess.Popen[bytes]:
    """Starts a process; what it says goes where this one's does, or into a file."""
    if words is None:
        return subprocess.Popen(command, env=environment)
    with words.open("wb") as file:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=file)


def _watched(children: list[subprocess.Popen[bytes]], folder: Path) -> int:
    """Waits for all to end; returns the status of the first that failed, else 0. `folder`
    holds what each but the first wrote on standard error: the last line tells why it failed."""
    failed: int | None = None
    deadline = float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        if failed is None:
            failed = next((r for r, child in enumerate(children) if child.poll()), None)
            if failed is not None:
                deadline = time.monotonic() + GRACE_SECONDS
        time.sleep(_LOOK_SECONDS)
    if failed is None:
        failed = next((r for r, child in enumerate(children) if child.poll()), None)
    if failed is None:
        return 0
    status = children[failed].returncode
    if status < 0:
        how = f"by {signal.Signals(-status).name}"
        click.echo(f"process {failed} of {len(children)} was ended {how}", err=True)
        return 1
    if failed > 0:
        told = (folder / str(failed)).read_text(errors="replace")
        last = told.strip().rpartition("\n")[2]
        click.echo(f"process {failed} of {len(children)}: {last}", err=True)
    return status


def _tell(children: list[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

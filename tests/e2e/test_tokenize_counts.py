"""`microgpt tokenize` that only counts, and trains on what was counted elsewhere."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microgpt import Tokenizer
from microgpt.data.shards import Dataset

from .test_tokenize import start, tokenize

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

WORDS = ("low", "lower", "lowest", "new", "newer", "newest", "wide", "widest")


def write_parts(folder: Path) -> list[str]:
    rng = random.Random(1)
    for number in range(3):
        text = " ".join(rng.choices(WORDS, k=3000))
        (folder / f"part{number}.txt").write_text(text)
    return [f"part{number}" for number in range(3)]


def test_counts_of_parts_train_the_tokenizer_of_the_whole(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    for part in parts:
        counted = tokenize(tmp_path, f"{part}.txt", "--count-only")
        assert counted.returncode == 0, counted.stderr
        assert re.search(r"counted     \d.* kB, \d+ distinct pieces\nwrote part", counted.stdout)
    names = [f"{part}.counts" for part in parts]
    joined = tokenize(tmp_path, *names, "--from-counts", "--vocab-size", "300")
    assert joined.returncode == 0, joined.stderr
    assert joined.stdout.startswith("tokenizer   bpe, ")
    assert joined.stdout.endswith(
        "wrote tokenizer.json\nnext: microgpt tokenize INPUT --tokenizer tokenizer.json\n"
    )
    texts = [f"{part}.txt" for part in parts]
    whole = tokenize(tmp_path, *texts, "--vocab-size", "300", "--memory", "64MB", "--name", "all")
    assert whole.returncode == 0, whole.stderr
    dataset = Dataset.open(tmp_path / "datasets/all")
    found = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert found == Tokenizer.from_file(dataset.tokenizer_path)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["a.txt", "--count-only", "--vocab-size", "8k"], 2, "leave out --vocab-size"),
        (["a.txt", "--count-only", "--tokenizer", "t.json"], 2, "leave out --tokenizer"),
        (["a.txt", "--count-only", "-o", "."], 2, "a folder: name a file"),
        (["a.txt", "--count-only", "-o", "a.txt"], 2, "a.txt is there already: --force"),
        (["gone.txt", "--count-only"], 1, "gone.txt"),
        (["--from-counts"], 2, "has no INPUT"),
        (["a.txt", "--from-counts", "--pattern", "gpt2"], 2, "leave out --pattern"),
        (["a.txt", "--from-counts", "--special-token", "x"], 2, "leave out --special-token"),
        (["a.txt", "--from-counts", "-o", "x.bin"], 2, "ends in .json or .tiktoken"),
        (["a.txt", "--from-counts"], 1, "a.txt: is no count file"),
        (["a.txt", "--memory", "lots"], 2, "--memory is 'lots', but must be a size such as"),
        (["a.txt", "--bpe", "--memory", "1kB"], 2, "memory is 1000 bytes, but"),
        (["a.txt", "--bpe", "--memory", "8MB", "--threads", "9"], 2, "at least 9 MiB"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], status: int, sentence: str
) -> None:
    (tmp_path / "a.txt").write_text("some text, some more")
    result = tokenize(tmp_path, *arguments)
    assert (result.returncode, sentence in result.stderr) == (status, True), result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_ctrl_c_and_kill_leave_neither_counts_nor_temporary_files(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = random.Random(0).randbytes(20_000_000).hex(" ", 5)
    (tmp_path / "a.txt").write_text(words)
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        options = ("--count-only", "--memory", "4MB", "-o", "a.counts")
        process = start(tmp_path, "a.txt", *options, env={"TMPDIR": str(temporary)})
        while not _holds_removed_file(process):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=20)
        assert process.returncode == status
        assert list(temporary.iterdir()) == []
        assert not list(tmp_path.glob("a.counts*"))


def _holds_removed_file(process: subprocess.Popen[str]) -> bool:
    """Whether the process writes to a temporary file already."""
    opened = Path(f"/proc/{process.pid}/fd")
    try:
        return any("(deleted)" in str(link.readlink()) for link in opened.iterdir())
    except FileNotFoundError:
        return False

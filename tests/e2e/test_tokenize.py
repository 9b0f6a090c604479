"""`microgpt tokenize` as a user meets it: what it prints, what it refuses, what it survives."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt import _core
from microgpt.data.shards import Dataset

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and flock")

LINES = "".join(f"{a} + {b} = {a + b};\n" for a in range(40) for b in range(40))


def start(folder: Path, *arguments: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "microgpt", "tokenize", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def tokenize(
    folder: Path, *arguments: str, input: str | None = None, **options
) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments, stdin=subprocess.PIPE, **options)
    out, err = process.communicate(input, timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def contents(folder: Path) -> dict[str, bytes]:
    names = ("lock", "seen.json")
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name not in names}


def test_text_becomes_a_dataset_and_is_not_written_twice(tmp_path: Path) -> None:
    (tmp_path / "dataset.txt").write_text(LINES)
    first = tokenize(tmp_path)
    assert first.returncode == 0
    assert "tokenizer   byte, 256 ids, 15 of them used (6%)" in first.stdout
    assert "sample      [0][·][+][·][0][·][=][·][0][;][\\n]" in first.stdout
    assert first.stdout.endswith("wrote datasets/dataset/\nnext: microgpt train dataset.txt\n")
    second = tokenize(tmp_path)
    assert "up to date: datasets/dataset/\n" in second.stdout
    dataset = Dataset.open(tmp_path / "datasets/dataset")
    ids = [
        *dataset.train.read(0, dataset.train.tokens),
        *dataset.valid.read(0, dataset.valid.tokens),
    ]
    assert bytes(ids) == LINES.encode()
    _core.verify_dataset(dataset.folder, progress=None)


def test_bpe_by_epochs_reports_what_it_learned(tmp_path: Path) -> None:
    (tmp_path / "dataset.txt").write_text(LINES)
    result = tokenize(tmp_path, "--bpe", "--epochs", "2", "--name", "sums")
    assert result.returncode == 0, result.stderr
    assert "tokenizer   bpe, " in result.stdout
    assert "longest     " in result.stdout
    assert "next: microgpt train datasets/sums\n" in result.stdout


def test_vocabulary_larger_than_the_text_gives_says_so(tmp_path: Path) -> None:
    (tmp_path / "dataset.txt").write_text("ab ab abc")
    result = tokenize(tmp_path, "--vocab-size", "8k")
    assert result.returncode == 0, result.stderr
    assert "note: the text gives no more than " in result.stderr
    assert "ids of the 8000 asked for" in result.stderr


def test_source_tree_is_a_document_a_file(tmp_path: Path) -> None:
    for name in ("src/b.py", "src/a.py", "src/deep/c.py", "src/notes.txt", "src/.git/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "src/z.py").write_bytes(b"\0binary")
    result = tokenize(tmp_path, "src", "--include", "*.py", "--valid-fraction", "0")
    assert result.returncode == 0, result.stderr
    assert "note: binary files left out: 1, the first is src/z.py" in result.stderr
    dataset = Dataset.open(tmp_path / "datasets/src")
    files = [one.path for one in dataset.manifest.source.inputs]
    assert files == ["src/a.py", "src/b.py", "src/deep/c.py"]
    ids = dataset.train.read(0, dataset.train.tokens).tolist()
    assert ids == [256, *b"# src/a.py\n", 256, *b"# src/b.py\n", 256, *b"# src/deep/c.py\n"]


def test_standard_input_is_read(tmp_path: Path) -> None:
    result = tokenize(tmp_path, "-", "--name", "piped", input=LINES)
    assert result.returncode == 0, result.stderr
    dataset = Dataset.open(tmp_path / "datasets/piped")
    assert dataset.manifest.source.inputs[0].path == "-"
    assert dataset.manifest.source.text_bytes == len(LINES)
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["piped"]


def bad(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


TORN = gzip.compress(LINES.encode())[:-9]


@pytest.mark.parametrize(
    ("make", "arguments", "status", "sentence"),
    [
        (None, [], 1, "error: there is no dataset.txt here: name a text file, or make one"),
        (None, ["gone.txt"], 1, "error: gone.txt: no such file or directory"),
        (bad("a.txt", b""), ["a.txt"], 1, "error: a.txt: holds no text to tokenize"),
        (Path.touch, ["."], 1, "error: .: has no file that ends in .txt, .md, .jsonl"),
        (bad("a.txt", b"x"), [".", "--include", "*.rs"], 1, "no file that matches --include *.rs"),
        (bad("a.txt", b"PNG\0"), ["a.txt"], 1, "error: a.txt: looks binary (byte 3 is zero)"),
        (bad("a.txt", TORN), ["a.txt"], 1, "error: a.txt: the compressed data is damaged or cut"),
        (bad("a.jsonl", b"{}"), ["a.jsonl"], 1, 'error: a.jsonl:1: no field "text"'),
        (bad("a.jsonl", b"x"), ["a.jsonl"], 1, "error: a.jsonl:1: no JSON"),
        (bad("a.parquet", b"x"), ["a.parquet"], 1, "error: a.parquet: cannot be read as Parquet"),
        (bad("a.txt", b"x"), ["a.txt", "--byte", "--bpe"], 2, "exclude each other"),
        (bad("a.txt", b"x"), ["a.txt", "--byte", "--tie", "hf"], 2, "leave out --tie"),
        (bad("a.txt", b"x"), ["a.txt", "--bpe", "--tokenizer", "t"], 2, "leave out --byte, --bpe"),
        (bad("a.txt", b"x"), ["a.txt", "--vocab-size", "12"], 2, "--vocab-size is 12, but must"),
        (bad("a.txt", b"x"), ["a.txt", "--shard-tokens", "0"], 2, "a shard of 0 ids is asked for"),
        (bad("a.txt", b"x"), ["a.txt", "--valid-fraction", "1"], 2, "--valid-fraction"),
        (bad("a.txt", b"x"), ["a.txt", "--tie", "odd"], 2, "--tie"),
        (bad("a.txt", b"x"), ["a.txt", "--pattern", "("], 2, "error: "),
        (bad("a.txt", b"x"), ["a.txt", "--name", "../x"], 2, "--name is '../x', but must be"),
        (bad("a.txt", b"x"), ["a.txt", "--tokenizer", "gone.json"], 1, "gone.json"),
        (bad("a.txt", b"x"), ["a.txt", "--out", "a.txt/d"], 1, "a.txt"),
    ],
)
def test_bad_input_ends_in_one_line(
    tmp_path: Path,
    make: Callable[[Path], None] | None,
    arguments: list[str],
    status: int,
    sentence: str,
) -> None:
    if make is not None:
        make(tmp_path)
    result = tokenize(tmp_path, *arguments)
    assert sentence in result.stderr
    lines = result.stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[-1].startswith("error: ")
    assert result.returncode == status
    assert not (tmp_path / "datasets").exists()


def test_one_character_is_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "dataset.txt").write_text("x")
    result = tokenize(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "train       1 tokens of 1 B" in result.stdout
    assert "valid       none" in result.stdout


def test_invalid_utf8_is_kept_and_told(tmp_path: Path) -> None:
    (tmp_path / "dataset.txt").write_bytes(b"caf\xe9 " * 50)
    result = tokenize(tmp_path)
    assert (
        "note: byte sequences that are no UTF-8, kept as bytes: 50, the first in" in result.stderr
    )
    assert Dataset.open(tmp_path / "datasets/dataset").manifest.source.text_bytes == 250


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.txt").write_text(LINES)
    folder = tmp_path / "datasets/dataset"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = tokenize(tmp_path)
    assert result.returncode == 2
    assert "datasets/dataset is being written by another process" in result.stderr


def large_text(folder: Path) -> Path:
    path = folder / "large.txt"
    path.write_text(LINES * 800)
    return path


def test_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    large_text(tmp_path)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))

    arguments = ("large.txt", "--byte", "--shard-tokens", "10M")
    result = tokenize(tmp_path, *arguments, preexec_fn=limit)
    assert result.returncode == 1
    assert [line for line in result.stderr.splitlines() if "error" in line] == [
        "error: datasets/large/train-00000.bin.tmp: file too large"
    ]
    assert tokenize(tmp_path, *arguments).returncode == 0
    whole = tokenize(tmp_path, *arguments, "--name", "whole")
    assert whole.returncode == 0
    assert contents(tmp_path / "datasets/large") == contents(tmp_path / "datasets/whole")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_write_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, how: signal.Signals
) -> None:
    large_text(tmp_path)
    arguments = ("large.txt", "--byte", "--shard-tokens", "250k")
    folder = tmp_path / "datasets/large"
    broken_off = 0
    for _ in range(2):
        process = start(tmp_path, *arguments)
        before = read_journal(folder)
        while process.poll() is None and read_journal(folder) in (None, before):
            time.sleep(0.002)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        broken_off += 1
        assert process.returncode == (-how if how is signal.SIGKILL else 130)
        assert "Traceback" not in err
        assert not (folder / "manifest.json").exists()
    assert broken_off > 0, "the write was over before it could be killed"
    assert tokenize(tmp_path, *arguments).returncode == 0
    whole = tokenize(tmp_path, *arguments, "--name", "whole")
    assert whole.returncode == 0
    assert contents(folder) == contents(tmp_path / "datasets/whole")


def read_journal(folder: Path) -> int | None:
    """Returns how many jobs the journal of a write has; None where there is none."""
    try:
        return int(json.loads((folder / "journal.json").read_bytes())["next_job"])
    except FileNotFoundError:
        return None


def test_help_names_the_words_of_the_logs(tmp_path: Path) -> None:
    text = tokenize(tmp_path, "--help").stdout
    for word in ("--epochs N", "--bpe", "--byte", "--vocab-size N", "dataset.txt"):
        assert word in text


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "dataset.txt").write_text(LINES)
    (tmp_path / "datasets").mkdir(mode=0o500)
    result = tokenize(tmp_path)
    assert result.returncode == 1
    assert "error: datasets/dataset: permission denied" in result.stderr

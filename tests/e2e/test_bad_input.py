"""Bad input ends in one clear line, with the right exit status, and loses nothing; or it works,
where that is what a user would expect."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from microgpt.run_folder import RunFolder

pytest.importorskip("torch", reason="training needs the extra `train`")


def contents(folder: Path) -> dict[str, str]:
    """Returns every file under `folder` with its content's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def trained(microgpt):
    """Returns the caller, in a folder with a dataset and a finished run `tiny`."""
    microgpt.corpus("simple", "--lines", "300")
    microgpt.train("dataset.txt", "--name", "tiny")
    return microgpt


# Input files


@pytest.mark.parametrize("command", ["tokenize", "train"])
def test_an_empty_file(microgpt, command: str) -> None:
    (microgpt.folder / "empty.txt").touch()
    assert "empty" in microgpt.error(command, "empty.txt")
    assert contents(microgpt.folder).keys() == {"empty.txt"}


@pytest.mark.parametrize("command", ["tokenize", "train"])
def test_a_missing_file(microgpt, command: str) -> None:
    line = microgpt.error(command, "missing.txt")
    assert "missing.txt" in line
    assert contents(microgpt.folder) == {}


@pytest.mark.parametrize("command", ["tokenize", "train"])
def test_no_file_where_there_is_no_dataset_txt(microgpt, command: str) -> None:
    assert "dataset.txt" in microgpt.error(command)


@pytest.mark.parametrize("command", ["tokenize", "train"])
def test_a_folder_without_text(microgpt, command: str) -> None:
    (microgpt.folder / "folder").mkdir()
    assert "folder" in microgpt.error(command, "folder")


def test_a_folder_of_texts_is_read_as_documents(microgpt) -> None:
    folder = microgpt.folder / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"text number {number}\n" * 100)
    microgpt.train("texts", "--name", "tiny")
    assert RunFolder(microgpt.folder / "runs/tiny").read_facts()["status"] == "finished"


@pytest.mark.parametrize("command", ["tokenize", "train"])
def test_a_binary_file_is_taken_for_a_mistake_unless_asked_for(microgpt, command: str) -> None:
    (microgpt.folder / "data.bin").write_bytes(bytes(range(256)) * 40)
    line = microgpt.error(command, "data.bin")
    assert "data.bin" in line
    assert "--format text" in line
    assert contents(microgpt.folder).keys() == {"data.bin"}


@pytest.mark.parametrize(
    "data",
    [bytes(range(256)) * 40, b"valid, then not: \xff\xfe\x80\n" * 200, b"\x00" * 5000],
    ids=["binary", "invalid UTF-8", "zeros"],
)
@pytest.mark.parametrize("tokenizer", ["--byte", "--bpe"])
def test_bytes_that_are_no_text_are_trained_on_as_bytes(
    microgpt, data: bytes, tokenizer: str
) -> None:
    (microgpt.folder / "data.bin").write_bytes(data)
    flags = [tokenizer, *(["--vocab-size", "270"] if tokenizer == "--bpe" else [])]
    microgpt("tokenize", "data.bin", "--format", "text", *flags)
    microgpt.train("datasets/data", "--name", "tiny")
    manifest = json.loads((microgpt.folder / "datasets/data/manifest.json").read_text())
    assert manifest["train"]["text_bytes"] + manifest["valid"]["text_bytes"] == len(data)
    microgpt("generate", "a", "--run", "tiny", "--length", "5")


def test_one_line_is_trained_on_without_a_validation_set(microgpt) -> None:
    (microgpt.folder / "line.txt").write_text("only one line, and no more than that\n")
    microgpt.train("line.txt", "--name", "tiny")
    assert RunFolder(microgpt.folder / "runs/tiny").read_facts()["status"] == "finished"


def test_a_dataset_of_one_token_cannot_be_learnt_from(microgpt) -> None:
    (microgpt.folder / "short.txt").write_text("a")
    assert "at least 2" in microgpt.error("train", "short.txt")
    assert not (microgpt.folder / "runs").exists()


def test_two_tokens_are_enough_to_train_on(microgpt) -> None:
    (microgpt.folder / "short.txt").write_text("ab")
    microgpt.train("short.txt", "--name", "tiny")
    assert microgpt("generate", "a", "--run", "tiny", "--length", "1").stdout


# Settings


def test_more_ids_than_the_text_can_give_are_as_many_as_it_gives(microgpt) -> None:
    microgpt.corpus("simple", "--lines", "50")
    result = microgpt("tokenize", "--bpe", "--vocab-size", "50000")
    manifest = json.loads((microgpt.folder / "datasets/dataset/manifest.json").read_text())
    size = manifest["tokenizer"]["vocab_size"]
    assert 256 < size < 50_000
    assert f"{size:,}" in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--n-head=32", "--n-embd=16"], "more than the width"),
        (["--n-head=3", "--n-embd=16"], "does not divide"),
        (["--n-layer=0"], "must be at least 1"),
        (["--n-layer=many"], "--n-layer"),
        (["--lr=-1"], "must be positive"),
        (["--steps=10", "--epochs=2"], "given twice"),
        (["--dropout=1"], "must lie in [0, 1)"),
        (["--set=model.n_layers=3"], "n_layer"),
        (["--preset=gpt5"], "gpt5"),
        (["--device=abacus"], "abacus"),
        (["--vocab-size=10"], "vocab"),
        (["--params=0"], "at least 1"),
        (["--params=-5M"], "at least 1"),
        (["--params=many"], "--params: 'many' is no whole number"),
        (["--minutes=inf"], "must be finite"),
        (["--epochs=inf"], "must be finite"),
        (["--epochs=nan"], "must be finite"),
        (["--seed=100000000000000000000"], "must fit into 64 bits"),
        (["--device=meta"], "none of cpu, cuda, mps"),
        (["--device=xpu"], "none of cpu, cuda, mps"),
        (["--config=flat.toml"], "flat.toml: 'training' must be a table of settings, not 5"),
        (["--config=flat.toml", "--steps=3"], "must be a table"),
    ],
)
def test_a_setting_that_cannot_be_is_wrong_usage(microgpt, flags: list[str], words: str) -> None:
    microgpt.corpus("simple", "--lines", "50")
    (microgpt.folder / "flat.toml").write_text("training = 5\n")
    assert words in microgpt.error("train", "dataset.txt", *flags, status=2)
    assert not (microgpt.folder / "runs").exists()
    assert not (microgpt.folder / "datasets").exists()


def test_a_context_longer_than_the_data_is_cut_with_a_word(microgpt) -> None:
    (microgpt.folder / "short.txt").write_text("a short text\n" * 5)
    result = microgpt.train("short.txt", "--name", "tiny", "--context=4096")
    assert "so the context is" in result.stderr
    assert RunFolder(microgpt.folder / "runs/tiny").read_config().model.context < 65


def test_a_taken_name_is_refused_and_its_run_untouched(trained) -> None:
    before = contents(trained.folder)
    line = trained.error("train", "dataset.txt", "--name", "tiny", status=2)
    assert "exists already" in line
    assert contents(trained.folder) == before


# Disks and folders


@pytest.fixture
def on_disk(microgpt, tmp_path: Path):
    """Runs a command in a file system of its own, which ends with it; returns the error line."""

    def run(options: str, *arguments: str | Path) -> str:
        mounted = tmp_path / "mounted"
        mounted.mkdir()
        script = f'mount -t tmpfs -o {options} tmpfs "$1" && cd "$1" && shift && exec "$@"'
        inside = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", mounted]
        try:
            subprocess.run([*inside, "true"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        microgpt.prefix = inside
        return microgpt.error(*arguments)

    return run


@pytest.mark.parametrize("command", ["tokenize", "train"])
def test_a_full_disk(microgpt, on_disk, command: str) -> None:
    text = microgpt.corpus("simple")
    flags = (
        ["--n-embd=64", "--n-head=4", "--n-layer=4", "--set=training.disk_minutes=0"]
        if command == "train"
        else []
    )
    line = on_disk("size=100k" if command == "train" else "size=8k", command, text, *flags)
    assert "space" in line or "full" in line


@pytest.mark.parametrize("command", ["tokenize", "train"])
def test_a_folder_that_cannot_be_written(microgpt, on_disk, command: str) -> None:
    text = microgpt.corpus("simple", "--lines", "300")
    line = on_disk("ro", command, text)
    assert "read-only" in line.lower()


def test_a_file_where_a_folder_has_to_be(microgpt) -> None:
    microgpt.corpus("simple", "--lines", "50")
    (microgpt.folder / "datasets").write_text("in the way")
    assert "datasets" in microgpt.error("train", "dataset.txt")
    assert (microgpt.folder / "datasets").read_text() == "in the way"


def test_a_log_that_cannot_be_written_does_not_cost_the_run(microgpt) -> None:
    microgpt.corpus("simple", "--lines", "300")
    line = microgpt.error(
        "train", "dataset.txt", "--name", "tiny", *microgpt.tiny, "--log", "missing/folder/LOG.md"
    )
    assert "missing/folder/LOG.md" in line
    run = RunFolder(microgpt.folder / "runs/tiny")
    assert run.read_facts()["status"] == "finished"
    assert run.newest_checkpoint() is not None


# Run folders


def test_a_run_in_use_by_another_process(trained) -> None:
    run = RunFolder(trained.folder / "runs/tiny")
    run.update_facts(status="stopped")
    before = contents(trained.folder)
    with run.lock():
        line = trained.error("train", "--resume", "tiny")
    assert f"in use by process {os.getpid()}" in line
    del before["runs/tiny/lock"]
    after = contents(trained.folder)
    del after["runs/tiny/lock"]
    assert after == before


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "a", "--run", "tinyy"],
        ["chat", "tinyy"],
        ["eval", "tinyy", "dataset.txt"],
        ["runs", "tinyy"],
        ["train", "--resume", "tinyy"],
    ],
    ids=lambda command: command[0],
)
def test_a_run_that_is_not_there_names_the_nearest(trained, command: list[str]) -> None:
    assert "did you mean 'tiny'?" in trained.error(*command)


@pytest.mark.parametrize("command", [["generate", "a"], ["chat"], ["train", "--resume"]])
def test_no_run_at_all(microgpt, command: list[str]) -> None:
    assert "microgpt train FILE" in microgpt.error(*command)


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(trained) -> None:
    newest = trained.folder / "runs/tiny/checkpoints/step-00000006/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    flags = ["--run", "tiny", "--length", "3", "--checkpoint", "newest"]
    result = trained.process("generate", "a", *flags)
    assert result.returncode == 0
    assert "torn" in result.stderr


def test_no_sound_checkpoint_left_is_said(trained) -> None:
    for weights in trained.folder.glob("runs/tiny/checkpoints/*/model.safetensors"):
        weights.write_bytes(b"foreign")
    line = trained.error("generate", "a", "--run", "tiny")
    assert "checkpoint" in line


def test_a_checkpoint_from_another_tokenizer(trained) -> None:
    """The run's tokenizer was swapped for one that its weights do not know."""
    trained("tokenize", "--bpe", "--vocab-size", "300", "--name", "other")
    other = (trained.folder / "datasets/other/tokenizer.json").read_bytes()
    (trained.folder / "runs/tiny/tokenizer.json").write_bytes(other)
    assert "tokenizer" in trained.error("generate", "a", "--run", "tiny")
    assert "tokenizer" in trained.error("eval", "tiny", "datasets/other")


def test_a_run_whose_dataset_changed_is_not_resumed(trained) -> None:
    RunFolder(trained.folder / "runs/tiny").update_facts(status="stopped")
    trained.corpus("simple", "--lines", "301")
    trained("tokenize", "--force")
    before = contents(trained.folder / "runs")
    assert "not the dataset" in trained.error("train", "--resume", "tiny")
    after = contents(trained.folder / "runs")
    for listing in (before, after):
        listing.pop("tiny/lock", None)
    assert after == before


def test_a_loss_that_is_no_number_ends_the_run_and_is_logged(microgpt) -> None:
    microgpt.corpus("simple", "--lines", "300")
    flags = ["--optimizer=adamw", "--lr=1e30", "--warmup-steps=0", "--clip=off"]
    line = microgpt.error("train", "dataset.txt", "--name", "wild", *microgpt.tiny, *flags)
    assert "not a finite number" in line
    run = RunFolder(microgpt.folder / "runs/wild")
    assert run.read_facts()["status"] == "failed"
    assert "(failed)" in (microgpt.folder / "LOG.md").read_text()
    assert "wild" in microgpt("runs").stdout


# Evaluation and generation


def test_evaluation_on_an_empty_or_a_missing_file(trained) -> None:
    (trained.folder / "empty.txt").touch()
    assert "empty" in trained.error("eval", "tiny", "empty.txt")
    assert "missing.txt" in trained.error("eval", "tiny", "missing.txt")


@pytest.mark.parametrize(
    "flags",
    [
        ["--temperature=-1"],
        ["--top-k=0"],
        ["--top-p=2"],
        ["--min-p=7"],
        ["--length=-1"],
        ["--seed=100000000000000000000"],
        ["--device=meta"],
    ],
    ids=lambda flags: flags[0],
)
def test_sampling_that_cannot_be_is_wrong_usage(trained, flags: list[str]) -> None:
    trained.error("generate", "a", "--run", "tiny", *flags, status=2)


def test_an_empty_prompt_and_a_strange_one_are_answered(trained) -> None:
    for prompt in ("", "\N{GRINNING FACE}", "x" * 500):
        assert trained("generate", prompt, "--run", "tiny", "--length", "3").stdout


def test_what_is_piped_into_a_chat_must_be_text(trained) -> None:
    process = trained.start("chat", "tiny")
    process.stdin.buffer.write(b"/length 3\r\n/seed 100000000000000000000\na\n\xff\n")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "length is 3\nseed is 100000000000000000000, but must fit into 64 bits" in told
    assert told.splitlines()[-1] == "error: line 4 on standard input is no UTF-8"


def test_a_line_of_prompts_ends_where_files_end_lines(trained) -> None:
    flags = ["--run", "tiny", "--lines", "--length", "1", "--json"]
    text = "a\u2028b\fc\x85d\r\n\ne"
    printed = trained("generate", *flags, stdin=text).stdout
    prompts = [json.loads(line)["prompt"] for line in printed.split("\n") if line]
    assert prompts == ["a\u2028b\fc\x85d", "", "e"]

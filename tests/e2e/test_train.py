"""`microgpt train` and `eval` on real files: the whole way, and what can be wrong on it."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import math
import signal
from pathlib import Path

import pytest

from microgpt import cli
from microgpt.errors import CheckpointError
from microgpt.model.sizes import parameter_count
from microgpt.run_folder import Judgement, RunFolder

pytest.importorskip("torch")
pytest.importorskip("microgpt._core", reason="the Rust extension is not built")

import torch

from microgpt.model import GPT, load_weights

SMALL = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--context", "16",
         "--batch-rows", "4", "--threads", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    text = "".join(f"{a} + {b} = {a + b};\n" for a in range(20) for b in range(20))
    (tmp_path / "dataset.txt").write_text(text)
    return tmp_path


@pytest.fixture
def microgpt(capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process; returns its exit status, output and messages."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            cli.main(arguments)
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run


def test_a_bare_command_trains_evaluates_and_writes_the_log(microgpt, folder):
    status, _, messages = microgpt("train", *SMALL, "--steps", "30", "--evaluate-every", "10")
    assert status == 0, messages
    run = RunFolder.newest(folder / "runs")
    facts, config = run.read_facts(), run.read_config()
    assert "1 layers x 16 wide" in messages
    assert f"talk to it: microgpt chat {run.name}" in messages
    assert (facts["status"], facts["reason"]) == ("finished", "budget")
    assert facts["dataset"]["sha256"]
    assert facts["peak_memory_bytes"] > 1_000_000
    assert config.training.steps == 30
    assert config.data.dataset == "datasets/dataset"
    rows = run.read_metrics()
    assert [row["step"] for row in rows if "valid_loss" in row] == [10, 20, 30]
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert run.samples_path.read_text().count("== step") == 3
    assert (folder / "LOG.md").read_text().count("# 1. Training on") == 1


def test_no_log_is_written_where_it_is_off(microgpt, folder):
    status, _, messages = microgpt("train", *SMALL, "--steps", "2", "--log", "off")
    assert status == 0, messages
    assert "tells of this run" not in messages
    assert not {"off", "LOG.md"} & {path.name for path in folder.iterdir()}


def test_eval_gives_the_loss_of_a_file_and_of_a_dataset(microgpt, folder):
    microgpt("train", *SMALL, "--steps", "20", "--name", "r")
    status, printed, _ = microgpt("eval", "r", "dataset.txt", "--json")
    whole = json.loads(printed)
    assert status == 0
    size = (folder / "dataset.txt").stat().st_size
    assert (whole["bytes"], whole["tokens"]) == (size, size - 1)
    assert whole["perplexity"] == pytest.approx(math.exp(whole["loss"]))
    assert whole["bits_per_byte"] == pytest.approx(whole["loss"] / math.log(2))
    _, printed, _ = microgpt("eval", "r", "datasets/dataset", "--json", "--stride", "16")
    row = RunFolder(folder / "runs" / "r").read_metrics()[-1]
    assert json.loads(printed)["loss"] == pytest.approx(row["valid_loss"], abs=0.1)


def test_exact_match_counts_lines_and_shows_what_went_wrong(microgpt, folder):
    microgpt("train", *SMALL, "--steps", "5", "--name", "r")
    (folder / "questions.txt").write_text("1 + 1 = 2;\n20 + 3 = 23;\nno question\n")
    status, printed, _ = microgpt("eval", "r", "questions.txt", "--exact-match", "--json")
    result = json.loads(printed)
    assert status == 0
    assert (result["lines"], result["correct"]) == (2, 0)
    assert result["errors"][0]["prompt"] == "1 + 1 ="
    assert result["errors"][0]["answer"] == " 2;"
    status, printed, _ = microgpt("eval", "r", "questions.txt", "--exact-match")
    assert "0 of 2 answers exactly right (0.00%)" in printed


def test_answers_are_counted_by_what_they_follow(microgpt, folder):
    microgpt("train", *SMALL, "--steps", "5", "--name", "r")
    (folder / "actions.txt").write_text("abc1abc;\nbca2bca;\naab1aab;\n")
    flags = ["--exact-match", "--after-pattern", "[0-9]", "--lines-before", "1"]
    _, printed, _ = microgpt("eval", "r", "actions.txt", *flags, "--json")
    marks = json.loads(printed)["by_mark"]
    assert {mark: counts["lines"] for mark, counts in marks.items()} == {"1": 2, "2": 1}
    _, printed, _ = microgpt("eval", "r", "actions.txt", *flags)
    assert "'1'  0 of 2 (0.00%)" in printed


@pytest.mark.parametrize("flags", [["--align", "lines"], ["--align", "lines", "--loss-after", "="]])
def test_rows_can_follow_lines_and_only_answers_be_learnt(microgpt, flags):
    status, _, messages = microgpt("train", *SMALL, "--steps", "10", *flags)
    assert status == 0, messages


def test_attention_can_be_kept_inside_lines(microgpt, folder):
    status, _, messages = microgpt("train", *SMALL, "--steps", "5", "--line-mask", "--name", "r")
    assert status == 0, messages
    assert RunFolder(folder / "runs" / "r").read_config().model.document_start == ord("\n")
    _, alone, _ = microgpt("eval", "r", "dataset.txt", "--exact-match", "--json")
    _, behind, _ = microgpt(
        "eval", "r", "dataset.txt", "--exact-match", "--lines-before", "1", "--json"
    )
    assert json.loads(alone)["correct"] == json.loads(behind)["correct"]
    checkpoint = RunFolder(folder / "runs" / "r").best_checkpoint()
    assert checkpoint is not None
    ids = torch.tensor([list(b"\n1 + 1 =")])
    behind_another = torch.cat((torch.tensor([list(b"\n2 =")]), ids), 1)
    for start, same in ((ord("\n"), True), (None, False)):
        config = RunFolder(folder / "runs" / "r").read_config().model
        model = GPT(dataclasses.replace(config, document_start=start)).eval()
        load_weights(model, checkpoint.path / "model.safetensors")
        found, expected = model(behind_another)[:, -1], model(ids)[:, -1]
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5) is same


def test_a_preset_a_file_and_flags_override_one_another_in_order(microgpt, folder):
    (folder / "mine.toml").write_text(
        "[model]\nn_layer = 2\nn_embd = 8\nn_head = 2\ncontext = 12\n"
    )
    status, _, messages = microgpt(
        "train", "--preset", "femto", "--config", "mine.toml", "--n-embd", "16", "--steps", "2",
        "--set", "optimizer.clip=off", "--min-lr", "1e-4", "--lr", "1e-3", "--seed", "7",
        "--threads", "1", "--device", "cpu", "--name", "r",
    )  # fmt: skip
    assert status == 0, messages
    config = RunFolder(folder / "runs" / "r").read_config()
    assert (config.model.n_layer, config.model.n_embd, config.model.context) == (2, 16, 12)
    assert (config.model.position, config.model.norm) == ("sinusoidal", "layernorm")
    assert config.optimizer.clip is None
    assert config.schedule.final == pytest.approx(0.1)
    assert (config.training.seed, config.data.seed) == (7, 7)


def test_flags_replace_the_budget_and_the_size_of_a_preset_and_a_file(microgpt, folder):
    common = ["--context", "16", "--batch-rows", "4", "--threads", "1", "--device", "cpu"]
    status, _, messages = microgpt(
        "train", *common, "--preset", "gpt2-tied", "--params", "50k", "--tokens", "128",
        "--name", "a",
    )  # fmt: skip
    assert status == 0, messages
    first = RunFolder(folder / "runs" / "a").read_config()
    assert parameter_count(first.model) == pytest.approx(50_000, rel=0.1)
    assert (first.model.tied_head, first.model.hidden_width) == (True, 4 * first.model.n_embd)
    assert first.training.steps == 2
    status, _, messages = microgpt(
        "train", "--config", "runs/a/config.toml", "--params", "100k", "--epochs", "0.05",
        "--name", "b",
    )  # fmt: skip
    assert status == 0, messages
    second = RunFolder(folder / "runs" / "b").read_config()
    assert parameter_count(second.model) == pytest.approx(100_000, rel=0.1)
    assert second.training.steps not in (None, 2)


def test_ctrl_c_writes_a_checkpoint_and_resume_ends_like_an_unbroken_run(
    microgpt, folder, monkeypatch
):
    from microgpt.cli import train

    flags = [*SMALL, "--dtype", "float32", "--steps", "12", "--evaluate-every", "5"]
    microgpt("train", *flags, "--name", "whole")
    shown = train._Display.step

    def interrupted(self, row):
        shown(self, row)
        if row["step"] == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train._Display, "step", interrupted)
    status, _, messages = microgpt("train", *flags, "--name", "broken")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert status == 0
    assert "stopped by Ctrl-C at step 7 of 12" in messages
    assert "microgpt train --resume broken" in messages
    assert RunFolder(folder / "runs" / "broken").read_facts()["status"] == "stopped"
    status, _, messages = microgpt("train", "--resume", "broken")
    assert status == 0, messages
    assert "going on from step 7" in messages
    whole, broken = (folder / "runs" / name / "checkpoints" for name in ("whole", "broken"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        file = f"step-00000012/{name}"
        assert (whole / file).read_bytes() == (broken / file).read_bytes()
    log = (folder / "LOG.md").read_text()
    assert log.count("broken (stopped)") == 1
    assert "\n# 3. Training on" in log


def test_the_first_error_is_told_where_it_cannot_be_written_down(microgpt, monkeypatch):
    from microgpt.lab import log_entry
    from microgpt.training.trainer import Trainer

    def refuse(error):
        def function(*_):
            raise error

        return function

    full = OSError(errno.ENOSPC, "No space left on device", "LOG.md")
    monkeypatch.setattr(Trainer, "train", refuse(CheckpointError("go on with --resume r")))
    monkeypatch.setattr(log_entry, "append", refuse(full))
    status, _, messages = microgpt("train", *SMALL, "--steps", "2", "--name", "r")
    assert status == 1
    assert messages.splitlines()[-1] == "error: go on with --resume r"


def test_time_and_memory_are_those_of_all_that_was_done(microgpt, folder, monkeypatch):
    from microgpt.cli import train
    from microgpt.lab.summary import summarise

    microgpt("train", *SMALL, "--steps", "2", "--name", "r")
    run = RunFolder(folder / "runs" / "r")
    run.update_facts(status="stopped", elapsed_seconds=1e6, peak_memory_bytes=10**15)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_carry_out", lambda *_: None)  # killed
        microgpt("train", "--resume", "r")
    assert summarise(run).elapsed_seconds == run.read_metrics()[-1]["elapsed_seconds"]
    microgpt("train", "--resume", "r")
    assert run.read_facts()["status"] == "finished"
    assert run.read_facts()["peak_memory_bytes"] == 10**15


def test_a_run_is_named_after_its_text_like_its_dataset(microgpt, folder):
    (folder / "books").mkdir()
    (folder / "books" / "one.txt").write_text("some words\n" * 100)
    status, _, messages = microgpt("train", "books/*.txt", *SMALL, "--steps", "1")
    assert status == 0, messages
    assert [run.name.split("-")[0] for run in RunFolder.all(folder / "runs")] == ["books"]


def test_a_finished_run_is_not_resumed(microgpt):
    microgpt("train", *SMALL, "--steps", "2", "--name", "r")
    status, _, messages = microgpt("train", "--resume", "r")
    assert status == 2
    assert "is finished" in messages
    status, _, messages = microgpt("train", "--resume")
    assert status == 1
    assert "holds no run to go on with" in messages


def test_a_run_in_use_is_refused(microgpt, folder):
    microgpt("train", *SMALL, "--steps", "2", "--name", "r")
    with RunFolder(folder / "runs" / "r").lock():
        status, _, messages = microgpt("train", "--resume", "r")
    assert status == 1
    assert "is in use by process" in messages


def test_a_dataset_that_changed_is_refused_at_resume(microgpt, folder):
    microgpt("train", *SMALL, "--steps", "2", "--name", "r")
    RunFolder(folder / "runs" / "r").update_facts(status="stopped")
    manifest = folder / "datasets" / "dataset" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    status, _, messages = microgpt("train", "--resume", "r")
    assert status == 1
    assert "is not the dataset that run 'r' was trained on" in messages


def test_a_loss_that_is_no_number_ends_in_a_sentence_and_an_entry(microgpt, folder):
    rates = ["--lr", "1e38", "--muon-lr", "1e38"]
    status, _, messages = microgpt("train", *SMALL, *rates, "--steps", "50", "--warmup-steps", "0")
    assert status == 1
    assert "is not a finite number after 3 roll-backs, so training cannot go on" in messages
    assert messages.count("error:") == 1
    assert "(failed)" in (folder / "LOG.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["missing.txt"], 1, "missing.txt"),
        (["--n-head", "32", "--n-embd", "16"], 2, "more than the width"),
        (["--n-head", "3", "--n-embd", "16"], 2, "does not divide"),
        (["--steps", "5", "--epochs", "2"], 2, "the budget is given twice"),
        (["--steps", "0"], 2, "must be at least 1"),
        (["--steps", "many"], 2, "--steps: 'many' is no whole number"),
        (["--norm", "batch"], 2, "--norm: model.norm is 'batch'"),
        (["--set", "model.n_layers=3"], 2, "did you mean 'model.n_layer'"),
        (["--set", "model"], 2, "give KEY=VALUE"),
        (["--preset", "fento"], 2, "femto"),
        (["--config", "none.toml"], 2, "cannot read none.toml"),
        (["--min-lr", "5"], 2, "between 0 and the peak"),
        (["--params", "5M", "--n-layer", "2"], 2, "given twice"),
        (["--device", "abacus"], 2, "device 'abacus' cannot be used"),
        (["--byte", "--bpe"], 2, "--byte and --bpe"),
        (["--loss-after", "=="], 2, "no single token holds it"),
        (["--line-mask", "--document-mask"], 2, "two different masks"),
        (["--resume", "nobody"], 1, "holds none"),
        (["--resume", "nobody", "--lr", "1"], 2, "leave out --lr"),
        (["--name", "a/b", "--steps", "1"], 2, "plain folder name"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(microgpt, arguments, status, sentence):
    code, _, messages = microgpt("train", "--device", "cpu", "--threads", "1", *arguments)
    if "--resume" in arguments:
        code, _, messages = microgpt("train", *arguments)
    assert sentence in messages
    assert code == status
    assert messages.count("error: ") == 1
    assert "Traceback" not in messages


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no text"),
        (b"a", "at least 2"),
        (b"\x00\xff\xfe\x80binary\n", None),
        (b"one line", None),
    ],
)
def test_the_smallest_and_strangest_texts_train_or_say_why_not(microgpt, folder, content, sentence):
    (folder / "odd.bin").write_bytes(content)
    status, _, messages = microgpt("train", "odd.bin", "--steps", "2", *SMALL)
    if sentence is None:
        assert status in (0, 1)
        assert status == 0 or messages.count("error: ") == 1
    else:
        assert status == 1
        assert sentence in messages


def test_a_context_longer_than_the_text_is_cut_with_a_remark(microgpt, folder):
    (folder / "short.txt").write_text("hello world, " * 3)
    status, _, messages = microgpt("train", "short.txt", "--steps", "2", "--context", "512")
    assert status == 0
    assert "instead of 512" in messages


def test_eval_refuses_what_it_cannot_measure(microgpt, folder):
    microgpt("train", *SMALL, "--steps", "2", "--name", "r")
    (folder / "one.txt").write_text("x")
    for arguments, sentence in (
        (["r", "one.txt"], "has 1 tokens"),
        (["r", "missing.txt"], "missing.txt: no such file"),
        (["nobody", "dataset.txt"], "no run 'nobody'"),
        (["r", "one.txt", "--exact-match"], "has no line with '='"),
        (["r", "one.txt", "--exact-match", "--after-pattern", "["], "is no regular expression"),
        (["r", "one.txt", "--exact-match", "--after", ""], "the mark is empty"),
        (["r", "one.txt", "--after", "=", "--after-pattern", "="], "give one"),
        (["r", "one.txt", "--lines-before", "1"], "belong to --exact-match"),
        (["r", "dataset.txt", "--stride", "17"], "must lie in 1..16"),
    ):
        status, _, messages = microgpt("eval", *arguments)
        assert status in (1, 2)
        assert sentence in messages


def test_lines_with_answers_are_judged_by_their_answers(microgpt, folder):
    status, _, messages = microgpt("train", *SMALL, "--steps", "30", "--evaluate-every", "10")
    assert status == 0, messages
    assert "lines have answers after '='" in messages
    run = RunFolder.newest(folder / "runs")
    assert run.read_config().data.answers_after == "="
    rows = [row for row in run.read_metrics() if "valid_loss" in row]
    assert all(row["valid_answer_loss"] != row["valid_loss"] for row in rows)
    assert all(0 <= row["valid_answers_right"] <= 1 for row in rows)
    assert " of answers right" in messages
    assert " of validation's answers right" in messages
    newest = run.newest_checkpoint()
    assert newest is not None
    judged = [Judgement.of(row) for row in rows]
    assert newest.best in judged
    assert not any(one.gains_on(newest.best) for one in judged)


def test_text_without_answers_is_judged_as_a_whole(microgpt, folder):
    (folder / "dataset.txt").write_text("".join(f"x = {n}\nif x:\n" for n in range(300)))
    status, _, messages = microgpt("train", *SMALL, "--steps", "4")
    assert status == 0, messages
    assert RunFolder.newest(folder / "runs").read_config().data.answers_after is None


@pytest.mark.parametrize("flag", ["--loss-after", "--answers-after"])
def test_a_marker_that_the_text_does_not_hold_is_refused(microgpt, flag):
    status, _, messages = microgpt("train", *SMALL, "--steps", "2", flag, "#")
    assert status == 2
    assert f"do not hold what {flag} names" in messages


def test_a_file_is_measured_as_training_read_its_text(microgpt, folder):
    (folder / "tales.txt").write_text("One day.<|endoftext|>One night.<|endoftext|>" * 40)
    flags = ["--bpe", "--vocab-size", "280", "--valid-fraction", "0.5"]
    assert microgpt("tokenize", "tales.txt", *flags, "--out", "tales")[0] == 0
    shape = ["--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--context", "16"]
    assert microgpt("train", "tales", *shape, "--steps", "3", "--name", "r")[0] == 0
    measured = {}
    (folder / "tales.txt.gz").write_bytes(gzip.compress((folder / "tales.txt").read_bytes()))
    (folder / "tales.jsonl").write_text('{"text": "One day."}\n{"text": "One night."}\n' * 40)
    for name in ("tales.txt", "tales.txt.gz", "tales.jsonl"):
        _, printed, _ = microgpt("eval", "r", name, "--json")
        measured[name] = {**json.loads(printed), "data": ""}
    assert measured["tales.txt"]["bytes"] == 40 * len("One day.One night.")
    assert measured["tales.txt"] == measured["tales.txt.gz"] == measured["tales.jsonl"]


def test_recomputed_activations_train_the_same_model(microgpt, folder):
    losses = []
    for name, flags in (("kept", []), ("again", ["--recompute-activations"])):
        flags = [*flags, "--dtype", "float32", "--threads", "1", "--steps", "5", "--name", name]
        status, _, messages = microgpt("train", *SMALL, *flags)
        assert status == 0, messages
        losses.append([row["loss"] for row in RunFolder(folder / "runs" / name).read_metrics()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

"""The notebook's entries: what they say, how they are numbered, that none is lost or doubled."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt.errors import CheckpointError, DataError
from microgpt.lab import log_entry
from microgpt.lab.log_entry import append
from microgpt.run_folder import RunFolder

MakeRun = Callable[..., RunFolder]

ENTRY = """\
Runs of microgpt, in order; each entry was written by the program at the run's end.

# 1. Training on addition: addition-1 (success)

- command: `microgpt train dataset.txt`
- data: `dataset.txt`, 114,584 bytes, SHA-256 27139d27f950000d, 100,000 training tokens
- made by: `python dummy_data/addition_dummy.py`
- tokenizer: byte, 256 ids (abababababababab)
- embedding degree: 64, num layers: 4, num heads: 4, num tokens: 64 (232,320 params)
- positions: rope, norm: rmsnorm (pre), feed-forward: swiglu, untied head, QK-norm
- dropout: 0.0, optimizer: muon, muon_lr: 0.03, base_lr: 0.003, min_lr: 0.00015, \
warmup_steps: 10, decay_steps: 200 (wsd), weight decay: 0.1, clip: 1.0
- batch: 32 rows (2,048 tokens), seed: 0, data seed: 0, dtype: auto
- step: 400 of 400, tokens: 819 k (8.19 epochs, 3.53 per parameter), loss: 0.6500, \
valid loss: 0.6500, perplexity: 1.916, bits per byte: 0.9378
- elapsed: 2m 16s (2 x Xeon, cpu), 6.02 k tokens/s, peak memory: 512 MB, torch 2.15.0, \
started 2026-11-21 04:00 UTC

| step | elapsed | loss | valid loss | bits per byte |
|---|---|---|---|---|
| 0 | 0ms | 5.5000 | 5.5000 | 7.9348 |
| 100 | 10s | 2.0000 | 2.0000 | 2.8854 |
| 200 | 20s | 1.0000 | 1.0000 | 1.4427 |
| 400 | 40s | 0.6500 | 0.6500 | 0.9378 |

Sample at step 400:

```
13 + 29 = 42;
```

The valid loss lies +0.0055 nats a byte from the corpus' entropy of 0.6445: the floor is reached, \
there is nothing left to learn. No sign of overfitting: the valid loss ended at or near its lowest.

<!-- microgpt run addition-1 of 2026-11-21T04:00:00.000+00:00 at step 400 -->
"""


def test_an_entry_says_what_was_done_with_what_and_what_came_of_it(
    make_run: MakeRun, tmp_path: Path
) -> None:
    log = tmp_path / "LOG.md"
    run = make_run(settings={"schedule": {"warmup_steps": 10, "decay_steps": 200}})
    assert append(run, log) == 1
    assert log.read_text() == ENTRY


def test_entries_are_numbered_after_the_last_one(make_run: MakeRun, tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    before = "# Log\n\n# 1. By hand (fail)\n\n# 12. By hand too\n\n```\n# 99. in a sample\n```\nend"
    log.write_text(before)
    assert append(make_run("a"), log) == 13
    assert append(make_run("b"), log) == 14
    text = log.read_text()
    assert text.startswith(before + "\n\n# 13. Training on addition: a (success)\n")
    assert re.findall(r"^# (\d+)\. Training", text, re.MULTILINE) == ["13", "14"]


def test_a_run_at_the_same_step_is_entered_once(make_run: MakeRun, tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    run = make_run()
    append(run, log)
    text = log.read_text()
    assert append(run, log) is None
    assert log.read_text() == text


def test_a_run_that_went_on_is_entered_again(make_run: MakeRun, tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    run = make_run(status="stopped", reason="Ctrl-C")
    assert append(run, log) == 1
    run.append_metrics({"step": 500, "tokens": 1_024_000, "loss": 0.64})
    run.update_facts(status="finished", reason=None)
    assert append(run, log) == 2
    text = log.read_text()
    assert "# 1. Training on addition: addition-1 (stopped)" in text
    assert "It was stopped: Ctrl-C; `--resume` continues it." in text
    assert "- step: 500 of 400" in text


def test_two_runs_of_one_name_are_two_entries(make_run: MakeRun, tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    run = make_run()
    append(run, log)
    run.update_facts(started="2026-11-22T00:00:00.000+00:00")
    assert append(run, log) == 2


def test_processes_that_write_at_once_lose_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    runs = [make_run(f"run-{i}") for i in range(6)]
    code = (
        "import sys; from pathlib import Path; from microgpt.lab.log_entry import append\n"
        "from microgpt.run_folder import RunFolder\n"
        "append(RunFolder(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, run.path, log]) for run in runs]
    assert [process.wait(60) for process in processes] == [0] * 6
    text = log.read_text()
    assert re.findall(r"^# (\d+)\.", text, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]
    assert sorted(re.findall(r"addition: (run-\d)", text)) == [run.name for run in runs]
    assert text.count("Runs of microgpt") == 1


def test_a_full_disk_leaves_the_log_as_it_was(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "LOG.md"
    log.write_text("# 1. By hand\n")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = make_run()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        append(run, log)
    assert log.read_text() == "# 1. By hand\n"


def test_a_log_that_stays_locked_is_told_of(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_entry, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(log_entry, "try_lock", lambda descriptor: False)
    with pytest.raises(DataError, match="is in use by another process: name another file"):
        append(make_run(), tmp_path / "LOG.md")


def test_a_log_that_is_no_text_is_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    log.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no UTF-8 text"):
        append(make_run(), log)
    assert log.read_bytes() == b"\xff\xfe\x00"


def test_a_folder_without_facts_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        append(RunFolder(tmp_path), tmp_path / "LOG.md")


def test_a_run_that_failed_before_its_first_step_has_an_entry(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs", "early")
    run.update_facts(status="failed", reason="the loss is no number")
    append(run, tmp_path / "LOG.md")
    text = (tmp_path / "LOG.md").read_text()
    assert "# 1. Training on an unknown text: early (failed)" in text
    assert "- step: 0\n" in text
    assert "It failed: the loss is no number." in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("valid_losses", "facts", "heading", "sentence"),
    [
        ((5.5, 1.0, 0.80, 0.75, 0.744), {}, "short of the floor", "lies 0.0995 nats a byte above"),
        ((5.5, 2.0, 1.0, 0.8, 0.7), {}, "short of the floor", "fell by 0.1000 after step 300"),
        (
            (5.5, 0.5, 0.5, 0.5, 0.5),
            {},
            "below the floor",
            "0.1445 nats a byte below the corpus' entropy",
        ),
        (
            (5.5, 2.0, 1.0, 1.5, 1.9),
            {"dataset": {"path": "a/b.txt"}},
            "overfitted",
            "from step 200 on the valid loss rose, from 1.0000 to 1.9000",
        ),
        ((5.5, 2.0, 1.9, 1.9, 1.9), {"dataset": {}}, "finished", "No sign of overfitting"),
    ],
)
def test_the_verdict_says_what_the_figures_say(
    make_run: MakeRun,
    tmp_path: Path,
    valid_losses: tuple[float, ...],
    facts: dict,
    heading: str,
    sentence: str,
) -> None:
    append(make_run(valid_losses=valid_losses, **facts), tmp_path / "LOG.md")
    text = (tmp_path / "LOG.md").read_text()
    assert f"addition-1 ({heading})\n" in text
    assert sentence in text


@pytest.mark.parametrize(
    ("status", "reason", "sentence"),
    [
        ("finished", "budget", None),
        ("finished", "patience", "It ended at step 400, as the valid loss had long not gained."),
        ("stopped", "SIGTERM", "It was stopped: SIGTERM; `--resume` continues it."),
        ("running", None, "It was killed; `--resume` continues it."),
        ("failed", None, "It failed: no reason was noted."),
    ],
)
def test_the_verdict_begins_with_how_the_run_ended(
    make_run: MakeRun, tmp_path: Path, status: str, reason: str | None, sentence: str | None
) -> None:
    append(make_run(status=status, reason=reason), tmp_path / "LOG.md")
    verdict = (tmp_path / "LOG.md").read_text().split("```\n\n")[1]
    assert verdict.startswith(sentence or "The valid loss lies")


def test_a_training_loss_below_the_entropy_is_called_learning_by_heart(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    run.append_metrics({"step": 500, "loss": 0.3})
    append(run, tmp_path / "LOG.md")
    text = (tmp_path / "LOG.md").read_text()
    assert "The training loss, 0.3000 nats a byte, lies below the entropy" in text


def test_a_run_judged_by_answers_says_which_checkpoint_is_in_use(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    evaluations = ((500, 0.02, 0.9), (600, 0.01, 1.0), (700, 0.015, 1.0), (800, 0.001, 0.99))
    for step, loss, right in evaluations:
        row = {"step": step, "loss": 0.6, "valid_loss": 0.7, "valid_answer_loss": loss}
        run.append_metrics(row | {"valid_answers_right": right})
    append(run, tmp_path / "LOG.md")
    text = (tmp_path / "LOG.md").read_text()
    assert "answers right: 100.00%, loss on answers: 0.0150 at step 700" in text


def test_nothing_in_a_sample_closes_its_fence(make_run: MakeRun, tmp_path: Path) -> None:
    append(make_run(sample="x\n```\n# 7. no heading\n\x1b[31mred"), tmp_path / "LOG.md")
    text = (tmp_path / "LOG.md").read_text()
    assert "````\nx\n```\n# 7. no heading\n\N{REPLACEMENT CHARACTER}[31mred\n````\n" in text
    assert append(make_run("next"), tmp_path / "LOG.md") == 2


def test_a_long_curve_is_shown_at_few_points_with_best_and_last(
    make_run: MakeRun, tmp_path: Path
) -> None:
    losses = tuple(2 - 0.001 * i for i in range(300)) + tuple(1.8 + 0.001 * i for i in range(100))
    append(make_run(valid_losses=losses), tmp_path / "LOG.md")
    steps = re.findall(r"^\| ([\d,]+) \|", (tmp_path / "LOG.md").read_text(), re.MULTILINE)
    assert steps == ["0", "1,200", "2,400", "4,900", "9,900", "19,900", "29,900", "39,900"]

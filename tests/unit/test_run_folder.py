"""A run's folder survives kills, torn files, full disks and a second process."""

import errno
import hashlib
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from microgpt.config import OptimizerConfig, RunConfig
from microgpt.errors import CheckpointError, UsageError
from microgpt.run_folder import Judgement, RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run")


def write(run: RunFolder, step: int, best: int | None = None) -> None:
    state = {"best": {"step": best, "valid_loss": 1.0}} if best else {}
    run.write_checkpoint(step, state, {"model": lambda p: p.write_bytes(b"weights %d" % step)})


def steps(run: RunFolder) -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints()]


def test_free_names_count_up_from_the_stem(tmp_path):
    names = [RunFolder.create(tmp_path, stem="plays-0.8M").name for _ in range(3)]
    assert names == ["plays-0.8M-1", "plays-0.8M-2", "plays-0.8M-3"]


def test_a_taken_name_is_refused_with_the_way_out(run):
    with pytest.raises(UsageError, match="--resume run"):
        RunFolder.create(run.path.parent, "run")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b"])
def test_a_name_cannot_leave_the_folder_of_runs(tmp_path, name):
    with pytest.raises(UsageError, match="plain folder name"):
        RunFolder.create(tmp_path, name)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match="cannot make a run"):
        RunFolder.create(tmp_path / "runs", "a")


def test_open_finds_by_name_and_by_path_and_names_the_nearest(run):
    root = run.path.parent
    assert RunFolder.open("run", root).path == run.path
    assert RunFolder.open(run.path, root).path == run.path
    with pytest.raises(CheckpointError, match="did you mean 'run'"):
        RunFolder.open("rum", root)
    with pytest.raises(CheckpointError, match="holds none"):
        RunFolder.open("rum", root / "empty")


def test_newest_is_the_last_started_or_resumed_with_a_checkpoint(tmp_path):
    first, second, third = (RunFolder.create(tmp_path, name) for name in "abc")
    first.update_facts(started="2026-01-01T00:00:00.000+00:00")
    second.update_facts(started="2026-01-02T00:00:00.000+00:00")
    third.update_facts(started="2026-01-03T00:00:00.000+00:00")
    assert [run.name for run in RunFolder.all(tmp_path)] == ["c", "b", "a"]
    with pytest.raises(CheckpointError, match="no trained run"):
        RunFolder.newest(tmp_path)
    write(first, 1)
    write(second, 1)
    assert RunFolder.newest(tmp_path).name == "b"
    first.update_facts(resumed="2026-01-04T00:00:00.000+00:00")
    assert RunFolder.newest(tmp_path).name == "a"


def test_configuration_comes_back_equal_also_where_a_setting_is_off(run):
    config = replace(RunConfig(), optimizer=OptimizerConfig(clip=None, muon_lr=0.01))
    run.write_config(config)
    assert run.read_config() == config


def test_facts_are_kept_and_replaced_key_by_key(run):
    run.update_facts(parameters=7)
    run.update_facts(status="finished")
    facts = run.read_facts()
    assert (facts["parameters"], facts["status"], facts["format"]) == (
        7,
        "finished",
        "microgpt-run",
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other", "version": 1}'])
def test_a_foreign_run_json_is_refused(run, content):
    (run.path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        run.read_facts()


def test_a_torn_last_line_of_metrics_is_left_out(run):
    run.append_metrics({"step": 1, "loss": 2.5})
    run.append_metrics({"step": 2, "loss": float("nan")})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert run.read_metrics() == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}]


def test_rewind_cuts_what_came_after_the_checkpoint(run):
    run.append_metrics({"step": 1})
    run.append_sample(1, "first")
    write(run, 1)
    run.append_metrics({"step": 2})
    run.append_sample(2, "second")
    write(run, 2)
    run.rewind(run.checkpoints()[-1])
    assert run.read_metrics() == [{"step": 1}]
    assert run.samples_path.read_text() == "== step 1 ==\nfirst\n\n"
    assert steps(run) == [1]
    run.rewind(None)
    assert (run.read_metrics(), steps(run)) == ([], [])


@pytest.mark.parametrize(
    ("later", "gains", "replaces"),
    [
        (Judgement(2, 0.9), True, True),
        (Judgement(2, 1.0), False, False),
        (Judgement(2, 1.1), False, False),
        (Judgement(2, 0.9, right=0.0), True, True),
        (Judgement(2, 1.1, right=0.0), False, False),
        (Judgement(2, 9.0, right=0.1), True, True),
    ],
)
def test_a_lower_loss_is_better_and_right_answers_are_best(later, gains, replaces):
    for earlier in (Judgement(1, 1.0), Judgement(1, 1.0, right=0.0)):
        assert (later.gains_on(earlier), later.replaces(earlier)) == (gains, replaces)


def test_of_evaluations_with_as_many_right_answers_the_later_is_used_but_is_no_gain():
    earlier = Judgement(1, 1.0, right=0.5)
    later = Judgement(2, 1.1, right=0.5)
    assert later.replaces(earlier)
    assert not later.gains_on(earlier)
    assert not Judgement(2, 0.1, right=0.4).replaces(earlier)


def test_the_newest_two_and_the_best_are_kept(run):
    for step in range(1, 7):
        write(run, step, best=2 if step >= 2 else None)
    assert steps(run) == [6, 5, 2]
    best = run.best_checkpoint()
    assert best is not None
    assert best.step == 2


@pytest.mark.parametrize("damage", ["shorter", "flipped", "missing", "state"])
def test_a_torn_checkpoint_is_passed_over_with_a_warning(run, damage, caplog):
    write(run, 1)
    write(run, 2)
    folder = run.checkpoints()[0].path
    match damage:
        case "shorter":
            (folder / "model").write_bytes(b"weights")
        case "flipped":
            (folder / "model").write_bytes(b"weights 3")
        case "missing":
            (folder / "model").unlink()
        case "state":
            (folder / "state.json").write_text((folder / "state.json").read_text()[:40])
    with caplog.at_level(logging.WARNING):
        newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.step == 1
    assert "passed over" in caplog.text


def test_a_broken_off_checkpoint_is_invisible_and_cleared(run):
    write(run, 1)
    (run.checkpoints_path / "step-00000002.tmp").mkdir()
    (run.checkpoints_path / "step-00000002.tmp" / "model").write_bytes(b"half")
    assert steps(run) == [1]
    write(run, 3)
    assert sorted(p.name for p in run.checkpoints_path.iterdir()) == [
        "step-00000001",
        "step-00000003",
    ]


def test_a_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(run):
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    write(run, 1)
    with pytest.raises(CheckpointError, match="No space left on device; the one of step 1"):
        run.write_checkpoint(2, {}, {"model": full})
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.step == 1
    assert [p.name for p in run.checkpoints_path.iterdir()] == ["step-00000001"]


def test_writing_a_step_again_replaces_it(run):
    write(run, 1)
    run.write_checkpoint(1, {"again": True}, {"model": lambda p: p.write_bytes(b"new")})
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.state["again"]
    assert (newest.path / "model").read_bytes() == b"new"


def test_state_lists_sizes_and_hashes(run):
    write(run, 1)
    state = json.loads((run.checkpoints_path / "step-00000001" / "state.json").read_text())
    assert state["files"]["model"]["bytes"] == 9
    assert state["files"]["model"]["sha256"] == hashlib.sha256(b"weights 1").hexdigest()


def test_a_run_in_use_is_refused_and_free_once_its_process_is_killed(run):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from microgpt.run_folder import RunFolder\n"
            "with RunFolder(Path(sys.argv[1])).lock():\n"
            "    print('held', flush=True); time.sleep(60)",
            str(run.path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"in use by process {holder.pid}"), run.lock():
            pass
    finally:
        holder.kill()
        holder.wait()
    with run.lock():
        assert (run.path / "lock").read_text().strip().isdigit()


def test_a_file_system_without_locks_is_told_from_a_run_in_use(run, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(CheckpointError, match=r"lock cannot lock files \(No locks"), run.lock():
        pass
    assert not run.in_use()

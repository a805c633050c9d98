"""CKPT_DIR/CKPT_NAME.json: with what each start of a run was made; a start that fails leaves it as it was."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from conftest import ROOT

import training.run_record
from solver import Solver
from train import parse_flags
from training.run_lock import run_lock
from training.run_record import project_commit

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--device", "cpu", "--val_data_dir", "none"]


@pytest.fixture
def argv(training_set, tmp_path) -> list:
    """A run of one small step in tmp_path/run."""
    return ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL, "--max_steps", 1]


def starts(tmp_path) -> list[dict]:
    return json.loads((tmp_path / "run/cfsrcnn.json").read_text())["starts"]


def test_a_start_is_recorded_with_its_flags_machine_and_data(command, argv, tmp_path, monkeypatch):
    monkeypatch.setattr(training.run_record, "project_commit", lambda: "0123-dirty")
    assert command(*argv, "--preload", "host").code == 0
    (start,) = starts(tmp_path)
    given = [str(each) for each in (*argv[1:], "--preload", "host")]
    assert start["flags"] == asdict(parse_flags(given))
    assert shlex.split(start["command"])[1:] == given
    expected = {
        "step": 0,
        "commit": "0123-dirty",
        "pytorch": torch.__version__,
        "device": "cpu (1 thread)",
        "images": 4,
    }
    expected |= {"processes": 1, "precision": "fp32", "preload": "host", "accumulate": 1}
    assert start.items() >= expected.items() and start["started"][:2] == "20"
    assert "\n      " in (tmp_path / "run/cfsrcnn.json").read_text()  # to be read by people


def test_the_record_is_plain_json_with_values_as_the_command_line_takes_them(command, argv, tmp_path):
    assert command(*argv, "--clip", "inf", "--accumulate", "auto").code == 0
    (start,) = json.loads((tmp_path / "run/cfsrcnn.json").read_text(), parse_constant=pytest.fail)["starts"]
    assert start["flags"]["clip"] == "inf" and start["flags"]["accumulate"] == "auto" and start["accumulate"] == 1


def test_a_resumed_run_keeps_the_flags_of_its_earlier_starts(command, argv, tmp_path):
    assert command(*argv).code == 0
    (first,) = starts(tmp_path)
    assert command(*argv, "--max_steps", 2, "--lr", 1e-3, "--resume").code == 0
    assert starts(tmp_path)[0] == first and len(starts(tmp_path)) == 2
    assert [(each["step"], each["flags"]["lr"]) for each in starts(tmp_path)] == [(0, 1e-4), (1, 1e-3)]


def test_a_run_that_had_saved_nothing_starts_a_new_record(command, argv, tmp_path, monkeypatch):
    def fail(solver):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(Solver, "train_step", fail)
    assert command(*argv).code == 2 and len(starts(tmp_path)) == 1
    monkeypatch.undo()
    assert command(*argv, "--lr", 1e-3).code == 0
    assert [each["flags"]["lr"] for each in starts(tmp_path)] == [1e-3]


def test_a_start_that_fails_leaves_the_record_as_it_was(command, expect_error, argv, tmp_path):
    assert command(*argv).code == 0
    before = (tmp_path / "run/cfsrcnn.json").read_bytes()
    expect_error("go on with --resume", *argv)
    expect_error("has --batch_size 2, not 1", *argv, "--resume", "--batch_size", 1)
    expect_error("nowhere does not exist", *argv, "--resume", "--val_data_dir", "nowhere")
    with run_lock(tmp_path / "run", "cfsrcnn"):
        expect_error("still going on", *argv, "--resume")
    log = tmp_path / "run/log.jsonl"
    log.unlink()
    log.mkdir()
    expect_error("log.jsonl is not a regular file", *argv, "--resume")
    assert (tmp_path / "run/cfsrcnn.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "[1]", '{"starts": "x"}', '{"results": 1}', "[" * 100_000, None])
def test_another_file_of_that_name_is_not_overwritten(expect_error, argv, tmp_path, content):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run/cfsrcnn.json"
    path.mkdir() if content is None else path.write_text(content)
    expect_error("cfsrcnn.json is not the record of a run", *argv)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["cfsrcnn.json"]
    assert content is None or path.read_text() == content


@pytest.mark.skipif(shutil.which("git") is None, reason="needs Git")
def test_the_commit_tells_changed_files_and_is_none_outside_of_a_clone(tmp_path, monkeypatch):
    def git(*argv: str) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", tmp_path, *names, *argv], check=True, capture_output=True, text=True).stdout

    (tmp_path / "inner").mkdir()
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(training.run_record, "ROOT", tmp_path)
    assert project_commit() is None
    git("init", "-q")
    assert project_commit() is None  # without a commit
    git("add", "a.txt")
    git("commit", "-qm", "one")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD").strip()
    assert project_commit() == commit
    (tmp_path / "a.txt").write_text("b")
    assert project_commit() == f"{commit}-dirty"
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))  # as in a hook of another repository
    assert project_commit() == f"{commit}-dirty"
    monkeypatch.setattr(training.run_record, "ROOT", tmp_path / "inner")
    assert project_commit() is None
    monkeypatch.setattr(training.run_record, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "inner"))
    assert project_commit() is None  # without Git
    git_that_hangs = tmp_path / "inner/git"
    git_that_hangs.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    git_that_hangs.chmod(0o755)
    monkeypatch.setattr(training.run_record, "GIT_SECONDS", 0.2)
    assert project_commit() is None

"""train.py and the shell: signals end a run in good order, and it goes on when nobody reads its output."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from test_training import SMALL

from solver import Solver
from tests.stress.crash_recovery import log_of
from training.log import TrainingLog
from training.run_record import RunRecord


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_run_within_ten_seconds_with_one_line(training_set, tmp_path, number, code):
    argv = [sys.executable, ROOT / "train.py", "--train_data_path", training_set, "--val_data_dir", "none"]
    argv += ["--ckpt_dir", tmp_path, *SMALL, "--max_steps", 100_000, "--print_interval", 1000]
    with open(tmp_path / "err", "w") as err:
        process = subprocess.Popen([str(arg) for arg in argv], stdout=subprocess.PIPE, stderr=err, text=True)
    while not (tmp_path / "cfsrcnn_tensorboard").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    start = time.monotonic()
    assert process.wait(timeout=60) == code and time.monotonic() - start < 10
    lines = (tmp_path / "err").read_text().replace("\r", "\n").splitlines()
    said = [line for line in lines if line.strip() and "step/s" not in line and "?step" not in line]
    assert len(said) == 1 and said[0].startswith("stopped at step ") and "go on with --resume" in said[0], said
    assert torch.load(tmp_path / "cfsrcnn_latest.train.pt", weights_only=True)["step"] == int(said[0].split()[3][:-1])


@pytest.fixture
def signal_in(monkeypatch):
    """`signal_in(owner, name)`: SIGTERM arrives whenever this method is called."""

    def arrive(owner: type, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (signal.raise_signal(signal.SIGTERM), original(*args))[1])

    return arrive


@pytest.mark.parametrize(
    ("moments", "code", "phrase"),
    [
        ([(RunRecord, "add")], 143, "stopped at step 1: "),  # asks Git, which may take seconds
        ([(Solver, "train_step"), (TrainingLog, "close")], 143, "stopped at step 1: "),
        ([(TrainingLog, "close")], 0, "trained to step 2: "),
    ],
)
def test_from_the_record_to_the_last_line_a_signal_costs_nothing(
    command, signal_in, training_set, tmp_path, moments, code, phrase
):
    """A launcher sends a second one when another process has ended first."""
    for owner, name in moments:
        signal_in(owner, name)
    where = ["--train_data_path", training_set, "--val_data_dir", "none", "--ckpt_dir", tmp_path]
    outcome = command("train.py", *where, *SMALL, "--max_steps", 2)
    assert outcome.code == code and phrase in outcome.out + outcome.err and "stopped by" not in outcome.err, outcome
    state = torch.load(tmp_path / "cfsrcnn_latest.train.pt", weights_only=True)
    assert state["step"] == (1 if code else 2)


def shell(command: str, training_set, folder) -> int:
    """The exit code of a run of 4 steps with 4 lines of output, as part of a shell command."""
    argv = [sys.executable, "-u", ROOT / "train.py", "--train_data_path", training_set, "--val_data_dir", "none"]
    argv += ["--ckpt_dir", folder, *SMALL, "--max_steps", 4, "--print_interval", 1]
    line = command.replace("TRAIN", shlex.join(map(str, argv)))
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, timeout=120).returncode


@pytest.mark.parametrize(
    "command", ["TRAIN | head -n 1", "TRAIN 2>&1 | head -n 1", "TRAIN >&- 2>&-", "TRAIN >/dev/full 2>&1"]
)
def test_training_goes_on_without_a_reader(training_set, tmp_path, command):
    assert shell(command, training_set, tmp_path / "run") == 0
    assert (tmp_path / "run/cfsrcnn_4.pth").exists() and len(log_of(tmp_path / "run")) == 4


def test_sigterm_leaves_no_temporary_file(image_folder, tmp_path):
    """div2h5.py is stopped while it writes."""
    slow = "import time, dataset.training_set as p; r = p.read_image; p.read_image = lambda f: (time.sleep(1), r(f))[1]"
    code = f"{slow}; import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    argv = [sys.executable, "-c", code, ROOT / "div2h5.py", "--source", image_folder, "--out", tmp_path / "a.h5"]
    process = subprocess.Popen([str(arg) for arg in argv], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not any(tmp_path.iterdir()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in process.communicate(timeout=60)[1] and process.returncode == 143
    assert not any(tmp_path.iterdir())

"""Several processes that are asked to stop agree on it within seconds, also with slow steps and during a validation."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of several processes")
SLOW = f"""import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
import train
from common.errors import run_cli
from solver import Solver
from training.stopping import InterruptibleUpscaler
train.__file__ = __file__  # what the launcher starts

def sleep_before(owner, name, seconds):
    original = getattr(owner, name)
    setattr(owner, name, lambda *args: (time.sleep(seconds), original(*args))[1])

sleep_before(Solver, "train_step", float(os.environ["STEP_SECONDS"]))
sleep_before(InterruptibleUpscaler, "__call__", float(os.environ["IMAGE_SECONDS"]))
run_cli(train.main)
"""


@pytest.fixture
def start(training_set, tmp_path):
    """`start(seconds of a step, seconds of a validation image, flags...)`: two processes that train in tmp_path/run."""
    script = tmp_path / "slow_train.py"
    script.write_text(SLOW)
    argv = ["--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", "--num_gpu", 2, "--device", "cpu"]
    argv += ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--max_steps", 100_000]

    started = []

    def run(step: float, image: float, *flags) -> subprocess.Popen:
        words = list(map(str, [sys.executable, script, *argv, *flags]))
        seconds = {"STEP_SECONDS": str(step), "IMAGE_SECONDS": str(image)}
        environment = {**os.environ, **seconds, "OMP_NUM_THREADS": "1"}
        options = {"stdout": -1, "stderr": -1, "text": True, "env": environment, "start_new_session": True}
        started.append(subprocess.Popen(words, **options))
        return started[-1]

    yield run
    for process in started:
        process.kill()  # a test that has failed leaves nothing running: the others end with it
        process.wait()


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, path
        time.sleep(0.05)


def finish(process: subprocess.Popen, code: int, run: Path) -> int:
    """The step as of which the state is saved; the exit code and the message must fit."""
    out, err = process.communicate(timeout=120)
    state = torch.load(run / "cfsrcnn_latest.train.pt", weights_only=True)
    assert process.returncode == code and err.count("stopped at step ") == 1, err
    assert f"is saved as of step {state['step']}, go on with --resume" in err and "Traceback" not in out + err
    return state["step"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_slow_steps(start, tmp_path, number, code):
    """The launcher kills what has not ended after 30 seconds: 50 steps would take longer."""
    process = start(1, 0, "--val_data_dir", "none")
    wait_for(tmp_path / "run/cfsrcnn_tensorboard", process)
    time.sleep(2.5)
    if number == signal.SIGHUP:
        os.killpg(process.pid, number)  # to all processes, as of a terminal that is closed
    else:
        process.send_signal(number)  # to the launcher
    assert 0 < finish(process, code, tmp_path / "run") < 20


def test_during_validation(start, image_folder, tmp_path):
    """One of the two is asked, and the other one stops, too."""
    (tmp_path / "many").mkdir()
    for number in range(40):
        shutil.copy(image_folder / "0000.png", tmp_path / f"many/{number:02}.png")
    process = start(0, 0.5, "--val_data_dir", tmp_path / "many", "--print_interval", 2)
    wait_for(tmp_path / "run/cfsrcnn_2.pth", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [child for child in children if b"slow_train.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(int(workers[-1]), signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    state = torch.load(tmp_path / "run/cfsrcnn_latest.train.pt", weights_only=True)
    assert state["step"] == 2 and not (tmp_path / "run/log.jsonl").exists() and process.returncode == 143, err
    assert "stopped at step 2" in err and "Traceback" not in out + err

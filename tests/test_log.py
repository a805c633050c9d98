"""The log of a run: after a resume no step is there twice and none missing; lines of others stay."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from inference.upscaler import NetworkUpscaler
from model.checkpoint import read_state_dict
from solver import Solver
from tests.stress.crash_recovery import board_of, log_of
from training.log import TrainingLog, summary_line
from training.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread", "event_files_in_order")
SMALL = ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--device", "cpu", "--print_interval", 1]


@pytest.fixture
def train(command, training_set, tmp_path):
    """`train(flags...)`: a small run in tmp_path/run with a line for each step."""
    where = ["--train_data_path", training_set, "--val_data_dir", "none", "--ckpt_dir", tmp_path / "run"]
    return lambda *flags: command("train.py", *where, *SMALL, *flags)


def test_a_line_has_loss_scores_learning_rate_speed_and_the_time_left():
    values = {"loss": 0.0123456, "lr": 1.234567e-4}
    assert summary_line(9, values) == "step 9: loss 0.01235, lr 0.000123"
    values |= {"images_per_second": 28.06, "seconds_left": 7800}
    assert summary_line(9, values) == "step 9: loss 0.01235, lr 0.000123, 28.1 images/s, 2 h 10 min left"
    values |= {"seconds_left": 0, "validation_error": "0.png, is gone"}
    end = "28.1 images/s, validation failed, training goes on: 0.png, is gone"
    assert summary_line(9, values) == f"step 9: loss 0.01235, lr 0.000123, {end}"


def logged(folder: Path) -> list[int]:
    path = folder / "log.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def test_after_sigterm_no_step_stands_twice_and_none_is_missing(train, tmp_path, monkeypatch):
    train_step = Solver.train_step

    def stop(solver):
        if solver.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return train_step(solver)

    monkeypatch.setattr(Solver, "train_step", stop)
    assert train("--max_steps", 6).code == 143
    monkeypatch.undo()
    assert train("--max_steps", 6, "--resume").code == 0
    assert logged(tmp_path / "run") == [step for step, _ in board_of(tmp_path / "run")["loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_stop_while_the_test_set_is_measured_loses_no_line(train, image_folder, tmp_path, monkeypatch):
    flags = ["--max_steps", 4, "--print_interval", 2, "--val_data_dir", image_folder]
    assert train(*flags, "--ckpt_dir", tmp_path / "whole").code == 0
    measured, upscale = [], NetworkUpscaler.__call__

    def stop(self, lr):
        measured.append(lr)
        if len(measured) == 2:
            signal.raise_signal(signal.SIGINT)
        return upscale(self, lr)

    for step in (2, 4):
        measured.clear()
        monkeypatch.setattr(NetworkUpscaler, "__call__", stop)
        outcome = train(*flags, "--resume")
        assert outcome.code == 130 and f"is saved as of step {step}, go on with --resume" in outcome.err, outcome
        assert len(measured) == 2 and logged(tmp_path / "run") == [2] * (step == 4)
        monkeypatch.undo()
        assert train(*flags, "--max_steps", step, "--resume").code == 0
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")
    assert board_of(tmp_path / "run") == board_of(tmp_path / "whole")
    weights = [read_state_dict(tmp_path / name / "cfsrcnn_4.pth") for name in ("run", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_steps_written_after_the_last_state_are_replaced(train, tmp_path, monkeypatch):
    """As after a kill between a line of the log and the state that belongs to it."""
    save = TrainingState.save
    monkeypatch.setattr(
        TrainingState, "save", lambda self, counters, *rest: counters["step"] > 2 or save(self, counters, *rest)
    )
    assert train("--max_steps", 5).code == 0
    monkeypatch.undo()
    assert logged(tmp_path / "run") == [1, 2, 3, 4, 5]
    outcome = train("--max_steps", 4, "--resume", "--lr", 1e-3)
    assert outcome.code == 0 and "at step 2" in outcome.out
    assert logged(tmp_path / "run") == [1, 2, 3, 4]
    assert board_of(tmp_path / "run")["lr"] == [
        (step, pytest.approx(rate)) for step, rate in zip((1, 2, 3, 4), (1e-4, 1e-4, 1e-3, 1e-3), strict=True)
    ]


def test_what_others_wrote_to_the_log_stays(tmp_path):
    others = [b'{"run": "other", "step": 9}', b"a note of mine", b"[" * 100_000, b'{"step": 9}', b"[1]"]
    ours, later, torn = b'{"run": "run", "step": 1}', b'{"run": "run", "step": 2}', b'{"run": "run", "st'
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*others, ours, torn, later, b"\0\0", torn]))
    log = TrainingLog(tmp_path, "run", 1, print)
    assert (tmp_path / "log.jsonl").read_bytes().splitlines() == [*others, ours]
    log.write(2, {"loss": 1.0})
    log.close()
    assert logged_at_the_end(tmp_path) == 2


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"run": "other", "st')
    log = TrainingLog(tmp_path, "run", 0, print)
    (tmp_path / "log.jsonl").write_bytes(b'{"run": "other", "st')  # another run, cut off meanwhile
    log.write(1, {"loss": 1.0})
    log.close()
    assert logged_at_the_end(tmp_path) == 1


def logged_at_the_end(folder: Path) -> int:
    return json.loads((folder / "log.jsonl").read_bytes().splitlines()[-1])["step"]


def test_a_log_that_is_no_file_is_named_before_the_first_step(train, tmp_path):
    (tmp_path / "run/log.jsonl").mkdir(parents=True)
    outcome = train("--max_steps", 1)
    assert (
        outcome.code == 2
        and "log.jsonl is not a regular file" in outcome.err
        and not list((tmp_path / "run").glob("*.pth"))
    )

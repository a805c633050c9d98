"""Saved first, then measured: a validation or a log that fails costs no step."""

from __future__ import annotations

import shutil

import pytest
import torch

import solver
from common.errors import InputError
from inference.upscaler import NetworkUpscaler
from tests.stress.crash_recovery import log_of
from training.log import TrainingLog
from training.stopping import InterruptibleUpscaler


@pytest.fixture
def train(command, training_set, image_folder, tmp_path):
    """`train(flags...)`: a small run in tmp_path/run, validated every two steps on a copy of the images in tmp_path/val."""
    shutil.copytree(image_folder, tmp_path / "val")
    where = ["--train_data_path", training_set, "--val_data_dir", tmp_path / "val", "--ckpt_dir", tmp_path / "run"]
    small = ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--device", "cpu", "--print_interval", 2]
    return lambda *flags: command("train.py", *where, *small, *flags)


def state(tmp_path) -> dict:
    return torch.load(tmp_path / "run/cfsrcnn_latest.train.pt", weights_only=True)


def test_a_validation_image_deleted_during_the_run_is_reported_and_training_goes_on(train, tmp_path, monkeypatch):
    train_step = solver.Solver.train_step

    def delete(self):
        if self.step == 2:
            (tmp_path / "val/0001.png").unlink()
        return train_step(self)

    monkeypatch.setattr(solver.Solver, "train_step", delete)
    outcome = train("--max_steps", 6)
    assert outcome.code == 0 and "trained to step 6" in outcome.out, outcome
    first, *later = log_of(tmp_path / "run")
    assert "x2" in first["validation"] and len(later) == 2
    assert all("0001.png" in line["validation_error"] and "validation" not in line for line in later)
    assert outcome.out.count("validation failed, training goes on: ") == 2 and "0001.png" in outcome.out
    assert all((tmp_path / f"run/cfsrcnn_{step}.pth").exists() for step in (2, 4, 6))


def test_a_network_that_fails_in_validation_is_reported_and_trains_in_training_mode(train, tmp_path, monkeypatch):
    modes, train_step = [], solver.Solver.train_step

    def fail(self, lr):
        raise RuntimeError("shape '[1, 3, 7]' is invalid")

    def watch(self):
        modes.append(self.net.training)
        return train_step(self)

    monkeypatch.setattr(InterruptibleUpscaler, "__call__", fail)
    monkeypatch.setattr(solver.Solver, "train_step", watch)
    outcome = train("--max_steps", 4)
    assert outcome.code == 0 and all(modes) and len(modes) == 4
    assert "RuntimeError: shape '[1, 3, 7]' is invalid" in log_of(tmp_path / "run")[1]["validation_error"]


def test_all_is_saved_before_the_first_image_is_measured(train, tmp_path, monkeypatch):
    upscale, seen = InterruptibleUpscaler.__call__, []

    def look(self, lr):
        seen.append((state(tmp_path)["step"], (tmp_path / "run/cfsrcnn_2.pth").exists()))
        return upscale(self, lr)

    monkeypatch.setattr(InterruptibleUpscaler, "__call__", look)
    assert train("--max_steps", 2).code == 0
    assert seen and set(seen) == {(2, True)}


@pytest.mark.parametrize("written", [False, True])
def test_a_log_on_a_full_disk_costs_no_step_and_its_line_stands_once(train, tmp_path, monkeypatch, written):
    """`written`: log.jsonl had its line, TensorBoard not."""
    write = TrainingLog.write

    def full(self, step, values):
        if written:
            write(self, step, values)
        raise InputError("run/cfsrcnn_tensorboard cannot be written (No space left on device): free some space")

    monkeypatch.setattr(TrainingLog, "write", full)
    outcome = train("--max_steps", 4)
    assert outcome.code == 2 and "No space left" in outcome.err
    assert state(tmp_path)["step"] == 2 and (tmp_path / "run/cfsrcnn_2.pth").exists()
    monkeypatch.undo()
    assert train("--max_steps", 4, "--resume").code == 0
    lines = log_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4] and all(line["loss"] > 0 for line in lines)


def test_weights_without_finite_output_overwrite_nothing(train, tmp_path, monkeypatch):
    assert train("--max_steps", 2).code == 0
    before = (tmp_path / "run/cfsrcnn_latest.train.pt").read_bytes()

    def fail(self, lr):
        raise InputError("the network's output is not finite")

    monkeypatch.setattr(NetworkUpscaler, "__call__", fail)
    outcome = train("--max_steps", 4, "--resume")
    assert outcome.code == 2 and "try a lower --lr or --clip" in outcome.err
    assert (tmp_path / "run/cfsrcnn_latest.train.pt").read_bytes() == before

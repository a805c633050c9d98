"""The settings of a run: the command line and Python agree, and what a training state stores of them stays."""

from __future__ import annotations

from dataclasses import replace

import torch

from solver import Solver
from train import parse_flags
from training.config import TrainConfig
from training.distributed import DistributedContext
from training.state import CHANGEABLE, FRESH_START_ONLY, RESUME_INVARIANTS

FLAGS = ["--scale", "3", "--lr", "0.001", "--ema", "0.9", "--init", "he", "--max_minutes", "2", "--resume"]


def test_flags_and_fields_have_the_same_defaults_and_values():
    assert parse_flags([]) == TrainConfig()
    expected = TrainConfig(scale=3, lr=1e-3, ema=0.9, init="kaiming", max_minutes=2.0, resume=True)
    assert parse_flags(FLAGS) == expected


def test_checkpoints_are_named_after_the_model_unless_named():
    assert parse_flags([]).ckpt_name == "cfsrcnn"
    assert parse_flags(["--model", "rlfn"]).ckpt_name == TrainConfig(model="rlfn").ckpt_name == "rlfn"
    assert parse_flags(["--model", "rlfn", "--ckpt_name", "mine"]).ckpt_name == "mine"


def test_flags_that_are_ignored_are_accepted():
    assert parse_flags(["--sample_dir", "x", "--shave", "4"]) == TrainConfig()


def test_a_solver_built_in_python_trains_and_its_state_stores_plain_settings(training_set, tmp_path):
    where = TrainConfig(train_data_path=str(training_set), val_data_dir="none", ckpt_dir=str(tmp_path))
    config = replace(where, patch_size=8, batch_size=1, max_steps=1)
    Solver(config, DistributedContext(torch.device("cpu"))).fit()
    state = torch.load(tmp_path / "cfsrcnn_latest.train.pt", weights_only=True)
    assert state["options"] == {name: getattr(config, name) for name in RESUME_INVARIANTS}
    assert state["settings"] == {name: getattr(config, name) for name in (*FRESH_START_ONLY, *CHANGEABLE)}


def test_a_long_name_of_a_run_is_one_line_before_any_work(expect_error, tmp_path):
    flags = ["--ckpt_dir", tmp_path / "run", "--ckpt_name", "é" * 300]
    line = expect_error(f"--ckpt_name: the name {'é' * 20}... has 600 bytes, but", "train.py", *flags)
    assert line.endswith("at most fit: shorten it") and not (tmp_path / "run").exists()

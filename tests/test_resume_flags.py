"""`--resume` with other flags than before, or another name: what has no effect, and what changes, is said in one line."""

from __future__ import annotations

import pytest
import torch

SMALL = ["--patch_size", 8, "--batch_size", 1, "--print_interval", 1, "--device", "cpu", "--init", "identity"]


@pytest.fixture
def train(command, training_set, tmp_path):
    where = ["--train_data_path", training_set, "--val_data_dir", "none", "--ckpt_dir", tmp_path / "run"]
    return lambda *flags: command("train.py", *where, *SMALL, *flags)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], None),
        (["--init", "kaiming"], "--resume: --init without effect, the weights are those of the run"),
        (["--pretrained", "nowhere.pth"], "--resume: --pretrained without effect, the weights are those of the run"),
        (["--loss_fn", "L1", "--lr", 1e-3], "--resume: from here on --lr 0.001 (was 0.0001), --loss_fn L1 (was MSE)"),
        (["--accumulate", "auto"], "--resume: from here on --accumulate auto (was 1)"),
        (["--max_steps", 2, "--verbose", "--preload", "auto"], "--resume: from here on --max_steps 2 (was 1)"),
        (
            ["--init", "kaiming", "--no-tf32", "--max_minutes", 9],
            "--resume: --init without effect, the weights are those of the run; "
            "from here on --max_minutes 9.0 (was unset), --tf32 off (was unset)",
        ),
    ],
)
def test_other_flags_of_a_resumed_run_are_reported(train, flags, line):
    assert train("--max_steps", 1).code == 0
    outcome = train("--max_steps", 1, "--resume", *flags)
    assert outcome.code == 0, outcome
    said = [each for each in outcome.out.splitlines() if each.startswith("--resume: ")]
    assert said == ([line] if line else [])


def test_all_flags_that_a_run_must_keep_are_named_at_once(train, expect_error, training_set, tmp_path):
    assert train("--max_steps", 1).code == 0
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", "--resume"]
    line = "/run has --patch_size 8, not 9; --batch_size 1, not 64; --seed 0, not 3"
    expect_error(line, *argv, "--patch_size", 9, "--seed", 3)


def test_damaged_settings_do_not_stop_a_resumed_run(train, tmp_path):
    assert train("--max_steps", 1).code == 0
    path = tmp_path / "run/cfsrcnn_latest.train.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"settings": {1: torch.zeros(2), "lr": torch.zeros(2)}}, path)
    outcome = train("--max_steps", 2, "--resume")
    assert outcome.code == 0 and "--resume: " not in outcome.out, outcome


def test_a_run_of_another_name_is_pointed_out(train, tmp_path):
    line = f"--resume: there is no {tmp_path}/run/{{}}_latest.train.pt yet, so training starts at step 0"
    assert line.format("b") in train("--max_steps", 1, "--resume", "--ckpt_name", "b").out.splitlines()
    outcome = train("--max_steps", 1, "--resume")
    assert f"{line.format('cfsrcnn')}; --ckpt_name is cfsrcnn, the folder has b" in outcome.out.splitlines(), outcome

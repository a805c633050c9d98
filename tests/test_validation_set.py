"""`--val_data_dir`: a set that is named must be there and complete; the default one may be missing."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from tests.stress.crash_recovery import log_of

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--device", "cpu", "--print_interval", 5]


@pytest.mark.parametrize("flags", [[], ["--val_data_dir", "none"]])
def test_without_a_test_set_training_goes_on_and_says_so_unless_that_was_asked(
    command, training_set, tmp_path, monkeypatch, flags
):
    monkeypatch.chdir(tmp_path)  # where no dataset/Set5 is
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", "run", *SMALL, "--max_steps", 10, *flags]
    outcome = command(*argv)
    assert outcome.code == 0
    said = [line for line in outcome.out.splitlines() if line.startswith("training without validation: dataset/Set5 ")]
    assert len(said) == (not flags) and all("python -m dataset.download" in each for each in said)
    assert all(each.endswith("; or name another set by --val_data_dir") for each in said)
    assert "validation" not in log_of(tmp_path / "run")[0]


def test_a_test_set_that_is_named_must_be_there(expect_error, training_set, test_set, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copytree(test_set / "x3", tmp_path / "other/x3")
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL, "--val_data_dir"]
    line = expect_error("--val_data_dir: ", *argv, tmp_path / "nowhere")
    assert "nowhere does not exist" in line and line.endswith("train without validation by --val_data_dir none")
    expect_error("other has x3 but no x2", *argv, tmp_path / "other")
    expect_error("empty", *argv, tmp_path / "empty")
    assert not (tmp_path / "run").exists()


def test_a_missing_test_set_is_named_before_the_minutes_that_hard_crops_takes(command, training_set, tmp_path):
    where = ["--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL, "--max_steps", 1]
    argv = ["train.py", *where, "--hard_crops", 2, "--val_data_dir"]
    assert "bicubic errors x2" in command(*argv, "none").err
    missing = command(*argv, tmp_path / "nowhere", "--ckpt_name", "b")
    assert missing.code == 2 and "nowhere does not exist" in missing.err and "bicubic errors" not in missing.err


def test_a_test_set_that_cannot_be_measured_is_refused_before_the_first_step(
    expect_error, training_set, test_set, tmp_path
):
    shutil.copytree(test_set, tmp_path / "torn")
    Image.new("RGB", (8, 8)).save(tmp_path / "torn/x2/0003_SRF_2_LR.png")
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL, "--max_steps", 5]
    expect_error("0003_SRF_2_LR.png is 8x8, not 1/2", *argv, "--val_data_dir", tmp_path / "torn")
    assert not (tmp_path / "run").exists()


def test_scales_that_the_test_set_lacks_are_left_out_of_validation(command, training_set, test_set, tmp_path):
    shutil.copytree(test_set, tmp_path / "part")
    shutil.rmtree(tmp_path / "part/x3")
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL, "--max_steps", 1]
    outcome = command(*argv, "--scale", 0, "--val_data_dir", tmp_path / "part")
    assert outcome.out.count("training without some validation") == 1
    assert log_of(tmp_path / "run")[0]["validation"].keys() == {"x2", "x4"}

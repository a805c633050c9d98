"""Each validation is printed beside bicubic interpolation on the same images, which the log and TensorBoard hold once."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from dataset.benchmark_set import open_test_set
from evaluation.evaluate import evaluate
from inference.upscaler import BicubicUpscaler
from tests.stress.crash_recovery import board_of, log_of

pytestmark = pytest.mark.usefixtures("one_thread", "event_files_in_order")
SMALL = ["--patch_size", 8, "--batch_size", 1, "--init", "identity", "--device", "cpu", "--print_interval", 1]


@pytest.fixture
def train(command, training_set, image_folder, tmp_path):
    """`train(flags...)`: a small run in tmp_path/run, validated at each step; its output."""
    where = ["--train_data_path", training_set, "--val_data_dir", image_folder, "--ckpt_dir", tmp_path / "run"]

    def run(*flags) -> str:
        outcome = command("train.py", *where, *SMALL, *flags)
        assert outcome.code == 0, outcome
        return outcome.out

    return run


def bicubic(folder) -> dict[str, float]:
    scores = evaluate(BicubicUpscaler(2), open_test_set(folder, 2)).mean.scores
    return {"psnr": scores.psnr, "ssim": scores.ssim}


def test_each_validation_is_printed_beside_bicubic_and_logged_with_it_once(train, image_folder, tmp_path):
    expected = bicubic(image_folder)
    out = train("--max_steps", 2) + train("--max_steps", 3, "--resume")
    shown = rf"x2 \d+\.\d\d/0\.\d{{4}} \(bicubic {expected['psnr']:.2f}/{expected['ssim']:.4f}\)"
    line = rf"^step \d: loss 0\.\d+, {shown}, lr 0\.0001, \d+\.\d images/s(, \d+ s left)?$"
    assert len(re.findall(line, out, re.MULTILINE)) == 3, out
    lines = log_of(tmp_path / "run")
    assert [line.get("bicubic") for line in lines] == [{"x2": expected}, None, None]
    assert all("x2" in line["validation"] for line in lines)
    assert board_of(tmp_path / "run")["bicubic/psnr_x2"] == [(1, pytest.approx(expected["psnr"]))]


def test_a_resumed_run_that_is_measured_on_other_images_logs_it_again(train, image_folder, tmp_path):
    (tmp_path / "other").mkdir()
    Image.open(image_folder / "0000.png").save(tmp_path / "other/0000.png")
    train("--max_steps", 1)
    train("--max_steps", 3, "--resume", "--val_data_dir", tmp_path / "other")
    logged = [line.get("bicubic") for line in log_of(tmp_path / "run")]
    assert logged == [{"x2": bicubic(image_folder)}, {"x2": bicubic(tmp_path / "other")}, None]

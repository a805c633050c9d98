"""`make train-x2 IMAGES=FOLDER TEACHERS=FOLDER`: from images to weights in one command, which goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT, sample_image
from PIL import Image

from model import create_model
from model.checkpoint import save_state_dict

STEPS = ["STEPS_24=2", "STEPS_48=1", "STEPS_48B=1", "STEPS_FIRST=1", "MAX_STEPS=1"]
TINY = [*STEPS, "HELD_OUT=1", "WARMUP=1", "PRECISION=fp32", f"RUN={sys.executable}"]


def make(*argv: str) -> subprocess.CompletedProcess[str]:
    assumed = ["--silent", "--assume-old=.venv/installed"]
    return subprocess.run(["make", *assumed, *argv], cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(sample_image("coffee.png", 168, 168, 10 * number, 20 * number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def teachers(tmp_path):
    """A folder of untrained teachers, under the names of the published files."""
    folder = tmp_path / "teachers"
    for name, file in (("rlfn", "rlfn_x2.pth"), ("bsrn", "net_g_BSRN_x2.pth"), ("bsrn", "net_g_BSRN_x3.pth")):
        save_state_dict(create_model(name, int(file[-5])).state_dict(), folder / file)
    return folder


def test_weights_from_a_folder_of_images(photographs, teachers, tmp_path):
    runs = tmp_path / "runs"
    argv = [f"IMAGES={photographs}", f"TEACHERS={teachers}", f"RUNS={runs}", *TINY]
    made = make("train-x2", *argv)
    assert made.returncode == 0, made.stderr
    assert "targets: mean output of rlfn, bsrn" in made.stdout
    log = [json.loads(line) for line in (runs / "x2/log.jsonl").read_text().splitlines()]
    steps = [(line["run"].removeprefix("cfsrcnn_"), line["step"]) for line in log]
    assert steps == [("x2", 2), ("x2_48", 1), ("x2_48b", 1), ("x2_distilled_first", 1), ("x2_distilled", 1)]
    assert all(line["validation"] for line in log)  # on the images held out
    weights = [(runs / f"x2/cfsrcnn_x2_distilled{ending}.pth").read_bytes() for ending in ("", "_1")]
    assert weights[0] == weights[1]

    again = make("train-x2", *argv)
    assert again.returncode == 0 and "trained" not in again.stdout, again.stdout + again.stderr


def test_x3_and_x4_start_from_x2_and_learn_from_the_teachers_there_are(teachers, tmp_path):
    shown = make("--dry-run", "train-x3", "IMAGES=photographs", f"TEACHERS={teachers}", f"RUNS={tmp_path}").stdout
    assert f"--scale 3 --teacher bsrn={teachers}/net_g_BSRN_x3.pth --source" in shown
    assert f"--train_data_path {tmp_path}/distilled_x3.h5 --pretrained {tmp_path}/x2/cfsrcnn_x2_distilled.pth" in shown
    made = make(f"{tmp_path}/distilled_x4.h5", "IMAGES=photographs", f"TEACHERS={teachers}", f"RUNS={tmp_path}")
    assert made.returncode == 2 and f"{teachers} has neither rlfn_x4.pth nor bsrn_x4.pth" in made.stderr


def test_without_teachers_the_targets_are_the_photographs(tmp_path):
    shown = make("--dry-run", "train-x4", "IMAGES=photographs", f"RUNS={tmp_path}").stdout
    assert "training.distillation" not in shown
    assert "--batch_size 8 --patch_size 36 --lr 1e-3 --ema 0.998 --hard_crops 4 --max_minutes 62" in shown
    assert (
        f"--train_data_path {tmp_path}/photographs_x4.h5 --pretrained {tmp_path}/x2/cfsrcnn_x2_photographs.pth" in shown
    )


def test_on_a_gpu_the_last_two_stages_are_those_of_the_pretrained_weights(teachers, tmp_path):
    argv = ("GPU=1", "IMAGES=photographs", f"RUNS={tmp_path}", f"TEACHERS={teachers}")
    shown = make("--dry-run", "train-x3", *argv).stdout
    first, second = (line for line in shown.splitlines() if "--max_minutes" in line and "--scale 3" in line)
    assert f"--pretrained {tmp_path}/x2/cfsrcnn_x2_distilled_gpu.pth --batch_size 20 --patch_size 64" in first
    assert (
        "--lr 2e-3 --ema 0.999 --warmup 300 --print_interval 5000 --cuda_graph --hard_crops 4 --max_minutes 1.58"
        in first
    )
    assert f"--pretrained {tmp_path}/x3/cfsrcnn_x3_distilled_gpu.pth --batch_size 37 --patch_size 48" in second
    assert "--cuda_graph --compile --hard_crops 16 --max_minutes 2.89" in second
    assert "--shrink 0.8 0.6 --self_ensemble" in shown and "--shrink 0.75 0.5  --out" in shown
    shown = make("--dry-run", "train-x2", *argv).stdout
    assert f"--shrink 0.8 0.6  --out {tmp_path}/distilled_next_x2.h5" in shown
    assert (
        f"--train_data_path {tmp_path}/distilled_next_x2.h5 --pretrained {tmp_path}/x2/cfsrcnn_x2_distilled_gpu.pth"
        in shown
    )


@pytest.mark.parametrize(
    ("scale", "sets"),
    [
        (2, {"photographs_x2": "0.75 0.5", "photographs_next_x2": "0.8 0.6"}),
        (3, {"photographs_x3": "0.8 0.6"}),  # for both stages
    ],
)
def test_on_a_gpu_the_last_two_stages_without_teachers_train_on_the_photographs(tmp_path, scale, sets):
    argv = ("GPU=1", "IMAGES=my photographs", "EXTRA=some more", f"RUNS={tmp_path}")
    lines = make("--dry-run", f"train-x{scale}", *argv).stdout.splitlines()
    trained = [line.split() for line in lines if "--max_minutes" in line and f"--scale {scale}" in line]
    used = [words[words.index("--train_data_path") + 1] for words in trained]
    assert used == [f"{tmp_path}/{name}.h5" for name in (list(sets) * 2)[:2]]
    for name, fractions in sets.items():
        (made,) = (line for line in lines if line.endswith(f"--out {tmp_path}/{name}.h5"))
        assert f'--source "my photographs" --extra "some more" --hold_out 8 --shrink {fractions} ' in made


def test_pictures_is_the_former_name_of_the_variable(tmp_path):
    shown = make("--dry-run", "train-x2", "PICTURES=photographs", f"RUNS={tmp_path}")
    assert '--source "photographs"' in shown.stdout and '--source ""' not in shown.stdout, shown.stderr


def test_images_must_be_named(tmp_path):
    made = make("train-x2", f"RUNS={tmp_path}")
    assert made.returncode == 2 and "error: name a folder of photographs: make train-x2 IMAGES=FOLDER" in made.stderr

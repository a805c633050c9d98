"""`make train-x2 train-x3 IMAGES=FOLDER`: from images to weights in one command, which goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT, sample_image
from PIL import Image

STEPS = ["STEPS_24=2", "STEPS_48=1", "STEPS_48B=1", "STEPS_X3=1"]
TINY = [*STEPS, "WARMUP=1", "PRECISION=fp32", f"RUN={sys.executable}"]


def make(*argv: str) -> subprocess.CompletedProcess[str]:
    assumed = ["--silent", "--assume-old=.venv/installed"]
    return subprocess.run(["make", *assumed, *argv], cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(10):
        Image.fromarray(sample_image("coffee.png", 200, 200, 10 * number, 20 * number)).save(folder / f"{number}.png")
    return folder


def test_weights_from_a_folder_of_images(photographs, tmp_path):
    runs = tmp_path / "runs"
    argv = [f"IMAGES={photographs}", f"RUNS={runs}", *TINY]
    made = make("train-x2", "train-x3", *argv)
    assert made.returncode == 0, made.stderr
    log = [json.loads(line) for name in ("x2", "x3") for line in (runs / name / "log.jsonl").read_text().splitlines()]
    steps = [(line["run"].removeprefix("cfsrcnn_"), line["step"]) for line in log]
    assert steps == [("x2", 2), ("x2_48", 1), ("x2_48b", 1), ("x3", 1)]
    assert all(line["validation"] for line in log)  # on the images held out

    again = make("train-x2", "train-x3", *argv)
    assert again.returncode == 0 and "trained" not in again.stdout, again.stdout + again.stderr


def test_pictures_is_the_former_name_of_the_variable(tmp_path):
    shown = make("--dry-run", "train-x2", "PICTURES=photographs", f"RUNS={tmp_path}")
    assert '--source "photographs"' in shown.stdout and '--source ""' not in shown.stdout, shown.stderr


def test_images_must_be_named(tmp_path):
    made = make("train-x2", f"RUNS={tmp_path}")
    assert made.returncode == 2 and "error: name a folder of photographs: make train-x2 IMAGES=FOLDER" in made.stderr

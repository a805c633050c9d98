"""The release works: the pretrained weights, the paper's commands, the help of every command."""

from __future__ import annotations

import hashlib
import re

import pytest
from conftest import ROOT

from dataset.benchmark_set import open_test_set
from dataset.demo import PHOTOGRAPHS, make_demo_set
from evaluation.evaluate import evaluate
from inference.upscaler import BicubicUpscaler, NetworkUpscaler
from model.checkpoint import load_model

PRETRAINED = sorted((ROOT / "checkpoint").glob("x[234]/cfsrcnn_x[234].pth"))
MODULES = (
    "dataset.download dataset.prepare dataset.demo model.checkpoint evaluation.paper evaluation.figure training.curves "
    "training.distillation training.records"
)
COMMANDS = [
    "train.py",
    "tcw_sample.py",
    "div2h5.py",
    *(f"-m {module}" for module in MODULES.split()),
    "-m benchmarks.complexity",
]


def card() -> dict[str, tuple[str, float, float]]:
    """File name -> SHA-256, PSNR and SSIM on the demo photographs, as checkpoint/README.md has them."""
    rows = re.findall(
        r"^\| `(\S+)` \| ([\d.]+)/([\d.]+) \|.*`([0-9a-f]{64})`", (ROOT / "checkpoint/README.md").read_text(), re.M
    )
    return {name: (sha256, float(psnr), float(ssim)) for name, psnr, ssim, sha256 in rows}


@pytest.mark.parametrize("path", PRETRAINED, ids=lambda path: path.stem)
def test_a_pretrained_checkpoint_is_as_its_card_says_and_beats_bicubic_on_every_photograph(path, tmp_path):
    scale = int(path.stem[-1])
    make_demo_set(tmp_path / "photographs", [scale])
    test_set = open_test_set(tmp_path / "photographs", scale)
    ours = evaluate(NetworkUpscaler(load_model(path, scale=scale), scale), test_set)
    bicubic = evaluate(BicubicUpscaler(scale), test_set)
    assert len(ours.rows) == len(PHOTOGRAPHS)
    sha256, psnr, ssim = card()[path.name]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert ours.mean.scores.psnr == pytest.approx(psnr, abs=0.02)
    assert ours.mean.scores.ssim == pytest.approx(ssim, abs=0.001)
    for row, base in zip(ours.rows, bicubic.rows, strict=True):
        assert row.scores.psnr > base.scores.psnr and row.scores.ssim > base.scores.ssim, row.name


def test_the_measured_precisions_are_those_of_the_x2_checkpoint():
    """After new weights, measure them again by the commands in docs/measuring.md."""
    sha256, _, _ = card()["cfsrcnn_x2.pth"]
    assert f"with the x2 weights `{sha256[:8]}`" in (ROOT / "docs/measuring.md").read_text()


def test_the_x2_checkpoint_is_there_and_small():
    assert ROOT / "checkpoint/x2/cfsrcnn_x2.pth" in PRETRAINED
    assert all(path.stat().st_size < 8 << 20 for path in PRETRAINED)


@pytest.mark.parametrize("argv", COMMANDS)
def test_every_command_explains_itself(command, argv):
    outcome = command(*argv.split(), "--help")
    assert outcome.code == 0 and "usage: " in outcome.out
    assert outcome.out.endswith("Relative paths, defaults too, are relative to the working directory.\n")
    assert "default: None" not in outcome.out and "default: False" not in outcome.out and str(ROOT) not in outcome.out


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_papers_training_command_is_understood(expect_error, tmp_path, monkeypatch, scale):
    """Word for word; where DIV2K is not there it ends with the one line that says how to get it."""
    monkeypatch.chdir(tmp_path)
    command = (
        "train.py --patch_size 77 --batch_size 64 --max_steps 600000 --decay 400000 --model cfsrcnn --ckpt_name cfsrcnn "
        f"--ckpt_dir checkpoint/cfsrcnnx{scale} --scale {scale} --num_gpu 1"
    )
    made = "make it with `python div2h5.py`, from DIV2K (`python -m dataset.download DIV2K`)"
    expect_error(f"dataset/DIV2K_train.h5 does not exist in {tmp_path}: {made}", *command.split())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_papers_benchmark_command_is_understood(expect_error, tmp_path, monkeypatch, scale):
    monkeypatch.chdir(tmp_path)
    command = (
        f"tcw_sample.py --model cfsrcnn --test_data_dir dataset/Urban100 --scale {scale} "
        f"--ckpt_path {PRETRAINED[0]} --sample_dir samples_urban100_x{scale}"
    )
    expect_error(
        f"dataset/Urban100 does not exist in {tmp_path}: " if scale == 2 else "is an x2 CFSRCNN", *command.split()
    )


def test_the_tables_of_the_paper_say_where_data_were_looked_for(expect_error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expect_error(f"--data dataset: no such folder in {tmp_path}; name", "-m", "evaluation.paper")
    (tmp_path / "dataset").mkdir()
    expect_error(f"--checkpoints checkpoint: no such file or folder in {tmp_path}; name", "-m", "evaluation.paper")


def test_the_papers_hdf5_command_says_what_it_lacks(expect_error, monkeypatch, tmp_path):
    import dataset.training_set  # the module that would write

    monkeypatch.setattr(dataset.training_set, "write_hdf5", lambda *_: pytest.fail("nothing is there to write"))
    monkeypatch.chdir(tmp_path)
    line = expect_error(f"DIV2K_train_HR is not in dataset/ or dataset/DIV2K/ in {tmp_path}", "div2h5.py")
    assert "`python -m dataset.download DIV2K`" in line

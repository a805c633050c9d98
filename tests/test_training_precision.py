"""What float32 means in training: TF32 on GPUs that have it, unless `--no-tf32`; the start line says which. Needs no GPU."""

from __future__ import annotations

import pytest
import torch
from test_full_fp32 import CUDNN, settings

from dataset.hdf5 import TrainingImages
from model import create_model
from solver import Solver
from training.config import TrainConfig, check_machine
from training.data import start_line
from training.distributed import DistributedContext

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def defaults():
    """Leaves PyTorch's defaults behind."""
    yield
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize(
    ("flags", "caller", "ieee"), [([], True, False), ([], False, True), (["--no-tf32"], True, True)]
)
def test_steps_run_as_the_flag_says_and_the_setting_is_restored(
    command, training_set, tmp_path, monkeypatch, flags, caller, ieee
):
    torch.backends.cudnn.allow_tf32 = caller
    before, seen, train_step = settings(), [], Solver.train_step

    def watch(solver):
        seen.append(settings()[1:2] != ("tf32",) and not CUDNN.allow_tf32)
        return train_step(solver)

    monkeypatch.setattr(Solver, "train_step", watch)
    where = ["--train_data_path", training_set, "--val_data_dir", "none", "--ckpt_dir", tmp_path, "--device", "cpu"]
    small = ["--patch_size", 8, "--batch_size", 1, "--max_steps", 1]
    assert command("train.py", *where, *small, *flags).code == 0
    assert seen == [ieee] and settings() == before


@pytest.mark.parametrize(
    ("capability", "tf32", "precision", "said"),
    [
        ((9, 0), None, "fp32", "fp32 (TF32)"),
        ((8, 0), True, "fp32", "fp32 (TF32)"),
        ((9, 0), False, "fp32", "fp32"),
        ((7, 5), None, "fp32", "fp32"),
        ((9, 0), None, "bf16", "bf16"),
    ],
)
def test_the_start_line_says_what_float32_is(monkeypatch, capability, tf32, precision, said):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    config = TrainConfig(tf32=tf32, precision=precision)
    images = TrainingImages([], {2: []})
    line = start_line(config, DistributedContext(CUDA), create_model("rlfn", 2), images, "host")
    assert f"| cuda, {said} |" in line


def test_on_a_cpu_float32_is_float32(monkeypatch):
    context = DistributedContext(torch.device("cpu"))
    line = start_line(TrainConfig(), context, create_model("rlfn", 2), TrainingImages([], {2: []}), "host")
    assert "| cpu, fp32 |" in line


def test_tf32_is_refused_where_it_does_not_exist(expect_error, monkeypatch):
    expect_error("--tf32 is for CUDA GPUs", "train.py", "--device", "cpu", "--tf32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_machine(TrainConfig(tf32=True), DistributedContext(CUDA))

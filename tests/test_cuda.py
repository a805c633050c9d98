"""The CUDA path against the CPU's. All of it is skipped without a GPU."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import ROOT, sample_image
from torch import nn

from benchmarks.training import make_solver
from common.device import available_memory, full_fp32
from dataset.imresize import imresize
from evaluation.metrics import compute_scores
from inference import tiling
from inference.backends import resolve_precision
from inference.upscaler import NetworkUpscaler
from model.checkpoint import load_model, read_state_dict
from model.ops import PixelShuffle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

CUDA = torch.device("cuda")
MAX_LEVELS = {"fp32": 1, "bf16": 12, "fp16": 4}  # of 255, that a pixel may differ from the CPU's
MAX_PSNR_LOSS = {"fp32": 0.0005, "bf16": 0.1, "fp16": 0.02}  # dB


def has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this GPU emulates bf16")


def pretrained(scale: int) -> nn.Module:
    return load_model(ROOT / f"checkpoint/x{scale}/cfsrcnn_x{scale}.pth", scale=scale)


@pytest.fixture(scope="module")
def hr() -> np.ndarray:
    return sample_image("astronaut.png", 240, 240)


def lr_of(hr: np.ndarray, scale: int) -> np.ndarray:
    return imresize(hr, 1 / scale)


# --- upscaling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_upscaling_is_that_of_the_cpu(hr, scale, precision):
    lr, net = lr_of(hr, scale), pretrained(scale)
    expected = NetworkUpscaler(copy.deepcopy(net), scale)(lr)
    found = NetworkUpscaler(net, scale, CUDA, precision)(lr)
    assert abs(found.astype(int) - expected).max() <= MAX_LEVELS[precision]
    on_cpu, on_gpu = (compute_scores(each, hr, scale).psnr for each in (expected, found))
    assert abs(on_gpu - on_cpu) < MAX_PSNR_LOSS[precision]


@pytest.mark.parametrize("options", [{"tile": 48}, {"tile": "off"}, {"self_ensemble": True}])
def test_tiles_and_self_ensemble_are_those_of_the_cpu(hr, options):
    lr, net = lr_of(hr, 2), pretrained(2)
    expected = NetworkUpscaler(copy.deepcopy(net), 2, **options)(lr)
    assert abs(NetworkUpscaler(net, 2, CUDA, **options)(lr).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_self_ensemble_runs_in_two_batches_like_one_by_one(hr, monkeypatch, precision):
    lr, net, batches = lr_of(hr, 2)[:80], pretrained(2), []
    upscale = NetworkUpscaler(net, 2, CUDA, precision, self_ensemble=True)
    net.frb.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    found = upscale.to_float(lr)
    assert batches == [4, 4]
    monkeypatch.setattr(tiling, "BATCHING", ())
    assert abs(upscale.to_float(lr) - found).max() < (1e-4 if precision == "fp32" else 2e-2)
    assert batches[2:] == [1] * 8


@pytest.mark.parametrize("levels", [65535, 1.0])
def test_deep_images_are_those_of_the_cpu(hr, levels):
    lr, net = (lr_of(hr, 2) / 255 * levels).astype(np.uint16 if levels > 1 else np.float32), pretrained(2)
    expected = NetworkUpscaler(copy.deepcopy(net), 2)(lr)
    found = NetworkUpscaler(net, 2, CUDA, "fp16")(lr)
    assert found.dtype == lr.dtype and abs(found.astype(float) - expected).max() < 1e-3 * levels


def test_after_a_real_out_of_memory_smaller_tiles_are_used(hr, monkeypatch):
    lr, net = np.tile(lr_of(hr, 2), (8, 8, 1)), pretrained(2)
    expected = NetworkUpscaler(copy.deepcopy(net), 2, CUDA, tile=256)(lr)
    monkeypatch.setattr(tiling, "available_memory", lambda device: 1 << 50)  # so that it tries too much at first
    monkeypatch.setattr(tiling, "GPU_BUDGET", 1 << 48)
    upscale = NetworkUpscaler(net, 2, CUDA)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / total))
    try:
        found = upscale(lr)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert abs(found.astype(int) - expected).max() <= 1


def test_auto_is_fp16_for_images_and_fp32_for_measuring():
    assert resolve_precision("auto", CUDA) == "fp16" and resolve_precision("auto", CUDA, measured=True) == "fp32"


def test_available_memory_counts_what_pytorch_has_cached():
    before = available_memory(CUDA)
    torch.empty(1 << 28, dtype=torch.uint8, device=CUDA)  # freed at once, into the cache
    assert abs(available_memory(CUDA) - before) < 1 << 27


# --- layout and precision ---------------------------------------------------------------------------------------------


def test_full_fp32_is_more_exact_than_tf32():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(64, 64, 3, device=CUDA), torch.randn(2, 64, 64, 64, device=CUDA)
    exact = nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double())
    before = torch.backends.cudnn.allow_tf32
    with torch.no_grad(), full_fp32():
        assert (conv(x) - exact).abs().max() < 1e-4
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("factor", [2, 3])
def test_the_pixel_shuffle_is_pytorchs_and_keeps_channels_last(factor):
    x = torch.randn(2, 8 * factor**2, 5, 6, device=CUDA).contiguous(memory_format=torch.channels_last)
    shuffled = PixelShuffle(factor)(x)
    assert torch.equal(shuffled, nn.functional.pixel_shuffle(x, factor))
    assert shuffled.is_contiguous(memory_format=torch.channels_last)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(command, training_set, tmp_path, one_thread):  # many threads are slow on images so small
    """`train("run", flags...)`: a small run on the GPU in tmp_path/run; returns its log. Flags that come later win."""

    def run(folder: str, *flags) -> list[dict]:
        where = ["--train_data_path", training_set, "--val_data_dir", "none"]
        size = ["--patch_size", 12, "--batch_size", 4, "--max_steps", 20, "--print_interval", 5, "--init", "identity"]
        out = ["--ckpt_dir", tmp_path / folder, "--device", "cuda"]
        outcome = command("train.py", *where, *size, *out, *flags)
        assert outcome.code == 0, outcome
        return [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]

    return run


def losses(log: list[dict]) -> list[float]:
    return [line["loss"] for line in log]


MUON = ("--optimizer", "muon", "--ema", 0.9, "--lr", 1e-3)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        (*MUON, "--lr_schedule", "cosine", "--warmup", 3),
        ("--scale", 0),
        pytest.param((*MUON, "--precision", "bf16"), marks=needs_bf16),
        pytest.param((*MUON, "--precision", "bf16", "--accumulate", 2), marks=needs_bf16),
    ],
)
def test_training_has_the_losses_of_the_cpu(train, flags):
    found, expected = losses(train("gpu", *flags)), losses(train("cpu", *flags, "--device", "cpu"))
    assert found == pytest.approx(expected, rel=0.05)


def test_accumulation_has_the_losses_of_the_whole_batch(train):
    assert losses(train("parts", "--accumulate", 2)) == pytest.approx(losses(train("whole")), rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_compiled_training_has_the_same_losses(train, precision):
    flags = (*MUON, "--precision", precision)
    assert losses(train("compiled", *flags, "--compile")) == pytest.approx(losses(train("eager", *flags)), rel=0.05)


@pytest.mark.parametrize(
    "flags", [(), MUON, pytest.param((*MUON, "--compile", "--precision", "bf16"), marks=needs_bf16)]
)
def test_a_recorded_step_has_the_same_losses(train, flags):
    eager = losses(train("eager", *flags))
    assert losses(train("graph", *flags, "--cuda_graph")) == pytest.approx(eager, rel=0.02)


def test_images_on_the_gpu_and_on_the_host_give_the_same_batches(train):
    found = [losses(train(place, "--preload", place)) for place in ("device", "host")]
    assert found[0] == pytest.approx(found[1], rel=0.01)


@pytest.mark.parametrize("flags", [(), MUON])
def test_a_resumed_run_goes_on_where_it_stopped(train, tmp_path, flags):
    whole = losses(train("whole", *flags))
    train("parts", *flags, "--max_steps", 10)
    assert losses(train("parts", *flags, "--resume")) == pytest.approx(whole, rel=0.02)
    ours, theirs = (read_state_dict(tmp_path / name / "cfsrcnn_20.pth") for name in ("parts", "whole"))
    assert all(torch.allclose(ours[name], theirs[name], atol=0.02) for name in theirs)


def test_an_out_of_memory_is_one_clear_line(expect_error, training_set, tmp_path):
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", "--device", "cuda"]
    gc.collect()  # the solvers of the tests before
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 5e8 / torch.cuda.get_device_properties(CUDA).total_memory))
    try:
        expect_error(
            "out of memory at step 1",
            *argv,
            "--val_data_dir",
            "none",
            "--batch_size",
            64,
            "--patch_size",
            24,
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_step_does_not_wait_for_the_gpu(training_set, tmp_path):
    for settings in ({}, {"optimizer": "muon", "ema": 0.9}, {"optimizer": "muon", "compile": True}):
        solver = make_solver(tmp_path, 4, 12, CUDA, **settings)
        solver.train_step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            solver.train_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def nccl(tmp_path) -> Iterator[None]:
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_with_nccl_on_one_gpu_has_the_same_gradients(nccl):
    lr, net = torch.rand(2, 3, 12, 12, device=CUDA), pretrained(2).to(CUDA)
    replica = nn.parallel.DistributedDataParallel(copy.deepcopy(net), device_ids=[0])
    for each in (net, replica):
        each(lr, 2).square().mean().backward()
    for ours, theirs in zip(replica.module.parameters(), net.parameters(), strict=True):
        assert ours.grad is theirs.grad is None or torch.allclose(ours.grad, theirs.grad, rtol=1e-2, atol=1e-5)

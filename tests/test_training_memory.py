"""Training beside a data set on the GPU: where `--preload auto` puts the images, `--accumulate auto`, and what an out of
memory suggests. GPUs are stood in for: what `torch.cuda` tells of its memory, and the error it raises."""

from __future__ import annotations

import pytest
import torch

from benchmarks.step_cost import saved_bytes
from common import SCALES
from dataset.hdf5 import TrainingImages
from model.cfsrcnn import CFSRCNN
from model.checkpoint import read_state_dict
from training.config import TrainConfig
from training.data import load_images
from training.distributed import DistributedContext
from training.memory import SAVED_KB, activation_bytes, explain_out_of_memory

pytestmark = pytest.mark.usefixtures("one_thread")
PAPER = {"patch_size": 77, "batch_size": 64}
CUDA = torch.device("cuda")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_budget_is_what_the_forward_pass_keeps(precision, scale):
    assert SAVED_KB[precision][scale] == round(saved_bytes(precision, scale) / 1e3, 1)
    config = TrainConfig(precision=precision, scale=scale, **PAPER)
    whole = activation_bytes(config, 1)
    assert whole == pytest.approx(64 * 77**2 * saved_bytes(precision, scale), rel=0.01)
    assert activation_bytes(config, 8) == pytest.approx(whole / 8)


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(16)`: a GPU with 16 GiB, all of it free."""

    def make(gib: int) -> DistributedContext:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gib << 30, gib << 30))
        for name in ("memory_reserved", "memory_allocated"):
            monkeypatch.setattr(torch.cuda, name, lambda device: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        return DistributedContext(CUDA)

    return make


@pytest.mark.parametrize(
    ("gib", "precision", "accumulate", "place"),
    [
        (8, "fp32", 1, "host"),
        (8, "bf16", 1, "host"),
        (16, "fp32", 1, "host"),  # the images alone would fit
        (16, "fp32", 4, "device"),
        (16, "bf16", 1, "device"),
        (24, "fp32", 1, "device"),
        (80, "fp32", 1, "device"),
        (80, "bf16", 1, "device"),
    ],
)
def test_the_images_go_onto_a_gpu_where_a_step_fits_beside_them(
    gpu, training_set, monkeypatch, gib, precision, accumulate, place
):
    monkeypatch.setattr(TrainingImages, "nbytes", 8_500_000_000)  # DIV2K at x2
    config = TrainConfig(train_data_path=str(training_set), precision=precision, accumulate=accumulate, **PAPER)
    assert load_images(config, gpu(gib), (2,))[1] == place


@pytest.mark.parametrize(("scale", "place"), [(2, "device"), (4, "host"), (0, "host")])
def test_the_scale_counts(gpu, training_set, monkeypatch, scale, place):
    monkeypatch.setattr(TrainingImages, "nbytes", 8_500_000_000)
    config = TrainConfig(train_data_path=str(training_set), scale=scale, **PAPER)
    assert load_images(config, gpu(24), SCALES if scale == 0 else (scale,))[1] == place


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "a smaller --batch_size or --patch_size, --accumulate 2, --precision bf16 or --preload host"),
        (
            {"accumulate": 48},
            "a smaller --batch_size or --patch_size, --accumulate 64, --precision bf16 or --preload host",
        ),
        ({"batch_size": 1, "precision": "bf16"}, "a smaller --patch_size or --preload host"),
        ({"batch_size": 1, "precision": "bf16", "preload": "host"}, "a smaller --patch_size"),
    ],
)
def test_an_out_of_memory_suggests_what_is_not_in_use_yet(gpu, settings, advice):
    message = str(explain_out_of_memory(TrainConfig(**settings), gpu(8), 1))
    assert message == f"the GPU is out of memory at step 1: use {advice}"


def test_an_old_gpu_is_not_sent_to_bf16(gpu, monkeypatch):
    context = gpu(8)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "old")
    assert "bf16" not in str(explain_out_of_memory(TrainConfig(), context, 1))


@pytest.fixture
def train(command, training_set, tmp_path):
    """`train("run", flags...)`: three steps of 5 patches in tmp_path/run."""
    flags = ["--train_data_path", training_set, "--val_data_dir", "none", "--device", "cpu", "--init", "identity"]
    flags += ["--patch_size", 8, "--batch_size", 5, "--max_steps", 3, "--print_interval", 1]
    return lambda folder, *more: command("train.py", *flags, "--ckpt_dir", tmp_path / folder, *more)


OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory")
NO_CUDA = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
NO_WORKSPACE = RuntimeError("FIND was unable to find an engine to execute this computation")  # cuDNN's words for it


def fail_above(monkeypatch, patches: int, error: Exception = OUT_OF_MEMORY) -> None:
    """The network runs out of memory with more than so many patches."""
    extract = CFSRCNN.extract

    def limited(net, lr):
        if len(lr) > patches:
            raise error
        return extract(net, lr)

    monkeypatch.setattr(CFSRCNN, "extract", limited)


def test_accumulate_auto_halves_micro_batches_until_they_fit(train, tmp_path, monkeypatch):
    assert train("whole").code == train("parts", "--accumulate", 4).code == 0
    assert "--accumulate auto" not in train("fits", "--accumulate", "auto").out
    fail_above(monkeypatch, 2)
    outcome = train("halved", "--accumulate", "auto")
    assert outcome.code == 0 and "--accumulate auto: 4 micro-batches of 2 patches at most" in outcome.out, outcome
    for auto, given in (("fits", "whole"), ("halved", "parts")):
        ours, theirs = (read_state_dict(tmp_path / name / "cfsrcnn_3.pth") for name in (auto, given))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, NO_WORKSPACE, NO_CUDA], ids=["PyTorch", "cuDNN", "CUDA"])
def test_a_single_patch_that_does_not_fit_is_one_line(train, monkeypatch, error):
    fail_above(monkeypatch, 0, error)
    outcome = train("run", "--accumulate", "auto")
    assert outcome.code == 2 and "--accumulate auto: the GPU is out of memory with a single patch" in outcome.err
    outcome = train("run")
    assert outcome.code == 2 and "at step 1: use a smaller --batch_size or --patch_size, --accumulate 2" in outcome.err


def test_images_that_do_not_fit_on_the_gpu_are_one_line(train, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("training.data.PatchSampler", fail)
    outcome = train("run")
    assert outcome.code == 2 and "of images do not fit on the GPU: use --preload host" in outcome.err


def test_several_processes_say_which_of_them_is_out_of_memory(gpu):
    context = gpu(8)
    context.world_size, context.rank = 4, 3
    message = str(explain_out_of_memory(TrainConfig(), context, 7))
    assert message.startswith("the GPU of process 3 is out of memory at step 7: use ")

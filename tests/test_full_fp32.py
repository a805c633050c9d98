"""`full_fp32` and `check_precision`: fp32 on a GPU is not TF32, and bf16 needs a GPU that has it. Runs without a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from common.device import check_precision, full_fp32
from common.errors import InputError
from inference.upscaler import NetworkUpscaler

CUDNN = torch.backends.cudnn
NEW = hasattr(CUDNN, "conv")  # PyTorch 2.9 or newer
needs_new = pytest.mark.skipif(not NEW, reason="this PyTorch has no fp32_precision")


def settings() -> tuple:
    """cuDNN's TF32 settings, by all their names; "raises" where the old one cannot be read."""
    try:
        old: object = CUDNN.allow_tf32
    except RuntimeError:
        old = "raises"
    return (old, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision) if NEW else (old,)


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Leaves PyTorch's defaults behind."""
    yield
    CUDNN.allow_tf32 = True


def is_ieee() -> bool:
    """Whether float32 convolutions are computed without TF32, by the setting that decides."""
    return CUDNN.conv.fp32_precision == "ieee" if NEW else not CUDNN.allow_tf32


@pytest.mark.parametrize("allowed", [True, False])
def test_full_fp32_restores_the_old_setting(allowed):
    CUDNN.allow_tf32 = allowed
    before = settings()
    with full_fp32():
        assert is_ieee() and CUDNN.allow_tf32 is False  # TorchInductor reads it
        with full_fp32():
            assert is_ieee()
        assert is_ieee()
    assert settings() == before


@needs_new
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_full_fp32_restores_the_new_setting(precision):
    CUDNN.conv.fp32_precision = precision
    before = settings()
    with full_fp32():
        assert is_ieee()
    assert settings() == before


def test_full_fp32_restores_after_an_error():
    before = settings()
    with pytest.raises(ZeroDivisionError), full_fp32():
        raise ZeroDivisionError
    assert settings() == before


@needs_new
def test_upscaling_is_full_fp32_whatever_the_caller_has_set():
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
            seen.append(is_ieee())
            return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    for change in (lambda: None, lambda: setattr(CUDNN.conv, "fp32_precision", "ieee")):
        change()
        before = settings()
        NetworkUpscaler(Recorder(), 2)(np.zeros((4, 4, 3), np.uint8))
        assert seen.pop() and settings() == before


def test_blocks_that_overlap_in_two_threads_leave_the_settings_as_they_were():
    before, entered, leave = settings(), threading.Event(), threading.Event()

    def other() -> None:
        with full_fp32():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with full_fp32():
        thread.start()
        assert entered.wait(10)
    assert is_ieee()  # the other thread still computes
    leave.set()
    thread.join(10)
    assert settings() == before


@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_bf16_needs_compute_capability_8(monkeypatch, capability, refused):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    cuda = torch.device("cuda")
    check_precision(cuda, "fp32")
    check_precision(cuda, "fp16")
    check_precision(torch.device("cpu"), "bf16")
    if refused:
        with pytest.raises(
            InputError, match=r"Tesla T4 has compute capability 7\.5 .* use fp32, or fp16 to upscale images"
        ):
            check_precision(cuda, "bf16")
    else:
        check_precision(cuda, "bf16")

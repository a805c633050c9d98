"""SR values that are not finite never become an image: the image is computed again in fp32, or the file is named."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from conftest import sample_image
from PIL import Image
from torch import nn

import model
from common.device import is_installed
from common.errors import InputError
from inference import backends, tiling
from inference.api import SRModel
from inference.upscaler import NetworkUpscaler

pytestmark = pytest.mark.usefixtures("one_thread")
BRIGHT = sample_image("coffee.png", 20, 24) | 128
DARK = BRIGHT // 200
FP16, BF16 = 1e5, 3.395e38  # finite in fp32; infinite in fp16, and rounded up to infinity in bf16


class Loud(nn.Sequential):
    """Enlarges by repeating pixels; on the way a value of 1 becomes `peak`."""

    def __init__(self, peak: float):
        super().__init__(*(nn.Conv2d(3, 3, 1, bias=False) for _ in range(4)))
        for layer, gain in zip(self, (peak**0.5, peak**0.5, peak**-0.5, peak**-0.5), strict=True):
            layer.weight.data = gain * torch.eye(3)[:, :, None, None]

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return super().forward(x).repeat_interleave(scale, 2).repeat_interleave(scale, 3)


class Broken(Loud):
    """Its SR values are NaN in any precision."""

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return super().forward(x, scale) * torch.nan


def repeated(lr: np.ndarray) -> np.ndarray:
    return lr.repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("tile", [16, "off"])
@pytest.mark.parametrize("self_ensemble", [False, True])
@pytest.mark.parametrize("batching", [(), ("cpu",)])
def test_an_image_that_overflows_is_computed_again_and_that_is_reported_once(
    capsys, monkeypatch, self_ensemble, tile, batching
):
    monkeypatch.setattr(tiling, "BATCHING", batching)
    upscale = NetworkUpscaler(Loud(FP16), 2, "cpu", "fp16", tile, "rounded", self_ensemble)
    assert np.array_equal(upscale(DARK), repeated(DARK)) and not capsys.readouterr().err
    for _ in range(2):
        assert np.array_equal(upscale(BRIGHT), repeated(BRIGHT))
    line = "the network's output is not finite in fp16: images where this happens are computed in fp32\n"
    assert capsys.readouterr().err == line
    assert np.abs(upscale.to_float(BRIGHT) * 255 - repeated(BRIGHT)).max() < 1e-3
    assert np.array_equal(upscale(DARK), repeated(DARK)) and upscale.precision == "fp16"


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bf16_too_in_each_backend(capsys, backend):
    if backend != "torch" and not is_installed(*backends.RUNTIMES[backend].packages):
        pytest.skip(f"no {backend}: pip install -r requirements-backends.txt")
    upscale = NetworkUpscaler(Loud(BF16), 2, precision="bf16", protocol="rounded", backend=backend)
    assert np.array_equal(upscale(BRIGHT | 255), repeated(BRIGHT | 255))
    assert "not finite in bf16" in capsys.readouterr().err


@pytest.fixture
def loud_model(monkeypatch, tmp_path):
    """`--model loud --ckpt_path ...`: overflows in fp16; after `spoil()` it is broken."""
    made = Loud
    monkeypatch.setattr(model, "model_names", lambda: ["loud"])
    monkeypatch.setitem(sys.modules, "model.loud", sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "Net", lambda **_: made(FP16), raising=False)
    torch.save(Loud(FP16).state_dict(), tmp_path / "loud.pth")
    argv = ["tcw_sample.py", "--model", "loud", "--ckpt_path", tmp_path / "loud.pth", "--scale", 2, "--device", "cpu"]

    def spoil() -> None:
        nonlocal made
        made = Broken

    return [*argv, "--sample_dir", tmp_path / "out"], spoil


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number, image in enumerate((DARK, BRIGHT, BRIGHT)):
        Image.fromarray(np.tile(image, (2, 2, 1))).save(tmp_path / f"in/{number}.png")
    return tmp_path / "in"


def test_the_commands_go_on_in_fp32_and_say_so_once(command, loud_model, folder, tmp_path):
    argv, _ = loud_model
    outcome = command(*argv, "--precision", "fp16", "--input", folder)
    assert outcome.code == 0 and outcome.err.count("not finite") == 1, outcome
    made = np.asarray(Image.open(tmp_path / "out/1_x2.png"))
    assert np.array_equal(made, repeated(np.tile(BRIGHT, (2, 2, 1))))
    outcome = command(*argv, "--precision", "fp16", "--test_data_dir", folder)
    assert outcome.code == 0 and outcome.err.count("not finite") == 1, outcome


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_where_fp32_is_not_enough_the_file_is_named(command, expect_error, loud_model, folder, precision):
    argv, spoil = loud_model
    spoil()
    cause = "the network's output is not finite in fp32"
    line = expect_error(cause, *argv, "--precision", precision, "--test_data_dir", folder)
    assert line.startswith(f"error: {folder / '0.png'}: ")
    outcome = command(*argv, "--precision", precision, "--input", folder)  # each image has a line, and the last sums up
    assert outcome.code == 2 and "error: 3 of 3 images failed" in outcome.err and outcome.err.count(cause) == 3
    assert f"{folder / '0.png'}: {cause}" in outcome.err


def test_from_python_too(capsys):
    assert np.array_equal(SRModel(Loud(FP16), 2, "cpu", "fp16").upscale(BRIGHT), repeated(BRIGHT))
    assert capsys.readouterr().err.count("not finite in fp16") == 1
    with pytest.raises(InputError, match="not finite in fp32"):
        SRModel(Broken(FP16), 2, "cpu", "bf16").upscale(BRIGHT)

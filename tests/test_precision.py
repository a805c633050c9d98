"""`--precision auto`: what is measured is computed in fp32, an image to look at in the fastest of the device."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import sample_image
from PIL import Image

from common import device
from inference import load
from inference.backends import resolve_precision
from model.checkpoint import save_state_dict

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cpu_with(monkeypatch, tmp_path):
    """`cpu_with("avx2 amx_bf16")`: from now on the CPU says that it can do that; None: it says nothing."""

    def pretend(flags: str | None) -> None:
        if flags is not None:
            (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\nbugs : none\n")
        monkeypatch.setattr(device, "CPUINFO", tmp_path / ("none" if flags is None else "cpuinfo"))

    return pretend


@pytest.mark.parametrize(
    ("flags", "precision"),
    [("avx512_bf16", "bf16"), ("amx_bf16 amx_tile", "bf16"), ("avx2 avx512f my_avx512_bf16", "fp32"), (None, "fp32")],
)
def test_a_cpu_computes_images_in_what_it_has_instructions_for(cpu_with, flags, precision):
    cpu_with(flags)
    assert resolve_precision("auto", CPU) == resolve_precision("auto", CPU, "openvino") == precision
    assert resolve_precision("auto", CPU, "onnxruntime") == "fp32"  # which knows nothing else
    assert resolve_precision("auto", CUDA) == "fp16" and resolve_precision("auto", MPS) == "fp32"


def test_auto_gives_way_to_what_is_asked_for_and_to_measuring(cpu_with):
    cpu_with("avx512_bf16")
    assert [resolve_precision(each, CPU) for each in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    assert resolve_precision("auto", CUDA, measured=True) == resolve_precision("auto", CPU, measured=True) == "fp32"
    assert resolve_precision("bf16", CPU, measured=True) == "bf16"


@pytest.fixture
def argv(golden_net, tmp_path):
    save_state_dict(golden_net("x2").state_dict(), tmp_path / "net.pth")
    where = ["--sample_dir", tmp_path / "out", "--device", "cpu"]
    return ["tcw_sample.py", "--scale", 2, "--ckpt_path", tmp_path / "net.pth", *where]


def test_the_command_upscales_an_image_so(command, argv, cpu_with, tmp_path):
    lr = sample_image("astronaut.png", 12, 20)
    Image.fromarray(lr).save(tmp_path / "a.png")

    def made(*flags) -> np.ndarray:
        assert command(*argv, "--input", tmp_path / "a.png", *flags).code == 0
        return np.asarray(Image.open(tmp_path / "out" / "a_x2.png"))

    exact, short = made("--precision", "fp32"), made("--precision", "bf16")
    assert not np.array_equal(exact, short)
    for flags, expected in (("avx512_bf16", short), ("avx2", exact)):
        cpu_with(flags)
        assert np.array_equal(made(), expected)
        assert np.array_equal(load(tmp_path / "net.pth", device="cpu", precision="auto").upscale(lr), expected)
        assert np.array_equal(load(tmp_path / "net.pth", device="cpu").upscale(lr), exact)


def test_the_command_measures_in_fp32_and_says_so(command, argv, cpu_with, tmp_path):
    cpu_with("avx512_bf16")
    (tmp_path / "Set").mkdir()
    Image.fromarray(sample_image("coffee.png", 24, 24)).save(tmp_path / "Set" / "a.png")

    def results(*flags) -> dict:
        samples = tmp_path / f"samples{''.join(flags)}"
        assert command(*argv, "--test_data_dir", tmp_path / "Set", *flags, "--sample_dir", samples).code == 0
        run = "net_bf16" if "bf16" in flags else "net"
        return json.loads((samples / run / "Set/x2/results.json").read_text())

    measured, exact, short = results(), results("--precision", "fp32"), results("--precision", "bf16")
    assert [each["precision"] for each in (measured, exact, short)] == ["fp32", "fp32", "bf16"]
    assert measured["mean"]["psnr"] == exact["mean"]["psnr"] != short["mean"]["psnr"]

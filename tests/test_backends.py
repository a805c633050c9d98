"""OpenVINO and ONNX Runtime make the images that PyTorch makes, whatever the tiles; a missing one is a clear error."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from conftest import Doubled, difference, sample_image
from torch import nn

from common.device import is_installed
from common.errors import InputError
from inference import backends
from inference.backends import RUNTIMES, start_backend, usable_backends
from inference.upscaler import NetworkUpscaler
from model.checkpoint import save_state_dict

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=RUNTIMES)
def runtime(request) -> str:
    """The name of each runtime in turn; skips where it is not installed."""
    if not is_installed(*RUNTIMES[request.param].packages):
        pytest.skip(f"no {request.param}: pip install -r requirements-backends.txt")
    return request.param


@pytest.fixture
def openvino():
    if not is_installed(*RUNTIMES["openvino"].packages):
        pytest.skip("no openvino: pip install -r requirements-backends.txt")
    return pytest.importorskip("openvino")


@pytest.mark.parametrize("options", [{"tile": "auto"}, {"tile": 16}, {"tile": "off", "self_ensemble": True}])
def test_a_runtime_makes_the_same_image(golden_net, runtime, options):
    net, lr = golden_net("x2"), sample_image("astronaut.png", 19, 50)
    expected = NetworkUpscaler(net, 2, **{**options, "tile": "off"}).to_float(lr)
    upscale = NetworkUpscaler(net, 2, backend=runtime, **options)
    assert upscale.backend == runtime
    assert difference(upscale.to_float(lr), expected) < 1e-5


def test_a_runtime_runs_any_networks_tiles(runtime):
    torch.manual_seed(0)
    net, lr = Doubled(), sample_image("coffee.png", 35, 40)
    made = NetworkUpscaler(net, 2, tile=16, backend=runtime).to_float(lr)
    assert difference(made, NetworkUpscaler(net, 2).to_float(lr)) < 1e-5


def test_openvino_in_bf16_is_close_and_its_output_is_not_rounded_to_bf16(golden_net, openvino):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    lr = sample_image("astronaut.png", 19, 50)
    exact = NetworkUpscaler(golden_net("x2"), 2).to_float(lr)
    short = NetworkUpscaler(golden_net("x2"), 2, precision="bf16", backend="openvino").to_float(lr)
    assert 1e-6 < difference(short, exact) < 0.05
    assert np.mean(torch.from_numpy(short).bfloat16().float().numpy() == short) < 0.1


def test_the_benchmark_has_the_same_figures(command, image_folder, golden_net, runtime, tmp_path):
    save_state_dict(golden_net("x2").state_dict(), tmp_path / "net.pth")
    figures = {}
    for backend in ("torch", runtime):
        argv = [
            "--test_data_dir",
            image_folder,
            "--sample_dir",
            tmp_path / backend,
            "--device",
            "cpu",
            "--backend",
            backend,
        ]
        outcome = command("tcw_sample.py", "--ckpt_path", tmp_path / "net.pth", "--scale", 2, *argv)
        assert outcome.code == 0, outcome
        content = json.loads(next((tmp_path / backend).glob("**/results.json")).read_text())
        assert content["backend"] == backend
        figures[backend] = [each["psnr"] for each in content["images"]]
    assert figures[runtime] == pytest.approx(figures["torch"], abs=1e-4)


# --- which backend --------------------------------------------------------------------------------------------------


def test_auto_takes_the_fastest_that_is_installed(golden_net, monkeypatch):
    net = golden_net("x2")
    assert start_backend("torch", net, 2, CPU, "fp32") == ("torch", net)
    assert usable_backends(torch.device("cuda"), "fp32") == ["torch"] == usable_backends(CPU, "fp16")
    monkeypatch.setattr(backends, "is_installed", lambda *names: True)
    assert usable_backends(CPU, "fp32") == ["openvino", "onnxruntime", "torch"]
    assert usable_backends(CPU, "bf16") == ["openvino", "torch"]
    monkeypatch.setattr(backends, "is_installed", lambda *names: "openvino" not in names)
    assert usable_backends(CPU, "fp32") == ["onnxruntime", "torch"]
    monkeypatch.undo()
    for package in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    assert usable_backends(CPU, "fp32") == ["torch"]
    assert NetworkUpscaler(net, 2, backend="auto").backend == "torch"


class OneSize(nn.Module):
    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return x.reshape(1, 3, 20, 24).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_auto_goes_on_in_pytorch_where_a_network_cannot_be_exported(runtime, capsys):
    upscale = NetworkUpscaler(OneSize(), 2, backend="auto")
    assert upscale.backend == "torch" and upscale(sample_image("coffee.png", 20, 24)).shape == (40, 48, 3)
    assert "--backend auto skips" in capsys.readouterr().err
    with pytest.raises(InputError, match="cannot become an ONNX graph"):
        NetworkUpscaler(OneSize(), 2, backend=runtime)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_package_is_one_line_that_says_what_to_install(expect_error, monkeypatch, checkpoint, tmp_path, name):
    for package in RUNTIMES[name].packages:
        monkeypatch.setitem(sys.modules, package, None)
    phrase = f"--backend {name} needs the package onnx: pip install -r requirements-backends.txt"
    argv = ["--ckpt_path", checkpoint, "--scale", 2, "--sample_dir", tmp_path / "new", "--backend", name]
    expect_error(phrase, "tcw_sample.py", *argv)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "precision", "device", "phrase"),
    [
        ("onnxruntime", "bf16", "cpu", "--backend onnxruntime supports --precision fp32, not bf16"),
        ("openvino", "fp16", "cpu", r"--backend openvino supports --precision fp32\|bf16, not fp16"),
        ("openvino", "fp32", "cuda", "--backend openvino runs on the CPU"),
    ],
)
def test_what_a_runtime_cannot_do_is_refused(name, precision, device, phrase):
    with pytest.raises(InputError, match=phrase):
        start_backend(name, nn.Identity(), 2, torch.device(device), precision)


def test_a_signal_is_handled_after_the_runtime_is_gone(golden_net, runtime):
    upscale = NetworkUpscaler(golden_net("x2"), 2, backend=runtime)
    upscale(sample_image("astronaut.png", 19, 50))
    del upscale
    gc.collect()
    child = os.fork()  # which a signal would kill instead of the tests
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.raise_signal(signal.SIGUSR1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

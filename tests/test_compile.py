"""`tcw_sample.py --compile`: the same image, compiled once for tiles of all sizes; what it does not go with is refused.

PyTorch traces the network as for TorchInductor, but nothing is generated from it: that takes minutes.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from conftest import Doubled, sample_image
from PIL import Image

from common.errors import InputError
from inference.upscaler import NetworkUpscaler
from model.checkpoint import save_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def graphs(monkeypatch) -> list:
    """The graphs that were handed to the compiler so far."""
    handed: list = []

    def compiler(graph, inputs):
        handed.append(graph)
        return graph.forward

    monkeypatch.setattr(shutil, "which", lambda name: name)
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, dynamic, mode: whole(run, dynamic=dynamic, backend=compiler))
    torch.compiler.reset()
    yield handed
    torch.compiler.reset()


def test_both_stages_are_compiled_once_for_tiles_of_all_sizes(golden_net, graphs):
    net = golden_net("x2")
    plain, ours = NetworkUpscaler(net, 2, tile=40), NetworkUpscaler(net, 2, tile=40, compile=True)
    for height, width in ((34, 61), (45, 38)):
        lr = sample_image("astronaut.png", height, width)
        assert np.array_equal(ours.to_float(lr), plain.to_float(lr))
    assert len(graphs) == 2


def test_a_network_without_stages_is_compiled_as_a_whole(graphs):
    torch.manual_seed(0)
    net, lr = Doubled(), sample_image("coffee.png", 35, 40)
    ours = NetworkUpscaler(net, 2, tile=32, compile=True)
    assert np.array_equal(ours.to_float(lr), NetworkUpscaler(net, 2, tile=32).to_float(lr)) and len(graphs) == 1


@pytest.fixture
def argv(golden_net, tmp_path):
    save_state_dict(golden_net("x2").state_dict(), tmp_path / "net.pth")
    Image.fromarray(sample_image("coffee.png", 32, 32)).save(tmp_path / "a.png")
    where = ["--input", tmp_path / "a.png", "--sample_dir", tmp_path / "out", "--device", "cpu"]
    return ["tcw_sample.py", "--scale", 2, "--ckpt_path", tmp_path / "net.pth", *where, "--compile"]


def test_the_command_compiles(command, argv, graphs, tmp_path):
    assert command(*argv).code == 0 and len(graphs) == 2
    assert Image.open(tmp_path / "out" / "a_x2.png").size == (64, 64)


def test_what_it_does_not_go_with_is_refused(expect_error, argv, monkeypatch, tmp_path):
    for backend in ("openvino", "auto"):
        expect_error(f"leave out --compile, or --backend {backend}", *argv, "--backend", backend)
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    expect_error("--compile needs a C++ compiler", *argv)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="C\\+\\+ compiler"):
        NetworkUpscaler(Doubled(), 2, compile=True)

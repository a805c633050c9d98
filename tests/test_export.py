"""A network as an ONNX graph: ONNX Runtime gets the same image out of it at any size, and misfits are clear errors."""

from __future__ import annotations

import hashlib
import shutil
import sys

import pytest
import torch
from conftest import ROOT, Doubled, difference
from torch import nn

from common.errors import InputError
from model.checkpoint import save_state_dict
from model.export import describe, to_onnx
from model.ops import MeanShift

onnxruntime = pytest.importorskip("onnxruntime", reason="no ONNX Runtime: pip install -r requirements-backends.txt")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript", reason="no exporter: pip install -r requirements-backends.txt")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(1, 1, 1), (1, 12, 20), (2, 33, 17)]  # batch, height, width


def run_graph(graph, lr: torch.Tensor) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["sr"], {"lr": lr.numpy()})[0])


@pytest.mark.parametrize(("kind", "scale"), [("x2", 2), ("x4", 4), ("multi", 3)])
def test_the_graph_gives_the_networks_image_at_any_size(golden_net, command, tmp_path, kind, scale):
    net, file = golden_net(kind).eval(), tmp_path / "new/net.onnx"
    save_state_dict(net.state_dict(), tmp_path / "net.pth")
    argv = ["--scale", scale] if kind == "multi" else []
    outcome = command("-m", "model.export", "--ckpt_path", tmp_path / "net.pth", "--out", file, *argv)
    assert outcome.code == 0 and outcome.out.startswith(f"wrote {file} (x{scale}, "), outcome
    assert [each.name for each in file.parent.iterdir()] == ["net.onnx"]
    for batch, height, width in SIZES:
        lr = torch.linspace(0, 1, batch * 3 * height * width).sin().view(batch, 3, height, width).abs()
        with torch.no_grad():
            expected = net(lr, scale)
        made = run_graph(file, lr)
        assert made.shape == expected.shape
        assert difference(made, expected) < 1e-5
    assert str(ROOT).encode() not in file.read_bytes()  # the exporter would note where the code stands


def test_the_file_says_what_it_is_and_takes(command, checkpoint, tmp_path):
    """Also by the former command, with the two files alone, in any place among the flags."""
    file = tmp_path / "net.onnx"
    assert command("-m", "model.export", checkpoint, "--scale", 2, file).code == 0
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    meta, graph = session.get_modelmeta(), onnx.load(file)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert meta.producer_name == "CFSRCNN in PyTorch" and graph.producer_version == f"PyTorch {torch.__version__}"
    assert meta.custom_metadata_map == {
        "model": "cfsrcnn", "scale": "2", "weights": "net.pth", "weights_sha256": digest,
        "opset": str(graph.opset_import[0].version), "layout": "NCHW, float32, RGB",
        "input_range": "[0, 1]", "output_range": "about [0, 1], not clamped",
        "model_license": "code: MIT; weights: as their author says (those of checkpoint/: MIT)",
    }  # fmt: skip
    (lr,), (sr,) = session.get_inputs(), session.get_outputs()
    assert (lr.name, lr.type, lr.shape) == ("lr", "tensor(float)", ["batch", 3, "height", "width"])
    assert (sr.name, sr.type, sr.shape) == ("sr", "tensor(float)", ["batch", 3, "2*height", "2*width"])


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text there")
def test_a_file_name_that_is_no_text_stands_escaped(checkpoint, tmp_path):
    file = shutil.copy(checkpoint, tmp_path / "net\udcff.pth")
    graph = onnx.load_from_string(to_onnx(Doubled(), 2, metadata=describe(file, "cfsrcnn", 2)))
    assert {each.key: each.value for each in graph.metadata_props}["weights"] == r"net\udcff.pth"


@pytest.mark.parametrize("words", [[], ["net.pth"], ["--out", "net.onnx"], ["net.pth", "--out", "net.onnx"], [*"abc"]])
def test_both_files_are_needed(expect_error, words):
    expect_error("needs two files: --ckpt_path FILE --out FILE.onnx", "-m", "model.export", *words)


def test_the_help_ends_with_a_command_that_works(command, monkeypatch, tmp_path):
    example = command("-m", "model.export", "--help").out.splitlines()[-1].split()
    assert example[:3] == ["python", "-m", "model.export"]
    argv = [tmp_path / word if word.endswith(".onnx") else word for word in example[1:]]
    monkeypatch.chdir(ROOT)
    assert command(*argv).code == 0 and list(tmp_path.glob("*.onnx"))


def test_a_mean_shift_that_does_more_than_shift_stays_as_it_is():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = MeanShift()
            state = {name: 2 * value for name, value in self.shift.state_dict().items()}
            self.shift.load_state_dict(state)

        def forward(self, x, scale):
            return self.shift(x)

    lr = torch.rand(1, 3, 5, 4)
    assert torch.allclose(run_graph(to_onnx(Shifted().eval(), 2), lr), Shifted()(lr, 2), atol=1e-6)


def test_a_network_for_one_size_of_image_is_refused_and_left_as_it_is():
    class OneSize(nn.Module):
        def forward(self, x, scale):
            return x.reshape(2, 3, 20, 24)

    net = OneSize().double().train()
    with pytest.raises(InputError, match="cannot become an ONNX graph for images of any size"):
        to_onnx(net, 2)
    assert net.training


def test_a_multi_scale_network_needs_the_scale(golden_net, expect_error, tmp_path):
    save_state_dict(golden_net("multi").state_dict(), tmp_path / "net.pth")
    files = ["--ckpt_path", tmp_path / "net.pth", "--out", tmp_path / "net.onnx"]
    expect_error("choose its scale, 2, 3 or 4 (--scale)", "-m", "model.export", *files)


def test_what_stands_at_the_output_survives_a_refusal(checkpoint, expect_error, monkeypatch, tmp_path):
    out = tmp_path / "net.onnx"
    out.write_text("mine")
    expect_error("not for --scale 3", "-m", "model.export", checkpoint, out, "--scale", 3)
    expect_error("does not end with .onnx", "-m", "model.export", checkpoint, checkpoint)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    phrase = "needs the package onnxscript: pip install -r requirements-backends.txt"
    expect_error(phrase, "-m", "model.export", checkpoint, out)
    assert out.read_text() == "mine"

"""RLFN and BSRN, the teachers and peers: their outputs, their published files, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN, difference, golden_weights
from PIL import Image

from common.errors import InputError
from inference.backends import RUNTIMES, Runtime
from inference.upscaler import NetworkUpscaler
from model import create_model
from model.checkpoint import load_model

PEERS = [("rlfn", 2), ("rlfn", 3), ("rlfn", 4), ("bsrn", 2), ("bsrn", 3), ("bsrn", 4)]
PARAMETERS = {"rlfn": {2: 526_856, 3: 533_891, 4: 543_740}, "bsrn": {2: 331_628, 3: 340_283, 4: 352_400}}

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(name: str, scale: int) -> torch.nn.Module:
    """The network with the golden weights of the project, which a formula gives, but smaller convolutions.

    At full size, attention after attention multiplies rounding errors by ten million: each CPU would have its own output.
    """
    net = create_model(name, scale).eval()
    weights = golden_weights({key: list(value.shape) for key, value in net.state_dict().items()})
    net.load_state_dict({key: 0.6 * value if value.ndim == 4 else value for key, value in weights.items()})
    return net


@pytest.mark.parametrize(("name", "scale"), PEERS)
def test_the_outputs_on_seeded_weights_are_those_of_the_published_networks(name, scale):
    """The values were computed in float64, by code that gives the published weights' reference outputs to 2e-6."""
    rows, columns = torch.meshgrid(torch.arange(19.0), torch.arange(26.0), indexing="ij")
    lr = torch.stack([torch.sin(0.7 * rows + 0.3 * columns * k) for k in (1, 2, 3)])[None] / 2 + 0.5
    with torch.inference_mode():
        sr = seeded(name, scale)(lr, scale)[0]
    assert sr.shape == (3, 19 * scale, 26 * scale)
    expected = np.load(GOLDEN / "peers.npz")[f"{name}_x{scale}"]
    assert difference(sr[:, :: 4 * scale + 1, :: 5 * scale + 1].numpy(), expected) < 1e-5


@pytest.mark.parametrize(("name", "scale"), PEERS)
def test_the_number_of_parameters_is_the_published_one(name, scale):
    assert sum(value.numel() for value in create_model(name, scale).parameters()) == PARAMETERS[name][scale]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """`published("bsrn", 3)`: a file as BSRN's authors save theirs: tensors of a GPU inside "params"."""

    def write(name: str, scale: int):
        monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path = tmp_path / f"{name}_x{scale}.pth"
        torch.save({"params": seeded(name, scale).state_dict()}, path)
        return path

    return write


def test_a_published_file_is_measured_by_the_benchmark(command, published, image_folder, tmp_path):
    path = published("bsrn", 3)
    where = ["--test_data_dir", image_folder, "--ckpt_path", path, "--sample_dir", tmp_path / "samples"]
    outcome = command("tcw_sample.py", "--model", "bsrn", "--scale", 3, *where)
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "samples/bsrn_x3" / image_folder.name / "x3/results.json").read_text())
    assert results["model"] == "bsrn" and len(results["images"]) == 4
    assert str(next(load_model(path, "bsrn", 3).parameters()).device) == "cpu"


def test_another_scale_or_network_does_not_fit(published, expect_error, image_folder):
    words = ["tcw_sample.py", "--test_data_dir", image_folder, "--ckpt_path", published("rlfn", 2)]
    expect_error("does not fit --model rlfn --scale 4", *words, "--model", "rlfn", "--scale", 4)
    expect_error("does not fit --model bsrn --scale 2", *words, "--model", "bsrn", "--scale", 2)
    expect_error("rlfn has no grouped variant: use --group 1", *words, "--model", "rlfn", "--scale", 2, "--group", 4)


@pytest.mark.parametrize("name", ["rlfn", "bsrn"])
def test_one_network_serves_one_scale(expect_error, training_set, tmp_path, name):
    where = ["--train_data_path", training_set, "--ckpt_dir", tmp_path / "run"]
    expect_error(f"{name} is a network for one scale", "train.py", "--model", name, "--scale", 0, *where)


def test_images_too_small_for_its_pooling_are_one_line(published, expect_error, tmp_path):
    Image.new("RGB", (40, 14)).save(tmp_path / "flat.png")
    words = ["--input", tmp_path / "flat.png", "--sample_dir", tmp_path / "out", "--ckpt_path", published("bsrn", 2)]
    message = "bsrn needs images of at least 15x15 pixels, not 40x14"
    expect_error(message, "tcw_sample.py", "--model", "bsrn", "--scale", 2, *words)


@pytest.mark.parametrize("name", ["rlfn", "bsrn"])
def test_a_runtime_that_crashes_on_them_never_sees_images_too_small(monkeypatch, name):
    monkeypatch.setattr("inference.backends.cached_onnx", lambda *_: b"")
    crashes = Runtime((), ("fp32",), lambda *_: lambda *maps: pytest.fail("it crashed"))
    monkeypatch.setitem(RUNTIMES, "onnxruntime", crashes)
    upscale = NetworkUpscaler(create_model(name, 2), 2, backend="onnxruntime")
    with pytest.raises(InputError, match=f"{name} needs images of at least 15x15 pixels, not 40x14"):
        upscale(np.zeros((14, 40, 3), np.uint8))


def test_tiles_are_refused_since_attention_sees_the_whole_image(published, expect_error, image_folder, tmp_path):
    words = ["--test_data_dir", image_folder, "--ckpt_path", published("rlfn", 2), "--sample_dir", tmp_path]
    expect_error(
        "the receptive field of this network covers the whole image",
        "tcw_sample.py",
        "--model",
        "rlfn",
        "--scale",
        2,
        "--tile",
        16,
        *words,
    )

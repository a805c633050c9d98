"""The Python API: `inference.load`, and `upscale`, which returns the type of image that it is given."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import COLOR, GRAY, ROOT, sample_image
from PIL import Image

from common.device import is_installed
from common.errors import InputError
from dataset.imresize import imresize
from inference import load
from inference.backends import RUNTIMES
from inference.upscaler import NetworkUpscaler
from model.checkpoint import load_model, save_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")
ALPHA = np.linspace(0, 255, 140).reshape(10, 14).astype(np.uint8)
ARRAYS = {"L": GRAY, "LA": np.dstack([GRAY, ALPHA]), "RGB": COLOR, "RGBA": np.dstack([COLOR, ALPHA])}


@pytest.fixture(scope="module")
def net(checkpoint):
    return load(checkpoint, device="cpu")


def test_an_array_is_upscaled_as_the_network_says(net, checkpoint):
    expected = NetworkUpscaler(load_model(checkpoint), 2, protocol="rounded")(COLOR)
    assert np.array_equal(net.upscale(COLOR), expected) and expected.std() > 1


def test_it_is_what_the_command_writes(net, checkpoint, command, tmp_path):
    Image.fromarray(ARRAYS["RGBA"]).save(tmp_path / "a.png")
    flags = ["--scale", 2, "--ckpt_path", checkpoint, "--input", tmp_path / "a.png", "--sample_dir", tmp_path]
    assert command("tcw_sample.py", *flags, "--device", "cpu", "--precision", "fp32").code == 0
    assert np.array_equal(net.upscale(ARRAYS["RGBA"]), np.asarray(Image.open(tmp_path / "a_x2.png")))


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 16, "precision": "bf16"},
        {"self_ensemble": True},
        {"backend": "onnxruntime", "tile": 16},
        {"backend": "openvino", "precision": "auto"},
        {"backend": "auto"},
    ],
)
def test_every_choice_of_the_command_gives_its_image(checkpoint, command, options, tmp_path):
    if not is_installed(*RUNTIMES["onnxruntime"].packages, *RUNTIMES["openvino"].packages) and "backend" in options:
        pytest.skip("no runtimes: pip install -r requirements-backends.txt")
    image = np.tile(COLOR, (2, 2, 1))
    Image.fromarray(image).save(tmp_path / "a.png")
    flags = ["--scale", 2, "--ckpt_path", checkpoint, "--input", tmp_path / "a.png", "--sample_dir", tmp_path]
    for name, value in ({"device": "cpu", "precision": "fp32"} | options).items():
        flags += [f"--{name}"] if value is True else [f"--{name}", value]
    outcome = command("tcw_sample.py", *flags)
    net = load(checkpoint, **({"device": "cpu"} | options))
    assert f"({net.precision}, {net.backend})" in outcome.out and net.backend != "auto"
    assert np.array_equal(net.upscale(image), np.asarray(Image.open(tmp_path / "a_x2.png")))


@pytest.mark.parametrize("mode", ARRAYS)
def test_array_in_array_out_and_image_in_image_out(net, mode):
    array = ARRAYS[mode]
    out = net.upscale(array)
    assert isinstance(out, np.ndarray) and out.dtype == np.uint8 and out.shape == (20, 28, *array.shape[2:])
    image = net.upscale(Image.fromarray(array))
    assert image.mode == mode and np.array_equal(np.asarray(image), out)


@pytest.mark.parametrize("mode", ARRAYS)
def test_16_bit_and_float_arrays_keep_their_type(net, mode):
    array = ARRAYS[mode]
    real = net.upscale(array / 255)
    assert real.dtype == np.float64 and real.shape == (20, 28, *array.shape[2:]) and 0 <= real.min() < real.max() <= 1
    deep = net.upscale(array.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16 and np.abs(deep / 65535 - real).max() < 2 / 65535
    assert np.abs(net.upscale(array) / 255 - real).max() < (2 if mode[0] == "L" else 1.1) / 255


def test_images_of_16_bits_and_floats_keep_their_mode_and_profile(net):
    for dtype, mode, top in (np.uint16, "I;16", 65535), (np.float32, "F", 1):
        image = Image.fromarray((GRAY / 255 * top).astype(dtype))
        image.info["icc_profile"] = b"profile"
        out = net.upscale(image)
        assert out.mode == mode and out.info["icc_profile"] == b"profile"
        assert np.array_equal(np.asarray(out), net.upscale(np.asarray(image)))


def test_alpha_is_upscaled_by_bicubic_and_changes_no_color(net):
    out = net.upscale(ARRAYS["RGBA"])
    assert np.array_equal(out[:, :, :3], net.upscale(COLOR)) and np.array_equal(out[:, :, 3], imresize(ALPHA, 2))


def test_the_image_that_goes_in_stays_as_it_is(net):
    array, image = COLOR[::-1, ::-1], Image.fromarray(COLOR)
    array.flags.writeable = False
    net.upscale(image)
    assert np.array_equal(net.upscale(array), net.upscale(array.copy())) and np.array_equal(np.asarray(image), COLOR)


def test_a_palette_becomes_color_and_the_exif_orientation_is_applied_once(net):
    assert net.upscale(Image.fromarray(COLOR).quantize(16)).mode == "RGB"
    turned = Image.fromarray(COLOR)
    turned.getexif()[0x0112] = 6
    out = net.upscale(turned)
    upright = net.upscale(Image.fromarray(COLOR).transpose(Image.Transpose.ROTATE_270))
    assert out.size == (20, 28) and np.array_equal(np.asarray(out), np.asarray(upright))
    assert out.getexif().get(0x0112, 1) == 1


def test_the_network_is_at_hand(net):
    assert net.scale == 2 and not net.net.training
    assert load(ROOT / "checkpoint/x4/cfsrcnn_x4.pth", device="cpu").upscale(GRAY).shape == (40, 56)


def test_a_multi_scale_file_is_asked_for_its_scale(golden_net, tmp_path):
    file = tmp_path / "all.safetensors"
    save_state_dict(golden_net("multi").state_dict(), file)
    with pytest.raises(InputError, match=r"a multi-scale .* choose its scale"):
        load(file)
    assert load(file, scale=3, device="cpu").upscale(GRAY).shape == (30, 42)


@pytest.mark.parametrize(
    ("image", "phrase"),
    [
        (COLOR.astype(np.int64), "int64 10x14x3 is not an image: give uint8, uint16 or floats"),
        (COLOR / 100, r"values from 1.* to 1.*: floats must be in \[0, 1\]"),
        (np.full((4, 4), 1.0000001), r"values from 1.0000001 to 1.0000001: floats"),
        (np.full((4, 4), np.nan), r"floats must be in \[0, 1\]"),
        (Image.fromarray(GRAY.astype(np.float32)), r"floats must be in \[0, 1\]"),
        (COLOR[:0], "uint8 0x14x3 is not an image"),
        (COLOR[:, :, :1], "uint8 10x14x1 is not an image"),
        (COLOR[0, 0], "uint8 3 is not an image"),
        ("image.jpg", "str is not an image"),
        (Image.fromarray(GRAY.astype(np.int32)), "mode I has 32 bits"),
        (Image.new("RGB", (0, 5)), "of 0x5 pixels"),
    ],
)
def test_what_is_no_image_is_refused(net, image, phrase):
    with pytest.raises(InputError, match=phrase):
        net.upscale(image)


def test_what_does_not_fit_is_refused(checkpoint):
    for phrase, options in {
        "an x2": {"scale": 3},
        "no precision 'fp8': use fp32": {"precision": "fp8"},
        "no device 'gpu'": {"device": "gpu"},
    }.items():
        with pytest.raises(InputError, match=phrase):
            load(checkpoint, **options)


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"scale": 3}, "not for scale 3: use scale 2 or another file"),
        ({"scale": 0}, "there is no scale 0: use 2, 3 or 4"),
        ({"scale": "2"}, "there is no scale '2': use 2, 3 or 4"),
        ({"scale": 2, "model": "rlfn"}, "does not fit model rlfn scale 2"),
        ({"model": "nothere"}, "there is no model 'nothere': model takes "),
        ({"group": 4}, "cfsrcnn has no grouped convolutions: group 4 must be 1"),
        ({"tile": 15}, "tile: 15 is not auto, off or a whole number from 16 on"),
        ({"tile": 20.5}, "tile: 20.5 is not auto, off or a whole number from 16 on"),
        ({"backend": "tensorrt"}, "there is no backend 'tensorrt': use torch, openvino, onnxruntime or auto"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "backend onnxruntime supports precision fp32, not bf16"),
        ({"backend": "openvino", "compile": True}, "compile needs backend torch: leave out compile, or backend openv"),
        ({"device": "cuda"}, "there is no device 'cuda': PyTorch finds no CUDA GPU here; use cpu or auto"),
    ],
)
def test_errors_name_parameters_and_no_flags(checkpoint, monkeypatch, options, phrase):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as error:
        load(checkpoint, **options)
    assert phrase in str(error.value) and "--" not in str(error.value)


def test_a_gpu_that_is_not_there_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="no device 'cuda:2': the CUDA GPUs here are 0 to 1"):
        load(checkpoint, device="cuda:2")


def test_packages_load_no_more_than_they_need():
    script = """
import sys
loaded = lambda: {name.partition('.')[0] for name in sys.modules}
import model.checkpoint
assert not loaded() & {"inference", "evaluation"}
import inference
assert "evaluation" not in loaded()
import train
assert "torch._dynamo" not in sys.modules  # torch.compile: about as slow to load as the rest of PyTorch
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_threads_share_a_model_and_the_process_stays_as_it_was(net, image_folder):
    def state():
        flags = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        return *flags, Image.MAX_IMAGE_PIXELS, list(warnings.filters)

    before, images = state(), [np.asarray(Image.open(file)) for file in sorted(image_folder.iterdir())]
    expected = [net.upscale(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(net.upscale, images * 2))
    assert all(np.array_equal(one, other) for one, other in zip(made, expected * 2, strict=True))
    assert state() == before


def saved(thing):
    """`thing` after `torch.save` and `torch.load`."""
    file = io.BytesIO()
    torch.save(thing, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing)), saved])
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_model_and_its_network_can_be_copied_and_saved(checkpoint, again, backend):
    if not is_installed(*RUNTIMES["onnxruntime"].packages):
        pytest.skip("no onnxruntime: pip install -r requirements-backends.txt")
    net = load(checkpoint, device="cpu", tile=16, backend=backend)
    copied, image = again(net), np.tile(COLOR, (2, 2, 1))
    assert (copied.scale, copied.precision, copied.backend) == (2, "fp32", backend) and copied.net is not net.net
    assert np.array_equal(copied.upscale(image), net.upscale(image))
    lr = torch.rand(1, 3, 6, 7)
    with torch.inference_mode():
        assert torch.equal(again(net.net)(lr, 2), net.net(lr, 2))


@pytest.mark.parametrize("backend", RUNTIMES)
def test_threads_share_a_model_of_a_runtime(checkpoint, backend):
    if not is_installed(*RUNTIMES[backend].packages):
        pytest.skip(f"no {backend}: pip install -r requirements-backends.txt")
    net, image = load(checkpoint, backend=backend), sample_image("astronaut.png", 60, 60)
    images = [np.roll(image, number, 1) for number in range(8)]
    expected = [net.upscale(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(net.upscale, images * 2))
    assert all(np.array_equal(one, other) for one, other in zip(made, expected * 2, strict=True))

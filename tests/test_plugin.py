"""A third-party network, `model/NAME.py` with the authors' convention, trains and is evaluated like ours."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch

import model
from model.checkpoint import read_state_dict, save_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")

GUEST = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        scale, multi_scale, group = kwargs.get("scale"), kwargs.get("multi_scale"), kwargs.get("group", 1)
        self.entry = nn.Conv2d(3, 8, 3, 1, 1)
        self.body = nn.Conv2d(8, 8, 3, 1, 1, groups=group)
        scales = (2, 3, 4) if multi_scale else (scale,)
        self.exits = nn.ModuleDict({f"x{each}": nn.Conv2d(8, 3 * each**2, 3, 1, 1) for each in scales})

    def forward(self, x, scale):
        x = torch.relu(self.body(torch.relu(self.entry(x))))
        return nn.functional.pixel_shuffle(self.exits[f"x{scale}"](x), scale)
"""
SMALL = ["--patch_size", 8, "--batch_size", 2, "--max_steps", 3, "--print_interval", 3, "--device", "cpu"]


@pytest.fixture
def train(command, image_folder, tmp_path):
    """`train(flags...)`: three steps of the plug-in "guest" on the small images, checkpoints in tmp_path/run."""

    def run(*flags):
        built = command("div2h5.py", "--source", image_folder, "--out", tmp_path / "train.h5")
        assert built.code == 0, built.err
        where = ["--train_data_path", tmp_path / "train.h5", "--ckpt_dir", tmp_path / "run"]
        names = ["--model", "guest", "--val_data_dir", "none"]
        return command("train.py", *names, *where, *SMALL, *flags)

    return run


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_network_trains_the_same(plug_in, train, tmp_path, monkeypatch):
    plug_in("guest", GUEST)
    assert train("--scale", 2).code == 0
    eager = read_state_dict(tmp_path / "run/guest_3.pth")
    assert train("--scale", 2, "--compile", "--ckpt_dir", tmp_path / "compiled").code == 0
    compiled = read_state_dict(tmp_path / "compiled/guest_3.pth")
    assert all(torch.allclose(eager[name], compiled[name], atol=1e-5) for name in eager)
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    outcome = train("--scale", 2, "--compile", "--ckpt_dir", tmp_path / "none")
    assert outcome.code == 2 and "needs a C++ compiler" in outcome.err


@pytest.fixture
def benchmark(command, image_folder, tmp_path):
    """`benchmark(scale)`: the checkpoint just written on the small images; the results and what was printed."""

    def run(scale: int, *flags):
        where = ["--ckpt_path", tmp_path / "run" / "guest_3.pth", "--sample_dir", tmp_path / "samples"]
        outcome = command(
            "tcw_sample.py", "--model", "guest", *where, "--test_data_dir", image_folder, "--scale", scale, *flags
        )
        assert outcome.code == 0, outcome.err
        folder = Path(re.search("^SR images: (.+)/SR$", outcome.out, re.MULTILINE)[1])
        assert len(list((folder / "SR").iterdir())) == 4
        return json.loads((folder / "results.json").read_text())

    return run


def test_a_network_of_someone_elses_trains_and_is_measured(plug_in, train, benchmark, tmp_path):
    plug_in("guest", GUEST)
    outcome = train("--scale", 2)
    assert outcome.code == 0 and "guest x2: 1,684 parameters" in outcome.out, outcome
    assert set(read_state_dict(tmp_path / "run" / "guest_3.pth")) == {
        f"{layer}.{kind}" for layer in ("entry", "body", "exits.x2") for kind in ("weight", "bias")
    }
    results = benchmark(2)
    assert results["model"] == "guest" and len(results["images"]) == 4 and 0 < results["mean"]["psnr"] < 60


def test_it_may_serve_several_scales_from_one_file(plug_in, train, benchmark):
    plug_in("guest", GUEST)
    outcome = train("--scale", 0)
    assert outcome.code == 0 and "guest x2, x3, x4" in outcome.out, outcome
    for scale in (2, 3, 4):
        assert benchmark(scale)["scale"] == scale


@pytest.mark.parametrize(("multi_scale", "scales"), [(False, "3"), (True, "2, 3, 4")])
def test_show_names_its_scales(plug_in, command, tmp_path, multi_scale, scales):
    plug_in("guest", GUEST)
    save_state_dict(model.create_model("guest", 3, multi_scale).state_dict(), tmp_path / "w.pth")
    shown = command("-m", "model.checkpoint", "show", tmp_path / "w.pth").out
    assert f"a checkpoint of guest\n  model       guest\n  scale       {scales}\n" in shown


def test_group_reaches_it(plug_in, train, benchmark, tmp_path):
    plug_in("guest", GUEST)
    assert train("--scale", 2, "--group", 4).code == 0
    assert read_state_dict(tmp_path / "run" / "guest_3.pth")["body.weight"].shape == (8, 2, 3, 3)
    assert len(benchmark(2, "--group", 4)["images"]) == 4


def test_its_tiles_join_too(plug_in, train, benchmark):
    plug_in("guest", GUEST)
    assert train("--scale", 3).code == 0
    figures = [[image["psnr"] for image in benchmark(3, "--tile", tile)["images"]] for tile in ("off", 16)]
    assert figures[0] == figures[1]


def test_its_weights_do_not_fit_another_model_or_scale(plug_in, train, expect_error, image_folder, tmp_path):
    plug_in("guest", GUEST)
    assert train("--scale", 2).code == 0
    argv = ["tcw_sample.py", "--test_data_dir", image_folder, "--ckpt_path", tmp_path / "run" / "guest_3.pth"]
    expect_error("does not fit --model cfsrcnn --scale 2: it is a file of 6 tensors such as", *argv, "--scale", 2)
    expect_error("does not fit --model guest --scale 3", *argv, "--model", "guest", "--scale", 3)
    expect_error("does not fit --model guest --scale 2", *argv, "--model", "guest", "--scale", 2, "--group", 2)


def test_a_network_of_one_scale_alone_says_too_that_weights_do_not_fit(plug_in, expect_error, checkpoint):
    refusal = "**kwargs):\n        if kwargs['multi_scale']: raise ValueError('one scale only')"
    plug_in("guest", GUEST.replace("**kwargs):", refusal))
    argv = ["tcw_sample.py", "--model", "guest", "--scale", 2, "--ckpt_path", checkpoint]
    expect_error("does not fit --model guest --scale 2: it is an x2 CFSRCNN checkpoint", *argv)


@pytest.mark.parametrize("program", ["train.py", "tcw_sample.py"])
def test_an_unknown_model_lists_those_there_are(plug_in, expect_error, tmp_path, program):
    plug_in("guest", GUEST)
    (tmp_path / "w.pth").touch()
    where = ["--ckpt_dir", tmp_path / "run"] if program == "train.py" else ["--ckpt_path", tmp_path / "w.pth"]
    expect_error(
        "there is no model 'esrgan': --model takes bsrn, cfsrcnn, guest, rlfn", program, "--model", "esrgan", *where
    )


@pytest.mark.parametrize("name", ["ops", "checkpoint", "init", "../evil", "os.path"])
def test_files_that_are_no_networks_are_no_models(expect_error, tmp_path, name):
    expect_error("there is no model", "train.py", "--model", name, "--ckpt_dir", tmp_path)


def test_a_file_without_net_says_what_a_model_needs(plug_in, expect_error, tmp_path):
    plug_in("hollow", "class Network: pass\n")
    argv = ["train.py", "--model", "hollow", "--ckpt_dir", tmp_path]
    expect_error("model/hollow.py has no class Net: a model needs Net(scale=, multi_scale=, group=)", *argv)


@pytest.mark.parametrize(
    "source",
    [
        "class Net: pass",
        "from torch import nn as Net",
        "from torch.nn import *",
        "A = Net = int",
        "if 1:\n Net: type = int",
    ],
)
def test_any_file_that_has_a_net_is_a_model(plug_in, source):
    plug_in("guest", source)
    assert model.model_names() == ["bsrn", "cfsrcnn", "guest", "rlfn"]


def test_files_with_faults_are_listed_and_those_without_net_are_not(plug_in):
    plug_in("broken", "class Net(:")
    plug_in("hollow", '"""Helpers of a class Net."""\nprint(Net)')
    assert model.model_names() == ["broken", "bsrn", "cfsrcnn", "rlfn"]


def test_a_net_with_other_arguments_is_one_line(plug_in, expect_error, tmp_path):
    plug_in("other", "class Net:\n    def __init__(self, upscale): pass\n")
    argv = ["train.py", "--model", "other", "--ckpt_dir", tmp_path]
    assert "unexpected keyword argument" in expect_error("model/other.py cannot be built with scale=2", *argv)


def test_a_net_that_fails_is_one_line(plug_in, expect_error, tmp_path):
    plug_in("guest", GUEST.replace("**kwargs):", "**kwargs):\n        raise KeyError(7)"))
    expect_error("model/guest.py cannot be built with scale=2", "train.py", "--model", "guest", "--ckpt_dir", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "failure"),
    [
        ("import torch\n", "import torch\nimport nothing_of_this_name\n", "cannot be imported (ModuleNotFoundError: "),
        ("8, 8, 3, 1, 1", "8, 8, three", "cannot be built with scale=2, group=1 (NameError: "),
        ("self.body(torch", "self.bdy(torch", "at scale 2 it fails (AttributeError: "),
        ("self.entry(x)", "self.entry(x", "cannot be imported (SyntaxError: "),
    ],
)
def test_the_line_of_a_fault_is_named(plug_in, train, old, new, failure):
    assert old in GUEST
    source = GUEST.replace(old, new, 1)
    plug_in("guest", source)
    line = 1 + next(number for number, text in enumerate(source.splitlines()) if new.splitlines()[-1] in text)
    outcome = train("--scale", 2)
    assert outcome.code == 2 and failure in outcome.err and f", line {line})" in outcome.err, outcome.err


def test_a_net_that_makes_another_size_is_one_line(plug_in, train):
    plug_in("guest", GUEST.replace("each**2, 3", "each**4, 3").replace("(x), scale)", "(x), scale**2)"))
    outcome = train("--scale", 2)
    assert outcome.code == 2 and "model/guest.py cannot be trained: on an LR image of 8x8 at scale 2" in outcome.err
    assert "of shape (1, 3, 32, 32), not floats of shape (1, 3, 16, 16)" in outcome.err


def test_ema_weights_come_with_its_running_statistics(plug_in, train, tmp_path):
    normed = GUEST.replace("        self.body", "        self.norm = nn.BatchNorm2d(3)\n        self.body")
    plug_in("guest", normed.replace("self.entry(x)", "self.entry(self.norm(x))"))
    assert train("--scale", 2, "--ema", 0.9).code == 0
    assert read_state_dict(tmp_path / "run" / "guest_3.pth")["norm.running_mean"].abs().min() > 0


def test_identity_initialization_is_for_our_network_only(plug_in, expect_error, tmp_path):
    plug_in("guest", GUEST)
    argv = ["train.py", "--model", "guest", "--init", "identity", "--ckpt_dir", tmp_path / "run"]
    expect_error("use --init kaiming with other models", *argv)


def test_the_former_name_of_an_initialization_is_accepted():
    from train import parse_flags

    assert parse_flags(["--init", "he"]).init == parse_flags(["--init", "kaiming"]).init == "kaiming"


# --- networks that fail, tried before the first step ---------------------------------------------------------------------

FAULTS = {
    "windows": (
        "x = x.view(x.shape[0], 3, x.shape[2] // 8, 8, -1, 8).view(x.shape)",
        "at scale 2 it fails (RuntimeError",
    ),
    "list": ("return [x]", "forward returned a list, not a tensor"),
    "shape": ("return x", "forward returned torch.float32 of shape (1, 3, 8, 8), not floats of shape (1, 3, 16, 16)"),
    "integers": (
        "return torch.nn.functional.interpolate(x, scale_factor=2).round().long()",
        "forward returned torch.int64 of shape (1, 3, 16, 16)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_forward_that_fails_is_one_line_before_the_first_step(plug_in, train, image_folder, tmp_path, fault):
    line, message = FAULTS[fault]
    plug_in(
        "guest",
        GUEST.replace("    def forward(self, x, scale):\n", f"    def forward(self, x, scale):\n        {line}\n"),
    )
    outcome = train("--scale", 2, "--val_data_dir", image_folder)
    errors = [each for each in outcome.err.splitlines() if each.startswith("error: ")]
    assert outcome.code == 2 and len(errors) == 1 and "Traceback" not in outcome.err, outcome
    size = "36x30" if fault == "windows" else "8x8"  # of the images in validation; of a patch
    assert f"model/guest.py cannot be trained: on an LR image of {size} at scale 2 it fails" in errors[0]
    assert message in errors[0] and not (tmp_path / "run/guest_3.pth").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("return self.entry(x.flatten())", "model/guest.py fails on it (RuntimeError: "),
        ("return x.nothing", "(AttributeError: 'Tensor' object has no attribute 'nothing', line 16)"),
        ("return [x]", "the network returned a list, not a tensor"),
    ],
)
def test_a_forward_that_fails_is_one_line_where_it_upscales(
    plug_in, expect_error, image_folder, tmp_path, fault, message
):
    plug_in("guest", GUEST)
    save_state_dict(model.create_model("guest", 2).state_dict(), tmp_path / "guest_x2.pth")
    forward = "    def forward(self, x, scale):\n"
    plug_in("guest", GUEST.replace(forward, f"{forward}        {fault}\n"))
    argv = ["tcw_sample.py", "--model", "guest", "--ckpt_path", tmp_path / "guest_x2.pth", "--scale", 2]
    argv += ["--sample_dir", tmp_path / "out"]
    assert "0000.png" in expect_error(message, *argv, "--input", image_folder / "0000.png")
    expect_error(message, *argv, "--test_data_dir", image_folder)
    argv = ["--image", image_folder / "0000.png", *argv[1:7], "--out", tmp_path / "figure"]
    expect_error(message, "-m", "evaluation.figure", *argv)


def test_a_forward_without_a_scale_is_accepted(plug_in, train, command, image_folder, tmp_path):
    plug_in(
        "guest",
        GUEST.replace("forward(self, x, scale)", "forward(self, x)")
        .replace('f"x{scale}"', '"x2"')
        .replace("(x), scale)", "(x), 2)"),
    )
    assert train("--scale", 2, "--val_data_dir", image_folder, "--ema", 0.9).code == 0
    argv = [
        "--model",
        "guest",
        "--scale",
        2,
        "--ckpt_path",
        tmp_path / "run/guest_3.pth",
        "--test_data_dir",
        image_folder,
    ]
    outcome = command("tcw_sample.py", *argv, "--sample_dir", tmp_path / "out", "--device", "cpu")
    assert outcome.code == 0, outcome
    plug_in("guest", GUEST)
    assert (
        train("--scale", 2, "--ckpt_dir", tmp_path / "with_scale", "--ema", 0.9, "--val_data_dir", image_folder).code
        == 0
    )
    one, other = (read_state_dict(tmp_path / folder / "guest_3.pth") for folder in ("run", "with_scale"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_network_whose_forward_takes_no_scale_can_be_copied_and_saved(plug_in):
    source = GUEST.replace("forward(self, x, scale)", "forward(self, x)").replace('f"x{scale}"', '"x2"')
    plug_in("guest", source.replace("(x), scale)", "(x), 2)"))
    net, lr = model.create_model("guest", 2), torch.rand(1, 3, 4, 5)
    for again in copy.deepcopy(net), pickle.loads(pickle.dumps(net)):
        assert again.body.weight is not net.body.weight and torch.equal(again(lr, 2), net(lr, 2))

"""The commands with odd flags and files do their work or end with one line and code 2, and never touch what they read."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, sample_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import div2h5
import model
import tcw_sample
import train
from common.errors import run_cli
from dataset.hdf5 import write_hdf5
from model.checkpoint import save_state_dict
from tests.stress.fuzzing import Net, bounded, cases

pytestmark = pytest.mark.usefixtures("one_thread")
HUGE = "1" + "0" * 30
ODD = ["", "-1", "0", "x", "nan", "inf", "-inf", "1e400", "1.5", "0x1", "1_0", "٢", " 2", "ä\udcff\n", HUGE]
FILES = ["good.h5", "other.h5", "torn.h5", "good.pth", "latest.train.pt", "images", "images/0.png", "set", "empty"]
FILES += [
    "torn",
    "torn/1.png",
    "text",
    "text/below",
    "none",
    "none/below",
    "pipe.png",
    "loop.png",
    "dangling.png",
    "q" * 300,
]
WORDS = ["--help", "--nosuch", "stray", "--", "-", "--scale", "--lr=", "--ckpt_path", "--res", "--se", ""]
SWITCH = [None]  # a flag without a value


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `in`, whose files are good, torn, and no files at all; `--model tiny` is there."""
    folder = tmp_path_factory.mktemp("commands")
    inputs = folder / "in"
    for name in ("images", "set/x2", "torn", "empty"):
        (inputs / name).mkdir(parents=True)
    image = sample_image("coffee.png", 24, 30)
    for number in range(3):
        Image.fromarray(np.roll(image, number, 0)).save(inputs / f"images/{number}.png")
    Image.fromarray(image).save(inputs / "set/x2/a_HR.png")
    Image.fromarray(image[::2, ::2]).save(inputs / "set/x2/a_LR.png")
    shutil.copy(inputs / "images/0.png", inputs / "torn/0.png")
    (inputs / "torn/1.png").write_bytes((inputs / "images/0.png").read_bytes()[:99])
    (inputs / "text").write_text("no image\n")
    for name, scales in {"good": (2, 3, 4), "other": (2,)}.items():
        pairs = [(image, {scale: image[::scale, ::scale][: 24 // scale, : 30 // scale] for scale in scales})]
        write_hdf5(
            inputs / f"{name}.h5", [(hr[:, :24], {s: lr[:, : 24 // s] for s, lr in lrs.items()}) for hr, lrs in pairs]
        )
    (inputs / "torn.h5").write_bytes((inputs / "good.h5").read_bytes()[:-50])
    save_state_dict(Net().state_dict(), inputs / "good.pth")
    torch.save({"optimizer": 1}, inputs / "latest.train.pt")
    os.mkfifo(inputs / "pipe.png")
    (inputs / "loop.png").symlink_to("loop.png")
    (inputs / "dangling.png").symlink_to("none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "model_names", lambda: ["cfsrcnn", "tiny"])
        patch.setitem(sys.modules, "model.tiny", sys.modules[__name__])
        yield folder


def flags(options: dict[str, list], most: int = 4) -> st.SearchStrategy:
    """A few of these flags, each with one of its values or, now and then, an odd one."""

    def values(name: str) -> list:
        if options[name] == SWITCH:
            return SWITCH
        if name == "num_gpu":  # an odd way to write 2 starts two processes
            return options[name]
        return options[name] + [each for each in ODD if (name, each) != ("max_steps", HUGE)]  # which would be done

    pairs = st.sampled_from(sorted(options)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(values(name)))
    )
    return st.tuples(st.lists(pairs, max_size=most), st.lists(st.sampled_from(WORDS), max_size=1))


IN = [f"../in/{name}" for name in FILES]
OUT = ["out", "out/a/b", "../in/text", "../in/text/below", "../in/loop.png", "out/" + "q" * 300, "out/" + "q/" * 2100]
MODELS = ["tiny", "cfsrcnn", "bicubic", "ops", "../x", "Tiny", "tiny.py"]
TRAIN = {
    "model": MODELS,
    "scale": ["0", "2", "3", "4", "8"],
    "group": ["1", "2"],
    "patch_size": ["1", "2", "6", "7", "40"],
    "max_steps": ["1", "2"],
    "decay": ["1"],
    "lr": ["1e-4", "1e-300", "1e300"],
    "clip": ["0", "1"],
    "loss_fn": ["L1", "SmoothL1"],
    "num_gpu": ["1", "99"],
    "train_data_path": IN,
    "ckpt_dir": OUT,
    "ckpt_name": ["a", "..", "a/b", "q" * 300, "-rf"],
    "print_interval": ["1", "7"],
    "verbose": SWITCH,
    "sample_dir": OUT,
    "shave": ["3"],
    "optimizer": ["adam", "muon"],
    "lr_schedule": ["step", "cosine"],
    "warmup": ["1", "9"],
    "init": ["identity", "default"],
    "ema": ["0.5", "0.999", "1"],
    "seed": ["7", str(1 << 63), str(1 << 64)],
    "val_data_dir": IN,
    "pretrained": IN,
    "device": ["cpu", "cuda", "mps"],
    "precision": ["bf16"],
    "accumulate": ["1", "2", "3"],
    "preload": ["host", "device"],
    "resume": SWITCH,
}
SAMPLE = {
    "model": MODELS,
    "scale": ["2", "3", "4"],
    "group": ["1", "2"],
    "ckpt_path": IN,
    "test_data_dir": IN,
    "sample_dir": OUT,
    "cuda": SWITCH,
    "shave": ["3"],
    "input": IN,
    "protocol": ["paper", "rounded"],
    "self_ensemble": SWITCH,
    "baseline": SWITCH,
    "device": ["cpu", "cuda", "mps"],
    "precision": ["fp32", "bf16", "fp16"],
    "tile": ["auto", "off", "16", "15"],
}
DIV2H5 = {
    "source": IN,
    "extra": IN,
    "out": [*(each for each in OUT if each not in ("../in/text", "../in/loop.png")), "out/a.h5", "../in/pipe.png"],
    "scales": ["2", "3", "4", "5"],
    "padding": ["replicate", "symmetric"],
    "workers": ["1", "3"],
    "hold_out": ["1", "2", "3", "4"],
    "shrink": ["0.1", "0.6", "1"],
}


def run(place: Path, main, base: list[str], given_flags: tuple[list, list]) -> None:
    """Runs the command in this process; anything but code 0, or 2 with one line, is wrong, and so is a changed input."""
    argv = [f"--{name}" if value is None else f"--{name}={value}" for name, value in given_flags[0]]
    before, out, err = inputs(place), io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    (place / "work").mkdir()
    os.chdir(place / "work")
    try:
        with bounded(main.__module__), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            sys.argv = [main.__module__, *base, *argv, *given_flags[1]]
            try:
                run_cli(main)
                code = 0
            except SystemExit as leaving:
                code = leaving.code or 0
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.chdir(place)
        shutil.rmtree(place / "work")
    lines = err.getvalue().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert "Traceback" not in err.getvalue() and code in (0, 2), (code, lines)
    assert len(errors) == (code == 2) and (not errors or lines[-1] == errors[0]), lines
    assert inputs(place) == before and os.listdir(place) == ["in"], os.listdir(place)


def inputs(place: Path) -> list[tuple]:
    states = [(path, path.lstat()) for path in sorted((place / "in").rglob("*"))]
    return [(path, state.st_size, state.st_mtime_ns, state.st_mode) for path, state in states if path.name != "in"]


@pytest.fixture(autouse=True)
def same_state(monkeypatch):
    """What the cases change is put back: the arguments of the command line, and where the process is."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(ROOT)


@cases(100)
@given(argv=flags(TRAIN))
def test_train(place, argv):
    base = "--model tiny --train_data_path ../in/good.h5 --ckpt_dir out --ckpt_name a --val_data_dir ../in/set --device cpu"
    run(place, train.main, f"{base} --max_steps 2 --patch_size 4 --batch_size 2 --print_interval 1".split(), argv)


@cases(100)
@given(argv=flags(SAMPLE), images=st.booleans())
def test_sample(place, argv, images):
    base = "--model tiny --ckpt_path ../in/good.pth --scale 2 --sample_dir out --device cpu"
    run(
        place,
        tcw_sample.main,
        f"{base} {'--input ../in/images' if images else '--test_data_dir ../in/set'}".split(),
        argv,
    )


@cases(100)
@given(argv=flags(DIV2H5))
def test_div2h5(place, argv):
    run(place, div2h5.main, ["--source", "../in/images", "--out", "out/a.h5", "--workers", "1"], argv)

"""`python -m evaluation.figure`: pictures side by side, with the crop where two of them differ and their figures below."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import photograph
from PIL import Image, ImageDraw

from dataset.images import read_rgb, write_png
from dataset.imresize import imresize
from dataset.testset import TestPair
from evaluation.inference import BicubicUpscaler, NetworkUpscaler
from evaluation.metrics import measure, rgb_to_y
from model.checkpoint import load_net

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 19  # of the automatic crop of a picture of 96x96


@pytest.fixture
def picture(tmp_path) -> Path:
    """96x96 pixels of a photograph."""
    write_png(tmp_path / "cup.png", photograph("coffee.png", 96, 96, 150, 200))
    return tmp_path / "cup.png"


@pytest.fixture
def words(checkpoint, picture, tmp_path) -> list:
    flags = ["--image", picture, "--scale", 2, "--ckpt_path", checkpoint, "--out", tmp_path / "out/figure"]
    return ["-m", "evaluation.figure", *flags]


@pytest.fixture
def captions(monkeypatch) -> list[str]:
    """The captions that are drawn, in order."""
    drawn: list[str] = []
    draw_text = ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, **kwargs):
        drawn.append(text)
        return draw_text(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return drawn


def test_png_and_pdf_are_written_with_a_panel_each(command, words, captions, picture, checkpoint, tmp_path):
    outcome = command(*words)
    assert outcome.code == 0 and f"wrote {tmp_path}/out/figure.png and {tmp_path}/out/figure.pdf" in outcome.out, (
        outcome
    )
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["figure.pdf", "figure.png"]
    assert (tmp_path / "out/figure.pdf").read_bytes().startswith(b"%PDF")
    sheet = read_rgb(tmp_path / "out/figure.png")
    assert sheet.shape[1] > 3 * 96 and sheet.shape[0] > 96
    hr, lr = TestPair(picture, None, 2).read()
    expected = ["HR (PSNR/SSIM)"]
    for name, upscale in {"Bicubic": BicubicUpscaler(2), "CFSRCNN": NetworkUpscaler(load_net(checkpoint), 2)}.items():
        quality = measure(upscale(lr), hr, 2)
        expected.append(f"{name} ({quality.psnr:.2f}/{quality.ssim:.4f})")
    assert captions == expected


def test_the_crop_is_where_bicubic_and_the_network_differ_most(command, words, picture, checkpoint):
    _, lr = TestPair(picture, None, 2).read()
    pictures = [upscale(lr) for upscale in (BicubicUpscaler(2), NetworkUpscaler(load_net(checkpoint), 2))]
    difference = np.abs(rgb_to_y(pictures[0]) - rgb_to_y(pictures[1]))
    sums = np.lib.stride_tricks.sliding_window_view(difference, (SIDE, SIDE)).sum((2, 3))
    left, top, width, height = map(int, re.search(r"crop (\d+),(\d+),(\d+),(\d+)", command(*words).out).groups())
    assert (width, height) == (SIDE, SIDE)
    assert sums[top, left] == pytest.approx(sums.max(), rel=1e-9)


def test_the_crop_is_framed_red_and_enlarged_in_a_green_frame(command, words, tmp_path):
    assert command(*words, "--crop", "10,20,16,12").code == 0
    sheet = read_rgb(tmp_path / "out/figure.png").astype(int)
    red, green, blue = sheet[..., 0], sheet[..., 1], sheet[..., 2]
    reddest = np.argwhere((red > 200) & (green < 40) & (blue < 40))
    greenest = (green > 160) & (red < 30) & (blue < 70)
    top, left = reddest.min(0)
    assert tuple(reddest[reddest[:, 1] < 96].max(0) - (top, left) + 1) == (12 + 4, 16 + 4)  # two pixels around the crop
    assert greenest.sum() > 3 * 3 * 40


def test_an_ending_names_the_one_file_that_is_written(command, words, tmp_path):
    outcome = command(*[f"{word}.png" if str(word).endswith("out/figure") else word for word in words])
    assert outcome.code == 0 and [file.name for file in (tmp_path / "out").iterdir()] == ["figure.png"]


def test_a_crop_outside_the_picture_is_one_line(command, refused, words, tmp_path):
    refused("--crop 80,10,20,20 leaves the picture of 96x96 pixels", *words, "--crop", "80,10,20,20")
    for bad in ("1,2,3", "a,b,c,d", "0,0,2,2"):
        assert command(*words, "--crop", bad).code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cup.png", "cup_SRF_2_SR.png"])
def test_pictures_of_others_get_a_panel_with_their_own_figures(command, words, captions, picture, tmp_path, name):
    picture = picture.rename(tmp_path / name.replace("SR.png", "HR.png"))
    words[words.index("--image") + 1] = picture
    hr = read_rgb(picture)
    sr = imresize(imresize(hr, 0.25), 4)
    write_png(tmp_path / "theirs" / name, sr)
    assert command(*words, "--compare", f"Theirs={tmp_path / 'theirs'}").code == 0
    quality = measure(sr, hr, 2)
    assert captions[3:] == [f"Theirs ({quality.psnr:.2f}/{quality.ssim:.4f})"]


def test_a_missing_or_unfit_picture_of_others_is_one_line(command, refused, words, tmp_path):
    (tmp_path / "theirs").mkdir()
    refused("theirs has neither cup.png", *words, "--compare", f"Theirs={tmp_path / 'theirs'}")
    write_png(tmp_path / "theirs/cup.png", np.zeros((48, 48, 3), np.uint8))
    refused("SR is 48x48 but HR 96x96", *words, "--compare", f"Theirs={tmp_path / 'theirs'}")
    assert command(*words, "--compare", "Theirs").code == 2
    assert not (tmp_path / "out").exists()


def test_what_is_read_is_never_overwritten(refused, words, picture, tmp_path):
    where, theirs = words.index("--out") + 1, tmp_path / "theirs/cup.png"
    write_png(theirs, read_rgb(picture))
    before = picture.read_bytes(), theirs.read_bytes()
    for out in (picture, theirs, picture.with_suffix("")):
        words[where] = out
        refused("is itself read and would be overwritten", *words, "--compare", f"Theirs={theirs.parent}")
    assert (picture.read_bytes(), theirs.read_bytes()) == before


def test_a_folder_in_the_place_of_the_figure_is_named(refused, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where, before = words.index("--out") + 1, sorted(tmp_path.parent.iterdir())
    for out in (tmp_path, "/", ".", "..", ""):
        words[where] = out
        refused("is a folder: name the figure, such as", *words)
    assert sorted(tmp_path.parent.iterdir()) == before


def test_crops_alone_stand_in_one_row_of_equal_size(command, words, captions, tmp_path):
    assert command(*words, "--crops_only").code == 0
    assert [caption.partition(" (")[0] for caption in captions] == ["LR", "Bicubic", "CFSRCNN", "HR"]
    width, height = Image.open(tmp_path / "out/figure.png").size
    assert width > 4 * 280 and 280 < height < 400


def test_what_cannot_be_drawn_is_one_line(refused, words, tmp_path):
    missing = [tmp_path / "none.png" if word == tmp_path / "cup.png" else word for word in words]
    refused("none.png: no such file", *missing)
    refused("--out . is a folder: name the figure, such as figure", *words, "--out", ".")
    refused("is an x2 CFSRCNN checkpoint", *[3 if word == 2 else word for word in words])

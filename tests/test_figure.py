"""`python -m evaluation.figure`: images side by side, with the crop where two of them differ and their figures below."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import sample_image
from PIL import Image, ImageDraw

from dataset.benchmark_set import ImagePair
from dataset.image_writer import write_png
from dataset.images import read_rgb
from dataset.imresize import imresize
from evaluation.figure import GAP, TEXT
from evaluation.metrics import compute_scores, rgb_to_y
from inference.upscaler import BicubicUpscaler, NetworkUpscaler
from model import create_model
from model.checkpoint import load_model, save_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 19  # of the automatic crop of an image of 96x96


@pytest.fixture
def image_file(tmp_path) -> Path:
    """96x96 pixels of a photograph."""
    write_png(tmp_path / "cup.png", sample_image("coffee.png", 96, 96, 150, 200))
    return tmp_path / "cup.png"


@pytest.fixture
def argv(checkpoint, image_file, tmp_path) -> list:
    flags = ["--image", image_file, "--scale", 2, "--ckpt_path", checkpoint, "--out", tmp_path / "out/figure"]
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


def test_png_and_pdf_are_written_with_a_panel_each(command, argv, captions, image_file, checkpoint, tmp_path):
    outcome = command(*argv)
    assert outcome.code == 0 and f"wrote {tmp_path}/out/figure.png and {tmp_path}/out/figure.pdf" in outcome.out, (
        outcome
    )
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["figure.pdf", "figure.png"]
    assert (tmp_path / "out/figure.pdf").read_bytes().startswith(b"%PDF")
    sheet = read_rgb(tmp_path / "out/figure.png")
    assert sheet.shape[1] > 3 * 96 and sheet.shape[0] > 96
    hr, lr = ImagePair(image_file, None, 2).read()
    expected = ["HR (PSNR/SSIM)"]
    for name, upscale in {"Bicubic": BicubicUpscaler(2), "CFSRCNN": NetworkUpscaler(load_model(checkpoint), 2)}.items():
        quality = compute_scores(upscale(lr), hr, 2)
        expected.append(f"{name} ({quality.psnr:.2f}/{quality.ssim:.4f})")
    assert captions == expected


def test_the_crop_is_where_bicubic_and_the_network_differ_most(command, argv, image_file, checkpoint):
    _, lr = ImagePair(image_file, None, 2).read()
    images = [upscale(lr) for upscale in (BicubicUpscaler(2), NetworkUpscaler(load_model(checkpoint), 2))]
    difference = np.abs(rgb_to_y(images[0]) - rgb_to_y(images[1]))
    sums = np.lib.stride_tricks.sliding_window_view(difference, (SIDE, SIDE)).sum((2, 3))
    left, top, width, height = map(int, re.search(r"crop (\d+),(\d+),(\d+),(\d+)", command(*argv).out).groups())
    assert (width, height) == (SIDE, SIDE)
    assert sums[top, left] == pytest.approx(sums.max(), rel=1e-9)


def test_the_crop_is_framed_red_and_enlarged_in_a_green_frame(command, argv, tmp_path):
    assert command(*argv, "--crop", "10,20,16,12").code == 0
    sheet = read_rgb(tmp_path / "out/figure.png").astype(int)
    red, green, blue = sheet[..., 0], sheet[..., 1], sheet[..., 2]
    reddest = np.argwhere((red > 200) & (green < 40) & (blue < 40))
    greenest = (green > 160) & (red < 30) & (blue < 70)
    top, left = reddest.min(0)
    assert tuple(reddest[reddest[:, 1] < 96].max(0) - (top, left) + 1) == (12 + 4, 16 + 4)  # two pixels around the crop
    assert greenest.sum() > 3 * 3 * 40


def test_an_ending_names_the_one_file_that_is_written(command, argv, tmp_path):
    outcome = command(*[f"{arg}.png" if str(arg).endswith("out/figure") else arg for arg in argv])
    assert outcome.code == 0 and [file.name for file in (tmp_path / "out").iterdir()] == ["figure.png"]


@pytest.mark.parametrize("ending", [".jpg", ".TIFF"])
def test_other_formats_are_refused(expect_error, argv, tmp_path, ending):
    argv[-1] = f"{argv[-1]}{ending}"
    expect_error(f"figure{ending}: a figure is written as .png, .pdf or, without an ending, both", *argv)
    assert not (tmp_path / "out").exists()


def test_an_image_of_another_size_is_named(expect_error, argv, tmp_path):
    write_png(tmp_path / "theirs/cup.png", np.zeros((48, 96, 3), np.uint8))
    phrase = f"error: {tmp_path}/theirs/cup.png: SR is 96x48 but HR 96x96: they must be one size"
    expect_error(phrase, *argv, "--compare", f"Theirs={tmp_path / 'theirs'}")


def test_images_are_read_once(command, argv, image_file, tmp_path, decoded):
    write_png(tmp_path / "theirs/cup.png", read_rgb(image_file))
    decoded.clear()
    assert command(*argv, "--crops_only", "--compare", f"Theirs={tmp_path / 'theirs'}").code == 0
    assert decoded == [image_file, tmp_path / "theirs/cup.png"]


def test_a_folder_that_is_missing_or_may_not_be_read_is_told_from_an_empty_one(expect_error, argv, tmp_path, forbidden):
    for name in ("empty", "locked"):
        (tmp_path / name).mkdir()
    expect_error("nowhere: no such folder", *argv, "--compare", f"A={tmp_path / 'nowhere'}")
    expect_error(
        "empty has neither cup.png nor cupx2.png nor cup_ANYTHING.png", *argv, "--compare", f"A={tmp_path / 'empty'}"
    )
    forbidden.add("locked")
    phrase = "locked cannot be opened (Permission denied): change its permissions"
    expect_error(phrase, *argv, "--compare", f"A={tmp_path / 'locked'}")


def test_a_crop_outside_the_image_is_one_line(command, expect_error, argv, tmp_path):
    expect_error("--crop 80,10,20,20 leaves the image of 96x96 pixels", *argv, "--crop", "80,10,20,20")
    for bad in ("1,2,3", "a,b,c,d", "0,0,2,2"):
        assert command(*argv, "--crop", bad).code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cup.png", "cup_SRF_2_SR.png"])
def test_images_of_others_get_a_panel_with_their_own_figures(command, argv, captions, image_file, tmp_path, name):
    image_file = image_file.rename(tmp_path / name.replace("SR.png", "HR.png"))
    argv[argv.index("--image") + 1] = image_file
    hr = read_rgb(image_file)
    sr = imresize(imresize(hr, 0.25), 4)
    write_png(tmp_path / "theirs" / name, sr)
    assert command(*argv, "--compare", f"Theirs={tmp_path / 'theirs'}").code == 0
    quality = compute_scores(sr, hr, 2)
    assert captions[3:] == [f"Theirs ({quality.psnr:.2f}/{quality.ssim:.4f})"]


def test_a_missing_or_unfit_image_of_others_is_one_line(command, expect_error, argv, tmp_path):
    (tmp_path / "theirs").mkdir()
    expect_error("theirs has neither cup.png", *argv, "--compare", f"Theirs={tmp_path / 'theirs'}")
    write_png(tmp_path / "theirs/cup.png", np.zeros((48, 48, 3), np.uint8))
    expect_error("SR is 48x48 but HR 96x96", *argv, "--compare", f"Theirs={tmp_path / 'theirs'}")
    assert command(*argv, "--compare", "Theirs").code == 2
    assert not (tmp_path / "out").exists()


def test_what_is_read_is_never_overwritten(expect_error, argv, image_file, tmp_path):
    where, theirs = argv.index("--out") + 1, tmp_path / "theirs/cup.png"
    write_png(theirs, read_rgb(image_file))
    before = image_file.read_bytes(), theirs.read_bytes()
    for out in (image_file, theirs, image_file.with_suffix("")):
        argv[where] = out
        expect_error("is itself read and would be overwritten", *argv, "--compare", f"Theirs={theirs.parent}")
    assert (image_file.read_bytes(), theirs.read_bytes()) == before


def test_a_folder_in_the_place_of_the_figure_is_named(expect_error, argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where, before = argv.index("--out") + 1, sorted(tmp_path.parent.iterdir())
    for out in (tmp_path, "/", ".", "..", ""):
        argv[where] = out
        expect_error("is a folder: name the figure, such as", *argv)
    assert sorted(tmp_path.parent.iterdir()) == before


@pytest.mark.parametrize(("others", "grid"), [(0, (3, 1)), (1, (2, 2)), (2, (3, 2)), (5, (4, 2)), (6, (3, 3))])
def test_panels_are_laid_out_in_a_balanced_grid(command, argv, image_file, tmp_path, others, grid):
    write_png(tmp_path / "theirs/cup.png", read_rgb(image_file))
    compare = [word for number in range(others) for word in ("--compare", f"{number}={tmp_path / 'theirs'}")]
    assert command(*argv, *compare).code == 0
    width, height = Image.open(tmp_path / "out/figure.png").size
    assert (width // (96 + GAP), height // (96 + 2 * TEXT)) == grid


@pytest.mark.parametrize("layout", [".", "x2", "x2/SR", "SR", "bsd100", "B100/x2/SR", "results-B100/X2", "BSDS100/SR"])
def test_the_folders_of_others_may_have_levels_for_set_and_scale(command, argv, image_file, tmp_path, layout, captions):
    image = argv[argv.index("--image") + 1] = tmp_path / "data/B100/HR/cup.png"
    write_png(image, hr := read_rgb(image_file))
    for folder in (layout, "Set5/x2"):
        write_png(tmp_path / "theirs" / folder / "cup_SR.png", hr if folder == layout else hr // 2)
    assert command(*argv, "--compare", f"Theirs={tmp_path / 'theirs'}").code == 0
    assert captions[-1] == "Theirs (inf/1.0000)"


def test_an_image_outside_a_folder_of_its_set_is_told_where_the_others_are(expect_error, argv, image_file, tmp_path):
    write_png(tmp_path / "theirs/B100/x2/SR/cup_SR.png", read_rgb(image_file))
    line = expect_error("theirs has neither cup.png", *argv, "--compare", f"Theirs={tmp_path / 'theirs'}")
    assert f"SET is the name of a folder around {image_file}: {tmp_path.name}, " in line
    assert line.endswith(f"; {tmp_path}/theirs/B100/x2/SR has one: name that folder if the image is of B100")


@pytest.mark.parametrize("linked", [False, True])
def test_what_tcw_sample_wrote_is_compared_as_it_is(
    command, argv, checkpoint, image_folder, tmp_path, captions, linked
):
    if linked:
        (tmp_path / "Set5").symlink_to(image_folder)
    folder = tmp_path / "Set5" if linked else image_folder
    where = ["--test_data_dir", folder, "--scale", 2, "--ckpt_path", checkpoint, "--sample_dir", tmp_path / "out"]
    assert command("tcw_sample.py", *where).code == 0
    argv[argv.index("--image") + 1] = folder / "0000.png"
    assert command(*argv, "--compare", f"Again={tmp_path / 'out/net'}").code == 0
    assert captions[-1].replace("Again", "CFSRCNN") == captions[-2]


def test_a_folder_without_the_image_is_told_from_one_without_images(expect_error, argv, tmp_path):
    folder, start = tmp_path / "theirs", "theirs has neither cup.png nor cupx2.png nor cup_ANYTHING.png: it holds "
    folder.mkdir()
    compare = ["--compare", f"A={folder}"]
    expect_error(start + "no images, nor do SET/x2/SR, SET/x2, x2/SR, x2 and SR in it", *argv, *compare)
    Image.new("RGB", (96, 96)).save(folder / "cup.jpg")
    expect_error(start + "only JPEG images, such as cup.jpg, but SR images must be lossless", *argv, *compare)
    Image.new("RGB", (96, 96)).save(folder / "glass.png")
    (folder / "cup.jpg").unlink()
    expect_error(start + "images of other names or suffixes, such as glass.png", *argv, *compare)


def test_another_network_has_its_own_caption(command, argv, captions, tmp_path):
    save_state_dict(create_model("bsrn", 2).state_dict(), tmp_path / "bsrn.pth")
    argv += ["--model", "bsrn", "--ckpt_path", tmp_path / "bsrn.pth"]
    for flags, label in (([], "BSRN"), (["--label", "BSRN (mine)"], "BSRN (mine)")):
        captions.clear()
        assert command(*argv, *flags).code == 0
        assert [caption.rpartition(" (")[0] for caption in captions] == ["HR", "Bicubic", label]


def test_a_label_that_is_taken_is_one_line(expect_error, argv, tmp_path):
    expect_error("--label bicubic: there is a panel of this name already", *argv, "--label", "bicubic")
    expect_error("there is a row Mine already", *argv, "--label", "mine", "--compare", f"Mine={tmp_path}")
    expect_error("does not fit --model bsrn --scale 2", *argv, "--model", "bsrn")


def test_crops_alone_stand_in_one_row_of_equal_size(command, argv, captions, tmp_path):
    assert command(*argv, "--crops_only").code == 0
    assert [caption.partition(" (")[0] for caption in captions] == ["LR", "Bicubic", "CFSRCNN", "HR"]
    width, height = Image.open(tmp_path / "out/figure.png").size
    assert width > 4 * 280 and 280 < height < 400


def test_what_cannot_be_drawn_is_one_line(expect_error, argv, tmp_path):
    missing = [tmp_path / "none.png" if arg == tmp_path / "cup.png" else arg for arg in argv]
    expect_error("none.png: no such file", *missing)
    expect_error("--out . is a folder: name the figure, such as figure", *argv, "--out", ".")
    expect_error("is an x2 CFSRCNN checkpoint", *[3 if arg == 2 else arg for arg in argv])

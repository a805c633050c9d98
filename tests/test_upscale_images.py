"""`tcw_sample.py --input`: images without an HR. The output has the kind of the input, at twice the size."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import COLOR, GRAY
from PIL import Image

from dataset.imresize import imresize

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def argv(checkpoint, tmp_path):
    """`argv(input)`: the arguments that upscale an image or a folder into tmp_path/out."""
    flags = ["--model", "cfsrcnn", "--scale", 2, "--ckpt_path", checkpoint, "--device", "cpu"]
    return lambda source, out=tmp_path / "out": ["tcw_sample.py", *flags, "--input", source, "--sample_dir", out]


@pytest.fixture
def upscaled(command, argv, tmp_path):
    """`upscaled(image)`: an image by Pillow -> what the command makes of its file."""

    def run(image: Image.Image, name: str = "image.png", **options) -> Image.Image:
        image.save(tmp_path / name, **options)
        outcome = command(*argv(tmp_path / name))
        assert outcome.code == 0, outcome.err
        out = tmp_path / "out" / f"{name.partition('.')[0]}_x2.png"
        assert f"wrote {out}" in outcome.out
        return Image.open(out)

    return run


ALPHA = np.where(np.arange(14) < 6, 0, np.arange(14) * 18).astype(np.uint8) * np.ones((10, 1), np.uint8)


def test_a_color_image_becomes_one_of_twice_the_size(upscaled):
    out = upscaled(Image.fromarray(COLOR))
    assert (out.mode, out.size) == ("RGB", (28, 20))
    assert np.asarray(out).std() > 1


def test_alpha_is_kept_and_upscaled_by_bicubic(upscaled):
    plain = np.asarray(upscaled(Image.fromarray(COLOR)))
    out = upscaled(Image.fromarray(np.dstack([COLOR, ALPHA])))
    assert out.mode == "RGBA"
    assert np.array_equal(np.asarray(out)[:, :, 3], imresize(ALPHA, 2))
    assert np.array_equal(np.asarray(out)[:, :, :3], plain)


def test_gray_stays_gray(upscaled):
    out = upscaled(Image.fromarray(GRAY))
    assert (out.mode, out.size) == ("L", (28, 20))


def test_gray_with_alpha_stays_gray_with_alpha(upscaled):
    plain = np.asarray(upscaled(Image.fromarray(GRAY)))
    out = upscaled(Image.fromarray(np.dstack([GRAY, ALPHA])))
    assert out.mode == "LA"
    assert np.array_equal(np.asarray(out), np.dstack([plain, imresize(ALPHA, 2)]))


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
def test_one_color_that_is_transparent_everywhere_does_not_show_at_the_edges(upscaled, hidden):
    color = np.full_like(COLOR, (0, 200, 30))
    plain = np.asarray(upscaled(Image.fromarray(color)))
    color[ALPHA == 0] = hidden
    out = np.asarray(upscaled(Image.fromarray(np.dstack([color, ALPHA]))))
    assert np.array_equal(out[:, :, :3], plain) and np.array_equal(out[:, :, 3], imresize(ALPHA, 2))


def test_an_image_without_any_visible_pixel_keeps_its_color(upscaled):
    color = np.full_like(COLOR, (0, 200, 30))
    plain = np.asarray(upscaled(Image.fromarray(color)))
    out = np.asarray(upscaled(Image.fromarray(np.dstack([color, np.zeros_like(ALPHA)]))))
    assert np.array_equal(out[:, :, :3], plain) and not out[:, :, 3].any()


def test_one_transparent_color_becomes_alpha(upscaled):
    black_left = np.where(np.arange(14) < 7, 0, GRAY).astype(np.uint8)
    out = upscaled(Image.fromarray(black_left), transparency=0)
    assert out.mode == "LA"
    assert np.array_equal(np.asarray(out)[:, :, 1], imresize(np.where(black_left == 0, 0, 255).astype(np.uint8), 2))


@pytest.mark.parametrize(
    ("orientation", "transpose"), [(1, None), (3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)]
)
def test_the_exif_orientation_is_applied(upscaled, orientation, transpose):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(COLOR)
    out = upscaled(stored, "turned.png", exif=exif)
    upright = upscaled(stored if transpose is None else stored.transpose(transpose), "upright.png")
    assert out.size == upright.size == ((20, 28) if orientation == 6 else (28, 20))
    assert np.array_equal(np.asarray(out), np.asarray(upright))
    assert out.getexif().get(0x0112, 1) == 1


def test_a_folder_is_upscaled_file_by_file(command, argv, image_folder, tmp_path):
    outcome = command(*argv(image_folder))
    assert outcome.code == 0 and f"wrote 4 images to {tmp_path / 'out'} (" in outcome.out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"{n:04}_x2.png" for n in range(4)]
    assert all(Image.open(file).size == (144, 120) for file in (tmp_path / "out").iterdir())


def test_files_with_one_stem_do_not_overwrite_each_other(command, argv, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "a.bmp", "a.png.png", "b.png"):
        Image.fromarray(COLOR).save(folder / name)
    assert command(*argv(folder)).code == 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["a.bmp_x2.png", "a.png.png_x2.png", "a.png_x2.png", "b.png_x2.png"]


def test_an_input_is_never_overwritten(expect_error, argv, tmp_path):
    for name in ("a.png", "a_x2.png"):
        Image.fromarray(COLOR).save(tmp_path / name)
    before = (tmp_path / "a_x2.png").read_bytes()
    expect_error("a_x2.png is itself an input and would be overwritten", *argv(tmp_path, tmp_path))
    assert (tmp_path / "a_x2.png").read_bytes() == before


def test_bicubic_needs_no_checkpoint(command, tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    flags = ["--model", "bicubic", "--scale", 3, "--input", tmp_path / "a.png", "--sample_dir", tmp_path / "out"]
    assert command("tcw_sample.py", *flags).code == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a_x3.png")), imresize(COLOR, 3))


def test_a_missing_input_is_one_line(expect_error, argv, tmp_path):
    expect_error("none.jpg: no such file or folder", *argv(tmp_path / "none.jpg"))
    assert not (tmp_path / "out").exists()


def test_an_input_that_is_no_image_is_named(expect_error, argv, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    expect_error("notes.png is not a readable image", *argv(tmp_path / "notes.png"))


def test_a_folder_without_images_is_named(expect_error, argv, tmp_path):
    (tmp_path / "in").mkdir()
    expect_error("holds no images", *argv(tmp_path / "in"))


def test_a_sample_dir_that_is_a_file_is_one_line(expect_error, argv, image_folder, tmp_path):
    (tmp_path / "out").write_text("mine")
    expect_error("is a file, but a folder is needed there", *argv(image_folder))
    assert (tmp_path / "out").read_text() == "mine"

"""Any image file becomes 8-bit RGB, or one error that names it; a PNG is written whole or not at all."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from dataset.image_writer import write_png
from dataset.images import conversion_summary, from_pil, list_images, read_image, read_rgb

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (6, 9, 3), np.uint8)
GRAY = RGB[:, :, 0].copy()
WIDE = RANDOM.integers(0, 65536, (6, 9, 3), np.uint16)
EXIF_TRANSFORMS = {  # what the stored pixels need to stand upright
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def rounded(wide: np.ndarray) -> np.ndarray:
    """65535 -> 255."""
    return np.floor(wide / 257 + 0.5).astype(np.uint8)


def three(gray: np.ndarray) -> np.ndarray:
    return np.dstack([gray] * 3)


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png(width: int, height: int, depth: int, color: int, rows: list[bytes], before=(), after=()) -> bytes:
    """A PNG file byte by byte, for what no library writes; no `rows`: a header without pixels.

    `before`, `after`: further chunks (name, data) before and after the pixels.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", pixels), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def rows_of(wide: np.ndarray) -> list[bytes]:
    return [row.astype(">u2").tobytes() for row in wide]


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm"])
def test_8_bit_rgb_is_read_as_it_is(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    Image.fromarray(RGB).save(file)
    decoded = read_image(file)
    assert np.array_equal(decoded.rgb, RGB) and decoded.rgb.dtype == np.uint8
    assert decoded.alpha is None and not decoded.gray and decoded.converted is None
    assert np.array_equal(read_rgb(file), RGB)


def test_grayscale_becomes_three_equal_channels(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    decoded = read_image(tmp_path / "a.png")
    assert np.array_equal(decoded.rgb, three(GRAY))
    assert decoded.gray and decoded.converted == "grayscale"


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(GRAY > 127).save(tmp_path / "a.png")
    decoded = read_image(tmp_path / "a.png")
    assert np.array_equal(decoded.rgb, three(np.where(GRAY > 127, 255, 0)))
    assert decoded.gray and decoded.converted == "black-and-white"


def test_alpha_is_kept_apart_and_the_colors_under_it_too(tmp_path):
    Image.fromarray(np.dstack([RGB, GRAY])).save(tmp_path / "a.png")
    decoded = read_image(tmp_path / "a.png")
    assert np.array_equal(decoded.rgb, RGB) and np.array_equal(decoded.alpha, GRAY)
    assert not decoded.gray and decoded.converted == "alpha"


def test_gray_with_alpha_stays_gray(tmp_path):
    Image.fromarray(np.dstack([GRAY, RGB[:, :, 1]])).save(tmp_path / "a.png")
    decoded = read_image(tmp_path / "a.png")
    assert np.array_equal(decoded.rgb, three(GRAY)) and np.array_equal(decoded.alpha, RGB[:, :, 1])
    assert decoded.gray and decoded.converted == "alpha"


def test_the_a_of_lab_is_no_alpha(tmp_path):
    Image.new("LAB", (9, 6), (128, 200, 60)).save(tmp_path / "a.tif")
    decoded = read_image(tmp_path / "a.tif")
    assert decoded.alpha is None and decoded.rgb.shape == (6, 9, 3) and decoded.converted == "LAB"


@pytest.mark.parametrize(("mode", "gray"), [("La", True), ("RGBa", False)])
def test_alpha_that_is_multiplied_into_the_colors_is_kept(mode, gray):
    alpha = np.maximum(GRAY, 1)
    shown = Image.fromarray(np.dstack([GRAY, alpha] if gray else [RGB, alpha]))
    decoded = from_pil(shown.convert(mode))
    assert np.array_equal(decoded.alpha, alpha) and decoded.gray == gray
    assert np.array_equal(decoded.rgb, np.asarray(shown.convert(mode).convert(shown.mode).convert("RGB")))


def palette_image() -> tuple[Image.Image, np.ndarray]:
    """An image of four palette entries and its colors."""
    colors = np.array([[255, 0, 0], [0, 200, 10], [7, 8, 9], [250, 251, 252]], np.uint8)
    index = RANDOM.integers(0, 4, (6, 9), np.uint8)
    index[0, :4] = range(4)
    image = Image.fromarray(index, "L")
    image.putpalette(colors.tobytes())
    return image, colors[index]


def test_a_palette_becomes_its_colors(tmp_path):
    image, colors = palette_image()
    image.save(tmp_path / "a.png")
    decoded = read_image(tmp_path / "a.png")
    assert np.array_equal(decoded.rgb, colors)
    assert decoded.alpha is None and decoded.converted == "palette"


def test_a_palette_with_a_transparent_color_gives_alpha(tmp_path):
    image, colors = palette_image()
    image.save(tmp_path / "a.png", transparency=2)
    decoded = read_image(tmp_path / "a.png")
    assert np.array_equal(decoded.rgb, colors)
    assert np.array_equal(decoded.alpha, np.where((colors == [7, 8, 9]).all(2), 0, 255))
    assert decoded.converted == "palette"


def test_cmyk_becomes_rgb(tmp_path):
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.tif")
    decoded = read_image(tmp_path / "a.tif")
    assert np.array_equal(decoded.rgb, RGB) and decoded.converted == "CMYK"


@pytest.mark.parametrize("orientation", EXIF_TRANSFORMS)
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif_with(orientation))
    assert np.array_equal(read_rgb(tmp_path / "a.png"), EXIF_TRANSFORMS[orientation](RGB))


def test_the_exif_orientation_is_applied_to_alpha_too(tmp_path):
    Image.fromarray(np.dstack([RGB, GRAY])).save(tmp_path / "a.png", exif=exif_with(6))
    assert np.array_equal(read_image(tmp_path / "a.png").alpha, EXIF_TRANSFORMS[6](GRAY))


def test_conversions_are_told_in_one_line(tmp_path):
    for name in ("a", "b", "c", "d"):
        Image.fromarray(GRAY).save(tmp_path / f"{name}.png")
    Image.fromarray(RGB).save(tmp_path / "e.png")
    palette_image()[0].save(tmp_path / "f.png")
    note = conversion_summary((file.name, read_image(file)) for file in list_images(tmp_path))
    assert note == "converted to 8-bit RGB: 4 grayscale, 1 palette (a.png, b.png, c.png, ...)"


def test_nothing_is_told_where_nothing_was_converted():
    assert conversion_summary([]) is None


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_cut_off_is_named(tmp_path, ending, share):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    Image.fromarray(np.tile(RGB, (8, 8, 1))).save(whole)
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(InputError, match=rf"cut\.{ending} is not a readable image"):
        read_image(cut)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "words.png").write_text("not an image")
    with pytest.raises(InputError, match=r"words\.png is not a readable image"):
        read_image(tmp_path / "words.png")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"a\.png is not a readable image \(it is empty\)"):
        read_image(tmp_path / "a.png")


def test_32_bit_pixels_are_refused(tmp_path):
    Image.fromarray(RGB[:, :, 0].astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif has 32-bit pixels"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("depth", [8, 16])
def test_a_header_of_30000x30000_pixels_is_refused_before_decoding(tmp_path, depth, monkeypatch):
    def decode(*_):
        raise AssertionError("memory is taken")

    (tmp_path / "a.png").write_bytes(png(30000, 30000, depth, 2, []))
    monkeypatch.setattr(Image.core, "new", decode)
    monkeypatch.setattr(cv2, "imdecode", decode)
    with pytest.raises(InputError, match=r"a\.png says it is 30000x30000: more than 256 megapixels are refused"):
        read_image(tmp_path / "a.png")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_images_are_listed_in_file_name_order_without_hidden_and_other_files(tmp_path):
    for name in ("b.PNG", "a.jpg", "10.tif", "9.webp", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in list_images(tmp_path)] == ["10.tif", "9.webp", "a.jpg", "b.PNG"]


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        list_images(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="gone is not a folder"):
        list_images(tmp_path / "gone")


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [GRAY, RGB, np.dstack([RGB, GRAY])], ids=["gray", "rgb", "alpha"])
def test_what_is_written_is_read_back(tmp_path, image):
    write_png(tmp_path / "new" / "a.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), image)


@pytest.fixture(params=[OSError("No space left on device"), KeyboardInterrupt()], ids=["disk full", "Ctrl-C"])
def failing_save(request, monkeypatch):
    """Saving an image writes some bytes and then fails with this exception."""

    def save(_image, file, **_options):
        file.write_bytes(b"half an image")
        raise request.param

    monkeypatch.setattr(Image.Image, "save", save)
    return type(request.param)


def test_a_failed_write_leaves_nothing(tmp_path, failing_save):
    with pytest.raises(failing_save):
        write_png(tmp_path / "a.png", RGB)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_as_it_was(tmp_path, failing_save):
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(failing_save):
        write_png(tmp_path / "a.png", RGB)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]

"""Files of 16 bits and floats are read at their depth, or rounded to 8 bits, or one error names them."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from test_images import EXIF_TRANSFORMS, GRAY, RANDOM, RGB, WIDE, exif_with, png, rounded, rows_of, three

from common.errors import InputError
from dataset.images import count_pixels, read_frames, read_image, read_rgb

EVERY_16_BIT_VALUE = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_gray_is_rounded_to_8_bit(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    cv2.imwrite(str(file), EVERY_16_BIT_VALUE)
    decoded = read_image(file)
    assert np.array_equal(decoded.rgb, three(rounded(EVERY_16_BIT_VALUE)))
    assert decoded.gray and decoded.converted == "16-bit"


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_rgb_is_rounded_to_8_bit(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    cv2.imwrite(str(file), WIDE[:, :, ::-1])
    decoded = read_image(file)
    assert np.array_equal(decoded.rgb, rounded(WIDE))
    assert not decoded.gray and decoded.alpha is None and decoded.converted == "16-bit"


@pytest.mark.parametrize("white", [65535, 1023, 256])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_ppm_of_more_than_8_bits_fills_16(tmp_path, kind, white):
    gray = kind in ("P2", "P5")
    values = (WIDE[:, :, 0] if gray else WIDE).astype(int) % (white + 1)
    plain = " ".join(map(str, values.ravel())).encode() + b"\n"
    body = plain if kind in ("P2", "P3") else values.astype(">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(f"{kind}\n9 6\n{white}\n".encode() + body)
    (frame,) = read_frames(tmp_path / "a.ppm").frames
    expected = np.floor(values * (65535 / white) + 0.5).astype(np.uint16)
    assert frame.gray == gray and np.array_equal(frame.rgb, three(expected) if gray else expected)
    assert frame.rgb.dtype == np.uint16


def test_pfm_holds_floats(tmp_path):
    values = RANDOM.random((6, 9), np.float32)
    (tmp_path / "a.ppm").write_bytes(b"Pf\n9 6\n-1.0\n" + values[::-1].astype("<f4").tobytes())
    assert np.array_equal(read_frames(tmp_path / "a.ppm").frames[0].rgb, three(values))


def test_16_bit_rgb_keeps_its_alpha(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([WIDE[:, :, ::-1], WIDE[:, :, 0]]))
    decoded = read_image(tmp_path / "a.png")
    assert np.array_equal(decoded.rgb, rounded(WIDE)) and np.array_equal(decoded.alpha, rounded(WIDE[:, :, 0]))


def test_16_bit_gray_with_alpha_stays_gray(tmp_path):
    (tmp_path / "a.png").write_bytes(png(9, 6, 16, 4, rows_of(WIDE[:, :, :2])))
    decoded = read_image(tmp_path / "a.png")
    assert np.array_equal(decoded.rgb, three(rounded(WIDE[:, :, 0])))
    assert np.array_equal(decoded.alpha, rounded(WIDE[:, :, 1]))
    assert decoded.gray and decoded.converted == "16-bit"


@pytest.mark.parametrize("color", [0, 2])
def test_a_transparent_color_of_16_bits_gives_alpha(tmp_path, color):
    pixels = WIDE[:, :, 0] if color == 0 else WIDE
    transparent = pixels[1, 2, ...]
    rows = png(9, 6, 16, color, rows_of(pixels), [(b"tRNS", transparent.astype(">u2").tobytes())])
    (tmp_path / "a.png").write_bytes(rows)
    (frame,) = read_frames(tmp_path / "a.png").frames
    shown = (pixels.reshape(6, 9, -1) != transparent).any(2)
    assert np.array_equal(frame.alpha, np.where(shown, 65535, 0)) and frame.alpha.dtype == np.uint16
    assert np.array_equal(frame.rgb, pixels if color else three(pixels))


def test_of_a_16_bit_animation_the_first_frame_is_read_and_that_is_reported(tmp_path):
    rows = rows_of(WIDE[:, :, 0])
    control = struct.pack(">IIIIHHBB", 9, 6, 0, 0, 1, 10, 0, 0)
    second = struct.pack(">I", 2) + zlib.compress(b"".join(b"\0" + row for row in rows[::-1]))
    before = [(b"acTL", struct.pack(">II", 2, 0)), (b"fcTL", struct.pack(">I", 0) + control)]
    after = [(b"fcTL", struct.pack(">I", 1) + control), (b"fdAT", second)]
    (tmp_path / "a.png").write_bytes(png(9, 6, 16, 0, rows, before, after))
    (frame,) = read_frames(tmp_path / "a.png").frames
    assert np.array_equal(frame.rgb, three(WIDE[:, :, 0])) and frame.dropped == "1 further frame"
    assert read_image(tmp_path / "a.png").converted == "16-bit without its 1 further frame"


# --- TIFF -------------------------------------------------------------------------------------------------------------

GRAY_ALPHA = {"photometric": "minisblack", "planarconfig": "contig"}


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_tiff_of_16_bit_gray_with_alpha_stays_so(tmp_path, planar, compression, orientation):
    pixels = WIDE[:, :, :2]
    layout = {"photometric": "minisblack", "planarconfig": planar, "extrasamples": ["unassalpha"]}
    stored = pixels if planar == "contig" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, **layout, compression=compression, extratags=tags)
    (frame,) = read_frames(tmp_path / "a.tif").frames
    upright = EXIF_TRANSFORMS[orientation](pixels)
    assert frame.gray and np.array_equal(frame.rgb, three(upright[:, :, 0]))
    assert np.array_equal(frame.alpha, upright[:, :, 1])
    assert np.array_equal(read_image(tmp_path / "a.tif").rgb, three(rounded(upright[:, :, 0])))


def test_a_tiff_of_float_gray_with_alpha_stays_so(tmp_path):
    pixels = RANDOM.random((6, 9, 2), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **GRAY_ALPHA, extrasamples=["unassalpha"])
    (frame,) = read_frames(tmp_path / "a.tif").frames
    assert np.array_equal(frame.rgb, three(pixels[:, :, 0])) and np.array_equal(frame.alpha, pixels[:, :, 1])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_tiff_of_16_bit_gray_with_alpha_cut_off_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", WIDE[:, :, :2], **GRAY_ALPHA, extrasamples=["unassalpha"])
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.tif is not a readable image \(it ends too early\)"):
        read_frames(tmp_path / "a.tif")


def test_a_chunk_that_says_it_has_gigabytes_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    def decode(*_):
        raise AssertionError("memory is taken")

    data = bytearray(png(9, 6, 16, 0, rows_of(WIDE[:, :, 0])))
    data[data.index(b"IDAT") - 4] = 163
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", decode)
    with pytest.raises(InputError, match=r"a\.png is not a readable image \(it ends too early\)"):
        read_frames(tmp_path / "a.png")


def test_a_strip_that_unpacks_to_more_than_the_page_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    def decode(*_):
        raise AssertionError("memory is taken")

    bomb = zlib.compress(bytes(10_000_000), 9)
    layout = {**GRAY_ALPHA, "extrasamples": ["unassalpha"], "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", iter([bomb]), shape=(6, 9, 2), dtype=np.uint16, rowsperstrip=6, **layout)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", decode)
    with pytest.raises(InputError, match=r"a\.tif is not a readable image \(it unpacks to more than its size\)"):
        read_frames(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(5, 6, 9), (2, 3, 6, 9)], ids=["channels", "depth"])
def test_planes_without_end_are_refused(tmp_path, shape):
    options = {
        "planarconfig": "separate",
        "extrasamples": ["unspecified"] * (shape[0] - 1),
        "volumetric": len(shape) > 3,
    }
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint16), photometric="minisblack", **options)
    with pytest.raises(InputError, match=r"a\.tif is not a readable image of 16 bits"):
        read_frames(tmp_path / "a.tif")


@pytest.mark.parametrize(("channels", "what"), [(2, "gray and alpha"), (3, "separate planes")])
def test_what_is_decoded_of_few_compressions_is_refused_in_others(tmp_path, channels, what):
    kind = "rgb" if channels == 3 else "minisblack"
    planes = np.ascontiguousarray(WIDE.transpose(2, 0, 1)[:channels])
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric=kind, planarconfig="separate")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags[259].overwrite(5)
    with pytest.raises(InputError, match=f"a.tif has {what} compressed by LZW: save it with deflate, or as PNG"):
        read_frames(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_colors_that_alpha_is_multiplied_into_are_divided_by_it(tmp_path, dtype):
    top = 65535 if dtype == np.uint16 else 1
    rgba = np.dstack([WIDE, WIDE[:, :, 0]]).astype(np.float64) / 65535
    rgba[0, 0, 3] = 0
    stored = np.dstack([rgba[:, :, :3] * rgba[:, :, 3:], rgba[:, :, 3:]]) * top
    stored = (stored.round() if dtype == np.uint16 else stored).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    (frame,) = read_frames(tmp_path / "a.tif").frames
    assert np.array_equal(frame.alpha, stored[:, :, 3]) and frame.rgb.dtype == dtype
    clear = rgba[:, :, 3] > 0.02
    assert abs(frame.rgb[clear] / top - rgba[clear][:, :3]).max() < 1e-3 and not frame.rgb[0, 0].any()


def test_16_bits_where_0_is_white(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", WIDE[:, :, 0], photometric="miniswhite")
    assert np.array_equal(read_frames(tmp_path / "a.tif").frames[0].rgb, three(65535 - WIDE[:, :, 0]))


def test_16_bits_in_separate_planes(tmp_path):
    planes = np.ascontiguousarray(WIDE.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_frames(tmp_path / "a.tif").frames[0].rgb, WIDE)


def write_mixed_pages(path, first: int = 0) -> list[np.ndarray]:
    """Pages of several kinds, from number `first` on; returns them, the last one with its colors."""
    pages = [RGB, GRAY[:4], WIDE[:5], WIDE[:, :4, 0]]
    with tifffile.TiffWriter(path) as file:
        for page in pages[first:]:
            file.write(page, contiguous=False, photometric="rgb" if page.ndim == 3 else "minisblack")
    return pages[first:]


@pytest.mark.parametrize("first", range(4))
def test_pages_keep_the_depth_that_each_has(tmp_path, first):
    pages = write_mixed_pages(tmp_path / "a.tif", first)
    frames = read_frames(tmp_path / "a.tif").frames
    assert [frame.gray for frame in frames] == [page.ndim == 2 for page in pages]
    for frame, page in zip(frames, pages, strict=True):
        assert frame.rgb.dtype == page.dtype and np.array_equal(frame.rgb, page if page.ndim == 3 else three(page))


def test_the_pixels_of_all_frames_and_pages_are_counted(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert count_pixels(tmp_path / "a.png") == 54
    frames = [Image.fromarray(np.roll(RGB, number, 0)) for number in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert count_pixels(tmp_path / "a.webp") == 3 * 54
    for first in range(4):
        pages = write_mixed_pages(tmp_path / "a.tif", first)
        assert count_pixels(tmp_path / "a.tif") == sum(page.shape[0] * page.shape[1] for page in pages)
    tifffile.imwrite(tmp_path / "float.tif", RGB.astype(np.float32), photometric="rgb")  # no mode of Pillow's
    assert count_pixels(tmp_path / "float.tif") == 54
    with pytest.raises(InputError, match="is not a readable image"):
        count_pixels(__file__)
    (tmp_path / "many.png").write_bytes(png(15000, 15000, 8, 2, []))  # Pillow's own limit is lower
    assert count_pixels(tmp_path / "many.png") == 225_000_000


# --- orientation, damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", EXIF_TRANSFORMS)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_the_exif_orientation_of_a_16_bit_image_is_applied_once(tmp_path, ending, orientation):
    gray = WIDE[:, :, 0].copy()
    Image.fromarray(gray).save(tmp_path / f"a.{ending}", exif=exif_with(orientation))
    assert np.array_equal(read_rgb(tmp_path / f"a.{ending}"), EXIF_TRANSFORMS[orientation](three(rounded(gray))))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_16_bit_file_cut_off_is_named_and_no_decoder_adds_lines_of_its_own(tmp_path, ending, capfd):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    cv2.imwrite(str(whole), np.tile(WIDE[:, :, 0], (8, 8)))
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"cut\.{ending} is not a readable"):
        read_image(cut)
    assert capfd.readouterr().err == ""

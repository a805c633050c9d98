"""`tcw_sample.py --input`: depth, format, metadata, frames, size and folders of the files that are written."""

from __future__ import annotations

import io
import struct
import threading
import warnings

import cv2
import numpy as np
import pytest
import tifffile
from conftest import COLOR, GRAY
from PIL import Image, ImageCms

from dataset.images import read_frames, read_image
from dataset.imresize import imresize, resize

DEEP = np.random.default_rng(0).integers(0, 65536, (10, 14, 4), np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" tiff:ImageWidth="14"/></x:xmpmeta>'


@pytest.fixture
def upscaled(command, tmp_path):
    """`upscaled(file, *flags)`: the output of bicubic interpolation, which has the files of a network."""

    def run(file, *flags, scale=2):
        how = ["--model", "bicubic", "--scale", scale, "--sample_dir", tmp_path / "out", *flags]
        outcome = command("tcw_sample.py", *how, "--input", file)
        assert outcome.code == 0, outcome.err
        run.out = outcome.out
        (made,) = (tmp_path / "out").glob(f"{file.stem}_x{scale}.*")
        return made

    return run


def as_bytes(text: str | bytes) -> bytes:
    """What an image library read, whichever way it did."""
    return text.encode("latin-1") if isinstance(text, str) else text


# --- depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_in_16_bits_out(upscaled, tmp_path, ending, channels):
    pixels = DEEP[:, :, 0] if channels == 1 else DEEP[:, :, :channels]
    order = [2, 1, 0, 3][:channels]
    cv2.imwrite(str(tmp_path / f"a.{ending}"), pixels if channels == 1 else pixels[:, :, order])
    made = cv2.imread(str(upscaled(tmp_path / f"a.{ending}")), cv2.IMREAD_UNCHANGED)
    expected = resize(pixels, 20, 28)
    assert made.dtype == np.uint16 and np.array_equal(made, expected if channels == 1 else expected[:, :, order])


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_gray_with_alpha_stays_so(upscaled, tmp_path, ending):
    from test_images import png

    (tmp_path / "a.png").write_bytes(png(14, 10, 16, 4, [row.astype(">u2").tobytes() for row in DEEP[:, :, :2]]))
    layout = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", DEEP[:, :, :2], **layout)
    frame = read_frames(upscaled(tmp_path / f"a.{ending}")).frames[0]
    assert frame.gray and np.array_equal(frame.rgb[:, :, 0], resize(DEEP[:, :, 0], 20, 28))
    assert np.array_equal(frame.alpha, resize(DEEP[:, :, 1], 20, 28))


def test_16_bits_by_a_network_are_its_float_output_rounded(command, checkpoint, tmp_path):
    from inference.upscaler import NetworkUpscaler
    from model.checkpoint import load_model

    cv2.imwrite(str(tmp_path / "a.png"), DEEP[:, :, 2::-1])
    flags = ["--scale", 2, "--ckpt_path", checkpoint, "--device", "cpu", "--tile", 16, "--sample_dir", tmp_path]
    assert command("tcw_sample.py", *flags, "--precision", "bf16", "--input", tmp_path / "a.png").code == 0
    expected = NetworkUpscaler(load_model(checkpoint), 2).to_float(DEEP[:, :, :3]).clip(0, 1) * np.float32(65535)
    made = cv2.imread(str(tmp_path / "a_x2.png"), cv2.IMREAD_UNCHANGED)[:, :, ::-1]
    assert np.abs(made - np.round(expected)).max() <= 1  # tiles sum in another order


@pytest.mark.parametrize("shape", [(10, 14), (10, 14, 3)])
def test_float_tiff_stays_float(upscaled, tmp_path, shape):
    pixels = np.random.default_rng(1).random(shape, np.float32)
    profile = [(34675, 7, len(SRGB), SRGB, True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, extratags=profile, photometric="rgb" if len(shape) > 2 else None)
    made = upscaled(tmp_path / "a.tif")
    assert np.array_equal(tifffile.imread(made), resize(pixels, 20, 28))
    with tifffile.TiffFile(made) as file:
        assert file.pages[0].tags[34675].value == SRGB


@pytest.mark.parametrize("most", [255, 1.0000001])
def test_floats_outside_0_to_1_are_refused(expect_error, tmp_path, most):
    tifffile.imwrite(tmp_path / "a.tif", np.linspace(0, most, 20, dtype=np.float32).reshape(4, 5))
    flags = ["--model", "bicubic", "--sample_dir", tmp_path / "out", "--input", tmp_path / "a.tif"]
    expect_error(f"values from 0.0 to {np.float32(most)}: floats must be in [0, 1]", "tcw_sample.py", *flags)


def test_what_a_format_cannot_hold_is_reported(upscaled, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), DEEP)
    made = upscaled(tmp_path / "a.png", "--format", "jpg")
    assert Image.open(made).mode == "RGB"
    assert "1 image: jpg holds 8 bits per channel" in upscaled.out and "jpg has no alpha" in upscaled.out


@pytest.mark.parametrize("wide", [False, True])
def test_near_infrared_is_left_out_and_that_is_reported(upscaled, tmp_path, wide):
    pixels = np.dstack([COLOR, GRAY]) * (np.uint16(257) if wide else np.uint8(1))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(tifffile.imread(upscaled(tmp_path / "a.tif")), resize(pixels[:, :, :3], 20, 28))
    assert "1 image: 1 extra band left out" in upscaled.out
    assert "without its 1 extra band" in read_image(tmp_path / "a.tif").converted


# --- formats and metadata -----------------------------------------------------------------------------------------------


def with_metadata(file, image=None):
    """Saves an image that lies on its side, with everything."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif[0x8769] = {0xA002: 14, 0xA003: 10, 0x9003: "2020:01:01 00:00:00"}
    options = {"exif": exif.tobytes(), "icc_profile": SRGB, "dpi": (300, 300), "xmp": XMP}
    (image or Image.fromarray(COLOR)).save(file, **options, quality=95)
    return file


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_metadata_is_kept_and_fits_the_new_image(upscaled, tmp_path, ending):
    made = upscaled(with_metadata(tmp_path / "a.jpg"), "--format", ending)
    image = Image.open(made)
    exif = image.getexif()
    assert image.size == (20, 28) and exif.get(0x0112, 1) == 1 and exif[0x010F] == "Camera"
    details = exif.get_ifd(0x8769)
    assert (details[0xA002], details[0xA003], details[0x9003]) == (20, 28, "2020:01:01 00:00:00")
    assert image.info["icc_profile"] == SRGB
    xmp = read_frames(made).metadata.xmp
    assert b'Orientation="1"' in xmp and b'ImageWidth="20"' in xmp
    if ending != "webp":  # which has no resolution
        assert np.allclose(image.info["dpi"], 300, atol=0.1)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_strip_metadata_leaves_all_of_it_out(upscaled, tmp_path, ending):
    found = read_frames(upscaled(with_metadata(tmp_path / "a.jpg"), "--format", ending, "--strip_metadata")).metadata
    assert found.icc is found.xmp is found.dpi is None and not (found.exif and 0x010F in found.exif)


def test_tiff_with_exif_of_the_first_level_is_compressed(upscaled, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    Image.fromarray(COLOR).save(tmp_path / "a.png", exif=exif)
    with tifffile.TiffFile(upscaled(tmp_path / "a.png", "--format", "tif")) as file:
        assert file.pages[0].compression == 8 and file.pages[0].tags[0x010F].value == "Camera"
        assert 0x8769 not in file.pages[0].tags


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_text_in_utf_8_is_kept(upscaled, tmp_path, ending, deep):
    artist, comment = "José, 東京".encode(), "Ärger".encode()
    exif = Image.Exif()
    exif[0x013B] = artist
    exif[0x8769] = {0x9286: b"ASCII\0\0\0plain", 0xA430: comment}
    pixels = DEEP[:, :, 0].copy() if deep else COLOR
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif.tobytes())
    found = Image.open(upscaled(tmp_path / "a.png", "--format", ending)).getexif()
    assert as_bytes(found[0x013B]) == artist
    if not (deep and ending == "tif"):  # which keeps the main fields only
        details = found.get_ifd(0x8769)
        assert details[0x9286] == b"ASCII\0\0\0plain" and as_bytes(details[0xA430]) == comment


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_files_keep_metadata_too(upscaled, tmp_path, ending):
    file = with_metadata(tmp_path / "a.png", Image.fromarray(DEEP[:, :, 0].copy()))
    image = Image.open(upscaled(file, "--format", ending))
    assert image.size == (20, 28) and image.mode == "I;16" and image.info["icc_profile"] == SRGB
    assert np.allclose(image.info["dpi"], 300, atol=0.1) and image.getexif()[0x010F] == "Camera"


def cmyk_profile() -> bytes:
    """An ICC profile of a press whose cyan ink is red: the 16 mixtures of full inks and their colors, in Lab."""
    paper, black, red = (255, 128, 128), (0, 128, 128), (138, 209, 198)  # L * 2.55, a + 128, b + 128
    corners = [black if k else red if c else paper for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    ramp = bytes(range(256))
    unit = struct.pack(">9i", *(65536 * each for each in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + ramp * 4 + bytes(sum(corners, ())) + ramp * 3
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50
    tags = {b"A2B0": table, b"wtpt": b"XYZ " + bytes(4) + white, b"cprt": b"text" + bytes(4) + b"none\0"}
    index, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        index += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + white + bytes(48)
    return head + index + body


@pytest.mark.parametrize("ending", ["tif", "jpg"])
def test_cmyk_is_converted_by_its_profile(upscaled, tmp_path, ending):
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32, 0], inks[:, 32:, 3] = 255, 255
    Image.fromarray(inks, "CMYK").save(tmp_path / f"a.{ending}", icc_profile=cmyk_profile())
    made = Image.open(upscaled(tmp_path / f"a.{ending}"))
    assert made.mode == "RGB" and "icc_profile" not in made.info
    assert "1 image: CMYK converted to sRGB by its profile" in upscaled.out
    for column, color in ((16, (255, 255, 255)), (48, (255, 0, 0)), (80, (0, 0, 0))):
        assert abs(np.asarray(made)[16, column].astype(int) - color).max() <= 5


def test_cmyk_with_a_damaged_profile_is_converted_without(upscaled, tmp_path):
    Image.fromarray(COLOR).convert("CMYK").save(tmp_path / "a.tif", icc_profile=cmyk_profile()[:200])
    made = Image.open(upscaled(tmp_path / "a.tif"))
    assert np.array_equal(np.asarray(made), imresize(COLOR, 2)) and "icc_profile" not in made.info
    assert "1 image: CMYK converted to sRGB\n" in upscaled.out


def test_lossy_formats_have_a_quality(upscaled, tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    sizes = [upscaled(tmp_path / "a.png", "--format", "jpg", "--quality", each).stat().st_size for each in (10, 95)]
    assert sizes[0] < sizes[1]


def test_webp_is_lossless_by_default(upscaled, tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "a.webp", lossless=True)
    made = upscaled(tmp_path / "a.webp")
    assert made.suffix == ".webp" and np.array_equal(np.asarray(Image.open(made)), imresize(COLOR, 2))


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        (["--format", "png", "--quality", "9"], "only --format jpg and webp have a quality: leave out --quality"),
        (["--quality", "101", "--format", "jpg"], "101 is not a whole number from 1 to 100"),
        (["--resize", "0x5"], "0x5 is not a size"),
        (["--resize", "big"], "big is not a size"),
    ],
)
def test_flags_that_do_not_fit_are_refused(expect_error, tmp_path, flags, phrase):
    expect_error(phrase, "tcw_sample.py", "--model", "bicubic", "--input", tmp_path, *flags)


def test_flags_of_files_need_an_input(expect_error):
    expect_error("only --input takes them: leave out --recursive", "tcw_sample.py", "--model", "bicubic", "--recursive")


# --- frames -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "ending"), [("gif", "png"), ("png", "png"), ("webp", "webp"), ("gif", "webp")])
def test_all_frames_of_an_animation_with_their_timing(upscaled, tmp_path, source, ending):
    frames = [Image.fromarray(COLOR + np.uint8(40 * number)) for number in range(3)]
    times = {"duration": [100, 200, 300], "loop": 0}
    frames[0].save(tmp_path / f"a.{source}", save_all=True, append_images=frames[1:], lossless=True, **times)
    made = read_frames(upscaled(tmp_path / f"a.{source}", *(["--format", ending] if source != ending else [])))
    given = read_frames(tmp_path / f"a.{source}")
    assert made.animated and made.loop == 0 and [frame.duration for frame in made.frames] == [100, 200, 300]
    for out, frame in zip(made.frames, given.frames, strict=True):
        assert np.array_equal(out.rgb, imresize(frame.rgb, 2))


@pytest.mark.parametrize("deep", [False, True])
def test_all_pages_of_a_tiff(upscaled, tmp_path, deep):
    pages = [DEEP[:, :, 0], DEEP[:8, :, 1]] if deep else [COLOR, COLOR[:8]]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, contiguous=False)
    with tifffile.TiffFile(upscaled(tmp_path / "a.tif")) as file:
        assert len(file.pages) == 2
        for page, given in zip(file.pages, pages, strict=True):
            assert np.array_equal(page.asarray(), resize(given, 2 * given.shape[0], 28))


@pytest.mark.parametrize("deep", [False, True])
def test_each_page_stays_what_it_is(upscaled, tmp_path, deep):
    pages = [COLOR, GRAY[:8]] + [DEEP[:, :, :3], DEEP[:6, :, 1]] * deep
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, contiguous=False, photometric="rgb" if page.ndim == 3 else "minisblack")
    with tifffile.TiffFile(upscaled(tmp_path / "a.tif")) as file:
        for page, given in zip(file.pages, pages, strict=True):
            assert page.dtype == given.dtype and np.array_equal(
                page.asarray(), resize(given, 2 * given.shape[0], 2 * given.shape[1])
            )


def test_previews_and_depth_maps_of_phones_are_left_out(upscaled, tmp_path):
    photo = Image.fromarray(COLOR)
    photo.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[photo], quality=95)
    made = Image.open(upscaled(tmp_path / "a.jpg"))
    assert np.array_equal(np.asarray(made), imresize(np.asarray(Image.open(tmp_path / "a.jpg")), 2))
    assert "1 image: 1 further image left out\n" in upscaled.out


def test_jpg_holds_no_animation(expect_error, tmp_path):
    frames = [Image.fromarray(COLOR + np.uint8(40 * number)) for number in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    flags = ["--model", "bicubic", "--format", "jpg", "--input", tmp_path / "a.png", "--sample_dir", tmp_path / "out"]
    expect_error("a.png: jpg does not hold 3 frames of an animation: use png or webp", "tcw_sample.py", *flags)
    assert "without its 2 further frames" in read_image(tmp_path / "a.png").converted


# --- size and folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "expected"), [("30x11", (30, 11)), ("56", (56, 40)), ("7", (7, 5))])
def test_any_size(upscaled, tmp_path, size, expected):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    made = np.asarray(Image.open(upscaled(tmp_path / "a.png", "--resize", size)))
    assert np.array_equal(made, resize(imresize(COLOR, 2), expected[1], expected[0]))


def test_reading_leaves_the_process_as_it_was(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), DEEP)
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    level = getattr(cv2, "getLogLevel", None) or cv2.utils.logging.getLogLevel
    before = Image.MAX_IMAGE_PIXELS, level(), list(warnings.filters)
    assert before[0] is not None
    threads = [threading.Thread(target=read_frames, args=(tmp_path / name,)) for name in ("deep.png", "a.png") * 4]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (Image.MAX_IMAGE_PIXELS, level(), list(warnings.filters)) == before


def test_images_above_pillows_limit_are_read(tmp_path, monkeypatch):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png").rgb.shape == (10, 14, 3)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO((tmp_path / "a.png").read_bytes()))


@pytest.mark.parametrize("how", [{}, {"imagej": True}, {"ome": True}, {"description": "a cell", "metadata": None}])
@pytest.mark.parametrize("pixels", [DEEP[:, :, 0], COLOR[:, :, 0]], ids=["16-bit", "8-bit"])
def test_what_programs_write_on_the_axes_of_a_tiff_is_left_out(upscaled, tmp_path, pixels, how):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **how)
    with warnings.catch_warnings(), tifffile.TiffFile(upscaled(tmp_path / "a.tif")) as made:
        warnings.simplefilter("error")
        assert made.asarray().shape == tuple(2 * side for side in pixels.shape)
        assert made.pages[0].description == how.get("description", "")
    assert "left out" not in upscaled.out


@pytest.mark.parametrize(
    "how",
    [
        {"imagej": True, "metadata": {"unit": "um", "spacing": 0.3}},
        {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "\u00b5m"}},
    ],
)
@pytest.mark.parametrize("pixels", [COLOR[:, :, 0], DEEP[:, :, :3].astype(np.uint16)], ids=["8-bit", "16-bit"])
def test_a_pixel_size_that_is_left_out_is_reported(upscaled, tmp_path, pixels, how):
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and "ome" in how else pixels
    tifffile.imwrite(tmp_path / "a.tif", pixels, resolution=(5, 5), **how)
    upscaled(tmp_path / "a.tif")
    assert "1 image: the pixel size of ImageJ or OME left out" in upscaled.out
    upscaled(tmp_path / "a.tif", "--strip_metadata")
    assert "left out" not in upscaled.out

"""An image file with anything in it is an image or one line that names it."""

from __future__ import annotations

import io
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from conftest import sample_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from common.errors import InputError
from dataset import images
from dataset.image_writer import Output, write_output
from dataset.images import read_frames, read_image
from tests.stress.fuzzing import bounded, cases, changed, changes

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # commands ignore them too
COLOR = sample_image("astronaut.png", 11, 13)
DEEP = COLOR.astype(np.uint16) * 257


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiffs() -> list[bytes]:
    """TIFF that no encoder of Pillow or OpenCV makes."""
    gray, color = {"photometric": "minisblack"}, {"photometric": "rgb"}
    alpha, planes = {**gray, "extrasamples": ["unassalpha"]}, np.ascontiguousarray(DEEP.transpose(2, 0, 1))
    kinds: list[tuple[list[np.ndarray], dict]] = [
        ([COLOR / np.float32(255)], color),
        ([DEEP, DEEP[:5]], color),
        ([COLOR[:, :, 0] / np.float32(255)], gray),
        ([DEEP[:, :, :2]], {**alpha, "planarconfig": "contig", "compression": "zlib"}),
        ([planes[:2]], {**alpha, "planarconfig": "separate"}),
        ([planes], {**color, "planarconfig": "separate"}),
        ([COLOR, DEEP, DEEP[:5]], {**color, "compression": "zlib"}),
    ]
    made = []
    for pages, options in kinds:
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as tiff:
            for page in pages:
                tiff.write(page, contiguous=False, **options)
        made.append(file.getvalue())
    return made


def seeds() -> list[bytes]:
    """Small files of all kinds that are read, in the forms that take other ways through the decoders."""
    rgb = Image.fromarray(COLOR)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [saved(rgb, kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")]
    made += [saved(rgb.convert(mode), "PNG", **options) for mode, options in (("L", {}), ("LA", {}), ("1", {}))]
    made += [
        saved(rgb.quantize(7), "PNG", transparency=1),
        saved(rgb.quantize(7), "BMP"),
        saved(rgb.quantize(7), "TIFF"),
    ]
    made += [saved(rgb.convert("RGBA"), kind) for kind in ("PNG", "WEBP", "TIFF")]
    made += [saved(rgb, "JPEG", exif=exif, progressive=True), saved(rgb.convert("CMYK"), "JPEG")]
    made += [saved(rgb, "WEBP", lossless=True, exif=exif), saved(rgb, "PNG", exif=exif)]
    made += [saved(rgb, "TIFF", compression=each) for each in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    made += [saved(rgb.convert("1"), "TIFF", compression="group4"), saved(rgb.convert("L"), "PPM")]
    for ending, deep in (
        (".png", DEEP),
        (".tiff", DEEP),
        (".ppm", DEEP),
        (".png", DEEP[:, :, 0]),
        (".tiff", DEEP[:, :, 0]),
    ):
        made.append(cv2.imencode(ending, np.ascontiguousarray(deep))[1].tobytes())
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - COLOR)], "duration": [100, 200]}
    made += [saved(rgb, kind, **frames) for kind in ("GIF", "PNG", "WEBP", "TIFF")]
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif.get_ifd(0x8769)[0xA002] = 13
    everything = {"exif": exif, "icc_profile": icc, "xmp": b'<r tiff:Orientation="6"/>', "dpi": (72, 72)}
    made += [saved(rgb, kind, **everything) for kind in ("JPEG", "PNG", "WEBP")]
    return [*made, *tiffs(), b"P2\n3 2\n255\n1 2 3 4 5 6\n", b"P5 3 2 65535\n" + bytes(range(12)), b"", b"\n"]


SEEDS = seeds()


def with_sums(data: bytes) -> bytes:
    """A PNG whose chunks' check sums are right again, so that what is in them is looked at."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    new, place = bytearray(data), 8
    while place + 12 <= len(new):
        length = int.from_bytes(new[place : place + 4], "big")
        end = place + 8 + length
        new[end : end + 4] = zlib.crc32(new[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(new)


@cases(400)
@given(
    seed=st.sampled_from(SEEDS), steps=changes(), other=st.sampled_from(SEEDS), ending=st.sampled_from(["png", "tif"])
)
def test_changed_files_are_images_or_refused(few_pixels, seed, steps, other, ending):
    path = few_pixels / f"fuzzed.{ending}"
    path.write_bytes(with_sums(changed(seed, steps, other)))
    with bounded("images"):
        check(path)


@cases(100)
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.sampled_from([seed[:16] for seed in SEEDS]).flatmap(
            lambda start: st.binary(max_size=200).map(lambda rest: start + rest)
        ),
    )
)
def test_bytes_from_nowhere_too(few_pixels, data):
    path = few_pixels / "fuzzed.png"
    path.write_bytes(data)
    with bounded("images from nowhere"):
        check(path)


@pytest.fixture(scope="module")
def few_pixels(tmp_path_factory):
    """A folder; an image may have 4 megapixels here, so that what is allowed cannot use up the memory."""
    allowed, images.MAX_PIXELS = images.MAX_PIXELS, 4_000_000
    yield tmp_path_factory.mktemp("images")
    images.MAX_PIXELS = allowed


def check(path) -> None:
    check_frames(path)
    try:
        decoded = read_image(path)
    except InputError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return
    assert decoded.rgb.dtype == np.uint8 and decoded.rgb.ndim == 3 and decoded.rgb.shape[2] == 3
    assert 0 < decoded.rgb.size <= 3 * images.MAX_PIXELS
    assert decoded.alpha is None or (decoded.alpha.dtype, decoded.alpha.shape) == (np.uint8, decoded.rgb.shape[:2])


def check_frames(path) -> None:
    """What is read can be written again in each format that holds it, metadata included."""
    try:
        decoded = read_frames(path)
        for frame in decoded.frames:
            assert frame.rgb.dtype in (np.uint8, np.uint16, np.float32) and frame.rgb.size <= 3 * images.MAX_PIXELS
        durations = [frame.duration for frame in decoded.frames] if decoded.animated else []
        for kind in ("png", "tif", "jpg", "webp") if decoded.frames[0].rgb.size < 10_000 else ():
            output = Output([frame.rgb for frame in decoded.frames], decoded.metadata, durations, decoded.loop)
            try:
                output.fit(kind)
            except InputError:
                continue
            write_output(path.with_name(f"out.{kind}"), output)
    except InputError as error:
        assert "\n" not in str(error)


def test_what_is_not_changed_is_read(few_pixels):
    for seed in SEEDS[:-2]:
        (few_pixels / "seed.png").write_bytes(seed)
        for frame in read_frames(few_pixels / "seed.png").frames:
            assert frame.rgb.shape[:2] in {(11, 13), (13, 11), (5, 13), (2, 3)}

"""`tcw_sample.py --input`: color description and text of PNG files, and metadata too long for JPEG."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from conftest import COLOR
from PIL import Image, ImageCms, PngImagePlugin

from dataset.png_chunks import MAX_BYTES, make_chunk, read_chunks

GAMMA = struct.pack(">I", 100_000)  # linear light
TEXT = {"parameters": "a lighthouse, Steps: 20", "Title": "Größe"}


@pytest.fixture
def upscaled(command, tmp_path):
    """`upscaled(file, *flags)`: the path of the output and what was printed."""

    def run(file, *flags):
        how = ["--model", "bicubic", "--scale", 2, "--sample_dir", tmp_path / "out", *flags]
        outcome = command("tcw_sample.py", *how, "--input", file)
        assert outcome.code == 0, outcome.err
        (made,) = (tmp_path / "out").glob(f"{file.stem}_x2.*")
        return made, outcome.out

    return run


def write_png(path, deep: bool = False, **options) -> None:
    """With gAMA and `TEXT`, of 8 or 16 bits."""
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", GAMMA)
    info.add_text("parameters", TEXT["parameters"], zip=True)
    info.add_itxt("Title", TEXT["Title"])
    Image.fromarray(COLOR).save(path, pnginfo=info, **options)
    if deep:  # 16 bits by OpenCV, with the chunks of the other put behind its header
        written = cv2.imencode(".png", COLOR.astype(np.uint16) * 257)[1].tobytes()
        added = b"".join(make_chunk(*each) for each in read_chunks(path))
        path.write_bytes(written[:33] + added + written[33:])


@pytest.mark.parametrize("deep", [False, True])
def test_color_description_and_text_are_kept(upscaled, tmp_path, deep):
    write_png(tmp_path / "a.png", deep)
    made, _ = upscaled(tmp_path / "a.png")
    image = Image.open(made)
    image.load()
    assert image.info["gamma"] == 1.0 and {key: image.info[key] for key in TEXT} == TEXT
    assert read_chunks(made) == read_chunks(tmp_path / "a.png")
    made, _ = upscaled(tmp_path / "a.png", "--strip_metadata")
    assert read_chunks(made) == ()


def test_other_formats_report_what_they_cannot_hold(upscaled, tmp_path):
    write_png(tmp_path / "a.png")
    _, printed = upscaled(tmp_path / "a.png", "--format", "webp")
    assert "webp has no room for gAMA of the PNG and the text of the PNG" in " ".join(printed.split())
    Image.fromarray(COLOR).save(tmp_path / "plain.png")
    assert "no room" not in upscaled(tmp_path / "plain.png", "--format", "webp")[1]


def test_a_profile_has_the_last_word_on_colors(upscaled, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", GAMMA)
    Image.fromarray(COLOR).save(tmp_path / "a.png", pnginfo=info, icc_profile=profile)
    made, printed = upscaled(tmp_path / "a.png", "--format", "webp")
    assert "no room" not in printed and Image.open(made).info["icc_profile"] == profile


def test_damaged_and_huge_chunks_are_left_out(upscaled, tmp_path):
    write_png(tmp_path / "a.png")
    written = (tmp_path / "a.png").read_bytes()
    wrong = make_chunk(b"tEXt", b"Author\0me")[:-4] + b"\0\0\0\0"
    huge = make_chunk(b"tEXt", b"Huge\0" + b"x" * MAX_BYTES)
    kept = read_chunks(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(written[:33] + huge + written[33:])
    assert read_chunks(tmp_path / "a.png") == kept
    (tmp_path / "b.png").write_bytes(written[:33] + wrong + written[33:])
    assert read_chunks(tmp_path / "b.png") == kept


def test_nothing_is_read_behind_the_end(tmp_path):
    write_png(tmp_path / "a.png")
    written, text = (tmp_path / "a.png").read_bytes(), make_chunk(b"tEXt", b"Author\0me")
    kept = read_chunks(tmp_path / "a.png")
    (tmp_path / "behind.png").write_bytes(written + text)
    (tmp_path / "cut.png").write_bytes(written[:-12] + text[:-1])
    (tmp_path / "other.png").write_bytes(b"no" + written)
    assert read_chunks(tmp_path / "behind.png") == read_chunks(tmp_path / "cut.png") == kept != ()
    assert read_chunks(tmp_path / "other.png") == ()


def test_of_too_much_exif_the_rest_is_kept_in_a_jpg(upscaled, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00", 0x927C: bytes(70_000)}
    Image.fromarray(COLOR).save(tmp_path / "a.png", exif=exif.tobytes())
    made, printed = upscaled(tmp_path / "a.png", "--format", "jpg")
    found = Image.open(made).getexif()
    assert "jpg has no room for the maker note of EXIF" in " ".join(printed.split())
    assert found[0x010F] == "Camera" and found.get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"
    exif[0x010F] = "C" * 70_000
    xmp = b"<x:xmpmeta>" + b" " * 70_000 + b"</x:xmpmeta>"
    Image.fromarray(COLOR).save(tmp_path / "c.webp", exif=exif.tobytes(), xmp=xmp)
    _, printed = upscaled(tmp_path / "c.webp", "--format", "jpg")
    assert "jpg has no room for EXIF and XMP" in " ".join(printed.split())

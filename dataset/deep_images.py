"""Decoding images of 16 bits and floats, most by OpenCV: Pillow supports these for one channel only."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, PpmImagePlugin, TiffImagePlugin

from common.errors import InputError
from dataset.decoded_image import DecodedImage, from_array
from dataset.png_chunks import walk_chunks

BITS_PER_SAMPLE, ORIENTATION = 258, 0x0112
MIN_IS_WHITE, UNKNOWN_BAND, ASSOCIATED_ALPHA = 0, 0, 1  # values in TIFF
UNPACKED_BY_TIFFFILE = (1, 8, 32946)  # not compressed, deflate and its former number
LARGEST_TILE = 1 << 24  # values; of small images the tile may be larger than the image
_opencv_lock = threading.Lock()  # its log level belongs to the whole process


def is_deep(image: Image.Image | None) -> bool:
    """Whether the pixels have 16 bits or are floats, which OpenCV decodes: Pillow supports these for one channel only."""
    if image is None or image.mode == "F":
        return True
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode != "I":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8
    if isinstance(image, PpmImagePlugin.PpmImageFile):
        return _ppm_white(image) > 255
    return ";16" in image.mode + str(getattr(image, "tile", ""))


def tiff_sizes(path: Path) -> list[tuple[int, int]]:
    """Width and height of each page."""
    with tifffile.TiffFile(path) as file:
        return [(page.imagewidth, page.imagelength) for page in _pages(file)]


def decode_deep(path: Path, image: Image.Image) -> DecodedImage:
    """The first frame of a PNG, PGM or PPM of more than 8 bits as uint16. `InputError` if OpenCV cannot decode it."""
    if image.format == "PNG":
        with path.open("rb") as file:
            for _ in walk_chunks(file):  # raises for a chunk that says it has more than the file, which OpenCV believes
                pass
    data = np.fromfile(path, np.uint8)
    with _quiet_opencv():
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise _unreadable_depth(path)
    pixels = _from_bgr(pixels)
    if isinstance(image, PpmImagePlugin.PpmImageFile) and pixels.dtype == np.uint16:
        white = _ppm_white(image)
        pixels = ((pixels.clip(0, white).astype(np.uint32) * 65535 + white // 2) // white).astype(np.uint16)
    if "LA;16" in str(getattr(image, "tile", "")):  # four channels by OpenCV
        pixels = pixels[:, :, 2:]
    elif pixels.ndim == 2 and isinstance(transparent := image.info.get("transparency"), int):
        pixels = np.dstack([pixels, np.where(pixels == transparent, 0, 65535).astype(np.uint16)])
    return _from_pixels(path, _upright(pixels, image.getexif().get(ORIENTATION, 1)))


def _ppm_white(image: PpmImagePlugin.PpmImageFile) -> int:
    """The largest value that a PPM or PGM says it has."""
    arguments = image.tile[0][3]
    return 65535 if ";16" in str(arguments) else arguments[1] if isinstance(arguments, tuple) else 255


def decode_tiff(path: Path, all_pages: bool) -> list[DecodedImage]:
    """The first or all pages of a TIFF: uint16 or float32, those of 8 bits uint8. `InputError` for other pixels."""
    data = np.fromfile(path, np.uint8)  # imread fails on pages rotated by 90 degrees
    with tifffile.TiffFile(path) as file:
        pages = _pages(file) if all_pages else _pages(file)[:1]
        pixels: Sequence[np.ndarray | None] = [None] * len(pages)
        with _quiet_opencv():
            if len(pages) == 1:
                pixels = [cv2.imdecode(data, cv2.IMREAD_UNCHANGED)]
            elif not all(map(_needs_tifffile, pages)):
                pixels = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)[1]
        if len(pixels) != len(pages):
            raise _unreadable_depth(path)
        return [_decode_page(path, page, each) for page, each in zip(pages, pixels, strict=True)]


def _decode_page(path: Path, page: tifffile.TiffPage, pixels: np.ndarray | None) -> DecodedImage:
    """A page of a TIFF, from its `pixels` by OpenCV, which applies the orientation, where it can decode them."""
    if _needs_tifffile(page):
        pixels = _by_tifffile(path, page)
    elif pixels is None or (pixels.dtype == np.uint8 and page.bitspersample > 8):
        raise _unreadable_depth(path)
    else:
        pixels = _from_bgr(pixels)
    if pixels.dtype != np.uint8 and page.photometric == MIN_IS_WHITE:
        pixels = (65535 if pixels.dtype == np.uint16 else 1) - pixels
    extra = UNKNOWN_BAND in page.extrasamples or page.samplesperpixel > 4
    if extra and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[:, :, :-1]
    decoded = _from_pixels(path, pixels)
    if decoded.alpha is not None and ASSOCIATED_ALPHA in page.extrasamples:
        decoded.rgb = _divide_by_alpha(decoded.rgb, decoded.alpha)
    return replace(decoded, dropped="1 extra band" if extra else None)


def _by_tifffile(path: Path, page: tifffile.TiffPage) -> np.ndarray:
    """The pixels of a page of at most 4 channels, upright. Takes no more memory than the page, whatever the file says."""
    if page.compression not in UNPACKED_BY_TIFFFILE:
        kind = getattr(page.compression, "name", page.compression)
        what = "gray and alpha" if page.samplesperpixel == 2 else "separate planes"
        raise InputError(f"{path} has {what} compressed by {kind}: save it with deflate, or as PNG")
    most = prod(page.chunks)
    if page.samplesperpixel > 4 or page.imagedepth > 1 or most > max(page.size, LARGEST_TILE) or page.dtype is None:
        raise _unreadable_depth(path)
    file = page.parent.filehandle
    for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start + size > file.size:
            raise EOFError("it ends too early")
        if page.compression != 1:
            file.seek(start)
            unpacked = zlib.decompressobj().decompress(file.read(size), most * page.dtype.itemsize + 1)
            if len(unpacked) > most * page.dtype.itemsize:
                raise ValueError("it unpacks to more than its size")
    pixels = page.asarray()
    return _upright(pixels if page.planarconfig == 1 else np.moveaxis(pixels, 0, 2), page.tags.valueof(ORIENTATION, 1))


def _needs_tifffile(page: tifffile.TiffPage) -> bool:
    """Whether the page has gray and alpha, or planes one after another: OpenCV reads wrong pixels, without an error."""
    return page.samplesperpixel == 2 or page.planarconfig == 2


def _unreadable_depth(path: Path) -> InputError:
    return InputError(f"{path} is not a readable image of 16 bits or floats: gray, RGB and RGBA are; save it so")


def _from_pixels(path: Path, pixels: np.ndarray) -> DecodedImage:
    """Pixels in the order RGBA or gray, alpha; floats as float32."""
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise InputError(
            f"{path} has pixels of {pixels.dtype}: save it with 8 or 16 bits per channel, or floats in [0, 1]"
        )
    if pixels.dtype.kind == "f":
        low, high = pixels.min(), pixels.max()
        if not 0 <= low <= high <= 1:  # false for NaN too
            raise InputError(f"{path} has values from {low} to {high}: floats must be in [0, 1]")
        pixels = pixels.astype(np.float32)
    kind = f"{pixels.dtype.itemsize * 8}-bit" if pixels.dtype.kind == "u" else "float"
    return replace(from_array(np.ascontiguousarray(pixels)), converted=kind)


def _from_bgr(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


def _divide_by_alpha(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colors that alpha has been multiplied into as they were, rounded; black where alpha is 0."""
    opacity = alpha[:, :, None]
    if rgb.dtype.kind == "f":
        return (rgb / np.where(opacity > 0, opacity, 1)).clip(0, 1)
    top = np.iinfo(rgb.dtype).max
    wide = opacity.astype(np.uint32)
    return ((rgb.astype(np.uint32) * top + wide // 2) // np.maximum(wide, 1)).clip(0, top).astype(rgb.dtype)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return ORIENTATIONS.get(orientation, ORIENTATIONS[1])(pixels)


def _pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    return [page for page in file.pages if isinstance(page, tifffile.TiffPage)]


ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF: what stored pixels need to stand upright
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV from writing about broken files to the terminal; one decoder at a time, as the level is the process's."""
    # the names differ between OpenCV 4 and 5
    get, put = (getattr(cv2, name, None) or getattr(cv2.utils.logging, name) for name in ("getLogLevel", "setLogLevel"))
    with _opencv_lock:
        before = get()
        put(0)
        try:
            yield
        finally:
            put(before)

"""Reading image files as RGB of 8 bits, or of the depth that they have. Writing is in `dataset/image_writer.py`.

An image that is not 8-bit RGB is converted; `DecodedImage.converted` says from what, for a message to the user.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from common.errors import InputError, escape_unprintable, summarize_exception, translate_access_errors
from dataset.image_metadata import ImageMetadata, read_metadata
from dataset.image_writer import narrow, write_png

__all__ = ["write_png"]  # imported from here

FORMATS = ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF"]  # Pillow has others, some of which run external programs
EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"}
Image.preinit()  # registers the usual formats; the imports below the others
with suppress(ImportError):  # Pillow before 11.3
    from PIL import AvifImagePlugin

    if AvifImagePlugin.SUPPORTED:
        FORMATS.append("AVIF")
        EXTENSIONS.add(".avif")
MAX_PIXELS = 256_000_000  # a larger image is refused before memory is allocated
FOREIGN = {  # of files that people take for readable: where the mark is, the mark, and the format
    "JPEG 2000": (4, b"jP  "),
    "HEIC": (4, b"ftyphei"),
    "AVIF": (4, b"ftypavi"),
    "JPEG XL": (4, b"JXL "),
    "Photoshop": (0, b"8BPS"),
    "PDF": (0, b"%PDF"),
    "OpenEXR": (0, b"\x76\x2f\x31\x01"),
}
SAMPLES_PER_PIXEL, ORIENTATION = 277, 0x0112
_opencv_lock = threading.Lock()  # its log level belongs to the whole process


@dataclass
class DecodedImage:
    """`rgb`: HxWx3 of uint8, or where the caller asks for it uint16 or float32 in [0, 1]. `alpha`: HxW of its type or None.

    `gray`: the file held one channel. `converted`: from what. `dropped`: what of the file is not here. `duration`: of an
    animation's frame, in ms.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    gray: bool
    converted: str | None
    dropped: str | None = None
    duration: float = 0

    def metadata_only(self) -> DecodedImage:
        """A copy without pixels, which is all that `conversion_summary` needs of thousands of images."""
        return replace(self, rgb=np.empty((0, 0, 3), np.uint8), alpha=None)


@dataclass
class DecodedFile:
    """All frames of a file, each of the depth that it has. `animated`: they have a timing, else they are pages.

    `format`: Pillow's name of it. `loop`: how often an animation is shown, 0 for ever.
    """

    frames: list[DecodedImage]
    format: str
    metadata: ImageMetadata = field(default_factory=ImageMetadata)
    animated: bool = False
    loop: int = 0


def list_images(folder: Path | str) -> list[Path]:
    """The image files directly in `folder` in file-name order; `InputError` if it is no folder or holds none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name a folder of images")
    files = [f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith(".")]
    if not files:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(EXTENSIONS))}){_where_images_are(folder)}")
    return sorted(files, key=lambda f: f.name)


def _where_images_are(folder: Path) -> str:
    """Which folders at most two levels below have images, for the error of a folder that has none; otherwise nothing."""
    below = [each for pattern in ("*", "*/*") for each in sorted(folder.glob(pattern)) if not each.name.startswith(".")]
    files = (each for place in below if place.is_dir() for each in sorted(place.iterdir()))
    found = list(dict.fromkeys(file.parent.relative_to(folder) for file in files if file.suffix.lower() in EXTENSIONS))
    if not found:
        return ""
    names = ", ".join(map(str, found[:4])) + ", ..." * (len(found) > 4)
    return f", but {names} below it {'does' if len(found) == 1 else 'do'}: name {'it' if len(found) == 1 else 'one of them'}"


def read_image(path: Path | str) -> DecodedImage:
    """Reads one file as 8-bit RGB with its EXIF orientation applied; of several frames or pages the first.

    `InputError` names a file that is missing, broken or too large.
    """
    path = Path(path)
    with _opened(path) as image:
        deep = _is_deep(image)
        if image is None or image.mode == "F" or (image.mode == "I" and not deep):
            raise InputError(f"{path} has 32-bit pixels: save it with 8 or 16 bits per channel")
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        decoded = _to_8_bits(_decode_deep(path, image)[0] if deep else from_pil(image))
    dropped = [decoded.dropped] if decoded.dropped else []
    if count > 1:
        dropped.append(f"{count - 1} further frames")
    if dropped:
        decoded.converted = f"{decoded.converted or 'RGB'} without its {' and '.join(dropped)}"
    return decoded


def read_frames(path: Path | str) -> DecodedFile:
    """Reads all frames or pages of a file at their own depth, with the EXIF orientation applied, and its metadata.

    Raises `InputError` as `read_image` does, and for floats that are not in [0, 1].
    """
    path = Path(path)
    with _opened(path) as image:
        if _is_deep(image):
            pages = _decode_deep(path, image, all_pages=True)
            return DecodedFile(pages, (image and image.format) or "TIFF", read_metadata(image or path))
        assert image is not None
        if image.mode == "I":
            raise InputError(
                f"{path} has 32-bit integers: save it with 8 or 16 bits per channel, or as floats in [0, 1]"
            )
        if image.format == "MPO":  # the further images are previews and depth maps
            further = f"{getattr(image, 'n_frames', 1) - 1} further images"
            return DecodedFile([replace(from_pil(image), dropped=further)], "JPEG", read_metadata(image))
        return _decode_frames(path, image)


def _decode_frames(path: Path, image: Image.Image) -> DecodedFile:
    count = getattr(image, "n_frames", 1)
    if image.format != "TIFF":  # whose pages differ in size
        _check_size(path, image.width, image.height, count)
    metadata, modes = read_metadata(image), {image.mode}
    first = int(count > 1 and bool(image.info.get("default_image")))  # an APNG's, for programs without animation
    frames, pixels = [], 0
    for number in range(first, count):
        image.seek(number)
        pixels += image.width * image.height
        _check_pixels(path, pixels)
        image.load()  # only now WebP knows its duration
        modes.add(image.mode)
        frames.append(from_pil(image.copy() if count > 1 and image.format != "TIFF" else image))
        frames[-1].duration = float(image.info.get("duration", 0))
    if modes & {"CMYK", "LAB", "YCbCr"}:
        metadata = replace(metadata, icc=None)  # the values are not of that space any more
    loop = int(image.info.get("loop", 1 if image.format == "GIF" else 0))
    loop += image.format == "GIF" and "loop" in image.info and loop > 0  # GIF counts the repetitions
    return DecodedFile(frames, image.format or "", metadata, len(frames) > 1 and image.format != "TIFF", loop)


def from_pil(image: Image.Image) -> DecodedImage:
    """A Pillow image of 8 bits per channel, in any mode, as `DecodedImage`, with its EXIF orientation applied."""
    names = {"RGB": None, "L": "grayscale", "1": "black-and-white", "P": "palette", "RGBA": "alpha", "LA": "alpha"}
    kind = names.get(image.mode, image.mode)
    dropped = _extra_bands(image)
    image = ImageOps.exif_transpose(image)
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        with suppress(ImageCms.PyCMSError, OSError):  # a damaged profile is no reason to lose the image
            image, kind = _cmyk_to_srgb(image), "CMYK by its profile"
    gray = image.mode in ("1", "L", "LA", "La")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow cannot convert La to RGBA
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        kind = kind or "alpha"
    return DecodedImage(np.array(image.convert("RGB")), alpha, gray, kind, dropped)


def from_array(array: np.ndarray) -> DecodedImage:
    """An array HxW, HxWx2, HxWx3 or HxWx4 (gray, gray and alpha, RGB, RGBA) of any type as `DecodedImage`."""
    planes = array[:, :, None] if array.ndim == 2 else array
    gray, alpha = planes.shape[2] < 3, planes[:, :, -1] if planes.shape[2] in (2, 4) else None
    return DecodedImage(np.repeat(planes[:, :, :1], 3, 2) if gray else planes[:, :, :3], alpha, gray, None)


def read_rgb(path: Path | str) -> np.ndarray:
    """`read_image(path).rgb`: uint8 HxWx3."""
    return read_image(path).rgb


def conversion_summary(images: Iterable[tuple[str, DecodedImage | None]]) -> str | None:
    """One line on the converted ones among (name, image) pairs: "converted to 8-bit RGB: 2 grayscale (a, b)"."""
    found = [(name, image.converted) for name, image in images if image and image.converted]
    if not found:
        return None
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(kind for _, kind in found).items())
    names = ", ".join(escape_unprintable(name) for name, _ in found[:3]) + (", ..." if len(found) > 3 else "")
    return f"converted to 8-bit RGB: {kinds} ({names})"


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image | None]:
    """Yields the opened image, see `_identify`. Turns whatever decoders raise into an `InputError` that names the file."""
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise InputError(f"{path} is not a readable image but a folder, a pipe or the like: replace or remove it")
    try:
        with translate_access_errors(path), path.open("rb") as data:
            yield _identify(path, data)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except MemoryError:
        raise InputError(f"{path}: not enough memory to decode it") from None
    except Exception as error:  # on damaged files decoders raise almost anything
        raise InputError(
            f"{path} is not a readable image ({summarize_exception(error)}): replace or remove it"
        ) from None


def _identify(path: Path, data: BinaryIO) -> Image.Image | None:
    """Opens an image with the first of `FORMATS` that knows it; None for a TIFF with pixels that Pillow has no mode for.

    Not by `Image.open`: its limit of pixels is a variable of the whole process, while ours is `MAX_PIXELS`.
    """
    head = data.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or (accept(head) not in (False, None) and not isinstance(accept(head), str)):
            data.seek(0)
            try:
                image = factory(data, str(path))
            except SyntaxError:  # Pillow's "not this format"
                if name == "TIFF":
                    return None
                raise
            _check_size(path, image.width, image.height)
            return image
    foreign = next((name for name, (at, mark) in FOREIGN.items() if head[at:].startswith(mark)), "of another format")
    raise UnidentifiedImageError(f"it is {foreign}; {', '.join(FORMATS)} are read")


def _check_size(path: Path, width: int, height: int, count: int = 1) -> None:
    if width * height * count > MAX_PIXELS:
        frames = f" with {count} frames" if count > 1 else ""
        raise InputError(
            f"{path} says it is {width}x{height}{frames}: more than {MAX_PIXELS // 10**6} megapixels are refused"
        )


def _check_pixels(path: Path, count: int) -> None:
    if count > MAX_PIXELS:
        raise InputError(f"{path} has pages of more than {MAX_PIXELS // 10**6} megapixels in all, which are refused")


def _is_deep(image: Image.Image | None) -> bool:
    """Whether the pixels have 16 bits or are floats, which OpenCV decodes: Pillow supports these for one channel only."""
    return image is None or image.mode == "F" or ";16" in image.mode + str(getattr(image, "tile", ""))


def _extra_bands(image: Image.Image) -> str | None:
    """What Pillow leaves out of a TIFF with more bands than a color and an alpha, such as near infrared."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    extra = image.tag_v2.get(SAMPLES_PER_PIXEL, 1) - len(image.getbands())
    return f"{extra} extra band{'s' * (extra > 1)}" if extra > 0 else None


def _cmyk_to_srgb(image: Image.Image) -> Image.Image:
    profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
    converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # it is only for inPlace=True
    return converted


def _decode_deep(path: Path, image: Image.Image | None, all_pages: bool = False) -> list[DecodedImage]:
    """The first or all pages of a file of 16 bits or floats: uint16 or float32; pages of 8 bits between them stay uint8."""
    extra = False
    tiff = image is None or image.format == "TIFF"
    if tiff:
        with tifffile.TiffFile(path) as file:
            sizes = [(page.imagewidth, page.imagelength) for page in file.pages if isinstance(page, tifffile.TiffPage)]
            extra = 0 in file.pages.first.extrasamples or file.pages.first.samplesperpixel > 4
        _check_size(path, *sizes[0])
        _check_pixels(path, sum(width * height for width, height in sizes))
    data = np.fromfile(path, np.uint8)  # imread fails on TIFF rotated by 90 degrees
    with _quiet_opencv():
        pages: list[np.ndarray | None]
        if tiff and all_pages:
            pages = list(cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)[1])
        else:
            pages = [cv2.imdecode(data, cv2.IMREAD_UNCHANGED)]
    whole = [page for page in pages if page is not None]
    if not whole or len(whole) < len(pages):
        raise InputError(f"{path} is not a readable image of 16 bits or floats: gray, RGB and RGBA are; save it so")
    gray_alpha = image is not None and "LA;16" in str(getattr(image, "tile", ""))  # four channels by OpenCV
    orientation = 1
    if image is not None and not tiff:  # OpenCV applies the orientation of TIFF files, and of no others
        orientation = image.getexif().get(ORIENTATION, 1)
    return [_from_opencv(path, page, orientation, gray_alpha, extra) for page in whole]


def _from_opencv(path: Path, page: np.ndarray, orientation: int, gray_alpha: bool, extra: bool) -> DecodedImage:
    if page.dtype not in (np.uint8, np.uint16) and page.dtype.kind != "f":
        raise InputError(
            f"{path} has pixels of {page.dtype}: save it with 8 or 16 bits per channel, or floats in [0, 1]"
        )
    if page.dtype.kind == "f":
        low, high = float(page.min()), float(page.max())
        if not 0 <= low <= high <= 1:  # false for NaN too
            raise InputError(f"{path} has values from {low:.4g} to {high:.4g}: floats must be in [0, 1]")
        page = page.astype(np.float32)
    kind = f"{page.dtype.itemsize * 8}-bit" if page.dtype.kind == "u" else "float"
    if page.ndim == 3:
        page = page[:, :, [0, 3] if gray_alpha else [2, 1, 0, 3][: page.shape[2]]]
        if extra and page.shape[2] == 4:
            page = page[:, :, :3]
    decoded = from_array(np.ascontiguousarray(ORIENTATIONS.get(orientation, ORIENTATIONS[1])(page)))
    return replace(decoded, converted=kind, dropped="1 extra band" if extra else None)


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


def _to_8_bits(image: DecodedImage) -> DecodedImage:
    """Rounds uint16 by v -> round(v / 257)."""
    if image.rgb.dtype == np.uint8:
        return image
    return replace(image, rgb=narrow(image.rgb), alpha=None if image.alpha is None else narrow(image.alpha))


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

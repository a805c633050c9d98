"""Reading image files as RGB of 8 bits, or of the depth that they have. Writing is in `dataset/image_writer.py`.

An image that is not 8-bit RGB is converted; `DecodedImage.converted` says from what, for a message to the user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from common.errors import InputError, escape_unprintable, summarize_exception, translate_access_errors
from dataset.decoded_image import DecodedImage
from dataset.deep_images import decode_deep, decode_tiff, is_deep, tiff_sizes
from dataset.image_metadata import ImageMetadata, read_metadata
from dataset.image_writer import narrow

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
SAMPLES_PER_PIXEL = 277


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
    """The image files directly in `folder` in file-name order; `InputError` if it is not a folder or holds none."""
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
        deep = is_deep(image)
        wide = image is not None and (image.mode == "F" or (image.mode == "I" and not deep))
        if not wide:
            decoded = _decode_deep(path, image)[0] if image is None or deep else from_pil(image)
        if wide or decoded.rgb.dtype.kind == "f":
            raise InputError(f"{path} has 32-bit pixels: save it with 8 or 16 bits per channel")
        decoded, count = _to_8_bits(decoded), _count_frames(image) if image else 1
    dropped = list(dict.fromkeys(filter(None, (decoded.dropped, _further(count)))))
    if dropped:
        decoded.converted = f"{decoded.converted or 'RGB'} without its {' and '.join(dropped)}"
    return decoded


def read_frames(path: Path | str) -> DecodedFile:
    """Reads all frames or pages of a file at their own depth, with the EXIF orientation applied, and its metadata.

    Raises `InputError` as `read_image` does, and for floats that are not in [0, 1].
    """
    path = Path(path)
    with _opened(path) as image:
        if image is None or (is_deep(image) and image.format != "TIFF"):
            pages = _decode_deep(path, image, all_pages=True)
            return DecodedFile(pages, image.format or "" if image else "TIFF", read_metadata(image or path))
        if image.format == "MPO":
            further = _further(getattr(image, "n_frames", 1), "image")
            return DecodedFile([replace(from_pil(image), dropped=further)], "JPEG", read_metadata(image))
        return _decode_frames(path, image)


def _decode_frames(path: Path, image: Image.Image) -> DecodedFile:
    count = _count_frames(image)
    if image.format != "TIFF":  # whose pages differ in size
        _check_size(path, image.width, image.height, count)
    metadata, modes = read_metadata(image), {image.mode}
    first = int(count > 1 and bool(image.info.get("default_image")))  # an APNG's, for programs without animation
    frames: list[DecodedImage] = []
    deep: list[DecodedImage] = []
    pixels = 0
    for number in range(first, count):
        known = _seek(image, number)
        pixels += image.width * image.height
        _check_pixels(path, pixels)
        if not known or is_deep(image):
            deep = deep or _decode_deep(path, image, all_pages=True)
            frames.append(deep[number])
            continue
        if image.mode == "I":
            raise InputError(
                f"{path} has 32-bit integers: save it with 8 or 16 bits per channel, or as floats in [0, 1]"
            )
        image.load()  # only now WebP knows its duration
        modes.add(image.mode)
        frames.append(from_pil(image.copy() if count > 1 and image.format != "TIFF" else image))
        frames[-1].duration = float(image.info.get("duration", 0))
    if modes & {"CMYK", "LAB", "YCbCr"}:
        metadata = replace(metadata, icc=None)  # the values are not of that space any more
    loop = int(image.info.get("loop", 1 if image.format == "GIF" else 0))
    loop += image.format == "GIF" and "loop" in image.info and loop > 0  # GIF counts the repetitions
    return DecodedFile(frames, image.format or "", metadata, len(frames) > 1 and image.format != "TIFF", loop)


def count_pixels(path: Path | str) -> int:
    """The pixels of all frames or pages of a file by its headers, so that little of it is read.

    Raises `InputError` as `read_image` does, as far as headers show it.
    """
    path = Path(path)
    with _opened(path) as image:
        if image is None:
            return sum(width * height for width, height in tiff_sizes(path))
        if image.format != "TIFF":
            return image.width * image.height * _count_frames(image)
        pixels = 0
        for number in range(_count_frames(image)):
            _seek(image, number)
            pixels += image.width * image.height
        return pixels


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
    if not head:
        raise UnidentifiedImageError("it is empty")
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


def _decode_deep(path: Path, image: Image.Image | None, all_pages: bool = False) -> list[DecodedImage]:
    """The first or all pages of a TIFF, or the first frame of another file, of 16 bits or floats."""
    if image is not None and image.format != "TIFF":
        return [replace(decode_deep(path, image), dropped=_further(_count_frames(image)))]
    sizes = tiff_sizes(path)
    _check_size(path, *sizes[0])
    _check_pixels(path, sum(width * height for width, height in sizes))
    return decode_tiff(path, all_pages)


def _count_frames(image: Image.Image) -> int:
    """Frames of an animation or pages; the further images of MPO are previews and depth maps."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _further(count: int, kind: str = "frame") -> str | None:
    """What is left out of `count` frames where only the first is read."""
    return f"{count - 1} further {kind}{'s' * (count > 2)}" if count > 1 else None


def _seek(image: Image.Image, number: int) -> bool:
    """Goes to a frame; False if it is a page of a TIFF with pixels that Pillow has no mode for, whose size is known still."""
    try:
        image.seek(number)
    except SyntaxError:
        if image.format != "TIFF":
            raise
        return False
    return True


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


def _to_8_bits(image: DecodedImage) -> DecodedImage:
    """Rounds uint16 by v -> round(v / 257)."""
    if image.rgb.dtype == np.uint8:
        return image
    return replace(image, rgb=narrow(image.rgb), alpha=None if image.alpha is None else narrow(image.alpha))

"""Reading any image file as 8-bit RGB, and writing PNG. No resizing, no measuring.

An image that is not 8-bit RGB is converted; `DecodedImage.converted` says from what, for a message to the user.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from common.errors import InputError, escape_unprintable, summarize_exception, translate_access_errors
from common.files import atomic_write

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")  # Pillow has others, some of which run external programs
EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
MAX_PIXELS = 256_000_000  # a larger image is refused before memory is allocated
Image.MAX_IMAGE_PIXELS = None  # checked below instead: a one-line error rather than a warning
warnings.filterwarnings("ignore", module=r"PIL\.")  # likewise: about damaged metadata, which is not used
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(
    0
)  # likewise; its name differs between OpenCV 4 and 5


@dataclass
class DecodedImage:
    """`rgb`: uint8 HxWx3. `alpha`: uint8 HxW or None. `gray`: the file held one channel. `converted`: from what."""

    rgb: np.ndarray
    alpha: np.ndarray | None
    gray: bool
    converted: str | None

    def metadata_only(self) -> DecodedImage:
        """A copy without pixels, which is all that `conversion_summary` needs of thousands of images."""
        return replace(self, rgb=np.empty((0, 0, 3), np.uint8), alpha=None)


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
    """Reads one file with its EXIF orientation applied. `InputError` names a file that is missing, broken or too large."""
    path = Path(path)
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise InputError(f"{path} is not a readable image but a folder, a pipe or the like: replace or remove it")
    try:
        with translate_access_errors(path), Image.open(path, formats=FORMATS) as image:
            return _decode(path, image)
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


def from_pil(image: Image.Image) -> DecodedImage:
    """A Pillow image of 8 bits per channel, in any mode, as `DecodedImage`, with its EXIF orientation applied."""
    names = {"RGB": None, "L": "grayscale", "1": "black-and-white", "P": "palette", "RGBA": "alpha", "LA": "alpha"}
    kind = names.get(image.mode, image.mode)
    image = ImageOps.exif_transpose(image)
    gray = image.mode in ("1", "L", "LA", "La")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow cannot convert La to RGBA
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        kind = kind or "alpha"
    return DecodedImage(np.array(image.convert("RGB")), alpha, gray, kind)


def read_rgb(path: Path | str) -> np.ndarray:
    """`read_image(path).rgb`: uint8 HxWx3."""
    return read_image(path).rgb


def write_png(path: Path | str, image: np.ndarray) -> None:
    """Writes uint8 HxW, HxWx3 or HxWx4 as PNG; the final name appears only when the file is whole."""
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", compress_level=3)


def conversion_summary(images: Iterable[tuple[str, DecodedImage | None]]) -> str | None:
    """One line on the converted ones among (name, image) pairs: "converted to 8-bit RGB: 2 grayscale (a, b)"."""
    found = [(name, image.converted) for name, image in images if image and image.converted]
    if not found:
        return None
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(kind for _, kind in found).items())
    names = ", ".join(escape_unprintable(name) for name, _ in found[:3]) + (", ..." if len(found) > 3 else "")
    return f"converted to 8-bit RGB: {kinds} ({names})"


def _decode(path: Path, image: Image.Image) -> DecodedImage:
    if image.width * image.height > MAX_PIXELS:
        raise InputError(
            f"{path} says it is {image.width}x{image.height}: more than {MAX_PIXELS // 10**6} megapixels are refused"
        )
    tiles = str(getattr(image, "tile", ""))
    if ";16" in image.mode or ";16" in tiles:
        # OpenCV applies the orientation of TIFF files, and of no others
        orientation = image.getexif().get(0x0112, 1) if image.format != "TIFF" else 1
        image = _reduce_16_bit(path)
        if "LA;16" in tiles:  # gray with alpha, which OpenCV returns as four channels
            image = image.convert("LA")
        image.getexif()[0x0112] = orientation
        return replace(from_pil(image), converted="16-bit")
    if image.mode in ("I", "F"):
        raise InputError(f"{path} has 32-bit pixels: save it with 8 or 16 bits per channel")
    return from_pil(image)


def _reduce_16_bit(path: Path) -> Image.Image:
    """Decodes by OpenCV, because Pillow supports 16 bits for single channels only; v -> round(v / 257)."""
    wide = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)  # imread fails on TIFF rotated by 90 degrees
    if wide is None:
        raise InputError(f"{path} is not a readable 16-bit image: save it with 8 bits per channel")
    if wide.dtype == np.uint16:
        wide = ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if wide.ndim == 2:
        return Image.fromarray(wide)
    order = [2, 1, 0, 3] if wide.shape[2] == 4 else [2, 1, 0]
    return Image.fromarray(np.ascontiguousarray(wide[:, :, order]))

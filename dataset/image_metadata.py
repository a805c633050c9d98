"""What an image file holds beside its pixels: ICC profile, EXIF, XMP, resolution; and how they fit the upscaled image."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, PngImagePlugin, TiffImagePlugin

from dataset.png_chunks import Chunk, read_chunks

EXIF_IFD, GPS_IFD, ORIENTATION, XMP_TAG, ICC_TAG = 0x8769, 0x8825, 0x0112, 700, 34675
DESCRIPTION = 270
# what tifffile, ImageJ and OME write into it: the axes of an image of this size
AXES = re.compile(rb'\s*(\{"(shape|axes)"|ImageJ=|(<\?xml.*)?<OME)', re.DOTALL)
PIXEL_SIZE = re.compile(rb"^(unit|spacing)=|\bPhysicalSize[XYZ]=", re.MULTILINE)  # in those of ImageJ and OME
MAKER_NOTE = 0x927C  # the camera maker's own data, often most of EXIF
JPEG_EXIF, JPEG_XMP = 65_533, 65_504  # bytes that a JPEG segment holds of each
SIZE_TAGS, EXIF_SIZE_TAGS = (0x0100, 0x0101), (0xA002, 0xA003)  # width, height
RESOLUTION_TAGS = (282, 283, 296)
# of the TIFF tags that `getexif` returns too: layout of the pixels, and what would be wrong for others
LAYOUT_TAGS = {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 290, 291, 297, 301, 317, 318, 319}
LAYOUT_TAGS |= {320, *range(321, 326), 330, *range(332, 337), 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 532}
LAYOUT_TAGS |= {XMP_TAG, ICC_TAG, 34377, *RESOLUTION_TAGS}


@dataclass(frozen=True)
class ImageMetadata:
    """`icc`: profile. `exif`: without layout tags and thumbnail, or None. `xmp`: packet. `dpi`: horizontal, vertical.

    `png_chunks`: of a PNG, what describes its colors beside the profile, and its text. `dropped`: what was left out since it
    would be wrong for another size, in words, or None.
    """

    icc: bytes | None = None
    exif: Image.Exif | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    png_chunks: tuple[Chunk, ...] = ()
    dropped: str | None = None

    def exif_for(self, width: int, height: int) -> Image.Exif:
        """The EXIF data of an upright image of this size: orientation 1, and the size where it was given."""
        exif = Image.Exif()
        if self.exif:
            exif.load(self.exif.tobytes())
            _keep_text(exif)
            if ORIENTATION in exif:
                exif[ORIENTATION] = 1
            details = _details(exif)
            for tag, value in zip(EXIF_SIZE_TAGS, (width, height), strict=True):
                if tag in details:
                    details[tag] = value
            if details:
                exif[EXIF_IFD] = details
        return exif

    def fit_jpeg(self) -> tuple[ImageMetadata, list[str]]:
        """What a JPEG file holds of it, and what is left out: maker note, EXIF or XMP of more than 64 KB."""
        fitting, lost = self, []
        exif = self.exif_for(1, 1)
        if len(exif.tobytes()) > JPEG_EXIF and MAKER_NOTE in _details(exif):
            del _details(exif)[MAKER_NOTE]
            fitting, lost = replace(fitting, exif=exif), ["the maker note of EXIF"]
        if len(exif.tobytes()) > JPEG_EXIF:
            fitting, lost = replace(fitting, exif=None), ["EXIF"]
        if self.xmp and len(self.xmp) > JPEG_XMP:
            fitting, lost = replace(fitting, xmp=None), [*lost, "XMP"]
        return fitting, lost

    def xmp_for(self, width: int, height: int) -> bytes | None:
        """The XMP packet of an upright image of this size."""
        if self.xmp is None:
            return None
        xmp = self.xmp
        names = {b"tiff:Orientation": 1, b"tiff:ImageWidth": width, b"tiff:ImageLength": height}
        for name, value in {**names, b"exif:PixelXDimension": width, b"exif:PixelYDimension": height}.items():
            xmp = re.sub(name + rb"(=[\"']|>)\s*\d+", lambda found: name + found[1] + b"%d" % value, xmp)  # noqa: B023
        return xmp


def read_metadata(source: Image.Image | Path) -> ImageMetadata:
    """The metadata of an opened image, or of a TIFF file that Pillow cannot open. What is damaged is left out."""
    if isinstance(source, Path):
        return _read_tiff_tags(source)
    info, exif, dropped = source.info, None, None
    with suppress(Exception):  # on damaged data it raises almost anything
        dropped = _lost_pixel_size(source.getexif())
        exif = _clean(source.getexif())
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    dpi = info.get("dpi")
    if isinstance(source, TiffImagePlugin.TiffImageFile):
        xmp = source.tag_v2.get(XMP_TAG)
        dpi = dpi if 282 in source.tag_v2 else None  # Pillow says 1
    icc = info.get("icc_profile")
    chunks = read_chunks(Path(str(source.filename))) if isinstance(source, PngImagePlugin.PngImageFile) else ()
    return ImageMetadata(
        icc if isinstance(icc, bytes) and icc else None, exif, _as_bytes(xmp), _dpi(dpi), chunks, dropped
    )


def _read_tiff_tags(path: Path) -> ImageMetadata:
    with path.open("rb") as file:
        head = file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head + file.read(8) if head[2] == 43 else head)
        file.seek(tags.next)
        tags.load(file)
    exif = Image.Exif()
    for tag in set(tags) - LAYOUT_TAGS - {EXIF_IFD, GPS_IFD}:
        with suppress(Exception):
            exif[tag] = tags[tag]
    unit = {2: 1, 3: 2.54}.get(tags.get(296, 2))
    dpi = (
        _dpi([float(tags[tag]) * unit for tag in RESOLUTION_TAGS[:2]]) if unit and 282 in tags and 283 in tags else None
    )
    icc, xmp, dropped = _as_bytes(tags.get(ICC_TAG)), _as_bytes(tags.get(XMP_TAG)), _lost_pixel_size(exif)
    return ImageMetadata(icc, _clean(exif), xmp, dpi, dropped=dropped)


def _axes(exif: Image.Exif) -> bytes:
    """The description of the axes that tifffile, ImageJ or OME wrote; empty if there is none."""
    description = _as_bytes(exif.get(DESCRIPTION)) or b""
    return description if AXES.match(description) else b""


def _lost_pixel_size(exif: Image.Exif) -> str | None:
    return "the pixel size of ImageJ or OME" if PIXEL_SIZE.search(_axes(exif)) else None


def _clean(source: Image.Exif) -> Image.Exif | None:
    exif = Image.Exif()
    _keep_text(source)
    exif.load(source.tobytes())
    _keep_text(exif)
    wrong = {DESCRIPTION} if _axes(exif) else set()  # for another size
    for tag in (LAYOUT_TAGS | wrong) & set(exif):
        del exif[tag]
    return exif if len(exif) else None


def _keep_text(exif: Image.Exif) -> None:
    """Makes bytes of text that is not ASCII, UTF-8 mostly: Pillow reads it as Latin-1 and writes question marks."""
    for tags in (exif, _details(exif)):
        for tag, value in list(tags.items()):
            if isinstance(value, str) and not value.isascii():
                tags[tag] = value.encode("latin-1", "replace")


def _details(exif: Image.Exif) -> dict:
    """The tags of the Exif IFD, to be changed in place; without the IFD nothing, as asking Pillow for it would add it."""
    return exif.get_ifd(EXIF_IFD) if EXIF_IFD in exif else {}


def _as_bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) and value else None


def _dpi(value: object) -> tuple[float, float] | None:
    with suppress(TypeError, ValueError, ZeroDivisionError):
        horizontal, vertical = map(float, value)  # type: ignore[call-overload]
        if 0 < horizontal < math.inf and 0 < vertical < math.inf:
            return horizontal, vertical
    return None

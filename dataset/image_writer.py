"""Writing images as PNG, JPEG, WebP or TIFF: 8 bits, 16 bits and floats, several frames, and metadata."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from common.errors import InputError, summarize_exception
from common.files import atomic_write
from dataset.image_metadata import EXIF_IFD, GPS_IFD, ICC_TAG, XMP_TAG, ImageMetadata
from dataset.png_chunks import SIGNATURE, XMP_KEYWORD, lost_outside_png, make_chunk

FORMATS = ("png", "jpg", "webp", "tif")
LARGEST_SIDE = {"jpg": 65_500, "webp": 16_383}
STRIP = 1 << 20  # bytes compressed at a time
TIFF_TEXT_TAGS = (270, 271, 272, 306, 315, 33432)  # description, make, model, time, artist, copyright


@dataclass
class Output:
    """What is written to a file. `frames`: uint8, uint16 or float32 in [0, 1]; HxW, HxWx2, HxWx3 or HxWx4.

    `durations`: of the frames of an animation in ms; empty for one image or pages. `loop`: as in `DecodedFile`.
    """

    frames: list[np.ndarray]
    metadata: ImageMetadata = field(default_factory=ImageMetadata)
    durations: list[float] = field(default_factory=list)
    loop: int = 0

    def fit(self, kind: str) -> list[str]:
        """Converts the frames to what the format `kind` can hold; returns what was lost. `InputError` if it cannot be."""
        lost = []
        height, width = (max(frame.shape[axis] for frame in self.frames) for axis in (0, 1))
        if max(height, width) > LARGEST_SIDE.get(kind, 1 << 31):
            raise InputError(
                f"{kind} holds at most {LARGEST_SIDE[kind]} pixels to a side, not {width}x{height}: use png or tif"
            )
        deep = any(frame.dtype != np.uint8 for frame in self.frames)
        if len(self.frames) > 1 and kind != "tif" and (deep or kind == "jpg" or not self.durations):
            what = "frames of an animation" if self.durations else f"pages{' of more than 8 bits' * deep}"
            raise InputError(
                f"{kind} does not hold {len(self.frames)} {what}: use {'png or webp' if self.durations else 'tif'}"
            )
        if deep and kind in ("jpg", "webp"):
            self.frames, lost = [narrow(frame) for frame in self.frames], [f"{kind} holds 8 bits per channel"]
        elif self.frames[0].dtype.kind == "f" and kind == "png":
            self.frames, lost = (
                [_to_16_bits(frame) for frame in self.frames],
                ["floats written with 16 bits, as png has none"],
            )
        if kind == "jpg" and _channels(self.frames[0]) in (2, 4):
            self.frames, lost = [_on_white(frame) for frame in self.frames], [*lost, "jpg has no alpha: put on white"]
        if kind == "tif" and self.durations:
            self.durations, lost = [], [*lost, "tif has no timing"]
        left_out = [] if kind == "png" else lost_outside_png(self.metadata.png_chunks, bool(self.metadata.icc))
        if kind == "jpg":
            self.metadata, too_long = self.metadata.fit_jpeg()
            left_out += too_long
        return [*lost, f"{kind} has no room for {' and '.join(left_out)}"] if left_out else lost


def write_output(path: Path, output: Output, quality: int | None = None) -> None:
    """Writes frames that `fit` the format of the suffix, atomically. `quality`: 1 to 100, of JPEG (95) and WebP (lossless)."""
    try:
        with atomic_write(path) as temporary:
            if all(frame.dtype == np.uint8 for frame in output.frames):
                _save_by_pillow(temporary, path.suffix[1:], output, quality)
            elif path.suffix == ".png":
                temporary.write_bytes(_png_16_bit(output.frames[0], output.metadata))
            else:
                _write_deep_tiff(temporary, output)
    except (RuntimeError, ValueError, TypeError, SystemError, struct.error) as error:  # odd metadata
        what = f"{path} cannot be encoded ({summarize_exception(error)})"
        raise InputError(f"{what}: try another --format or --strip_metadata") from None


def write_png(path: Path | str, image: np.ndarray) -> None:
    """Writes uint8 HxW, HxWx3 or HxWx4 as PNG; the final name appears only when the file is whole."""
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", compress_level=3)


def narrow(image: np.ndarray) -> np.ndarray:
    """uint16 or float32 in [0, 1] -> uint8, rounded."""
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return image if image.dtype == np.uint8 else np.floor(image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _to_16_bits(image: np.ndarray) -> np.ndarray:
    return np.round(image.clip(0, 1) * np.float32(65535)).astype(np.uint16)


def _channels(frame: np.ndarray) -> int:
    return 1 if frame.ndim == 2 else frame.shape[2]


def _on_white(frame: np.ndarray) -> np.ndarray:
    color, alpha = frame[:, :, :-1].astype(np.float32), frame[:, :, -1:].astype(np.float32) / 255
    flat = np.floor(color * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    return flat[:, :, 0] if flat.shape[2] == 1 else flat


def _save_by_pillow(path: Path, kind: str, output: Output, quality: int | None) -> None:
    frames = output.frames if kind == "tif" else _uniform(output.frames)
    images = [Image.fromarray(frame) for frame in frames]
    width, height = images[0].size
    metadata = output.metadata
    exif, xmp = metadata.exif_for(width, height), metadata.xmp_for(width, height)
    options: dict[str, Any] = {"icc_profile": metadata.icc, "dpi": metadata.dpi, "xmp": xmp}
    if kind == "png":
        info = PngImagePlugin.PngInfo()
        if xmp:
            info.add_itxt(XMP_KEYWORD.decode(), xmp.decode(errors="replace"))
        for name, content in metadata.png_chunks:
            info.add(name, content)
        options |= {"format": "PNG", "pnginfo": info, "compress_level": 3}
    elif kind == "jpg":
        quality = 95 if quality is None else quality
        options |= {"format": "JPEG", "quality": quality, "subsampling": 0 if quality >= 90 else 2, "optimize": True}
    elif kind == "webp":
        how = {"lossless": True, "quality": 70} if quality is None else {"quality": quality, "method": 6}
        options |= {"format": "WEBP", "exact": True, **how}
    else:
        nested = not {EXIF_IFD, GPS_IFD}.isdisjoint(exif)  # libtiff, which compresses, cannot write these
        options |= {"format": "TIFF", "compression": None if nested else "tiff_adobe_deflate"}
        if xmp:
            exif[XMP_TAG] = xmp
    if len(exif):
        options["exif"] = exif if kind == "tif" else exif.tobytes()
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:]}
        if output.durations:
            options |= {"duration": [round(each) for each in output.durations], "loop": output.loop}
    images[0].save(path, **{name: value for name, value in options.items() if value is not None})


def _uniform(frames: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Frames of one kind: RGB if one has color, with alpha if one has it."""
    counts = {_channels(frame) for frame in frames}
    if len(counts) == 1:
        return frames
    color, alpha = bool(counts & {3, 4}), bool(counts & {2, 4})
    made = []
    for frame in frames:
        planes = frame[:, :, None] if frame.ndim == 2 else frame
        base = planes[:, :, : 3 if planes.shape[2] > 2 else 1]
        parts = [np.repeat(base, 3, 2) if color and base.shape[2] == 1 else base]
        if alpha:
            opaque = np.full_like(base[:, :, :1], 255)
            parts.append(planes[:, :, -1:] if planes.shape[2] in (2, 4) else opaque)
        made.append(np.concatenate(parts, 2))
    return made


def _write_deep_tiff(path: Path, output: Output) -> None:
    """Pillow writes 16 bits and floats for gray only, OpenCV no metadata."""
    with tifffile.TiffWriter(path) as file:
        for frame in output.frames:
            metadata = output.metadata
            height, width = frame.shape[:2]
            exif, xmp = metadata.exif_for(width, height), metadata.xmp_for(width, height)
            texts = [(tag, exif[tag]) for tag in TIFF_TEXT_TAGS if tag in exif]
            tags = [(tag, 2, None, text if isinstance(text, bytes) else str(text), True) for tag, text in texts]
            blobs = [(XMP_TAG, 1, xmp), (ICC_TAG, 7, metadata.icc)]
            tags += [(tag, kind, len(data), data, True) for tag, kind, data in blobs if data]  # type: ignore[misc]
            resolution: dict[str, Any] = {"resolution": metadata.dpi, "resolutionunit": 2} if metadata.dpi else {}
            file.write(
                frame,
                photometric="rgb" if _channels(frame) > 2 else "minisblack",
                planarconfig="contig" if frame.ndim == 3 else None,
                extrasamples=["unassalpha"] if _channels(frame) in (2, 4) else None,
                compression="zlib",
                metadata=None,
                extratags=tags,
                contiguous=False,
                software=False,
                **resolution,
            )


def _png_16_bit(image: np.ndarray, metadata: ImageMetadata) -> bytes:
    """A PNG of uint16 pixels with metadata, which neither Pillow (gray only) nor OpenCV (no metadata) writes."""
    height, width = image.shape[:2]
    channels = _channels(image)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [make_chunk(b"IHDR", header)]
    chunks += [make_chunk(*each) for each in metadata.png_chunks if not (metadata.icc and each[0] == b"sRGB")]
    if metadata.icc:
        chunks.append(make_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        chunks.append(make_chunk(b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in metadata.dpi), 1)))
    exif = metadata.exif_for(width, height)
    if len(exif):
        chunks.append(make_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    if xmp := metadata.xmp_for(width, height):
        chunks.append(make_chunk(b"iTXt", XMP_KEYWORD + b"\0" * 5 + xmp))
    rows = image.reshape(height, -1).astype(">u2").view(np.uint8)
    packer, packed = zlib.compressobj(6), []
    for top in range(0, height, max(1, STRIP // rows.shape[1])):
        part = rows[top : top + max(1, STRIP // rows.shape[1])]
        # PNG filter 1: each pixel minus the pixel to its left
        filtered = np.ones((len(part), rows.shape[1] + 1), np.uint8)
        filtered[:, 1:] = part
        filtered[:, 1 + 2 * channels :] -= part[:, : -2 * channels]
        packed.append(packer.compress(filtered.tobytes()))
    chunks.append(make_chunk(b"IDAT", b"".join(packed) + packer.flush()))
    return SIGNATURE + b"".join(chunks) + make_chunk(b"IEND", b"")

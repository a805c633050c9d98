"""Upscales image files, with no HR to compare with, to PNG. Keeps alpha and gray, applies the EXIF orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError, error_context, escape_unprintable
from common.files import make_dir, realpath
from common.prefetch import BackgroundWriter, prefetch_map
from common.progress import progress
from dataset.images import DecodedImage, list_images, read_image, write_png
from dataset.imresize import imresize
from inference.upscaler import NetworkUpscaler, Upscale


def upscale_images(source: Path, folder: Path, upscale: Upscale) -> list[Path]:
    """Upscales an image, or each image of a folder, to `folder`/NAME_xSCALE.png and returns the files written.

    NAME is the file's stem, or its full name if inputs share a stem. Raises `InputError` if an input would be overwritten.
    """
    files = list_images(source) if source.is_dir() else [source]
    if not source.exists():
        raise InputError(f"--input {source}: no such file or folder")
    names = [file.stem for file in files]
    if len(set(names)) < len(names):  # a.png beside a.jpg
        names = [file.name for file in files]
    written = [folder / f"{name}_x{upscale.scale}.png" for name in names]
    if clash := {realpath(out) for out in written} & {realpath(file) for file in files}:
        raise InputError(f"{min(clash)} is itself an input and would be overwritten: choose another --sample_dir")
    make_dir(folder)
    reduced = 0
    bar = progress(written, desc=f"x{upscale.scale}", unit="image")
    with BackgroundWriter() as writer, prefetch_map(read_image, files) as images:
        for file, out, image in zip(files, bar, images, strict=True):
            with error_context(file):
                sr = upscale_image(image, upscale)
            writer(write_png, out, sr)
            reduced += image.converted == "16-bit"
    if reduced:
        print(f"{reduced} of 16 bits per channel written with 8")
    return written


def written_summary(written: list[Path], upscale: Upscale) -> str:
    """One line: the files that `upscale_images` wrote, in which precision and by which backend."""
    what = f"{len(written)} images to {written[0].parent}" if len(written) > 1 else str(written[0])
    how = f" ({upscale.precision}, {upscale.backend})" if isinstance(upscale, NetworkUpscaler) else ""
    return f"wrote {escape_unprintable(what)}{how}"


def upscale_image(image: DecodedImage, upscale: Upscale) -> np.ndarray:
    """The image at `scale` times the size, uint8: HxW if gray, else HxWx3; HxWx2 or HxWx4 with alpha (upscaled by bicubic)."""
    sr = upscale(image.rgb)
    if image.gray:
        sr = np.asarray(Image.fromarray(sr).convert("L"))
    if image.alpha is None:
        return sr
    return np.dstack([sr, imresize(image.alpha, upscale.scale)])

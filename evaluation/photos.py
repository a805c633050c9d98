"""Any picture, without an HR to compare with: file in, sharper PNG out. Alpha, gray and the EXIF turn are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError, naming, plain
from common.files import make_folder, real
from common.overlap import Behind, in_order
from common.progress import progress
from dataset.images import Picture, list_images, read_picture, write_png
from dataset.imresize import imresize
from evaluation.inference import NetworkUpscaler, Upscale


def upscale_photos(source: Path, folder: Path, upscale: Upscale) -> list[Path]:
    """Upscales a picture or each picture of a folder into `folder`/NAME_xSCALE.png and returns the files written.

    NAME is the file's stem, or its whole name where stems occur twice. `InputError` if an input would be overwritten.
    """
    files = list_images(source) if source.is_dir() else [source]
    if not source.exists():
        raise InputError(f"--input {source}: no such file or folder")
    names = [file.stem for file in files]
    if len(set(names)) < len(names):  # a.png beside a.jpg
        names = [file.name for file in files]
    written = [folder / f"{name}_x{upscale.scale}.png" for name in names]
    if clash := {real(out) for out in written} & {real(file) for file in files}:
        raise InputError(f"{min(clash)} is itself to be upscaled and would be overwritten: choose another --sample_dir")
    make_folder(folder)
    deep = 0
    bar = progress(written, desc=f"x{upscale.scale}", unit="image")
    with Behind() as behind, in_order(read_picture, files) as pictures:
        for file, out, picture in zip(files, bar, pictures, strict=True):
            with naming(file):
                sr = upscale_picture(picture, upscale)
            behind(write_png, out, sr)
            deep += picture.converted == "16-bit"
    if deep:
        print(f"{deep} of 16 bits per channel came out with 8")
    return written


def say_written(written: list[Path], upscale: Upscale) -> str:
    """A line on the files that `upscale_photos` wrote, and on how they were computed."""
    what = f"{len(written)} pictures to {written[0].parent}" if len(written) > 1 else str(written[0])
    how = f" ({upscale.precision}, {upscale.backend})" if isinstance(upscale, NetworkUpscaler) else ""
    return f"wrote {plain(what)}{how}"


def upscale_picture(picture: Picture, upscale: Upscale) -> np.ndarray:
    """uint8 HxW for a gray picture, HxWx3, or with alpha (upscaled by bicubic) HxWx2 or HxWx4, at `scale` times the size."""
    sr = upscale(picture.rgb)
    if picture.gray:
        sr = np.asarray(Image.fromarray(sr).convert("L"))
    if picture.alpha is None:
        return sr
    return np.dstack([sr, imresize(picture.alpha, upscale.scale)])

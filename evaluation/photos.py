"""Any picture, without an HR to compare with: file in, sharper PNG out. Alpha, gray and the EXIF turn are kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from common.files import make_folder
from common.progress import progress
from dataset.images import Picture, list_images, read_picture, write_png
from dataset.imresize import imresize
from evaluation.inference import Upscale


def upscale_photos(source: Path, folder: Path, upscale: Upscale) -> list[Path]:
    """Upscales a picture or each picture of a folder into `folder`/NAME_xSCALE.png and returns the files written."""
    files = list_images(source) if source.is_dir() else [source]
    if not source.exists():
        raise InputError(f"--input {source}: no such file or folder")
    make_folder(folder)
    stems = Counter(file.stem for file in files)
    written = []
    for file in progress(files, desc=f"x{upscale.scale}", unit="image"):
        name = file.stem if stems[file.stem] == 1 else file.name
        out = folder / f"{name}_x{upscale.scale}.png"
        write_png(out, upscale_picture(read_picture(file), upscale))
        written.append(out)
    return written


def upscale_picture(picture: Picture, upscale: Upscale) -> np.ndarray:
    """uint8 HxW for a gray picture, HxWx3, or with alpha (upscaled by bicubic) HxWx2 or HxWx4, at `scale` times the size."""
    sr = upscale(picture.rgb)
    if picture.gray:
        sr = np.asarray(Image.fromarray(sr).convert("L"))
    if picture.alpha is None:
        return sr
    return np.dstack([sr, imresize(picture.alpha, upscale.scale)])

"""Test sets of HR and LR pairs, found in any of the field's three layouts. Reads; upscales and measures nothing.

- the authors': `Set5/x2/img_001_SRF_2_HR.png` beside `..._LR.png`
- EDSR's benchmark archive: `Set5/HR/baby.png` and `Set5/LR_bicubic/X2/babyx2.png`
- a folder of HR images: the LR images are made on the fly by `imresize`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from common import SCALES
from common.errors import InputError, searched_in
from common.files import named_path, realpath
from dataset.images import EXTENSIONS, DecodedImage, list_images, read_image
from dataset.imresize import PADDING_MODES, imresize
from dataset.sources import TEST_SETS, download_command

LR_FOLDER = re.compile(r"/(\w+[_-])?LR(bic\w*|[_-]\w+)?(/[xX][0-9])?$")  # LR, LR_bicubic/X2, DIV2K_valid_LR_x8, ...
LR_NAME = re.compile(r"(^|[_-])LR$")


class MissingTestSetError(InputError):
    """The folder of a test set, or of one of its scales, does not exist; an incomplete one raises a plain `InputError`."""


@dataclass
class ImagePair:
    """An HR file and its LR file; None: the LR image is made from the HR image."""

    hr_path: Path
    lr_path: Path | None
    scale: int
    hr_info: DecodedImage | None = None  # once read: the metadata of the HR file

    @property
    def sr_name(self) -> str:
        """The authors' name for the SR image: the HR file's name with HR replaced by SR, as PNG."""
        stem = self.hr_path.stem
        return (stem[:-2] + "SR" if stem.endswith("HR") else stem) + ".png"

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """HR, cropped to `scale` times the LR size, and LR; uint8 HxWx3. `InputError` if their sizes do not match."""
        image, scale = read_image(self.hr_path), self.scale
        hr, self.hr_info = image.rgb, image.metadata_only()
        if self.lr_path is None:
            return modcrop_and_downscale(self.hr_path, hr, scale)
        lr = read_image(self.lr_path).rgb
        height, width = lr.shape[0] * scale, lr.shape[1] * scale
        if not (0 <= hr.shape[0] - height < scale and 0 <= hr.shape[1] - width < scale):
            raise InputError(
                f"{self.lr_path} is {lr.shape[1]}x{lr.shape[0]}, not 1/{scale} of {self.hr_path.name} "
                f"({hr.shape[1]}x{hr.shape[0]}): make the test set again with `python -m dataset.prepare`"
            )
        return hr[:height, :width], lr


@dataclass
class BenchmarkSet:
    """The pairs of one test set at one scale, in file-name order; `name` is its folder's."""

    name: str
    scale: int
    pairs: list[ImagePair]

    def __len__(self) -> int:
        return len(self.pairs)


def open_test_set(folder: Path | str, scale: int) -> BenchmarkSet:
    """Finds the pairs of `folder` at `scale` in any of the layouts; images are read later, one by one.

    Raises `MissingTestSetError` if the folder or the scale is missing (with the command that makes it) and `InputError`
    if a pair is incomplete.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file: name the folder of a test set")
    if not folder.is_dir():
        get = f"download it with `{download_command(folder.name, folder.parent)}`, or "
        raise MissingTestSetError(
            f"{folder} does not exist{searched_in(folder)}: {get if folder.name in TEST_SETS else ''}make it from HR images "
            f"with `python -m dataset.prepare --hr FOLDER --name {folder.name} --out {folder.parent} --scales {scale}`"
        )
    if _is_authors_layout(folder):
        pairs = _authors_layout(folder, scale)
    elif (folder / "HR").is_dir():
        pairs = _edsr_layout(folder, scale)
    else:
        pairs = [ImagePair(file, None, scale) for file in list_hr_images(folder)]
    names = [pair.sr_name for pair in pairs]
    if twice := next((pair.hr_path for pair in pairs if names.count(pair.sr_name) > 1), None):
        raise InputError(f"{twice} shares its name with another HR image, but for the ending: rename one of them")
    return BenchmarkSet(named_path(folder).name, scale, pairs)


def modcrop_and_downscale(
    path: Path, hr: np.ndarray, scale: int, padding: str = "replicate"
) -> tuple[np.ndarray, np.ndarray]:
    """HR, which is `hr` (uint8 HxWx3) cropped to a multiple of `scale`, and LR, which is `imresize` of HR.

    Raises `InputError` naming its file `path` if it is smaller than `scale`.
    """
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    if hr.size == 0:
        raise InputError(f"{path} is smaller than {scale}x{scale}: remove it")
    return hr, imresize(hr, Fraction(1, scale), padding)


def list_hr_images(folder: Path) -> list[Path]:
    """`list_images` of a folder of HR images. `InputError` if it has LR images, also or only: by their names or its own."""
    files = list_images(folder)
    stems = {file.stem for file in files}
    in_lr_folder = LR_FOLDER.search(f"/{realpath(folder).as_posix()}")
    if in_lr_folder or all(LR_NAME.search(stem) for stem in stems):
        raise InputError(
            f"{folder} holds LR images by {'its name' if in_lr_folder else 'their names'}, such as {files[0].name}, but HR "
            "images are needed: name the folder of those, or rename it"
        )
    if pair := next((file for file in files if file.stem.endswith("_HR") and f"{file.stem[:-2]}LR" in stems), None):
        raise InputError(
            f"{folder} holds {pair.name} beside its LR image, as a test set has them in its folders x2, x3 and x4: name the "
            "folder around those, or one of HR images alone"
        )
    return files


def available_scales(folder: Path) -> list[int]:
    """The scales at which the folder of a test set can be opened, in any layout; none if it has no images."""
    if _is_authors_layout(folder):
        return [scale for scale in SCALES if (folder / f"x{scale}").is_dir()]
    if (folder / "HR").is_dir() and (folder / "LR_bicubic").is_dir():
        return [scale for scale in SCALES if (folder / "LR_bicubic" / f"X{scale}").is_dir()]
    place = folder / "HR" if (folder / "HR").is_dir() else folder
    return list(SCALES) if any(file.suffix.lower() in EXTENSIONS for file in place.iterdir()) else []


def normalize_name(name: str) -> str:
    """The name of a test set in one spelling: "BSD-100" and "bsd 100" become "bsd100"."""
    return re.sub(r"[-_ ]", "", name.lower())


def lr_mismatch(hr: np.ndarray, lr: np.ndarray, scale: int) -> float:
    """The fraction of values of `lr` that differ from our resize of `hr`, by the closer of the two paddings."""
    return min(float(np.mean(imresize(hr, Fraction(1, scale), padding) != lr)) for padding in PADDING_MODES)


def _is_authors_layout(folder: Path) -> bool:
    return any((folder / f"x{each}").is_dir() for each in (*SCALES, 8))


def _authors_layout(folder: Path, scale: int) -> list[ImagePair]:
    place = folder / f"x{scale}"
    if not place.is_dir():
        have = ", ".join(sorted(each.name for each in folder.glob("x[0-9]")))
        known = folder.name in TEST_SETS
        make = download_command(folder.name, folder.parent, [scale]) if known else "python -m dataset.prepare"
        raise MissingTestSetError(f"{folder} has {have} but no x{scale}: make it with `{make}`")
    files = list_images(place)
    pairs, used = [], set()
    for file in files:
        if file.stem.endswith("_HR"):
            lr_path = find_lr(file, f"{file.stem[:-2]}LR", files)
            if lr_path is None:
                raise InputError(
                    f"{place / f'{file.stem[:-2]}LR{file.suffix}'} is missing, the LR image of {file.name}"
                )
            pairs.append(ImagePair(file, lr_path, scale))
            used |= {file, lr_path}
    if orphan := next((file for file in files if file not in used), None):
        raise InputError(f"{orphan} belongs to no pair: names must be NAME_HR.png beside NAME_LR.png")
    return pairs


def _edsr_layout(folder: Path, scale: int) -> list[ImagePair]:
    place = folder / "LR_bicubic" / f"X{scale}"
    high = list_images(folder / "HR")
    if not (folder / "LR_bicubic").is_dir():
        return [ImagePair(file, None, scale) for file in high]
    if not place.is_dir():
        raise MissingTestSetError(f"{place / f'{high[0].stem}x{scale}.png'} is missing, the LR image of {high[0].name}")
    lr_paths = pair_by_stem(high, place, scale)
    return [ImagePair(file, lr_path, scale) for file, lr_path in zip(high, lr_paths, strict=True)]


def pair_by_stem(high: list[Path], low: Path, scale: int) -> list[Path]:
    """The LR image of each HR image: `low`/NAMEx2.png for NAME.png, with any suffix. Raises `InputError` if one of either
    kind lacks the other.
    """
    files = list_images(low)
    pairs = [(file, find_lr(file, f"{file.stem}x{scale}", files)) for file in high]
    for file, lr_path in pairs:
        if lr_path is None:
            raise InputError(f"{low / f'{file.stem}x{scale}{file.suffix}'} is missing, the LR image of {file.name}")
    found = [lr_path for _, lr_path in pairs if lr_path]
    used = set(found)
    if orphan := next((file for file in files if file not in used), None):
        raise InputError(f"{orphan} belongs to no pair: no image in {high[0].parent} has its name")
    return found


def find_lr(hr_path: Path, stem: str, files: list[Path]) -> Path | None:
    """The file with this stem, if possible with the suffix of `hr_path`."""
    fits = [file for file in files if file.stem == stem]
    return next((file for file in fits if file.suffix.lower() == hr_path.suffix.lower()), fits[0] if fits else None)

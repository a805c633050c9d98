"""Precomputed SR images of other methods: matches them with a test set and measures them with the code used for ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from common import SCALES
from common.errors import InputError
from common.progress import progress
from dataset.benchmark_set import BenchmarkSet, ImagePair
from dataset.images import EXTENSIONS, FORMATS, read_rgb
from evaluation.evaluate import EvalResult, ImageResult, mean_row
from evaluation.metrics import compute_scores
from evaluation.paper.discovery import known_set


def parse_compare(text: str) -> tuple[str, Path]:
    """ "NAME=FOLDER", for argparse."""
    name, equals, folder = text.partition("=")
    if not (name.strip() and equals and folder):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FOLDER")
    return " ".join(name.split()), Path(folder)


def find_sr(folder: Path, pair: ImagePair) -> Path | None:
    """The SR image of `pair` in `folder`, by the authors' naming, the HR file's, or that plus the scale; None if missing."""
    stem, scale = pair.hr_path.stem, pair.scale
    names = (pair.sr_name, f"{stem}.png", f"{stem}x{scale}.png", f"{stem}_x{scale}.png", f"{stem}_x{scale}_SR.png")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def require_sr(folder: Path, pair: ImagePair) -> Path:
    """Like `find_sr`, but raises an `InputError` with the accepted names if the image is missing."""
    if file := find_sr(folder, pair):
        return file
    raise InputError(
        f"{folder} has neither {pair.sr_name} nor {pair.hr_path.stem}.png: name a folder of SR images (PNG)"
    )


def measure_folder(folder: Path, test_set: BenchmarkSet) -> EvalResult:
    """Measures the SR image of each pair in `folder`. Raises `InputError` if one is missing or has another size."""
    rows = []
    for pair in progress(test_set.pairs, desc=f"{folder.name}, {test_set.name} x{test_set.scale}", unit="image"):
        file = require_sr(folder, pair)
        try:
            rows.append(ImageResult(pair.sr_name, compute_scores(read_rgb(file), pair.read()[0], pair.scale), 0.0))
        except InputError as error:
            raise InputError(f"{error} ({file})") from None
    return EvalResult(rows, mean_row(rows), 0.0)


def match_folders(name: str, root: Path, test_sets: list[BenchmarkSet]) -> dict[tuple[str, int], Path]:
    """Finds the folders of SR images in `root`, laid out as SET/xSCALE/ or of a single set: (test set, scale) -> folder.

    Without SET or xSCALE in the path, the names and sizes of the images decide. Raises `InputError` if nothing matches or if
    one folder matches twice.
    """
    if not root.is_dir():
        raise InputError(f"--compare {name}={root}: no such folder")
    inner = {known.name: each for each in sorted(root.iterdir()) if each.is_dir() and (known := known_set(each.name))}
    found: dict[tuple[str, int], Path] = {}
    for test_set in test_sets:
        known = known_set(test_set.name)
        top = inner.get(known.name) if known else None
        if inner and top is None:
            continue
        place = _locate(top or root, test_set.scale)
        explicit = top is not None and place != top  # both SET and xSCALE are in the path
        if place is not None and (explicit or _fits(place, test_set)):
            found[test_set.name, test_set.scale] = place
    for key, place in found.items():
        if twice := next((other for other, where in found.items() if where == place and other != key), None):
            raise InputError(
                f"--compare {name}={root}: the images in {place} would match {key[0]} x{key[1]} and "
                f"{twice[0]} x{twice[1]}: lay them out as SET/xSCALE/"
            )
    if not found:
        sets = ", ".join(f"{each.name} x{each.scale}" for each in test_sets) or "none"
        raise InputError(
            f"--compare {name}={root}: holds SR images (PNG) of none of the test sets found ({sets}); "
            "lay them out as SET/xSCALE/"
        )
    return found


def _locate(top: Path, scale: int) -> Path | None:
    """The folder of the images for `scale` in that of one set, in the layout of our benchmark or a common other one."""
    places = [top / f"{x}{scale}{sr}" for x in "xX" for sr in ("/SR", "")]
    if not any((top / f"{x}{each}").is_dir() for x in "xX" for each in SCALES):
        places += [top / "SR", top]
    return next((each for each in places if _holds_images(each)), None)


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in EXTENSIONS for file in folder.iterdir())


def _fits(folder: Path, test_set: BenchmarkSet) -> bool:
    first = find_sr(folder, test_set.pairs[0])
    if first is None or not all(find_sr(folder, pair) for pair in test_set.pairs):
        return False
    try:
        with Image.open(first, formats=FORMATS) as image:
            size = image.size
    except Exception:  # of a damaged file Pillow raises nearly anything
        raise InputError(f"{first} is not a readable image: replace or remove it") from None
    return size == test_set.pairs[0].read()[0].shape[1::-1]

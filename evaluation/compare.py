"""Other people's SR pictures: finding them beside a test set's HR, and measuring them by the same code as ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from common.errors import InputError
from common.progress import progress
from common.scales import SCALES
from dataset.images import EXTENSIONS, FORMATS, read_rgb
from dataset.testset import TestPair, TestSet
from evaluation.benchmark import Result, Row, mean_row
from evaluation.inventory import known_set
from evaluation.metrics import measure


def parse_compare(text: str) -> tuple[str, Path]:
    """ "NAME=FOLDER", for argparse."""
    name, equals, folder = text.partition("=")
    if not (name.strip() and equals and folder):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FOLDER")
    return " ".join(name.split()), Path(folder)


def find_sr(folder: Path, pair: TestPair) -> Path | None:
    """The SR picture of `pair` in `folder`, under the authors' name, the HR file's, or that with the scale; else None."""
    stem, scale = pair.hr_path.stem, pair.scale
    names = (pair.sr_name, f"{stem}.png", f"{stem}x{scale}.png", f"{stem}_x{scale}.png", f"{stem}_x{scale}_SR.png")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def matching_sr(folder: Path, pair: TestPair) -> Path:
    """`find_sr`, or an `InputError` with the names that would do."""
    if file := find_sr(folder, pair):
        return file
    raise InputError(
        f"{folder} has neither {pair.sr_name} nor {pair.hr_path.stem}.png: name a folder of SR pictures (PNG)"
    )


def measure_folder(folder: Path, test_set: TestSet) -> Result:
    """Measures the SR picture of each pair in `folder`. `InputError` names one that is missing or of another size."""
    rows = []
    for pair in progress(test_set.pairs, desc=f"{folder.name}, {test_set.name} x{test_set.scale}", unit="image"):
        file = matching_sr(folder, pair)
        try:
            rows.append(Row(pair.sr_name, measure(read_rgb(file), pair.read()[0], pair.scale), 0.0))
        except InputError as error:
            raise InputError(f"{error} ({file})") from None
    return Result(rows, mean_row(rows), 0.0)


def assign(name: str, root: Path, test_sets: list[TestSet]) -> dict[tuple[str, int], Path]:
    """(test set, scale) -> the folder with its SR pictures below `root`, which is SET/xSCALE/, or of one set alone.

    In a folder of one set, and where no xSCALE says it, the pictures' names and sizes decide. Raises `InputError` where
    nothing fits or one folder would serve twice.
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
        place = _pictures(top or root, test_set.scale)
        told = top is not None and place != top  # both SET and xSCALE are in the path
        if place is not None and (told or _fits(place, test_set)):
            found[test_set.name, test_set.scale] = place
    for key, place in found.items():
        if twice := next((other for other, where in found.items() if where == place and other != key), None):
            raise InputError(
                f"--compare {name}={root}: the pictures in {place} would serve {key[0]} x{key[1]} and "
                f"{twice[0]} x{twice[1]}: lay them out as SET/xSCALE/"
            )
    if not found:
        sets = ", ".join(f"{each.name} x{each.scale}" for each in test_sets) or "none"
        raise InputError(
            f"--compare {name}={root}: holds SR pictures (PNG) of none of the test sets found ({sets}); "
            "lay them out as SET/xSCALE/"
        )
    return found


def _pictures(top: Path, scale: int) -> Path | None:
    """Where the pictures for `scale` lie below the folder of one set, as our own benchmark or others lay them out."""
    places = [top / f"{x}{scale}{sr}" for x in "xX" for sr in ("/SR", "")]
    if not any((top / f"{x}{each}").is_dir() for x in "xX" for each in SCALES):
        places += [top / "SR", top]
    return next((each for each in places if _holds_pictures(each)), None)


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in EXTENSIONS for file in folder.iterdir())


def _fits(folder: Path, test_set: TestSet) -> bool:
    first = find_sr(folder, test_set.pairs[0])
    if first is None or not all(find_sr(folder, pair) for pair in test_set.pairs):
        return False
    try:
        with Image.open(first, formats=FORMATS) as image:
            size = image.size
    except Exception:  # of a damaged file Pillow raises nearly anything
        raise InputError(f"{first} is not a readable picture: replace or remove it") from None
    return size == test_set.pairs[0].read()[0].shape[1::-1]

"""Precomputed SR images of other methods: matches them with a test set and measures them with the code used for ours."""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from common import SCALES
from common.errors import InputError, error_context, searched_in, translate_access_errors
from common.files import named_path, realpath
from common.progress import progress
from dataset.benchmark_set import BenchmarkSet, ImagePair, normalize_name
from dataset.images import EXTENSIONS, FORMATS, read_rgb
from evaluation.evaluate import EvalResult, ImageResult, mean_row
from evaluation.metrics import compute_scores
from evaluation.paper.discovery import known_set

LOSSLESS = EXTENSIONS - {".jpg", ".jpeg"}  # of SR images, in lower or upper case
HR_MARK = re.compile(r"(?<=.)(_SRF_\d)?_?HR$")  # at the end of the authors' names of HR images
SUFFIX = re.compile(r"(x\d|\dx|SR|HR|LR)?([^A-Za-z0-9].*)?", re.IGNORECASE)  # what may follow the HR image's name
SCALE = re.compile(r"(?<!\d)(?:x|SRF_)([2348])(?![\dx])|(?<![\dx])([2348])x(?!\d)", re.IGNORECASE)
NOT_SR = re.compile(r"(^|[^A-Za-z0-9])(HR|LR|LQ|GT|bicubic)$", re.IGNORECASE)  # SR images only if there are no others
LEVEL = re.compile(r"x\d|SR|HR|LR", re.IGNORECASE)  # folders of a set, not of several
Found = dict[str, dict[Path, list[Path]]]  # suffix -> HR file -> files of the HR image's name and this suffix


def add_compare_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--compare NAME=FOLDER`, which may be given several times: a list of (name, folder)."""
    parser.add_argument(
        "--compare",
        type=parse_compare,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="SR images of another program, flat or SET/xSCALE/SR; may be repeated",
    )


def parse_compare(text: str) -> tuple[str, Path]:
    """ "NAME=FOLDER", for argparse."""
    name, equals, folder = text.partition("=")
    if not (name.strip() and equals and folder):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FOLDER")
    return " ".join(name.split()), Path(folder)


def check_names(compare: list[tuple[str, Path]], taken: Iterable[str]) -> None:
    """Raises `InputError` if a method of `compare` has the name of one of ours, which are `taken`, or of another method."""
    used = {name.casefold() for name in taken}
    for name, root in compare:
        if name.casefold() in used:
            raise InputError(f"--compare {name}={root}: there is a row {name} already, give it another name")
        used.add(name.casefold())


def match_sr(folder: Path, pairs: list[ImagePair]) -> dict[Path, Path]:
    """HR file -> its SR image in `folder`, by the names that SR programs write: baby.png, babyx2.png, baby_x2_SR.png, ...

    Such a name is the HR file's, with or without the authors' `_SRF_2_HR`, plus a suffix that all images of the folder share.
    Pairs without an SR image are left out. Raises `InputError` with two files if both could be the SR image of one pair.
    """
    return _choose(folder, _find(folder, pairs), {pair.hr_path for pair in pairs})


def require_sr(root: Path, pair: ImagePair) -> Path:
    """The SR image of a single pair, whose HR image may lie among others. `InputError` if it is missing or ambiguous.

    `root`: as in `locate_sr`; the test set is named like one of the folders around the HR image.
    """
    parents = [folder for path in (named_path, realpath) for folder in path(pair.hr_path).parents[:3]]
    around = list(dict.fromkeys(folder.name for folder in parents if folder.name))
    place = locate_sr(root, around, pair.scale)[0] or root
    beside = _entries(pair.hr_path.parent)
    others = [each for each in beside if each.suffix.lower() in EXTENSIONS and not each.stem.endswith("LR")]
    pairs = [pair, *(ImagePair(each, None, pair.scale) for each in others if each != pair.hr_path)]
    for folder in dict.fromkeys((place, root)):
        if file := _choose(folder, _find(folder, pairs), {pair.hr_path}).get(pair.hr_path):
            return file
    hint = "" if _holds_images(place) else f"; SET is the name of a folder around {pair.hr_path}: {', '.join(around)}"
    for other in (each for each in _entries(root) if each.is_dir()):
        if (inner := _locate(other, pair.scale)) and match_sr(inner, [pair]):
            hint += f"; {inner} has one: name that folder if the image is of {other.name}"
            break
    raise InputError(_missing(place, pair) + hint)


def locate_sr(root: Path, set_names: Sequence[str], scale: int) -> tuple[Path | None, bool]:
    """The folder of the SR images of a test set: SET/xSCALE/SR, SET/xSCALE, SET/SR or SET in `root`, or these without SET.

    `set_names`: what the folder SET may be called, the likeliest first; names of the paper's sets in any spelling, with or
    without EDSR's "results-". None if no such folder has images. The second value: whether SET and xSCALE are in the path, so
    that the images need not tell which set they are of. Raises `InputError` if there is no folder `root`.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder{searched_in(root)}")
    folders = [each for each in _entries(root) if each.is_dir() and not LEVEL.fullmatch(each.name)]
    inner = {_set_key(each.name.removeprefix("results-")): each for each in folders}
    top = next((inner[key] for key in map(_set_key, set_names) if key in inner), None)
    place = _locate(top or root, scale)
    return place, top is not None and place not in (None, top, top / "SR")


def _set_key(name: str) -> str:
    benchmark = known_set(name)
    return benchmark.name if benchmark else normalize_name(name)


def _entries(folder: Path) -> list[Path]:
    """The files and folders in `folder`, sorted; none if there is no such folder."""
    with translate_access_errors(folder):
        return sorted(folder.iterdir()) if folder.is_dir() else []


def _find(folder: Path, pairs: list[ImagePair]) -> Found:
    found: Found = defaultdict(dict)
    files = [file for file in _entries(folder) if file.suffix.lower() in LOSSLESS and file.is_file()]
    for pair in pairs:
        base = _base(pair.hr_path)
        for file in files:
            suffix = file.stem[len(base) :]
            if not file.stem.startswith(base) or not SUFFIX.fullmatch(suffix):
                continue
            scales = {int(a or b) for a, b in SCALE.findall(suffix)}
            if not scales or pair.scale in scales:
                found[suffix].setdefault(pair.hr_path, []).append(file)
    return found


def _choose(folder: Path, found: Found, wanted: set[Path]) -> dict[Path, Path]:
    """The files of the suffix that fits most HR images. Of a_b_SR.png, a_b is the HR image if there are a and a_b."""
    found = {suffix: files for suffix, files in found.items() if wanted & files.keys()}
    found = {suffix: files for suffix, files in found.items() if not NOT_SR.search(suffix)} or found
    if not found:
        return {}
    best = max(found.values(), key=lambda files: (len(files), sum(len(_base(hr)) for hr in files)))
    taken = {file for files in best.values() for file in files}
    for hr in sorted(wanted):
        others = [file for files in found.values() for file in files.get(hr, ()) if file not in taken]
        if len(rivals := [*best.get(hr, ()), *others]) > 1:
            raise InputError(
                f"{folder} has {rivals[0].name} and {rivals[1].name}, and both could be the SR image of {hr.name}: "
                "move one of them away"
            )
    return {hr: files[0] for hr, files in best.items() if hr in wanted}


def _base(hr: Path) -> str:
    return HR_MARK.sub("", hr.stem)


def _missing(folder: Path, pair: ImagePair) -> str:
    """What was looked for as the SR image of a pair in a folder without it, and what is there instead."""
    base = _base(pair.hr_path)
    names = dict.fromkeys((pair.sr_name, f"{base}.png", f"{base}x{pair.scale}.png"))
    images = [file.name for file in _entries(folder) if file.suffix.lower() in EXTENSIONS]
    if not images:
        level = f"x{pair.scale}"
        why = f"it holds no images, nor do SET/{level}/SR, SET/{level}, {level}/SR, {level} and SR in it"
    elif not any(name.lower().endswith(tuple(LOSSLESS)) for name in images):
        why = f"it holds only JPEG images, such as {images[0]}, but SR images must be lossless, such as PNG"
    else:
        why = f"it holds images of other names or suffixes, such as {images[0]}"
    return f"{folder} has neither {' nor '.join(names)} nor {base}_ANYTHING.png: {why}"


def measure_folder(folder: Path, test_set: BenchmarkSet) -> EvalResult:
    """Measures the SR image of each pair in `folder`. Raises `InputError` if one is missing or has another size."""
    rows, found = [], match_sr(folder, test_set.pairs)
    for pair in progress(test_set.pairs, desc=f"{folder.name}, {test_set.name} x{test_set.scale}", unit="image"):
        if (file := found.get(pair.hr_path)) is None:
            raise InputError(_missing(folder, pair))
        sr, (hr, _) = read_rgb(file), pair.read()
        with error_context(file):
            rows.append(ImageResult(pair.sr_name, compute_scores(sr, hr, pair.scale), 0.0))
    return EvalResult(rows, mean_row(rows), 0.0)


def match_folders(name: str, root: Path, test_sets: list[BenchmarkSet]) -> dict[tuple[str, int], Path]:
    """Finds the folders of SR images in `root`, as `locate_sr` does: (test set, scale) -> folder.

    Without SET or xSCALE in the path, the names and sizes of the images decide. Raises `InputError` if nothing matches or if
    an image matches twice.
    """
    found: dict[tuple[str, int], Path] = {}
    taken: dict[Path, BenchmarkSet] = {}  # by image, where the path does not say which set and scale it is of
    misfits: list[tuple[bool, str]] = []  # whether there are no images, and what is wrong
    for test_set in test_sets:
        with error_context(f"--compare {name}"):
            place, explicit = locate_sr(root, [test_set.name], test_set.scale)
        why = None if explicit else _misfit(place or root, test_set)
        if place is not None and why is None:
            found[test_set.name, test_set.scale] = place
            for file in () if explicit else match_sr(place, test_set.pairs).values():
                if (other := taken.setdefault(file, test_set)) is not test_set:
                    raise InputError(
                        f"--compare {name}={root}: the images in {place} would match {other.name} x{other.scale} and "
                        f"{test_set.name} x{test_set.scale}: lay them out as SET/xSCALE/"
                    )
        elif why:
            misfits.append((place is None, why))
    if not found:
        sets = ", ".join(f"{each.name} x{each.scale}" for each in test_sets) or "none"
        why = "".join(f"; {why}" for _, why in sorted(misfits, key=lambda each: each[0])[:1])
        raise InputError(f"--compare {name}={root}: holds SR images of none of the test sets found ({sets}){why}")
    return found


def _locate(top: Path, scale: int) -> Path | None:
    """The folder of the images for `scale` in that of one set, in the layout of our benchmark or a common other one."""
    places = [top / f"{x}{scale}{sr}" for x in "xX" for sr in ("/SR", "")]
    if not any((top / f"{x}{each}").is_dir() for x in "xX" for each in SCALES):
        places += [top / "SR", top]
    return next((each for each in places if _holds_images(each)), None)


def _holds_images(folder: Path) -> bool:
    return any(file.suffix.lower() in EXTENSIONS for file in _entries(folder))


def _misfit(folder: Path, test_set: BenchmarkSet) -> str | None:
    """Why the images in `folder` are not those of a test set: there is none of its names, or the first is of another size.

    If only some are missing, measuring says which.
    """
    found = match_sr(folder, test_set.pairs)
    if (pair := next((pair for pair in test_set.pairs if pair.hr_path in found), None)) is None:
        return _missing(folder, test_set.pairs[0])
    try:
        with Image.open(found[pair.hr_path], formats=FORMATS) as image:
            (width, height), (rows, columns) = image.size, pair.read()[0].shape[:2]
    except Exception:  # of a damaged file Pillow raises nearly anything; measuring it says what is wrong
        return None
    if (width, height) == (columns, rows):
        return None
    return f"{found[pair.hr_path]} is {width}x{height}, but {pair.hr_path.name} {columns}x{rows}"

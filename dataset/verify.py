"""Is a test set the published one? Compares image count, sizes and pixels with `published_sets.json`. Changes nothing.

Command line: `python -m dataset.prepare --verify FOLDER`, any layout of `dataset/benchmark_set.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from common.errors import InputError, searched_in
from common.files import named_path
from common.progress import progress
from dataset.benchmark_set import available_scales, normalize_name, open_test_set
from dataset.images import list_images
from dataset.imresize import imresize
from dataset.sources import download_command

PUBLISHED = Path(__file__).with_name("published_sets.json")
AS_PUBLISHED = "as published"


@dataclass
class PairDigest:
    """A pair of images reduced to its HR file's name, two SHA-256 digests, and whether LR is our resize of HR."""

    name: str
    hr: bytes
    lr: bytes
    our_resize: bool


def verify(folder: Path, scales: list[int] | None = None) -> None:
    """Prints for each scale (None: all that exist), for HR and LR, whether it is as published, or what differs.

    Raises `InputError` after that if anything differs, a scale is missing or nothing could be compared, and at once for
    an unknown test set or a missing folder.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file: name the folder of a test set")
    if re.fullmatch(r"x[0-9]", (place := named_path(folder)).name):
        raise InputError(f"{folder} is one scale of a test set: name the folder around it, {place.parent.name}")
    name, published = published_set(place.name)
    if not folder.is_dir():
        get = download_command(name, folder.parent)
        raise InputError(f"{folder} does not exist{searched_in(folder)}: download it with `{get}`")
    wrong, compared = [], 0
    scales = scales or available_scales(folder)
    if not scales:
        list_images(folder)  # whose error says where images are instead
    for scale in scales:
        if f"x{scale}" not in published:
            print(f"{name} x{scale}: not compared, its published hash is not known")
            continue
        for kind, verdict in compare(folder, scale, published[f"x{scale}"]).items():
            print(f"{name} x{scale} {kind}: {verdict}")
            compared += 1
            wrong += [] if verdict.startswith(AS_PUBLISHED) else [f"x{scale} {kind}"]
    if not compared:
        raise InputError(f"{folder} has nothing to compare: of {name} the hashes of {', '.join(published)} are known")
    if wrong:
        raise InputError(
            f"{folder} is not as published ({', '.join(wrong)}): docs/measuring.md says how to get it right"
        )


def published_set(name: str) -> tuple[str, dict]:
    """The usual name of a test set in any spelling, and {"x2": {"HR": {"images", "sha256"}, "LR": ...}, ...}."""
    table = json.loads(PUBLISHED.read_text())
    key = normalize_name(name)
    known = {each.lower(): each for each in table["sets"]} | table["aliases"]
    if key not in known:
        raise InputError(f"nothing is known of a published set called {name}: known are {', '.join(table['sets'])}")
    return known[key], table["sets"][known[key]]


def compare(folder: Path, scale: int, published: dict) -> dict[str, str]:
    """{"HR": verdict, "LR": verdict}: `AS_PUBLISHED` and the image count, or what differs and what to do about it."""
    try:
        test_set = open_test_set(folder, scale)
        pairs = test_set.pairs
        digests = []
        for pair in progress(pairs, desc=f"{test_set.name} x{scale}", unit="image"):
            hr, lr = pair.read()
            ours = pair.lr_path is None or np.array_equal(imresize(hr, Fraction(1, scale)), lr)
            digests.append(PairDigest(pair.hr_path.name, _digest(hr), _digest(lr), ours))
    except InputError as error:
        return {"HR and LR": str(error)}
    counts = {kind: published[kind]["images"] for kind in ("HR", "LR")}
    if any(count != len(digests) for count in counts.values()):
        return {kind: f"{len(digests)} images, but {count} are published" for kind, count in counts.items()}
    same = {kind: _same(digests, kind.lower(), published[kind]["sha256"]) for kind in ("HR", "LR")}
    made = ", made from HR" if pairs[0].lr_path is None else ""
    verdicts = {"HR": f"{AS_PUBLISHED} ({len(digests)} images)", "LR": f"{AS_PUBLISHED} ({len(digests)} images{made})"}
    if not same["HR"]:
        verdicts["HR"] = (
            f"{len(digests)} images as published, but other pixels: another crop, JPEG or a conversion; get the HR images again"
        )
    if not same["LR"]:
        verdicts["LR"] = _why_lr(digests, same["HR"])
    return verdicts


def _why_lr(digests: list[PairDigest], hr_is_right: bool) -> str:
    """Published LR images are our resize of the published HR images, so those that are not can be named."""
    others = [each.name for each in digests if not each.our_resize]
    if not hr_is_right:
        return f"{len(digests)} images as published, but other pixels: get the HR images right, then make LR from them"
    names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    return (
        f"{len(others)} of {len(digests)} images are not the benchmarks' resize of their HR image ({names}): made with "
        "another tool; make them again from the HR images with `python -m dataset.prepare`"
    )


def _same(digests: list[PairDigest], kind: str, sha256: str) -> bool:
    """Whether the images have this hash, in file-name order or, for numbers without leading zeros, in numeric order."""
    orders = (
        digests,
        sorted(digests, key=lambda each: [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", each.name)]),
    )
    return any(
        hashlib.sha256(b"".join(getattr(each, kind) for each in order)).hexdigest() == sha256 for order in orders
    )


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()

"""Is a test set the published one? Compares image count, sizes and pixels with `published_sets.json`. Repairs nothing.

Command line: `python -m dataset.prepare --verify FOLDER`, any layout of `dataset/testset.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import real
from common.progress import progress
from dataset.imresize import imresize
from dataset.testset import open_test_set, plain_name, scales_of

PUBLISHED = Path(__file__).with_name("published_sets.json")
AS_PUBLISHED = "as published"


@dataclass
class Seen:
    """What is kept of a pair of images: its HR file's name, 32-byte digests, whether LR is our resize of HR."""

    name: str
    hr: bytes
    lr: bytes
    our_resize: bool


def verify(folder: Path, scales: list[int] | None = None) -> None:
    """Prints for each scale (None: all that are there) and for HR and LR apart whether it is as published, or what is not.

    `InputError`, after all is printed, if anything differs, a scale is not there or nothing could be compared; at once for a
    set of which nothing is known and for a folder that is not there.
    """
    name, published = published_set(real(folder).name)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: docs/measuring.md says how to get {name}")
    wrong, compared = [], 0
    for scale in scales or scales_of(folder):
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
    """The usual name of a test set, and {"x2": {"HR": {"images", "sha256"}, "LR": ...}, ...}; any spelling will do."""
    table = json.loads(PUBLISHED.read_text())
    plain = plain_name(name)
    known = {each.lower(): each for each in table["sets"]} | table["also_called"]
    if plain not in known:
        raise InputError(f"nothing is known of a published set called {name}: known are {', '.join(table['sets'])}")
    return known[plain], table["sets"][known[plain]]


def compare(folder: Path, scale: int, published: dict) -> dict[str, str]:
    """{"HR": verdict, "LR": verdict}: `AS_PUBLISHED` and the image count, or what differs and what to do about it."""
    try:
        pairs = open_test_set(folder, scale).pairs
        seen = []
        for pair in progress(pairs, desc=f"{folder.name} x{scale}", unit="image"):
            hr, lr = pair.read()
            ours = pair.lr_path is None or np.array_equal(imresize(hr, Fraction(1, scale)), lr)
            seen.append(Seen(pair.hr_path.name, _digest(hr), _digest(lr), ours))
    except InputError as error:
        return {"HR and LR": str(error)}
    counts = {kind: published[kind]["images"] for kind in ("HR", "LR")}
    if any(count != len(seen) for count in counts.values()):
        return {kind: f"{len(seen)} images, but {count} are published" for kind, count in counts.items()}
    same = {kind: _same(seen, kind.lower(), published[kind]["sha256"]) for kind in ("HR", "LR")}
    made = ", made from HR" if pairs[0].lr_path is None else ""
    verdicts = {"HR": f"{AS_PUBLISHED} ({len(seen)} images)", "LR": f"{AS_PUBLISHED} ({len(seen)} images{made})"}
    if not same["HR"]:
        verdicts["HR"] = (
            f"{len(seen)} images as published, but other pixels: another cut, JPEG or a conversion; get the HR images again"
        )
    if not same["LR"]:
        verdicts["LR"] = _why_lr(seen, same["HR"])
    return verdicts


def _why_lr(seen: list[Seen], hr_is_right: bool) -> str:
    """With the published HR images the published LR images are our resize of them, so those that are not can be named."""
    others = [each.name for each in seen if not each.our_resize]
    if not hr_is_right:
        return f"{len(seen)} images as published, but other pixels: get the HR images right, then make LR from them"
    names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    return (
        f"{len(others)} of {len(seen)} images are not the benchmarks' resize of their HR image ({names}): made with "
        "another tool; make them again from the HR images with `python -m dataset.prepare`"
    )


def _same(seen: list[Seen], kind: str, sha256: str) -> bool:
    """Whether the images are those of the hash, in file-name order or, for names without leading zeros, in number order."""
    orders = (
        seen,
        sorted(seen, key=lambda each: [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", each.name)]),
    )
    return any(
        hashlib.sha256(b"".join(getattr(each, kind) for each in order)).hexdigest() == sha256 for order in orders
    )


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()

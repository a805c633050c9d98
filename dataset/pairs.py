"""Folders of pictures -> (HR, {scale: LR}) training pairs, decoded in parallel, into the HDF5 file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import check_not_read, whole_folder
from common.overlap import in_order
from common.progress import progress
from dataset.hdf5 import write_hdf5
from dataset.images import Picture, list_images, read_picture, say_conversions
from dataset.imresize import imresize
from dataset.prepare import say_prepared, write_pairs


@dataclass
class _Pair:
    """One HR file and, where they exist, its LR files by scale; no LR files: they are made. `shrink`: HR is shrunk before."""

    hr: Path
    lr: dict[int, Path]
    shrink: float = 1.0


def write_training_set(
    sources: list[Path],
    out: Path,
    scales: list[int],
    edge: str = "clamp",
    workers: int = 0,
    hold_out: int = 0,
    shrink: Sequence[float] = (),
) -> None:
    """Writes the pictures of all `sources` into the HDF5 file `out`, with a progress bar and a line on what was done.

    A source is DIV2K as downloaded (DIV2K_train_HR beside DIV2K_train_LR_bicubic/X2..X4) or a folder of pictures, whose
    HR images are cropped to a multiple of the scales and whose LR images are `imresize` of them with the rule `edge`.
    `hold_out` of the pictures, evenly spread, are left out of it and become the test set `held_out_set(out)` instead, for
    choosing among recipes and checkpoints without looking at a published test set.
    `shrink`: each picture that is left comes again at each of these shares of its size.
    Raises `InputError` naming the file for a missing LR image, sizes that do not match and a broken picture.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the file to write, such as {out / 'train.h5'}")
    pairs = [pair for source in sources for pair in _find_pairs(source, scales)]
    check_not_read(out, [file for pair in pairs for file in (pair.hr, *pair.lr.values())])
    if not hold_out:
        _write(pairs, shrink, out, scales, edge, workers)
        return
    pairs, held_out = _split(pairs, hold_out)
    folder, files = held_out_set(out), [pair.hr for pair in held_out]
    if folder.exists():
        raise InputError(f"{folder} exists, where the pictures held out would go: remove it or choose another --out")
    with whole_folder(folder) as unfinished:  # both appear, or none
        write_pairs(files, unfinished, scales, edge)
        _write(pairs, shrink, out, scales, edge, workers)
    say_prepared(files, folder, scales)


def _write(pairs: list[_Pair], shrink: Sequence[float], out: Path, scales: list[int], edge: str, workers: int) -> None:
    pairs = pairs + [_Pair(pair.hr, {}, share) for share in shrink for pair in pairs]
    seen: list[tuple[str, Picture]] = []

    def read(pair: _Pair) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        picture = read_picture(pair.hr)
        if pair.shrink == 1:
            seen.append((pair.hr.name, picture.without_pixels()))
        hr = picture.rgb if pair.shrink == 1 else imresize(picture.rgb, pair.shrink, edge)
        return _read_given(pair, hr) if pair.lr else _make_lr(pair.hr, hr, scales, edge)

    threads = workers or os.cpu_count() or 1
    with in_order(read, pairs, threads) as done, progress(done, len(pairs), out.name, "image") as bar:
        write_hdf5(out, bar)
    ours = sum(not pair.lr for pair in pairs)
    made = f"made by our resize, edges {edge}" if ours else "as found"
    made += f" ({ours} of {len(pairs)}; the others as found)" if 0 < ours < len(pairs) else ""
    print(f"wrote {out}: {len(pairs)} images, scales {', '.join(f'x{s}' for s in scales)}, LR {made}")
    if note := say_conversions(seen):
        print(note)


def held_out_set(out: Path) -> Path:
    """Where the pictures held out of the training set `out` lie: dataset/my.h5 -> dataset/my_held_out."""
    return out.with_name(f"{out.stem}_held_out")


def _split(pairs: list[_Pair], count: int) -> tuple[list[_Pair], list[_Pair]]:
    if count >= len(pairs):
        raise InputError(f"--hold_out {count}: there are {len(pairs)} pictures, and some must be left to train on")
    chosen = {(2 * number + 1) * len(pairs) // (2 * count) for number in range(count)}
    kept = [pair for number, pair in enumerate(pairs) if number not in chosen]
    return kept, [pairs[number] for number in sorted(chosen)]


def _find_pairs(source: Path, scales: list[int]) -> list[_Pair]:
    high, low = source / "DIV2K_train_HR", source / "DIV2K_train_LR_bicubic"
    if source.name == "DIV2K_train_HR":
        high, low = source, source.parent / "DIV2K_train_LR_bicubic"
    if not high.is_dir():
        return [_Pair(file, {}) for file in list_images(source)]
    if not low.is_dir():
        print(f"{low} is not there: the LR images are made by our resize")
        return [_Pair(file, {}) for file in list_images(high)]
    pairs = []
    for file in list_images(high):
        lr = {scale: low / f"X{scale}" / f"{file.stem}x{scale}{file.suffix}" for scale in scales}
        for scale, path in lr.items():
            if not path.is_file():
                raise InputError(
                    f"{path} is missing, the X{scale} image of {file.name}: download it, or leave X{scale} out by --scales"
                )
        pairs.append(_Pair(file, lr))
    return pairs


def _read_given(pair: _Pair, hr: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    lrs = {}
    for scale, path in pair.lr.items():
        lr = lrs[scale] = read_picture(path).rgb
        if (lr.shape[0] * scale, lr.shape[1] * scale) != hr.shape[:2]:
            raise InputError(
                f"{path} is {lr.shape[1]}x{lr.shape[0]}, not 1/{scale} of {pair.hr.name} "
                f"({hr.shape[1]}x{hr.shape[0]}): download both again"
            )
    return hr, lrs


def _make_lr(path: Path, hr: np.ndarray, scales: list[int], edge: str) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    step = math.lcm(*scales)
    height, width = hr.shape[0] // step * step, hr.shape[1] // step * step
    if not height or not width:
        raise InputError(f"{path} is {hr.shape[1]}x{hr.shape[0]}, smaller than {step}x{step}: remove it")
    hr = np.ascontiguousarray(hr[:height, :width])
    return hr, {scale: imresize(hr, Fraction(1, scale), edge) for scale in scales}

"""Folders of images -> (HR, {scale: LR}) training pairs, decoded in parallel -> the HDF5 file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from common.cli import bounded
from common.errors import FailureLog, InputError, error_context
from common.files import atomic_dir, ensure_not_input, realpath
from common.prefetch import prefetch_map
from common.progress import progress
from common.units import format_count
from dataset.benchmark_set import list_hr_images, pair_by_stem
from dataset.hdf5 import write_hdf5
from dataset.images import DecodedImage, conversion_summary, read_image
from dataset.imresize import imresize
from dataset.prepare import say_prepared, write_pairs
from dataset.sources import download_command

downscale_factor = bounded(float, lambda value: 0.1 <= value < 1, "a number from 0.1 to below 1, such as 0.6")
MakeTarget = Callable[[np.ndarray, dict[int, np.ndarray]], np.ndarray]  # HR, {scale: LR} -> what the network trains on


@dataclass
class _Pair:
    """An HR file and its LR files by scale; without LR files they are made. `shrink`: downscale HR by this factor first."""

    hr: Path
    lr: dict[int, Path]
    shrink: float = 1.0


def write_training_set(
    sources: list[Path],
    out: Path,
    scales: list[int],
    padding: str = "replicate",
    workers: int = 0,
    hold_out: int = 0,
    shrink: Sequence[float] = (),
    make_target: MakeTarget | None = None,
) -> None:
    """Writes the images of all `sources` into the HDF5 file `out`, with a progress bar and a summary line.

    A source is DIV2K as downloaded (DIV2K_train_HR beside DIV2K_train_LR_bicubic/X2..X4) or a folder of images, which
    are cropped to a multiple of the scales (modcrop) to get HR; LR is then `imresize` of HR with that `padding`.
    `hold_out`: the number of images, evenly spaced, that are left out and become the test set `held_out_set(out)`, so that
    recipes and checkpoints can be chosen without looking at a published test set.
    `shrink`: the remaining images are added again, downscaled by each of these factors.
    `make_target`: makes what takes the place of each HR image, uint8 of the same size; called by `workers` threads.
    Raises `InputError` naming the file for a missing LR image, mismatched sizes or a broken image. After a broken image the
    others are still decoded, so that all broken ones are named, but nothing is written: the numbers of the images would change.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the file to write, such as {out / 'train.h5'}")
    if twice := next((each for n, each in enumerate(sources) if realpath(each) in map(realpath, sources[:n])), None):
        raise InputError(f"{twice} is given twice: name each folder once")
    pairs = [pair for source in sources for pair in _find_pairs(source, scales)]
    ensure_not_input(out, [file for pair in pairs for file in (pair.hr, *pair.lr.values())])
    failures = FailureLog()
    if not hold_out:
        _write(pairs, shrink, out, scales, padding, workers, make_target, failures)
        return
    pairs, held_out = _split(pairs, hold_out)
    folder, files = held_out_set(out), [pair.hr for pair in held_out]
    if folder.exists():
        raise InputError(f"{folder} exists, but the held-out images go there: remove it or choose another --out")
    with atomic_dir(folder) as unfinished:  # both appear, or none
        try:
            write_pairs(files, unfinished, scales, padding, failures)
        except InputError:
            if not failures.messages:
                raise
        _write(pairs, shrink, out, scales, padding, workers, make_target, failures)  # names these failures, too
    say_prepared(files, folder, scales)


def _write(
    pairs: list[_Pair],
    shrink: Sequence[float],
    out: Path,
    scales: list[int],
    padding: str,
    workers: int,
    make_target: MakeTarget | None,
    failures: FailureLog,
) -> None:
    pairs = pairs + [_Pair(pair.hr, {}, factor) for factor in dict.fromkeys(shrink) for pair in pairs]
    seen: list[tuple[str, DecodedImage]] = []

    def read(pair: _Pair) -> tuple[np.ndarray, dict[int, np.ndarray]] | None:
        with failures.collect():
            return decode(pair)
        return None

    def decode(pair: _Pair) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        image = read_image(pair.hr)
        if pair.shrink == 1:
            seen.append((pair.hr.name, image.metadata_only()))
        hr = image.rgb if pair.shrink == 1 else imresize(image.rgb, pair.shrink, padding)
        hr, lrs = _read_given(pair, hr) if pair.lr else _make_lr(pair, hr, scales, padding)
        if make_target:
            with error_context(f"{pair.hr}{_shrunk(pair)}"):
                hr = make_target(hr, lrs)
        return hr, lrs

    threads = workers or os.cpu_count() or 1
    with prefetch_map(read, pairs, threads) as done, progress(done, len(pairs), out.name, "image") as bar:
        write_hdf5(out, _all_or_none(bar, failures))
    ours = sum(not pair.lr for pair in pairs)
    made = f"made by our resize, padding {padding}" if ours else "as found"
    made += f" ({ours} of {len(pairs)}; the others as found)" if 0 < ours < len(pairs) else ""
    print(f"wrote {out}: {format_count(len(pairs), 'image')}, scales {', '.join(f'x{s}' for s in scales)}, LR {made}")
    if note := conversion_summary(seen):
        print(note)


def _all_or_none(
    images: Iterable[tuple[np.ndarray, dict[int, np.ndarray]] | None], failures: FailureLog
) -> Iterator[tuple[np.ndarray, dict[int, np.ndarray]]]:
    """The images up to the first failed one; then only counts failures, and raises `InputError` at the end."""
    for each in images:
        if each is not None and not failures.messages:
            yield each
    failures.raise_if_any("no training set is written, since images left out would change the numbers of the others")


def held_out_set(out: Path) -> Path:
    """The folder of the images held out of the training set `out`: dataset/my.h5 -> dataset/my_held_out."""
    return out.with_name(f"{out.stem}_held_out")


def _split(pairs: list[_Pair], count: int) -> tuple[list[_Pair], list[_Pair]]:
    if count >= len(pairs):
        raise InputError(f"--hold_out {count}: there are {len(pairs)} images, and some must be left to train on")
    chosen = {(2 * number + 1) * len(pairs) // (2 * count) for number in range(count)}
    kept = [pair for number, pair in enumerate(pairs) if number not in chosen]
    return kept, [pairs[number] for number in sorted(chosen)]


def _find_pairs(source: Path, scales: list[int]) -> list[_Pair]:
    high, low = source / "DIV2K_train_HR", source / "DIV2K_train_LR_bicubic"
    if source.name == "DIV2K_train_HR":
        high, low = source, source.parent / "DIV2K_train_LR_bicubic"
    if not high.is_dir():
        return [_Pair(file, {}) for file in list_hr_images(source)]
    files = list_hr_images(high)
    if not low.is_dir():
        print(f"{low} is not there: the LR images are made by our resize")
        return [_Pair(file, {}) for file in files]
    pairs = [_Pair(file, {}) for file in files]
    for scale in scales:
        try:
            for pair, lr_path in zip(pairs, pair_by_stem(files, low / f"X{scale}", scale), strict=True):
                pair.lr[scale] = lr_path
        except InputError as error:
            raise InputError(
                f"{error}; download X{scale} with `{download_command('DIV2K', scales=[scale])}`, or leave it out by --scales"
            ) from None
    return pairs


def _read_given(pair: _Pair, hr: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    lrs = {}
    for scale, path in pair.lr.items():
        lr = lrs[scale] = read_image(path).rgb
        if (lr.shape[0] * scale, lr.shape[1] * scale) != hr.shape[:2]:
            raise InputError(
                f"{path} is {lr.shape[1]}x{lr.shape[0]}, not 1/{scale} of {pair.hr.name} "
                f"({hr.shape[1]}x{hr.shape[0]}): download both again"
            )
    return hr, lrs


def _shrunk(pair: _Pair) -> str:
    return f" after --shrink {pair.shrink:g}" if pair.shrink < 1 else ""


def _make_lr(pair: _Pair, hr: np.ndarray, scales: list[int], padding: str) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    step = math.lcm(*scales)
    height, width = hr.shape[0] // step * step, hr.shape[1] // step * step
    if not height or not width:
        size = f"{hr.shape[1]}x{hr.shape[0]}{_shrunk(pair)}"
        remedy = "shrink less, or remove it" if pair.shrink < 1 else "remove it"
        raise InputError(f"{pair.hr} is {size}, smaller than {step}x{step}: {remedy}")
    hr = np.ascontiguousarray(hr[:height, :width])
    return hr, {scale: imresize(hr, Fraction(1, scale), padding) for scale in scales}

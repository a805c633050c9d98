"""Evaluates an upscaler on a test set: upscales and measures each image. For validation, benchmark and reports alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from common.device import available_memory
from common.errors import error_context
from common.prefetch import BackgroundWriter, prefetch_map
from common.progress import progress
from dataset.benchmark_set import BenchmarkSet, ImagePair, lr_mismatch
from evaluation.metrics import Scores, compute_scores
from inference.upscaler import Upscale, translate_upscale_errors


@dataclass(frozen=True)
class ImageResult:
    """The result of one image: the SR file's name, its `Scores`, and the seconds that upscaling took."""

    name: str
    scores: Scores
    seconds: float

    def as_dict(self) -> dict[str, str | float]:
        """All fields in one flat dict, as in `results.json`."""
        return {"name": self.name, **asdict(self.scores), "seconds": self.seconds}


@dataclass(frozen=True)
class EvalResult:
    """The rows of a test set, their mean, and the fraction of LR values that differ from our resize of the HR image."""

    rows: list[ImageResult]
    mean: ImageResult
    lr_mismatch: float


OnImage = Callable[[ImagePair, np.ndarray, np.ndarray, np.ndarray], None]


def evaluate(
    upscale: Upscale,
    test_set: BenchmarkSet,
    on_image: OnImage | None = None,
    check_lr: bool = True,
    bar: str | None = None,
) -> EvalResult:
    """Upscales and measures each pair of a test set. Raises an `InputError` that names a pair that cannot be used.

    `on_image(pair, hr, lr, sr)` is called for each image, on another thread. `check_lr`: compute `lr_mismatch` for LR images
    from files. `bar`: the label of a progress bar; None for no bar.
    """
    rows: list[ImageResult] = []
    mismatches: list[float] = []

    def finish(pair: ImagePair, hr: np.ndarray, lr: np.ndarray, sr: np.ndarray, seconds: float) -> None:
        with error_context(pair.hr_path):
            scores = compute_scores(sr, hr, test_set.scale)
        rows.append(ImageResult(pair.sr_name, scores, seconds))
        if check_lr and pair.lr_path is not None:
            mismatches.append(lr_mismatch(hr, lr, test_set.scale))
        if on_image:
            on_image(pair, hr, lr, sr)

    pairs = test_set.pairs
    shown = pairs if bar is None else progress(pairs, desc=bar, unit="image")
    with BackgroundWriter() as writer, prefetch_map(lambda pair: pair.read(), pairs) as images:
        for pair, (hr, lr) in zip(shown, images, strict=True):
            start = time.perf_counter()
            file = pair.lr_path or pair.hr_path
            with translate_upscale_errors(file), error_context(file):
                sr = upscale(lr)
            writer(finish, pair, hr, lr, sr, time.perf_counter() - start)
    return EvalResult(rows, mean_row(rows), fmean(mismatches) if mismatches else 0.0)


class _KeptPair(ImagePair):
    """A pair whose images stay in `kept`, by HR file, unless those of the whole test set would exceed `limit` bytes."""

    def __init__(self, pair: ImagePair, kept: dict[Path, tuple[np.ndarray, np.ndarray]], limit: int):
        super().__init__(pair.hr_path, pair.lr_path, pair.scale)
        self._kept, self._limit = kept, limit

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        if self.hr_path in self._kept:
            return self._kept[self.hr_path]
        images = super().read()
        if sum(each.nbytes for pair in (*self._kept.values(), images) for each in pair) <= self._limit:
            self._kept[self.hr_path] = images
        return images


def keep_decoded(test_set: BenchmarkSet, limit: int | None = None) -> BenchmarkSet:
    """A copy of a test set that decodes each pair once and keeps the images, for several methods to measure.

    `limit`: bytes kept, by default a quarter of the free memory; further pairs are decoded each time.
    """
    limit = available_memory() // 4 if limit is None else limit
    kept: dict[Path, tuple[np.ndarray, np.ndarray]] = {}
    return replace(test_set, pairs=[_KeptPair(pair, kept, limit) for pair in test_set.pairs])


def mean_row(rows: list[ImageResult]) -> ImageResult:
    """The unweighted mean over the images, as in the paper's tables."""
    means = {each.name: fmean(getattr(row.scores, each.name) for row in rows) for each in fields(Scores)}
    return ImageResult("mean", Scores(**means), fmean(row.seconds for row in rows))

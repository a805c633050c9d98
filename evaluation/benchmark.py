"""Upscaling and measuring a whole test set: what the benchmark, training-time validation and reports all call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from statistics import fmean

import numpy as np

from common.errors import naming
from common.overlap import Behind, in_order
from common.progress import progress
from dataset.testset import TestPair, TestSet, differing_share
from evaluation.inference import Upscale
from evaluation.metrics import Quality, measure


@dataclass(frozen=True)
class Row:
    """One image of a test set: its SR file's name, its `Quality` and the seconds that upscaling took."""

    name: str
    quality: Quality
    seconds: float

    def as_dict(self) -> dict[str, str | float]:
        """All of it in one flat dict, as `results.json` has it."""
        return {"name": self.name, **asdict(self.quality), "seconds": self.seconds}


@dataclass(frozen=True)
class Result:
    """The rows of a test set, their plain mean, and the share of LR values that are not our resize of their HR."""

    rows: list[Row]
    mean: Row
    foreign_lr: float


Keep = Callable[[TestPair, np.ndarray, np.ndarray], None]


def evaluate(
    upscale: Upscale, test_set: TestSet, keep: Keep | None = None, check_lr: bool = True, bar: str | None = None
) -> Result:
    """Upscales and measures each pair of a test set. `InputError` names an unusable pair.

    `keep(pair, sr, hr)` gets the images. `check_lr`: find the share of LR values that are not our resize of their HR.
    `bar`: what a progress bar over the images says; None: there is no bar.
    """
    rows: list[Row] = []
    foreign: list[float] = []

    def finish(pair: TestPair, hr: np.ndarray, lr: np.ndarray, sr: np.ndarray, seconds: float) -> None:
        with naming(pair.hr_path):
            quality = measure(sr, hr, test_set.scale)
        rows.append(Row(pair.sr_name, quality, seconds))
        if check_lr and pair.lr_path is not None:
            foreign.append(differing_share(hr, lr, test_set.scale))
        if keep:
            keep(pair, sr, hr)

    pairs = test_set.pairs
    shown = pairs if bar is None else progress(pairs, desc=bar, unit="image")
    with Behind() as behind, in_order(TestPair.read, pairs) as images:
        for pair, (hr, lr) in zip(shown, images, strict=True):
            start = time.perf_counter()
            with naming(pair.lr_path or pair.hr_path):
                sr = upscale(lr)
            behind(finish, pair, hr, lr, sr, time.perf_counter() - start)
    return Result(rows, mean_row(rows), fmean(foreign) if foreign else 0.0)


def mean_row(rows: list[Row]) -> Row:
    """The plain mean over the images, as the paper's tables give it."""
    means = {each.name: fmean(getattr(row.quality, each.name) for row in rows) for each in fields(Quality)}
    return Row("mean", Quality(**means), fmean(row.seconds for row in rows))

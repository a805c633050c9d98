"""Pictures of random values, always the same ones: what is measured here depends on their size, not on what they show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataset.hdf5 import TrainingImages, write_hdf5


def noise(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """`count` uint8 images height x width x 3."""
    random = np.random.default_rng(0)
    return (random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count))


def training_noise(count: int, height: int, width: int) -> TrainingImages:
    """A training set at x2; the sides are those of the LR images, each pixel stands four times in the HR image."""
    lrs = list(noise(count, height, width))
    return TrainingImages([lr.repeat(2, 0).repeat(2, 1) for lr in lrs], {2: lrs})


def write_noise(path: Path, images: TrainingImages) -> None:
    """Writes what `training_noise` made as the file that `train.py` reads."""
    write_hdf5(path, ((hr, {2: lr}) for hr, lr in zip(images.hr, images.lr[2], strict=True)))

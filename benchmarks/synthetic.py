"""Synthetic images of reproducible random values: what is measured here depends on their size, not on their content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataset.hdf5 import TrainingImages, write_hdf5


def synthetic_images(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """`count` uint8 images height x width x 3."""
    random = np.random.default_rng(0)
    return (random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count))


def synthetic_training_set(count: int, height: int, width: int) -> TrainingImages:
    """A training set at x2; `height` and `width` are those of the LR images, which the HR images repeat pixel by pixel."""
    lrs = list(synthetic_images(count, height, width))
    return TrainingImages([lr.repeat(2, 0).repeat(2, 1) for lr in lrs], {2: lrs})


def write_synthetic(path: Path, images: TrainingImages) -> None:
    """Writes a set of `synthetic_training_set` as the HDF5 file that `train.py` reads."""
    write_hdf5(path, ((hr, {2: lr}) for hr, lr in zip(images.hr, images.lr[2], strict=True)))

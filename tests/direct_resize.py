"""The resize as its formula reads, slow and plain: what `dataset/imresize.py` is held against."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def resized_directly(image: np.ndarray, scale: float | Fraction, edge: str) -> np.ndarray:
    """The first axis, row by row in float64: all taps of the stretched kernel, none left out for being zero."""
    stretch, length = min(float(scale), 1.0), len(image)
    out = []
    for row in range(math.ceil(length * scale)):
        centre = float((row + Fraction(1, 2)) / scale - Fraction(1, 2))
        taps = np.arange(math.floor(centre - 2 / stretch) - 2, math.ceil(centre + 2 / stretch) + 3)
        x = np.abs(stretch * (centre - taps))
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights = np.select([x <= 1, x <= 2], [near, far], 0.0)
        places = taps.clip(0, length - 1) if edge == "clamp" else _mirrored(taps, length)
        out.append(np.tensordot(weights / weights.sum(), image[places].astype(np.float64), 1))
    return np.stack(out)


def _mirrored(taps: np.ndarray, length: int) -> np.ndarray:
    return np.pad(np.arange(length), (length, 0), "symmetric")[(taps + length) % (2 * length)]

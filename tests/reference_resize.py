"""A slow reference implementation of the resize, straight from the formula, to test `dataset/imresize.py` against."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def reference_resize(image: np.ndarray, scale: float | Fraction, padding: str) -> np.ndarray:
    """The first axis, row by row in float64: all taps of the stretched kernel, none left out for being zero."""
    stretch, length = min(float(scale), 1.0), len(image)
    out = []
    for row in range(math.ceil(length * scale)):
        center = float((row + Fraction(1, 2)) / scale - Fraction(1, 2))
        taps = np.arange(math.floor(center - 2 / stretch) - 2, math.ceil(center + 2 / stretch) + 3)
        x = np.abs(stretch * (center - taps))
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights = np.select([x <= 1, x <= 2], [near, far], 0.0)
        places = taps.clip(0, length - 1) if padding == "replicate" else _symmetric(taps, length)
        out.append(np.tensordot(weights / weights.sum(), image[places].astype(np.float64), 1))
    return np.stack(out)


def _symmetric(taps: np.ndarray, length: int) -> np.ndarray:
    return np.pad(np.arange(length), (length, 0), "symmetric")[(taps + length) % (2 * length)]

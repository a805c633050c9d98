"""The bicubic resize of the benchmarks, down and up: bit-exact with MATLAB's `imresize(image, scale, 'bicubic')`.

Every LR image of Set5, Set14, B100 and Urban100 is made so: cubic kernel with a = -0.5, stretched when shrinking
(antialiasing), normalized weights, rows first, and the result of the first pass rounded to uint8 before the second. Padding:
MATLAB versions that made the published test sets repeat the edge pixel ("replicate"); newer ones reflect the image,
edge pixel included ("symmetric", as in `numpy.pad`; SciPy calls this "reflect").
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_matrix

BLOCK = 1 << 22  # values computed at a time
MIN_SCALE = Fraction(1, 10_000)
PADDING_MODES = ("replicate", "symmetric")


def imresize(image: np.ndarray, scale: float | Fraction, padding: str = "replicate") -> np.ndarray:
    """Resizes HxW or HxWxC to ceil(scale*H) x ceil(scale*W); `Fraction(1, 3)` shrinks by three.

    uint8 in, uint8 out, rounded half up and clipped after each pass as MATLAB does; float in, float64 out, unrounded.
    Raises `ValueError` for an empty image, another type, another padding than "replicate" or "symmetric", or a scale that is
    not finite or below 1/10000.
    """
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"imresize takes uint8 or floating point, not {image.dtype}")
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"imresize takes a non-empty HxW or HxWxC array, not shape {image.shape}")
    if padding not in PADDING_MODES:
        raise ValueError(f"padding must be one of {PADDING_MODES}, not {padding!r}")
    if not (scale >= MIN_SCALE and math.isfinite(scale)):
        raise ValueError(f"scale must be finite and at least 1/10000, not {scale}")
    scale = Fraction(scale).limit_denominator(10_000)
    rows = _resize_rows(image, scale, padding)
    return np.ascontiguousarray(_resize_rows(rows.swapaxes(0, 1), scale, padding).swapaxes(0, 1))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`imresize` to a size instead of by a factor, for images to look at: HxW or HxWxC, the type stays.

    uint8 and uint16 are rounded half up, floats are clipped to [0, 1]. Raises `ValueError` as `imresize` does.
    """
    values = image if image.dtype == np.uint8 else image.astype(np.float64)
    if values.ndim not in (2, 3) or 0 in (*values.shape, height, width):
        raise ValueError(f"cannot resize an array of shape {image.shape} to {height}x{width}")
    rows = _resize_rows(values, Fraction(height, image.shape[0]), "replicate")
    out = _resize_rows(rows.swapaxes(0, 1), Fraction(width, image.shape[1]), "replicate").swapaxes(0, 1)
    if image.dtype == np.uint16:
        out = np.floor(out + 0.5).clip(0, 65535)
    elif image.dtype != np.uint8:
        out = out.clip(0, 1)
    return np.ascontiguousarray(out, dtype=image.dtype)


def _resize_rows(image: np.ndarray, scale: Fraction, padding: str) -> np.ndarray:
    height, *rest = image.shape
    weights, columns = _weights(height, scale, padding), image.reshape(height, -1)
    out = np.empty((weights.shape[0], columns.shape[1]), np.uint8 if image.dtype == np.uint8 else np.float64)
    step = max(1, BLOCK // max(height, len(out)))
    for left in range(0, columns.shape[1], step):  # in blocks, for little memory in float64
        part = weights @ columns[:, left : left + step].astype(np.float64)
        out[:, left : left + step] = np.clip(np.floor(part + 0.5), 0, 255) if out.dtype == np.uint8 else part
    return out.reshape(-1, *rest)


@lru_cache(maxsize=64)
def _weights(length: int, scale: Fraction, padding: str) -> csr_matrix:
    """The (output length) x (length) matrix that resizes one axis."""
    out_length = math.ceil(length * scale)
    shrink = min(float(scale), 1.0)
    width = 4 / shrink
    center = (np.arange(out_length) + 0.5) / float(scale) - 0.5
    taps = np.floor(center - width / 2)[:, None] + np.arange(math.ceil(width) + 2)
    weights = shrink * _cubic(shrink * (center[:, None] - taps))
    weights /= weights.sum(1, keepdims=True)
    index = taps.astype(np.int64)
    if padding == "replicate":
        index = np.clip(index, 0, length - 1)
    else:
        index = index % (2 * length)
        index = np.where(index < length, index, 2 * length - 1 - index)
    row = np.repeat(np.arange(out_length), index.shape[1])
    return csr_matrix((weights.ravel(), (row, index.ravel())), shape=(out_length, length))


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))

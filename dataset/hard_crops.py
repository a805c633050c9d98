"""Which of several candidate crops a network learns most from: those in which bicubic interpolation misses most.

Most crops of a photograph are smooth, and a network has little to learn from them. A table of bicubic's errors, made once per
image, gives the error of any crop by four look-ups.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from common.prefetch import prefetch_map
from common.progress import progress
from dataset.imresize import imresize

BLOCK = 4  # LR pixels: side of the blocks whose errors the table adds up, 1/16 of the memory of one value per pixel
FLOOR = 1e-3  # summed error of a crop at least, so that crops without any error can be drawn too


class ErrorTable:
    """Absolute errors of bicubic interpolation at one scale, summed over blocks of 4x4 LR pixels, as integral images.

    `hr[i]` and `lr[i]`: uint8 HxWx3, the HR size `scale` times the LR size.
    """

    def __init__(self, hr: Sequence[np.ndarray], lr: Sequence[np.ndarray], scale: int, hide: bool = False):
        def integral(number: int) -> np.ndarray:
            return _integral_image(hr[number], lr[number], scale)

        with prefetch_map(integral, range(len(hr)), os.cpu_count() or 1) as done:
            tables = list(progress(done, len(hr), f"bicubic errors x{scale}", "image", hide=hide))
        self._rows = np.array([table.shape[0] for table in tables])
        self._columns = np.array([table.shape[1] for table in tables])
        self._start = np.cumsum([0, *(table.size for table in tables)])[:-1]
        self._values = np.concatenate([table.ravel() for table in tables])

    def crop_errors(self, image: np.ndarray, corner: np.ndarray, patch: int) -> np.ndarray:
        """The error of each crop, about: crops are rounded to whole blocks. Always above zero.

        `image`: N image numbers; `corner`: NxKx2, LR row and LR column of K crops of each; `patch`: LR pixels. Returns NxK.
        """
        rows, columns, start = (each[image][:, None] for each in (self._rows, self._columns, self._start))
        top, left = ((corner[..., axis] + BLOCK // 2) // BLOCK for axis in (0, 1))
        side = max(1, round(patch / BLOCK))
        top, left = np.minimum(top, rows - 2), np.minimum(left, columns - 2)
        bottom, right = np.minimum(top + side, rows - 1), np.minimum(left + side, columns - 1)

        def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
            return self._values[start + y * columns + x]

        return np.maximum(at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left), FLOOR)

    def choose(self, image: np.ndarray, corner: np.ndarray, patch: int, uniform: np.ndarray) -> np.ndarray:
        """One of the K candidates of each image, with a probability proportional to its error: the corners, Nx2.

        `uniform`: N random numbers in [0, 1) that decide.
        """
        total = self.crop_errors(image, corner, patch).cumsum(1)
        chosen = (uniform[:, None] * total[:, -1:] >= total[:, :-1]).sum(1)
        return corner[np.arange(len(image)), chosen]


def _integral_image(hr: np.ndarray, lr: np.ndarray, scale: int) -> np.ndarray:
    """(rows + 1) x (columns + 1) sums over all blocks above and to the left; a rest of under four pixels is left out."""
    error = np.abs(imresize(lr, scale).astype(np.int16) - hr).sum(2, dtype=np.float64)
    side = BLOCK * scale
    rows, columns = max(1, error.shape[0] // side), max(1, error.shape[1] // side)
    blocks = error[: rows * side, : columns * side]
    blocks = np.add.reduceat(np.add.reduceat(blocks, np.arange(rows) * side, 0), np.arange(columns) * side, 1)
    return np.pad(blocks, ((1, 0), (1, 0))).cumsum(0).cumsum(1)

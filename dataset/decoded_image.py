"""An image in memory as all code of ours takes it. Decoding is in `dataset/images.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np


@dataclass
class DecodedImage:
    """`rgb`: HxWx3 of uint8, or where the caller asks for it uint16 or float32 in [0, 1]. `alpha`: HxW of its type or None.

    `gray`: the file held one channel. `converted`: from what. `dropped`: what of the file is not here. `duration`: of an
    animation's frame, in ms.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    gray: bool
    converted: str | None
    dropped: str | None = None
    duration: float = 0

    def metadata_only(self) -> DecodedImage:
        """A copy without pixels, which is all that `conversion_summary` needs of thousands of images."""
        return replace(self, rgb=np.empty((0, 0, 3), np.uint8), alpha=None)


def from_array(array: np.ndarray) -> DecodedImage:
    """An array HxW, HxWx2, HxWx3 or HxWx4 (gray, gray and alpha, RGB, RGBA) of any type as `DecodedImage`."""
    planes = array[:, :, None] if array.ndim == 2 else array
    gray, alpha = planes.shape[2] < 3, planes[:, :, -1] if planes.shape[2] in (2, 4) else None
    return DecodedImage(np.repeat(planes[:, :, :1], 3, 2) if gray else planes[:, :, :3], alpha, gray, None)


def fill_transparent(image: DecodedImage) -> np.ndarray:
    """HxWx3, the type and range of `rgb`: where alpha is 0, the color of the nearest visible pixel.

    Many programs leave one color there, mostly black or white, which a resize or a network would mix into the visible pixels
    beside it. `rgb` is returned unchanged if all pixels are visible or none is, if only one is hidden, or if the hidden ones
    have several colors: these continue the picture, or mean something else.
    """
    if image.alpha is None or (visible := image.alpha > 0).all() or not visible.any():
        return image.rgb
    hidden = image.rgb[~visible]
    if len(hidden) == 1 or (hidden != hidden[0]).any():
        return image.rgb
    where = (~visible).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(where, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    colors = np.zeros((nearest.max() + 1, 3), image.rgb.dtype)
    colors[nearest[visible]] = image.rgb[visible]
    return colors[nearest]

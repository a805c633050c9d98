"""A trained network in Python: image in, sharper image out, both in memory. `model.load` makes it from a weight file."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.device import pick_device
from common.errors import InputError
from dataset.images import to_picture
from evaluation.backends import pick_precision
from evaluation.inference import PRECISIONS, NetworkUpscaler
from evaluation.photos import upscale_picture

SHAPES = "HxW (gray), HxWx2 (gray and alpha), HxWx3 (RGB) or HxWx4 (RGBA)"
Kind = TypeVar("Kind", np.ndarray, Image.Image)


class Pretrained:
    """`net`: the network in eval mode on its device, for batches Nx3xHxW, RGB in [0, 1]. `scale`: what it upscales by.

    `precision`: "fp32", exact; "bf16" or "fp16"; or "auto", which is what `tcw_sample.py --input` takes.
    Raises `InputError` for a device that is not there and for an unknown precision.
    """

    def __init__(self, net: nn.Module, scale: int, device: str | torch.device = "auto", precision: str = "fp32"):
        if precision not in (*PRECISIONS, "auto"):
            raise InputError(f"there is no precision {precision!r}: use {', '.join(PRECISIONS)} or auto")
        place = pick_device(str(device))
        self._upscale = NetworkUpscaler(net, scale, place, pick_precision(precision, place), protocol="rounded")
        self.net, self.scale = self._upscale.net, scale

    def upscale(self, image: Kind) -> Kind:
        """A uint8 array HxW, HxWx2, HxWx3 or HxWx4, or a Pillow image: the same kind at `scale` times the size.

        Large images are cut into tiles that join exactly. Gray stays gray, alpha is upscaled by bicubic; of Pillow images
        the EXIF turn is applied, and palettes and other colour spaces become RGB. `InputError` for anything else.
        """
        if isinstance(image, np.ndarray):
            return upscale_picture(to_picture(_from_array(image)), self._upscale)
        if not isinstance(image, Image.Image):
            raise InputError(f"{type(image).__name__} is no image: give a uint8 array or a Pillow image")
        if 0 in image.size:
            raise InputError(f"a Pillow image of {image.width}x{image.height} pixels has none to upscale")
        if image.mode in ("I", "F") or ";16" in image.mode:
            raise InputError(f"a Pillow image of mode {image.mode} has more than 8 bits per channel: convert it first")
        return Image.fromarray(upscale_picture(to_picture(image), self._upscale))


def _from_array(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8 or not image.size or image.ndim < 2 or image.shape[2:] not in ((), (2,), (3,), (4,)):
        shape = "x".join(map(str, image.shape))
        raise InputError(f"an array {image.dtype} {shape} is no image: give uint8 {SHAPES}")
    return Image.fromarray(image)

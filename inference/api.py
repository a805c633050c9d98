"""The Python API: `inference.load` reads a weight file, `SRModel.upscale` upscales an image in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.device import pick_device
from common.errors import InputError
from dataset.images import from_pil
from inference.backends import resolve_precision
from inference.upscale_images import upscale_image
from inference.upscaler import PRECISIONS, NetworkUpscaler
from model.checkpoint import infer_scale, load_model

SHAPES = "HxW (gray), HxWx2 (gray and alpha), HxWx3 (RGB) or HxWx4 (RGBA)"
Kind = TypeVar("Kind", np.ndarray, Image.Image)


class SRModel:
    """A network that upscales images. `net`: the module in eval mode on its device. `scale`: the upscaling factor.

    `precision`: "fp32" (exact), "bf16", "fp16", or "auto", the default of `tcw_sample.py --input`.
    Raises `InputError` for a missing device or an unknown precision.
    """

    def __init__(self, net: nn.Module, scale: int, device: str | torch.device = "auto", precision: str = "fp32"):
        if precision not in (*PRECISIONS, "auto"):
            raise InputError(f"there is no precision {precision!r}: use {', '.join(PRECISIONS)} or auto")
        place = pick_device(str(device))
        self._upscale = NetworkUpscaler(net, scale, place, resolve_precision(precision, place), protocol="rounded")
        self.net, self.scale = self._upscale.net, scale

    def upscale(self, image: Kind) -> Kind:
        """Upscales a uint8 array HxW, HxWx2, HxWx3 or HxWx4 or a Pillow image, and returns the same type.

        Large images are processed in tiles, without seams. Gray stays gray; alpha is upscaled by bicubic interpolation. For
        Pillow images the EXIF orientation is applied, and palettes and other color spaces become RGB. Raises `InputError` for
        anything else.
        """
        if isinstance(image, np.ndarray):
            return upscale_image(from_pil(_from_array(image)), self._upscale)
        if not isinstance(image, Image.Image):
            raise InputError(f"{type(image).__name__} is no image: give a uint8 array or a Pillow image")
        if 0 in image.size:
            raise InputError(f"a Pillow image of {image.width}x{image.height} pixels has none to upscale")
        if image.mode in ("I", "F") or ";16" in image.mode:
            raise InputError(f"a Pillow image of mode {image.mode} has more than 8 bits per channel: convert it first")
        return Image.fromarray(upscale_image(from_pil(image), self._upscale))


def load(
    path: Path | str,
    scale: int | None = None,
    model: str = "cfsrcnn",
    device: str | torch.device = "auto",
    precision: str = "fp32",
) -> SRModel:
    """The network in a weight file, ready to use: `load("checkpoint/x2/cfsrcnn_x2.pth").upscale(image)`.

    `scale`: 2, 3 or 4; may be omitted for a CFSRCNN of one scale. `model`: the network, `model/MODEL.py`. `device`: "auto",
    "cpu", "cuda", "mps" or a `torch.device`. `precision`: "fp32", "bf16", "fp16" or "auto", see `SRModel`. Raises `InputError`,
    which says what is wrong, if they do not fit together.
    """
    scale = scale or infer_scale(path)
    return SRModel(load_model(path, model, scale), scale, device, precision)


def _from_array(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8 or not image.size or image.ndim < 2 or image.shape[2:] not in ((), (2,), (3,), (4,)):
        shape = "x".join(map(str, image.shape))
        raise InputError(f"an array {image.dtype} {shape} is no image: give uint8 {SHAPES}")
    return Image.fromarray(image)

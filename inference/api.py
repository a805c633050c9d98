"""The Python API: `inference.load` reads a weight file, `SRModel.upscale` upscales an image in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from common.device import pick_device
from common.errors import InputError
from dataset.decoded_image import from_array
from dataset.images import from_pil
from inference.backends import resolve_precision
from inference.upscale_images import upscale_image
from inference.upscaler import PRECISIONS, NetworkUpscaler
from model.checkpoint import infer_scale, load_model

SHAPES = "HxW (gray), HxWx2 (gray and alpha), HxWx3 (RGB) or HxWx4 (RGBA)"
FLAGS = re.compile(r"--(?=(scale|model|device|precision)\b)")  # in errors: parameters of `load` have these names
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
        """Upscales an array HxW, HxWx2, HxWx3 or HxWx4 or a Pillow image, and returns the same type.

        Arrays are uint8, uint16 or floating point in [0, 1]; what is not uint8 is computed in fp32. Large images are processed
        in tiles, without seams. Gray stays gray; alpha is upscaled by bicubic interpolation. For Pillow images the EXIF
        orientation is applied, palettes and other color spaces become RGB, ICC profile and resolution are kept; the modes I;16
        and F (in [0, 1]) stay. Raises `InputError` for anything else.
        """
        if isinstance(image, np.ndarray):
            return self._upscale_array(image)
        if not isinstance(image, Image.Image):
            raise InputError(f"{type(image).__name__} is no image: give a Pillow image or a NumPy array")
        if 0 in image.size:
            raise InputError(f"a Pillow image of {image.width}x{image.height} pixels has none to upscale")
        if image.mode == "F" or image.mode.startswith("I;16"):
            upright = ImageOps.exif_transpose(image)
            sr = Image.fromarray(self._upscale_array(np.asarray(upright).astype("f4" if image.mode == "F" else "u2")))
        elif image.mode == "I":
            raise InputError("a Pillow image of mode I has 32 bits per channel: convert it first, to I;16 or L")
        else:
            sr = Image.fromarray(upscale_image(from_pil(image), self._upscale))
        sr.info |= {name: image.info[name] for name in ("icc_profile", "dpi") if name in image.info}
        if image.mode in ("CMYK", "LAB", "YCbCr"):  # the profile is of another space
            sr.info.pop("icc_profile", None)
        return sr

    def _upscale_array(self, image: np.ndarray) -> np.ndarray:
        shape = image.shape[2:] in ((), (2,), (3,), (4,)) and image.ndim >= 2 and image.size > 0
        if not shape or (image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f"):
            size = "x".join(map(str, image.shape))
            raise InputError(
                f"an array {image.dtype} {size} is no image: give uint8, uint16 or floats in [0, 1], {SHAPES}"
            )
        if image.dtype.kind != "f":
            return upscale_image(from_array(image), self._upscale)
        if not (image.min() >= 0 and image.max() <= 1):
            raise InputError(
                f"an array of values from {image.min():.4g} to {image.max():.4g}: floats must be in [0, 1]"
            )
        return upscale_image(from_array(image.astype(np.float32)), self._upscale).astype(image.dtype)


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
    try:
        scale = scale or infer_scale(path)
        return SRModel(load_model(path, model, scale), scale, device, precision)
    except InputError as error:
        raise InputError(FLAGS.sub("", str(error))) from None

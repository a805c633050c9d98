"""The Python API: `inference.load` reads a weight file, `SRModel.upscale` upscales an image in memory."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from common import SCALES
from common.errors import InputError, error_context
from dataset.decoded_image import from_array
from dataset.images import from_pil
from inference.backends import BACKENDS, pick_backend_device, resolve_precision
from inference.flags import check_tile
from inference.upscale_images import upscale_image
from inference.upscaler import PRECISIONS, NetworkUpscaler
from model.checkpoint import infer_scale, load_model

SHAPES = "HxW (gray), HxWx2 (gray and alpha), HxWx3 (RGB) or HxWx4 (RGBA)"
# in errors: parameters of `load` have these names
FLAGS = re.compile(r"--(?=(scale|model|device|precision|backend|compile|group)\b)")
Kind = TypeVar("Kind", np.ndarray, Image.Image)


class SRModel:
    """A network that upscales images. `net`: the module in eval mode on its device. `scale`: the upscaling factor.

    `precision`: "fp32" (exact), "bf16", "fp16", or "auto", the default of `tcw_sample.py --input`. `tile`, `self_ensemble`,
    `backend` and `compile` are its flags of these names. The attributes `precision` and `backend` are the ones in use, never
    "auto". Raises `InputError` for a missing device, an unknown value, or a backend that cannot run the network.
    """

    def __init__(
        self,
        net: nn.Module,
        scale: int,
        device: torch.device | str = "auto",
        precision: str = "fp32",
        *,
        tile: int | str = "auto",
        self_ensemble: bool = False,
        backend: str = "torch",
        compile: bool = False,
    ):
        if precision not in (*PRECISIONS, "auto"):
            raise InputError(f"there is no precision {precision!r}: use {', '.join(PRECISIONS)} or auto")
        if backend not in BACKENDS:
            raise InputError(f"there is no backend {backend!r}: use {', '.join(BACKENDS[:-1])} or auto")
        place = pick_backend_device(str(device), backend)
        with error_context("tile"):
            tile = check_tile(tile)
        resolved = resolve_precision(precision, place, backend)
        how: dict[str, Any] = {"tile": tile, "self_ensemble": self_ensemble, "backend": backend, "compile": compile}
        try:
            self._upscale = NetworkUpscaler(net, scale, place, resolved, protocol="rounded", **how)
        except InputError as error:
            raise _without_flags(error) from None
        self.net, self.scale = self._upscale.net, scale
        self.precision, self.backend = self._upscale.precision, self._upscale.backend
        self._create = partial(type(self), scale=scale, device=str(device), precision=precision, **how)

    def __reduce__(self) -> tuple:
        """Pickled and copied as its network and parameters; a backend is started anew."""
        return self._create, (self.net,)

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
            raise InputError(f"{type(image).__name__} is not an image: give a Pillow image or a NumPy array")
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
                f"an array {image.dtype} {size} is not an image: give uint8, uint16 or floats in [0, 1], {SHAPES}"
            )
        if image.dtype.kind != "f":
            return upscale_image(from_array(image), self._upscale)
        if not (image.min() >= 0 and image.max() <= 1):
            raise InputError(f"an array of values from {image.min()} to {image.max()}: floats must be in [0, 1]")
        return upscale_image(from_array(image.astype(np.float32)), self._upscale).astype(image.dtype)


def load(
    path: Path | str,
    scale: int | None = None,
    model: str = "cfsrcnn",
    device: str | torch.device = "auto",
    precision: str = "fp32",
    *,
    group: int = 1,
    tile: int | str = "auto",
    self_ensemble: bool = False,
    backend: str = "torch",
    compile: bool = False,
) -> SRModel:
    """The network in a weight file, ready to use: `load("checkpoint/x2/cfsrcnn_x2.pth").upscale(image)`.

    `scale`: 2, 3 or 4; may be omitted for a CFSRCNN of one scale. `model`: the network, `model/MODEL.py`. `device`: "auto",
    "cpu", "cuda", "mps" or a `torch.device`. `precision`: "fp32", "bf16", "fp16" or "auto". `group`: groups of the
    convolutions. `tile`: tile size in LR pixels from 16 on, "auto" or "off". `self_ensemble`: the mean of the 8 dihedral
    transforms. `backend`: "torch", "openvino", "onnxruntime" or "auto". `compile`: TorchInductor. Results are those of
    `tcw_sample.py --input` with the flags of these names. Raises `InputError`, which says what is wrong, if they do not fit
    together.
    """
    if scale not in (None, *SCALES):
        raise InputError(f"there is no scale {scale!r}: use 2, 3 or 4")
    try:
        scale = scale or infer_scale(path)
        net = load_model(path, model, scale, group)
    except InputError as error:
        raise _without_flags(error) from None
    return SRModel(
        net, scale, device, precision, tile=tile, self_ensemble=self_ensemble, backend=backend, compile=compile
    )


def _without_flags(error: InputError) -> InputError:
    """The error of a command in the words of a function: parameters instead of flags."""
    return InputError(FLAGS.sub("", str(error)))

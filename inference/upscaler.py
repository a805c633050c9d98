"""LR image -> SR image: bicubic, or a network with precision, device, self-ensemble and tiles. Reads no files.

Tiling is in `inference/tiling.py`, the runtimes are in `inference/backends.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.device import full_fp32
from common.errors import InputError
from common.malloc import tune_malloc
from dataset.imresize import imresize
from inference.backends import FP32_MAX, start_backend
from inference.tiling import Tiler

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROTOCOLS = ("paper", "rounded")
Pixels = TypeVar("Pixels", np.ndarray, Tensor)


def to_uint8(sr: Pixels, protocol: str = "paper") -> Pixels:
    """SR in [0, 1], any shape -> uint8: times 255 in float32, clamped, then truncated ("paper") or rounded ("rounded").

    Returns an array for an array and a tensor for a tensor. A tensor stays on its device, so that a GPU transfers a quarter of
    the bytes.
    """
    if isinstance(sr, np.ndarray):
        return to_uint8(torch.from_numpy(np.require(sr, requirements=["C", "W"])), protocol).numpy()
    levels = (sr.float() * 255).clamp_(0, 255)
    return (levels.round_() if protocol == "rounded" else levels).to(torch.uint8)


class Upscale(Protocol):
    """LR uint8 HxWx3 -> SR uint8 (scale*H)x(scale*W)x3."""

    scale: int

    def __call__(self, lr: np.ndarray) -> np.ndarray: ...


class BicubicUpscaler:
    """The bicubic baseline: `imresize` with the benchmarks' kernel."""

    def __init__(self, scale: int):
        self.scale = scale

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return imresize(lr, self.scale)


class NetworkUpscaler:
    """Runs a network whose `forward(x, scale)` maps LR batches to SR batches, RGB in [0, 1].

    `precision`: "fp32", "bf16" or "fp16" (autocast); bf16 costs at most about 0.05 dB on Set5. `tile`: tile size in LR pixels,
    "auto" or "off". `protocol`: how float SR becomes uint8, see `to_uint8`. `self_ensemble`: averages the float SR of the
    8 dihedral transforms (flips and 90-degree rotations). `backend`, `compile`: see `backends.start_backend`; the attribute
    `backend` is the one that was chosen.

    An image whose SR values are not finite in "bf16" or "fp16" is computed again in "fp32" by PyTorch; the first is reported
    on stderr. Calls raise `InputError` if the values are not finite in "fp32" either. An overflow to minus infinity within the
    network goes undetected, since ReLU maps it to 0.
    """

    def __init__(
        self,
        net: nn.Module,
        scale: int,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        tile: int | str = "auto",
        protocol: str = "paper",
        self_ensemble: bool = False,
        backend: str = "torch",
        compile: bool = False,
    ):
        self.device = torch.device(device)
        if self.device.type == "cpu":
            tune_malloc()
        self.net = net.to(self.device).to(memory_format=torch.channels_last).eval()
        self.scale, self.precision = scale, precision
        self.protocol, self.self_ensemble, self._tile = protocol, self_ensemble, tile
        self.backend, run = start_backend(backend, self.net, scale, self.device, precision, compile)
        self._tiler = Tiler(run, scale, tile, PRECISIONS[precision].itemsize)
        self._fp32_fallback: NetworkUpscaler | None = None  # made when `precision` overflows first

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return self._with_fp32_fallback(lambda upscaler: upscaler._to_8_bit(lr))

    def to_float(self, lr: np.ndarray) -> np.ndarray:
        """LR uint8 HxWx3 -> SR float32 (scale*H)x(scale*W)x3, the network's output: about [0, 1], not clamped."""
        return self._with_fp32_fallback(lambda upscaler: upscaler._to_float(lr))

    def _with_fp32_fallback(self, work: Callable[[NetworkUpscaler], np.ndarray]) -> np.ndarray:
        try:
            return work(self)
        except FloatingPointError as error:
            if self.precision == "fp32":
                raise InputError(f"{error} in fp32: the weights are damaged, use others") from None
            if self._fp32_fallback is None:
                print(f"{error} in {self.precision}: images where this happens are computed in fp32", file=sys.stderr)
                how = (self._tile, self.protocol, self.self_ensemble)
                self._fp32_fallback = NetworkUpscaler(self.net, self.scale, self.device, "fp32", *how)
        return self._fp32_fallback._with_fp32_fallback(work)

    def _to_8_bit(self, lr: np.ndarray) -> np.ndarray:
        if self.self_ensemble:
            return to_uint8(self._to_float(lr), self.protocol)
        out = np.empty(self._shape(lr), np.uint8)
        for rows, columns, sr in self._iter_tiles(self._to_tensor(lr)):  # the whole float image is never held
            out[rows, columns] = _to_numpy(to_uint8(sr, self.protocol))
        return out

    def _to_float(self, lr: np.ndarray) -> np.ndarray:
        if not self.self_ensemble:
            return self._run_float(lr)
        total = np.zeros(self._shape(lr), np.float32)
        for number in range(8):
            view = _dihedral(total, number)  # adding to this view of `total` undoes the transform
            view += self._run_float(_dihedral(lr, number))
        return total / 8

    def _run_float(self, lr: np.ndarray) -> np.ndarray:
        out = np.empty(self._shape(lr), np.float32)
        for rows, columns, sr in self._iter_tiles(self._to_tensor(lr)):
            out[rows, columns] = _to_numpy(sr.float())
        return out

    def _iter_tiles(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32"),
            full_fp32(),
        ):
            for rows, columns, sr in self._tiler.run(x):
                low, high = torch.stack(sr.aminmax()).tolist()  # one GPU synchronization for both
                if not -FP32_MAX < low <= high < FP32_MAX:  # a backend may clamp infinity to FP32_MAX; NaN fails too
                    raise FloatingPointError("the network's output is not finite")
                yield rows, columns, sr

    def _shape(self, lr: np.ndarray) -> tuple[int, int, int]:
        return lr.shape[0] * self.scale, lr.shape[1] * self.scale, 3

    def _to_tensor(self, lr: np.ndarray) -> Tensor:
        """uint8 HxWx3 -> uint8 1x3xHxW on the device, channels_last."""
        return torch.from_numpy(np.array(lr)).to(self.device).permute(2, 0, 1)[None]


def _dihedral(image: np.ndarray, number: int) -> np.ndarray:
    """A view of an HxWxC image after dihedral transform 0 to 7: a flip from 4 on, then `number` % 4 quarter rotations."""
    return np.rot90(image[:, ::-1] if number >= 4 else image, number % 4)


def _to_numpy(sr: Tensor) -> np.ndarray:
    """1x3xHxW -> HxWx3 of the same type."""
    return sr[0].permute(1, 2, 0).cpu().numpy()

"""LR image -> SR image: bicubic, or a network with precision, device, self-ensemble and tiles. Reads no files.

Tiling is in `inference/tiling.py`, the runtimes are in `inference/backends.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.device import full_fp32, is_out_of_memory
from common.errors import InputError
from dataset.imresize import resize
from inference.backends import FP32_MAX, start_backend
from inference.tiling import Tiler
from model import describe_failure, failed_model

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROTOCOLS = ("paper", "rounded")
NOT_FINITE = "the network's output is not finite"
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


def to_uint16(sr: Tensor) -> Tensor:
    """SR in [0, 1], any shape -> uint16: times 65535 in float32, clamped and rounded."""
    return (sr.float() * 65535).clamp_(0, 65535).round_().to(torch.uint16)


@contextmanager
def translate_upscale_errors(path: Path | str) -> Iterator[None]:
    """Raises an `InputError` that names the image `path` where memory or a GPU's runs out, or a network in `model/` fails."""
    try:
        yield
        return
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # PyTorch's on the CPU
            where = "on this machine"
        elif is_out_of_memory(error):
            where = "on the GPU"
        elif name := failed_model(error):
            raise InputError(f"{path}: model/{name}.py fails on it ({describe_failure(name, error)})") from error
        else:
            raise
    raise InputError(f"{path}: there is too little free memory for it {where}: free some, or use a smaller image")


class Upscale(Protocol):
    """LR HxWx3 -> SR (scale*H)x(scale*W)x3, both uint8, uint16 or float32 in [0, 1]."""

    scale: int

    def __call__(self, lr: np.ndarray) -> np.ndarray: ...


class BicubicUpscaler:
    """The bicubic baseline: `imresize` with the benchmarks' kernel."""

    def __init__(self, scale: int):
        self.scale = scale

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return resize(lr, lr.shape[0] * self.scale, lr.shape[1] * self.scale)


class NetworkUpscaler:
    """Runs a network whose `forward(x, scale)` maps LR batches to SR batches, RGB in [0, 1].

    `precision`: "fp32", "bf16" or "fp16" (autocast); bf16 changes PSNR on Set5 by at most 0.05 dB. `tile`: tile size in LR
    pixels, "auto" or "off". `protocol`: how float SR becomes uint8, see `to_uint8`. `self_ensemble`: averages the float SR of
    the 8 dihedral transforms (flips and 90-degree rotations), on a GPU in two batches of four where they fit. `backend`,
    `compile`: see `backends.start_backend`; the attribute `backend` is the one that was chosen.

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
        self.net = net.to(self.device).to(memory_format=torch.channels_last).eval()
        self.scale, self.precision = scale, precision
        self.protocol, self.self_ensemble, self._tile = protocol, self_ensemble, tile
        self.backend, run = start_backend(backend, self.net, scale, self.device, precision, compile)
        self._tiler = Tiler(run, scale, tile, PRECISIONS[precision].itemsize)
        self._fp32_upscaler: NetworkUpscaler | None = None  # made when it is first needed
        self._reported = False  # that values are not finite in `precision`

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """LR HxWx3 -> SR (scale*H)x(scale*W)x3 of its type: uint8, uint16, or float32, clamped to [0, 1].

        Since bf16 and fp16 round to 8 and 11 bits, uint16 and float32 images are always computed in fp32.
        """
        if lr.dtype == np.uint8:
            return self._upscale(lr, lambda sr: to_uint8(sr, self.protocol))
        return self._in_fp32()._compute(lr, to_uint16 if lr.dtype == np.uint16 else lambda sr: sr.clamp(0, 1))

    def to_float(self, lr: np.ndarray) -> np.ndarray:
        """LR HxWx3 -> SR float32 (scale*H)x(scale*W)x3, the network's output: about [0, 1], not clamped."""
        return self._upscale(lr, Tensor.float)

    def _upscale(self, lr: np.ndarray, convert: Callable[[Tensor], Tensor]) -> np.ndarray:
        """The SR image, each value `convert`ed; computed again in fp32 if it is not finite in `precision`."""
        try:
            return self._compute(lr, convert)
        except FloatingPointError as error:
            if not self._reported:
                self._reported = True
                print(f"{error} in {self.precision}: images where this happens are computed in fp32", file=sys.stderr)
        return self._in_fp32()._compute(lr, convert)

    def _in_fp32(self) -> NetworkUpscaler:
        """This upscaler if its precision is fp32, else one of the same network and settings that runs fp32 in PyTorch."""
        if self.precision == "fp32":
            return self
        if self._fp32_upscaler is None:
            how = (self._tile, self.protocol, self.self_ensemble)
            self._fp32_upscaler = NetworkUpscaler(self.net, self.scale, self.device, "fp32", *how)
        return self._fp32_upscaler

    def _compute(self, lr: np.ndarray, convert: Callable[[Tensor], Tensor]) -> np.ndarray:
        if not self.self_ensemble:
            return self._forward(lr, convert)
        if (sr := self._ensemble_in_batches(self._to_tensor(lr))) is not None:
            return _to_image(convert(sr))
        total = np.zeros((lr.shape[0] * self.scale, lr.shape[1] * self.scale, 3), np.float32)
        for number in range(8):
            view = _dihedral(total, number)  # adding to this view of `total` undoes the transform
            view += self._forward(_dihedral(lr, number), Tensor.float)
        return convert(torch.from_numpy(total / 8)).numpy()

    def _ensemble_in_batches(self, x: Tensor) -> Tensor | None:
        """LR 1x3xHxW -> the mean SR of the 8 transforms, in two passes: the four of each shape at once. None where that is no
        faster than one by one, as on the CPU, or takes too much memory."""
        if not self._tiler.fits(x.expand(4, -1, -1, -1)):
            return None
        upright: list[Tensor] = []
        for numbers in (range(0, 8, 2), range(1, 8, 2)):  # quarter rotations: even, odd
            views = [torch.rot90(x.flip(3) if number >= 4 else x, number % 4, (2, 3)) for number in numbers]
            with self._settings():
                sr = self._tiler.run_batch(torch.cat(views))
            if sr is None:
                return None
            self._check_finite(sr)
            for number, each in zip(numbers, sr.float().split(1), strict=True):
                back = torch.rot90(each, -number % 4, (2, 3))
                upright.append(back.flip(3) if number >= 4 else back)
        return torch.stack(upright).mean(0)

    def _forward(self, lr: np.ndarray, convert: Callable[[Tensor], Tensor]) -> np.ndarray:
        """One pass of the network. Each tile is converted on the device, so the whole float image is never held for uint8."""
        out = None
        for rows, columns, sr in self._iter_tiles(self._to_tensor(lr)):
            part = _to_image(convert(sr))
            if out is None:
                out = np.empty((lr.shape[0] * self.scale, lr.shape[1] * self.scale, 3), part.dtype)
            out[rows, columns] = part
        assert out is not None
        return out

    def _iter_tiles(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        with self._settings():
            for rows, columns, sr in self._tiler.run(x):
                self._check_finite(sr)
                yield rows, columns, sr

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Without gradients and in `precision`."""
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32"),
            full_fp32(),
        ):
            yield

    def _check_finite(self, sr: Tensor) -> None:
        low, high = torch.stack(sr.aminmax()).tolist()  # one GPU synchronization for both
        if not -FP32_MAX < low <= high < FP32_MAX:  # a backend may clamp infinity to FP32_MAX; NaN fails too
            if self.precision == "fp32":
                raise InputError(f"{NOT_FINITE} in fp32: the weights are damaged, use others")
            raise FloatingPointError(NOT_FINITE)

    def _to_tensor(self, lr: np.ndarray) -> Tensor:
        """HxWx3 -> 1x3xHxW on the device, channels_last: uint8, or float32 in [0, 1] for the other types."""
        lr = lr.astype(np.float32) / np.float32(65535) if lr.dtype == np.uint16 else np.array(lr)
        return torch.from_numpy(lr).to(self.device).permute(2, 0, 1)[None]


def warm_up(upscale: Upscale) -> None:
    """Upscales a small image, so that what is done once, such as starting a runtime, is in no time measured afterwards.

    Errors are left to the images that follow.
    """
    with suppress(Exception):
        upscale(np.full((32, 40, 3), 128, np.uint8))  # not square, or --compile would compile for squares only


def _to_image(sr: Tensor) -> np.ndarray:
    """1x3xHxW on any device -> HxWx3."""
    return sr[0].permute(1, 2, 0).cpu().numpy()


def _dihedral(image: np.ndarray, number: int) -> np.ndarray:
    """A view of an HxWxC image after dihedral transform 0 to 7: a flip from 4 on, then `number` % 4 quarter rotations."""
    return np.rot90(image[:, ::-1] if number >= 4 else image, number % 4)

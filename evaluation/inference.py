"""LR image -> SR image: bicubic, or a network with precision, device, self-ensemble and tiles. Reads no files.

Tiling itself, exact and in bounded memory, is in `evaluation/tiles.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from common.memory import keep_freed_memory
from dataset.imresize import imresize
from evaluation.backends import UNLIMITED, start_backend
from evaluation.metrics import to_uint8
from evaluation.tiles import Tiler
from model.bf16 import calibrate, fitted_to_bf16

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Upscale(Protocol):
    """LR uint8 HxWx3 -> SR uint8 (scale*H)x(scale*W)x3."""

    scale: int

    def __call__(self, lr: np.ndarray) -> np.ndarray: ...


class BicubicUpscaler:
    """The baseline of every table: `imresize` with the benchmarks' kernel."""

    def __init__(self, scale: int):
        self.scale = scale

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return imresize(lr, self.scale)


class NetworkUpscaler:
    """Runs a network whose `forward(x, scale)` maps LR batches to SR batches, RGB in [0, 1].

    `precision`: "fp32", "bf16" or "fp16" (autocast). `tile`: side of a tile in LR pixels, "auto" or "off".
    `protocol`: how float SR becomes uint8, see `metrics.to_uint8`. `self_ensemble`: the mean over the 8 flips and turns
    of the image, in float before it becomes uint8. `backend`, `by_inductor`: see `backends.start_backend`; afterwards the
    backend taken.

    An image whose SR values are not finite in "bf16" or "fp16" is computed again in "fp32" by PyTorch; the first is told
    of on stderr. Calls raise `InputError` where they are not finite in "fp32". Not seen is an overflow that the network
    itself swallows: its ReLU makes 0 of minus infinity.
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
        by_inductor: bool = False,
    ):
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.net = net.to(self.device).to(memory_format=torch.channels_last).eval()
        self.scale, self.precision = scale, precision
        self.protocol, self.self_ensemble, self._tile = protocol, self_ensemble, tile
        fitted = fitted_to_bf16(self.net) if precision == "bf16" else self.net
        self.backend, run = start_backend(backend, fitted, scale, self.device, precision, by_inductor)
        if precision == "bf16" and self.backend == "torch":
            calibrate(fitted, self.net, scale)
        self._tiler = Tiler(run, scale, tile, PRECISIONS[precision].itemsize)
        self._exact: NetworkUpscaler | None = None  # takes over where `precision` is not enough

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return self._guarded(lambda upscaler: upscaler._to_8_bits(lr))

    def to_float(self, lr: np.ndarray) -> np.ndarray:
        """LR uint8 HxWx3 -> SR float32 (scale*H)x(scale*W)x3 as the network gives it: about [0, 1], not clamped."""
        return self._guarded(lambda upscaler: upscaler._to_float(lr))

    def _guarded(self, work: Callable[[NetworkUpscaler], np.ndarray]) -> np.ndarray:
        try:
            return work(self)
        except FloatingPointError as error:
            if self.precision == "fp32":
                raise InputError(f"{error} in fp32: the weights are damaged, use others") from None
            if self._exact is None:
                print(f"{error} in {self.precision}: images where this happens are computed in fp32", file=sys.stderr)
                how = (self._tile, self.protocol, self.self_ensemble)
                self._exact = NetworkUpscaler(self.net, self.scale, self.device, "fp32", *how)
        return self._exact._guarded(work)

    def _to_8_bits(self, lr: np.ndarray) -> np.ndarray:
        if self.self_ensemble:
            return to_uint8(self._to_float(lr), self.protocol)
        out = np.empty(self._shape(lr), np.uint8)
        for rows, columns, sr in self._pieces(self._to_tensor(lr)):  # no float image of the whole is ever held
            out[rows, columns] = _to_numpy(to_uint8(sr, self.protocol))
        return out

    def _to_float(self, lr: np.ndarray) -> np.ndarray:
        if not self.self_ensemble:
            return self._float_turn(lr)
        total = np.zeros(self._shape(lr), np.float32)
        for turn in range(8):
            turned = _turn(total, turn)  # a view: what is added to it stands turned back in `total`
            turned += self._float_turn(_turn(lr, turn))
        return total / 8

    def _float_turn(self, lr: np.ndarray) -> np.ndarray:
        out = np.empty(self._shape(lr), np.float32)
        for rows, columns, sr in self._pieces(self._to_tensor(lr)):
            out[rows, columns] = _to_numpy(sr.float())
        return out

    def _pieces(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32"),
            no_tf32(),
        ):
            for rows, columns, sr in self._tiler.run(x):
                least, most = torch.stack(sr.aminmax()).tolist()  # one look at the GPU for both
                if not -UNLIMITED < least <= most < UNLIMITED:  # infinity may have become that; NaN is under nothing
                    raise FloatingPointError("the network's output is not finite")
                yield rows, columns, sr

    def _shape(self, lr: np.ndarray) -> tuple[int, int, int]:
        return lr.shape[0] * self.scale, lr.shape[1] * self.scale, 3

    def _to_tensor(self, lr: np.ndarray) -> Tensor:
        """uint8 HxWx3 -> uint8 1x3xHxW on the device, channels_last."""
        return torch.from_numpy(np.array(lr)).to(self.device).permute(2, 0, 1)[None]


@contextmanager
def no_tf32() -> Iterator[None]:
    """For fp32 that is fp32: cuDNN may else compute in TF32, of 10 bits; see docs/measuring.md, section 5."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _turn(image: np.ndarray, turn: int) -> np.ndarray:
    """A view of an HxWxC image in the turn 0..7: quarter turns, and from 4 on mirrored before."""
    return np.rot90(image[:, ::-1] if turn >= 4 else image, turn % 4)


def _to_numpy(sr: Tensor) -> np.ndarray:
    """1x3xHxW -> HxWx3 of the same type."""
    return sr[0].permute(1, 2, 0).cpu().numpy()

"""LR image -> SR image with a network: precision, devices, exact tiles. Reads no files, measures nothing.

A tile is upscaled with a halo of as many LR pixels as the network sees to each side, which is cut off afterwards, so
that tiles join to the whole-image result. The halo is found by asking the network (`receptive_field`), not typed in.
"""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from dataset.imresize import imresize
from evaluation.metrics import to_uint8

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO_TILE = 384  # LR pixels; with its halo about 1 GiB of activations at x2 in float32


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
    `protocol`: how float SR becomes uint8, see `metrics.to_uint8`. `self_ensemble`: the mean over the 8 flips and turns.
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
    ):
        self.device = torch.device(device)
        self.net = net.to(self.device, memory_format=torch.channels_last).eval()
        self.scale, self.precision, self.tile = scale, precision, tile
        self.protocol, self.self_ensemble = protocol, self_ensemble
        self._halo: int | None = None

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return to_uint8(self.to_float(lr), self.protocol)

    @torch.inference_mode()
    def to_float(self, lr: np.ndarray) -> np.ndarray:
        """LR uint8 HxWx3 -> SR float32 (scale*H)x(scale*W)x3 as the network gives it: about [0, 1], not clamped."""
        x = torch.from_numpy(np.array(lr)).to(self.device)
        x = x.permute(2, 0, 1)[None].float().div_(255)  # 1x3xHxW, channels_last
        sr = self._ensemble(x) if self.self_ensemble else self._tiles(x)
        return sr[0].permute(1, 2, 0).cpu().numpy()

    def _ensemble(self, x: Tensor) -> Tensor:
        total = torch.zeros((), device=x.device)
        for turn in range(8):
            flip, quarters = turn // 4, turn % 4
            turned = torch.rot90(x.flip(3) if flip else x, quarters, (2, 3))
            sr = torch.rot90(self._tiles(turned), -quarters, (2, 3))
            total = total + (sr.flip(3) if flip else sr)
        return total / 8

    def _tiles(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tile = self._tile_size(height, width)
        if tile >= max(height, width):
            return self._forward(x)
        halo, scale = self._halo_or_error(), self.scale
        sr = torch.empty(1, 3, height * scale, width * scale, device=x.device)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                bottom, right = min(top + tile, height), min(left + tile, width)
                y, x0 = max(top - halo, 0), max(left - halo, 0)
                part = self._forward(x[:, :, y : bottom + halo, x0 : right + halo])
                part = part[:, :, (top - y) * scale : (bottom - y) * scale, (left - x0) * scale : (right - x0) * scale]
                sr[:, :, top * scale : bottom * scale, left * scale : right * scale] = part
        return sr

    def _forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32"):
            sr = self.net(x, self.scale).float()
        expected = (*x.shape[:2], x.shape[2] * self.scale, x.shape[3] * self.scale)
        if sr.shape != expected:
            raise InputError(f"the network made {tuple(sr.shape)} of {tuple(x.shape)}, not {expected}: wrong --scale?")
        return sr

    def _tile_size(self, height: int, width: int) -> int:
        if self.tile == "off":
            return max(height, width)
        if self.tile != "auto":
            return int(self.tile)
        return max(height, width) if height * width <= (4 * AUTO_TILE // 3) ** 2 else AUTO_TILE

    def _halo_or_error(self) -> int:
        if self._halo is None:
            self._halo = receptive_field(self.net, self.scale)
        if self._halo < 0:
            raise InputError("this network sees the whole image at once, so tiles would change it: use --tile off")
        return self._halo


def receptive_field(net: nn.Module, scale: int) -> int:
    """How many LR pixels to each side of its own an SR pixel depends on (CFSRCNN: 27 at x2, 26 at x3 and x4).

    Measured on the network itself: a NaN in the middle of a strip of LR pixels reaches just the SR pixels that depend
    on it. In float64, since there each output is a sum of its own inputs alone. -1: the whole image.
    """
    probe = copy.deepcopy(net).to("cpu", torch.float64).eval()
    for length in (129, 513, 2049):
        reach = 0
        for axis in (2, 3):
            shape = [1, 3, 1, 1]
            shape[axis] = length
            lr = torch.zeros(shape, dtype=torch.float64)
            middle = length // 2
            lr.select(axis, middle).fill_(float("nan"))
            with torch.inference_mode():
                seen = probe(lr, scale).isnan().any(1).flatten(0, 0)[0].any(dim=3 - axis).nonzero().flatten() // scale
            reach = max(reach, middle - int(seen.min()), int(seen.max()) - middle) if len(seen) else reach
        if reach < length // 2:
            return reach
    return -1

"""Runs a network over an image of any size in bounded memory, with the result of the whole image. Reads no files.

Each tile is computed with a halo as wide as the receptive field, which is cropped afterwards, so the tiles join without seams.
The radius of the receptive field is measured on the network (`receptive_field_radius`), not hard-coded. A network with the
methods `extract` (everything at LR size) and `refine` (from LR to SR size) runs in two stages: large tiles for the first, whose
receptive field reaches 23 LR pixels but which needs little memory, and within them small tiles for the second, whose receptive
field reaches only 3 or 4. So little is computed twice.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from common.device import available_memory, is_out_of_memory
from common.errors import InputError
from common.units import format_bytes

CHANNELS = 64  # assumed number of feature maps per pixel
EXTRACT_MAPS, REFINE_MAPS = 8, 3  # live tensors of CHANNELS maps, at LR and at SR size
CPU_BUDGET = 1 << 29  # bytes for the activations of a tile, or a quarter of the free memory if that is less
GPU_BUDGET = 1 << 33  # likewise: more is no faster, and cuDNN indexes convolutions with 32 bits
BATCHING = ("cuda", "mps")  # devices on which batches of tiles are faster than single tiles
REFINE_SIDE = 384  # SR pixels, tile size of the second stage on the CPU
MIN_TILE = 32  # pixels: CPU convolutions less than 20 wide sum in another order, which changes the last bit
PROBE_LENGTHS = (129, 513, 2049)  # LR pixels, lengths of the strips on which the receptive field is measured

Run = Callable[[Tensor], Tensor]
Item = TypeVar("Item")


@runtime_checkable
class TwoStageModel(Protocol):
    """A network in two stages: `refine(*extract(lr), scale)` is equivalent to `forward(lr, scale)`."""

    def extract(self, lr: Tensor) -> tuple[Tensor, Tensor]: ...

    def refine(self, deep: Tensor, first: Tensor, scale: int | None) -> Tensor: ...


class Tiler:
    """Splits an image into tiles, runs the network and joins the results.

    `tile`: tile size in LR pixels, "auto" (by free memory) or "off". `itemsize`: bytes per value. On a GPU tiles run in batches
    as large as memory allows; if it runs out of memory the tile size is halved and the image computed again.
    """

    def __init__(self, net: nn.Module, scale: int, tile: int | str, itemsize: int):
        self._net, self._scale, self._tile, self._itemsize = net, scale, tile, itemsize
        self._tile_size = 0  # of the current image
        self._hit_oom = False  # the GPU has run out of memory before
        self._two_stage = net if isinstance(net, TwoStageModel) else None
        self._halos: tuple[int, int] | None = None

    def run(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """x: 1x3xHxW, uint8 or float32 in [0, 1]. Yields (SR rows, SR columns, SR 1x3xhxw float) until the image is covered.

        After running out of memory all tiles are yielded again. A network whose receptive field covers the whole image runs
        untiled. Raises `InputError` if there is too little memory for that, or if a tile size was asked for.
        """
        while True:
            try:
                yield from self._run(x)
                return
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise  # otherwise leaving this block frees the feature maps
            self._tile, self._hit_oom = self._tile_size // 2, True
            if self._tile < CHANNELS:
                raise InputError("the GPU has too little free memory for a tile of 64 pixels: use the CPU")
            print(f"the GPU is out of memory: going on with tiles of {self._tile} pixels", file=sys.stderr)
            torch.cuda.empty_cache()

    def _run(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        height, width = x.shape[2:]
        tile, inner = self._tile_sizes(x)
        self._tile_size = min(tile, max(height, width))
        extract_halo, refine_halo = (0, 0) if max(height, width) <= min(tile, inner) else self._find_halos()
        halo = extract_halo + refine_halo
        tiles = [(y, x) for y in _spans(0, height, tile, halo, height) for x in _spans(0, width, tile, halo, width)]
        for batch in _batched(tiles, self._batch_size(x.device, *(span.size for span in tiles[0]))):
            parts = _cat([x[:, :, rows.padded, columns.padded] for rows, columns in batch])
            # the feature maps have no name here, so they are freed before the next batch
            yield from self._refine_tiles(self._extract(parts), batch, inner, refine_halo)

    def fits(self, x: Tensor) -> bool:
        """Whether `run_batch` is faster for NxCxHxW than `run` for each image, and within the memory for a batch of tiles."""
        height, width = x.shape[2:]
        if self._batch_size(x.device, height, width) < len(x):
            return False
        return max(height, width) <= min(self._tile_sizes(x))

    def run_batch(self, x: Tensor) -> Tensor | None:
        """x: Nx3xHxW, uint8 or float32 in [0, 1], which `fits` -> SR, Nx3x(scale*H)x(scale*W), in one pass without tiles.

        None if the GPU runs out of memory; nothing fits from then on.
        """
        try:
            return self._refine(list(self._extract(x)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise  # otherwise leaving this block frees the feature maps
        self._hit_oom = True
        torch.cuda.empty_cache()
        return None

    def _batch_size(self, device: torch.device, height: int, width: int) -> int:
        """The number of tiles per batch: 1 after running out of memory, and on devices where batches are no faster."""
        if device.type not in BATCHING or self._hit_oom:
            return 1
        return max(1, _budget(device) // (self._bytes_per_pixel(whole=True) * height * width))

    def _extract(self, parts: Tensor) -> tuple[Tensor, ...]:
        parts = _canonical_strides(parts.float().div_(255) if parts.dtype == torch.uint8 else parts)
        return self._two_stage.extract(parts) if self._two_stage else (parts,)

    def _refine_tiles(
        self, maps: tuple[Tensor, ...], tiles: list[tuple[Span, Span]], inner: int, halo: int
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """The second stage on the feature maps of `tiles`, in batches of as many windows as there are tiles."""
        scale, (height, width) = self._scale, maps[0].shape[2:]
        windows = [
            (number, y, x)
            for number, (rows, columns) in enumerate(tiles)
            for y in _spans(*rows.core_within_padded, inner, halo, height)
            for x in _spans(*columns.core_within_padded, inner, halo, width)
        ]
        high, wide = max(y.size for _, y, _ in windows), max(x.size for _, _, x in windows)
        windows = [(number, y.widened(high, height), x.widened(wide, width)) for number, y, x in windows]
        for batch in _batched(windows, len(tiles)):
            crops = [
                _cat([each[number : number + 1, :, y.padded, x.padded] for number, y, x in batch]) for each in maps
            ]
            for (number, y, x), sr in zip(
                batch, self._refine(list(map(_canonical_strides, crops))).split(1), strict=True
            ):
                rows, columns = tiles[number]
                place = rows.core_in_image(y, scale), columns.core_in_image(x, scale)
                yield *place, sr[:, :, y.core_in_tile(scale), x.core_in_tile(scale)]

    def _refine(self, maps: list[Tensor]) -> Tensor:
        sr = (
            self._two_stage.refine(maps[0], maps[1], self._scale)
            if self._two_stage
            else self._net(maps[0], self._scale)
        )
        if not isinstance(sr, Tensor):
            raise InputError(f"the network returned a {type(sr).__name__}, not a tensor")
        expected = (maps[0].shape[0], 3, maps[0].shape[2] * self._scale, maps[0].shape[3] * self._scale)
        if sr.shape != expected:
            shapes = f"{tuple(sr.shape)} of {tuple(maps[0].shape)}, not {expected}"
            raise InputError(f"the network made {shapes}: it does not upscale by {self._scale}")
        return sr

    def _tile_sizes(self, x: Tensor) -> tuple[int, int]:
        """The tile sizes of the first and the second stage in LR pixels."""
        whole = max(x.shape[2:])
        if self._tile == "off":
            return whole, whole
        side = getattr(self._net, "refine_side", REFINE_SIDE)  # a backend may prefer another
        inner = side // self._scale if self._two_stage and x.device.type == "cpu" else whole
        if self._tile != "auto":
            return int(self._tile), min(int(self._tile), inner)
        side = math.isqrt(_budget(x.device) // self._bytes_per_pixel(whole=inner >= whole))
        if whole <= side:
            return side, min(side, inner)
        if min(self._measure_halos()) < 0:
            self._require_memory(x)
            return whole, whole
        side = max(CHANNELS, side - 2 * sum(self._find_halos()))
        return side, min(side, inner)

    def _require_memory(self, x: Tensor) -> None:
        """Raises `InputError` if the image cannot be computed in one piece."""
        needed = self._bytes_per_pixel(whole=True) * x.shape[2] * x.shape[3]
        free = available_memory(x.device)
        if needed > free:
            raise InputError(
                f"the receptive field of this network covers the whole image, so {x.shape[3]}x{x.shape[2]} pixels are "
                f"computed in one piece, which takes about {format_bytes(needed)}, and {format_bytes(free)} are free: "
                "use a smaller image"
            )

    def _bytes_per_pixel(self, whole: bool) -> int:
        """Bytes of activations per LR pixel of a tile. `whole`: the second stage is computed in one piece too."""
        maps = getattr(self._net, "extract_maps", EXTRACT_MAPS)
        if whole:
            maps = max(maps, EXTRACT_MAPS + REFINE_MAPS * self._scale**2)
        return maps * CHANNELS * self._itemsize

    def _find_halos(self) -> tuple[int, int]:
        """The halos of the two stages in LR pixels. `InputError` if there is no tile without an effect on the result."""
        if min(self._measure_halos()) < 0:
            memory = (
                "there is too little GPU memory for it in one piece" if self._hit_oom else "tiles change the result"
            )
            remedy = "use a smaller image or the CPU" if self._hit_oom else "leave the tile size at auto"
            raise InputError(f"the receptive field of this network covers the whole image and {memory}: {remedy}")
        return self._measure_halos()

    def _measure_halos(self) -> tuple[int, int]:
        """The radius of the receptive field of the two stages in LR pixels, negative where it is unbounded; cached."""
        if self._halos is None:
            net, scale = _probe_copy(self._net), self._scale
            if isinstance(net, TwoStageModel):
                widths: list[int] = []  # channels of the two maps

                def extract(x: Tensor) -> Tensor:
                    maps = net.extract(x)
                    widths[:] = [each.shape[1] for each in maps]
                    return torch.cat(maps, 1)

                def refine(x: Tensor) -> Tensor:
                    deep, first = x.split(widths, 1)
                    return net.refine(deep, first, scale)

                radius = receptive_field_radius(extract, 3, 1)
                self._halos = radius, receptive_field_radius(refine, sum(widths), scale) if radius >= 0 else -1
            else:
                self._halos = 0, receptive_field_radius(lambda x: net(x, scale), 3, scale)
        return self._halos


def receptive_field(net: nn.Module, scale: int) -> int:
    """The radius of the receptive field in LR pixels (CFSRCNN: 27 at x2, 26 at x3 and x4); -1 if it is unbounded."""
    probe = _probe_copy(net)
    return receptive_field_radius(lambda x: probe(x, scale), 3, scale)


def receptive_field_radius(run: Run, channels: int, scale: int) -> int:
    """How many input pixels to each side of its own position an output pixel of `run` depends on.

    `scale`: output size over input size. Measured: a NaN in the middle of a strip of input pixels spreads to exactly the
    output pixels that depend on it. Computed in float64 on the CPU, where each output is a sum of its own inputs only.
    Returns -1 if the NaN reaches the ends of the longest strip or a strip cannot be run: the receptive field must then be
    assumed to be the whole image. A dependency on pixels more than 64 away, without any nearer, is not detected.
    """
    for length in PROBE_LENGTHS:
        try:
            sides = [_radius_along(run, channels, scale, length, axis) for axis in (2, 3)]
        except (RuntimeError, InputError):  # a network for fixed image sizes
            return -1
        if max(sides) < length // 2:
            return max(sides)
    return -1


def _radius_along(run: Run, channels: int, scale: int, length: int, axis: int) -> int:
    shape = [1, channels, 1, 1]
    shape[axis] = length
    strip = torch.zeros(shape, dtype=torch.float64)
    middle = length // 2
    strip.select(axis, middle).fill_(float("nan"))
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        reached = run(strip).isnan().any(1)[0].any(dim=3 - axis)  # over the channels and the width of the strip
    places = reached.nonzero().flatten() // scale
    return max(middle - int(places.min()), int(places.max()) - middle) if len(places) else 0


def _probe_copy(net: nn.Module) -> nn.Module:
    net = getattr(net, "unwrapped", net)  # probes the network, not the backend that runs it
    return copy.deepcopy(net).to("cpu", torch.float64).eval()


def _budget(device: torch.device) -> int:
    """Bytes for the activations of one batch."""
    return min(available_memory(device) // 4, CPU_BUDGET if device.type == "cpu" else GPU_BUDGET)


def _canonical_strides(x: Tensor) -> Tensor:
    """`x` in channels_last with that format's own strides. Full rows cropped from one image count as contiguous but keep the
    batch stride of the image, which would make `--compile` compile again.
    """
    _, channels, height, width = x.shape
    strides = channels * height * width, 1, channels * width, channels
    return x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, strides)


def _cat(parts: list[Tensor]) -> Tensor:
    """`torch.cat`, without a copy if there is only one part."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _batched(items: list[Item], count: int) -> Iterator[list[Item]]:
    """Yields the items in lists of `count`; the last may be shorter."""
    return (items[first : first + count] for first in range(0, len(items), count))


@dataclass(frozen=True)
class Span:
    """The rows or columns of a tile: the core, which is kept, and the padded range, which is computed."""

    core_start: int
    core_stop: int
    padded_start: int
    padded_stop: int

    @property
    def size(self) -> int:
        """The length of the padded range."""
        return self.padded_stop - self.padded_start

    @property
    def padded(self) -> slice:
        """The padded range as a slice."""
        return slice(self.padded_start, self.padded_stop)

    @property
    def core_within_padded(self) -> tuple[int, int]:
        """Start and stop of the core, relative to the padded range."""
        return self.core_start - self.padded_start, self.core_stop - self.padded_start

    def widened(self, size: int, length: int) -> Span:
        """The same core with a padded range of `size` pixels, within 0 to `length`, that contains the former one."""
        start = min(self.padded_start, length - size)
        return Span(self.core_start, self.core_stop, start, start + size)

    def core_in_image(self, window: Span, scale: int) -> slice:
        """The place in the SR image of the core of `window`, a span within this tile."""
        return slice((self.padded_start + window.core_start) * scale, (self.padded_start + window.core_stop) * scale)

    def core_in_tile(self, scale: int) -> slice:
        """The place of the core in the SR of the padded range."""
        start, stop = self.core_within_padded
        return slice(start * scale, stop * scale)


def _spans(start: int, stop: int, side: int, halo: int, length: int) -> list[Span]:
    """Splits `start` to `stop`, within 0 to `length`, into as few spans as possible: cores of at most `side`, padded by `halo`.

    All padded ranges have the same size: the memory of one tile then fits the next, and no small remainder costs a halo.
    """
    step = math.ceil((stop - start) / math.ceil((stop - start) / side))
    cores = [(each, min(each + step, stop)) for each in range(start, stop, step)]
    spans = [Span(low, high, max(low - halo, 0), min(high + halo, length)) for low, high in cores]
    size = min(length, max(MIN_TILE, *(each.size for each in spans)))
    return [each.widened(size, length) for each in spans]

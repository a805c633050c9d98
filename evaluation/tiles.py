"""Running a network over an image of any size in bounded memory, with the result of the whole image. Reads no files.

A tile is computed with a halo of as many LR pixels as the network sees to each side; the halo is cut off, so tiles join
to what the whole image gives. The halo is found by asking the network (`reach`), not typed in. A network that offers
`extract` (everything at the LR size) and `refine` (from there to the SR size) runs in two stages: large tiles for the
first, which sees 23 LR pixels far but needs little memory, and within them small tiles for the second, which sees only
3 or 4. So little is computed twice.
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

from common.device import available_memory
from common.errors import InputError

CHANNELS = 64  # feature maps that a network is expected to hold per pixel
EXTRACT_MAPS, REFINE_MAPS = 8, 3  # groups of that many maps that are alive at once, at the LR and at the SR size
CPU_BUDGET = 1 << 29  # bytes for the activations of a tile at most; a quarter of what is free if that is less
GPU_BUDGET = 1 << 33  # likewise: more is no faster, and cuDNN's convolutions count their values in 32 bits
BATCHING = ("cuda", "mps")  # where several tiles at once are faster than one by one
REFINE_SIDE = 384  # SR pixels, side of a tile of the second stage on the CPU
LEAST_SIDE = 32  # pixels: CPU convolutions under 20 wide sum in another order, which shows in the last bit
PROBES = (129, 513, 2049)  # LR pixels, lengths of the strips that `reach` tries

Run = Callable[[Tensor], Tensor]
Thing = TypeVar("Thing")


@runtime_checkable
class Staged(Protocol):
    """A network in two stages; `refine(*extract(lr), scale)` is the whole of it."""

    def extract(self, lr: Tensor) -> tuple[Tensor, Tensor]: ...

    def refine(self, deep: Tensor, first: Tensor, scale: int | None) -> Tensor: ...


class Tiler:
    """Cuts, runs and joins. `tile`: side in LR pixels, "auto" (by free memory) or "off"; `itemsize`: bytes per value.

    On a GPU tiles go in batches, as large as memory allows; if it runs out of memory the tile is halved and the work goes on.
    """

    def __init__(self, net: nn.Module, scale: int, tile: int | str, itemsize: int):
        self._net, self._scale, self._tile, self._itemsize = net, scale, tile, itemsize
        self._side = 0  # of the tiles of the image at hand
        self._was_full = False  # the GPU has run out of memory
        self._staged = net if isinstance(net, Staged) else None
        self._halos: tuple[int, int] | None = None

    def run(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """x: uint8 1x3xHxW. Yields (SR rows, SR columns, SR 1x3xhxw float) until all of the image is covered.

        Raises `InputError` if tiles are needed but the network sees the whole image at once.
        """
        while True:
            try:
                yield from self._run(x)  # started again as a whole: what was yielded before is yielded anew
                return
            except torch.cuda.OutOfMemoryError:
                pass  # outside of this block the maps that were alive are gone
            self._tile, self._was_full = self._side // 2, True
            if self._tile < CHANNELS:
                raise InputError("the GPU has too little free memory for a tile of 64 pixels: use --device cpu")
            print(f"the GPU is out of memory: going on with --tile {self._tile}", file=sys.stderr)
            torch.cuda.empty_cache()

    def _run(self, x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        height, width = x.shape[2:]
        tile, inner = self._sides(x)
        self._side = min(tile, max(height, width))
        extract_halo, refine_halo = (0, 0) if max(height, width) <= min(tile, inner) else self._find_halos()
        halo = extract_halo + refine_halo
        tiles = [(y, x) for y in _spans(0, height, tile, halo, height) for x in _spans(0, width, tile, halo, width)]
        for some in _groups(tiles, self._at_once(x.device, tiles[0])):
            parts = _joined([x[:, :, rows.begin : rows.end, columns.begin : columns.end] for rows, columns in some])
            yield from self._refine_tiles(self._extract(parts), some, inner, refine_halo)  # no name holds the maps

    def _at_once(self, device: torch.device, tile: tuple[Span, Span]) -> int:
        """How many tiles go through the network in one batch; a device that a tile has filled once gets one by one."""
        if device.type not in BATCHING or self._was_full:
            return 1
        height, width = (span.end - span.begin for span in tile)
        return max(1, _budget(device) // (self._bytes_per_pixel(whole=True) * height * width))

    def _extract(self, parts: Tensor) -> tuple[Tensor, ...]:
        parts = _packed(parts.float().div_(255))
        return self._staged.extract(parts) if self._staged else (parts,)

    def _refine_tiles(
        self, maps: tuple[Tensor, ...], tiles: list[tuple[Span, Span]], inner: int, halo: int
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """The second stage over the tiles that `maps` are of, as many windows at once as there are tiles."""
        scale, (height, width) = self._scale, maps[0].shape[2:]
        windows = [
            (number, y, x)
            for number, (rows, columns) in enumerate(tiles)
            for y in _spans(rows.start - rows.begin, rows.stop - rows.begin, inner, halo, height)
            for x in _spans(columns.start - columns.begin, columns.stop - columns.begin, inner, halo, width)
        ]
        high, wide = max(y.end - y.begin for _, y, _ in windows), max(x.end - x.begin for _, _, x in windows)
        windows = [(number, y.widened(high, height), x.widened(wide, width)) for number, y, x in windows]
        for some in _groups(windows, len(tiles)):
            cut = [
                _joined([each[number : number + 1, :, y.begin : y.end, x.begin : x.end] for number, y, x in some])
                for each in maps
            ]
            for (number, y, x), sr in zip(some, self._refine(list(map(_packed, cut))).split(1), strict=True):
                rows, columns = tiles[number]
                placed = rows.place(y, scale), columns.place(x, scale)
                yield *placed, sr[:, :, y.kept(scale), x.kept(scale)]

    def _refine(self, maps: list[Tensor]) -> Tensor:
        sr = self._staged.refine(maps[0], maps[1], self._scale) if self._staged else self._net(maps[0], self._scale)
        expected = (maps[0].shape[0], 3, maps[0].shape[2] * self._scale, maps[0].shape[3] * self._scale)
        if sr.shape != expected:
            made = tuple(sr.shape)
            raise InputError(f"the network made {made} of {tuple(maps[0].shape)}, not {expected}: wrong --scale?")
        return sr

    def _sides(self, x: Tensor) -> tuple[int, int]:
        """The sides of the tiles of the first and the second stage in LR pixels."""
        whole = max(x.shape[2:])
        if self._tile == "off":
            return whole, whole
        side = getattr(self._net, "refine_side", REFINE_SIDE)  # an engine's, if one runs the network
        inner = side // self._scale if self._staged and x.device.type == "cpu" else whole
        if self._tile != "auto":
            return int(self._tile), min(int(self._tile), inner)
        side = math.isqrt(_budget(x.device) // self._bytes_per_pixel(whole=inner >= whole))
        if whole > side:
            side = max(CHANNELS, side - 2 * sum(self._find_halos()))
        return side, min(side, inner)

    def _bytes_per_pixel(self, whole: bool) -> int:
        """What a tile takes for each LR pixel; `whole`: its second stage too is computed in one piece."""
        maps = getattr(self._net, "extract_maps", EXTRACT_MAPS)
        if whole:
            maps = max(maps, EXTRACT_MAPS + REFINE_MAPS * self._scale**2)
        return maps * CHANNELS * self._itemsize

    def _find_halos(self) -> tuple[int, int]:
        if self._halos is None:
            net, scale = _probe(self._net), self._scale
            if isinstance(net, Staged):
                widths: list[int] = []  # channels of the two maps

                def extract(x: Tensor) -> Tensor:
                    maps = net.extract(x)
                    widths[:] = [each.shape[1] for each in maps]
                    return torch.cat(maps, 1)

                def refine(x: Tensor) -> Tensor:
                    deep, first = x.split(widths, 1)
                    return net.refine(deep, first, scale)

                seen = reach(extract, 3, 1)
                self._halos = seen, reach(refine, sum(widths), scale) if seen >= 0 else -1
            else:
                self._halos = 0, reach(lambda x: net(x, scale), 3, scale)
        if min(self._halos) < 0:
            raise InputError("this network sees the whole image at once, so tiles would change it: use --tile off")
        return self._halos


def receptive_field(net: nn.Module, scale: int) -> int:
    """How many LR pixels to each side of its own an SR pixel depends on (CFSRCNN: 27 at x2, 26 at x3 and x4); -1: all."""
    probe = _probe(net)
    return reach(lambda x: probe(x, scale), 3, scale)


def reach(run: Run, channels: int, scale: int) -> int:
    """How many input pixels to each side of its own an output pixel of `run`, `scale` times the size, depends on.

    Measured: a NaN in the middle of a strip of input pixels reaches just the output pixels that depend on it. In float64
    on the CPU, since there each output is a sum of its own inputs alone. -1 if it reaches the ends of the longest strip
    or a strip cannot be run: the network must then be taken to see the whole image. A dependency on pixels over 64 away
    and on none nearer is not found.
    """
    for length in PROBES:
        try:
            sides = [_side(run, channels, scale, length, axis) for axis in (2, 3)]
        except RuntimeError:  # a network for images of some size only
            return -1
        if max(sides) < length // 2:
            return max(sides)
    return -1


def _side(run: Run, channels: int, scale: int, length: int, axis: int) -> int:
    shape = [1, channels, 1, 1]
    shape[axis] = length
    strip = torch.zeros(shape, dtype=torch.float64)
    middle = length // 2
    strip.select(axis, middle).fill_(float("nan"))
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        seen = run(strip).isnan().any(1)[0].any(dim=3 - axis)  # over the channels and the strip's width
    places = seen.nonzero().flatten() // scale
    return max(middle - int(places.min()), int(places.max()) - middle) if len(places) else 0


def _probe(net: nn.Module) -> nn.Module:
    net = getattr(net, "original", net)  # not an engine that stands in for it
    return copy.deepcopy(net).to("cpu", torch.float64).eval()


def _budget(device: torch.device) -> int:
    """Bytes for the activations of what is computed at once."""
    return min(available_memory(device) // 4, CPU_BUDGET if device.type == "cpu" else GPU_BUDGET)


def _packed(x: Tensor) -> Tensor:
    """`x` in channels_last with that form's strides. Whole rows of one image pass as contiguous with the batch stride of
    what they are cut from, for which `--compile` would compile anew.
    """
    _, channels, height, width = x.shape
    strides = channels * height * width, 1, channels * width, channels
    return x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, strides)


def _joined(parts: list[Tensor]) -> Tensor:
    """A batch of them; one alone is not copied."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _groups(things: list[Thing], count: int) -> Iterator[list[Thing]]:
    """All of them in turn, `count` at once; fewer at the end."""
    return (things[first : first + count] for first in range(0, len(things), count))


@dataclass(frozen=True)
class Span:
    """Of a tile's rows or columns: what is kept of it, `start` to `stop`, and what is computed, `begin` to `end`."""

    start: int
    stop: int
    begin: int
    end: int

    def widened(self, size: int, length: int) -> Span:
        """Computes `size` pixels of the `length` there are, at least those of before."""
        begin = min(self.begin, length - size)
        return Span(self.start, self.stop, begin, begin + size)

    def place(self, window: Span, scale: int) -> slice:
        """Where the kept part of a window into this tile stands in the SR image."""
        return slice((self.begin + window.start) * scale, (self.begin + window.stop) * scale)

    def kept(self, scale: int) -> slice:
        """Where it stands in the SR of what was computed."""
        return slice((self.start - self.begin) * scale, (self.stop - self.begin) * scale)


def _spans(start: int, stop: int, side: int, halo: int, length: int) -> list[Span]:
    """`start` to `stop` of 0 to `length` in as few spans of at most `side` as it takes, with at least `halo` around them.

    All compute equally much: memory of one tile then fits the next one, and no small rest costs a halo of its own.
    """
    step = math.ceil((stop - start) / math.ceil((stop - start) / side))
    kept = [(each, min(each + step, stop)) for each in range(start, stop, step)]
    spans = [Span(low, high, max(low - halo, 0), min(high + halo, length)) for low, high in kept]
    size = min(length, max(LEAST_SIDE, *(each.end - each.begin for each in spans)))
    return [each.widened(size, length) for each in spans]

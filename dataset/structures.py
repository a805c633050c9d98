"""Images of regular structures for the training set: facades, bricks, lattices, stripes, arcs and text, in perspective.

Command line: `python -m dataset.structures --count N --out FOLDER`. Photographs of landscapes, animals and people have few of
the repeated fine structures of buildings; these images have little else. Each is drawn by formulas with 4x4 samples per pixel,
so that its edges are those of an ideal camera, and depends on its number and the seed alone.
"""

from __future__ import annotations

import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from common.cli import CliParser, bounded, non_negative_int
from common.errors import InputError, run_cli
from common.files import atomic_dir
from common.progress import progress
from dataset.image_writer import write_png

SEED = 87
SAMPLES = 4  # per pixel and axis, averaged
SIZE = 320
SIZES = (64, 2048)
MAX_COUNT = 100_000
PERIODS = (3.5, 40)  # of the patterns, in pixels, where the plane is as near as the image's center
LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + " .,-"


def draw_structures(number: int, seed: int = SEED, size: int = SIZE) -> np.ndarray:
    """Image `number` of the series `seed`: uint8 RGB, size x size x 3.

    A plane with a pattern in perspective, one to four regions of other such planes on it, uneven light, at times text; slightly
    blurred and noisy. The letters depend on the version of OpenCV, all else on the arguments alone.
    Raises `ValueError` if an argument is negative or `size` is not 64 to 2048.
    """
    if not (number >= 0 <= seed and SIZES[0] <= size <= SIZES[1]):
        raise ValueError(
            f"number {number}, seed {seed} or size {size}: at least 0, at least 0, {SIZES[0]} to {SIZES[1]}"
        )
    random = np.random.default_rng([number, seed])
    rows, columns = np.mgrid[: size * SAMPLES, : size * SAMPLES].astype(np.float32)
    y, x = ((each + 0.5) / SAMPLES - size / 2 for each in (rows, columns))
    image = _draw_plane(random, x, y)
    for _ in range(random.integers(1, 5)):
        region = _draw_region(random, x, y)
        image = np.where(region[..., None], _draw_plane(random, x, y), image)
    light = 1 + (random.normal(0, 0.2) * x + random.normal(0, 0.2) * y) / _extent(x, y)
    image *= light.clip(0.4, 1.4)[..., None].astype(np.float32)
    if random.random() < 0.3:
        image = _write_text(random, image)
    image = image.reshape(size, SAMPLES, size, SAMPLES, 3).mean((1, 3))
    image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.2, 0.6))
    image += random.normal(0, random.uniform(0, 0.006), (size, size, 1)).astype(np.float32)
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def write_structures(folder: Path, count: int, seed: int = SEED, size: int = SIZE) -> None:
    """Writes images 0 to count - 1 of the series `seed` as `folder`/structure_NNNN.png, on all cores, or nothing.

    Raises `InputError` if `folder` is there already.
    """
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is there already: name a new folder with --out")

    def write(number: int) -> None:
        write_png(temporary / f"structure_{number:04}.png", draw_structures(number, seed, size))

    with atomic_dir(folder) as temporary, ThreadPoolExecutor() as pool:
        for _ in progress(pool.map(write, range(count)), total=count, desc="structures", unit="image"):
            pass
    print(f"wrote {folder}: {count} images of {size}x{size}")


def _extent(x: np.ndarray, y: np.ndarray) -> float:
    """Half of the image's size in pixels."""
    return max(float(x.max()), float(y.max()))


def _draw_angle(random: Generator) -> float:
    """Mostly nearly level or upright, as on photographs of buildings."""
    if random.random() < 0.35:
        return random.uniform(0, np.pi)
    return random.integers(4) * np.pi / 2 + random.normal(0, 0.12)


def _draw_region(random: Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A half-plane, strip, rectangle or ellipse: booleans, HxW."""
    extent, angle = _extent(x, y), _draw_angle(random)
    u = x * np.cos(angle) + y * np.sin(angle) - random.uniform(-0.8, 0.8) * extent
    shape = random.integers(4)
    if shape == 0:
        return u > 0
    if shape == 1:
        return np.abs(u) < random.uniform(0.05, 0.5) * extent
    v = y * np.cos(angle) - x * np.sin(angle) - random.uniform(-0.8, 0.8) * extent
    if shape == 2:
        return (np.abs(u) < random.uniform(0.15, 0.6) * extent) & (np.abs(v) < random.uniform(0.15, 0.6) * extent)
    return np.hypot(u, v * random.uniform(0.6, 1.6)) < random.uniform(0.1, 0.5) * extent


def _draw_plane(random: Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A pattern on a plane in perspective: HxWx3."""
    angle = _draw_angle(random)
    tilt = random.uniform(-0.6, 0.6, 2) * (random.random() < 0.7) / _extent(x, y)
    depth = np.maximum(1 + tilt[0] * x + tilt[1] * y, 0.25)
    shear = random.normal(0, 0.15)
    period = np.exp(random.uniform(*np.log(PERIODS)))
    aspect = np.exp(random.uniform(-0.8, 0.8))
    u = (x * np.cos(angle) + y * np.sin(angle)) / depth / period / aspect + random.uniform(0, 97)
    v = (y * np.cos(angle) - x * np.sin(angle) + shear * x) / depth / period * aspect + random.uniform(0, 97)
    patterns = (_windows, _stripes, _bricks, _lattice, _checkers, _rings, _bars, _waves)
    value = patterns[random.integers(len(patterns))](random, u.astype(np.float32), v.astype(np.float32))
    return _color(random, value)


def _color(random: Generator, value: np.ndarray) -> np.ndarray:
    """0 to 1, HxW -> colors between three, of which the outer two differ in brightness: HxWx3."""
    colors = random.uniform(0, 1, (3, 1)) + random.normal(0, 0.12, (3, 3)) * random.choice([0.3, 1, 2])
    if abs(colors[0].mean() - colors[2].mean()) < 0.25:
        colors[2] += np.sign(colors[2].mean() - colors[0].mean()) * random.uniform(0.2, 0.6)
    colors = colors.clip(0.02, 0.98).astype(np.float32)
    colors[1] = (colors[0] + colors[2]) / 2 + (colors[1] - 0.5) * 0.4
    channels = (np.interp(value, (0, 0.5, 1), channel).astype(np.float32) for channel in colors.clip(0, 1).T)
    return np.stack(list(channels), -1)


def _write_text(random: Generator, image: np.ndarray) -> np.ndarray:
    mask = np.zeros(image.shape[:2], np.uint8)
    color = random.uniform(0, 1) + random.normal(0, 0.05, 3)
    scale = random.uniform(0.3, 1.2) * SAMPLES
    y = random.uniform(0, 40) * SAMPLES
    for _ in range(random.integers(1, 8)):
        text = "".join(random.choice(list(LETTERS), 40))
        font, thickness = int(random.integers(0, 5)), int(max(1, scale * random.uniform(0.8, 3)))
        cv2.putText(mask, text, (int(random.uniform(-40, 200)), int(y)), font, scale, 255, thickness, cv2.LINE_AA)
        y += scale * random.uniform(25, 40)
    alpha = (mask / np.float32(255))[..., None]
    return image * (1 - alpha) + alpha * color.astype(np.float32)


# The patterns: coordinates on the plane, in periods -> brightness from 0 to 1, HxW.


def _cells(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The column and row of the cell, and the place in it from 0 to 1."""
    column, row = np.floor(u), np.floor(v)
    return column, row, u - column, v - row


def _draw_tones(random: Generator, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """One value from 0 to 1 for each cell."""
    mixed = column.astype(np.int64) * 374761393 + row.astype(np.int64) * 668265263
    mixed += int(random.integers(1 << 20)) * 1274126177
    mixed = (mixed ^ (mixed >> 13)) * 1103515245 & 0x7FFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).astype(np.float32) / 65535


def _windows(random: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    column, row, a, b = _cells(u, v)
    half_width, half_height = random.uniform(0.2, 0.45, 2)
    frame = random.uniform(0.02, 0.1)
    window = (np.abs(a - 0.5) < half_width) & (np.abs(b - 0.5) < half_height)
    glass = (np.abs(a - 0.5) < half_width - frame) & (np.abs(b - 0.5) < half_height - frame)
    tone = random.uniform(0, 0.3) + _draw_tones(random, column, row) * random.choice([0.0, 0.2, 0.5])
    if panes := random.integers(0, 4):
        glass &= np.abs((a - 0.5 + half_width) / (2 * half_width) * panes % 1 - 0.5) > frame
    if random.random() < 0.3:  # blinds
        glass &= (b * random.integers(4, 9)) % 1 > 0.4
    wall = np.full_like(u, random.uniform(0.6, 1))
    if random.random() < 0.4:  # courses of stone
        wall -= 0.15 * ((v * random.integers(3, 8)) % 1 < 0.2)
    return np.where(glass, tone, np.where(window, random.uniform(0.4, 1), wall)).astype(np.float32)


def _stripes(random: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    duty = random.uniform(0.15, 0.85)
    if random.random() < 0.3:
        return (0.5 + 0.5 * np.sin(2 * np.pi * v)).astype(np.float32)
    stripe = (v - row < duty).astype(np.float32)
    return stripe * (1 - random.choice([0.0, 0.5]) * _draw_tones(random, row, row))


def _bricks(random: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u = u * random.uniform(0.3, 0.8) + random.choice([0.5, 0.33, 0.0]) * np.floor(v)
    column, row, a, b = _cells(u, v)
    mortar = random.uniform(0.06, 0.2)
    tone = random.uniform(0.2, 0.5) + _draw_tones(random, column, row) * random.uniform(0, 0.4)
    return np.where((b < mortar) | (a < mortar * 0.5), 1.0, tone).astype(np.float32)


def _lattice(random: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    width = random.uniform(0.06, 0.3)
    if random.random() < 0.5:
        u, v = u + v, u - v
    _, _, a, b = _cells(u, v)
    return ((a < width) | (b < width * random.uniform(0.5, 1.5))).astype(np.float32)


def _checkers(random: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    column, row, _, _ = _cells(u, v)
    tone = _draw_tones(random, column, row) * random.choice([0.0, 0.4])
    return np.where((column + row) % 2 == 0, tone, 1.0).astype(np.float32)


def _rings(random: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = np.hypot(u - u.mean() + random.normal(0, 3), v - v.mean() + random.normal(0, 3))
    return (radius % 1 < random.uniform(0.2, 0.8)).astype(np.float32)


def _bars(random: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Of random widths and tones."""
    edges = np.cumsum(random.exponential(0.6, 4000)) + random.uniform(-1, 0) + float(v.min())
    tones = random.uniform(0, 1, 4001).astype(np.float32)
    return tones[np.searchsorted(edges, v)]


def _waves(random: Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    v = v + random.uniform(0.1, 0.6) * np.sin(2 * np.pi * u * random.uniform(0.1, 0.6))
    return _stripes(random, u, v) if random.random() < 0.5 else _lattice(random, u, v)


def main() -> None:
    parser = CliParser(prog="python -m dataset.structures", description=__doc__.splitlines()[0])
    count = bounded(int, lambda value: 1 <= value <= MAX_COUNT, f"a whole number from 1 to {MAX_COUNT}")
    parser.add_argument("--count", type=count, required=True, metavar="N", help="images to draw")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder for the images")
    parser.add_argument("--seed", type=non_negative_int, default=SEED, help="other images for another seed")
    size = bounded(int, lambda value: SIZES[0] <= value <= SIZES[1], f"a whole number from {SIZES[0]} to {SIZES[1]}")
    parser.add_argument("--size", type=size, default=SIZE, help="width and height in pixels")
    args = parser.parse_args()
    write_structures(args.out, args.count, args.seed, args.size)


if __name__ == "__main__":
    run_cli(main)

"""Long and large work in bounded memory: many small images, one of 100 megapixels, many batches, a long training run.

Each part runs in a process of its own on pictures and weights made here, and its memory is looked at as it goes on. It is
in bounds if after a tenth of the work the peak grows by no more than GROWTH, and for the large image if it grows by no
more than FIXED and PER_PIXEL bytes for each of its pixels. Command line: `python -m benchmarks.load --parts images sampler`.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.noise import noise, training_noise, write_noise
from benchmarks.peak import peak
from benchmarks.result import write_result
from benchmarks.timing import device_name
from common.errors import run_command
from common.flags import Flags, positive
from common.progress import progress
from dataset.images import write_png
from dataset.patches import PatchSampler
from dataset.testset import open_test_set
from evaluation.benchmark_run import run_benchmark
from evaluation.inference import BicubicUpscaler, NetworkUpscaler, Upscale
from evaluation.tables import Table, to_markdown
from model import build_net
from model.init import initialise
from solver import Solver
from train import parse_flags
from training.parallel import Crew

MEGABYTE = 1 << 20
GROWTH = 150  # MiB that the peak may grow by once a tenth of the work is done
FIXED, PER_PIXEL = 512, 32  # MiB, and bytes for each HR pixel: reading, resizing, measuring and reporting a large image
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Load:
    """What a part did, and the peak memory of its process in MiB: at its start, after a tenth of the work, at its end."""

    work: str
    seconds: float
    start: float
    tenth: float
    end: float
    bound: float  # MiB that `end` may reach

    @property
    def in_bounds(self) -> bool:
        """Whether the peak at the end is within the bound."""
        return self.end <= self.bound


class Watch:
    """Called after each of `count` pieces of work; knows the peaks that `Load` has."""

    def __init__(self, count: int):
        self._left, self._since = max(1, count // 10), time.perf_counter()
        self.start = self.tenth = peak()

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.tenth = peak()

    def load(self, work: str, bound: float | None = None) -> Load:
        """`bound`: MiB more than at the start; by default the peak after a tenth and GROWTH."""
        limit = self.tenth + GROWTH if bound is None else self.start + bound
        return Load(work, time.perf_counter() - self._since, self.start, self.tenth, peak(), limit)


class Watched:
    """An upscaler, and a look at the memory after each image."""

    def __init__(self, upscale: Upscale, watch: Watch):
        self.scale, self._upscale, self._watch = upscale.scale, upscale, watch

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        sr = self._upscale(lr)
        self._watch()
        return sr


# --- the parts ------------------------------------------------------------------------------------------------------


def small_images(folder: Path, count: int) -> Load:
    """Benchmarks the network on `count` images of 16x16 LR pixels, with SR images and the report."""
    for number, image in enumerate(noise(count, 32, 32)):
        write_png(folder / f"set/{number:06}.png", image)
    net = build_net("cfsrcnn", 2)
    initialise(net, "identity")
    watch = Watch(count)
    benchmark(folder, Watched(NetworkUpscaler(net, 2), watch))
    return watch.load(f"{count:,} images of 32x32, network x2")


def large_image(folder: Path, megapixels: int) -> Load:
    """Benchmarks bicubic on one image, with the SR image and the report."""
    side = round(1000 * megapixels**0.5)
    ramp = np.arange(side, dtype=np.uint8)
    write_png(folder / "set/large.png", np.dstack([ramp[:, None] ^ ramp, ramp[:, None] + ramp, ramp[:, None] | ramp]))
    watch = Watch(1)
    benchmark(folder, BicubicUpscaler(2))
    return watch.load(f"one image of {side}x{side}, bicubic x2", FIXED + PER_PIXEL * side**2 / MEGABYTE)


def sampler(folder: Path, count: int) -> Load:
    """Draws `count` batches of 4 LR patches of 8x8 from images in memory."""
    draw, watch = PatchSampler(training_noise(16, 24, 24), 8, 4, seed=0), Watch(count)
    for _ in progress(range(count), desc="sampler", unit="batch"):
        draw.next()
        watch()
    return watch.load(f"{count:,} batches of 4 x 8x8")


def training(folder: Path, count: int) -> Load:
    """Trains the network for `count` steps of one LR patch of 8x8, with averaged weights and ten checkpoints."""
    write_noise(folder / "train.h5", training_noise(4, 24, 24))
    words = ["--train_data_path", folder / "train.h5", "--ckpt_dir", folder / "run", "--val_data_dir", folder / "none"]
    words += ["--patch_size", 8, "--batch_size", 1, "--max_steps", count, "--print_interval", max(1, count // 10)]
    words += ["--init", "identity", "--ema", 0.99, "--device", "cpu"]
    watch = Watch(count)

    class WatchedSolver(Solver):
        def train_step(self) -> tuple[torch.Tensor, torch.Tensor]:
            result = super().train_step()
            watch()
            return result

    WatchedSolver(parse_flags([str(word) for word in words]), Crew(CPU)).fit()
    return watch.load(f"{count:,} steps of 1 x 8x8")


def benchmark(folder: Path, upscale: Upscale) -> None:
    """Measures the test set in `folder`, as `tcw_sample.py` does."""
    about = {
        "model": "load",
        "checkpoint": None,
        "test_set": "set",
        "scale": 2,
        "protocol": "paper",
        "precision": "fp32",
    }
    with contextlib.redirect_stdout(io.StringIO()):  # a table of thousands of lines
        run_benchmark(upscale, open_test_set(folder / "set", 2), folder, "run", about, baseline=False)


PARTS: dict[str, Callable[[Path, int], Load]] = {
    "images": small_images,
    "large": large_image,
    "sampler": sampler,
    "training": training,
}


def run_part(name: str, size: int) -> Load:
    """One part in a process of its own, whose memory is that part's alone."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_work, name, Path(folder), size, torch.get_num_threads()).result()


def _work(name: str, folder: Path, size: int, threads: int) -> Load:
    torch.set_num_threads(threads)
    return PARTS[name](folder, size)


def main() -> None:
    parser = Flags(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--images", type=positive, default=2000, help="small images in a test set")
    parser.add_argument("--large", type=positive, default=100, metavar="MEGAPIXELS", help="of the large image")
    parser.add_argument("--sampler", type=positive, default=200_000, metavar="BATCHES", help="to draw")
    parser.add_argument("--training", type=positive, default=5000, metavar="STEPS", help="to train")
    parser.add_argument("--out", type=Path, default=Path("results/load.json"), help="what was measured, as JSON")
    args = parser.parse_args()

    loads = {name: run_part(name, getattr(args, name)) for name in dict.fromkeys(args.parts)}
    print(to_markdown(table(loads)), end="\n\n")
    content = {
        "device": device_name(CPU),
        **{name: {**asdict(each), "in_bounds": each.in_bounds} for name, each in loads.items()},
    }
    write_result(args.out, content)
    sys.exit(0 if all(each.in_bounds for each in loads.values()) else 1)


def table(loads: dict[str, Load]) -> Table:
    """What was measured, to be read."""
    head = [
        (each, "")
        for each in ("work", "seconds", "MiB at the start", "after a tenth", "at the end", "bound", "in bounds")
    ]
    rows = [
        [each.work, *(f"{value:.0f}" for value in (each.seconds, each.start, each.tenth, each.end, each.bound))]
        for each in loads.values()
    ]
    for row, each in zip(rows, loads.values(), strict=True):
        row.append("yes" if each.in_bounds else "NO")
    return Table("load", f"Peak memory, {device_name(CPU)}", head, rows, len(rows), [])


if __name__ == "__main__":
    run_command(main)

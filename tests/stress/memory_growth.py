"""Memory growth in long and large work: many small images, one of 100 megapixels, many batches, a long training run.

Each part runs in a process of its own on synthetic images and weights, and its peak memory is recorded as it goes on. It
is in bounds if the peak grows by no more than GROWTH after the first tenth of the work, and for the large image by no
more than FIXED plus PER_PIXEL bytes for each of its pixels.
Command line: `python -m tests.stress.memory_growth --parts images sampler`.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.json_output import write_json
from benchmarks.peak_rss import peak_rss
from benchmarks.synthetic import synthetic_images, synthetic_training_set, write_synthetic
from benchmarks.timing import device_name
from common.cli import CliParser, positive_int
from common.errors import run_cli
from common.malloc import tune_malloc
from common.progress import progress
from common.tables import Table, to_markdown
from dataset.benchmark_set import open_test_set
from dataset.image_writer import write_png
from dataset.patches import PatchSampler
from evaluation.benchmark_run import run_benchmark
from inference.upscaler import BicubicUpscaler, NetworkUpscaler, Upscale
from model import create_model
from model.init import init_weights
from solver import Solver
from training.config import TrainConfig
from training.distributed import DistributedContext

MEGABYTE = 1 << 20
GROWTH = 150  # MiB that the peak may grow by once a tenth of the work is done
FIXED, PER_PIXEL = 512, 32  # MiB, and bytes for each HR pixel: reading, resizing, measuring and reporting a large image
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Measurement:
    """What a part did, and the peak memory of its process in MiB: at the start, after a tenth of the work, at the end."""

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


class MemoryProbe:
    """Called after each of `count` pieces of work; records the peaks of a `Measurement`."""

    def __init__(self, count: int):
        self._left, self._since = max(1, count // 10), time.perf_counter()
        self.start = self.tenth = peak_rss()

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.tenth = peak_rss()

    def measurement(self, work: str, bound: float | None = None) -> Measurement:
        """`bound`: MiB more than at the start; by default the peak after a tenth and GROWTH."""
        limit = self.tenth + GROWTH if bound is None else self.start + bound
        return Measurement(work, time.perf_counter() - self._since, self.start, self.tenth, peak_rss(), limit)


class ProbedUpscaler:
    """An upscaler that calls the probe after each image."""

    def __init__(self, upscale: Upscale, probe: MemoryProbe):
        self.scale, self._upscale, self._probe = upscale.scale, upscale, probe

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        sr = self._upscale(lr)
        self._probe()
        return sr


# --- the parts ------------------------------------------------------------------------------------------------------


def small_images(folder: Path, count: int) -> Measurement:
    """Benchmarks the network on `count` images of 16x16 LR pixels, with SR images and the report."""
    tune_malloc()  # as tcw_sample.py does, and train.py below
    for number, image in enumerate(synthetic_images(count, 32, 32)):
        write_png(folder / f"set/{number:06}.png", image)
    net = create_model("cfsrcnn", 2)
    init_weights(net, "identity")
    probe = MemoryProbe(count)
    benchmark(folder, ProbedUpscaler(NetworkUpscaler(net, 2), probe))
    return probe.measurement(f"{count:,} images of 32x32, network x2")


def large_image(folder: Path, megapixels: int) -> Measurement:
    """Benchmarks bicubic on one image, with the SR image and the report."""
    side = round(1000 * megapixels**0.5)
    ramp = np.arange(side, dtype=np.uint8)
    write_png(folder / "set/large.png", np.dstack([ramp[:, None] ^ ramp, ramp[:, None] + ramp, ramp[:, None] | ramp]))
    probe = MemoryProbe(1)
    benchmark(folder, BicubicUpscaler(2))
    return probe.measurement(f"one image of {side}x{side}, bicubic x2", FIXED + PER_PIXEL * side**2 / MEGABYTE)


def sampler(folder: Path, count: int) -> Measurement:
    """Draws `count` batches of 4 LR patches of 8x8 from images in memory."""
    draw, probe = PatchSampler(synthetic_training_set(16, 24, 24), 8, 4, seed=0), MemoryProbe(count)
    for _ in progress(range(count), desc="sampler", unit="batch"):
        next(draw)
        probe()
    return probe.measurement(f"{count:,} batches of 4 x 8x8")


def training(folder: Path, count: int) -> Measurement:
    """Trains the network for `count` steps of one LR patch of 8x8, with EMA weights and ten checkpoints."""
    tune_malloc()
    write_synthetic(folder / "train.h5", synthetic_training_set(4, 24, 24))
    where = TrainConfig(train_data_path=str(folder / "train.h5"), ckpt_dir=str(folder / "run"), val_data_dir="none")
    interval = max(1, count // 10)
    config = replace(
        where, patch_size=8, batch_size=1, max_steps=count, print_interval=interval, init="identity", ema=0.99
    )
    probe = MemoryProbe(count)

    class ProbedSolver(Solver):
        def train_step(self) -> tuple[torch.Tensor, torch.Tensor]:
            result = super().train_step()
            probe()
            return result

    ProbedSolver(config, DistributedContext(CPU)).fit()
    return probe.measurement(f"{count:,} steps of 1 x 8x8")


def benchmark(folder: Path, upscale: Upscale) -> None:
    """Measures the test set in `folder`, as `tcw_sample.py` does."""
    metadata = {
        "model": "memory_growth",
        "checkpoint": None,
        "test_set": "set",
        "scale": 2,
        "protocol": "paper",
        "precision": "fp32",
    }
    with contextlib.redirect_stdout(io.StringIO()):  # a table of thousands of lines
        run_benchmark(upscale, open_test_set(folder / "set", 2), folder, metadata, baseline=False)


PARTS: dict[str, Callable[[Path, int], Measurement]] = {
    "images": small_images,
    "large": large_image,
    "sampler": sampler,
    "training": training,
}


def run_part(name: str, size: int) -> Measurement:
    """One part in a process of its own, whose memory is that part's alone."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_work, name, Path(folder), size, torch.get_num_threads()).result()


def _work(name: str, folder: Path, size: int, threads: int) -> Measurement:
    torch.set_num_threads(threads)
    return PARTS[name](folder, size)


def main() -> None:
    parser = CliParser(prog="python -m tests.stress.memory_growth", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--images", type=positive_int, default=2000, help="small images in a test set")
    parser.add_argument("--large", type=positive_int, default=100, metavar="MEGAPIXELS", help="of the large image")
    parser.add_argument("--sampler", type=positive_int, default=200_000, metavar="BATCHES", help="to draw")
    parser.add_argument("--training", type=positive_int, default=5000, metavar="STEPS", help="to train")
    parser.add_argument("--out", type=Path, default=Path("results/memory_growth.json"), help="JSON file to write")
    args = parser.parse_args()

    measurements = {name: run_part(name, getattr(args, name)) for name in dict.fromkeys(args.parts)}
    print(to_markdown(table(measurements)), end="\n\n")
    content = {
        "device": device_name(CPU),
        **{name: {**asdict(each), "in_bounds": each.in_bounds} for name, each in measurements.items()},
    }
    write_json(args.out, content)
    sys.exit(0 if all(each.in_bounds for each in measurements.values()) else 1)


def table(measurements: dict[str, Measurement]) -> Table:
    """The measurements as tables."""
    head = [
        (each, "")
        for each in ("work", "seconds", "MiB at the start", "after a tenth", "at the end", "bound", "in bounds")
    ]
    rows = [
        [each.work, *(f"{value:.0f}" for value in (each.seconds, each.start, each.tenth, each.end, each.bound))]
        for each in measurements.values()
    ]
    for row, each in zip(rows, measurements.values(), strict=True):
        row.append("yes" if each.in_bounds else "NO")
    return Table("memory_growth", f"Peak memory, {device_name(CPU)}", head, rows, len(rows), [])


if __name__ == "__main__":
    run_cli(main)

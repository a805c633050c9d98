"""Inference speed: the optimized network against a baseline, the network as the paper writes it, in one run.

"baseline" is Figure 2 to the letter: both passes through the upsampler, NCHW, float32, the whole image at once. Both go
from uint8 to uint8. There is one optimized row for each precision in PyTorch, and one more for each installed runtime of
`--backend`; `--backends torch compiled` adds one for `--compile`, which takes minutes to start.
Command line: `python -m benchmarks.inference --out results/inference.json`; `--quick` for a first look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.json_output import write_json
from benchmarks.synthetic import synthetic_images
from benchmarks.timing import SubprocessJob, device_name, min_seconds, time_interleaved
from common.cli import CliParser, positive_int
from common.device import full_fp32, pick_device
from common.errors import InputError, run_cli
from common.malloc import tune_malloc
from common.progress import progress
from common.tables import Table, to_markdown
from evaluation.complexity import count_cfsrcnn
from evaluation.paper import paper_results
from inference.backends import RUNTIMES, usable_backends
from inference.upscaler import PRECISIONS, NetworkUpscaler, to_uint8
from model.cfsrcnn import CFSRCNN
from model.init import init_weights

SIDES = {2: 256, 3: 170, 4: 128}  # LR pixels, so that the SR image is about 512x512
TABLE9 = (256, 512, 1024)  # HR pixels to a side
GROWTH = (128, 256, 512, 1024)  # LR pixels to a side, for pixels per second against size
COMPILED = "compiled"  # a choice of --backends here: PyTorch with --compile
BACKEND_CHOICES = ("torch", COMPILED, *RUNTIMES)
Job = Callable[[], object]
Config = tuple[str, str]  # precision and backend


def make_net(scale: int) -> CFSRCNN:
    """The network with Kaiming-initialized weights: with PyTorch's defaults all activations would be near zero."""
    torch.manual_seed(0)
    net = CFSRCNN(scale)
    init_weights(net, "kaiming")
    return net


class Baseline:
    """The network as the paper writes it, on the whole image: the denominator of all speedups."""

    def __init__(self, scale: int, device: torch.device):
        self.net = make_net(scale).to(device).eval()
        self.net.cb.merge = False
        self.device = device

    @torch.inference_mode()
    def __call__(self, lr: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(lr.transpose(2, 0, 1)[None] / np.float32(255)).to(self.device)
        with full_fp32():
            return to_uint8(self.net(x)[0].permute(1, 2, 0).cpu().numpy())


def make_baseline(scale: int, device: torch.device, lr: np.ndarray) -> Job:
    """The job of the baseline, for a process of its own."""
    return partial(Baseline(scale, device), lr)


def compare(scale: int, device: torch.device, configs: dict[str, Config], rounds: int, divide: int) -> dict:
    """Seconds, speedup over the baseline, and fraction of a bare convolution's rate, for each configuration at `scale`."""
    side = SIDES[scale] // divide
    (lr,) = synthetic_images(1, side, side)
    jobs: dict[str, Job] = {}
    for name, (precision, backend) in progress(configs.items(), desc=f"x{scale}", unit="start"):
        how: dict = {"compile": True} if backend == COMPILED else {"backend": backend}
        jobs[name] = partial(NetworkUpscaler(make_net(scale), scale, device, precision, **how), lr)
    bare = {precision: bare_convolution(side, device, PRECISIONS[precision]) for precision, _ in configs.values()}
    bare_jobs = {f"convolution {precision}": job for precision, (job, _) in bare.items()}
    with SubprocessJob(make_baseline, scale, device, lr) as baseline:
        seconds = time_interleaved(
            {"baseline": baseline, **jobs, **bare_jobs}, rounds, f"x{scale}", min_seconds(device)
        )
    macs = count_cfsrcnn(scale).scaled(side * side).macs
    rows = {}
    for name in ("baseline", *jobs):
        rows[name] = {"seconds": seconds[name], "speedup": seconds["baseline"] / seconds[name]}
        if name in configs:
            precision = configs[name][0]
            rate, peak = macs / seconds[name], bare[precision][1] / seconds[f"convolution {precision}"]
            rows[name] |= {"gmacs_per_second": rate / 1e9, "fraction_of_convolution": rate / peak}
    return {"lr_side": side, "rows": rows}


def optimized(device: torch.device, precisions: list[str], backends: list[str] | None) -> dict[str, Config]:
    """The configurations by the names of their rows: each precision with each of `backends` (None: all usable ones)."""
    configs = {}
    for precision in precisions:
        usable = usable_backends(device, precision)
        chosen = {*usable, COMPILED} & set(backends or usable)
        for backend in (each for each in BACKEND_CHOICES if each in chosen):
            configs[precision if backend == "torch" else f"{precision} {backend}"] = precision, backend
    if missing := set(backends or ()) - {backend for _, backend in configs.values()}:
        what = f"is not installed or does not know {', '.join(precisions)} on this device"
        raise InputError(f"--backends {min(missing)} {what}: pip install -r requirements-backends.txt, or leave it out")
    return configs


def bare_convolution(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Job, int]:
    """A 3x3 convolution 64 -> 64 alone, channels_last, and its MACs: an upper bound of the rate."""
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, dtype).to(memory_format=torch.channels_last)
    x = torch.rand(1, 64, side, side, device=device).to(dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        with full_fp32():
            for _ in range(20):
                conv(x)

    return run, 20 * side * side * 64 * 64 * 9


def by_size(scale: int, sides: Iterable[int], device: torch.device, precision: str, rounds: int) -> dict[int, float]:
    """Seconds for square LR images of each side."""
    upscale = NetworkUpscaler(make_net(scale), scale, device, precision)
    jobs: dict[str, Job] = {str(side): partial(upscale, *synthetic_images(1, side, side)) for side in sides}
    timed = time_interleaved(jobs, rounds, f"sizes at x{scale}", min_seconds(device))
    return {int(side): each for side, each in timed.items()}


def main() -> None:
    tune_malloc()
    parser = CliParser(prog="python -m benchmarks.inference", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/inference.json"), help="JSON for evaluation.paper")
    parser.add_argument("--rounds", type=positive_int, default=5, help="measured runs of each; medians are shown")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=tuple(PRECISIONS),
        help="to measure (default: fp32, and bf16 or on CUDA fp16)",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKEND_CHOICES,
        help="to measure (default: all installed ones, without compiled)",
    )
    parser.add_argument("--quick", action="store_true", help="a first look: sides divided by four and two rounds")
    parser.add_argument(
        "--sides",
        type=positive_int,
        nargs="+",
        help="time only square LR images of these sides, x2; nothing is written",
    )
    args = parser.parse_args()
    device, divide = pick_device(args.device), 4 if args.quick else 1
    rounds = 2 if args.quick else args.rounds
    precisions = args.precisions or ["fp32", "fp16" if device.type == "cuda" else "bf16"]
    if args.sides:
        print(to_markdown(growth_table(by_size(2, args.sides, device, precisions[0], rounds))))
        return

    configs = optimized(device, precisions, args.backends)
    compared = {scale: compare(scale, device, configs, rounds, divide) for scale in SIDES}
    table9 = by_size(2, tuple(side // 2 // divide for side in TABLE9), device, precisions[0], rounds)
    growth = by_size(2, tuple(side // divide for side in GROWTH), device, precisions[0], max(1, rounds // 2))
    for table in tables(compared, table9, growth, device, precisions[0]):
        print(to_markdown(table), end="\n\n")
    if args.quick:
        print("--quick: nothing written")
        return
    content = {
        "device": device_name(device),
        "compared": {f"x{scale}": each for scale, each in compared.items()},
        "table9": {"device": f"{device_name(device)}, {precisions[0]}"} | {f"hr_{2 * s}": t for s, t in table9.items()},
        "seconds_by_lr_side_x2": growth,
    }
    write_json(args.out, content)


def tables(compared: dict, table9: dict, growth: dict, device: torch.device, precision: str) -> list[Table]:
    """The measurements as tables."""
    cells = [
        [
            f"x{scale}",
            f"{each['lr_side']}x{each['lr_side']}",
            name,
            f"{row['seconds']:.3f}",
            f"{row['speedup']:.2f}",
            f"{row['fraction_of_convolution']:.0%}" if "fraction_of_convolution" in row else "-",
        ]
        for scale, each in compared.items()
        for name, row in each["rows"].items()
    ]
    head = [(name, "") for name in ("scale", "LR", "what", "seconds", "speedup over baseline", "of a bare convolution")]
    theirs = [f"{float(value):.4f}" for value in paper_results.runtime()["CFSRCNN"]]
    measured = [f"{value:.4f}" for value in table9.values()]
    rows = [["paper", *theirs], [f"ours, {precision}", *measured]]
    sides = [(f"HR {2 * side}x{2 * side}", "seconds") for side in table9]
    title = f"Optimized against baseline, {device_name(device)}"
    return [
        Table("inference", title, head, cells, len(cells), [], text_columns=3),
        Table("table9", "Table IX, x2", [("", ""), *sides], rows, 1, []),
        growth_table(growth),
    ]


def growth_table(seconds: dict[int, float]) -> Table:
    """Seconds by the side of the LR image, and the time per pixel relative to the first."""
    first = next(t / s**2 for s, t in seconds.items())
    rows = [[f"{s}x{s}", f"{t:.3f}", f"{s * s / t / 1e3:.1f}", f"{t / s**2 / first:.2f}"] for s, t in seconds.items()]
    head = [("LR", ""), ("seconds", ""), ("kilopixels/s", "LR"), ("time per pixel", "first row: 1")]
    return Table("growth", "x2 by size", head, rows, len(rows), [])


if __name__ == "__main__":
    run_cli(main)

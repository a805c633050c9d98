"""How fast an LR image becomes an SR image: ours against the network as the paper writes it, in one run.

"plain" is Figure 2 to the letter: both passes through the upsampler, NCHW, float32, the whole image at once. Both go from
uint8 to uint8. "ours" is a row for each precision in PyTorch, and one more for each engine of `--backend` that is installed;
`--backends torch compiled` has one for `--compile`, which takes minutes to start.
Command line: `python -m benchmarks.inference --out results/inference.json`; `--quick` for a first look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.noise import noise
from benchmarks.result import write_result
from benchmarks.timing import Elsewhere, device_name, time_alternately
from common.device import pick_device
from common.errors import InputError, run_command
from common.flags import Flags, positive
from common.progress import progress
from evaluation import published
from evaluation.backends import ENGINES, usable_backends
from evaluation.complexity import count_cfsrcnn
from evaluation.inference import PRECISIONS, NetworkUpscaler, no_tf32
from evaluation.metrics import to_uint8
from evaluation.tables import Table, to_markdown
from model.cfsrcnn import CFSRCNN
from model.init import initialise

SIDES = {2: 256, 3: 170, 4: 128}  # LR pixels, so that the SR picture is about 512x512
TABLE9 = (256, 512, 1024)  # HR pixels to a side
GROWTH = (128, 256, 512, 1024)  # LR pixels to a side, for pixels per second against size
COMPILED = "compiled"  # in place of a backend: PyTorch's own, with --compile
WAYS = ("torch", COMPILED, *ENGINES)
Job = Callable[[], object]
Way = tuple[str, str]  # precision and backend


def make_net(scale: int) -> CFSRCNN:
    """The network on weights of He scale: with PyTorch's default ones all activations would be near zero."""
    torch.manual_seed(0)
    net = CFSRCNN(scale)
    initialise(net, "he")
    return net


class Plain:
    """The network as the paper writes it, on the whole image; the yardstick of the ratios."""

    def __init__(self, scale: int, device: torch.device):
        self.net = make_net(scale).to(device).eval()
        self.net.cb.merge = False
        self.device = device

    @torch.inference_mode()
    def __call__(self, lr: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(lr.transpose(2, 0, 1)[None] / np.float32(255)).to(self.device)
        with no_tf32():
            return to_uint8(self.net(x)[0].permute(1, 2, 0).cpu().numpy())


def make_plain(scale: int, device: torch.device, lr: np.ndarray) -> Job:
    """The job of the yardstick, for a process of its own."""
    return partial(Plain(scale, device), lr)


def compare(scale: int, device: torch.device, ways: dict[str, Way], rounds: int, divide: int) -> dict:
    """Seconds and ratio to plain of each way at `scale`, and the share of the bare convolution's rate."""
    side = SIDES[scale] // divide
    (lr,) = noise(1, side, side)
    jobs: dict[str, Job] = {}
    for name, (precision, backend) in progress(ways.items(), desc=f"x{scale}", unit="start"):
        how: dict = {"by_inductor": True} if backend == COMPILED else {"backend": backend}
        jobs[name] = partial(NetworkUpscaler(make_net(scale), scale, device, precision, **how), lr)
    bare = {precision: bare_convolution(side, device, PRECISIONS[precision]) for precision, _ in ways.values()}
    bare_jobs = {f"convolution {precision}": job for precision, (job, _) in bare.items()}
    with Elsewhere(make_plain, scale, device, lr) as plain:
        seconds = time_alternately({"plain": plain, **jobs, **bare_jobs}, rounds, f"x{scale}")
    macs = count_cfsrcnn(scale).scaled(side * side).multiply_adds
    rows = {}
    for name in ("plain", *jobs):
        rows[name] = {"seconds": seconds[name], "against_plain": seconds["plain"] / seconds[name]}
        if name in ways:
            precision = ways[name][0]
            rate, peak = macs / seconds[name], bare[precision][1] / seconds[f"convolution {precision}"]
            rows[name] |= {"gmacs_per_second": rate / 1e9, "share_of_convolution": rate / peak}
    return {"lr_side": side, "rows": rows}


def ours(device: torch.device, precisions: list[str], backends: list[str] | None) -> dict[str, Way]:
    """What is held against plain, by the name of its row: each precision in each of `backends`, None: all that can."""
    ways = {}
    for precision in precisions:
        usable = usable_backends(device, precision)
        chosen = {*usable, COMPILED} & set(backends or usable)
        for backend in (each for each in WAYS if each in chosen):
            ways[precision if backend == "torch" else f"{precision} {backend}"] = precision, backend
    if missing := set(backends or ()) - {backend for _, backend in ways.values()}:
        what = f"is not installed or does not know {', '.join(precisions)} on this device"
        raise InputError(f"--backends {min(missing)} {what}: pip install -r requirements-backends.txt, or leave it out")
    return ways


def bare_convolution(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Job, int]:
    """A 3x3 convolution 64 -> 64 alone, channels_last, and its multiply-adds: the rate that nothing here can beat."""
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, dtype).to(memory_format=torch.channels_last)
    x = torch.rand(1, 64, side, side, device=device).to(dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        with no_tf32():
            for _ in range(20):
                conv(x)

    return run, 20 * side * side * 64 * 64 * 9


def by_size(scale: int, sides: Iterable[int], device: torch.device, precision: str, rounds: int) -> dict[int, float]:
    """Seconds for square LR images of each side."""
    upscale = NetworkUpscaler(make_net(scale), scale, device, precision)
    jobs: dict[str, Job] = {str(side): partial(upscale, *noise(1, side, side)) for side in sides}
    return {int(side): each for side, each in time_alternately(jobs, rounds, f"sizes at x{scale}").items()}


def main() -> None:
    parser = Flags(prog="python -m benchmarks.inference", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/inference.json"), help="JSON for evaluation.paper")
    parser.add_argument("--rounds", type=positive, default=5, help="measured runs of each thing; medians are shown")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--precisions", nargs="+", choices=tuple(PRECISIONS), help="default: fp32 and bf16")
    parser.add_argument("--backends", nargs="+", choices=WAYS, help="default: all that are installed, without compiled")
    parser.add_argument("--quick", action="store_true", help="sides divided by four and two rounds: a first look")
    parser.add_argument(
        "--sides", type=positive, nargs="+", help="time only square LR images of these sides, x2; nothing is written"
    )
    args = parser.parse_args()
    device, divide = pick_device(args.device), 4 if args.quick else 1
    rounds = 2 if args.quick else args.rounds
    precisions = args.precisions or ["fp32", "bf16"]
    if args.sides:
        print(to_markdown(growth_table(by_size(2, args.sides, device, precisions[0], rounds))))
        return

    ways = ours(device, precisions, args.backends)
    compared = {scale: compare(scale, device, ways, rounds, divide) for scale in SIDES}
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
    write_result(args.out, content)


def tables(compared: dict, table9: dict, growth: dict, device: torch.device, precision: str) -> list[Table]:
    """What was measured, to be read."""
    cells = [
        [
            f"x{scale}",
            f"{each['lr_side']}x{each['lr_side']}",
            name,
            f"{row['seconds']:.3f}",
            f"{row['against_plain']:.2f}",
            f"{row['share_of_convolution']:.0%}" if "share_of_convolution" in row else "-",
        ]
        for scale, each in compared.items()
        for name, row in each["rows"].items()
    ]
    head = [
        (name, "") for name in ("scale", "LR", "what", "seconds", "times as fast as plain", "of a bare convolution")
    ]
    theirs = [f"{float(value):.4f}" for value in published.runtime()["CFSRCNN"]]
    measured = [f"{value:.4f}" for value in table9.values()]
    rows = [["paper", *theirs], [f"ours, {precision}", *measured]]
    sides = [(f"HR {2 * side}x{2 * side}", "seconds") for side in table9]
    title = f"Ours against plain, {device_name(device)}"
    return [
        Table("inference", title, head, cells, len(cells), []),
        Table("table9", "Table IX, x2", [("", ""), *sides], rows, 1, []),
        growth_table(growth),
    ]


def growth_table(seconds: dict[int, float]) -> Table:
    """Seconds by the side of the LR image, and how the time per pixel compares with the first's."""
    first = next(t / s**2 for s, t in seconds.items())
    rows = [[f"{s}x{s}", f"{t:.3f}", f"{s * s / t / 1e3:.1f}", f"{t / s**2 / first:.2f}"] for s, t in seconds.items()]
    head = [("LR", ""), ("seconds", ""), ("kilopixels/s", "LR"), ("time per pixel", "first row: 1")]
    return Table("growth", "x2 by size", head, rows, len(rows), [])


if __name__ == "__main__":
    run_command(main)

"""Peak memory of upscaling an image: of the whole process, with `--tile auto`.

Each row is `tcw_sample.py --input` in a process of its own on a smooth image, from reading the file to writing the PNG.
Command line: `python -m benchmarks.memory --size 3840x2160`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.inference import BACKEND_CHOICES, COMPILED, Config, make_net, optimized
from benchmarks.peak_rss import peak_rss_in
from benchmarks.synthetic import synthetic_images
from benchmarks.timing import device_name
from common import SCALES
from common.cli import CliParser
from common.device import pick_device
from common.errors import InputError, run_cli
from common.tables import Table, to_markdown
from inference.upscaler import PRECISIONS
from model.checkpoint import save_state_dict

ROOT = Path(__file__).parent.parent


def measure_peak(folder: Path, scale: int, device: str, config: Config) -> tuple[float, float]:
    """The peak in GiB and the seconds of the command on `folder`/a.png with the weights of `folder`/net.pth."""
    precision, backend = config
    argv = ["--input", folder / "a.png", "--ckpt_path", folder / "net.pth", "--sample_dir", folder / "out"]
    argv += ["--scale", scale, "--device", device, "--precision", precision]
    argv += ["--compile"] if backend == COMPILED else ["--backend", backend]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, ROOT / "tcw_sample.py", *map(str, argv)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    said = process.stderr.read().decode() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"upscaling in {precision} with {backend} failed: {(said.splitlines() or ['killed'])[-1]}")
    return peak_rss_in(usage) / 1024, time.perf_counter() - start


def size(text: str) -> tuple[int, int]:
    """--size: WIDTHxHEIGHT."""
    sides = [int(each) if each.isascii() and each.isdigit() and len(each) < 7 else 0 for each in text.split("x")]
    if len(sides) != 2 or 0 in sides:
        raise argparse.ArgumentTypeError(f"{text} is not a size such as 3840x2160")
    return sides[0], sides[1]


def main() -> None:
    parser = CliParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=size, default="3840x2160", help="WIDTHxHEIGHT of the LR image")
    parser.add_argument("--scale", type=int, default=2, choices=SCALES, help="upscaling factor")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument(
        "--precisions", nargs="+", choices=tuple(PRECISIONS), default=["fp32", "bf16"], help="to measure"
    )
    parser.add_argument(
        "--backends", nargs="+", choices=BACKEND_CHOICES, help="to measure (default: all installed ones)"
    )
    args = parser.parse_args()
    device = pick_device(args.device)
    configs = optimized(device, args.precisions, args.backends)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        Image.fromarray(next(synthetic_images(1, 16, 16))).resize(args.size).save(Path(name) / "a.png")
        save_state_dict(make_net(args.scale).state_dict(), Path(name) / "net.pth")
        for what, config in configs.items():
            peak, seconds = measure_peak(Path(name), args.scale, device.type, config)
            rows.append([what, f"{peak:.2f}", f"{seconds:.0f}"])
    title = f"{args.size[0]}x{args.size[1]} at x{args.scale}, {device_name(device)}"
    print(to_markdown(Table("memory", title, [("", ""), ("peak", "GiB"), ("seconds", "")], rows, len(rows), [])))


if __name__ == "__main__":
    run_cli(main)

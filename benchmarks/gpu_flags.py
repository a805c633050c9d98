"""The flags of `benchmarks.gpu_session`, and what has to be there before it starts."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
from pathlib import Path

from benchmarks.subprocesses import ROOT
from common import SCALES
from common.cli import CliParser, bounded, non_negative_int, positive_int
from common.device import pick_device
from common.errors import InputError
from dataset.benchmark_set import open_test_set
from training.validation import NO_SET

DESCRIPTION = "One command for a borrowed GPU: tests, benchmarks, then training of x2, x3 and x4 in M minutes."
IMPORT_NAMES = {"opencv-python": "cv2", "pillow": "PIL", "scikit-image": "skimage"}  # where they are not the package's
NOT_NEEDED = ("torchvision", "pooch", "requests", "matplotlib")  # by none of the sections
SKIPPABLE = ("tests", "benchmarks", "speed", "training")
minutes = bounded(float, lambda value: 0 < value <= 1e5, "a number of minutes above zero")


def check_requirements() -> None:
    """`InputError` that names the missing packages, in the first second."""
    names = [re.split(r"[<>=~ #]", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines()]
    needed = [IMPORT_NAMES.get(name, name) for name in [*names, "pytest"] if name and name not in NOT_NEEDED]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise InputError(f"packages are missing: {', '.join(missing)}; install them, or choose another Python")


def parse_flags() -> argparse.Namespace:
    """Parses the command line."""
    parser = CliParser(prog="python -m benchmarks.gpu_session", description=DESCRIPTION)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--minutes", type=minutes, required=True, help="length of the session")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT") or "results/gpu"), help="folder for the results"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="folder for intermediate files")
    parser.add_argument(
        "--teachers", type=Path, help="folder of teachers' weights such as rlfn_x2.pth, to distill from"
    )
    parser.add_argument(
        "--validation", type=Path, help="validation set, or none (default: dataset/Set5 if it is there)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cuda", help="cpu: a dry run")
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=list(SCALES), help="scales to train")
    parser.add_argument("--skip", nargs="+", default=[], choices=SKIPPABLE, help="sections to skip")
    parser.add_argument("--batch", type=positive_int, default=44, help="patches per step at x2 (x3: 5/6, x4: 5/9)")
    parser.add_argument("--patch", type=positive_int, default=48, help="patch size in LR pixels")
    parser.add_argument("--lr", default="2e-3", help="learning rate of the training runs")
    parser.add_argument("--warmup", type=non_negative_int, default=300, help="steps of linear warmup")
    parser.add_argument("--probe_steps", type=positive_int, default=100, help="steps per measurement of the speed")
    parser.add_argument("--print_interval", type=positive_int, default=5000, help="steps between validations")
    args = parser.parse_args()
    for name in ("images", "teachers", "validation"):
        folder = getattr(args, name)
        if folder is None or (name == "validation" and str(folder) == NO_SET):
            continue
        if not folder.is_dir():
            raise InputError(f"--{name} {folder} is not a folder")
        setattr(args, name, folder.absolute())
        for scale in args.scales if name == "validation" else ():
            open_test_set(folder, scale)  # or its training would fail, when those before it are done
    for name in ("out", "work"):
        setattr(args, name, getattr(args, name).absolute())
    pick_device(args.device)
    return args

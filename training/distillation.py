"""Folders of images -> a training set whose targets are the mean output of teacher networks in place of the photographs.

Command line: `python -m training.distillation --scale 2 --teacher rlfn=FILE --teacher bsrn=FILE --source FOLDER --out FILE.h5`.
train.py reads the file as it reads that of div2h5.py. Finished images are kept in FILE.h5.parts until all are there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from common import SCALES
from common.cli import CliParser, bounded, non_negative_int
from common.device import pick_device
from common.errors import InputError, run_cli
from common.files import TEMP_PREFIX, atomic_write, ensure_not_input
from common.malloc import tune_malloc
from common.units import format_count
from dataset.prepare import add_padding_flag
from dataset.training_set import downscale_factor, write_training_set
from evaluation.cache import hash_files
from inference.upscaler import to_uint8
from training.teachers import Teacher, TeacherPool

PART_NAME = re.compile(r"[0-9a-f]{32}")  # of a finished image
FORMAT = "1"  # of the finished images; another one when the same settings give other targets


class TargetMaker:
    """HR uint8 HxWx3 and {scale: LR} -> the target, uint8 HxWx3: `weight` * teachers + (1 - `weight`) * HR, rounded.

    Targets are kept in the folder `parts`, found again by a hash of `settings` and of both images, so that what another
    command left there is never taken. `reused`: how many were found. For use by several threads.
    """

    def __init__(self, teachers: TeacherPool, scale: int, weight: float, parts: Path, settings: str):
        self._teachers, self._scale, self._weight = teachers, scale, weight
        self._parts, self._settings = parts, settings
        self.reused = 0

    def __call__(self, hr: np.ndarray, lrs: dict[int, np.ndarray]) -> np.ndarray:
        lr = lrs[self._scale]
        digest = hashlib.sha256(f"{self._settings} {lr.shape}".encode())
        for image in (lr, hr):
            digest.update(np.ascontiguousarray(image).data)
        part = self._parts / digest.hexdigest()[:32]  # its bytes alone; the shape is that of the HR image
        with suppress(FileNotFoundError):
            finished = part.read_bytes()
            if len(finished) == hr.size:
                self.reused += 1
                return np.frombuffer(finished, np.uint8).reshape(hr.shape)
        mixed = self._weight * self._teachers(lr) + np.float32((1 - self._weight) / 255) * hr
        target = to_uint8(mixed, "rounded")
        with atomic_write(part) as temporary:
            temporary.write_bytes(target.tobytes())
        return target


def distill(
    sources: list[Path],
    out: Path,
    scale: int,
    teachers: Sequence[Teacher],
    device: str = "auto",
    self_ensemble: bool = False,
    weight: float = 1.0,
    padding: str = "replicate",
    workers: int = 0,
    hold_out: int = 0,
    shrink: Sequence[float] = (),
) -> None:
    """Writes the training set `out` as `write_training_set` does, with targets by `TargetMaker`; images held out stay HR.

    `workers`: processes on the CPU (0: one per core). After an interruption, the same call resumes.
    Raises `InputError` as `write_training_set` and `TeacherPool` do; an existing file at `out` is then unchanged.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the file to write, such as {out / 'train.h5'}")
    ensure_not_input(out, [each.path for each in teachers])
    if twice := next((each for number, each in enumerate(teachers) if each in teachers[:number]), None):
        raise InputError(f"--teacher {twice} is given twice: name each once")
    workers = workers or os.cpu_count() or 1
    parts = out.with_name(f"{out.name}.parts")
    if parts.is_symlink() or (parts.exists() and not parts.is_dir()):
        raise InputError(f"{parts} is not a folder, but the finished images go there: move it away")
    with TeacherPool(teachers, scale, pick_device(device), self_ensemble, workers) as pool:
        files = [f"{each.model} {hash_files([each.path], names=False)}" for each in teachers]
        settings = " ".join([FORMAT, f"x{scale}", *files, f"{self_ensemble} {weight!r}"])
        maker = TargetMaker(pool, scale, weight, parts, settings)
        threads = workers + 1  # one image is read while as many are computed as there are processes
        write_training_set(sources, out, [scale], padding, threads, hold_out, shrink, maker)
    _remove_parts(parts)
    names = ", ".join(each.model for each in teachers)
    how = f"targets: mean output of {names}" + " over 8 transforms" * self_ensemble
    mix = "" if weight == 1 else f", {weight:g} of it and {1 - weight:g} of HR"
    print(how + mix + (f"; finished before: {format_count(maker.reused, 'image')}" if maker.reused else ""))


def _remove_parts(parts: Path) -> None:
    """Removes the finished images and, if nothing else is in it, their folder."""
    with suppress(OSError):
        for part in parts.iterdir():
            if PART_NAME.fullmatch(part.name) or part.name.startswith(TEMP_PREFIX):
                part.unlink()
        parts.rmdir()


def teacher(text: str) -> Teacher:
    """--teacher: NAME=FILE."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FILE, such as bsrn=bsrn_x2.pth")
    return Teacher(name, Path(path))


def parse_flags() -> argparse.Namespace:
    """The flags of the command line."""
    parser = CliParser(
        prog="python -m training.distillation",
        description="Build a training set whose targets are the mean output of teacher networks.",
    )
    parser.add_argument("--scale", type=int, choices=SCALES, required=True, help="upscaling factor")
    parser.add_argument(
        "--teacher",
        type=teacher,
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="a network model/NAME.py and its weights for the scale; may be repeated: the outputs are averaged",
    )
    parser.add_argument(
        "--source", type=Path, nargs="+", required=True, help="folders of images, or DIV2K, as in div2h5.py"
    )
    parser.add_argument("--out", type=Path, required=True, help="the file to write, for --train_data_path")
    parser.add_argument(
        "--self_ensemble", action="store_true", help="mean over the 8 transforms: better, 8 times as long"
    )
    parser.add_argument(
        "--teacher_weight",
        type=bounded(float, lambda value: 0 < value <= 1, "a number above 0, to 1"),
        default=1.0,
        metavar="A",
        help="target = A * teachers + (1 - A) * HR (default: 1)",
    )
    add_padding_flag(parser, "replicate", "padding of the resize that makes LR images")
    parser.add_argument("--workers", type=non_negative_int, default=0, help="processes (default: one per CPU core)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument(
        "--hold_out",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="leave out N images, the same as div2h5.py",
    )
    parser.add_argument(
        "--shrink",
        type=downscale_factor,
        nargs="+",
        default=[],
        help="as in div2h5.py: add each image again at these fractions of its size",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_flags()
    tune_malloc()
    distill(
        args.source,
        args.out,
        args.scale,
        args.teacher,
        args.device,
        args.self_ensemble,
        args.teacher_weight,
        args.padding,
        args.workers,
        args.hold_out,
        args.shrink,
    )


if __name__ == "__main__":
    run_cli(main)

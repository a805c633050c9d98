"""Trains a network. Parses flags and hands them to `Solver`; the defaults are the authors' procedure."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

from common.device import pick_device
from common.errors import InputError, run_command
from common.parallel import Crew, launch, launched
from common.run_lock import run_lock
from dataset.hdf5 import SCALES
from model.init import INITS
from solver import LOSSES, OPTIMIZERS, Solver


def parse_flags(words: list[str] | None = None) -> argparse.Namespace:
    """The flags in `words`, by default those of the command line."""
    parser = argparse.ArgumentParser(
        description="Train a super-resolution network.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    paper = parser.add_argument_group("the authors' flags")
    paper.add_argument("--model", default="cfsrcnn", help="a file model/NAME.py with a class Net")
    paper.add_argument("--ckpt_name", default="cfsrcnn", help="first part of the checkpoints' file names")
    paper.add_argument(
        "--print_interval", type=positive, default=1000, help="steps per log line, validation, checkpoint"
    )
    paper.add_argument("--train_data_path", default="dataset/DIV2K_train.h5", help="made by div2h5.py")
    paper.add_argument("--ckpt_dir", default="checkpoint", help="folder of the run")
    paper.add_argument("--sample_dir", default="sample/", help="accepted; validation writes its picture to TensorBoard")
    paper.add_argument("--num_gpu", type=positive, default=1, help="GPUs, or CPU processes, to train on")
    paper.add_argument("--shave", type=int, default=20, help="accepted; large images need no overlap set by hand")
    paper.add_argument("--scale", type=int, default=2, choices=(0, *SCALES), help="0: one network for 2, 3 and 4")
    paper.add_argument("--verbose", action="store_true", help="print the network")
    paper.add_argument("--group", type=positive, default=1, help="groups of the convolutions (cfsrcnn: 1)")
    paper.add_argument("--patch_size", type=positive, default=64, help="side of an LR patch in pixels (paper: 77)")
    paper.add_argument("--batch_size", type=positive, default=64, help="patches per step")
    paper.add_argument("--max_steps", type=positive, default=200_000, help="steps in all (paper: 600000)")
    paper.add_argument("--decay", type=positive, default=150_000, help="steps per halving of the rate (paper: 400000)")
    paper.add_argument("--lr", type=float, default=1e-4, help="learning rate")
    paper.add_argument("--clip", type=float, default=10.0, help="largest gradient norm; 0: no clipping")
    paper.add_argument("--loss_fn", choices=tuple(LOSSES), default="MSE", help="loss")

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--lr_schedule", choices=("step", "cosine"), default="step", help="step: --decay; cosine: to zero"
    )
    recipe.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="adam", help="muon: see common/muon.py")
    recipe.add_argument("--warmup", type=int, default=0, help="steps in which the rate rises linearly from zero")
    recipe.add_argument("--init", choices=INITS, default="default", help="initial weights, see model/init.py")
    recipe.add_argument("--ema", type=float, default=0.0, help="save and validate averaged weights, e.g. 0.999; 0: off")
    recipe.add_argument("--seed", type=int, default=0, help="of weights and patches")
    recipe.add_argument("--pretrained", help="start from these weights, also of another scale")

    run = parser.add_argument_group("run")
    run.add_argument("--resume", action="store_true", help="go on with the run in --ckpt_dir if there is one")
    run.add_argument("--val_data_dir", default="dataset/Set5", help="test set for validation")
    run.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to train")
    run.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast, weights stay fp32")
    run.add_argument(
        "--accumulate", type=positive, default=1, help="parts of a batch, one after the other: less memory"
    )
    run.add_argument(
        "--compile", action="store_true", help="through TorchInductor: slow to start, then faster on a GPU"
    )
    run.add_argument("--preload", choices=("auto", "device", "host"), default="auto", help="where the images lie")
    args = parser.parse_args(words)
    check(args)
    return args


def check(args: argparse.Namespace) -> None:
    """Flags that parse but make no sense."""
    if Path(args.ckpt_name).name != args.ckpt_name or not args.ckpt_name:
        raise InputError(f"--ckpt_name {args.ckpt_name!r} must be a plain name, the folder is --ckpt_dir")
    if args.batch_size < args.num_gpu:
        raise InputError(
            f"--batch_size {args.batch_size} is the whole batch: it must be at least --num_gpu {args.num_gpu}"
        )
    if args.batch_size // args.num_gpu < args.accumulate:
        raise InputError(
            f"--accumulate {args.accumulate} divides the patches of each process, which are --batch_size "
            f"{args.batch_size} / --num_gpu {args.num_gpu}: use a smaller one"
        )
    if args.num_gpu > 1 and args.device in ("auto", "cuda") and 0 < torch.cuda.device_count() < args.num_gpu:
        raise InputError(f"--num_gpu {args.num_gpu}: this machine has {torch.cuda.device_count()}")
    if not 0 < args.lr < math.inf:
        raise InputError(f"--lr {args.lr} must be positive")
    if not args.clip >= 0:
        raise InputError(f"--clip {args.clip} must be positive, or 0 for no clipping")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed} must not be negative")
    if not 0 <= args.ema < 1:
        raise InputError(f"--ema {args.ema} must be 0 (off) or below 1, such as 0.999")
    if args.warmup < 0:
        raise InputError(f"--warmup {args.warmup} must not be negative")


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above zero")
    return value


def main() -> None:
    args = parse_flags()
    if args.num_gpu > 1 and not launched():
        sys.exit(launch(__file__, sys.argv[1:], args.num_gpu))
    crew = Crew(pick_device(args.device))
    with crew.first_holds(run_lock(Path(args.ckpt_dir), args.ckpt_name)):
        Solver(args, crew).fit()


if __name__ == "__main__":
    run_command(main)

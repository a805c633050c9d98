"""Trains a network. Parses flags and hands them to `Solver`; the defaults are the authors' procedure."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import torch

from common.device import pick_device
from common.errors import InputError, run_command
from common.flags import Flags, checked, natural, positive
from common.scales import SCALES
from model.init import INITS
from solver import LOSSES, OPTIMIZERS, SCHEDULES, Solver
from training.parallel import Crew, launch, launched
from training.run_lock import run_lock

above_zero = checked(float, lambda value: 0 < value < math.inf, "a number above zero")
norm = checked(float, lambda value: value >= 0, "a number above zero, or 0 for no clipping")
seed = checked(int, lambda value: 0 <= value < 1 << 64, "a whole number from 0 to 2^64 - 1")
share = checked(float, lambda value: 0 <= value < 1, "0 (off) or a number below 1, such as 0.999")


def parse_flags(words: list[str] | None = None) -> argparse.Namespace:
    """The flags in `words`, by default those of the command line."""
    parser = Flags(description="Train a super-resolution network.")
    paper = parser.add_argument_group("the paper's flags", "defaults are those of the authors' code")
    paper.add_argument("--model", default="cfsrcnn", help="a file model/NAME.py with a class Net")
    paper.add_argument(
        "--scale", type=int, default=2, choices=(0, *SCALES), help="factor; 0: one network for all three"
    )
    paper.add_argument("--group", type=positive, default=1, help="groups of the convolutions (paper: 1)")
    paper.add_argument("--patch_size", type=positive, default=64, help="side of a patch in LR pixels (paper: 77)")
    paper.add_argument(
        "--batch_size", type=positive, default=64, help="patches per step, all GPUs together (paper: 64)"
    )
    paper.add_argument("--max_steps", type=positive, default=200_000, help="steps in all (paper: 600000)")
    paper.add_argument("--decay", type=positive, default=150_000, help="steps per halving of the rate (paper: 400000)")
    paper.add_argument("--lr", type=above_zero, default=1e-4, help="learning rate (paper: 0.0001)")
    paper.add_argument("--clip", type=norm, default=10.0, help="largest gradient norm, 0: no clipping (paper: 10)")
    paper.add_argument("--loss_fn", choices=tuple(LOSSES), default="MSE", help="loss (paper: MSE)")
    paper.add_argument("--num_gpu", type=positive, default=1, help="GPUs, or CPU processes (paper: 1)")
    paper.add_argument("--train_data_path", default="dataset/DIV2K_train.h5", help="training set, made by div2h5.py")
    paper.add_argument("--ckpt_dir", default="checkpoint", help="folder of the run")
    paper.add_argument("--ckpt_name", default="cfsrcnn", help="first part of the checkpoints' file names")
    paper.add_argument("--print_interval", type=positive, default=1000, help="steps per log line (paper: 1000)")
    paper.add_argument("--verbose", action="store_true", help="print the network")
    paper.add_argument("--sample_dir", default="sample/", help="without effect: pictures go to TensorBoard")
    paper.add_argument("--shave", type=int, default=20, help="without effect: tiles overlap by what is needed")

    recipe = parser.add_argument_group("recipe", "other ways to train; the defaults are the paper's way")
    recipe.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="adam", help="muon: see training/muon.py")
    recipe.add_argument("--lr_schedule", choices=tuple(SCHEDULES), default="step", help="cosine: to 0 at --max_steps")
    recipe.add_argument("--warmup", type=natural, default=0, help="steps in which the rate rises linearly from zero")
    recipe.add_argument("--init", choices=INITS, default="default", help="initial weights: model/init.py")
    recipe.add_argument("--ema", type=share, default=0.0, help="save averaged weights: share kept per step; 0: off")
    recipe.add_argument("--seed", type=seed, default=0, help="of initial weights and patches")

    data = parser.add_argument_group("data")
    data.add_argument("--val_data_dir", default="dataset/Set5", help="test set, measured every --print_interval steps")
    data.add_argument("--pretrained", help="start from the weights in this file, also of another scale")

    speed = parser.add_argument_group("speed")
    speed.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to train")
    speed.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast (paper: fp32)")
    speed.add_argument("--accumulate", type=positive, default=1, help="parts of a batch, one by one: less memory")
    speed.add_argument("--compile", action="store_true", help="by TorchInductor: slow to start, faster on a GPU")
    speed.add_argument(
        "--preload",
        choices=("auto", "device", "host"),
        default="auto",
        help="device: images lie there; host: in the file",
    )

    output = parser.add_argument_group("output")
    output.add_argument("--resume", action="store_true", help="go on with the run in --ckpt_dir if there is one")
    args = parser.parse_args(words)
    if args.lr_schedule == "cosine":
        parser.refuse(args, "--lr_schedule cosine falls to zero at --max_steps, not in halves", "decay")
    check(args)
    return args


def check(args: argparse.Namespace) -> None:
    """Flags that parse but make no sense together or on this machine."""
    if Path(args.ckpt_name).name != args.ckpt_name or not args.ckpt_name:
        raise InputError(f"--ckpt_name {args.ckpt_name!r} must be a plain name, the folder is --ckpt_dir")
    for flag, name in (("ckpt_dir", args.ckpt_dir), ("ckpt_name", args.ckpt_name)):
        if name != os.fsencode(name).decode(errors="replace"):
            raise InputError(f"--{flag} {name!r} has bytes that are no text, as TensorBoard needs it: choose another")
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
    if args.warmup > args.max_steps:
        raise InputError(f"--warmup {args.warmup} is longer than --max_steps {args.max_steps}: shorten it")


def main() -> None:
    args = parse_flags()
    if args.num_gpu > 1 and not launched():
        sys.exit(launch(__file__, sys.argv[1:], args.num_gpu))
    with Crew(pick_device(args.device)) as crew, crew.first_holds(run_lock(Path(args.ckpt_dir), args.ckpt_name)):
        Solver(args, crew).fit()


if __name__ == "__main__":
    run_command(main)

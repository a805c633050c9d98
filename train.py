"""Trains a network: parses the flags and passes them to `Solver`. The defaults are those of the authors' code."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from common import SCALES
from common.cli import CliParser, bounded, non_negative_int, positive_int
from common.device import COMPILE_MODES, pick_device
from common.errors import run_cli
from common.output import outlive_readers
from model.init import INITS, parse_init
from solver import LOSSES, OPTIMIZERS, Solver
from training.config import check_flags
from training.distributed import DistributedContext, is_distributed, launch
from training.run_lock import run_lock
from training.schedule import SCHEDULES

positive_float = bounded(float, lambda value: 0 < value < math.inf, "a number above zero")
non_negative_float = bounded(float, lambda value: value >= 0, "a number above zero, or 0 for no clipping")
seed = bounded(int, lambda value: 0 <= value < 1 << 64, "a whole number from 0 to 2^64 - 1")
ema_decay = bounded(float, lambda value: 0 <= value < 1, "0 (off) or a number below 1, such as 0.999")


def parse_flags(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line, or the given arguments."""
    parser = CliParser(description="Train a super-resolution network.")
    paper = parser.add_argument_group("the paper's flags", "defaults are those of the authors' code")
    paper.add_argument("--model", default="cfsrcnn", help="a file model/NAME.py with a class Net")
    paper.add_argument("--scale", type=int, default=2, choices=(0, *SCALES), help="factor; 0: one network for all")
    paper.add_argument("--group", type=positive_int, default=1, help="groups of the convolutions (paper: 1)")
    paper.add_argument("--patch_size", type=positive_int, default=64, help="patch size in LR pixels (paper: 77)")
    paper.add_argument("--batch_size", type=positive_int, default=64, help="patches per step, all GPUs (paper: 64)")
    paper.add_argument("--max_steps", type=positive_int, default=200_000, help="training steps (paper: 600000)")
    paper.add_argument("--decay", type=positive_int, default=150_000, help="steps per halving of --lr (paper: 400000)")
    paper.add_argument("--lr", type=positive_float, default=1e-4, help="learning rate (paper: 0.0001)")
    paper.add_argument("--clip", type=non_negative_float, default=10.0, help="max gradient norm, 0: off (paper: 10)")
    paper.add_argument("--loss_fn", choices=tuple(LOSSES), default="MSE", help="loss (paper: MSE)")
    paper.add_argument("--num_gpu", type=positive_int, default=1, help="GPUs or CPU processes (paper: 1)")
    paper.add_argument("--train_data_path", default="dataset/DIV2K_train.h5", help="training set, made by div2h5.py")
    paper.add_argument("--ckpt_dir", default="checkpoint", help="output folder of the run")
    paper.add_argument("--ckpt_name", default="cfsrcnn", help="prefix of the checkpoints' file names")
    paper.add_argument("--print_interval", type=positive_int, default=1000, help="steps per log line (paper: 1000)")
    paper.add_argument("--verbose", action="store_true", help="print the network")
    paper.add_argument("--sample_dir", default="sample/", help="ignored; images go to TensorBoard")
    paper.add_argument("--shave", type=int, default=20, help="ignored; kept for compatibility")

    recipe = parser.add_argument_group("recipe", "alternatives to the paper's recipe, which is the default")
    recipe.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="adam", help="muon: see training/muon.py")
    recipe.add_argument("--lr_schedule", choices=tuple(SCHEDULES), default="step", help="cosine: to 0 at --max_steps")
    recipe.add_argument("--warmup", type=non_negative_int, default=0, help="steps of linear warmup from zero")
    recipe.add_argument("--init", type=parse_init, choices=INITS, default="default", help="see model/init.py")
    recipe.add_argument("--ema", type=ema_decay, default=0.0, help="EMA decay of the weights, such as 0.999; 0: off")
    recipe.add_argument(
        "--max_minutes", type=positive_float, help="stop after this time too; the schedule then ends with it"
    )
    recipe.add_argument(
        "--hard_crops",
        type=positive_int,
        default=1,
        metavar="K",
        help="draw each crop among K by bicubic's error in it",
    )
    recipe.add_argument("--seed", type=seed, default=0, help="random seed of initial weights and patches")

    data = parser.add_argument_group("data")
    data.add_argument("--val_data_dir", default="dataset/Set5", help="validation set, every --print_interval steps")
    data.add_argument("--pretrained", help="initial weights, also of another scale")

    speed = parser.add_argument_group("speed")
    speed.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to train")
    speed.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast (paper: fp32)")
    speed.add_argument("--accumulate", type=positive_int, default=1, help="micro-batches per step, for less memory")
    speed.add_argument("--compile", action="store_true", help="torch.compile: slow to start, faster on a GPU")
    speed.add_argument(
        "--compile_mode",
        choices=COMPILE_MODES,
        default="default",
        help="of --compile; max-autotune-no-cudagraphs: minutes to start, at times faster",
    )
    speed.add_argument(
        "--cuda_graph",
        action="store_true",
        help="record a step once and replay it: no time between kernels, for small batches; one GPU, one scale",
    )
    speed.add_argument(
        "--preload",
        choices=("auto", "device", "host"),
        default="auto",
        help="device: preload images; host: memory-map the HDF5 file",
    )

    output = parser.add_argument_group("output")
    output.add_argument("--resume", action="store_true", help="resume the run in --ckpt_dir if there is one")
    args = parser.parse_args(argv)
    if args.lr_schedule == "cosine":
        parser.reject(args, "--lr_schedule cosine falls to zero at --max_steps, not in halves", "decay")
    check_flags(args)
    return args


def main() -> None:
    args = parse_flags()
    if args.num_gpu > 1 and not is_distributed():
        sys.exit(launch(__file__, sys.argv[1:], args.num_gpu))
    lock = run_lock(Path(args.ckpt_dir), args.ckpt_name)
    with outlive_readers(), DistributedContext(pick_device(args.device)) as context, context.hold_on_main(lock):
        Solver(args, context).fit()


if __name__ == "__main__":
    run_cli(main)

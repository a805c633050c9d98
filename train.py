"""Trains a network: parses the flags and passes them to `Solver`. The defaults are those of the authors' code."""

from __future__ import annotations

import math
import sys
from argparse import BooleanOptionalAction
from dataclasses import fields
from pathlib import Path

from common import SCALES
from common.cli import CliParser, bounded, non_negative_int, positive_int
from common.device import COMPILE_MODES, pick_device
from common.errors import error_context, run_cli
from common.malloc import tune_malloc
from common.output import outlive_readers
from model.init import INITS, parse_init
from solver import OPTIMIZERS, Solver
from training.config import TrainConfig, check_flags
from training.distributed import DistributedContext, is_distributed, launch
from training.failures import fail_at_start
from training.losses import LOSSES
from training.run_lock import run_lock
from training.schedule import SCHEDULES

positive_float = bounded(float, lambda value: 0 < value < math.inf, "a number above zero")
non_negative_float = bounded(float, lambda value: value >= 0, "a number above zero, or 0 for no clipping")
seed = bounded(int, lambda value: 0 <= value < 1 << 64, "a whole number from 0 to 2^64 - 1")
ema_decay = bounded(float, lambda value: 0 <= value < 1, "0 (off) or a number below 1, such as 0.999")


def micro_batches(text: str) -> int:
    """--accumulate: a whole number above zero, or "auto", which is 0."""
    return 0 if text == "auto" else positive_int(text)


def parse_flags(argv: list[str] | None = None) -> TrainConfig:
    """The settings by the command line, or by the given arguments."""
    parser = CliParser(description="Train a super-resolution network.")
    paper = parser.add_argument_group("the paper's flags", "defaults are those of the authors' code")
    paper.add_argument("--model", help="a file model/NAME.py with a class Net")
    paper.add_argument("--scale", type=int, choices=(0, *SCALES), help="upscaling factor; 0: one network for all")
    paper.add_argument("--group", type=positive_int, help="groups of the convolutions (paper: 1)")
    paper.add_argument("--patch_size", type=positive_int, help="patch size in LR pixels (paper: 77)")
    paper.add_argument("--batch_size", type=positive_int, help="patches per step, all GPUs (paper: 64)")
    paper.add_argument("--max_steps", type=positive_int, help="training steps (paper: 600000)")
    paper.add_argument("--decay", type=positive_int, help="steps per halving of --lr (paper: 400000)")
    paper.add_argument("--lr", type=positive_float, help="learning rate (paper: 0.0001)")
    paper.add_argument("--clip", type=non_negative_float, help="max gradient norm, 0: off (paper: 10)")
    paper.add_argument("--loss_fn", choices=tuple(LOSSES), help="loss (paper: MSE)")
    paper.add_argument("--num_gpu", type=positive_int, help="GPUs or CPU processes (paper: 1)")
    paper.add_argument("--train_data_path", help="training set, made by div2h5.py")
    paper.add_argument("--ckpt_dir", help="output folder of the run")
    paper.add_argument("--ckpt_name", help="prefix of the files' names (default: the model's)")
    paper.add_argument("--print_interval", type=positive_int, help="steps per log line (paper: 1000)")
    paper.add_argument("--verbose", action="store_true", help="print the network")
    paper.add_argument("--sample_dir", help="ignored; images go to TensorBoard")
    paper.add_argument("--shave", type=int, help="ignored; kept for compatibility")

    recipe = parser.add_argument_group("recipe", "alternatives to the paper's recipe, which is the default")
    recipe.add_argument("--optimizer", choices=tuple(OPTIMIZERS), help="muon: see training/muon.py")
    recipe.add_argument("--lr_schedule", choices=tuple(SCHEDULES), help="cosine: to 0 at --max_steps")
    recipe.add_argument("--warmup", type=non_negative_int, help="steps of linear warmup from zero")
    recipe.add_argument("--init", type=parse_init, choices=INITS, help="see model/init.py")
    recipe.add_argument("--ema", type=ema_decay, help="EMA decay of the weights, such as 0.999; 0: off")
    recipe.add_argument("--max_minutes", type=positive_float, help="stop after this time; the schedule ends with it")
    recipe.add_argument("--hard_crops", type=positive_int, metavar="K", help="draw crops among K by bicubic's error")
    recipe.add_argument("--seed", type=seed, help="random seed of initial weights and patches")

    data = parser.add_argument_group("data")
    data.add_argument("--val_data_dir", help="validation set, or none (default: dataset/Set5 if it is there)")
    data.add_argument("--pretrained", help="initial weights, also of another scale")

    speed = parser.add_argument_group("speed")
    speed.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="where to train")
    speed.add_argument("--precision", choices=("fp32", "bf16"), help="bf16: autocast (paper: fp32)")
    speed.add_argument("--tf32", action=BooleanOptionalAction, help="TF32 in fp32 convolutions (default: PyTorch's)")
    speed.add_argument(
        "--accumulate", type=micro_batches, metavar="N", help="micro-batches per step; auto: as few as fit on the GPU"
    )
    speed.add_argument("--compile", action="store_true", help="torch.compile: slow to start, faster on a GPU")
    speed.add_argument(
        "--compile_mode", choices=COMPILE_MODES, help="max-autotune-no-cudagraphs: minutes to start, at times faster"
    )
    speed.add_argument(
        "--cuda_graph",
        action="store_true",
        help="record a step once and replay it: no time between kernels, for small batches; one GPU, one scale",
    )
    speed.add_argument(
        "--preload", choices=("auto", "device", "host"), help="device: preload images; host: memory-map the HDF5 file"
    )

    output = parser.add_argument_group("output")
    output.add_argument("--resume", action="store_true", help="resume the run in --ckpt_dir if there is one")
    parser.set_defaults(**{each.name: each.default for each in fields(TrainConfig)})
    args = parser.parse_args(argv)
    if args.lr_schedule == "cosine":
        parser.reject(args, "--lr_schedule cosine falls to zero at --max_steps, not in halves", "decay")
    config = TrainConfig(**{each.name: getattr(args, each.name) for each in fields(TrainConfig)})
    check_flags(config)
    return config


def main() -> None:
    with fail_at_start():
        args = parse_flags()
        with error_context(f"--device {args.device}"):
            device = pick_device(args.device)
    tune_malloc()
    if args.num_gpu > 1 and not is_distributed():
        sys.exit(launch(__file__, sys.argv[1:], args.num_gpu))
    lock = run_lock(Path(args.ckpt_dir), args.ckpt_name)
    with outlive_readers(), DistributedContext(device) as context, context.hold_on_main(lock):
        Solver(args, context).fit()


if __name__ == "__main__":
    run_cli(main)

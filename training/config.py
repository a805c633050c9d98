"""What the flags of `train.py` must fulfil together, beyond what each of them takes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from common.errors import InputError


def check_flags(args: argparse.Namespace) -> None:
    """Raises `InputError` for flags that parse but make no sense together or on this machine."""
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

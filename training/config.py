"""The settings of a training run and their defaults, and the checks that concern several settings or the machine."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common.device import check_precision, has_tf32
from common.errors import InputError, error_context
from common.files import ensure_name_fits
from model import check_model_name
from training.cuda_graph import check_cuda_graph
from training.distributed import DistributedContext

MAX_ENDING = 32  # bytes: the longest of what follows --ckpt_name in the names of a run's files, and to spare
Value = str | int | float | bool | None


def spell(name: str, value: Value) -> Value:
    """The value of a setting as the command line takes it: `TrainConfig.as_flags`."""
    if name == "accumulate" and value == 0:
        return "auto"
    return "inf" if value == math.inf else value


@dataclass(frozen=True)
class TrainConfig:
    """One field for each flag of `train.py` that has an effect, with the same name and default.

    `check_flags` and `Solver` raise `InputError` for values that make no sense.
    """

    # the paper's flags; the defaults are those of the authors' code
    model: str = "cfsrcnn"  # model/NAME.py
    scale: int = 2  # 0: one network for x2, x3 and x4
    group: int = 1
    patch_size: int = 64  # LR pixels
    batch_size: int = 64  # patches per step, of all processes together
    max_steps: int = 200_000
    decay: int = 150_000  # steps per halving of the learning rate
    lr: float = 1e-4
    clip: float = 10.0  # largest gradient norm; 0: no clipping
    loss_fn: str = "MSE"
    num_gpu: int = 1
    train_data_path: str = "dataset/DIV2K_train.h5"
    ckpt_dir: str = "checkpoint"
    ckpt_name: str = None  # type: ignore[assignment]  # None: the model's name
    print_interval: int = 1000  # steps
    verbose: bool = False
    # recipe
    optimizer: str = "adam"
    lr_schedule: str = "step"
    warmup: int = 0  # steps
    init: str = "default"
    ema: float = 0.0  # decay per step; 0: no EMA weights
    max_minutes: float | None = None
    hard_crops: int = 1  # candidates per crop
    seed: int = 0
    # data
    val_data_dir: str | None = None  # "none": no validation; None: `DEFAULT_SET`, if it is there
    pretrained: str | None = None
    # speed
    device: str = "auto"
    precision: str = "fp32"
    tf32: bool | None = None  # fp32 convolutions in TF32 on CUDA; None: as PyTorch is set, which is yes
    accumulate: int = 1  # micro-batches per step; 0: as few as fit on the GPU
    compile: bool = False
    compile_mode: str = "default"
    cuda_graph: bool = False
    preload: str = "auto"
    # output
    resume: bool = False

    def __post_init__(self) -> None:
        if self.ckpt_name is None:
            object.__setattr__(self, "ckpt_name", self.model)  # the class is frozen

    def as_flags(self) -> dict[str, Value]:
        """The value of each flag as the command line takes it: `accumulate` 0 is "auto"; and "inf" is a word, for JSON."""
        return {name: spell(name, value) for name, value in asdict(self).items()}

    def divergence_advice(self) -> str:
        """What to do about losses or weights that grow without bound."""
        return "try a lower --lr or --clip" if self.clip else "try a lower --lr, or --clip, which is off"


def check_flags(args: TrainConfig) -> None:
    """Raises `InputError` for flags that parse but make no sense together or on this machine."""
    check_model_name(args.model)
    if Path(args.ckpt_name).name != args.ckpt_name or not args.ckpt_name:
        raise InputError(f"--ckpt_name {args.ckpt_name!r} must be a plain name, the folder is --ckpt_dir")
    for flag, name in (("ckpt_dir", args.ckpt_dir), ("ckpt_name", args.ckpt_name)):
        if name != os.fsencode(name).decode(errors="replace"):
            raise InputError(f"--{flag} {name!r} has bytes that are not text, as TensorBoard needs it: choose another")
    with error_context("--ckpt_name"):
        ensure_name_fits(Path(args.ckpt_name), MAX_ENDING)
    if args.batch_size < args.num_gpu:
        raise InputError(
            f"--batch_size {args.batch_size} is the whole batch: it must be at least --num_gpu {args.num_gpu}"
        )
    if args.batch_size // args.num_gpu < args.accumulate:
        raise InputError(
            f"--accumulate {args.accumulate} divides the patches of each process, which are --batch_size "
            f"{args.batch_size} / --num_gpu {args.num_gpu}: use {args.batch_size // args.num_gpu} at most"
        )
    if args.num_gpu > 1 and args.device in ("auto", "cuda") and 0 < torch.cuda.device_count() < args.num_gpu:
        have = torch.cuda.device_count()
        raise InputError(f"--num_gpu {args.num_gpu}: this machine has {have}; use at most {have}, or --device cpu")
    if args.compile_mode != TrainConfig.compile_mode and not args.compile:
        raise InputError("--compile_mode is for --compile: add --compile, or leave --compile_mode out")
    if args.warmup > args.max_steps:
        raise InputError(f"--warmup {args.warmup} is longer than --max_steps {args.max_steps}: shorten it")


def check_machine(args: TrainConfig, context: DistributedContext) -> None:
    """Raises `InputError` for settings that do not fit the device or the number of processes."""
    check_precision(context.device, args.precision)
    if args.tf32 and not has_tf32(context.device):
        raise InputError(
            f"--tf32 is for CUDA GPUs from compute capability 8.0 on, not for {context.device}: leave it out"
        )
    if args.cuda_graph:
        check_cuda_graph(context.device, context.world_size, args.scale)
    if args.batch_size < context.world_size:
        raise InputError(
            f"--batch_size {args.batch_size} is the whole batch, too small for {context.world_size} processes: "
            "use a larger one, or start fewer"
        )

"""The training data of a run: where the images are kept, the patch sampler, and the line printed at the start."""

from __future__ import annotations

import torch
from torch import nn

from common.device import available_memory
from common.errors import InputError
from common.units import format_bytes, format_count
from dataset.hdf5 import TrainingImages, read_hdf5
from dataset.patches import PatchSampler
from training.config import TrainConfig
from training.distributed import DistributedContext
from training.memory import fits_beside_training
from training.run_record import describe_precision


def load_images(args: TrainConfig, context: DistributedContext, scales: tuple[int, ...]) -> tuple[TrainingImages, str]:
    """The images of `--train_data_path` at `scales`, and "device" or "host": where `--preload` keeps them.

    Raises `InputError` if the file cannot be used, or if the patches of a batch alone do not fit into memory.
    """
    cuda = context.device.type == "cuda"
    images = read_hdf5(args.train_data_path, scales)
    preload = args.preload
    if preload == "auto":
        if cuda:
            fits = fits_beside_training(images.nbytes, args, context)
        else:  # mapped, several processes share one copy
            fits = context.world_size == 1 and images.nbytes < 0.6 * available_memory(context.device)
        preload = "device" if fits else "host"
    if preload == "device" and not cuda:
        images = images.load_into_memory()
    _check_batch(args, context, scales)
    return images, preload


def start_line(
    args: TrainConfig, context: DistributedContext, net: nn.Module, images: TrainingImages, preload: str
) -> str:
    """One line on the network, the data, the device and the length of the run; with `--verbose` the network as well."""
    place = {"host": "mapped from the file", "device": "on the GPU" if context.device.type == "cuda" else "in memory"}
    weights = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    processes = f" x {context.world_size} processes" if context.world_size > 1 else ""
    limit = f" or {args.max_minutes:g} minutes" if args.max_minutes else ""
    return (
        f"{args.model} {'x2, x3, x4' if args.scale == 0 else f'x{args.scale}'}: {weights:,} parameters | "
        f"{format_count(len(images), 'image')}, {format_bytes(images.nbytes)} {place[preload]} | {context.device}{processes}, "
        f"{describe_precision(args, context.device)} | {args.max_steps:,} steps{limit} of {args.batch_size} LR patches of "
        f"{args.patch_size}x{args.patch_size}" + (f"\n{net}" if args.verbose else "")
    )


def build_sampler(args: TrainConfig, context: DistributedContext, images: TrainingImages, preload: str) -> PatchSampler:
    """The batches of a run. `InputError` if the patches do not fit into the images, or the images not onto the GPU."""
    try:
        return PatchSampler(
            images,
            args.patch_size,
            args.batch_size,
            args.seed,
            context.device,
            on_device=context.device.type == "cuda" and preload == "device",
            shard=context.shard(args.batch_size),
            hard_crops=args.hard_crops,
            hide=not context.is_main_process,
        )
    except torch.cuda.OutOfMemoryError:
        raise InputError(
            f"the {format_bytes(images.nbytes)} of images do not fit on the GPU: use --preload host"
        ) from None


def _check_batch(args: TrainConfig, context: DistributedContext, scales: tuple[int, ...]) -> None:
    """`InputError` if the patches of a batch do not fit into memory, before time is spent on drawing them."""
    free = available_memory(context.device)
    pixels = -(-args.batch_size // context.world_size) * args.patch_size**2 * (1 + max(scales) ** 2)
    if 12 * pixels > free:  # three values of four bytes each
        raise InputError(
            f"--batch_size {args.batch_size} with --patch_size {args.patch_size}: the patches alone need more than "
            f"the {format_bytes(free)} of memory that are free, use smaller ones"
        )

"""The GPU memory of a training step: how much the forward pass keeps, micro-batches that fit, and advice where nothing does."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from common import SCALES
from common.device import available_memory, fixed_shapes, has_bf16, is_out_of_memory
from common.errors import InputError, LaunchError
from training.config import TrainConfig
from training.distributed import DistributedContext
from training.nonfinite import BufferSnapshot

# What the forward pass of CFSRCNN keeps for the backward pass, KB for each LR pixel of the batch, counted by
# `python -m benchmarks.step_cost`. In fp32 a map of 64 channels takes 256 bytes for each LR pixel at LR size,
# and scale^2 times as much at SR size.
SAVED_KB = {"fp32": {2: 24.7, 3: 32.5, 4: 44.4}, "bf16": {2: 13.4, 3: 18.7, 4: 26.5}}
TRANSIENT = 1.2  # times that, with gradients of the largest maps and what the allocator cannot use
RESERVE = 1e9  # bytes for weights, the optimizer and cuDNN's workspaces
USABLE = 0.95  # of the memory that is free


def activation_bytes(args: TrainConfig, world_size: int) -> float:
    """Bytes that the forward pass keeps on the GPU of each process. Networks other than CFSRCNN are taken to need as much."""
    patches = math.ceil(math.ceil(args.batch_size / world_size) / max(1, args.accumulate))
    return patches * args.patch_size**2 * 1e3 * SAVED_KB[args.precision][args.scale or max(SCALES)]


def fits_beside_training(nbytes: int, args: TrainConfig, context: DistributedContext) -> bool:
    """Whether `nbytes` of images fit into the memory of a CUDA device, together with a training step."""
    needed = nbytes + TRANSIENT * activation_bytes(args, context.world_size) + RESERVE
    return needed < USABLE * available_memory(context.device)


def resolve_micro_batches(args: TrainConfig, context: DistributedContext, batch_loss: nn.Module) -> TrainConfig:
    """`args` with 1, 2, 4, ... in place of `--accumulate auto`: the first with which a forward and backward pass fits.

    Tries it on black patches; weights, gradients, buffers and the random generators stay as they are. The same in all
    processes. `InputError` if a single patch does not fit.
    """
    if args.accumulate:
        return args
    patches, scale, found = math.ceil(args.batch_size / context.world_size), args.scale or max(SCALES), 1
    while not (fits := _fits(args, context.device, batch_loss, math.ceil(patches / found), scale)):
        torch.cuda.empty_cache()
        if found == patches:
            break
        found = min(2 * found, patches)
    if not all(context.all_gather([fits])):
        what = "the GPU is out of memory with a single patch"
        raise InputError(f"--accumulate auto: {what}: use {_remedies(args, context)}")
    found = max(context.all_gather([found]))
    if found > 1:
        context.print(f"--accumulate auto: {found} micro-batches of {math.ceil(patches / found)} patches at most")
    return replace(args, accumulate=found)


def _fits(args: TrainConfig, device: torch.device, batch_loss: nn.Module, patches: int, scale: int) -> bool:
    buffers, devices = BufferSnapshot(batch_loss), [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), fixed_shapes(device):
            lr, hr = (
                torch.zeros(patches, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
                for side in (args.patch_size, scale * args.patch_size)
            )
            batch_loss(lr, scale, hr).backward()
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        batch_loss.zero_grad(set_to_none=True)
        buffers.restore_unless(torch.zeros((), dtype=torch.bool, device=device))


def explain_out_of_memory(args: TrainConfig, context: DistributedContext, step: int) -> InputError:
    """The error for a GPU out of memory at `step`. Each of several processes prints its own, as only some may have failed."""
    where = f" of process {context.rank}" if context.world_size > 1 else ""
    kind = LaunchError if context.world_size > 1 else InputError
    return kind(f"the GPU{where} is out of memory at step {step}: use {_remedies(args, context)}")


def _remedies(args: TrainConfig, context: DistributedContext) -> str:
    """Flags that reduce the memory of a step and are not in use yet."""
    patches = args.batch_size // context.world_size
    remedies = ["a smaller --batch_size or --patch_size" if patches > 1 else "a smaller --patch_size"]
    if 0 < args.accumulate < patches:
        remedies.append(f"--accumulate {min(2 * args.accumulate, patches)}")
    if args.precision == "fp32" and has_bf16(context.device):
        remedies.append("--precision bf16")
    if args.preload != "host":
        remedies.append("--preload host")
    if args.cuda_graph:
        remedies.append("no --cuda_graph")
    return " or ".join(filter(None, [", ".join(remedies[:-1]), remedies[-1]]))

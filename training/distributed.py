"""Distributed training: starting processes, this process's rank and device, sharding and collectives.

Started by `torchrun`, by `train.py --num_gpu N` (which uses PyTorch's own launcher), or not at all: then there is
one process, and everything here is a no-op. NCCL between GPUs, Gloo between CPU processes.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TextIO, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.device import is_out_of_memory
from common.errors import (
    InputError,
    LaunchError,
    end_with_parent,
    ignored_stop_signals,
    stop_signals,
    summarize_exception,
)
from training.failures import await_others, fail_at_start, is_lost_connection, report_once

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.nn.parallel import DistributedDataParallel

    from training.per_scale import PerScaleDDP

Item = TypeVar("Item")
REPORTED = (InputError, OSError, MemoryError)  # of any process; other exceptions are bugs
FIX_LAUNCH = "unset it, or start the processes by torchrun or --num_gpu"


def is_distributed() -> bool:
    """Whether this process is one of several that a launcher started."""
    return LaunchEnvironment.read().world_size > 1


@dataclass(frozen=True)
class LaunchEnvironment:
    """What a launcher such as `torchrun` says to each process by environment variables; empty ones count as missing."""

    world_size: int
    rank: int
    local_world_size: int
    local_rank: int

    @classmethod
    def read(cls) -> LaunchEnvironment:
        """Raises `LaunchError` for values that are not numbers or do not fit together."""
        world_size = _read_number("WORLD_SIZE", 1, least=1)
        if world_size > 1 and not os.environ.get("RANK", "").strip():
            raise LaunchError(f"WORLD_SIZE is {world_size}, but RANK is missing: {FIX_LAUNCH}")
        here = _read_number("LOCAL_WORLD_SIZE", 1, least=1)
        environment = cls(world_size, _read_number("RANK", 0), here, _read_number("LOCAL_RANK", 0))
        if environment.rank >= world_size:
            raise LaunchError(f"RANK is {environment.rank}, but WORLD_SIZE is {world_size}: {FIX_LAUNCH}")
        if here > world_size:
            raise LaunchError(f"LOCAL_WORLD_SIZE is {here}, but WORLD_SIZE is {world_size}: {FIX_LAUNCH}")
        if os.environ.get("LOCAL_WORLD_SIZE", "").strip() and environment.local_rank >= here:
            raise LaunchError(f"LOCAL_RANK is {environment.local_rank}, but LOCAL_WORLD_SIZE is {here}: {FIX_LAUNCH}")
        return environment


def _read_number(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise LaunchError(f"the environment variable {name} is {text!r}, not a whole number from {least}: {FIX_LAUNCH}")
    return int(text)


def launch(script: str, flags: Sequence[str], processes: int) -> int:
    """Runs `python SCRIPT FLAGS` in `processes` processes on this machine; returns the exit code of the first to fail, or 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    handled = [each.name for each in stop_signals()]  # not SIGHUP under `nohup`
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", ",".join(handled))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # our processes report their own errors
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(script, *flags)
    except ChildFailedError as error:
        first = min(error.failures.values(), key=_order_of_failure)
        if first.exitcode < 0:
            print(f"error: process {first.local_rank} was killed by signal {-first.exitcode}", file=sys.stderr)
        return first.exitcode if first.exitcode > 0 else 1
    except SignalException as stop:  # the launcher has forwarded it and waited
        return 128 + stop.sigval
    return 0


def _order_of_failure(failure: ProcessFailure) -> tuple[int, bool]:
    """For `min`. In one second a killed process is the first: others end by the connection that they lose, or by SIGTERM."""
    killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    return failure.timestamp, not killed


def _free_locals(error: BaseException | None) -> None:
    """Drops the local variables of the functions that `error` left, and the errors before it."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _own_device(device: torch.device, environment: LaunchEnvironment) -> torch.device:
    """The device of this process among those of its machine. `InputError` if the machine has too few."""
    if device.type == "mps":
        raise InputError("a Mac's GPU trains in one process: use --device cpu for several")
    if device.type == "cuda":
        local, here, count = environment.local_rank, environment.local_world_size, torch.cuda.device_count()
        if max(here - 1, local) >= count:  # the same in all processes of a machine, of which one prints
            raise InputError(f"this machine has {count} GPUs, too few: start fewer processes")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    return device


class DistributedContext:
    """The `rank` and `device` of this process among `world_size`. Only the main process, rank 0, writes and prints.

    A context manager around all that the processes do together.
    """

    def __init__(self, device: torch.device):
        self.world_size, self.rank, self.device = 1, 0, device
        environment = LaunchEnvironment.read()
        if environment.world_size > 1:
            if "TORCHELASTIC_RUN_ID" in os.environ:  # the launcher started this process, in a session of its own
                end_with_parent()
            with fail_at_start():
                self.device = _own_device(device, environment)
            if not dist.is_initialized():
                # Before there is a process group: PyTorch's modules hold on to one that is there when they are imported.
                import training.per_scale  # noqa: F401

                try:
                    await_others(environment.rank, environment.world_size)
                    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
                except (ValueError, dist.DistError) as error:  # MASTER_ADDR, MASTER_PORT
                    why = summarize_exception(error)[:200]
                    raise LaunchError(
                        f"the processes cannot meet ({why}): start them by torchrun or --num_gpu"
                    ) from None
            self.world_size, self.rank = dist.get_world_size(), dist.get_rank()

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def print(self, line: str, file: TextIO | None = None) -> None:
        """Prints a line in the main process, at once also into a pipe or a file."""
        if self.is_main_process:
            print(line, file=file, flush=True)

    def shard(self, number: int) -> slice:
        """This process's slice of `number` consecutive items; the slices differ by one item at most."""
        return slice(number * self.rank // self.world_size, number * (self.rank + 1) // self.world_size)

    def wrap_ddp(self, net: nn.Module, multi_scale: bool) -> nn.Module:
        """`net` for the forward pass, with gradients averaged over the processes."""
        if self.world_size == 1:
            return net
        # Not at the top: they load torch.compile, which takes about as long as the rest of PyTorch, also for --help.
        from torch.nn.parallel import DistributedDataParallel

        from training.per_scale import PerScaleDDP

        wrap = partial(DistributedDataParallel, device_ids=[self.device] if self.device.type == "cuda" else None)
        return PerScaleDDP(net, wrap) if multi_scale else wrap(net)

    def grad_sync(self, replica: nn.Module, now: bool) -> AbstractContextManager:
        """A context for a forward and backward pass: average the gradients over the processes `now`, or in a later pass."""
        return (
            nullcontext()
            if now or self.world_size == 1
            else cast("DistributedDataParallel | PerScaleDDP", replica).no_sync()
        )

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes, returned in each."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_gather(self, items: list[Item]) -> list[Item]:
        """The items of all processes in rank order, returned in each."""
        if self.world_size == 1:
            return items
        parts: list[list[Item]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """If a process raises `InputError` or `OSError` in the block, all raise the first one's as an `InputError`."""
        failure = ""
        try:
            yield
        except (InputError, OSError) as error:
            failure = summarize_exception(error)
        if failures := list(filter(None, self.all_gather([failure]))):
            raise InputError(failures[0])

    @contextmanager
    def hold_on_main(self, lock: AbstractContextManager) -> Iterator[None]:
        """The main process holds `lock` for all; if it cannot, all raise its `InputError`."""
        with ExitStack() as stack:
            with self.fail_together():
                if self.is_main_process:
                    stack.enter_context(lock)
            yield

    def __enter__(self) -> DistributedContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Destroys what uses the process group, then the group; otherwise Gloo's threads may abort a process at its exit.

        If one process fails, the others lose their connection to it: each ends by `report_once`.
        """
        failed, raised = kind is not None and not issubclass(kind, SystemExit), error
        # At the start, as where others use the GPU; `fit` explains what comes later.
        if error and is_out_of_memory(error):
            error = InputError(f"the GPU of process {self.rank} is out of memory: free some, or start fewer processes")
        try:
            if dist.is_initialized() and error and (isinstance(error, REPORTED) or is_lost_connection(error)):
                report_once(error)
        finally:
            if dist.is_initialized() and not (failed and self.device.type == "cuda"):  # NCCL would wait for the others
                with ignored_stop_signals():  # the launcher sends one once another process has ended
                    _free_locals(raised)  # with the network, which would keep the process group
                    gc.collect()
                    dist.destroy_process_group()

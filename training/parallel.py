"""Several processes that train as one: starting them, who a process is among them, what they add up and share out.

Started by `torchrun`, by `train.py --num_gpu N` (which uses PyTorch's own launcher), or not at all: then one process is
all there is and everything here costs nothing. NCCL between GPUs, Gloo between CPU processes.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError, one_line

Item = TypeVar("Item")


def launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(script: str, flags: Sequence[str], processes: int) -> int:
    """Runs `python SCRIPT FLAGS` in `processes` processes on this machine; returns the exit code of the first to fail, or 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # our processes say themselves what is wrong
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
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        if first.exitcode < 0:
            print(f"error: process {first.local_rank} was killed by signal {-first.exitcode}", file=sys.stderr)
        return first.exitcode if first.exitcode > 0 else 1
    except SignalException as stop:  # the launcher has passed it on and waited
        return 128 + stop.sigval
    return 0


class Crew:
    """The processes of a run: `rank` of `count`, and this one's `device`. `first` alone writes and prints.

    For a `with` block around all that they do together.
    """

    def __init__(self, device: torch.device):
        self.count, self.rank, self.device = 1, 0, device
        if launched():
            if device.type == "mps":
                raise InputError("a Mac's GPU trains in one process: use --device cpu for several")
            local = int(os.environ.get("LOCAL_RANK", "0"))
            if device.type == "cuda":
                here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
                if max(here - 1, local) >= torch.cuda.device_count():  # the same in all, of which one speaks
                    raise InputError(
                        f"this machine has {torch.cuda.device_count()} GPUs, too few: start fewer processes"
                    )
                self.device = torch.device("cuda", local)
                torch.cuda.set_device(self.device)
            if not dist.is_initialized():
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            self.count, self.rank = dist.get_world_size(), dist.get_rank()

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def share(self, number: int) -> slice:
        """This process's part of `number` things in a row; the parts differ by one at most."""
        return slice(number * self.rank // self.count, number * (self.rank + 1) // self.count)

    def wrap(self, net: nn.Module, unused: bool) -> nn.Module:
        """`net` for the forward pass, its gradients the mean over the processes. `unused`: some weights may get none."""
        if self.count == 1:
            return net
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=unused)

    def exchange(self, replica: nn.Module, now: bool) -> AbstractContextManager:
        """Around a forward and a backward pass: whether the gradients are averaged over the processes `now` or later."""
        return nullcontext() if now or self.count == 1 else cast(DistributedDataParallel, replica).no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, everywhere."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather(self, items: list[Item]) -> list[Item]:
        """The items of all processes in the order of their ranks, everywhere."""
        if self.count == 1:
            return items
        parts: list[list[Item]] = [[] for _ in range(self.count)]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    @contextmanager
    def first_holds(self, lock: AbstractContextManager) -> Iterator[None]:
        """The first process holds `lock` for all; where it cannot, all raise its `InputError`."""
        refusal = ""
        with ExitStack() as stack:
            if self.first:
                try:
                    stack.enter_context(lock)
                except (InputError, OSError) as error:
                    refusal = one_line(error)
            if refusal := self.gather([refusal])[0]:
                raise InputError(refusal)
            yield

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the connection between the processes, without which Gloo's threads may abort a process that ends."""
        failed = kind is not None and not issubclass(kind, SystemExit)
        if dist.is_initialized() and not (failed and self.device.type == "cuda"):  # NCCL would wait for the others
            dist.destroy_process_group()

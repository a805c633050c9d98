"""Errors in some of several processes: exit code 2 in all of them, and one line on each machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import NoReturn

import torch.distributed as dist

from common.errors import InputError, LaunchError, summarize_exception

MESSAGE, REPORTS, STARTED = "failure", "failure_reports_", "started_"  # keys in the launcher's store
ENDED = "another process has ended before its time"
CONNECT_TIMEOUT, START_TIMEOUT = timedelta(minutes=1), timedelta(minutes=30)


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed since another process has left."""
    gloo = isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    return gloo or isinstance(error, dist.DistBackendError | dist.DistNetworkError)


def launcher_store() -> dist.Store | None:
    """The launcher's key-value store, which outlives the processes; None without a launcher. `DistError` if that has ended."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not (host and port):
        return None
    return _connect(host, int(port), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@cache  # a connection of before fails at once when the launcher has ended; a new one would be tried for a minute
def _connect(host: str, port: int, restarts: str) -> dist.Store:
    return dist.PrefixStore(f"cfsrcnn_{restarts}", dist.TCPStore(host, port, timeout=CONNECT_TIMEOUT))


@contextmanager
def fail_at_start() -> Iterator[None]:
    """After an `InputError` in the block, before the processes have met, all end by `await_others`, or they would wait."""
    try:
        yield
    except InputError as error:
        with suppress(RuntimeError):  # the launcher has ended
            if store := launcher_store():
                for rank in range(int(os.environ["WORLD_SIZE"])):  # those that are stopped now do not start either
                    store.set(f"{STARTED}{rank}", summarize_exception(error))
                report_once(error)
        raise


def await_others(rank: int, world_size: int) -> None:
    """Returns when all processes have come to this call; ends by `report_once` if one has failed before, by `fail_at_start`.

    Does nothing without a launcher, nor with one that starts failed processes again: the machines then count their attempts
    apart. Raises `torch.distributed.DistError` if a process does not come within `START_TIMEOUT`.
    """
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" or not (store := launcher_store()):
        return
    store.set(f"{STARTED}{rank}", "")
    keys = [f"{STARTED}{each}" for each in range(world_size)]
    store.wait(keys, START_TIMEOUT)
    if failures := list(filter(None, (store.get(key).decode() for key in keys))):
        report_once(InputError(failures[0]))


def report_once(error: BaseException) -> NoReturn:
    """Ends this process after bad input or a lost connection: exit code 2, and one line by the first one on a machine.

    After a lost connection it is the message of the process that failed, if that had one. Without a launcher, whose store
    is needed for this, each process prints its own line.
    """
    message = ENDED if is_lost_connection(error) else summarize_exception(error)
    with suppress(RuntimeError):  # the launcher has ended
        if store := launcher_store():
            if message != ENDED:
                store.set(MESSAGE, message)
            elif store.check([MESSAGE]):
                message = store.get(MESSAGE).decode()
            if store.add(REPORTS + os.environ.get("GROUP_RANK", "0"), 1) > 1:
                sys.exit(2)
    if message == ENDED and isinstance(error, dist.DistBackendError):  # of NCCL, as where /dev/shm is too small for it
        message += f", or NCCL failed ({summarize_exception(error).rpartition('Last error: ')[2][:300]})"
    raise LaunchError(message) from None

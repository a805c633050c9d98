"""Errors in some of several processes: exit code 2 in all of them, and one line on each machine."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

import torch.distributed as dist

from common.errors import LaunchError, summarize_exception

MESSAGE, REPORTS = "failure", "failure_reports_"  # keys of the launcher's store, which outlives the processes
ENDED = "another process has ended before its time"


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed since another process has left."""
    gloo = isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    return gloo or isinstance(error, dist.DistBackendError | dist.DistNetworkError)


def report_once(error: BaseException) -> NoReturn:
    """Ends this process after bad input or a lost connection: exit code 2, and one line by the first one on a machine.

    After a lost connection it is the message of the process that failed, if that had one. Without a launcher, whose store
    is needed for this, each process prints its own line.
    """
    message = ENDED if is_lost_connection(error) else summarize_exception(error)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        with suppress(RuntimeError):  # the launcher has ended
            store = dist.distributed_c10d._get_default_store()
            if message != ENDED:
                store.set(MESSAGE, message)
            elif store.check([MESSAGE]):
                message = store.get(MESSAGE).decode()
            if store.add(REPORTS + os.environ.get("GROUP_RANK", "0"), 1) > 1:
                sys.exit(2)
    raise LaunchError(message) from None

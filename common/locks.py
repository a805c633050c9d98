"""File and folder locks that a crash cannot leave behind: the kernel releases a `flock` when its process ends.

Locks are best effort: some network file systems have none, and `fcntl` exists on Unix only. Then work goes on without them,
and one line says so. The library `filelock` does not replace this: it locks separate lock files only, where open files and
folders are locked here, and raises ENOLCK and EIO.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WAIT = 30.0  # seconds for a lock that another process holds
POLL = 0.05  # seconds between two tries

_reported: set[Path] = set()  # where locks do not work


def try_lock(handle: int) -> bool | None:
    """Tries to lock an open file without waiting: True if locked, False if already locked, None if unsupported."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def report_no_locks(folder: Path) -> None:
    """Says once per folder on stderr that file locks do not work there."""
    if folder not in _reported:
        _reported.add(folder)
        why = "file locks do not work here, so two runs of one name must not be started at the same time"
        print(f"{folder}: {why}", file=sys.stderr)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of an existing file or folder during the block, where locks work.

    Waits while another process holds it; after `WAIT` seconds goes on without it, says so, and waits for that path no more.
    """
    if fcntl is None:  # where folders cannot be opened either
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        deadline = time.monotonic() + (0 if path in _reported else WAIT)
        while try_lock(handle) is False:
            if time.monotonic() > deadline:
                report_no_locks(path)
                break
            time.sleep(POLL)
        yield
    finally:
        os.close(handle)

"""Allows one training run at a time per name in a folder; the error for a second one names the first.

The lock file names its holder; the kernel knows whether it is still held, so that a crashed run blocks nobody. On a file
system without locks the file counts while its process is alive; a process of another machine is assumed to be.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from common.errors import InputError
from common.files import mkdir_remove_if_empty, parse_json
from common.locks import try_lock


@contextmanager
def run_lock(folder: Path, name: str) -> Iterator[None]:
    """Holds `folder`/`name`.lock, which names its holder. `InputError` if another process holds it already.

    Creates `folder`. Afterwards the lock file is removed, and so is a new folder in which nothing was written.
    """
    path = folder / f"{name}.lock"
    with mkdir_remove_if_empty(folder):
        handle = _take(path, name)
        try:
            with suppress(OSError):  # a full disk: the lock itself is held anyway
                _write(handle)
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)


def _take(path: Path, name: str) -> int:
    while True:
        if _is_odd(path):
            raise InputError(f"{path} is no ordinary file, but the lock of the run is to be there: move it away")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        ours = try_lock(handle)
        holder = _read(handle)
        if ours is None:
            ours = not _pid_alive(holder)
        if ours and os.fstat(handle).st_nlink:
            return handle
        os.close(handle)
        if not ours:
            who = f"process {holder['pid']} on {holder['host']}, since {holder['start']}" if holder else "a new process"
            raise InputError(
                f"{path.parent} has a run called {name} that is still going on ({who}; {path}): wait for it or stop it, "
                "or choose another --ckpt_name or --ckpt_dir"
            )


def _is_odd(path: Path) -> bool:
    """Whether a folder, a pipe or the like stands there; `os.open` itself refuses links."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))


def _write(handle: int) -> None:
    start = datetime.now().astimezone().isoformat(timespec="seconds")
    metadata = {"host": socket.gethostname(), "pid": os.getpid(), "start": start}
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps(metadata) + "\n").encode(), 0)


def _read(handle: int) -> dict | None:
    try:
        holder = parse_json(os.pread(handle, 4096, 0))
        return {"host": str(holder["host"]), "pid": int(holder["pid"]), "start": str(holder["start"])}
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _pid_alive(holder: dict | None) -> bool:
    """Whether the process may still be alive, which is assumed of one on another machine."""
    if holder is None:
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True

"""Allows one training run at a time per name in a folder; the error for a second one names the first.

The lock file names its holder; the kernel knows whether it is still held, so that a crashed run blocks nobody. On a file
system without locks the file counts while its process is alive; a process of another machine is assumed to be.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from common.errors import InputError
from common.files import NOFOLLOW, mkdir_remove_if_empty, parse_json
from common.locks import report_no_locks, try_lock

MAX_TRIES = 40  # of a lock file that another process takes, or removes, at the same moment
POLL = 0.05  # seconds between them


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
            if os.name == "nt":  # Windows removes no file that is open
                os.close(handle)
            path.unlink(missing_ok=True)
            if os.name != "nt":
                os.close(handle)


def _take(path: Path, name: str) -> int:
    for attempt in range(MAX_TRIES):
        if _is_odd(path):
            raise InputError(f"{path} is not a regular file, but the lock of the run is to be there: move it away")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o666)
        locked, holder = try_lock(handle), _read(handle)
        if locked is False and holder is None and attempt + 1 < MAX_TRIES:
            os.close(handle)  # whoever has locked it has not written its name yet
            time.sleep(POLL)
            continue
        works = locked is not None and (locked or holder is not None)
        ours = locked if works else not _pid_alive(holder)
        if ours and os.fstat(handle).st_nlink:
            if not works:
                report_no_locks(path.parent)
            return handle
        os.close(handle)
        if not ours and holder:
            raise InputError(
                f"{path.parent} has a run called {name} that is still going on (process {holder['pid']} on "
                f"{holder['host']}, since {holder['start']}; {path}): wait for it or stop it, or choose another "
                "--ckpt_name or --ckpt_dir"
            )
    raise InputError(f"{path} is removed again and again by another process: choose another --ckpt_name or --ckpt_dir")


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
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, (json.dumps(metadata) + "\n").encode())


def _read(handle: int) -> dict | None:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        holder = parse_json(os.read(handle, 4096))
        return {"host": str(holder["host"]), "pid": int(holder["pid"]), "start": str(holder["start"])}
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _pid_alive(holder: dict | None) -> bool:
    """Whether the process may still be alive, which is assumed of one on another machine."""
    if holder is None:
        return False
    if holder["host"] != socket.gethostname() or sys.platform == "win32":  # where `os.kill` would end the process
        return True
    try:
        os.kill(holder["pid"], 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True

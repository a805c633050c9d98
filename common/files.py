"""Atomic file writes: no partly written file ever has its final name, even after a kill or on a full disk. And JSON."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.locks import fcntl, try_lock
from common.units import format_bytes

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TEMP_PREFIX = ".unfinished_"  # of the names of temporary files and folders
DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS}
MAX_LOCK_TRIES = 20  # temporary files that another process may lock first
NO_HANDLE = -1
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
MAX_NAME_BYTES = 255  # of a file or folder, on all usual file systems
MAX_SUFFIX_BYTES = 20  # a longer suffix would make the temporary name too long

_cleaned: set[Path] = set()  # folders in which this process has removed stale temporary files


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path in the same folder; if the block succeeds, the file is fsynced and renamed to `path`.

    After an error or an interrupt the temporary file is removed and an existing file at `path` is unchanged. Raises
    `InputError` if it cannot be written, as on a full disk. Temporary files of killed processes are removed at the next write
    to the folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a file is to be written there: name a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file but a device or the like: name a file")
    make_dir(path.parent)
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= MAX_SUFFIX_BYTES else ""

    def make(name: Path) -> int:
        return _keep_open(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o600))

    with translate_write_errors(path), _temporary(path.parent, make, suffix) as temporary:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb+") as file:  # Windows syncs no file that is open for reading only
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yields a temporary folder, renamed to `path` if the block succeeds; `path` must not exist yet."""

    with translate_write_errors(path), temporary_dir(path.parent) as temporary:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        os.rename(temporary, path)


@contextmanager
def temporary_dir(parent: Path) -> Iterator[Path]:
    """Yields a new folder in `parent`, removed when the block ends; after a kill, when `parent` is next written to."""

    def make(name: Path) -> int:
        os.mkdir(name, 0o700)
        return os.open(name, os.O_RDONLY) if fcntl else NO_HANDLE

    with mkdir_remove_if_empty(parent), _temporary(parent, make) as temporary:
        yield temporary


@contextmanager
def mkdir_remove_if_empty(path: Path) -> Iterator[None]:
    """Creates a folder and its parents; those that were created and are empty after the block are removed again."""
    new = [each for each in (path, *path.parents) if not each.exists()]
    try:
        make_dir(path)
        yield
    finally:
        for each in new:
            with suppress(OSError):  # not empty, or not made
                each.rmdir()


class DeferredErrorFile(io.FileIO):
    """A new file whose write errors are raised only when it is closed or `check` is called.

    For libraries that crash, or hide the cause, if a write fails because the disk is full.
    """

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self._failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Reports all of `data` as written, even after an error."""
        rest = memoryview(data).cast("B")
        try:
            while rest and not self._failure:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._failure = error
        return memoryview(data).nbytes

    def check(self) -> None:
        """Raises the `OSError` of the first write that failed."""
        if self._failure:
            raise self._failure

    def __exit__(self, *_: object) -> None:
        self.close()
        self.check()


def ensure_not_input(out: Path, inputs: Iterable[Path]) -> None:
    """Raises `InputError` if the output file is one of the input files."""
    if realpath(out) in {realpath(each) for each in inputs}:
        raise InputError(f"{out} is itself read and would be overwritten: choose another name for what is written")


def make_dir(path: Path) -> Path:
    """Creates a folder and its parents; `InputError` if a file is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(each for each in (path, *path.parents) if os.path.lexists(each) and not each.is_dir())
        kind = "a file" if file.exists() else "a link to nothing"
        raise InputError(f"{file} is {kind}, but a folder is needed there: name another or move it away") from None
    return path


def ensure_name_fits(path: Path, room: int = 0) -> None:
    """Raises `InputError` if the name of `path` and `room` more bytes are longer than file systems allow."""
    if (size := len(os.fsencode(path.name))) + room > MAX_NAME_BYTES:
        raise InputError(
            f"the name {path.name[:20]}... has {size} bytes, but {MAX_NAME_BYTES - room} at most fit: shorten it"
        )


def make_dir_within(root: Path, path: Path) -> Path:
    """`make_dir(path)`; `InputError` if symbolic links lead out of the folder `root`."""
    if not realpath(path).is_relative_to(realpath(root)):
        raise InputError(f"{path} leads out of {root}, to {realpath(path)}: remove the link or name another folder")
    return make_dir(path)


def realpath(path: Path) -> Path:
    """The absolute path with links resolved; unlike `Path.resolve` it does not fail on a cycle of links."""
    return Path(os.path.realpath(path))


def named_path(path: Path) -> Path:
    """The absolute path without `.` and `..`, but with links: for names, since the user knows a folder by its link's."""
    return Path(os.path.abspath(path))


def ensure_free_space(folder: Path, size: int) -> None:
    """`InputError` if fewer than `size` bytes are free on the disk of `folder`, which need not exist yet."""
    there = next(each for each in (realpath(folder), *realpath(folder).parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise InputError(
            f"{folder}: {format_bytes(size)} are needed but only {format_bytes(free)} free: free space or use another disk"
        )


@contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Turns what keeps a file from being written into an `InputError` that names `path`: a full disk, an exceeded quota, a file
    too large; and, for temporary files, any other cause. Errors of other files pass."""
    try:
        yield
    except OSError as error:
        parts = Path(os.fsdecode(error.filename)).parts if isinstance(error.filename, str | bytes | Path) else ()
        is_temporary = any(part.startswith(TEMP_PREFIX) for part in parts)
        if error.errno is None or (error.errno not in DISK_FULL_ERRNOS and not is_temporary):
            raise
        why = f"{path} cannot be written ({os.strerror(error.errno)})"
        if error.errno in NO_PERMISSION_ERRNOS:
            raise InputError(f"{why}: change the permissions of the folder, or name another") from None
        advice = "free some space and run it again" if error.errno in DISK_FULL_ERRNOS else "check the disk"
        raise InputError(f"{why}: {advice}; whatever stood there before is untouched") from None


@contextmanager
def _temporary(folder: Path, make: Callable[[Path], int], suffix: str = "") -> Iterator[Path]:
    """A new temporary file or folder in `folder`; its lock tells other processes that it is still in use."""
    _remove_stale_temps(folder)
    handle = NO_HANDLE
    try:
        for tries_left in reversed(range(MAX_LOCK_TRIES)):
            # chosen before it exists: a signal may come as soon as it does
            name = folder / f"{TEMP_PREFIX}{secrets.token_hex(8)}{suffix}"
            try:
                handle = make(name)
            except FileNotFoundError:  # a folder that was taken for a stale one before it was open
                if tries_left:
                    continue
                raise
            if (try_lock(handle) is not False and name.exists()) or not tries_left:
                break
            _close(handle)  # another process has just taken it for a stale one, or locks do not work here
            handle = NO_HANDLE
            _remove(name)
        yield name
    finally:
        _remove(name)
        _close(handle)


def _keep_open(handle: int) -> int:
    """`handle`, to hold a lock by; closed without locks, since Windows renames no file that is open."""
    if fcntl:
        return handle
    os.close(handle)
    return NO_HANDLE


def _close(handle: int) -> None:
    if handle != NO_HANDLE:
        os.close(handle)


def _remove_stale_temps(folder: Path) -> None:
    """Removes temporary files that killed processes left in `folder`; once per process and folder."""
    folder = realpath(folder)
    if folder in _cleaned:
        return
    _cleaned.add(folder)
    for left in folder.glob(f"{TEMP_PREFIX}*"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY | NOFOLLOW)
            try:
                if try_lock(handle):
                    _remove(left)
            finally:
                os.close(handle)


def parse_json(text: str | bytes) -> Any:
    """`json.loads` for untrusted UTF-8 text: raises `ValueError` for anything invalid, including too deep nesting."""
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Writing files so that no half-written one ever stands under its final name, whatever kills the process or fills the disk."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.locks import try_lock

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

UNFINISHED = ".unfinished_"  # how names of what is being written begin
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LONGEST_SUFFIX = 20  # bytes: a longer one is part of a name, and would make the temporary name too long

_tidied: set[Path] = set()  # folders that this process has looked through for what others left behind


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yields a temporary name beside `path`; when the block ends well, the file is synced and moved to `path`.

    After an error or an interrupt the temporary file is gone and whatever stood at `path` is untouched; `InputError`
    where the disk is full. A temporary file that a killed process left goes when its folder is next written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a file is to be written there: name a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no ordinary file but a device or the like: name a file")
    make_folder(path.parent)
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_SUFFIX else ""

    def make() -> tuple[int, str]:
        return tempfile.mkstemp(suffix, UNFINISHED, path.parent)

    with room_for(path), _temporary(path.parent, make) as temporary:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which becomes `path` when the block ends well; `path` must not exist."""

    def make() -> tuple[int, str]:
        name = tempfile.mkdtemp("", UNFINISHED, path.parent)
        return os.open(name, os.O_RDONLY), name

    with used_folder(path.parent), room_for(path), _temporary(path.parent, make) as temporary:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        os.rename(temporary, path)


@contextmanager
def used_folder(path: Path) -> Iterator[None]:
    """Makes a folder and its parents; of those that are new, the ones still empty after the block are removed again."""
    new = [each for each in (path, *path.parents) if not each.exists()]
    make_folder(path)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for each in new:
                each.rmdir()


class PatientFile(io.FileIO):
    """A new file that takes all that is written to it and raises only when it is closed or `check` is called.

    For libraries that crash, or hide the reason, when the disk fills up under them.
    """

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self._failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Takes all of `data`, whatever becomes of it."""
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


def check_not_read(out: Path, inputs: Iterable[Path]) -> None:
    """`InputError` if a file to be written is one of those that are read."""
    if real(out) in {real(each) for each in inputs}:
        raise InputError(f"{out} is itself read and would be overwritten: choose another name for what is written")


def make_folder(path: Path) -> Path:
    """Creates a folder and its parents; `InputError` where a file stands in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(each for each in (path, *path.parents) if os.path.lexists(each) and not each.is_dir())
        kind = "a file" if file.exists() else "a link to nothing"
        raise InputError(f"{file} is {kind}, but a folder is needed there: name another or move it away") from None
    return path


def folder_inside(root: Path, path: Path) -> Path:
    """`make_folder(path)`; `InputError` if it is a link, or lies behind one, that leads out of the folder `root`."""
    if not real(path).is_relative_to(real(root)):
        raise InputError(f"{path} leads out of {root}, to {real(path)}: remove the link or name another folder")
    return make_folder(path)


def real(path: Path) -> Path:
    """The absolute path without links; unlike `Path.resolve` it takes links that lead in a circle."""
    return Path(os.path.realpath(path))


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turns the error of a full disk, or of a file size that is not allowed, into an `InputError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise InputError(
            f"{path} cannot be written ({os.strerror(error.errno)}): free some space and run it again; "
            "whatever stood there before is untouched"
        ) from None


@contextmanager
def _temporary(folder: Path, make: Callable[[], tuple[int, str]]) -> Iterator[Path]:
    """Something new in `folder`, locked while it is in use, so that another process can tell it from what one left."""
    _tidy(folder)
    while True:
        handle, name = make()
        if try_lock(handle) is not False and os.path.exists(name):
            break
        os.close(handle)  # just taken for something left behind
    try:
        yield Path(name)
    finally:
        _remove(Path(name))
        os.close(handle)


def _tidy(folder: Path) -> None:
    """Removes what killed processes left unfinished in `folder`; once per process."""
    folder = real(folder)
    if folder in _tidied:
        return
    _tidied.add(folder)
    for left in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if try_lock(handle):
                    _remove(left)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Writing files so that no half-written one ever stands under its final name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yields a temporary name beside `path`; when the block ends well, the file is synced and moved to `path`.

    After an error or an interrupt the temporary file is gone and whatever stood at `path` is untouched.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a file is to be written there: name a file")
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=f".tmp{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which becomes `path` when the block ends well; `path` must not exist."""
    new_parent = not path.parent.exists()
    make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".unfinished_", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if new_parent and not any(path.parent.iterdir()):
            path.parent.rmdir()


def make_folder(path: Path) -> Path:
    """Creates a folder and its parents; `InputError` where a file stands in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(each for each in (path, *path.parents) if each.exists() and not each.is_dir())
        raise InputError(f"{file} is a file, but a folder is needed there: name another or move it away") from None
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

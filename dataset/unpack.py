"""Extracts images from zip and tar archives that are not trusted: paths, links, special files and sizes are checked."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from common.errors import InputError, escape_unprintable, summarize_exception
from common.files import ensure_free_space
from common.progress import progress
from dataset.images import EXTENSIONS

# of all images to their archive: they are compressed already, so more is a decompression bomb
MAX_COMPRESSION_RATIO = 10
CHUNK_SIZE = 1 << 20  # bytes


@dataclass(frozen=True)
class _Member:
    """A file in an archive, with its declared size in bytes."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes] | None]  # tarfile returns None for what is not a file


def unpack_images(archive: Path, folder: str, target: Path, count: int) -> None:
    """Extracts the images directly in `folder` of a .zip or .tar file, and nothing else, into the empty folder `target`.

    `folder` may have parents in the archive. Raises `InputError` naming the archive if it is damaged or does not hold
    `count` images there, if any member is not a regular file or folder or has an unsafe path, or if the images are a
    decompression bomb; and if there is too little disk space.
    """
    with ExitStack() as stack, _reading(archive):
        opened = _zip_members if archive.suffix == ".zip" else _tar_members
        members = list(opened(archive, stack))
        wanted = PurePosixPath(folder).parts
        chosen = [each for each in members if _is_image_in(each.path, wanted)]
        if len(chosen) != count or len({each.path.name.casefold() for each in chosen}) != count:
            raise InputError(f"{archive} holds {len(chosen)} images in {folder} instead of {count}: download it again")
        total = sum(each.size for each in chosen)
        if total > MAX_COMPRESSION_RATIO * archive.stat().st_size:
            raise InputError(
                f"{archive}: {folder} has an implausible size of {total:,} bytes (decompression bomb): rejected"
            )
        ensure_free_space(target, total)
        for member in progress(chosen, desc=f"unpacking {folder}", unit="image"):
            _write(member, target / member.path.name)


def _is_image_in(path: PurePosixPath, folder: tuple[str, ...]) -> bool:
    inside = path.parent.parts[-len(folder) :] == folder
    return inside and path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def _write(member: _Member, path: Path) -> None:
    source = member.open()
    assert source
    with source, open(path, "xb") as file:
        shutil.copyfileobj(source, file, CHUNK_SIZE)
        if file.tell() != member.size:
            raise InputError(f"{member.path} has {file.tell()} bytes instead of {member.size}: download it again")
        file.flush()
        os.fsync(file.fileno())


def _zip_members(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    file = stack.enter_context(zipfile.ZipFile(archive))
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # of the Unix mode; 0 where the writer did not store one
        path = _checked(archive, info.filename, info.is_dir(), kind in (0, stat.S_IFREG, stat.S_IFDIR))
        if not info.is_dir():
            yield _Member(path, info.file_size, partial(file.open, info))


def _tar_members(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    file = stack.enter_context(tarfile.TarFile(archive))  # uncompressed, as all of ours are
    for info in file:
        plain_file = info.isreg() and not info.issparse()
        path = _checked(archive, info.name, info.isdir(), plain_file or info.isdir())
        if not info.isdir():
            yield _Member(path, info.size, partial(file.extractfile, info))


def _checked(archive: Path, name: str, is_folder: bool, ordinary: bool) -> PurePosixPath:
    """The path of a member. `InputError` if it points outside, or the member is a link, a device, a sparse file, ..."""
    path = PurePosixPath(name)
    if not ordinary:
        raise InputError(
            f"{archive}: {escape_unprintable(name)} is a link, a device or the like: the archive is rejected"
        )
    if path.is_absolute() or ".." in path.parts or "\\" in name or not (path.parts or is_folder):
        raise InputError(f"{archive}: {escape_unprintable(name)} points outside the archive, which is rejected")
    return path


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turns what zipfile and tarfile raise for a damaged archive into an `InputError`."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # from the file system
            raise
        raise InputError(
            f"{archive} is damaged ({summarize_exception(error)}): remove it and download it again"
        ) from None

"""Output that may be lost: a command that works for hours goes on without a terminal, a pipe's reader or room on the disk."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common.files import DISK_FULL_ERRNOS

LOST = {errno.EPIPE, errno.EIO, errno.EBADF} | DISK_FULL_ERRNOS  # no reader of the pipe, no terminal, a closed file


class _LossyFile(io.FileIO):
    """A file whose writes succeed, and go nowhere, while it has no reader or no room."""

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in LOST:
                raise
            return memoryview(data).nbytes


@contextmanager
def outlive_readers() -> Iterator[None]:
    """In the block, printing to stdout and stderr does not fail if they are closed, their reader or terminal is gone, or they
    are files on a full disk.

    Other errors are raised as ever. Streams that are no files, as in a notebook, stay as they are.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_lossy(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError):  # closed meanwhile
                stream.flush()
        sys.stdout, sys.stderr = before


def _lossy(stream):  # type: ignore[no-untyped-def]
    if stream is None:  # closed when Python started
        return open(os.devnull, "w")
    try:
        number = stream.fileno()
        with suppress(BrokenPipeError):
            stream.flush()
    except (AttributeError, OSError, ValueError):  # a stand-in without a file
        return stream
    file = io.BufferedWriter(_LossyFile(number, "w", closefd=False))
    live = getattr(stream, "line_buffering", True)
    return io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=live)

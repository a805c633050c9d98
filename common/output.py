"""Keeps a long-running command alive when its terminal is closed, its pipe has no reader or its log's disk is full."""

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

    Other errors are raised as usual. Streams that are not files, as in a notebook, are left unchanged.
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
    except (AttributeError, OSError, ValueError):  # not a real file
        return stream
    file = io.BufferedWriter(_LossyFile(number, "w", closefd=False))
    live = getattr(stream, "line_buffering", True)
    return io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=live)

"""glibc malloc tuning: reuse freed memory, because a network allocates and frees its activations over and over."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
HEAP_BLOCK = 1 << 30  # bytes: blocks up to this size come from the heap rather than from mmap
TRIM_ABOVE = (1 << 31) - 1  # bytes of free heap to keep: the maximum of mallopt


def tune_malloc() -> None:
    """Makes glibc's malloc reuse large blocks instead of returning them to the kernel.

    The kernel zeroes each page of a new block at its first use, which takes a quarter of a network's time on a CPU.
    Affects the whole process, and so is for the commands, never for what a program imports. Does nothing without glibc.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, HEAP_BLOCK)
    mallopt(M_TRIM_THRESHOLD, TRIM_ABOVE)

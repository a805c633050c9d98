"""Keeps memory that is freed for the next use. A network's activations come and go many times over."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
HEAP_BLOCK = 1 << 30  # bytes: blocks up to this size come from the heap
TRIM_ABOVE = (1 << 31) - 1  # bytes of free heap to keep, the most that mallopt takes


def keep_freed_memory() -> None:
    """Tells glibc's malloc to reuse large blocks in place of giving them back to the kernel and asking anew.

    A block asked anew is zeroed page by page as it is touched, which takes a quarter of the time of a network on a CPU.
    For the whole process, until it ends. Does nothing where there is no glibc.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, HEAP_BLOCK)
    mallopt(M_TRIM_THRESHOLD, TRIM_ABOVE)

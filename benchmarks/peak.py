"""The most memory a process has had, in MiB: of this one, or of a child that has ended."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak() -> float:
    """MiB that this process has had at most."""
    status = Path("/proc/self/status")  # of Linux, where `ru_maxrss` begins at what the parent process had
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return peak_in(resource.getrusage(resource.RUSAGE_SELF))


def peak_in(usage: resource.struct_rusage) -> float:
    """MiB that the process of this `usage` had at most; `os.wait4` returns a child's."""
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return usage.ru_maxrss * unit / 2**20

"""Peak resident memory in MiB of this process, or of a child that has ended."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import resource


def peak_rss() -> float:
    """The peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")  # on Linux, where `ru_maxrss` starts at the parent process's peak
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    import resource  # Unix only

    return peak_rss_in(resource.getrusage(resource.RUSAGE_SELF))


def peak_rss_in(usage: resource.struct_rusage) -> float:
    """The peak resident memory in MiB in a `usage`, such as `os.wait4` returns of a child."""
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return usage.ru_maxrss * unit / 2**20

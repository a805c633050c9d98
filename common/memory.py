"""How much memory there is to use."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def available_memory(device: torch.device | None = None) -> int:
    """Bytes that are free, or can be freed, on a CUDA device or in main memory; half of all where nothing tells."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

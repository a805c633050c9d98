"""Where to compute, and how much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from common.errors import InputError


def pick_device(name: str) -> torch.device:
    """ "auto": CUDA, else MPS, else the CPU; "cuda:1" is the second GPU. `InputError` for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA GPU here; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: PyTorch finds no Apple GPU here; use --device cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError:
        raise InputError(f"there is no device {name!r}: use cpu, cuda, mps or auto") from None


def available_memory(device: torch.device | None = None) -> int:
    """Bytes that are free, or can be freed, on a CUDA device or in main memory; half of all where nothing tells."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

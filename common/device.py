"""Where to compute, and how much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from common.errors import InputError

CPUINFO = Path("/proc/cpuinfo")


def pick_device(name: str) -> torch.device:
    """ "auto": CUDA, else MPS, else the CPU; "cuda:1" is the second GPU. `InputError` for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA GPU here; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: PyTorch finds no Apple GPU here; use --device cpu or auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"there is no device {name!r}: use cpu, cuda, mps or auto") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"there is no device {name!r}: the CUDA GPUs here are 0 to {torch.cuda.device_count() - 1}")
    return device


def fast_precision(device: torch.device) -> str:
    """The fastest precision there for a picture to be looked at: "fp16" on CUDA, "bf16" on a CPU that computes in it.

    Else "fp32", also where nothing tells what the CPU can do. Figures to compare with published ones need "fp32".
    """
    if device.type == "cuda":
        return "fp16"
    try:
        words = CPUINFO.read_text().split() if device.type == "cpu" else []
    except OSError:  # no Linux
        return "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(words) else "fp32"


def available_memory(device: torch.device | None = None) -> int:
    """Bytes that are free, or can be freed, on a CUDA device or in main memory; half of all where nothing tells."""
    if device is not None and device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )  # PyTorch's own, to be used again
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

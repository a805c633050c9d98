"""Where to compute, and how much memory there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from common.errors import InputError

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
CGROUPS, CGROUP_OF_SELF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
GROUP_FILES = {  # limit, use, and of that the pages of files; by controller: the second version of control groups has none
    "": ("memory.max", "memory.current", {"active_file", "inactive_file"}),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", {"total_active_file", "total_inactive_file"}),
}


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
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # to be used again
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = MEMINFO.read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min([free, *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Bytes left to this process in each control group of Linux that limits it, as containers and job schedulers do."""
    try:
        own = [line.split(":", 2) for line in CGROUP_OF_SELF.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in own:
        if controllers not in ("", "memory"):
            continue
        group, (limit, used, cached) = CGROUPS / controllers / path.strip("/"), GROUP_FILES[controllers]
        while group == CGROUPS or CGROUPS in group.parents:  # a limit may stand further up
            try:
                left = int((group / limit).read_text()) - int((group / used).read_text())
                words = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
                yield max(
                    0, left + sum(int(size) for name, size in words if name in cached)
                )  # files' pages can be freed
            except (OSError, ValueError):  # "max": none
                pass
            group = group.parent

"""What this machine offers: devices, the fastest precision, free memory, optional packages, a compiler."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar, cast

import torch

from common.errors import InputError

Function = TypeVar("Function", bound=Callable)

ASSUMED_MEMORY = 8 << 30
CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
CGROUPS, CGROUP_OF_SELF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CGROUP_FILES = {  # by controller (cgroup v2 has none): limit, usage, and which part of the usage is page cache
    "": ("memory.max", "memory.current", {"active_file", "inactive_file"}),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", {"total_active_file", "total_inactive_file"}),
}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else MPS, else the CPU. `InputError` if there is no such device."""
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


def preferred_precision(device: torch.device) -> str:
    """The fastest precision that is good enough for viewing: "fp16" on CUDA, "bf16" on a CPU with bf16 instructions.

    Otherwise "fp32", also if the CPU's instructions are unknown. Scores to compare with published ones need "fp32".
    """
    if device.type == "cuda":
        return "fp16"
    try:
        flags = CPUINFO.read_text().split() if device.type == "cpu" else []
    except OSError:  # not Linux
        return "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


def available_memory(device: torch.device | None = None) -> int:
    """Bytes that are free or can be freed, on a CUDA device or in main memory; half of main memory if unknown."""
    if device is not None and device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch reuses it
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        lines = MEMINFO.read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = _physical_memory() // 2
    return min([free, *_cgroup_available()])


def _physical_memory() -> int:
    """Bytes of main memory; where the system does not tell, as on Windows, what any computer of today has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return ASSUMED_MEMORY


def _cgroup_available() -> Iterator[int]:
    """Bytes left in each Linux control group that limits this process, as containers and job schedulers do."""
    try:
        own = [line.split(":", 2) for line in CGROUP_OF_SELF.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in own:
        if controllers not in ("", "memory"):
            continue
        group, (limit, used, cached) = CGROUPS / controllers / path.strip("/"), CGROUP_FILES[controllers]
        while group == CGROUPS or CGROUPS in group.parents:  # a parent group may have the limit
            try:
                left = int((group / limit).read_text()) - int((group / used).read_text())
                stat = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
                page_cache = sum(int(size) for name, size in stat if name in cached)  # which can be freed
                yield max(0, left + page_cache)
            except (OSError, ValueError):  # "max" means no limit
                pass
            group = group.parent


def is_installed(*names: str) -> bool:
    """Whether all these packages are installed; none is imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def import_optional(name: str, needed_for: str) -> ModuleType:
    """Imports a package of requirements-backends.txt; if it is missing, `InputError` that starts with `needed_for`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{needed_for} needs the package {name}: pip install -r requirements-backends.txt") from None


def compile_module(module: Function, dynamic: bool = False) -> Function:
    """`torch.compile(module)`, for `--compile`. Compilation takes about a minute at the first call.

    `dynamic`: compile once for images of any size. Raises `InputError` if TorchInductor finds no C++ compiler.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        raise InputError("--compile needs a C++ compiler (g++ or clang++): install one, or leave --compile out")
    return cast(Function, torch.compile(module, dynamic=dynamic))

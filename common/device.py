"""What this machine offers: devices, precisions, free memory, optional packages, a compiler."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar, cast

import torch

from common.errors import CUDA_OUT_OF_MEMORY, InputError, summarize_exception

AMPERE = (8, 0)  # the first compute capability with tensor cores for bf16 and TF32
MAX_GRAPHS = 64  # of a compiled function, which runs uncompiled beyond; Muon's update has one for each shape of weights
COMPILE_MODES = ("default", "max-autotune-no-cudagraphs")  # of `torch.compile`
Function = TypeVar("Function", bound=Callable)

OUT_OF_MEMORY_TEXTS = (  # without PyTorch's `OutOfMemoryError`: of cuDNN and cuBLAS for a workspace, and of CUDA itself
    "unable to find an engine",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    CUDA_OUT_OF_MEMORY,
)
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
        raise InputError(f"there is no device {name!r}: PyTorch finds no CUDA GPU here; use cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("there is no device 'mps': PyTorch finds no Apple GPU here; use cpu or auto")
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


def check_precision(device: torch.device, precision: str) -> None:
    """`InputError` for "bf16" on a CUDA device below compute capability 8.0, which emulates it at a fraction of the speed."""
    if precision == "bf16" and not has_bf16(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise InputError(
            f"precision bf16: {torch.cuda.get_device_name(device)} has compute capability {major}.{minor} "
            "and only emulates bf16, slowly; use fp32, or fp16 to upscale images"
        )


def has_bf16(device: torch.device) -> bool:
    """Whether `device` computes in bf16 itself: CPUs and CUDA devices of compute capability 8.0 (Ampere) and above do."""
    return device.type != "cuda" or has_tf32(device)


class _TF32Settings:
    """cuDNN's TF32 settings, process-wide. PyTorch 2.9 replaced `allow_tf32` by `fp32_precision`, and reading the old one
    raises `RuntimeError` once the new one disagrees with it. Both are kept in step here, since TorchInductor reads the old."""

    def __init__(self) -> None:
        cudnn = torch.backends.cudnn
        self.operators = [cudnn.conv, cudnn.rnn] if hasattr(cudnn, "conv") else []  # type: ignore[attr-defined]
        self.precisions = [operator.fp32_precision for operator in self.operators]
        try:
            self.allow_tf32: bool | None = cudnn.allow_tf32
        except RuntimeError:  # the caller has used the new setting alone
            self.allow_tf32 = None

    def set(self, allow: bool) -> None:
        """Sets TF32, or IEEE float32."""
        if self.allow_tf32 is not None:
            torch.backends.cudnn.allow_tf32 = allow
        for operator in self.operators:
            operator.fp32_precision = "tf32" if allow else "ieee"

    def restore(self) -> None:
        """Sets what was found at construction."""
        if self.allow_tf32 is not None:
            torch.backends.cudnn.allow_tf32 = self.allow_tf32
        for operator, precision in zip(self.operators, self.precisions, strict=True):
            operator.fp32_precision = precision


_full_fp32_lock = threading.Lock()
_full_fp32_users: list[_TF32Settings] = []  # one for each `full_fp32` block that is entered; the first is restored


@contextmanager
def full_fp32() -> Iterator[None]:
    """Computes float32 convolutions on CUDA without TF32, which would round to 10-bit mantissas: docs/measuring.md, section 5.

    The setting is process-wide. Blocks may be nested and may overlap in several threads: the first to be entered changes it,
    the last to be left restores it.
    """
    with _full_fp32_lock:
        _full_fp32_users.append(_full_fp32_users[0] if _full_fp32_users else _TF32Settings())
        _full_fp32_users[0].set(False)
    try:
        yield
    finally:
        with _full_fp32_lock:
            settings = _full_fp32_users.pop()
            if not _full_fp32_users:
                settings.restore()


@contextmanager
def tf32_convolutions(allow: bool | None) -> Iterator[None]:
    """Lets float32 convolutions on CUDA run in TF32, or not; None: as PyTorch is set. Process-wide, restored at the end."""
    settings = _TF32Settings()
    if allow is not None:
        settings.set(allow)
    try:
        yield
    finally:
        if allow is not None:
            settings.restore()


def has_tf32(device: torch.device) -> bool:
    """Whether `device` has TF32: CUDA devices of compute capability 8.0 (Ampere) and above do."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE


def runs_in_tf32(device: torch.device, allow: bool | None) -> bool:
    """Whether float32 convolutions run in TF32 on `device` inside `tf32_convolutions(allow)`."""
    if allow is None:
        settings = _TF32Settings()
        allow = settings.precisions[0] == "tf32" if settings.precisions else settings.allow_tf32
    return bool(allow) and has_tf32(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a GPU is out of memory, by its class or by one of `OUT_OF_MEMORY_TEXTS`."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


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
    """Bytes of main memory; `ASSUMED_MEMORY` where the system does not report it, as on Windows."""
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


def compile_module(module: Function, dynamic: bool = False, mode: str = "default") -> Function:
    """`torch.compile(module)`, for `--compile`. Compilation takes about a minute at the first call.

    `dynamic`: compile once for images of any size. `mode`: one of `COMPILE_MODES`.
    Raises `InputError` if TorchInductor finds no C++ compiler; calls raise it where compilation fails.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        raise InputError("--compile needs a C++ compiler (g++ or clang++): install one, or leave --compile out")
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before PyTorch 2.6
    setattr(config, name, max(getattr(config, name), MAX_GRAPHS))
    compiled = torch.compile(module, dynamic=dynamic, mode=mode)

    def call(*args: object) -> object:
        with translate_compile_errors():
            return compiled(*args)

    return cast(Function, call)


@contextmanager
def translate_compile_errors() -> Iterator[None]:
    """Turns what `torch.compile` raises, in the forward or the backward pass, into an `InputError`."""
    try:
        yield
    except Exception as error:
        if any(base.__module__.startswith(("torch._dynamo", "torch._inductor")) for base in type(error).__mro__):
            reason = summarize_exception(error)
            raise InputError(f"--compile: PyTorch cannot compile this network here ({reason}): leave it out") from None
        raise


@contextmanager
def fixed_shapes(device: torch.device) -> Iterator[None]:
    """For convolutions of the same few shapes over and over: on CUDA, cuDNN measures once which algorithm is fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before

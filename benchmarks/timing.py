"""Timing things against one another: alternately, in one run, medians. What a machine does besides hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from common.progress import progress


def time_alternately(jobs: dict[str, Callable[[], object]], rounds: int, desc: str) -> dict[str, float]:
    """Runs each job once unmeasured, then all in turn `rounds` times; the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in progress(range(rounds + 1), desc=desc, unit="round"):
        for name, job in jobs.items():
            synchronise()
            start = time.perf_counter()
            job()
            synchronise()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: median(each) for name, each in seconds.items()}


def synchronise() -> None:
    """Waits until a GPU, if there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"

"""Interleaved timing of several jobs in one run, as medians: other load on the machine affects all of them alike."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import median

import torch

from common.progress import progress


def time_interleaved(
    jobs: dict[str, Callable[[], object]], rounds: int, desc: str, min_seconds: float = 0.0
) -> dict[str, float]:
    """Runs each job once to warm up, then all in turn `rounds` times; returns the median seconds of each.

    `min_seconds`: a job that takes less is repeated within each timing until it takes so long. On a GPU a single short job
    measures how long its kernels take to start.
    """
    for job in jobs.values():
        job()
    repeats = dict.fromkeys(jobs, 1)
    if min_seconds:
        repeats = {name: math.ceil(min_seconds / max(_seconds(job, 1), 1e-6)) for name, job in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in progress(range(rounds), desc=desc, unit="round"):
        for name, job in jobs.items():
            seconds[name].append(_seconds(job, repeats[name]))
    return {name: median(each) for name, each in seconds.items()}


def _seconds(job: Callable[[], object], repeats: int) -> float:
    """Seconds of one of `repeats` runs in a row."""
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        job()
    synchronize()
    return (time.perf_counter() - start) / repeats


def min_seconds(device: torch.device) -> float:
    """How long a timing should take at least on `device`."""
    return 0.2 if device.type == "cuda" else 0.0


class SubprocessJob:
    """A job in a process of its own, which settings of this process, such as malloc's, do not speed up.

    `make`, a module-level function, creates the job there; a call runs it once. To be used in a `with` block.
    """

    def __init__(self, make: Callable[..., Callable[[], object]], *args: object):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, args, torch.get_num_threads()))
        self._process.start()
        there.close()

    def __call__(self) -> None:
        self._here.send(True)
        self._here.recv()

    def __enter__(self) -> SubprocessJob:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()  # which ends it
        self._process.join()


def _serve(requests: Connection, make: Callable, args: tuple, threads: int) -> None:
    torch.set_num_threads(threads)
    job = make(*args)
    try:
        while requests.recv():
            job()
            synchronize()
            requests.send(True)
    except EOFError:
        pass


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"

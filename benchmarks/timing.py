"""Timing things against one another: alternately, in one run, medians. What a machine does besides hits all alike."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
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


class Elsewhere:
    """A job in a process of its own, which what is done to this one, such as `keep_freed_memory`, does not speed up.

    `make`, a function at the top of a module, makes the job there. Calling this runs it there once. For a `with` block.
    """

    def __init__(self, make: Callable[..., Callable[[], object]], *words: object):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, words, torch.get_num_threads()))
        self._process.start()
        there.close()

    def __call__(self) -> None:
        self._here.send(True)
        self._here.recv()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()  # which ends it
        self._process.join()


def _serve(requests: Connection, make: Callable, words: tuple, threads: int) -> None:
    torch.set_num_threads(threads)
    job = make(*words)
    try:
        while requests.recv():
            job()
            synchronise()
            requests.send(True)
    except EOFError:
        pass


def synchronise() -> None:
    """Waits until a GPU, if there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"

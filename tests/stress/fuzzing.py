"""Shared by the fuzz tests: number of cases, progress, randomly changed files, limits of time and memory.

The test suite runs a few fixed cases. `make fuzz` sets FUZZ_CASES and draws new ones at each run.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.peak_rss import peak_rss

MANY = int(os.environ.get("FUZZ_CASES", "0"))
SECONDS = 10  # of processor time that a case may take
MEMORY = 1024  # MiB that all cases of a process together may come to need
HANGS = 120  # seconds after which a case of `make fuzz` is taken to hang, and all threads say where they are

tried: dict[str, int] = {}


def cases(few: int) -> Callable:
    """A decorator under `given`: so many cases in the test suite, FUZZ_CASES if that is set."""
    return settings(
        max_examples=MANY or few,
        derandomize=not MANY,
        database=None,
        deadline=None,
        print_blob=bool(MANY),
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def bounded(name: str) -> Iterator[None]:
    """Around a case: neither its time nor the memory of the process may grow out of hand. Counts and tells of progress."""
    before, start = peak_rss(), time.process_time()
    if MANY:
        faulthandler.dump_traceback_later(HANGS, exit=True, file=sys.__stderr__)
    yield
    if MANY:
        faulthandler.cancel_dump_traceback_later()
        tried[name] = tried.get(name, 0) + 1
        if tried[name] % max(1, MANY // 20) == 0:
            print(f"{name}: {tried[name]} of {MANY}", file=sys.__stderr__, flush=True)
    seconds, grown = time.process_time() - start, peak_rss() - before
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert grown < MEMORY, f"{grown:.0f} MiB more"


# --- files changed at random ----------------------------------------------------------------------------------------


def changes(most: int = 6) -> st.SearchStrategy:
    """What `changed` does to the bytes of a file; sometimes nothing at all."""
    place, amount = st.integers(0, 1 << 20), st.integers(0, 255)
    kinds = st.sampled_from(["flip", "set", "cut", "drop", "copy", "number", "splice"])
    return st.lists(st.tuples(kinds, place, place, amount), max_size=most)


def changed(data: bytes, steps: list[tuple[str, int, int, int]], other: bytes = b"") -> bytes:
    """`data` with bytes flipped, set, cut off, dropped or copied elsewhere, or a piece of `other` put in."""
    new = bytearray(data)
    for kind, place, source, amount in steps:
        if not new:
            break
        place, source = place % len(new), source % len(new)
        if kind == "flip":
            new[place] ^= 1 << amount % 8
        elif kind == "set":
            new[place] = amount
        elif kind == "cut":
            del new[max(place, len(new) - 4 * amount) :]
        elif kind == "drop":
            del new[place : place + amount]
        elif kind == "copy":
            new[place : place + amount] = new[source : source + amount]
        elif kind == "number":  # sizes and offsets at their limits, in four or eight bytes
            value = (0, 1, -1, 1 << 31, (1 << 31) - 1, 1 << 24, -2, 1 << 62)[amount % 8]
            width = 8 if amount & 8 else 4
            new[place : place + width] = (value % (1 << 8 * width)).to_bytes(width, "little" if amount & 16 else "big")
        else:
            new[place : place + amount] = other[source % max(1, len(other)) :][:amount]
    return bytes(new)


class Net(nn.Module):
    """A network of few weights, `--model tiny`."""

    def __init__(self, scale: int = 2, multi_scale: bool = False, group: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return self.conv(x).repeat_interleave(scale, 2).repeat_interleave(scale, 3)

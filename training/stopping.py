"""Stops a run cleanly after a signal, also during a validation, which may take minutes."""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from common.errors import stop_signals
from inference.upscaler import NetworkUpscaler
from training.distributed import DistributedContext

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class StopSignals:
    """The signal that this process has `received`, and the one by which all processes have `agreed` to stop; 0: none.

    A context manager: inside it, SIGTERM, Ctrl-C and SIGHUP only set `received`.
    """

    def __init__(self) -> None:
        self.received = self.agreed = 0

    def __enter__(self) -> StopSignals:
        self._handlers = {number: signal.signal(number, self._receive) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: object) -> None:
        self.received = number

    def votes(self) -> list[float]:
        """For each of `SIGNALS`, 1 if this process received it; to be summed over the processes."""
        return [float(self.received == each) for each in SIGNALS]

    def agree(self, votes: list[float]) -> None:
        """Sets `agreed`, given for each of `SIGNALS` how many processes received it."""
        self.agreed = next((each for each, count in zip(SIGNALS, votes, strict=True) if count), 0)


class StopRequestedError(Exception):
    """All processes agreed to stop during validation."""


class StopChecks:
    """`count` points at which all processes agree whether to stop, in work that they share unevenly.

    Each process calls it before each of its items, and `finish` after the last. If any of them was asked to stop, all raise
    `StopRequestedError` at the same point.
    """

    def __init__(self, stop: StopSignals, context: DistributedContext, count: int):
        self._stop, self._context, self._left = stop, context, count

    def __call__(self) -> None:
        self._left -= 1
        votes = torch.tensor(self._stop.votes(), device=self._context.device)
        self._stop.agree(self._context.all_reduce(votes).tolist())
        if self._stop.agreed:
            raise StopRequestedError

    def finish(self) -> None:
        """Joins the agreements that other processes, with more items, still wait for."""
        while self._left > 0:
            self()


class InterruptibleUpscaler(NetworkUpscaler):
    """A `NetworkUpscaler` that calls `check` before each image."""

    def __init__(self, net: nn.Module, scale: int, device: torch.device, check: Callable[[], None]):
        super().__init__(net, scale, device)
        self._check = check

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        self._check()
        return super().__call__(lr)

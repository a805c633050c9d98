"""Stops a run in good order after a signal: which signals, and how a validation, which may take minutes, is left."""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from common.errors import stop_signals
from inference.upscaler import NetworkUpscaler


class StopSignals:
    """The signal that this process has `received`, and the one by which all processes have `agreed` to stop; 0: none.

    A context manager, inside which SIGTERM, Ctrl-C and SIGHUP do no more than that.
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

    def agree(self, asked: float) -> None:
        """All processes have heard that `asked` of them, if any, were asked to stop."""
        if asked:
            self.agreed = self.received or signal.SIGTERM


class StopRequestedError(Exception):
    """All processes agreed to stop during validation."""


class InterruptibleUpscaler(NetworkUpscaler):
    """A `NetworkUpscaler` that raises `StopRequestedError` before the next image once `stop_requested()` is true."""

    def __init__(self, net: nn.Module, scale: int, device: torch.device, stop_requested: Callable[[], bool]):
        super().__init__(net, scale, device)
        self._stop_requested = stop_requested

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        if self._stop_requested():
            raise StopRequestedError
        return super().__call__(lr)

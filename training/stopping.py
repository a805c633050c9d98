"""Stops a validation, which may take minutes, after the current image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from inference.upscaler import NetworkUpscaler


class StopRequestedError(Exception):
    """A signal arrived during validation."""


class InterruptibleUpscaler(NetworkUpscaler):
    """A `NetworkUpscaler` that raises `StopRequestedError` before the next image once `stop_requested()` is true."""

    def __init__(self, net: nn.Module, scale: int, device: torch.device, stop_requested: Callable[[], bool]):
        super().__init__(net, scale, device)
        self._stop_requested = stop_requested

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        if self._stop_requested():
            raise StopRequestedError
        return super().__call__(lr)

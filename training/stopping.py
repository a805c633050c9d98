"""Stopping while a test set is measured, which may take minutes: after the image at hand, not after the last."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from evaluation.inference import NetworkUpscaler


class StopAskedError(Exception):
    """A signal came while the test sets were measured."""


class StoppableUpscaler(NetworkUpscaler):
    """A `NetworkUpscaler` that raises `StopAskedError` before an image as soon as `asked()` says so."""

    def __init__(self, net: nn.Module, scale: int, device: torch.device, asked: Callable[[], bool]):
        super().__init__(net, scale, device)
        self._asked = asked

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        if self._asked():
            raise StopAskedError
        return super().__call__(lr)

"""Tries a third-party network before the first step; otherwise it might fail at the first validation, hours later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError, summarize_exception
from dataset.benchmark_set import BenchmarkSet
from inference.upscaler import NetworkUpscaler
from model import describe_failure


def try_network(
    name: str,
    net: nn.Module,
    device: torch.device,
    patch_size: int,
    scales: Sequence[int],
    test_sets: Sequence[BenchmarkSet],
) -> None:
    """Runs the network of `model/NAME.py` on one LR patch of each scale, and on one image of each LR size in `test_sets`.

    Raises `InputError` that names the network, the size and the error. Weights and buffers stay as they are.
    """
    net.eval()
    for scale in scales:
        with _explain_failure(name, patch_size, patch_size, scale), torch.inference_mode():
            sr = net(torch.zeros(1, 3, patch_size, patch_size, device=device), scale)
            _check_output(sr, patch_size * scale)
    for test_set in test_sets:
        upscale = NetworkUpscaler(net, test_set.scale, device)
        for height, width in sorted({pair.read()[1].shape[:2] for pair in test_set.pairs}):
            with _explain_failure(name, height, width, test_set.scale):
                upscale(np.zeros((height, width, 3), np.uint8))
    net.train()


@contextmanager
def _explain_failure(name: str, height: int, width: int, scale: int) -> Iterator[None]:
    """Turns any exception into an `InputError` that names the network, the LR size and the scale."""
    try:
        yield
    except Exception as error:  # third-party code may fail in any way
        what = summarize_exception(error)[:200] if isinstance(error, InputError) else describe_failure(name, error)
        raise InputError(
            f"model/{name}.py cannot be trained: on an LR image of {width}x{height} at scale {scale} it fails ({what})"
        ) from None


def _check_output(sr: object, side: int) -> None:
    if not isinstance(sr, Tensor):
        raise InputError(f"forward returned a {type(sr).__name__}, not a tensor")
    if sr.shape != (1, 3, side, side) or not sr.is_floating_point():
        raise InputError(
            f"forward returned {sr.dtype} of shape {tuple(sr.shape)}, not floats of shape (1, 3, {side}, {side})"
        )

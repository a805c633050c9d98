"""Skips steps whose loss or gradients are not finite: weights, EMA weights and optimizer state stay unchanged.

The check runs on the device, so that no step waits for a GPU, and uses the gradient norm, which is the same in all
processes. `solver.py` counts the skipped steps and aborts a run with too many in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.muon import MuonWithAuxAdam


def propagate_nonfinite(loss: Tensor) -> Tensor:
    """The loss; if it is not finite, all its gradients are NaN, and through the all-reduce those of every process."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def step_if_finite(optimizer: torch.optim.Optimizer | MuonWithAuxAdam, is_finite: Tensor, fused: bool) -> None:
    """`optimizer.step()` if `is_finite`, a bool on the device, is true. Optimizers that are not `fused` synchronize."""
    if fused:
        # the undeclared attribute by which PyTorch's GradScaler makes a fused optimizer skip
        optimizer.found_inf = 1 - is_finite.float()  # type: ignore[union-attr]
        optimizer.step()
    elif is_finite:
        optimizer.step()


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, weight: float | Tensor, is_finite: Tensor) -> None:
    """Moves the parameters of `ema` toward those of `net` by `weight` if `is_finite`; buffers are copied."""
    ema_weights: list[Tensor] = list(ema.parameters())
    new_weights: list[Tensor] = list(net.parameters())
    deltas = torch._foreach_sub(new_weights, ema_weights)
    torch._foreach_mul_(deltas, weight * is_finite.float())
    torch._foreach_add_(ema_weights, deltas)
    for old, new in zip(ema.buffers(), net.buffers(), strict=True):
        old.copy_(new)


class BufferSnapshot:
    """A copy of a network's buffers before a forward pass, such as the running statistics of batch normalization."""

    def __init__(self, net: nn.Module):
        self._before = [(buffer, buffer.clone()) for buffer in net.buffers()]

    @torch.no_grad()
    def restore_unless(self, is_finite: Tensor) -> None:
        """Restores the buffers unless `is_finite` is true."""
        for buffer, before in self._before:
            buffer.copy_(torch.where(is_finite, buffer, before))

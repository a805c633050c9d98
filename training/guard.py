"""A training step whose loss or gradients are not finite changes nothing: neither weights nor averages nor optimiser.

It is decided on the device, so that no step waits for a GPU, and from the gradients' norm, which is the same in all
processes. Here is how a step is taken or not; what becomes of a run that skips too many is `solver.py`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.muon import MuonAndAdam


def marked(loss: Tensor) -> Tensor:
    """The loss; if it is not finite, its gradients are all NaN, and so are those of the other processes it is added to."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def careful_step(optimizer: torch.optim.Optimizer | MuonAndAdam, good: Tensor, fused: bool) -> None:
    """`optimizer.step()` if `good`, a bool on the device, is true. Those not `fused` wait for it."""
    if fused:
        # as PyTorch's GradScaler tells a fused optimiser, by an attribute without a declaration
        optimizer.found_inf = 1 - good.float()  # type: ignore[union-attr]
        optimizer.step()
    elif good:
        optimizer.step()


@torch.no_grad()
def careful_average(average: nn.Module, net: nn.Module, weight: float, good: Tensor) -> None:
    """Moves the parameters of `average` towards those of `net` by `weight`, if `good`; buffers are copied."""
    averages: list[Tensor] = list(average.parameters())
    new_weights: list[Tensor] = list(net.parameters())
    towards = torch._foreach_sub(new_weights, averages)
    torch._foreach_mul_(towards, weight * good.float())
    torch._foreach_add_(averages, towards)
    for old, new in zip(average.buffers(), net.buffers(), strict=True):
        old.copy_(new)


class KeptBuffers:
    """The buffers of a network before a forward pass: running statistics of batch normalisation, in networks of others."""

    def __init__(self, net: nn.Module):
        self._before = [(buffer, buffer.clone()) for buffer in net.buffers()]

    @torch.no_grad()
    def put_back_unless(self, good: Tensor) -> None:
        """Gives the buffers the values they had, unless `good` is true."""
        for buffer, before in self._before:
            buffer.copy_(torch.where(good, buffer, before))

"""Muon for convolutions: momentum, made orthogonal, is the step. In a network without skips it learns in far fewer steps.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the step's size matched to Adam's as in
Liu et al., "Muon is scalable for LLM training" (2025), so that Adam's learning rates carry over. PyTorch's own
`torch.optim.Muon` takes matrices only, one at a time: this one takes convolutions, all of one shape in one batch.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan et al. that pushes singular values towards 1
ITERATIONS = 5
RMS = 0.2  # of an update's elements, about Adam's
LEAST_SIDE = 16  # convolutions from or to RGB are no mixing of channels: Adam's


class Muon(torch.optim.Optimizer):
    """Updates convolution weights O x I x KH x KW, each seen as the matrix O x (I KH KW). Other shapes: `ValueError`.

    `found_inf`: 1 makes the next step change nothing, 0 or None lets it be; PyTorch's fused optimisers know the same.
    """

    found_inf: Tensor | None = None

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95):
        if any(weight.ndim != 4 for weight in parameters):
            raise ValueError("Muon is for weights of convolutions, of four dimensions")
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure: one pass gives the gradients
        """One step on the gradients that stand in `grad`; weights without one stay as they are."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append((weight, weight.grad))
            for alike in by_shape.values():
                self._step_alike(alike, group["lr"], group["momentum"])

    def _step_alike(self, pairs: list[tuple[nn.Parameter, Tensor]], lr: float, momentum: float) -> None:
        weights = [weight for weight, _ in pairs]
        gradients = [gradient for _, gradient in pairs]
        averages = [self._average(weight) for weight in weights]
        if self.found_inf is not None:  # a gradient that is the average leaves it as it is
            bad = self.found_inf.bool()
            gradients = [torch.where(bad, old, new) for old, new in zip(averages, gradients, strict=True)]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)  # Nesterov's
        matrices = orthogonal(torch.stack([each.flatten(1) for each in ahead]))
        size = lr * RMS * max(matrices.shape[-2:]) ** 0.5
        if self.found_inf is not None:
            matrices = matrices * (1 - self.found_inf)
        for weight, matrix in zip(weights, matrices, strict=True):
            weight.sub_(matrix.view(weight.shape), alpha=size)

    def _average(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        return state["average"]


class MuonAndAdam:
    """Muon for the convolutions between wide layers, fused Adam for all other parameters: one optimiser to the outside."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, fused: bool = False):
        wide = [weight.ndim == 4 and min(weight.shape[:2]) >= LEAST_SIDE for weight in parameters]
        ours = [weight for weight, is_wide in zip(parameters, wide, strict=True) if is_wide]
        others = [weight for weight, is_wide in zip(parameters, wide, strict=True) if not is_wide]
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if ours:
            self.parts["muon"] = Muon(ours, lr)
        if others:
            self.parts["adam"] = torch.optim.Adam(others, lr, fused=fused)

    @property
    def param_groups(self) -> list[dict]:
        """The groups of both; setting "lr" in them sets the rate."""
        return [group for part in self.parts.values() for group in part.param_groups]

    @property
    def found_inf(self) -> Tensor | None:
        """1: the next step of both changes nothing."""
        return getattr(next(iter(self.parts.values())), "found_inf", None)

    @found_inf.setter
    def found_inf(self, value: Tensor | None) -> None:
        """Tells both."""
        for part in self.parts.values():
            part.found_inf = value  # type: ignore[attr-defined]  # a protocol of PyTorch's without a declaration

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients."""
        for part in self.parts.values():
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """One step of both."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, dict]:
        """The state of each part by its name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Goes on from `state_dict()`. `KeyError` if it is of another optimiser."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices of a batch B x M x N, roughly: singular values between about 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x

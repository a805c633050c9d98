"""Muon for convolutions: the update is the orthogonalized momentum. A network without skips learns in far fewer steps.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the step's size matched to Adam's as in
Liu et al., "Muon is scalable for LLM training" (2025), so that Adam's learning rates carry over. PyTorch's own
`torch.optim.Muon` takes matrices only, one at a time: this one takes convolutions, all of one shape in one batch.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan et al. that pushes singular values towards 1
NS_STEPS = 5
RMS = 0.2  # of an update's elements, about Adam's
MIN_CHANNELS = 16  # convolutions from or to RGB have fewer: Adam's


class Muon(torch.optim.Optimizer):
    """Updates convolution weights O x I x KH x KW, each seen as the matrix O x (I KH KW). Other shapes: `ValueError`.

    `found_inf`: 1 makes the next step a no-op, 0 or None does not; PyTorch's fused optimizers have the same attribute.
    """

    found_inf: Tensor | None = None

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95):
        if any(weight.ndim != 4 for weight in parameters):
            raise ValueError("Muon is for weights of convolutions, of four dimensions")
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure: one pass gives the gradients
        """One step on the gradients in `grad`; weights without a gradient stay unchanged."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append((weight, weight.grad))
            for pairs in by_shape.values():
                self._step_same_shape(pairs, group["lr"], group["momentum"])

    def _step_same_shape(self, pairs: list[tuple[nn.Parameter, Tensor]], lr: float, momentum: float) -> None:
        weights = [weight for weight, _ in pairs]
        gradients = [gradient for _, gradient in pairs]
        momenta = [self._momentum_buffer(weight) for weight in weights]
        if self.found_inf is not None:  # a gradient equal to the momentum leaves it unchanged
            bad = self.found_inf.bool()
            gradients = [torch.where(bad, old, new) for old, new in zip(momenta, gradients, strict=True)]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, momenta, momentum)  # Nesterov's
        matrices = newton_schulz(torch.stack([each.flatten(1) for each in ahead]))
        size = lr * RMS * max(matrices.shape[-2:]) ** 0.5
        if self.found_inf is not None:
            matrices = matrices * (1 - self.found_inf)
        for weight, matrix in zip(weights, matrices, strict=True):
            weight.sub_(matrix.view(weight.shape), alpha=size)

    def _momentum_buffer(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            saved = state.pop("average", None)  # the key in states saved by earlier versions
            state["momentum_buffer"] = torch.zeros_like(weight) if saved is None else saved
        return state["momentum_buffer"]


class MuonWithAuxAdam:
    """Muon for the convolutions between wide layers, Adam for all other parameters, as one optimizer."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, fused: bool = False):
        wide = [weight.ndim == 4 and min(weight.shape[:2]) >= MIN_CHANNELS for weight in parameters]
        ours = [weight for weight, is_wide in zip(parameters, wide, strict=True) if is_wide]
        others = [weight for weight, is_wide in zip(parameters, wide, strict=True) if not is_wide]
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if ours:
            self.parts["muon"] = Muon(ours, lr)
        if others:
            self.parts["adam"] = torch.optim.Adam(others, lr, fused=fused)

    @property
    def param_groups(self) -> list[dict]:
        """The parameter groups of both; set "lr" in them."""
        return [group for part in self.parts.values() for group in part.param_groups]

    @property
    def found_inf(self) -> Tensor | None:
        """1: the next step of both is a no-op."""
        return getattr(next(iter(self.parts.values())), "found_inf", None)

    @found_inf.setter
    def found_inf(self, value: Tensor | None) -> None:
        """Sets it for both."""
        for part in self.parts.values():
            part.found_inf = value  # type: ignore[attr-defined]  # a protocol of PyTorch's without a declaration

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients."""
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
        """Restores a `state_dict()`. `KeyError` if it is of another optimizer."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def newton_schulz(matrices: Tensor) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrices of a batch B x M x N: singular values between about 0.7 and 1.2."""
    a, b, c = NS_COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NS_STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x

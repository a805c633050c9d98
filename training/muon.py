"""Muon for convolutions: the update is the orthogonalized momentum. A network without skips learns in far fewer steps.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the step's size matched to Adam's as in
Liu et al., "Muon is scalable for LLM training" (2025), so that Adam's learning rates carry over. PyTorch's own
`torch.optim.Muon` takes matrices only, one at a time: this one takes convolutions, all of one shape in one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.device import compile_module

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan et al. that pushes singular values towards 1
NS_STEPS = 5
RMS = 0.2  # of an update's elements, about Adam's
MIN_CHANNELS = 16  # convolutions from or to RGB have fewer: Adam's


class Muon(torch.optim.Optimizer):
    """Updates convolution weights O x I x KH x KW, each seen as the matrix O x (I KH KW). Other shapes: `ValueError`.

    `found_inf`: 1 makes the next step a no-op, 0 or None does not; PyTorch's fused optimizers have the same attribute.
    """

    found_inf: Tensor | None = None
    _compiled_update: Callable[..., None] | None = None

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95):
        if any(weight.ndim != 4 for weight in parameters):
            raise ValueError("Muon is for weights of convolutions, of four dimensions")
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure: one pass gives the gradients
        """One step on the gradients in `grad`; weights without a gradient stay unchanged."""
        for group in self.param_groups:
            by_shape: defaultdict[tuple[torch.Size, bool], list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape, _is_channels_last(weight)].append(weight)
            for weights in by_shape.values():
                self._step_same_shape(weights, group["lr"], group["momentum"])

    def compile_update(self, mode: str = "default") -> None:
        """Compiles the update of all weights of one shape with TorchInductor, which fuses it into fewer kernels.

        `mode`: one of `common.device.COMPILE_MODES`. Raises `InputError` as `compile_module` does.
        """
        self._compiled_update = compile_module(_update_same_shape, mode=mode)

    def _step_same_shape(self, weights: list[nn.Parameter], lr: float | Tensor, momentum: float) -> None:
        momenta = self._stacked_momenta(weights)
        gradients = [weight.grad for weight in weights]
        if self._compiled_update is None:
            _update_same_shape(weights, gradients, momenta, lr, momentum, self.found_inf)
        else:  # for each number of type float there would be another graph
            rate = lr if isinstance(lr, Tensor) else torch.full((), lr, device=momenta.device)
            self._compiled_update(weights, gradients, momenta, rate, momentum, self.found_inf)

    def _stacked_momenta(self, weights: list[nn.Parameter]) -> Tensor:
        """The momenta of weights of one shape as one tensor B x O x (I KH KW). Those in `state` are views of it."""
        stacks = self.__dict__.setdefault("_stacks", {})  # not in the constructor: a copied optimizer has none
        key = tuple(map(id, weights))
        stack, views = stacks.get(key, (None, []))
        current = [self.state[weight].get("momentum_buffer") for weight in weights]
        if not views or any(each is not view for each, view in zip(current, views, strict=True)):
            stack = torch.stack([_to_matrix(weight, self._take_momentum(weight)) for weight in weights]).flatten(2)
            views = [_from_matrix(weight, row) for weight, row in zip(weights, stack.unbind(), strict=True)]
            stacks[key] = stack, views
            for weight, view in zip(weights, views, strict=True):
                self.state[weight]["momentum_buffer"] = view
        return stack

    def _take_momentum(self, weight: nn.Parameter) -> Tensor:
        """The momentum in `state`, or zeros; "average" is its key in states saved by earlier versions."""
        state = self.state[weight]
        saved = state.pop("average", None)
        return state.get("momentum_buffer", torch.zeros_like(weight) if saved is None else saved)


def _update_same_shape(
    weights: list[nn.Parameter],
    gradients: list[Tensor | None],
    momenta: Tensor,
    lr: float | Tensor,
    momentum: float,
    found_inf: Tensor | None,
) -> None:
    """One step of weights of one shape and memory format; `momenta`: those of all, B x O x (I KH KW)."""
    matrices = [_to_matrix(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True)]
    stacked = torch.stack(matrices).flatten(2)
    size: float | Tensor = lr * RMS * max(momenta.shape[-2:]) ** 0.5
    if found_inf is not None:  # a gradient equal to the momentum leaves it unchanged
        stacked = torch.where(found_inf.bool(), momenta, stacked)
        size = size * (1 - found_inf)
    momenta.lerp_(stacked, 1 - momentum)
    ahead = torch.lerp(stacked, momenta, momentum)  # Nesterov's
    # contiguous, as the steps below are views: those of matrices with more rows than columns come transposed
    updates = (newton_schulz(ahead) * size).contiguous().unbind()
    steps = [_from_matrix(weight, update) for weight, update in zip(weights, updates, strict=True)]
    targets: list[Tensor] = list(weights)  # dynamo cannot trace `list[Tensor](weights)`
    torch._foreach_sub_(targets, steps)


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last)


def _to_matrix(weight: Tensor, value: Tensor | None) -> Tensor:
    """A gradient or momentum of `weight`, O x I x KH x KW, with O first and the rest in the order of the weight's memory,
    so that a stack is one copy. The order of a matrix's columns does not matter to Muon."""
    assert value is not None
    return value.permute(0, 2, 3, 1) if _is_channels_last(weight) else value


def _from_matrix(weight: Tensor, matrix: Tensor) -> Tensor:
    """The inverse of `_to_matrix` on a matrix O x (I KH KW): a view with the shape and, for foreach kernels, the strides of
    `weight`."""
    outputs, inputs, height, width = weight.shape
    if _is_channels_last(weight) and weight.stride(3) == inputs:  # a 1x1 kernel may have the strides of either format
        return matrix.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
    return matrix.view(weight.shape)


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

    def compile_update(self, mode: str = "default") -> None:
        """Compiles Muon's update, as `Muon.compile_update`; Adam's is one kernel already."""
        if isinstance(muon := self.parts.get("muon"), Muon):
            muon.compile_update(mode)

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
    if matrices.is_cuda:  # as Jordan et al. do: on tensor cores, and exact enough for so coarse a result
        x = x.bfloat16()
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NS_STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    x = x.to(matrices.dtype)
    return x.mT if tall else x

"""The ReLU that compares bits gives PyTorch's values and gradients for all bfloat16 numbers there are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import relu

from model.ops import relu_

ALL = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(4, 64, 16, 16)


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal values, NaN where there is NaN, zeros of either sign."""
    return (
        ours.dtype == theirs.dtype and torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(*numbers(ours, theirs))
    )


def numbers(*tensors: Tensor) -> list[Tensor]:
    return [each.nan_to_num(0, torch.inf, -torch.inf) for each in tensors]


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_all_bfloat16_values_are_rectified_as_by_pytorch(form):
    assert ALL.isnan().sum() == 254 and ALL.isinf().sum() == 2
    x = ALL.clone(memory_format=form)
    made = relu_(x)
    assert made is x and same(made, relu(ALL))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_gradients_are_pytorchs_where_values_are_finite(kind):
    gradients = []
    for rectify in (relu_, relu):
        x = torch.where(ALL.isfinite(), ALL, 0).to(kind).requires_grad_()
        rectify(x * 1).backward(torch.linspace(-2, 2, x.numel()).view_as(x).to(kind))
        gradients.append(x.grad)
    assert same(*gradients) and (gradients[0] != 0).any()


def test_a_value_that_is_needed_for_gradients_may_not_be_overwritten():
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    y = (x * 1).exp()  # whose gradient needs its own output
    relu_(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()

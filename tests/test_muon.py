"""Muon: its step against PyTorch's own Muon, and which weights get it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from model import create_model
from training.muon import RMS, Muon, MuonWithAuxAdam, newton_schulz

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("shape", [(64, 576), (64, 128), (256, 64)])
def test_updates_are_nearly_orthogonal(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(newton_schulz(torch.randn(3, *shape)))
    assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon of its own")
def test_steps_are_those_of_pytorchs_muon_on_the_flattened_weights():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((64, 32, 3, 3), (64, 32, 3, 3), (64, 128, 1, 1))]
    theirs = [torch.nn.Parameter(weight.detach().flatten(1).clone()) for weight in ours]
    a = Muon(ours, lr=0.01)
    b = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for mine, flat in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            flat.grad = mine.grad.flatten(1).clone()
        a.step()
        b.step()
    for mine, flat in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.flatten(1), flat, atol=2e-3, rtol=0)  # theirs rounds the update to bf16


def test_convolutions_from_and_to_rgb_and_biases_are_adams():
    net = create_model("cfsrcnn", 2)
    optimizer = MuonWithAuxAdam([weight for weight in net.parameters() if weight.requires_grad], 1e-3)
    adams = [weight for group in optimizer.parts["adam"].param_groups for weight in group["params"]]
    assert {tuple(weight.shape) for weight in adams} == {(64, 3, 3, 3), (3, 64, 3, 3), (256,)}


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="four dimensions"):
        Muon([torch.nn.Parameter(torch.zeros(3, 3))], 1e-3)


def make_weights(layout: torch.memory_format) -> list[nn.Parameter]:
    torch.manual_seed(0)
    shapes = ((64, 32, 3, 3), (64, 128, 1, 1), (64, 32, 3, 3), (16, 48, 3, 3), (64, 32, 3, 3), (64, 128, 1, 1))
    shapes += ((52, 16, 1, 1), (52, 16, 1, 1), (256, 16, 3, 3))  # with more rows than columns, as in RLFN
    return [nn.Parameter(torch.randn(shape).contiguous(memory_format=layout)) for shape in shapes]


def set_gradients(weights: list[nn.Parameter], without: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    for number, weight in enumerate(weights):
        weight.grad = None if number in without else torch.randn_like(weight)


def step_one_by_one(weights: list[nn.Parameter], momenta: list[torch.Tensor], lr: float) -> None:
    """Muon's step, one weight at a time."""
    for weight, momentum in zip(weights, momenta, strict=True):
        if weight.grad is not None:
            momentum.lerp_(weight.grad, 0.05)
            update = newton_schulz(torch.lerp(weight.grad, momentum, 0.95).flatten(1)[None])[0]
            weight.data -= lr * RMS * max(update.shape) ** 0.5 * update.view(weight.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stacked_steps_are_those_of_one_weight_at_a_time(layout):
    ours, theirs = make_weights(layout), make_weights(layout)
    optimizer, momenta = Muon(ours, 0.01), [torch.zeros_like(weight) for weight in theirs]
    for seed, without in enumerate([(), (0,), (0,), (), (1, 3)]):  # the weights that get no gradient
        for weights in (ours, theirs):
            set_gradients(weights, without, seed)
        optimizer.step()
        step_one_by_one(theirs, momenta, 0.01)
    for mine, other, momentum in zip(ours, theirs, momenta, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)
        assert torch.allclose(optimizer.state[mine]["momentum_buffer"], momentum, atol=1e-6)
        assert mine.is_contiguous(memory_format=layout)


def test_a_step_marked_as_bad_changes_nothing():
    weights = make_weights(torch.channels_last)
    optimizer = Muon(weights, 0.01)
    set_gradients(weights, (), 0)
    optimizer.step()
    before = copy.deepcopy([*weights, *(optimizer.state[weight]["momentum_buffer"] for weight in weights)])
    weights[0].grad.fill_(torch.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    after = [*weights, *(optimizer.state[weight]["momentum_buffer"] for weight in weights)]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", ["momentum_buffer", "average"])  # the second: states of earlier versions
def test_a_state_is_loaded_and_copied(layout, key):
    weights = make_weights(layout)
    optimizer = Muon(weights, 0.01)
    set_gradients(weights, (), 0)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"] = {n: {key: each["momentum_buffer"].contiguous()} for n, each in state["state"].items()}
    resumed = copy.deepcopy(weights)
    other = Muon(resumed, 0.01)
    other.load_state_dict(state)
    for each, own in ((optimizer, weights), (other, resumed)):
        set_gradients(own, (), 1)
        each.step()
        set_gradients(own, (), 2)
        each.step()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights, resumed, strict=True))
    again = copy.deepcopy(other)
    again.step()

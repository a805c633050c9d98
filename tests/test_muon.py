"""Muon: its step against PyTorch's own Muon, and which weights get it."""

import pytest
import torch

from model import create_model
from training.muon import Muon, MuonWithAuxAdam, newton_schulz


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

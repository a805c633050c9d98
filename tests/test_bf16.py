"""bf16 keeps a picture's brightness, and so its PSNR; the network that is given stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ROOT, Doubled
from torch import nn

from dataset.demo import make_demo_set
from dataset.testset import open_test_set
from evaluation.inference import NetworkUpscaler
from evaluation.metrics import measure
from model.bf16 import fitted_to_bf16, rounded
from model.checkpoint import load_net
from model.ops import FP32Conv2d

pytestmark = pytest.mark.usefixtures("one_thread")


def test_bf16_costs_the_shipped_weights_less_than_a_hundredth_of_a_decibel(tmp_path):
    make_demo_set(tmp_path, [2])
    pairs = [pair.read() for pair in open_test_set(tmp_path, 2).pairs]
    net = load_net(ROOT / "checkpoint/x2/cfsrcnn_x2.pth")
    psnr = {}
    for precision in ("fp32", "bf16"):
        upscale = NetworkUpscaler(net, 2, precision=precision)
        psnr[precision] = np.mean([measure(upscale(lr), hr, 2).psnr for hr, lr in pairs])
    assert abs(psnr["bf16"] - psnr["fp32"]) < 0.01


def test_the_copy_is_the_same_function_of_bf16_weights(golden_net):
    net = golden_net("x2")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fitted = fitted_to_bf16(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    for conv in fitted.modules():
        if isinstance(conv, nn.Conv2d) and not isinstance(conv, FP32Conv2d) and conv.in_channels > 3:
            assert torch.equal(conv.weight, conv.weight.bfloat16().float())
    lr = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sr, expected = fitted(lr, 2), net(lr, 2)
    assert 0 < (sr - expected).abs().max() < 0.02 * expected.abs().max()


def test_rounded_kernels_keep_their_sums():
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    lost, plain = ((each - weight).sum((2, 3)).abs().mean() for each in (rounded(weight), weight.bfloat16()))
    assert lost < 0.1 * plain
    assert torch.equal(rounded(torch.zeros(2, 2, 1, 1)), torch.zeros(2, 2, 1, 1))


def test_a_network_of_somebody_else_and_a_filter_of_zeros_are_taken_too(golden_net):
    lr = np.full((9, 9, 3), 100, np.uint8)
    net = golden_net("x2")
    net.frb.feus[2].weight.data[5] = 0
    for each in (net, Doubled()):
        exact = NetworkUpscaler(each, 2).to_float(lr)
        np.testing.assert_allclose(
            NetworkUpscaler(each, 2, precision="bf16").to_float(lr), exact, atol=0.05 * np.abs(exact).max()
        )

"""What evaluation/complexity.py counts is what the layers do, and stands beside the paper's Table X."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from evaluation.complexity import count, count_cfsrcnn
from model.cfsrcnn import CFSRCNN


@pytest.mark.parametrize(("scale", "parameters"), [(2, 1_310_336), (3, 1_494_976), (4, 1_458_048)])
def test_the_count_is_that_of_hooks_on_every_layer(scale, parameters):
    net, seen = CFSRCNN(scale).eval(), []
    net.cb.merge = False  # the merged upsampler is a function, which no hook sees
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, _, out: seen.append((out.numel(), layer.weight[0].numel())))
    with torch.inference_mode():
        net(torch.zeros(1, 3, 5, 6), scale)
    counted = count_cfsrcnn(scale, merged=False).scaled(30)
    assert counted.macs == sum(values * weights for values, weights in seen)
    assert counted.activations == sum(values for values, _ in seen)
    assert counted.parameters == parameters


def test_merging_saves_one_pass_through_the_upsampler():
    reference, merged = count_cfsrcnn(2, merged=False), count_cfsrcnn(2)
    assert reference.macs - merged.macs == 64 * 256 * 9 * 77 * 77
    assert reference.activations - merged.activations == 256 * 77 * 77


def test_the_papers_figure_is_one_patch_with_the_upsampler_once():
    assert f"{count_cfsrcnn(2).macs / 1e9:.2f}" == "11.08"


def test_the_cost_grows_with_the_pixels_of_any_network():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))
    net.forward = lambda x, scale: nn.Sequential.forward(net, x)
    small, large = count(net, 2, 6, 7), count(net, 2, 12, 21)
    assert small.scaled(12 * 21) == large
    assert small.macs == 42 * (8 * 27 + 8 * 3 * 16) and small.activations == 42 * (8 + 12)


def test_the_command_prints_the_table_and_writes_json(command, tmp_path):
    outcome = command("-m", "benchmarks.complexity", "--out", tmp_path / "complexity.json")
    assert outcome.code == 0 and "| x2 | merged | 1,310,336 | 11.077 |" in outcome.out
    assert "1200K parameters, 11.08G" in outcome.out and "1,199,744" in outcome.out
    written = json.loads((tmp_path / "complexity.json").read_text())
    sr = {scale: each["sr_1280x720"]["merged"]["macs"] / 1e9 for scale, each in written["scales"].items()}
    assert sr == pytest.approx({"x2": 430.439, "x3": 305.437, "x4": 270.180}, abs=1e-3)
    assert written["parameters_multi_scale"] == 1_938_112
    assert len(written["about_the_paper"]) == 3 and any("halved" in line for line in written["how_counted"])

"""The network is the authors': outputs, training steps and sizes; and it keeps the promises of its docstrings."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import GOLDEN, difference
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.errors import InputError
from inference.tiling import receptive_field
from model.cfsrcnn import CB, CFSRCNN, Net
from model.ops import FP32Conv2d, MeanShift, UpsampleBlock, nhwc_pixel_shuffle

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = [("x2", 2), ("x3", 3), ("x4", 4), ("multi", 2), ("multi", 3), ("multi", 4)]
RELATIVE = 1e-5  # of the largest value


@pytest.fixture(scope="module")
def golden():
    """Inputs, outputs and training figures of the authors' network on the golden weights."""
    with np.load(GOLDEN / "network.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_outputs_are_the_authors(golden_net, golden, kind, scale):
    prefix = "multi_" if kind == "multi" else ""
    with torch.no_grad():
        sr = golden_net(kind)(golden["x2_input" if prefix else f"x{scale}_input"], scale)
    assert difference(sr, golden[f"{prefix}x{scale}_output"]) < RELATIVE


def test_five_training_steps_are_the_authors(golden_net, golden):
    net = golden_net("x2").double()  # in float32 the last bits, which hang on the number of threads, grow step by step
    lr, hr = golden["train_input"].double(), golden["train_target"].double()
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    adam = torch.optim.Adam(weights, 1e-4)
    losses, norms = [], []
    for _ in range(5):
        loss = nn.functional.mse_loss(net(lr, 2), hr)
        adam.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(weights, 10)))
        adam.step()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(golden["train_losses"].tolist(), rel=1e-3)
    assert norms == pytest.approx(golden["train_grad_norms"].tolist(), rel=1e-3)


@pytest.mark.parametrize(("scale", "count"), [(2, 1_310_336), (3, 1_494_976), (4, 1_458_048)])
def test_the_number_of_trainable_parameters_is_the_papers(scale, count):
    assert sum(weight.numel() for weight in Net(scale=scale).parameters() if weight.requires_grad) == count


def test_there_are_46_layers_and_only_the_upsampler_has_biases():
    layers = {name: layer for name, layer in Net(scale=2).named_modules() if isinstance(layer, nn.Conv2d)}
    layers = {name: layer for name, layer in layers.items() if "shifter" not in name}
    assert len(layers) == 46
    assert [name for name, layer in layers.items() if layer.bias is not None] == ["cb.upsample.up.body.0"]


def test_the_mean_shift_is_frozen_and_undoes_itself():
    image = torch.linspace(0, 1, 3 * 5 * 7).view(1, 3, 5, 7)
    sub, add = MeanShift(sub=True), MeanShift(sub=False)
    assert torch.allclose(sub(image)[0, :, 0, 0], image[0, :, 0, 0] - torch.tensor([0.4488, 0.4371, 0.4040]))
    assert torch.allclose(add(sub(image)), image, atol=1e-6)
    assert not any(weight.requires_grad for weight in (*sub.parameters(), *add.parameters()))


@pytest.mark.parametrize("sub", [True, False])
def test_the_mean_shift_equals_the_authors_convolution(sub):
    shift, image = MeanShift(sub=sub), torch.linspace(0, 1, 3 * 5 * 7).view(1, 3, 5, 7)
    for x in (image, image.contiguous(memory_format=torch.channels_last), image.bfloat16()):
        assert torch.equal(shift(x), shift.shifter(x))
    assert shift.state_dict().keys() == {"shifter.weight", "shifter.bias"}


def test_loaded_weights_that_scale_as_well_are_applied_as_the_convolution():
    shift, image = MeanShift(), torch.linspace(0, 1, 3 * 5 * 7).view(1, 3, 5, 7)
    shift.load_state_dict({"shifter.weight": 2 * torch.eye(3).view(3, 3, 1, 1), "shifter.bias": torch.ones(3)})
    assert torch.allclose(shift(image), 2 * image + 1) and torch.allclose(copy.deepcopy(shift)(image), 2 * image + 1)
    shift.load_state_dict(MeanShift().state_dict())
    assert shift.only_shifts and torch.equal(shift(image), MeanShift()(image))


@pytest.mark.parametrize("factor", [2, 3])
def test_the_nhwc_pixel_shuffle_equals_pytorchs(factor):
    x = torch.arange(2 * 5 * factor**2 * 3 * 4, dtype=torch.float64).view(2, 5 * factor**2, 3, 4)
    ours, theirs = (x.contiguous(memory_format=torch.channels_last).requires_grad_() for _ in range(2))
    shuffled, expected = nhwc_pixel_shuffle(ours, factor), nn.functional.pixel_shuffle(theirs, factor)
    assert torch.equal(shuffled, expected)
    assert shuffled.is_contiguous(memory_format=torch.channels_last)
    for each in (shuffled, expected):
        each.mul(x.new_tensor(3)).square().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert ours.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_on_cuda_the_largest_map_stays_channels_last(scale):
    """With tensors that have a CUDA device and no values, so that it needs no GPU."""
    seen = {}
    with FakeTensorMode(), torch.device("cuda"):
        upsample = UpsampleBlock(8, scale)
        for name, layer in upsample.named_modules():
            if isinstance(layer, nn.PixelShuffle):
                layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        x = torch.empty(2, 8, 5, 6).contiguous(memory_format=torch.channels_last)
        out = upsample.forward_sum(x, x)
    assert out.shape == (2, 8, 5 * scale, 6 * scale) and len(seen) == (2 if scale == 4 else 1)
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in seen.values())


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_the_merged_upsampler_equals_the_reference(golden_net, golden, monkeypatch, kind, scale):
    net, results = golden_net(kind), []
    for merge in (True, False):
        monkeypatch.setattr(CB, "merge", merge)
        with torch.no_grad():
            results.append(net(golden["x2_input"], scale))
    assert difference(*results) < RELATIVE


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_the_merged_upsampler_has_the_gradients_of_the_reference(golden_net, golden, monkeypatch, kind, scale):
    net, lr = golden_net(kind).double(), golden["x2_input"][:1].double()  # or else rounding turns ReLUs over
    gradients = []
    for merge in (True, False):
        monkeypatch.setattr(CB, "merge", merge)
        net.zero_grad()
        net(lr, scale).square().mean().backward()
        gradients.append({name: each.grad for name, each in net.named_parameters() if each.grad is not None})
    merged, reference = gradients
    assert merged.keys() == reference.keys() and len(reference) == (49 if scale == 4 else 47)
    for name, gradient in reference.items():
        assert difference(merged[name], gradient) < 1e-9, name


def test_a_forward_pass_does_not_change_its_input(golden_net, golden):
    lr = golden["x2_input"].clone()
    net = golden_net("x2")
    with torch.inference_mode():
        first, second = net(lr), net(lr)
    assert torch.equal(lr, golden["x2_input"]) and torch.equal(first, second)


def test_the_first_and_last_layers_stay_float32_under_bf16(golden_net, golden):
    net, seen = golden_net("x2"), {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | MeanShift):
            layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.dtype}))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        sr = net(golden["x2_input"])
    kept = {name for name, dtype in seen.items() if dtype == torch.float32}
    assert kept == {"sub_mean", "frb.conv", "add_mean"} and sr.dtype == torch.float32
    assert {dtype for name, dtype in seen.items() if name not in kept} == {torch.bfloat16}


def test_a_float32_convolution_takes_bf16_and_follows_its_weights():
    layer, x = FP32Conv2d(3, 2, 1), torch.linspace(0, 1, 48).view(1, 3, 4, 4)
    assert torch.equal(layer(x.bfloat16()), layer(x.bfloat16().float()))
    assert layer.double()(x).dtype == torch.float64


def test_channels_last_gives_the_same_output(golden_net, golden):
    net, lr = golden_net("x2"), golden["x2_input"]
    with torch.no_grad():
        plain = net(lr)
        last = net.to(memory_format=torch.channels_last)(lr.contiguous(memory_format=torch.channels_last))
    assert difference(last, plain) < RELATIVE


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_an_sr_pixel_sees_27_lr_pixels_to_each_side_at_x2_and_26_at_x3_and_x4(golden_net, kind, scale):
    assert receptive_field(golden_net(kind), scale) == {2: 27, 3: 26, 4: 26}[scale]


def test_finding_the_receptive_field_leaves_the_network_as_it_is(golden_net):
    net = golden_net("x2")
    before = copy.deepcopy(net.state_dict())
    receptive_field(net, 2)
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_single_scale_network_refuses_another_scale():
    net, lr = CFSRCNN(2), torch.zeros(1, 3, 4, 4)
    assert net(lr).shape == net(lr, 2).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="for scale 2, not 3"):
        net(lr, 3)


@pytest.mark.parametrize("scale", [None, 0, 5])
def test_a_multi_scale_network_needs_one_of_its_scales(scale):
    with pytest.raises(ValueError, match="needs a scale of 2, 3 or 4"):
        CFSRCNN(0, multi_scale=True)(torch.zeros(1, 3, 4, 4), scale)


@pytest.mark.parametrize("scale", [0, 1, 5, 8])
def test_other_scales_are_refused(scale):
    with pytest.raises(InputError, match="knows the scales 2, 3 and 4"):
        CFSRCNN(scale)


def test_groups_are_refused(expect_error, tmp_path):
    with pytest.raises(InputError, match="no grouped convolutions"):
        Net(scale=2, multi_scale=False, group=2)
    expect_error("--group 2 must be 1", "train.py", "--group", 2, "--ckpt_dir", tmp_path, "--device", "cpu")

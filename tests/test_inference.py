"""Upscaling: tiles join to the whole image, the self-ensemble is the mean of eight, misuse is a clear error."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from conftest import difference, sample_image
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from common.errors import InputError
from inference import tiling
from inference.tiling import receptive_field
from inference.upscaler import BicubicUpscaler, NetworkUpscaler, to_uint8
from model.cfsrcnn import CFSRCNN

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def net_at(golden_net):
    """`net_at("x2")`: the network on golden weights, which are of He scale, built once."""
    built = {}
    return lambda kind: built.setdefault(kind, golden_net(kind))


def both_ways(net: nn.Module, scale: int, lr: np.ndarray, tile: int | str) -> tuple[np.ndarray, np.ndarray]:
    whole = NetworkUpscaler(net, scale, tile="off").to_float(lr)
    return NetworkUpscaler(net, scale, tile=tile).to_float(lr), whole


# --- tiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "scale", "tile", "height", "width"),
    [
        ("x2", 2, 16, 19, 75),
        ("x2", 2, 17, 70, 18),
        ("x2", 2, 17, 50, 61),
        ("x2", 2, 40, 45, 50),
        ("x2", 2, 16, 64, 16),
        ("x3", 3, 40, 18, 57),
        ("x4", 4, 40, 57, 18),
        ("multi", 3, 40, 18, 57),
    ],
)
def test_tiles_join_to_the_whole_image(net_at, kind, scale, tile, height, width):
    lr = sample_image("astronaut.png", height, width)
    tiled, whole = both_ways(net_at(kind), scale, lr, tile)
    assert tiled.shape == (height * scale, width * scale, 3) and tiled.dtype == np.float32
    assert difference(tiled, whole) < 1e-5
    assert np.array_equal(to_uint8(tiled), to_uint8(whole))


def test_a_halo_one_pixel_short_would_show(net_at, monkeypatch):
    found = tiling.receptive_field_radius
    monkeypatch.setattr(tiling, "receptive_field_radius", lambda *args: found(*args) - 1)
    tiled, whole = both_ways(net_at("x2"), 2, sample_image("astronaut.png", 19, 75), 16)
    assert not np.array_equal(tiled, whole)


def test_an_image_within_one_tile_is_not_cut(net_at, monkeypatch):
    monkeypatch.setattr(tiling, "receptive_field_radius", lambda *args: pytest.fail("no halo is needed"))
    for tile in (20, "auto", "off"):
        assert NetworkUpscaler(net_at("x2"), 2, tile=tile)(sample_image("coffee.png", 12, 20)).shape == (24, 40, 3)


@pytest.mark.parametrize("scale", [2, 4])
def test_automatic_tiles_join_when_memory_is_short(net_at, monkeypatch, scale):
    """Tiles of 64 LR pixels for the first stage, and within them of 16 for the second."""
    monkeypatch.setattr(tiling, "CPU_BUDGET", 1)
    monkeypatch.setattr(tiling, "REFINE_SIDE", 16 * scale)
    tiled, whole = both_ways(net_at(f"x{scale}"), scale, sample_image("astronaut.png", 40, 70), "auto")
    assert difference(tiled, whole) < 1e-5
    assert np.array_equal(to_uint8(tiled), to_uint8(whole))


@pytest.mark.parametrize(("tile", "height", "width"), [(16, 50, 75), (16, 40, 19), ("auto", 150, 70)])
def test_tiles_in_batches_join_to_the_whole_image(net_at, monkeypatch, tile, height, width):
    """As on a GPU, where small tiles go through both stages several at once."""
    net, batches = net_at("x2"), []
    monkeypatch.setattr(tiling, "BATCHING", ("cpu",))
    monkeypatch.setattr(tiling, "CPU_BUDGET", 100 << 20)
    watched = [
        part.register_forward_pre_hook(lambda _, args: batches.append(len(args[0]))) for part in (net.eb, net.frb)
    ]
    lr = sample_image("astronaut.png", height, width)
    tiled = NetworkUpscaler(net, 2, tile=tile).to_float(lr)
    for hook in watched:
        hook.remove()
    assert max(batches) > 1
    whole = NetworkUpscaler(net, 2, tile="off").to_float(lr)
    assert difference(tiled, whole) < 1e-5
    assert np.array_equal(to_uint8(tiled), to_uint8(whole))


class LookLeft(nn.Module):
    """The mean of each LR pixel and the `left` ones before it: a field that is not symmetric."""

    def __init__(self, left: int):
        super().__init__()
        self.left = left

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        x = avg_pool2d(pad(x, (self.left, 0)), (1, self.left + 1), stride=1)
        return interpolate(x, scale_factor=scale, mode="nearest")


def test_the_receptive_field_is_found_whatever_its_form():
    assert [receptive_field(LookLeft(left), 2) for left in (0, 1, 40, 100)] == [0, 1, 40, 100]


def test_any_networks_tiles_join():
    lr = sample_image("chelsea.png", 33, 150)
    for left in (5, 70):
        tiled, whole = both_ways(LookLeft(left), 3, lr, 16)
        assert np.array_equal(tiled, whole)


class Forgetting(nn.Module):
    """Two stages; keeps the shapes of what the first sees, and how many of its maps are alive when it begins anew."""

    def __init__(self):
        super().__init__()
        self.made: list = []
        self.alive: list[int] = []
        self.shapes: list[tuple[int, ...]] = []

    def extract(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.shapes.append(tuple(x.shape))
        self.alive.append(sum(each() is not None for each in self.made))
        maps = x + 1, x - 1
        self.made += map(weakref.ref, maps)
        return maps

    def refine(self, deep: torch.Tensor, first: torch.Tensor, scale: int) -> torch.Tensor:
        return interpolate(deep + first, scale_factor=scale, mode="nearest")

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return self.refine(*self.extract(x), scale)


def test_the_maps_of_a_tile_are_gone_before_the_next_ones_are_made():
    net = Forgetting()
    NetworkUpscaler(net, 2, tile=40)(sample_image("chelsea.png", 40, 120))
    assert net.alive == [0, 0, 0]


def test_all_tiles_are_of_one_size_and_none_is_a_small_rest():
    net = Forgetting()
    NetworkUpscaler(net, 2, tile=100)(sample_image("chelsea.png", 102, 205))
    assert net.shapes == [(1, 3, 51, 69)] * 6  # 102 = 51 + 51, and 205 = 69 + 69 + 67, where the last takes 2 more


class MinusMean(nn.Module):
    """Subtracts the mean of the whole image, so each output depends on every input."""

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return interpolate(x - x.mean((2, 3), keepdim=True), scale_factor=scale, mode="nearest")


def test_a_network_that_sees_the_whole_image_is_refused_with_tiles_and_works_without(monkeypatch):
    lr = sample_image("rocket.jpg", 20, 40)
    with pytest.raises(InputError, match=r"receptive field .* covers the whole image .* leave the tile size at auto"):
        NetworkUpscaler(MinusMean(), 2, tile=16)(lr)
    monkeypatch.setattr(tiling, "CPU_BUDGET", 1000)  # tiles of 64 pixels
    expected = np.repeat(np.repeat(lr / 255 - (lr / 255).mean((0, 1)), 2, 0), 2, 1)
    for tile in ("off", "auto"):
        assert np.abs(NetworkUpscaler(MinusMean(), 2, tile=tile).to_float(lr) - expected).max() < 1e-6


def test_a_network_that_sees_the_whole_image_needs_the_memory_for_it(monkeypatch):
    monkeypatch.setattr(tiling, "available_memory", lambda _: 1_000_000)
    with pytest.raises(
        InputError, match=r"so 40x20 pixels are computed in one piece, .* 1\.00 MB are free: use a smaller"
    ):
        NetworkUpscaler(MinusMean(), 2)(sample_image("rocket.jpg", 20, 40))


# --- 16 bits and floats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [16, "off"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("self_ensemble", [False, True])
def test_16_bit_and_float_images_keep_their_depth(net_at, tile, precision, self_ensemble):
    lr = sample_image("rocket.jpg", 20, 40)
    exact = NetworkUpscaler(net_at("x2"), 2, tile=tile, self_ensemble=self_ensemble).to_float(lr)
    upscale = NetworkUpscaler(net_at("x2"), 2, "cpu", precision, tile, self_ensemble=self_ensemble)
    deep = upscale(lr.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16 and len(np.unique(deep)) > 256
    assert np.abs(deep - np.round(exact.clip(0, 1) * np.float32(65535))).max() <= 1  # lr / 255 and lr * 257 / 65535
    real = upscale(lr.astype(np.float32) / 255)
    assert real.dtype == np.float32 and np.array_equal(real, exact.clip(0, 1))


def test_16_bit_output_is_the_float_output_rounded(net_at):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 24, 3), np.uint16)
    upscale = NetworkUpscaler(net_at("x2"), 2, tile=16)
    expected = np.round(upscale.to_float(deep).clip(0, 1) * np.float32(65535))
    assert np.array_equal(upscale(deep), expected.astype(np.uint16))


# --- self-ensemble --------------------------------------------------------------------------------------------------


def dihedral(image: np.ndarray) -> list[np.ndarray]:
    """The 8 dihedral transforms of an image: four rotations by 90 degrees, each also flipped."""
    return [np.rot90(each, quarters).copy() for each in (image, image[:, ::-1]) for quarters in range(4)]


def undo_dihedral(images: list[np.ndarray]) -> list[np.ndarray]:
    back = [np.rot90(image, -(number % 4)) for number, image in enumerate(images)]
    return back[:4] + [image[:, ::-1] for image in back[4:]]


def test_the_self_ensemble_is_the_mean_over_eight_dihedral_transforms(net_at):
    lr = sample_image("astronaut.png", 9, 14)
    one, ensemble = NetworkUpscaler(net_at("x2"), 2), NetworkUpscaler(net_at("x2"), 2, self_ensemble=True)
    eight = undo_dihedral([one.to_float(each) for each in dihedral(lr)])
    assert difference(ensemble.to_float(lr), np.mean(eight, 0)) < 1e-5
    assert difference(eight[0], eight[3]) > 1e-2  # or else the mean would show nothing


def test_the_self_ensemble_commutes_with_dihedral_transforms(net_at):
    lr = sample_image("astronaut.png", 9, 14)
    ensemble = NetworkUpscaler(net_at("x2"), 2, self_ensemble=True)
    upright = ensemble.to_float(lr)
    for turned in undo_dihedral([ensemble.to_float(each) for each in dihedral(lr)]):
        assert difference(turned, upright) < 1e-5


@pytest.fixture
def counted_net(net_at):
    """The x2 network, and the batches that go through its last part."""
    net, batches = net_at("x2"), []
    hook = net.frb.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    yield net, batches
    hook.remove()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_on_a_gpu_the_self_ensemble_is_two_batches_of_four(counted_net, monkeypatch, dtype):
    net, batches = counted_net
    lr = sample_image("astronaut.png", 12, 21)
    lr = {"uint8": lr, "uint16": lr.astype(np.uint16) * 257, "float32": lr / np.float32(255)}[np.dtype(dtype).name]
    ensemble = NetworkUpscaler(net, 2, self_ensemble=True)
    one_by_one, exact = ensemble(lr), ensemble.to_float(lr)
    assert batches == [1] * 16
    monkeypatch.setattr(tiling, "BATCHING", ("cpu",))
    batches.clear()
    found, in_batches = ensemble(lr), ensemble.to_float(lr)
    assert batches == [4] * 4
    assert difference(in_batches, exact) < 1e-5
    assert found.dtype == dtype and found.shape == (24, 42, 3)
    assert abs(found.astype(float) - one_by_one).max() <= (1e-5 if dtype == np.float32 else 1)


@pytest.mark.parametrize("reason", ["memory", "tiles", "out of memory"])
def test_where_four_are_too_many_the_self_ensemble_is_one_by_one(counted_net, monkeypatch, reason):
    net, batches = counted_net
    lr = sample_image("astronaut.png", 12, 41)
    tile = 40 if reason == "tiles" else "off"
    ensemble = NetworkUpscaler(net, 2, tile=tile, self_ensemble=True)
    expected = ensemble.to_float(lr)
    batches.clear()
    monkeypatch.setattr(tiling, "BATCHING", ("cpu",))
    if reason == "memory":
        needed = 4 * 12 * 41 * 64 * 4 * (tiling.EXTRACT_MAPS + tiling.REFINE_MAPS * 4)
        monkeypatch.setattr(tiling, "CPU_BUDGET", needed - 1)
    elif reason == "out of memory":
        refine = type(net).refine

        def fail_for_four(self, deep, first, scale):
            if len(deep) > 1:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return refine(self, deep, first, scale)

        monkeypatch.setattr(type(net), "refine", fail_for_four)
    found = ensemble.to_float(lr)
    assert max(batches) <= 2 and difference(found, expected) < 1e-5
    if reason != "tiles":
        assert batches == [1] * 8 and np.array_equal(found, expected)
    else:
        assert len(batches) >= 8


def test_the_self_ensemble_takes_tiles():
    lr = sample_image("astronaut.png", 19, 40)
    plain, tiled = (NetworkUpscaler(LookLeft(3), 2, tile=tile, self_ensemble=True).to_float(lr) for tile in ("off", 16))
    assert np.array_equal(plain, tiled)


# --- what comes out -------------------------------------------------------------------------------------------------


class Same(nn.Module):
    """Forgets to upscale."""

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return x


@pytest.mark.parametrize("tile", ["off", 16])
def test_an_output_of_the_wrong_size_is_a_clear_error(tile):
    with pytest.raises(InputError, match=r"not \(1, 3, \d+, 60\): it does not upscale by 3$"):
        NetworkUpscaler(Same(), 3, tile=tile)(sample_image("coffee.png", 12, 20))


def test_bf16_runs_on_the_cpu_and_is_close(net_at):
    lr = sample_image("astronaut.png", 12, 20)
    exact, short = (NetworkUpscaler(net_at("x2"), 2, precision=each).to_float(lr) for each in ("fp32", "bf16"))
    assert short.dtype == np.float32 and 1e-6 < difference(short, exact) < 0.05


def test_the_output_is_uint8_by_the_protocol(net_at):
    lr = sample_image("astronaut.png", 12, 20)
    sr = NetworkUpscaler(net_at("x2"), 2).to_float(lr)
    for protocol in ("paper", "rounded"):
        result = NetworkUpscaler(net_at("x2"), 2, protocol=protocol)(lr)
        assert result.dtype == np.uint8 and np.array_equal(result, to_uint8(sr, protocol))
    assert not np.array_equal(to_uint8(sr), to_uint8(sr, "rounded"))


def test_an_image_that_numpy_only_views_is_taken_and_left_as_it_is(net_at):
    lr = sample_image("astronaut.png", 12, 20)
    upscale, view = NetworkUpscaler(net_at("x2"), 2), lr[::-1, ::-1]
    view.flags.writeable = False
    assert np.array_equal(upscale(view), upscale(view.copy())) and np.array_equal(view[::-1, ::-1], lr)


def test_both_upscalers_have_the_same_interface():
    lr = sample_image("coffee.png", 5, 7)
    for upscale in (BicubicUpscaler(3), NetworkUpscaler(CFSRCNN(3), 3)):
        assert upscale.scale == 3 and upscale(lr).shape == (15, 21, 3) and upscale(lr).dtype == np.uint8

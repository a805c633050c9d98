"""A GPU that runs out of memory gets smaller tiles, and maps of any width may pass between the stages."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import Doubled, sample_image
from torch import Tensor, nn

from common.errors import InputError
from inference import tiling
from inference.upscaler import NetworkUpscaler

pytestmark = pytest.mark.usefixtures("one_thread")


class Narrow(Doubled):
    """Says that it is out of memory for images of more than `most` pixels to a side, as a small GPU would."""

    def __init__(self, most: int):
        torch.manual_seed(0)
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, x: Tensor, scale: int) -> Tensor:
        self.seen.append(max(x.shape[2:]))
        if x.dtype == torch.float32 and max(x.shape[2:]) > self.most:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return super().forward(x, scale)


def test_the_tile_is_halved_until_it_fits_whatever_else_takes_memory_then(monkeypatch, capsys):
    lr = sample_image("astronaut.png", 300, 280)
    expected = NetworkUpscaler(Narrow(1000), 2).to_float(lr)
    net = Narrow(100)
    upscale = NetworkUpscaler(net, 2)
    monkeypatch.setattr(tiling, "available_memory", lambda device: 1 << 40 if not net.seen else 1 << 20)
    np.testing.assert_allclose(upscale.to_float(lr), expected, rtol=1e-5, atol=1e-5)
    said = re.findall(r"going on with tiles of (\d+) pixels\n", capsys.readouterr().err)
    assert said == ["150", "75"]
    upscale(lr)
    assert not capsys.readouterr().err  # the size that fits is kept


def test_a_batch_of_tiles_that_does_not_fit_is_taken_apart(monkeypatch, capsys):
    class Crowded(Narrow):
        def forward(self, x: Tensor, scale: int) -> Tensor:
            if x.dtype == torch.float32 and len(x) > 1:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return super().forward(x, scale)

    monkeypatch.setattr(tiling, "BATCHING", ("cpu",))
    lr = sample_image("astronaut.png", 300, 280)
    expected = NetworkUpscaler(Narrow(1000), 2).to_float(lr)
    np.testing.assert_allclose(NetworkUpscaler(Crowded(1000), 2, tile=150).to_float(lr), expected, rtol=1e-5, atol=1e-5)
    assert capsys.readouterr().err.splitlines() == ["the GPU is out of memory: going on with tiles of 75 pixels"]


def test_no_memory_for_the_least_tile_is_a_clear_error():
    with pytest.raises(InputError, match=r"too little free memory .* use the CPU"):
        NetworkUpscaler(Narrow(20), 2)(sample_image("astronaut.png", 200, 200))


def test_two_stages_may_pass_maps_of_any_number_of_channels():
    class TwoStageModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.deep, self.first = nn.Conv2d(3, 12, 5, padding=2), nn.Conv2d(3, 7, 1)
            self.last = nn.Conv2d(19, 12, 3, padding=1)

        def extract(self, lr: Tensor) -> tuple[Tensor, Tensor]:
            return self.deep(lr), self.first(lr)

        def refine(self, deep: Tensor, first: Tensor, scale: int | None = None) -> Tensor:
            return nn.functional.pixel_shuffle(self.last(torch.cat([deep, first], 1)), 2)

        def forward(self, lr: Tensor, scale: int) -> Tensor:
            return self.refine(*self.extract(lr), scale)

    lr = sample_image("astronaut.png", 60, 50)
    whole = NetworkUpscaler(TwoStageModel(), 2, tile="off").to_float(lr)
    np.testing.assert_allclose(NetworkUpscaler(TwoStageModel(), 2, tile=16).to_float(lr), whole, rtol=1e-5, atol=1e-6)

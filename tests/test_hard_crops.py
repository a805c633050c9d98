"""`--hard_crops`: crops in which bicubic interpolation misses most come more often, the same from every source."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from test_patches import assert_equal_streams, coordinate_images, random_pairs

from dataset.hard_crops import ErrorTable
from dataset.hdf5 import TrainingImages
from dataset.imresize import imresize
from dataset.patches import PatchSampler


def half_flat(scale: int = 2) -> TrainingImages:
    """An image whose left half is flat and whose right half is noise."""
    hr = np.full((48 * scale, 96 * scale, 3), 128, np.uint8)
    hr[:, 48 * scale :] = np.random.default_rng(0).integers(0, 256, (48 * scale, 48 * scale, 3))
    return TrainingImages([hr], {scale: [imresize(hr, Fraction(1, scale))]})


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_hard_crops_lie_where_bicubic_misses(scale):
    def fraction_of_noise(candidates: int) -> float:
        batch = next(PatchSampler(half_flat(scale), 16, 300, seed=0, hard_crops=candidates, hide=True))
        return (batch.hr.std((1, 2, 3)) > 0.05).float().mean().item()

    assert fraction_of_noise(4) > 0.85 > 0.7 > fraction_of_noise(1)


def test_the_table_has_the_errors_of_whole_blocks():
    images = half_flat()
    table = ErrorTable(images.hr, images.lr[2], 2, hide=True)
    error = np.abs(imresize(images.lr[2][0], 2).astype(int) - images.hr[0]).sum(2)
    corner = np.array([[[0, 0], [8, 40], [32, 80]]])
    expected = [error[2 * y : 2 * y + 32, 2 * x : 2 * x + 32].sum() for y, x in corner[0]]
    assert table.crop_errors(np.array([0]), corner, 16)[0] == pytest.approx(np.maximum(expected, 1e-3))


def test_one_candidate_draws_the_same_crops_as_without_the_flag():
    plain, one = (PatchSampler(coordinate_images(2), 4, 9, seed=3, **flags) for flags in ({}, {"hard_crops": 1}))
    assert_equal_streams(plain, one)


def test_hard_crops_are_the_same_from_host_and_device_and_after_resuming():
    host, device = (
        PatchSampler(random_pairs(2, 3, 4), 5, 6, seed=1, on_device=on_device, hard_crops=3, hide=True)
        for on_device in (False, True)
    )
    assert_equal_streams(host, device)
    resumed = PatchSampler(random_pairs(2, 3, 4), 5, 6, seed=9, hard_crops=3, hide=True)
    resumed.load_state_dict(host.state_dict())
    assert torch.equal(next(host).hr, next(resumed).hr)


def test_images_smaller_than_a_block_can_be_drawn():
    images = coordinate_images(2, sizes=[(3, 3), (5, 4)])
    assert next(PatchSampler(images, 3, 8, seed=0, hard_crops=4, hide=True)).lr.shape == (8, 3, 3, 3)

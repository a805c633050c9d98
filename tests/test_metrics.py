"""Measuring is the authors': on their sibling network's published SR images it gives the published results."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import GOLDEN, sample_image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from common.errors import InputError
from dataset.images import read_rgb
from evaluation.metrics import compute_scores, psnr, rgb_to_y, ssim
from inference.upscaler import BicubicUpscaler, to_uint8

BUTTERFLY = GOLDEN / "butterfly"
EXPECTED = json.loads((BUTTERFLY / "expected.json").read_text())


def hr_at(scale: int) -> np.ndarray:
    """The HR image at a scale; 256 is a multiple of 4 as of 2, so x4 has that of x2."""
    return read_rgb(BUTTERFLY / f"img_003_SRF_{2 if scale == 4 else scale}_HR.png")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_golden_pairs_have_their_psnr_and_ssim(scale):
    sr = read_rgb(BUTTERFLY / f"img_003_SRF_{scale}_SR.png")
    quality = compute_scores(sr, hr_at(scale), scale)
    assert quality.psnr == pytest.approx(EXPECTED[f"x{scale}"]["psnr"], abs=1e-4)
    assert quality.ssim == pytest.approx(EXPECTED[f"x{scale}"]["ssim"], abs=1e-5)


def test_truncation_gives_the_authors_image_byte_for_byte_and_rounding_does_not():
    sr = np.load(BUTTERFLY / "x4_SR_float_top_left_64.npy").transpose(1, 2, 0)  # 3xHxW -> HxWx3
    png = read_rgb(BUTTERFLY / "img_003_SRF_4_SR.png")[:64, :64]
    assert np.array_equal(to_uint8(sr, "paper"), png)
    assert np.mean(to_uint8(sr, "rounded") != png) > 0.3


def test_the_protocols_truncate_or_round_and_clamp():
    sr = np.array([-3, -0.4, 0.4, 0.6, 100.5, 254.6, 255, 256, 1000], np.float32) / 255
    assert to_uint8(sr).tolist() == [0, 0, 0, 0, 100, 254, 255, 255, 255]
    assert to_uint8(sr, "rounded").tolist() == [0, 0, 0, 1, 100, 255, 255, 255, 255]
    assert to_uint8(sr).dtype == np.uint8
    for protocol in ("paper", "rounded"):
        assert torch.equal(to_uint8(torch.from_numpy(sr), protocol), torch.from_numpy(to_uint8(sr, protocol)))


def test_measuring_changes_no_input():
    sr, hr = sample_image("coffee.png", 30, 40), sample_image("chelsea.png", 30, 40)
    copies = sr.copy(), hr.copy()
    compute_scores(sr, hr, 2)
    assert np.array_equal(sr, copies[0]) and np.array_equal(hr, copies[1])


def test_luma_goes_from_16_to_235_in_whole_numbers():
    colors = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert rgb_to_y(colors).tolist() == [[16, 235, 81, 145, 41]]


@pytest.mark.parametrize("crop", [2, 3, 4])
def test_as_many_border_pixels_as_the_scale_do_not_count(crop):
    hr = sample_image("astronaut.png", 32, 36)
    sr = np.zeros_like(hr)
    inside = (slice(crop, -crop), slice(crop, -crop))
    sr[inside] = hr[inside]
    assert compute_scores(sr, hr, crop).psnr == math.inf
    assert compute_scores(sr, hr, crop - 1).psnr < 40


def test_ssim_is_scikit_images():
    a, b = (rgb_to_y(sample_image(name, 61, 47)) for name in ("astronaut.png", "coffee.png"))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    for noisy in (b, np.clip(a + np.sin(np.arange(61 * 47)).reshape(61, 47) * 9, 16, 235)):
        assert ssim(a, noisy) == pytest.approx(structural_similarity(a, noisy, **settings), abs=1e-9)


def test_psnr_is_scikit_images_on_y_and_on_rgb():
    hr, sr = sample_image("rocket.jpg", 40, 50), sample_image("rocket.jpg", 40, 50, top=101)
    quality, inside = compute_scores(sr, hr, 4), (slice(4, -4), slice(4, -4))
    y = peak_signal_noise_ratio(rgb_to_y(hr)[inside], rgb_to_y(sr)[inside], data_range=255)
    assert quality.psnr == pytest.approx(y, abs=1e-9)
    assert quality.psnr_rgb == pytest.approx(peak_signal_noise_ratio(hr[inside], sr[inside]), abs=1e-9)


def test_equal_images_have_infinite_psnr_and_an_ssim_of_one():
    image = sample_image("chelsea.png", 20, 20)
    quality = compute_scores(image, image, 2)
    assert (quality.psnr, quality.psnr_rgb) == (math.inf, math.inf) and quality.ssim == pytest.approx(1, abs=1e-12)
    assert psnr(np.zeros(4), np.full(4, 255.0)) == 0


@pytest.mark.parametrize("shape", [(24, 30), (30, 24)])
def test_images_of_two_sizes_are_an_error(shape):
    with pytest.raises(InputError, match=f"SR is {shape[1]}x{shape[0]} but HR 24x24"):
        compute_scores(np.zeros((*shape, 3), np.uint8), np.zeros((24, 24, 3), np.uint8), 2)


def test_images_smaller_than_the_ssim_window_are_an_error():
    small, enough = np.zeros((16, 18, 3), np.uint8), np.zeros((17, 18, 3), np.uint8)
    with pytest.raises(
        InputError, match="18x16 is too small to measure: without a border of 3 pixels, at least 11x11 must remain"
    ):
        compute_scores(small, small, 3)
    assert compute_scores(enough, enough, 3).ssim == pytest.approx(1)


@pytest.mark.parametrize(("scale", "figures"), [(2, (27.4298, 0.91493)), (3, (24.0380, 0.82145)), (4, None)])
def test_the_bicubic_baseline_has_its_figures(scale, figures):
    lr, upscale = read_rgb(BUTTERFLY / f"img_003_SRF_{scale}_LR.png"), BicubicUpscaler(scale)
    sr = upscale(lr)
    assert np.array_equal(sr, upscale(lr)) and sr.dtype == np.uint8 and sr.shape == hr_at(scale).shape
    if figures:
        quality = compute_scores(sr, hr_at(scale), scale)
        assert (quality.psnr, quality.ssim) == pytest.approx(figures, abs=5e-5)


@pytest.mark.parametrize("rows", [11, 13, 30, 55])
def test_large_images_are_measured_in_strips_with_the_same_result(monkeypatch, rows):
    hr = sample_image("astronaut.png", 60, 40)
    sr = sample_image("astronaut.png", 60, 40, 101)
    whole = compute_scores(sr, hr, 2)
    monkeypatch.setattr("evaluation.metrics.STRIP_PIXELS", rows * 36)
    strips = compute_scores(sr, hr, 2)
    assert (strips.psnr, strips.psnr_rgb) == (whole.psnr, whole.psnr_rgb) and strips.ssim == pytest.approx(
        whole.ssim, abs=1e-12
    )

"""PSNR and SSIM as the authors compute them, for training-time validation, the benchmark and the reports alike.

On the authors' published SR images this gives their results to every printed digit (tests/test_metrics.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from common.errors import InputError

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
STRIP_PIXELS = 1 << 21  # pixels at once; larger images are processed in strips, with the same result


@dataclass(frozen=True)
class Scores:
    """`psnr` (dB) and `ssim` on the Y channel, as in the paper's tables; `psnr_rgb` (dB) over the three channels."""

    psnr: float
    ssim: float
    psnr_rgb: float


def rgb_to_y(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma, 16 to 235, rounded to integers: uint8 HxWx3 -> float64 HxW."""
    y = rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16
    return np.floor(y + 0.5)


def compute_scores(sr: np.ndarray, hr: np.ndarray, crop_border: int) -> Scores:
    """Compares SR with HR, uint8 HxWx3 of the same size, ignoring `crop_border` pixels (the scale) at each border.

    Raises `InputError` if the sizes differ or what remains is smaller than the 11x11 window of the SSIM.
    """
    if sr.shape != hr.shape:
        raise InputError(f"SR is {sr.shape[1]}x{sr.shape[0]} but HR {hr.shape[1]}x{hr.shape[0]}: they must be one size")
    height, width = hr.shape[0] - 2 * crop_border, hr.shape[1] - 2 * crop_border
    if min(height, width) < SSIM_WINDOW:
        raise InputError(
            f"an image of {hr.shape[1]}x{hr.shape[0]} is too small to measure: without a border of {crop_border} pixels, at "
            f"least {SSIM_WINDOW}x{SSIM_WINDOW} must remain"
        )
    sr, hr = (image[crop_border : crop_border + height, crop_border : crop_border + width] for image in (sr, hr))
    errors, errors_rgb, scores, windows = 0.0, 0.0, [], []
    rows = max(SSIM_WINDOW, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        sr_strip, hr_strip = (image[top : top + rows + SSIM_WINDOW - 1] for image in (sr, hr))
        sr_y, hr_y = rgb_to_y(sr_strip), rgb_to_y(hr_strip)
        errors += _sum_squared_error(sr_y[:rows], hr_y[:rows])
        errors_rgb += _sum_squared_error(sr_strip[:rows].astype(np.float64), hr_strip[:rows].astype(np.float64))
        if len(sr_y) >= SSIM_WINDOW:
            scores.append(ssim(sr_y, hr_y))
            windows.append(len(sr_y) - SSIM_WINDOW + 1)
    mean_score = scores[0] if len(scores) == 1 else float(np.average(scores, weights=windows))
    return Scores(_decibels(errors / (height * width)), mean_score, _decibels(errors_rgb / hr.size))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of float arrays with peak 255; infinite if they are equal."""
    return _decibels(_sum_squared_error(a, b) / a.size)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity (Wang et al. 2004) of float64 HxW arrays, 0 to 255: Gaussian window, valid region only."""
    kernel = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)
    edge = SSIM_WINDOW // 2

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(x, cv2.CV_64F, kernel, kernel)[edge:-edge, edge:-edge]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    score = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(score.mean())


def _sum_squared_error(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of squared differences; exact for integers, in any order of summation."""
    return float(((a - b) ** 2).sum())


def _decibels(mse: float) -> float:
    return float(10 * np.log10(255**2 / mse)) if mse else float("inf")

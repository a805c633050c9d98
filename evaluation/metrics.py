"""PSNR and SSIM as the authors measure: the one place for training-time validation, the benchmark and the reports.

On the authors' published SR images this gives their figures to every printed digit (tests/test_metrics.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from common.errors import InputError

PROTOCOLS = ("paper", "rounded")
Pixels = TypeVar("Pixels", np.ndarray, Tensor)
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
BAND = 1 << 21  # pixels that are measured at once: larger images go in bands, to the same figures


@dataclass(frozen=True)
class Quality:
    """`psnr` (dB) and `ssim` on the Y channel, as in the paper's tables; `psnr_rgb` (dB) over the three channels."""

    psnr: float
    ssim: float
    psnr_rgb: float


def to_uint8(sr: Pixels, protocol: str = "paper") -> Pixels:
    """SR in [0, 1], any shape -> uint8: times 255 in float32, clamped, then truncated ("paper") or rounded ("rounded").

    An array or a tensor, the same comes back; a tensor where it lies, so that a GPU hands over a quarter of the bytes.
    """
    if isinstance(sr, np.ndarray):
        return to_uint8(torch.from_numpy(np.require(sr, requirements=["C", "W"])), protocol).numpy()
    levels = (sr.float() * 255).clamp_(0, 255)
    return (levels.round_() if protocol == "rounded" else levels).to(torch.uint8)


def rgb_to_y(rgb: np.ndarray) -> np.ndarray:
    """Luma of BT.601, 16 to 235, rounded to whole numbers: uint8 HxWx3 -> float64 HxW."""
    y = rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16
    return np.floor(y + 0.5)


def measure(sr: np.ndarray, hr: np.ndarray, crop: int) -> Quality:
    """Compares SR with HR, uint8 HxWx3 of one size, leaving out `crop` (the scale) pixels at each border.

    Raises `InputError` where the sizes differ or less than the 11x11 window of the SSIM is left.
    """
    if sr.shape != hr.shape:
        raise InputError(f"SR is {sr.shape[1]}x{sr.shape[0]} but HR {hr.shape[1]}x{hr.shape[0]}: they must be one size")
    height, width = hr.shape[0] - 2 * crop, hr.shape[1] - 2 * crop
    if min(height, width) < SSIM_WINDOW:
        raise InputError(
            f"an image of {hr.shape[1]}x{hr.shape[0]} is too small to measure: {SSIM_WINDOW} pixels must remain"
        )
    sr, hr = (image[crop : crop + height, crop : crop + width] for image in (sr, hr))
    errors, errors_rgb, scores, windows = 0.0, 0.0, [], []
    rows = max(SSIM_WINDOW, BAND // width)
    for top in range(0, height, rows):
        sr_band, hr_band = (image[top : top + rows + SSIM_WINDOW - 1] for image in (sr, hr))
        sr_y, hr_y = rgb_to_y(sr_band), rgb_to_y(hr_band)
        errors += _squares(sr_y[:rows], hr_y[:rows])
        errors_rgb += _squares(sr_band[:rows].astype(np.float64), hr_band[:rows].astype(np.float64))
        if len(sr_y) >= SSIM_WINDOW:
            scores.append(ssim(sr_y, hr_y))
            windows.append(len(sr_y) - SSIM_WINDOW + 1)
    mean_score = scores[0] if len(scores) == 1 else float(np.average(scores, weights=windows))
    return Quality(_decibels(errors / (height * width)), mean_score, _decibels(errors_rgb / hr.size))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB for float arrays with peak 255; infinite where they are equal."""
    return _decibels(_squares(a, b) / a.size)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity (Wang et al. 2004) of float64 HxW arrays, 0 to 255: Gaussian window, valid part only."""
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


def _squares(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of squared differences; of whole numbers it is exact, in whatever order they are added."""
    return float(((a - b) ** 2).sum())


def _decibels(mse: float) -> float:
    return float(10 * np.log10(255**2 / mse)) if mse else float("inf")

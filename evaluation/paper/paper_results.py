"""The paper's own results, Tables IV to X, from the CSV files in `published/`. Nothing here is measured by us."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from common import SCALES

FOLDER = Path(__file__).parent / "published"
PAPER = "Tian et al., Coarse-to-Fine CNN for Image Super-Resolution, IEEE TMM 23 (2021)"


@dataclass(frozen=True)
class PaperScore:
    """PSNR in dB and SSIM as printed, with two and four decimals. SSIM is None if the paper gives none."""

    psnr: float
    ssim: float | None


def scores(test_set: str) -> dict[str, dict[int, PaperScore]]:
    """Tables IV to VIII: model -> scale -> `PaperScore` on Set5, Set14, B100, Urban100 or 720p, in the paper's order."""
    rows = {}
    for line in _lines("tables.csv"):
        if line["dataset"] == test_set:
            given = [scale for scale in SCALES if line[f"x{scale}_psnr"]]
            rows[line["model"]] = {scale: _score(line[f"x{scale}_psnr"], line[f"x{scale}_ssim"]) for scale in given}
    return rows


def runtime() -> dict[str, list[str]]:
    """Table IX: model -> seconds for HR images of 256, 512 and 1024 pixels a side at x2, as printed."""
    return {
        line["model"]: [line[f"hr_{side}"] for side in (256, 512, 1024)] for line in _lines("runtime_x2_seconds.csv")
    }


def complexity() -> dict[str, tuple[str, str]]:
    """Table X: model -> parameters in thousands and "Flops" in 10^9, as printed."""
    return {line["model"]: (line["parameters_k"], line["flops_g"]) for line in _lines("complexity_x2.csv")}


def _score(psnr: str, ssim: str) -> PaperScore:
    return PaperScore(float(psnr), float(ssim) if ssim else None)


def _lines(name: str) -> list[dict[str, str]]:
    with open(FOLDER / name, newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))

"""Results that outlast a run: each is one JSON file, used again as long as what it was measured on is the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.plain_json import parse_json
from evaluation.benchmark import Result
from evaluation.report import write_results

WHERE_ONLY = {"checkpoint", "device"}  # told in the file, but a moved file or another machine changes no result


@dataclass(frozen=True)
class Figures:
    """Mean PSNR (dB) and SSIM on Y over `images` images; `foreign_lr`: see `benchmark.Result`."""

    psnr: float
    ssim: float
    images: int
    foreign_lr: float


def kept_or_measured(path: Path, about: dict, measure: Callable[[], Result], fresh: bool) -> tuple[Figures, bool]:
    """The figures of `path` if it was measured on what `about` says, else (or if `fresh`) measured now and written there.

    The second value is true for kept figures. A file that cannot be read counts as none.
    """
    kept = None if fresh else _read(path, about)
    if kept is None:
        write_results(path, about, measure())
        figures = _read(path, about)
        assert figures is not None
        return figures, False
    return kept, True


def _read(path: Path, about: dict) -> Figures | None:
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        content = parse_json(path.read_bytes())
        if any(content[key] != value for key, value in about.items() if key not in WHERE_ONLY):
            return None
        psnr, ssim = (content["mean"][key] for key in ("psnr", "ssim"))
        psnr = math.inf if psnr is None else float(psnr)  # JSON has no infinity
        return Figures(psnr, float(ssim), len(content["images"]), float(content["foreign_lr"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None

"""What a benchmark run tells: the table on the screen, the one-line mean, and `results.json`. Measures nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

from common.errors import plain
from common.files import whole_file
from evaluation.benchmark import Result, Row

HEAD = ("PSNR", "SSIM", "RGB PSNR", "seconds")


def format_table(result: Result, baseline: Result | None = None) -> str:
    """A row per image and their mean: PSNR (dB) and SSIM on Y, PSNR (dB) on RGB, seconds; with `baseline` its PSNR and
    SSIM in front.
    """
    rows = [*result.rows, result.mean]
    width = max(12, *(len(plain(row.name)) for row in rows))
    before = f"{'bicubic PSNR':>14}{'SSIM':>9}" if baseline else ""
    lines = [f"{'image':<{width}}{before}" + "".join(f"{head:>10}" for head in HEAD)]
    others: list[Row | None] = [*baseline.rows, baseline.mean] if baseline else [None] * len(rows)
    for row, other in zip(rows, others, strict=True):
        if row is result.mean:
            lines.append("-" * len(lines[0]))
        front = f"{other.quality.psnr:14.2f}{other.quality.ssim:9.4f}" if other else ""
        q = row.quality
        lines.append(
            f"{plain(row.name):<{width}}{front}{q.psnr:10.2f}{q.ssim:10.4f}{q.psnr_rgb:10.2f}{row.seconds:10.2f}"
        )
    return "\n".join(lines)


def format_mean(what: str, result: Result) -> str:
    """The mean in one line, as tables of papers give it: "Set5 x2 cfsrcnn_x2: 37.65 dB / 0.9586 ..."."""
    quality = result.mean.quality
    return f"{what}: {quality.psnr:.2f} dB / {quality.ssim:.4f} on Y (RGB {quality.psnr_rgb:.2f} dB)"


def write_results(path: Path, about: dict, result: Result, baseline: Result | None = None) -> None:
    """`results.json`: `about` (model, checkpoint, scale, protocol, ...), each image's figures and the mean, unrounded."""
    content = {**about, "foreign_lr": result.foreign_lr, **_figures(result)}
    if baseline:
        content["bicubic"] = _figures(baseline)
    with whole_file(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(
            text + "\n", encoding="utf-8", errors="backslashreplace"
        )  # as JSON escapes what is no text


def _figures(result: Result) -> dict:
    def finite(row: Row) -> dict:  # JSON has no infinity: the PSNR of equal images becomes null
        return {key: None if value in (math.inf, -math.inf) else value for key, value in row.as_dict().items()}

    return {"images": [finite(row) for row in result.rows], "mean": finite(result.mean)}

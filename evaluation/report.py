"""Formats the results of a benchmark run: the table on stdout, the mean in one line, `results.json`. Measures nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

from common.errors import escape_unprintable
from common.files import atomic_write
from evaluation.evaluate import EvalResult, ImageResult

HEAD = ("PSNR", "SSIM", "RGB PSNR", "seconds")


def format_table(result: EvalResult, baseline: EvalResult | None = None) -> str:
    """A row per image and their mean: PSNR (dB) and SSIM on Y, PSNR (dB) on RGB, seconds; preceded by the PSNR and SSIM of
    `baseline` if given.
    """
    rows = [*result.rows, result.mean]
    width = max(12, *(len(escape_unprintable(row.name)) for row in rows))
    before = f"{'bicubic PSNR':>14}{'SSIM':>9}" if baseline else ""
    lines = [f"{'image':<{width}}{before}" + "".join(f"{head:>10}" for head in HEAD)]
    others: list[ImageResult | None] = [*baseline.rows, baseline.mean] if baseline else [None] * len(rows)
    for row, other in zip(rows, others, strict=True):
        if row is result.mean:
            lines.append("-" * len(lines[0]))
        front = f"{other.scores.psnr:14.2f}{other.scores.ssim:9.4f}" if other else ""
        q = row.scores
        lines.append(
            f"{escape_unprintable(row.name):<{width}}{front}{q.psnr:10.2f}{q.ssim:10.4f}{q.psnr_rgb:10.2f}{row.seconds:10.2f}"
        )
    return "\n".join(lines)


def format_mean(what: str, result: EvalResult) -> str:
    """The mean in one line, as in papers: "Set5 x2 cfsrcnn_x2: 37.65 dB / 0.9586 ..."."""
    mean = result.mean.scores
    return f"{what}: {mean.psnr:.2f} dB / {mean.ssim:.4f} on Y (RGB {mean.psnr_rgb:.2f} dB)"


def write_results(path: Path, metadata: dict, result: EvalResult, baseline: EvalResult | None = None) -> None:
    """`results.json`: `metadata` (model, checkpoint, scale, protocol, ...), scores of each image and their mean, unrounded."""
    content = {**metadata, "lr_mismatch": result.lr_mismatch, **_scores(result)}
    if baseline:
        content["bicubic"] = _scores(baseline)
    with atomic_write(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # the escapes are valid JSON


def _scores(result: EvalResult) -> dict:
    def finite(row: ImageResult) -> dict:  # JSON has no infinity: an infinite PSNR becomes null
        return {key: None if value in (math.inf, -math.inf) else value for key, value in row.as_dict().items()}

    return {"images": [finite(row) for row in result.rows], "mean": finite(result.mean)}

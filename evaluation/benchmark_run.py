"""A benchmark run as its user sees it: SR and HR pictures, `results.json` and `report.html` in a folder, the table on the
screen. What is measured stands in `evaluation/benchmark.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.files import folder_inside
from dataset.images import say_conversions, write_png
from dataset.testset import TestPair, TestSet
from evaluation.benchmark import evaluate
from evaluation.html_report import REPORT, write_report
from evaluation.inference import Upscale
from evaluation.report import format_mean, format_table, write_results


def run_benchmark(upscale: Upscale, test_set: TestSet, folder: Path, run: str, about: dict, baseline: bool) -> None:
    """Upscales and measures `test_set` into `folder`/RUN/SET/xSCALE, with bicubic beside if `baseline`, and says it all.

    `about`: what `results.json` says of the run; its "protocol" is also named on the screen.
    """
    top, folder = folder, folder / run / test_set.name / f"x{test_set.scale}"
    for kind in ("SR", "HR"):
        folder_inside(top, folder / kind)

    def keep(pair: TestPair, sr: np.ndarray, hr: np.ndarray) -> None:
        write_png(folder / "SR" / pair.sr_name, sr)
        write_png(folder / "HR" / f"{pair.hr_path.stem}.png", hr)

    result = evaluate(upscale, test_set, keep, bar=f"{test_set.name} x{test_set.scale}")
    write_results(folder / "results.json", about, result)  # whatever becomes of the report, the figures are kept
    bicubic = write_report(folder, about, test_set, result)
    if baseline:
        write_results(folder / "results.json", about, result, bicubic)
    print(format_table(result, bicubic if baseline else None))
    print(format_mean(f"{test_set.name} x{test_set.scale} {run}, protocol {about['protocol']}", result))
    if note := say_conversions((pair.hr_path.name, pair.hr_info) for pair in test_set.pairs):
        print(note)
    if result.foreign_lr:
        print(
            f"warning: {result.foreign_lr:.1%} of the LR values are not the benchmarks' resize of their HR: made with "
            "another tool, so these figures are not comparable with published ones"
        )
    print(f"SR images: {folder / 'SR'}")
    print(f"report: {folder / REPORT}")

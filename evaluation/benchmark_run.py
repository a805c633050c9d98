"""A benchmark run: SR and HR images, `results.json` and `report.html` in a folder, the table on stdout.

Measuring is in `evaluation/evaluate.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.files import make_dir_within
from dataset.benchmark_set import BenchmarkSet, ImagePair
from dataset.images import conversion_summary, write_png
from evaluation.evaluate import evaluate
from evaluation.html_report import REPORT, write_report
from evaluation.report import format_mean, format_table, write_results
from inference.upscaler import Upscale


def run_benchmark(
    upscale: Upscale, test_set: BenchmarkSet, folder: Path, run: str, metadata: dict, baseline: bool
) -> None:
    """Upscales and measures `test_set`, writes to `folder`/RUN/SET/xSCALE, prints the results; with `baseline` also bicubic's.

    `metadata`: the description of the run in `results.json`; its "protocol" is printed too.
    """
    top, folder = folder, folder / run / test_set.name / f"x{test_set.scale}"
    for kind in ("SR", "HR"):
        make_dir_within(top, folder / kind)

    def write_images(pair: ImagePair, sr: np.ndarray, hr: np.ndarray) -> None:
        write_png(folder / "SR" / pair.sr_name, sr)
        write_png(folder / "HR" / f"{pair.hr_path.stem}.png", hr)

    result = evaluate(upscale, test_set, write_images, bar=f"{test_set.name} x{test_set.scale}")
    write_results(folder / "results.json", metadata, result)  # before the report, which may fail
    bicubic = write_report(folder, metadata, test_set, result)
    if baseline:
        write_results(folder / "results.json", metadata, result, bicubic)
    print(format_table(result, bicubic if baseline else None))
    print(format_mean(f"{test_set.name} x{test_set.scale} {run}, protocol {metadata['protocol']}", result))
    if note := conversion_summary((pair.hr_path.name, pair.hr_info) for pair in test_set.pairs):
        print(note)
    if result.lr_mismatch:
        print(
            f"warning: {result.lr_mismatch:.1%} of the LR values are not the benchmarks' resize of their HR: made with "
            "another tool, so these results are not comparable with published ones"
        )
    print(f"SR images: {folder / 'SR'}")
    print(f"report: {folder / REPORT}")

"""Lays out Tables IV to X like the paper: its rows in its order, then ours. Measures nothing."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import SCALES
from common.errors import FailureLog, InputError, translate_access_errors
from common.files import parse_json
from common.tables import Table
from evaluation import complexity
from evaluation.cache import MeanScores
from evaluation.paper import paper_results
from evaluation.paper.discovery import SETS, BenchmarkInfo
from evaluation.paper.methods import ENSEMBLE, OURS

RUNTIME_COMMAND = "python -m benchmarks.inference --out {}"


@dataclass
class MeasuredRow:
    """One of our rows. `scores`: by (test set, scale). `paper_row`: the paper's row to compare with, if any."""

    label: str
    paper_row: str | None
    scores: dict[tuple[str, int], MeanScores] = field(default_factory=dict)

    def difference(self, benchmark: BenchmarkInfo, scale: int) -> float | None:
        """dB above the paper's row, from values rounded as printed; None if either is missing."""
        measured = self.scores.get((benchmark.name, scale))
        paper = paper_results.scores(benchmark.name).get(self.paper_row or "", {}).get(scale)
        if measured is None or paper is None or math.isinf(measured.psnr):
            return None
        return round(round(measured.psnr, 2) - paper.psnr, 2)


def quality_table(
    benchmark: BenchmarkInfo, rows: list[MeasuredRow], notes: list[str], scales: Sequence[int] = SCALES
) -> Table:
    """Table IV, V, VI, VII or VIII: PSNR/SSIM at each of `scales`, and for our rows the difference to the paper's in dB."""
    cells, records, values = [], [], []
    for model, printed in paper_results.scores(benchmark.name).items():
        if not printed.keys() & set(scales):
            continue
        of_paper = {scale: printed.get(scale) for scale in scales}
        cells.append([model, *map(_cell, of_paper.values()), *["-"] * len(scales)])
        records.append(_record(benchmark, model, "paper", of_paper, {}))
        values.append([*map(_psnr, of_paper.values()), *[None] * len(scales)])
    first_own_row = len(cells)
    for row in rows:
        scores = {scale: row.scores.get((benchmark.name, scale)) for scale in scales}
        differences = {scale: row.difference(benchmark, scale) for scale in scales}
        cells.append(
            [
                f"{row.label} (measured)",
                *(_cell(each) for each in scores.values()),
                *("-" if each is None else f"{each:+.2f}" for each in differences.values()),
            ]
        )
        records.append(_record(benchmark, row.label, "measured", scores, differences))
        values.append([*map(_psnr, scores.values()), *differences.values()])
    cells = [[benchmark.name if number == 0 else "", *row] for number, row in enumerate(cells)]
    head = [("Dataset", ""), ("Model", "")]
    head += [(f"x{scale}", "PSNR/SSIM") for scale in scales] + [(f"x{scale}", "dB to paper") for scale in scales]
    name = f"table{benchmark.number}_{benchmark.name.lower()}"
    which = " and ".join(", ".join(f"x{scale}" for scale in scales).rsplit(", ", 1))
    title = f"Table {benchmark.roman}. Average PSNR (dB) / SSIM for {which} upscaling on {benchmark.name}"
    meaning = "dB to paper: PSNR of a measured row minus that of the paper's row of the same method"
    with_ensemble = any(ENSEMBLE in row.label for row in rows)
    notes = [meaning + f" (self-ensemble: of {OURS})" * with_ensemble, *notes]
    return Table(name, title, head, cells, first_own_row, records, 2, notes, values)


def overview_table(
    rows: list[MeasuredRow],
    sets: Sequence[BenchmarkInfo] = SETS,
    scales: Sequence[int] = SCALES,
    notes: Sequence[str] = (),
) -> Table:
    """CFSRCNN alone, a line per test set and scale: the paper's result, then each of ours with the difference in dB."""
    cells, records = [], []
    for benchmark in sets:
        for scale in scales:
            paper = paper_results.scores(benchmark.name)[OURS][scale]
            cell, record = [benchmark.name, f"x{scale}", _cell(paper)], {"dataset": benchmark.name, "scale": scale}
            record |= {"paper_psnr": paper.psnr, "paper_ssim": paper.ssim}
            for row in rows:
                measured, difference = row.scores.get((benchmark.name, scale)), row.difference(benchmark, scale)
                cell.append(_cell(measured) + ("" if difference is None else f" ({difference:+.2f})"))
                record |= {f"{row.label} {key}": value for key, value in _numbers(measured).items()}
                record[f"{row.label} db"] = difference
            cells.append(cell)
            records.append(record)
    head = [("Dataset", ""), ("scale", ""), ("paper", ""), *((row.label, "(dB to paper)") for row in rows)]
    title = f"{OURS}: PSNR (dB) / SSIM of the paper and measured here"
    return Table("overview", title, head, cells, len(cells), records, 2, list(notes))


def runtime_table(measured: Path, failures: FailureLog) -> Table:
    """Table IX: seconds at x2. Our row is read from `measured`, written by `benchmarks.inference`, if it exists.

    A file that cannot be read is one of the `failures`.
    """
    columns = ("hr_256", "hr_512", "hr_1024")
    cells = [[model, *seconds] for model, seconds in paper_results.runtime().items()]
    values: list[Sequence[float | None]] = [[float(each) for each in row[1:]] for row in cells]
    first_own_row, command = len(cells), f"`{RUNTIME_COMMAND.format(shlex.quote(str(measured)))}`"
    notes = ["run times on other machines are not comparable with the paper's"]
    seconds: list[float] = []
    if measured.is_file():
        with failures.collect(), translate_access_errors(measured):
            try:
                content = parse_json(measured.read_bytes())["table9"]
                device = " ".join(str(content["device"]).split())
                seconds = [float(content[column]) for column in columns]
            except (ValueError, KeyError, TypeError, OverflowError):
                raise InputError(
                    f"{measured} has no run times for Table IX: remove it and make it with {command}"
                ) from None
    if seconds:
        cells.append([f"CFSRCNN (measured on {device})", *(f"{each:.4g}" for each in seconds)])
        values.append(seconds)
    else:
        cells.append(["CFSRCNN (measured)", "-", "-", "-"])
        values.append([None] * 3)
        notes.append(f"measure the run times of this machine with {command}")
    records = [
        {"model": row[0], "source": "paper" if number < first_own_row else "measured"}
        | {column: "" if cell == "-" else cell for column, cell in zip(columns, row[1:], strict=True)}
        for number, row in enumerate(cells)
    ]
    head = [("Model", ""), *((f"{side}x{side}", "seconds") for side in (256, 512, 1024))]
    return Table(
        "table9_runtime",
        "Table IX. Run time for HR images at x2",
        head,
        cells,
        first_own_row,
        records,
        1,
        notes,
        values,
    )


def complexity_table(counted: dict) -> Table:
    """Table X: parameters and "Flops" at x2; our rows are counted by `evaluation/complexity.py` on one 77x77 LR patch."""
    rows = [(model, "paper", *printed) for model, printed in paper_results.complexity().items()]
    first_own_row, x2 = len(rows), counted["scales"]["x2"]
    values = [[float(parameters), float(flops)] for _, _, parameters, flops in rows]
    for variant, what in (("merged", "upsampler merged"), ("reference", "reference")):
        macs = x2[f"lr_{complexity.PATCH}x{complexity.PATCH}"][variant]["macs"]
        label = f"CFSRCNN (counted, {what})"
        rows.append((label, "counted", f"{x2['parameters'] / 1000:.0f}", f"{macs / 1e9:.2f}"))
        values.append([x2["parameters"] / 1000, macs / 1e9])
    cells = [[model, f"{int(parameters):,}K", f"{flops}G"] for model, _, parameters, flops in rows]
    records = [dict(zip(("model", "source", "parameters_k", "flops_g"), row, strict=True)) for row in rows]
    title = "Table X. Complexity at x2"
    head = [("Methods", ""), ("Parameters", ""), ("Flops", "")]
    return Table(
        "table10_complexity", title, head, cells, first_own_row, records, 1, counted["about_the_paper"], values
    )


def _cell(each: paper_results.PaperScore | MeanScores | None) -> str:
    if each is None:
        return "-"
    return f"{each.psnr:.2f}/{'-' if each.ssim is None else format(each.ssim, '.4f')}"


def _psnr(each: paper_results.PaperScore | MeanScores | None) -> float | None:
    return None if each is None else each.psnr


def _record(benchmark: BenchmarkInfo, model: str, source: str, scores: dict, differences: dict) -> dict[str, object]:
    record: dict[str, object] = {"dataset": benchmark.name, "model": model, "source": source}
    for scale in scores:
        record |= {f"x{scale}_{key}": value for key, value in _numbers(scores[scale]).items()}
        record[f"x{scale}_db_to_paper"] = differences.get(scale)
    return record


def _numbers(each: paper_results.PaperScore | MeanScores | None) -> dict[str, float | None]:
    if each is None:
        return {"psnr": None, "ssim": None}
    return {"psnr": round(each.psnr, 4), "ssim": None if each.ssim is None else round(each.ssim, 6)}

"""Every table of the paper, ours beside theirs, in one command: finds, runs, keeps, and has the tables written.

`python -m evaluation.paper --checkpoints checkpoint --data dataset --out results` measures each checkpoint on each of the
paper's test sets, goes on where it stopped, and writes Tables IV to X to `results/` as Markdown, CSV, LaTeX and one HTML page.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.device import pick_device
from common.errors import plain, run_command
from common.files import make_folder, whole_file
from common.flags import Flags
from common.scales import SCALES
from dataset.testset import TestSet, open_test_set, scales_of
from evaluation import published
from evaluation.compare import parse_compare
from evaluation.complexity import count_all, scale_table
from evaluation.inventory import SETS, Checkpoint, KnownSet, find_checkpoints, find_sets, hash_files
from evaluation.kept import kept_or_measured
from evaluation.methods import ENSEMBLE, OURS, Bicubic, make_methods
from evaluation.metrics import PROTOCOLS
from evaluation.paper_tables import MeasuredRow, complexity_table, overview_table, quality_table, runtime_table
from evaluation.tables import Table, to_markdown, write_table
from evaluation.tables_html import write_page

TITLE = "The paper's tables, and ours beside them"
TestSets = dict[tuple[KnownSet, int], TestSet]  # by set and scale


def parse_flags() -> argparse.Namespace:
    """The flags of the command line."""
    parser = Flags(
        prog="python -m evaluation.paper",
        description="Measure every checkpoint on the paper's test sets and write its tables, ours beside theirs.",
    )
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoint"), help="a weight file or a folder of them"
    )
    parser.add_argument("--data", type=Path, default=Path("dataset"), help="the folder that holds Set5, Set14, ...")
    parser.add_argument("--out", type=Path, default=Path("results"), help="where tables and measured figures go")
    parser.add_argument(
        "--compare", type=parse_compare, action="append", default=[], help="NAME=FOLDER of SR pictures, SET/xSCALE/"
    )
    parser.add_argument("--no_self_ensemble", action="store_true", help="saves eight ninths of the time")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="paper", help="SR to 8 bits: truncated or rounded")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--fresh", action="store_true", help="measure again what --out holds already")
    return parser.parse_args()


def main() -> None:
    args = parse_flags()
    test_sets = open_sets(args.data)
    checkpoints, remarks = find_checkpoints(args.checkpoints)
    for remark in remarks:
        print(remark)
    if not test_sets:
        print(f"no test set of the paper is in {plain(str(args.data))}: docs/measuring.md says where to get them")
    make_folder(args.out)
    rows = measure_all(args, checkpoints, test_sets)
    counted = count_all()
    tables = [overview_table([row for row in rows if row.against == OURS])]
    tables += [quality_table(known, rows, notes(args, known, rows[0], checkpoints, test_sets)) for known in SETS]
    tables += [runtime_table(args.out / "inference.json"), complexity_table(counted), scale_table(counted)]
    for table in tables:
        write_table(table, args.out)
    told = about(args, checkpoints)
    with whole_file(args.out / "tables.md") as temporary:
        temporary.write_text(document(told, tables), encoding="utf-8", errors="backslashreplace")
    write_page(args.out / "report.html", TITLE, told, tables)
    print(f"wrote {args.out / 'report.html'}, tables.md and each table as .md, .csv and .tex beside it")


def open_sets(data: Path) -> TestSets:
    """Every test set of the paper that is there, at every scale it has, under the paper's name."""
    folders, found = find_sets(data), {}
    for known in SETS:
        if folder := folders.get(known.name):
            for scale in scales_of(folder):
                found[known, scale] = replace(open_test_set(folder, scale), name=known.name)
    return found


def measure_all(args: argparse.Namespace, checkpoints: list[Checkpoint], test_sets: TestSets) -> list[MeasuredRow]:
    """Our rows, bicubic first, with all that could be measured or was kept in `--out`/measured."""
    methods = make_methods(
        checkpoints,
        args.compare,
        list(test_sets.values()),
        pick_device(args.device),
        args.protocol,
        not args.no_self_ensemble,
    )
    rows = {Bicubic.label: MeasuredRow(Bicubic.label, Bicubic.against)}
    if not checkpoints:  # their rows stay, empty
        rows |= {label: MeasuredRow(label, OURS) for label in (OURS, OURS + ENSEMBLE)[: 2 - args.no_self_ensemble]}
    rows |= {method.label: MeasuredRow(method.label, method.against) for method in methods}
    for (known, scale), test_set in test_sets.items():
        test_set = replace(test_set, pairs=[replace(pair) for pair in test_set.pairs])  # pictures read are let go after
        files = [file for pair in test_set.pairs for file in (pair.hr_path, pair.lr_path) if file]
        what = {"test_set": known.name, "scale": scale, "test_set_sha256": hash_files(files)}
        for method in methods:
            if about := method.about(test_set):
                name = re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{known.name}_x{scale}_{about['method']}_{args.protocol}")
                path = args.out / "measured" / f"{name}.json"
                figures, kept = kept_or_measured(path, about | what, partial(method.measure, test_set), args.fresh)
                rows[method.label].figures[known.name, scale] = figures
                print(say(known, scale, rows[method.label], kept), flush=True)
    return list(rows.values())


def say(known: KnownSet, scale: int, row: MeasuredRow, kept: bool) -> str:
    """ "Set5 x2 CFSRCNN: 36.51 dB / 0.9531 (paper 37.79, -1.28)"."""
    figures, difference = row.figures[known.name, scale], row.difference(known, scale)
    line = f"{known.name} x{scale} {row.label}: {figures.psnr:.2f} dB / {figures.ssim:.4f}"
    if row.against and difference is not None:
        line += f" (paper {published.quality(known.name)[row.against][scale].psnr:.2f}, {difference:+.2f})"
    return line + ", kept" * kept


def notes(
    args: argparse.Namespace, known: KnownSet, bicubic: MeasuredRow, checkpoints: list[Checkpoint], test_sets: TestSets
) -> list[str]:
    """What is missing in the table of a test set and how to get it, and what makes its figures not comparable."""
    there = [scale for each, scale in test_sets if each == known]
    if not there:
        return [known.to_get(args.data)]
    told = []
    for scale in SCALES:
        if scale not in there:
            told.append(f"{known.name} in {args.data} has no x{scale}: `{known.command(args.data, scale)}`")
            continue
        figures = bicubic.figures[known.name, scale]
        if known.images not in (None, figures.images):
            told.append(f"{known.name} x{scale} here has {figures.images} images, not {known.images}: not comparable")
        if figures.foreign_lr:
            told.append(
                f"{figures.foreign_lr:.1%} of the LR values of {known.name} x{scale} are not the benchmarks' resize: made "
                "with another tool, so not comparable"
            )
        if not any(scale in checkpoint.scales for checkpoint in checkpoints):
            told.append(
                f"no checkpoint for x{scale} in {args.checkpoints}: `python train.py --scale {scale} "
                f"--ckpt_dir checkpoint/x{scale}`"
            )
    return told


def about(args: argparse.Namespace, checkpoints: list[Checkpoint]) -> list[str]:
    """What was measured and how: a few sentences, then a line for each checkpoint and each folder of pictures."""
    return [
        f"The paper: {published.PAPER}. Rows in bold are ours: measured by `python -m evaluation.paper`, protocol "
        f"{args.protocol}, float32. PSNR in dB and SSIM on the Y channel.",
        *(
            f"{each.label}: `{each.path}`, {', '.join(f'x{scale}' for scale in each.scales)}, SHA-256 `{each.sha256}`"
            for each in checkpoints
        ),
        *(f"{name}: SR pictures in `{folder}`" for name, folder in args.compare),
    ]


def document(told: list[str], tables: list[Table]) -> str:
    """All tables in one Markdown text, under what `about` tells."""
    first, *items = told
    head = [f"# {TITLE}\n\n{first}\n", *(f"- {item}" for item in items)]
    return "\n".join(head) + "\n\n" + "\n".join(map(to_markdown, tables))


if __name__ == "__main__":
    run_command(main)

"""Reproduces every table of the paper with our results added, in one command.

`python -m evaluation.paper --checkpoints checkpoint --data dataset --out results` measures each checkpoint on each of the
paper's test sets, reuses cached results, and writes Tables IV to X to `results/` as Markdown, CSV, LaTeX and one HTML page.
What cannot be measured, such as a damaged checkpoint or an incomplete test set, is listed at the end with exit code 2.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

from common import SCALES
from common.cli import CliParser
from common.device import pick_device
from common.errors import FailureLog, InputError, escape_unprintable, run_cli, translate_access_errors
from common.files import atomic_write, make_dir, named_path
from common.malloc import tune_malloc
from common.tables import Table, to_markdown, write_table
from dataset.benchmark_set import BenchmarkSet, available_scales, open_test_set
from dataset.sources import TEST_SETS, download_command
from evaluation.cache import MeanScores, get_or_compute, hash_test_set
from evaluation.compare import add_compare_flag
from evaluation.complexity import count_all, scale_table
from evaluation.evaluate import EvalResult, keep_decoded
from evaluation.paper import paper_results
from evaluation.paper.discovery import (
    PEER_EXAMPLES,
    SETS,
    BenchmarkInfo,
    Checkpoint,
    find_checkpoints,
    find_peers,
    find_sets,
    known_set,
    parse_set,
)
from evaluation.paper.methods import ENSEMBLE, OURS, Bicubic, Method, make_methods
from evaluation.paper.paper_tables import MeasuredRow, complexity_table, overview_table, quality_table, runtime_table
from evaluation.paper.tables_html import write_page
from inference.upscaler import PROTOCOLS

TITLE = "The paper's tables with our results"
ROUNDED = "networks are measured with `--protocol rounded`, but the paper truncates SR to 8 bits: not comparable with its rows"
TestSets = dict[tuple[BenchmarkInfo, int], BenchmarkSet]  # by set and scale


def parse_flags() -> argparse.Namespace:
    """The flags of the command line."""
    parser = CliParser(
        prog="python -m evaluation.paper",
        description="Measure every checkpoint on the paper's test sets and write the paper's tables with our results.",
    )
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoint"), help="a weight file or a folder of them"
    )
    parser.add_argument("--data", type=Path, default=Path("dataset"), help="folder that holds Set5, Set14, ...")
    parser.add_argument("--sets", type=parse_set, nargs="+", metavar="SET", help="only these, such as Set5 B100")
    parser.add_argument(
        "--scales", type=int, nargs="+", choices=SCALES, metavar="SCALE", help="only these, such as 2 4"
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for tables and cached results")
    add_compare_flag(parser)
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help=f"other networks: {PEER_EXAMPLES}")
    parser.add_argument("--no_self_ensemble", action="store_true", help="skip the self-ensemble: 9 times as fast")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="paper", help="SR to 8 bits: truncated or rounded")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--no_cache", action="store_true", help="ignore cached results in --out")
    parser.add_argument("--fresh", dest="no_cache", action="store_true", help=argparse.SUPPRESS)  # former name
    args = parser.parse_args()
    args.scales = [scale for scale in SCALES if scale in (args.scales or SCALES)]
    return args


def main() -> None:
    args, failures = parse_flags(), FailureLog()
    tune_malloc()
    sets = [benchmark for benchmark in SETS if benchmark in (args.sets or SETS)]
    test_sets = open_sets(args, sets, failures)
    checkpoints, remarks = find_checkpoints(args.checkpoints, failures)
    peers, more_remarks = find_peers(args.peers, failures) if args.peers else ([], [])
    for remark in remarks + more_remarks:
        print(remark)
    if not test_sets and not args.sets:
        get = download_command(" ".join(TEST_SETS), args.data, args.scales)
        print(escape_unprintable(f"none of the paper's test sets is in {args.data}: `{get}` downloads four of them"))
    make_dir(args.out)
    rows = measure_all(args, checkpoints, peers, test_sets, failures)
    counted = count_all()
    rounded = [ROUNDED] if args.protocol == "rounded" else []
    tables = [overview_table([row for row in rows if row.paper_row == OURS], sets, args.scales, rounded)]
    for benchmark in sets:
        remarks = rounded + notes(args, benchmark, rows[0], checkpoints, test_sets)
        tables.append(quality_table(benchmark, rows, remarks, args.scales))
    tables += [runtime_table(args.out / "inference.json", failures), complexity_table(counted), scale_table(counted)]
    for table in tables:
        write_table(table, args.out)
    header = header_lines(args, checkpoints + peers)
    with atomic_write(args.out / "tables.md") as temporary:
        temporary.write_text(render_markdown(header, tables), encoding="utf-8", errors="backslashreplace")
    write_page(args.out / "report.html", TITLE, header, tables)
    print(f"wrote {args.out / 'report.html'}, tables.md and each table as .md, .csv and .tex beside it")
    failures.raise_if_any("everything else is in the tables")


def open_sets(args: argparse.Namespace, sets: list[BenchmarkInfo], failures: FailureLog) -> TestSets:
    """Those of `sets` that exist, at those of --scales that exist, under the paper's names; incomplete ones are `failures`.

    So are missing ones that --sets names. Raises `InputError` if --data is itself a test set.
    """
    folders: dict[str, Path] = find_sets(args.data)
    if not folders and known_set(named_path(args.data).name):
        around = os.path.normpath(args.data / "..")
        raise InputError(f"--data {args.data} is a test set itself: name the folder around it, {around}")
    found: TestSets = {}
    for benchmark in sets:
        folder, scales = folders.get(benchmark.name), []
        with failures.collect():
            if folder is None:
                if args.sets:
                    raise InputError(benchmark.download_hint(args.data, args.scales))
                continue
            with translate_access_errors(folder):
                scales = [scale for scale in available_scales(folder) if scale in args.scales]
            if args.sets and not scales:
                wanted = " or ".join(f"x{scale}" for scale in args.scales)
                get = benchmark.command(args.data, *args.scales)
                raise InputError(f"{benchmark.name} in {args.data} has no {wanted}: `{get}`")
        for scale in scales:
            with failures.collect(), translate_access_errors(folder):
                found[benchmark, scale] = replace(open_test_set(folder, scale), name=benchmark.name)
    return found


def measure_all(
    args: argparse.Namespace,
    checkpoints: list[Checkpoint],
    peers: list[Checkpoint],
    test_sets: TestSets,
    failures: FailureLog,
) -> list[MeasuredRow]:
    """Our rows, bicubic first, with all results that could be measured or are cached in `--out`/measured."""
    left = {key: keep_decoded(test_set) for key, test_set in test_sets.items()}
    methods = make_methods(
        checkpoints,
        args.compare,
        list(left.values()),
        pick_device(args.device),
        args.protocol,
        not args.no_self_ensemble,
        peers,
    )
    rows = {Bicubic.label: MeasuredRow(Bicubic.label, Bicubic.paper_row)}
    if not checkpoints:  # empty rows
        rows |= {label: MeasuredRow(label, OURS) for label in (OURS, OURS + ENSEMBLE)[: 2 - args.no_self_ensemble]}
    rows |= {method.label: MeasuredRow(method.label, method.paper_row) for method in methods}
    for benchmark, scale in test_sets:
        test_set = left.pop((benchmark, scale))  # its images are freed before those of the next are read
        sha256 = None
        with failures.collect():
            sha256 = hash_test_set(test_set)
        for method in methods if sha256 else ():
            inputs = {"test_set": benchmark.name, "scale": scale, "test_set_sha256": sha256}
            if found := _measure(args, method, test_set, inputs, failures):
                rows[method.label].scores[benchmark.name, scale], cached = found
                print(format_result(benchmark, scale, rows[method.label], cached), flush=True)
            elif isinstance(method, Bicubic):
                break  # an unusable image, which every method would meet
    return list(rows.values())


def _measure(
    args: argparse.Namespace,
    method: Method,
    test_set: BenchmarkSet,
    inputs: dict,
    failures: FailureLog,
) -> tuple[MeanScores, bool] | None:
    """The scores of a method on a test set and whether they are from the cache; None if there are none or it fails."""

    def compute() -> EvalResult | None:
        with failures.collect():
            return method.measure(test_set)
        return None

    metadata = None
    with failures.collect():
        metadata = method.metadata(test_set)
    if metadata is None:
        return None
    name = f"{test_set.name}_x{test_set.scale}_{metadata['method']}_{args.protocol}"
    path = args.out / "measured" / f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', name)}.json"
    return get_or_compute(path, metadata | inputs, compute, args.no_cache)


def format_result(benchmark: BenchmarkInfo, scale: int, row: MeasuredRow, cached: bool) -> str:
    """ "Set5 x2 CFSRCNN: 36.51 dB / 0.9531 (paper 37.79, -1.28)"."""
    scores, difference = row.scores[benchmark.name, scale], row.difference(benchmark, scale)
    line = f"{benchmark.name} x{scale} {row.label}: {scores.psnr:.2f} dB / {scores.ssim:.4f}"
    if row.paper_row and difference is not None:
        line += f" (paper {paper_results.scores(benchmark.name)[row.paper_row][scale].psnr:.2f}, {difference:+.2f})"
    return line + ", cached" * cached


def notes(
    args: argparse.Namespace,
    benchmark: BenchmarkInfo,
    bicubic: MeasuredRow,
    checkpoints: list[Checkpoint],
    test_sets: TestSets,
) -> list[str]:
    """What is missing in the table of a test set and how to get it, and why results are not comparable."""
    available = [scale for each, scale in test_sets if each == benchmark]
    if not available:
        if benchmark.name in find_sets(args.data):
            which, get = ", ".join(f"x{scale}" for scale in args.scales), benchmark.command(args.data, *args.scales)
            return [f"{benchmark.name} in {args.data} could not be measured at {which}: `{get}`"]
        return [benchmark.download_hint(args.data, args.scales)]
    lines = []
    for scale in args.scales:
        if scale not in available:
            lines.append(f"{benchmark.name} in {args.data} has no x{scale}: `{benchmark.command(args.data, scale)}`")
            continue
        scores = bicubic.scores.get((benchmark.name, scale))
        if scores is None:
            lines.append(
                f"{benchmark.name} x{scale} in {args.data} could not be measured: `{benchmark.command(args.data, scale)}`"
            )
            continue
        if benchmark.images not in (None, scores.images):
            lines.append(
                f"{benchmark.name} x{scale} here has {scores.images} images, not {benchmark.images}: not comparable"
            )
        if scores.lr_mismatch:
            lines.append(
                f"{scores.lr_mismatch:.1%} of the LR values of {benchmark.name} x{scale} are not the benchmarks' resize: made "
                "with another tool, so not comparable"
            )
        if not any(scale in checkpoint.scales for checkpoint in checkpoints):
            folder = (args.checkpoints if args.checkpoints.is_dir() else Path("checkpoint")) / f"x{scale}"
            train = f"python train.py --scale {scale} --ckpt_dir {shlex.quote(str(folder))}"
            lines.append(f"no checkpoint for x{scale} in {args.checkpoints}: `{train}`")
    return lines


def header_lines(args: argparse.Namespace, checkpoints: list[Checkpoint]) -> list[str]:
    """What was measured and how: a few sentences, then a line for each checkpoint and each folder of SR images."""
    return [
        f"The paper: {paper_results.PAPER}. Rows in bold are measured by `python -m evaluation.paper`, protocol "
        f"{args.protocol}, float32. PSNR in dB and SSIM on the Y channel.",
        *(
            f"{each.label}: `{each.path}`, {', '.join(f'x{scale}' for scale in each.scales)}, SHA-256 `{each.sha256}`"
            for each in checkpoints
        ),
        *(f"{name}: SR images in `{folder}`" for name, folder in args.compare),
    ]


def render_markdown(header: list[str], tables: list[Table]) -> str:
    """All tables in one Markdown text, below `header`, the result of `header_lines`."""
    first, *items = header
    head = [f"# {TITLE}\n\n{first}\n", *(f"- {item}" for item in items)]
    return "\n".join(head) + "\n\n" + "\n".join(map(to_markdown, tables))


if __name__ == "__main__":
    run_cli(main)

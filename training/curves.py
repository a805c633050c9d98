"""Training curves: loss, learning rate and PSNR of one or more runs against steps and time, from their `log.jsonl`.

Command line: `python -m training.curves LOG... --out FILE.png` (or .svg, .pdf); each run has its own color and dashes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from common.cli import CliParser
from common.errors import InputError, escape_unprintable, run_cli, summarize_exception
from common.files import atomic_write, ensure_not_input, parse_json

# Okabe and Ito's palette, safe for color-blind readers; the dashes distinguish the runs in black and white
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (3, 2)), (0, (1, 1)))
MAX_STEPS = 10**15  # Matplotlib overflows on larger integers
MAX_INTERVALS = 5  # between the labels of an axis, which would run into each other
MARKERS = {"x2": "o", "x3": "^", "x4": "s"}
# suffix -> metadata for Matplotlib: without dates, for reproducible files
FORMATS = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@dataclass
class Run:
    """The log lines of one run, in order: `steps`, `hours` of training so far, `loss` and `lr`.

    `psnr`: scale -> line number -> dB, for the lines with a validation.
    """

    name: str
    steps: list[int] = field(default_factory=list)
    hours: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    psnr: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, entry: dict) -> None:
        """Appends a log line. Raises KeyError, TypeError, ValueError, AttributeError or OverflowError if it is malformed."""
        if abs(step := int(entry["step"])) > MAX_STEPS:
            raise ValueError(f"a step beyond {MAX_STEPS:.0e}")
        for scale, scores in entry.get("validation", {}).items():
            self.psnr.setdefault(scale, {})[len(self.steps)] = float(scores["psnr"])
        self.hours.append(float(entry["seconds"]) / 3600)
        self.loss.append(math.nan if entry["loss"] is None else float(entry["loss"]))  # null if all steps were skipped
        self.lr.append(float(entry["lr"]))
        self.steps.append(step)


def read_log(path: Path) -> list[Run]:
    """The runs in one `log.jsonl`, in order of first appearance. Raises `InputError` if it is missing, empty or malformed."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the log.jsonl in it")
    if not path.is_file():
        raise InputError(f"{path} does not exist: name a log.jsonl that train.py wrote to its --ckpt_dir")
    runs: dict[str, Run] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = parse_json(line)
            runs.setdefault(entry["run"], Run(escape_unprintable(str(entry["run"])))).add(entry)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else summarize_exception(error)
            raise InputError(f"{path}, line {number} is not a line of a training log ({what}): remove it") from None
    if not runs:
        raise InputError(f"{path} is empty: it gets a line at every --print_interval of the training")
    return list(runs.values())


def read_logs(paths: list[Path]) -> list[Run]:
    """The runs of all files. Runs that share a name are prefixed with their folder or, if they share that too, their file."""
    found = [(path, run) for path in paths for run in read_log(path)]
    names = [(run.name, f"{path.resolve().parent.name}/{run.name}", f"{path}: {run.name}") for path, run in found]
    taken = Counter(name for each in names for name in each)
    for (_, run), each in zip(found, names, strict=True):
        run.name = escape_unprintable(next((name for name in each if taken[name] == 1), each[-1]))
    return [run for _, run in found]


class PlainLogFormatter(LogFormatter):
    """Labels the same ticks as Matplotlib's, but as 0.03 instead of 3e-02."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw_curves(runs: list[Run]) -> Figure:
    """Rows of loss, learning rate and, if any run was validated, PSNR; against steps on the left and time on the right."""
    rows: list[tuple[str, Callable[[Axes, Sequence[float], Run, dict], object]]] = [
        ("loss (mean of the interval)", lambda axes, x, run, style: axes.plot(x, run.loss, **style)),
        ("learning rate", lambda axes, x, run, style: axes.plot(x, run.lr, **style)),
    ]
    if any(run.psnr for run in runs):
        rows.append(("validation PSNR on Y (dB)", _plot_psnr))
    unit, per_hour = _time_unit(max(hours for run in runs for hours in run.hours))
    figure = Figure(figsize=(9, 2.5 * len(rows) + 0.8), dpi=200, layout="constrained")
    grid = figure.subplots(len(rows), 2, sharex="col", sharey="row", squeeze=False)
    for number, run in enumerate(runs):
        style = {
            "color": COLORS[number % len(COLORS)],
            "linestyle": DASHES[(number + number // len(COLORS)) % len(DASHES)],  # other pairs for the next seven runs
            "linewidth": 1.4,
            "label": _literal(run.name),
        }
        style |= {"marker": ".", "markersize": 5} if len(run.steps) < 40 else {}
        for (_, plot), (left, right) in zip(rows, grid, strict=True):
            plot(left, run.steps, run, style)
            plot(right, [hours * per_hour for hours in run.hours], run, style)
    for (title, _), (left, _) in zip(rows, grid, strict=True):
        left.set_ylabel(title)
    grid[0, 0].set_yscale("log")
    grid[0, 0].yaxis.set_major_formatter(PlainLogFormatter())
    grid[0, 0].yaxis.set_minor_formatter(PlainLogFormatter())
    grid[1, 0].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    grid[1, 0].set_ylim(bottom=0)
    grid[-1, 0].set_xlabel("training steps")
    grid[-1, 1].set_xlabel(f"{unit} of training")
    grid[-1, 0].xaxis.set_major_formatter("{x:,.0f}")
    for axes, integer in zip(grid[-1], (True, False), strict=True):
        axes.xaxis.set_major_locator(MaxNLocator(MAX_INTERVALS, integer=integer, steps=[1, 2, 5, 10]))
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    lines = {line.get_label(): line for axes in grid[:, 0] for line in axes.get_lines()}
    figure.align_ylabels()
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=min(3, len(lines)), handlelength=4)
    return figure


def _time_unit(hours: float) -> tuple[str, int]:
    """The unit for an axis that ends at so many hours, and how many of it are an hour."""
    return ("hours", 1) if hours >= 1 else ("minutes", 60) if hours >= 1 / 30 else ("seconds", 3600)


def _plot_psnr(axes: Axes, x: Sequence[float], run: Run, style: dict) -> None:
    """One line per scale; markers distinguish the scales of a run that has several."""
    for scale, psnr in run.psnr.items():
        several = {"label": _literal(f"{run.name}, {scale}"), "marker": MARKERS.get(scale, "."), "markersize": 3}
        axes.plot([x[line] for line in psnr], list(psnr.values()), **style | (several if len(run.psnr) > 1 else {}))


def _literal(name: str) -> str:
    """A name escaped for Matplotlib, which takes text between two dollar signs for a formula."""
    return name.replace("$", r"\$")


def write_figure(figure: Figure, path: Path) -> None:
    """Writes PNG, SVG or PDF, by the suffix; the same bytes for the same curves."""
    with atomic_write(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "curves", "pdf.fonttype": 42}):
        figure.savefig(temporary, format=path.suffix.lower()[1:], metadata=FORMATS[path.suffix.lower()])


def main() -> None:
    parser = CliParser(
        prog="python -m training.curves", description="Draw loss, learning rate and PSNR of training runs."
    )
    parser.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="log.jsonl of a training run")
    parser.add_argument("--out", type=Path, required=True, help="image to write, .png, .svg or .pdf")
    args = parser.parse_args()
    if args.out.suffix.lower() not in FORMATS:
        raise InputError(f"--out {args.out} must end in {', '.join(FORMATS)}")
    ensure_not_input(args.out, args.logs)
    runs = read_logs(args.logs)
    write_figure(draw_curves(runs), args.out)
    print(f"wrote {args.out}: {', '.join(f'{run.name} ({run.steps[-1]:,.0f} steps)' for run in runs)}")


if __name__ == "__main__":
    run_cli(main)

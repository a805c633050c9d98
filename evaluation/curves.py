"""Training curves: loss, learning rate and PSNR of one or more runs against steps and hours, from their `log.jsonl`.

Command line: `python -m evaluation.curves LOG... --out FILE.png` (or .svg, .pdf); a run is told by its colour and its dashes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from common.errors import InputError, one_line, plain, run_command
from common.files import check_not_read, whole_file
from common.flags import Flags
from common.plain_json import parse_json

# Okabe and Ito's colours, which colour-blind readers tell apart; the dashes do it in black and white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (3, 2)), (0, (1, 1)))
MOST_STEPS = 10**15  # of a run; Matplotlib takes no whole number of any size
MARKS = {"x2": "o", "x3": "^", "x4": "s"}
FORMATS = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # metadata: the same run, the same file


@dataclass
class Run:
    """One run's lines in order: `steps`, `hours` of training until then, `loss` and `lr`.

    `psnr`: scale -> number of the line -> dB, for the lines with a validation.
    """

    name: str
    steps: list[int] = field(default_factory=list)
    hours: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    psnr: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, entry: dict) -> None:
        """Appends a line of the log; KeyError, TypeError, ValueError, AttributeError or OverflowError if it is not one."""
        if abs(step := int(entry["step"])) > MOST_STEPS:
            raise ValueError(f"a step beyond {MOST_STEPS:.0e}")
        for scale, figures in entry.get("validation", {}).items():
            self.psnr.setdefault(scale, {})[len(self.steps)] = float(figures["psnr"])
        self.hours.append(float(entry["seconds"]) / 3600)
        self.loss.append(math.nan if entry["loss"] is None else float(entry["loss"]))  # None: all steps were skipped
        self.lr.append(float(entry["lr"]))
        self.steps.append(step)


def read_log(path: Path) -> list[Run]:
    """The runs in one `log.jsonl`, in the order of their first lines. `InputError` if it is missing, empty or broken."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: name a log.jsonl that train.py wrote to its --ckpt_dir")
    runs: dict[str, Run] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = parse_json(line)
            runs.setdefault(entry["run"], Run(plain(str(entry["run"])))).add(entry)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else one_line(error)
            raise InputError(f"{path}, line {number} is no line of a training log ({what}): remove it") from None
    if not runs:
        raise InputError(f"{path} is empty: it gets a line at every --print_interval of the training")
    return list(runs.values())


def read_logs(paths: list[Path]) -> list[Run]:
    """The runs of all files. Where two have one name, the folder is put before it."""
    found = [(path, run) for path in paths for run in read_log(path)]
    names = [run.name for _, run in found]
    for path, run in found:
        if names.count(run.name) > 1:
            run.name = f"{path.resolve().parent.name}/{run.name}"
    return [run for _, run in found]


class PlainLogFormatter(LogFormatter):
    """Labels the ticks that Matplotlib would, with 0.03 in place of 3e-02."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw_curves(runs: list[Run]) -> Figure:
    """Loss, learning rate and, where a run was validated, PSNR in rows; against steps on the left, hours on the right."""
    rows: list[tuple[str, Callable[[Axes, Sequence[float], Run, dict], object]]] = [
        ("loss (mean of the interval)", lambda axes, x, run, style: axes.plot(x, run.loss, **style)),
        ("learning rate", lambda axes, x, run, style: axes.plot(x, run.lr, **style)),
    ]
    if any(run.psnr for run in runs):
        rows.append(("validation PSNR on Y (dB)", _plot_psnr))
    figure = Figure(figsize=(9, 2.5 * len(rows) + 0.8), dpi=200, layout="constrained")
    grid = figure.subplots(len(rows), 2, sharex="col", sharey="row", squeeze=False)
    for number, run in enumerate(runs):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": DASHES[number % len(DASHES)],
            "linewidth": 1.4,
            "label": _literal(run.name),
        }
        style |= {"marker": ".", "markersize": 5} if len(run.steps) < 40 else {}
        for (_, plot), (left, right) in zip(rows, grid, strict=True):
            plot(left, run.steps, run, style)
            plot(right, run.hours, run, style)
    for (title, _), (left, _) in zip(rows, grid, strict=True):
        left.set_ylabel(title)
    grid[0, 0].set_yscale("log")
    grid[0, 0].yaxis.set_major_formatter(PlainLogFormatter())
    grid[0, 0].yaxis.set_minor_formatter(PlainLogFormatter())
    grid[1, 0].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    grid[1, 0].set_ylim(bottom=0)
    grid[-1, 0].set_xlabel("training steps")
    grid[-1, 1].set_xlabel("hours of training")
    grid[-1, 0].xaxis.set_major_formatter("{x:,.0f}")
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    lines = {line.get_label(): line for axes in grid[:, 0] for line in axes.get_lines()}
    figure.align_ylabels()
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=min(3, len(lines)), handlelength=4)
    return figure


def _plot_psnr(axes: Axes, x: Sequence[float], run: Run, style: dict) -> None:
    """One line per scale; the marks tell the scales apart where a run has several."""
    for scale, psnr in run.psnr.items():
        several = {"label": _literal(f"{run.name}, {scale}"), "marker": MARKS.get(scale, "."), "markersize": 3}
        axes.plot([x[line] for line in psnr], list(psnr.values()), **style | (several if len(run.psnr) > 1 else {}))


def _literal(name: str) -> str:
    """A name as Matplotlib shows it, which takes what stands between two dollars for a formula."""
    return name.replace("$", r"\$")


def write_figure(figure: Figure, path: Path) -> None:
    """Writes PNG, SVG or PDF by the ending, the same bytes for the same curves."""
    with whole_file(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "curves", "pdf.fonttype": 42}):
        figure.savefig(temporary, format=path.suffix.lower()[1:], metadata=FORMATS[path.suffix.lower()])


def main() -> None:
    parser = Flags(
        prog="python -m evaluation.curves", description="Draw loss, learning rate and PSNR of training runs."
    )
    parser.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="log.jsonl of a training run")
    parser.add_argument("--out", type=Path, required=True, help="the picture, .png, .svg or .pdf")
    args = parser.parse_args()
    if args.out.suffix.lower() not in FORMATS:
        raise InputError(f"--out {args.out} must end in {', '.join(FORMATS)}")
    check_not_read(args.out, args.logs)
    runs = read_logs(args.logs)
    write_figure(draw_curves(runs), args.out)
    print(f"wrote {args.out}: {', '.join(f'{run.name} ({run.steps[-1]:,.0f} steps)' for run in runs)}")


if __name__ == "__main__":
    run_command(main)

"""Time to quality: what the runs listed in a JSON file took, by their logs, to reach given PSNRs; as Markdown tables.

Command line: `python -m training.records docs/records.json` prints the tables; `--update docs/records.md` writes them between
the two marker lines of that file, `--check docs/records.md` fails unless they are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import CliParser
from common.errors import InputError, error_context, run_cli, summarize_exception
from common.files import atomic_write, parse_json
from training.curves import read_log

BEGIN = "<!-- records: begin; written by python -m training.records -->"
END = "<!-- records: end -->"


@dataclass(frozen=True)
class Stage:
    """One run of train.py, `run` in the file `log`, or other work that took `seconds`; on CPU `threads` or on `gpus`.

    `after`: the stages that it builds on. `set5`: step -> PSNR (dB on Y) of the checkpoint of that step on Set5.
    """

    name: str
    scale: int
    command: str
    commit: str
    hardware: str
    log: str = ""
    run: str = ""
    seconds: float = 0.0
    threads: int = 0
    gpus: int = 0
    after: Sequence[str] = ()
    set5: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.threads) == bool(self.gpus):
            raise ValueError(f"stage {self.name} needs either threads or gpus")
        if bool(self.log) == bool(self.seconds):
            raise ValueError(f"stage {self.name} needs either log and run, or seconds")


@dataclass(frozen=True)
class Point:
    """A checkpoint of `stage`: its PSNR on Set5 in dB, and the total cost of training it, from random weights on.

    `core_hours`: hours times CPU threads. `gpu_minutes`: minutes times GPUs.
    """

    stage: Stage
    psnr: float
    core_hours: float
    gpu_minutes: float


class Records:
    """The points of a records file; the paths of logs in it are relative to the file.

    Raises `InputError` if the file or a log is missing or malformed, for unknown stages and cycles in `after`, and for steps
    without a line in the log.
    """

    def __init__(self, path: Path):
        try:
            content = parse_json(path.read_bytes())
            self._targets = {
                int(scale[1:]): [float(psnr) for psnr in each] for scale, each in content["targets"].items()
            }
            self._stages = {each["name"]: Stage(**each) for each in content["stages"]}
        except FileNotFoundError:
            raise InputError(f"{path} does not exist: name a records file, such as docs/records.json") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a records file ({summarize_exception(error)})") from None
        self._folder = path.parent
        self._points: list[Point] = []
        for stage in self._stages.values():
            with error_context(f"{path}, stage {stage.name}"):
                self._points += [self._point(stage, int(step), psnr) for step, psnr in stage.set5.items()]

    def markdown(self) -> str:
        """A table per scale: for each target the cheapest run on CPUs and the cheapest with GPUs; and the stages' commands."""
        commands = [
            f"- **{stage.name}**{', after ' * bool(stage.after)}{' and '.join(stage.after)}: `{stage.command}`"
            for stage in self._stages.values()
        ]
        return "\n\n".join([*map(self._table, self._targets), "\n".join(commands)])

    def _table(self, scale: int) -> str:
        lines = [
            f"| Set5 x{scale}, dB | core-hours | GPU minutes | measured | stage | hardware | commit | log |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for target in self._targets[scale]:
            reached = [each for each in self._points if each.stage.scale == scale and each.psnr >= target]
            on_cpu = sorted((each for each in reached if not each.gpu_minutes), key=lambda each: each.core_hours)
            on_gpu = sorted((each for each in reached if each.gpu_minutes), key=lambda each: each.gpu_minutes)
            best = [_row(target, each) for each in (*on_cpu[:1], *on_gpu[:1])]
            lines += best or [f"| {target:.2f} | not reached yet | | | | | | |"]
        return "\n".join(lines)

    def _point(self, stage: Stage, step: int, psnr: float) -> Point:
        core_hours = gpu_minutes = 0.0
        for name in self._lineage(stage.name):
            each = self._stages[name]
            seconds = self._seconds(each, step if each is stage else None)
            core_hours += seconds * each.threads / 3600
            gpu_minutes += seconds * each.gpus / 60
        return Point(stage, float(psnr), core_hours, gpu_minutes)

    def _lineage(self, name: str, below: tuple[str, ...] = ()) -> set[str]:
        """The stage of that name and all that it builds on."""
        if name not in self._stages:
            raise InputError(f"there is no stage {name}, which it comes after")
        if name in below:
            raise InputError("it comes after itself")
        return {name}.union(*(self._lineage(each, (*below, name)) for each in self._stages[name].after))

    def _seconds(self, stage: Stage, step: int | None) -> float:
        """What the stage took up to a step, or as a whole."""
        if not stage.log:
            return stage.seconds
        runs = {each.name: each for each in read_log(self._folder / stage.log)}
        if stage.run not in runs:
            raise InputError(f"{stage.log} has no run {stage.run!r}, only {', '.join(runs)}")
        run = runs[stage.run]
        step = run.steps[-1] if step is None else step
        if step not in run.steps:
            raise InputError(f"{stage.log} has no line for step {step} of {stage.run}")
        return run.hours[run.steps.index(step)] * 3600


def _row(target: float, point: Point) -> str:
    stage = point.stage
    gpu = f"{point.gpu_minutes:.1f}" if point.gpu_minutes else ""
    log = f"[{Path(stage.log).name}]({stage.log})" if stage.log else ""
    cells = [
        f"{target:.2f}",
        f"{point.core_hours:.2f}",
        gpu,
        f"{point.psnr:.2f}",
        stage.name,
        stage.hardware,
        stage.commit,
        log,
    ]
    return f"| {' | '.join(cells)} |"


def insert(document: str, tables: str) -> str:
    """`document` with `tables` between the lines `BEGIN` and `END`. Raises `InputError` if it has no such lines."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise InputError(f"there are no lines {BEGIN} and {END}, between which the tables go")
    return f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"


def main() -> None:
    parser = CliParser(prog="python -m training.records", description="Show what training took to reach given PSNRs.")
    parser.add_argument("records", type=Path, help="the JSON file with the stages, docs/records.json")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--update", type=Path, metavar="FILE", help="write the tables into this Markdown file")
    task.add_argument("--check", type=Path, metavar="FILE", help="exit with 2 unless this file has these tables")
    args = parser.parse_args()
    tables = Records(args.records).markdown()
    file = args.update or args.check
    if file is None:
        print(tables)
        return
    if not file.is_file():
        raise InputError(f"{file} does not exist: name the Markdown file with the tables, docs/records.md")
    document = file.read_text(encoding="utf-8")
    with error_context(file):
        updated = insert(document, tables)
    if args.update:
        with atomic_write(file) as temporary:
            temporary.write_text(updated, encoding="utf-8")
        print(f"wrote the tables into {file}")
    elif updated != document:
        raise InputError(f"{file} is out of date: run python -m training.records {args.records} --update {file}")


if __name__ == "__main__":
    run_cli(main)

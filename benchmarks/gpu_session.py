"""One command for a borrowed GPU: tests, benchmarks, then training of x2, x3 and x4 with the best setting, in M minutes.

Runs with the Python at hand and needs neither pip nor a network. Every section runs in a process of its own; one that fails
is reported and the rest goes on. Weights, logs and tables up to 16 MiB are copied to `--out` while they are written.
Command line: `make gpu IMAGES=FOLDER MINUTES=M`, or `python -m benchmarks.gpu_session --images FOLDER --minutes M`.
On one H200 it trained the last stage of the pretrained weights (docs/training.md).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch

from benchmarks.copier import Copier
from benchmarks.gpu_flags import check_requirements, parse_flags
from benchmarks.subprocesses import ROOT, PythonProcess, SectionError
from common.device import has_bf16, has_tf32, pick_device
from common.errors import InputError, run_cli
from common.files import atomic_write, make_dir
from common.tables import Table, to_markdown
from evaluation.cache import hash_files
from training.distillation import FORMAT
from training.validation import NO_SET

MAX_STEPS = 1_000_000  # a run ends by its minutes
START_SECONDS, LATE_SECONDS = 25, 30  # what a run takes until its first step and to end, and may take more than that
GRAPH, COMPILED = "bf16, CUDA graph", "bf16, compiled"
FASTEST = f"{COMPILED}, CUDA graph"  # on an H200, after half a minute of compiling
SETTINGS = {  # what is tried, the slowest start last: the second that compiles finds the work of the first
    "fp32": ["--precision", "fp32"],
    "bf16": ["--precision", "bf16"],
    GRAPH: ["--precision", "bf16", "--cuda_graph"],
    COMPILED: ["--precision", "bf16", "--compile"],
    FASTEST: ["--precision", "bf16", "--compile", "--cuda_graph"],
}
CORES_TO_PREPARE = 4  # CPU cores: two for the run of a scale, two to compile for the next
SHORT_SESSION = 120  # minutes: below, the 16 compilations of the whole training benchmark would exceed its limit
LEAST_SECONDS = 15  # to try a setting or to train at all
LIMITS = {  # fractions of the time
    "tests": 0.15,
    "training benchmark": 0.1,
    "inference benchmark": 0.1,
    "data": 0.2,
    "speed": 0.15,
}
RECIPE = "--optimizer muon --lr_schedule cosine --clip 1 --loss_fn L1 --ema 0.999 --hard_crops 16"
SHRINK = ("0.8", "0.6")  # each image again at these fractions of its size
BATCH_SHARE = {2: Fraction(1), 3: Fraction(5, 6), 4: Fraction(5, 9)}  # of --batch: a step of x3 or x4 costs more


class Session:
    """The sections of one session. `results`: what each found, by its name; `rows`: their outcomes."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.start = args, time.monotonic()
        self.out, self.work = args.out, args.work
        self.results: dict[str, object] = {}
        self.rows: list[list[str]] = []
        self.tables: list[str] = []  # of the benchmarks, in Markdown
        self.training_set, self.has_photographs = self.work / "images.h5", False
        self.started: list[PythonProcess] = []
        self.teaching: dict[int, PythonProcess] = {}  # by scale, what computes teachers' targets
        # by scale, what compiles for it ahead; None if that cannot start
        self.preparing: dict[int, PythonProcess | None] = {}
        for folder in (self.out, self.work):
            make_dir(folder)

    def seconds_left(self) -> float:
        """Until the session should be over."""
        return 60 * self.args.minutes - (time.monotonic() - self.start)

    def run(self, sections: dict[str, Callable[[], object]]) -> None:
        """Runs the sections in turn; writes session.json and session.md after each."""
        for name, section in sections.items():
            print(f"== {name}", flush=True)
            start, outcome = time.monotonic(), "done"
            try:
                self.results[name] = section()
            except (SectionError, InputError, OSError, ValueError, LookupError, RuntimeError) as error:
                outcome = f"failed: {error}"
                print(f"{name} {outcome}", file=sys.stderr, flush=True)
            self.rows.append([name, f"{time.monotonic() - start:.0f}", outcome.replace("\n", " ").replace("|", "/")])
            self._write()

    def failed(self) -> int:
        """The number of sections that failed."""
        return sum(row[2] != "done" for row in self.rows)

    def _write(self) -> None:
        outcomes = {name: outcome for name, _, outcome in self.rows}
        with atomic_write(self.out / "session.json") as file:
            file.write_text(json.dumps({"outcomes": outcomes, "results": self.results}, indent=1) + "\n")
        head = [("section", ""), ("seconds", ""), ("outcome", "")]
        tables = [Table("session", "GPU session", head, self.rows, len(self.rows), [])]
        if isinstance(speeds := self.results.get("speed"), dict):
            cells = [[name, f"{speed['rate']:.2f}", f"{speed['startup']:.0f}"] for name, speed in speeds.items()]
            head = [("setting", ""), ("steps/s", ""), ("to start", "s")]
            tables.append(Table("speed", "Training at x2", head, cells, len(cells), []))
        with atomic_write(self.out / "session.md") as file:
            file.write_text("\n".join([*map(to_markdown, tables), *self.tables]))

    def call(self, *argv: object, limit: float, meanwhile: Callable[[], object] = lambda: None) -> str:
        """Runs Python with `argv`, shows and returns what it prints; `SectionError` if it fails or exceeds `limit` seconds."""
        return self.begin(argv, self.work / "output.txt").finish(limit, meanwhile)

    def begin(self, argv: Sequence[object], log: Path, niceness: int = 0) -> PythonProcess:
        """Starts Python with `argv`; `close` stops it if nothing has waited for its end."""
        process = PythonProcess(argv, log, niceness)
        self.started.append(process)
        return process

    def close(self) -> None:
        """Stops what still runs, all at once: the teachers, and after Ctrl-C or SIGTERM the present section."""
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.stop()

    # --- the sections ---------------------------------------------------------------------------------------------------

    def card(self) -> dict[str, object]:
        """What the session runs on."""
        found: dict[str, object] = {"python": sys.version.split()[0], "torch": torch.__version__}
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            found |= {"gpu": properties.name, "memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
            found["compute_capability"] = f"{properties.major}.{properties.minor}"
        print(", ".join(f"{name} {value}" for name, value in found.items()))
        return found

    def tests(self) -> str:
        """The CUDA tests; returns pytest's last line."""
        argv = ("-m", "pytest", "tests/test_cuda.py", "tests/test_full_fp32.py", "-p", "no:cacheprovider", "-v")
        return self.call(*argv, limit=self._limit("tests")).strip().splitlines()[-1]

    def benchmark(self, name: str) -> object:
        """`benchmarks.training` or `benchmarks.inference`: its JSON, also of a part if it is stopped, and its tables."""
        out = self.out / f"{name}.json"
        argv = ["-m", f"benchmarks.{name}", "--device", self.args.device, "--out", out]
        if name == "training" and self.args.minutes < SHORT_SESSION:
            precision = "bf16" if has_bf16(pick_device(self.args.device)) else "fp32"
            argv += ["--rounds", 3, "--precisions", precision, "--optimizers", "muon"]
        try:
            text = self.call(*argv, limit=self._limit(f"{name} benchmark"))
        finally:
            if out.exists():
                self.results[f"{name} benchmark"] = json.loads(out.read_text())
        self.tables.append("\n".join(re.findall(r"^(?:\*\*.*|\|.*|)$", text, re.MULTILINE)) + "\n")
        return self.results[f"{name} benchmark"]

    def data(self) -> str:
        """The training set of the photographs; with teachers it is only made where their targets are missing."""
        argv = ("div2h5.py", "--source", self.args.images, "--shrink", *SHRINK, "--out", self.training_set)
        self.call(*argv, limit=self._limit("data"))
        self.has_photographs = True
        return self.training_set.name

    def speed(self) -> dict[str, dict[str, float]]:
        """By setting: "rate", steps per second at x2, and "startup", the seconds that the first steps take more. A setting that
        fails is left out."""
        for process in self.teaching.values():  # which would take a part of the GPU
            process.show(self.seconds_left() / 4)
        speeds: dict[str, dict[str, float]] = {}
        data, steps = self._training_set(2), self.args.probe_steps
        end = time.monotonic() + self._limit("speed")
        for name, flags in SETTINGS.items():
            if speeds and end - time.monotonic() < LEAST_SECONDS:
                print(f"{name} is not tried, as the time is up", flush=True)
                continue
            folder = self.work / f"speed {name}"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                lengths = ("--max_steps", 3 * steps, "--print_interval", steps, "--val_data_dir", "none")
                self.train(2, folder, data, *flags, *lengths, limit=end - time.monotonic())
                last = _last_line(folder)
                rate = last["images_per_second"] / self.args.batch
                speeds[name] = {"rate": rate, "startup": max(0.0, last["seconds"] - 3 * steps / rate)}
                print(f"{name}: {rate:.2f} steps/s after {speeds[name]['startup']:.0f} s", flush=True)
            except SectionError as error:
                print(f"{name} failed: {error}", file=sys.stderr, flush=True)
        if not speeds:
            raise SectionError("no setting trains here")
        return speeds

    def _best_setting(self, seconds: float) -> str:
        """The setting that makes the most steps in so many seconds. Another scale compiles anew."""
        speeds = self.results.get("speed")
        if not isinstance(speeds, dict):
            is_fast = has_tf32(pick_device(self.args.device))  # GPUs have TF32 and bf16, or neither
            return FASTEST if is_fast else "fp32"
        compiling = max((speeds[name]["startup"] for name in speeds if COMPILED in name), default=0.0)

        def steps(name: str) -> float:
            startup = compiling if COMPILED in name else speeds[name]["startup"]
            return speeds[name]["rate"] * max(0.0, seconds - startup)

        return max(speeds, key=steps)

    def distill(self, scale: int) -> str:
        """A training set whose targets the teacher networks compute: `training.distillation`.

        The first call starts the teachers of all scales, so that those of x3 and x4 work while x2 is trained. Sets of an
        earlier session with the same images, teachers and settings are used as they are.
        """
        if not self.teaching:
            for each, command in [(each, self._teacher_command(each)) for each in self.args.scales]:
                if command:
                    self.teaching[each] = self.begin(command, self._distilled(each).with_suffix(".txt"))
        if scale not in self.teaching:
            raise SectionError(f"{self.args.teachers} has no file such as rlfn_x{scale}.pth")
        self.teaching[scale].finish(self.seconds_left() / 4)
        return self._distilled(scale).name

    def _teacher_command(self, scale: int) -> list[object]:
        """What computes the targets, or only says that they are there; empty without teachers. One alone is asked 8 times."""
        files = [
            file for file in sorted(self.args.teachers.iterdir()) if f"x{scale}" in file.name.lower() and file.is_file()
        ]
        teachers = [(name, file) for file in files for name in ("rlfn", "bsrn") if name in file.name.lower()]
        if not teachers:
            return []
        out = self._distilled(scale)
        command = ["-m", "training.distillation", "--scale", scale, "--source", self.args.images, "--shrink", *SHRINK]
        command += [word for name, file in teachers for word in ("--teacher", f"{name}={file}")]
        command += ["--self_ensemble"] if len(teachers) == 1 else []
        command += ["--out", out, "--device", self.args.device]
        weights = [hash_files([file]) for _, file in teachers]
        images = [(str(file), file.stat()) for file in sorted(self.args.images.rglob("*")) if file.is_file()]
        seen = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in images]
        made, settings = out.with_suffix(".json"), json.dumps([FORMAT, list(map(str, command)), weights, seen])
        if out.exists() and made.exists() and made.read_text() == settings:
            return ["-c", f"print({str(out)!r}, 'is there')"]
        out.unlink(missing_ok=True)  # the new one appears when it is complete
        made.write_text(settings)
        return command

    def train_scale(self, scale: int, remaining: int) -> dict[str, object]:
        """Trains one scale from the pretrained weights in its share of the time that is left, annealed to its end."""
        data = self._training_set(scale)
        share = self.seconds_left() / remaining
        if share <= 0:
            raise SectionError("no time is left")
        minutes = max(0.01, (share - START_SECONDS) / 60)
        setting = self._best_setting(60 * minutes)
        try:
            self._train_scale(scale, data, setting, minutes)
        except SectionError as error:
            left = self.seconds_left() / remaining
            if setting == GRAPH or GRAPH not in SETTINGS or left < LEAST_SECONDS + START_SECONDS:
                raise
            print(f"x{scale} with {setting} failed: {error}", file=sys.stderr, flush=True)
            setting, minutes = GRAPH, (left - START_SECONDS) / 60
            self._train_scale(scale, data, setting, minutes)
        record = json.loads((self.out / f"x{scale}/cfsrcnn_x{scale}.json").read_text())
        return {"setting": setting, "minutes": minutes, **_last_line(self.out / f"x{scale}"), "record": record}

    def _train_scale(self, scale: int, data: Path, setting: str, minutes: float) -> None:
        length = ["--max_minutes", f"{max(0.01, minutes):.2f}", "--max_steps", MAX_STEPS, "--warmup", self.args.warmup]
        rest = ["--print_interval", self.args.print_interval, "--resume"]
        limit = 60 * minutes + START_SECONDS + LATE_SECONDS
        flags = (*SETTINGS[setting], *length, *rest)
        meanwhile = partial(self._prepare_next, scale, setting)
        try:
            self.train(scale, self.out / f"x{scale}", data, *flags, limit=limit, meanwhile=meanwhile)
        finally:
            for process in filter(None, self.preparing.values()):
                process.stop()

    def _prepare_next(self, scale: int, setting: str) -> None:
        """Once `scale` has its first scores, and so its memory: compiles for the next scale in a short run of it, so that its
        own finds the work in TorchInductor's cache. Without that it only starts later."""
        later = self.args.scales[self.args.scales.index(scale) + 1 :]
        if (
            COMPILED not in setting
            or (os.cpu_count() or 1) < CORES_TO_PREPARE
            or not later
            or later[0] in self.preparing
        ):
            return
        following, data = later[0], self._finished_set(later[0])
        if data is None or not (self.out / f"x{scale}/log.jsonl").exists():
            return
        self.preparing[following] = None
        try:
            if self._has_room():
                folder, log = self.work / f"prepare_x{following}", self.work / f"prepare_x{following}.txt"
                shutil.rmtree(folder, ignore_errors=True)
                flags = (*SETTINGS[setting], "--max_steps", 5, "--warmup", 0, "--val_data_dir", NO_SET)
                argv = self._train_argv(following, folder, data, *flags)
                self.preparing[following] = self.begin(argv, log, niceness=19)
        except (OSError, RuntimeError) as error:
            print(f"x{following} is not compiled ahead: {error}", file=sys.stderr, flush=True)

    def _has_room(self) -> bool:
        """Whether more than half of the GPU's memory is free: a scale takes about as much as another."""
        if pick_device(self.args.device).type != "cuda":
            return True
        free, total = torch.cuda.mem_get_info()
        return 2 * free > total

    def train(
        self,
        scale: int,
        folder: Path,
        data: Path,
        *flags: object,
        limit: float,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """`train.py` from the pretrained weights of the scale; later flags win."""
        self.call(*self._train_argv(scale, folder, data, *flags), limit=limit, meanwhile=meanwhile)

    def _train_argv(self, scale: int, folder: Path, data: Path, *flags: object) -> list[object]:
        where = ["--train_data_path", data, "--ckpt_dir", folder, "--ckpt_name", f"cfsrcnn_x{scale}"]
        where += ["--val_data_dir", self.args.validation] if self.args.validation else []
        where += ["--device", self.args.device, "--scale", scale]
        where += ["--pretrained", ROOT / f"checkpoint/x{scale}/cfsrcnn_x{scale}.pth"]
        batch = max(1, round(self.args.batch * BATCH_SHARE[scale]))
        size = ["--batch_size", batch, "--patch_size", self.args.patch, "--lr", self.args.lr]
        return ["train.py", *where, *size, *RECIPE.split(), *flags]

    def _distilled(self, scale: int) -> Path:
        return self.work / f"distilled_x{scale}.h5"

    def _training_set(self, scale: int) -> Path:
        """The teachers' for the scale if this session has one, else that of the photographs."""
        if (finished := self._finished_set(scale)) is None:
            self.data()
        return finished or self.training_set

    def _finished_set(self, scale: int) -> Path | None:
        if scale in self.teaching and (distilled := self._distilled(scale)).exists():
            return distilled
        return self.training_set if self.has_photographs else None  # a file that is there may be of other photographs

    def _limit(self, section: str) -> float:
        return min(60 * self.args.minutes * LIMITS[section], self.seconds_left())


def empty_folder(folder: Path) -> Path:
    """`folder`, made anew: one that is there becomes FOLDER_1, _2, ..., or --resume would go on with its finished runs."""
    if folder.exists():
        number = next(each for each in itertools.count(1) if not folder.with_name(f"{folder.name}_{each}").exists())
        folder.rename(folder.with_name(f"{folder.name}_{number}"))
    make_dir(folder)
    return folder


def _last_line(folder: Path) -> dict:
    return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])


def main() -> None:
    check_requirements()
    args = parse_flags()
    session = Session(args)
    results, session.out = session.out, empty_folder(session.work / "results")  # weights are written there and copied
    sections: dict[str, Callable[[], object]] = {"card": session.card}
    if "tests" not in args.skip:
        sections["tests"] = session.tests
    if "benchmarks" not in args.skip:
        for name in ("training", "inference"):
            sections[f"{name} benchmark"] = lambda name=name: session.benchmark(name)  # type: ignore[misc]
    if not args.teachers:
        sections["data"] = session.data
    for number, scale in enumerate(args.scales):
        if args.teachers:
            sections[f"teachers x{scale}"] = lambda scale=scale: session.distill(scale)  # type: ignore[misc]
        if number == 0 and "speed" not in args.skip:
            sections["speed"] = session.speed
        if "training" not in args.skip:
            remaining = len(args.scales) - number
            sections[f"x{scale}"] = lambda scale=scale, n=remaining: session.train_scale(scale, n)  # type: ignore[misc]
    with Copier(session.out, results), closing(session):
        session.run(sections)
    print((session.out / "session.md").read_text())
    if session.failed():
        sys.exit(1)


if __name__ == "__main__":
    run_cli(main)

"""The log of a training run: `log.jsonl` and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from common.errors import InputError, summarize_exception
from common.files import NOFOLLOW, atomic_write, make_dir_within, parse_json, translate_write_errors
from common.locks import locked
from common.units import format_count, format_duration

Values = dict[str, Any]  # of one line: numbers, texts, and {"x2": {"psnr": ...}} for "validation" and "bicubic"

START = b'{"run": '  # how each of our lines starts


def summary_line(step: int, values: Values) -> str:
    """What is printed of a line of the log."""
    loss = math.nan if values["loss"] is None else values["loss"]
    line = f"step {step}: loss {loss:.5f}"
    if "skipped" in values:
        line += f", {format_count(values['skipped'], 'step')} skipped for gradients that are not finite"
    for scale, scores in values.get("validation", {}).items():
        bicubic = values["bicubic"][scale]
        line += f", {scale} {_format(scores)} (bicubic {_format(bicubic)})"
    line += f", lr {values['lr']:.3g}"
    if "images_per_second" in values:
        line += f", {values['images_per_second']:.1f} images/s"
    if values.get("seconds_left"):
        line += f", {format_duration(values['seconds_left'])} left"
    if "validation_error" in values:
        line += f", validation failed, training goes on: {values['validation_error']}"
    return line


def _format(scores: dict[str, float]) -> str:
    return f"{scores['psnr']:.2f}/{scores['ssim']:.4f}"


class TrainingLog:
    """Lines of `CKPT_DIR/log.jsonl` and scalars in `CKPT_DIR/CKPT_NAME_tensorboard/`, one of each per interval.

    Opened at `step`, it removes what an interrupted run logged after that step. Lines of other runs and programs stay.
    "bicubic", which is the same at each interval, is logged once, and again if a resumed run is measured on other images.

    `report`: called with one line for each of the two that cannot be written, as on a full disk, the first time; what is
    missing is written later, when there is room. When the log is opened, that raises `InputError`.
    """

    def __init__(self, folder: Path, name: str, step: int, report: Callable[[str], None]):
        self._name, self._path = name, folder / "log.jsonl"
        self._bicubic: object = None  # the last that was logged
        self._truncate_file(step)
        self._place = make_dir_within(folder, folder / f"{name}_tensorboard")
        self._lines = _Output(self._path, self._append, report)
        self._plots = _Output(self._place, self._draw, report)
        self._hook = threading.excepthook
        threading.excepthook = _report_unless_os_error  # SummaryWriter writes in a thread and raises here
        try:
            with translate_write_errors(self._place):
                self._board: SummaryWriter | None = SummaryWriter(str(self._place), purge_step=step + 1)
        except BaseException:
            threading.excepthook = self._hook
            raise

    def write(self, step: int, values: Values) -> None:
        """Appends one line: the run's name, the step and `values`."""
        if "bicubic" in values and values["bicubic"] == self._bicubic:
            values = {name: value for name, value in values.items() if name != "bicubic"}
        self._bicubic = values.get("bicubic", self._bicubic)
        self._lines.write((step, json.dumps({"run": self._name, "step": step, **values}) + "\n"))
        self._plots.write((step, partial(_add_scalars, step=step, values=values)))

    def log_image(self, step: int, sr: np.ndarray) -> None:
        """One SR image, uint8 HxWx3, for TensorBoard; left out if it cannot be written."""
        image = step, lambda board: board.add_image("SR", sr, step, dataformats="HWC")
        self._plots.write(image)
        self._plots.waiting = [each for each in self._plots.waiting if each is not image]

    def close(self) -> str:
        """Closes both; returns what could not be written until now, or ""."""
        outputs = (self._lines, self._plots)
        for each in outputs:
            with suppress(OSError, InputError):
                each.flush()
        with suppress(OSError):
            if self._board:
                self._board.close()
        threading.excepthook = self._hook
        return ", ".join(each.missing() for each in outputs if each.waiting)

    def _append(self, lines: list[tuple[int, str]]) -> None:
        with locked(self._path.parent):
            _append(self._path, "".join(line for _, line in lines))

    def _draw(self, plots: list[tuple[int, Callable[[SummaryWriter], None]]]) -> None:
        if self._board is None:
            self._board = SummaryWriter(str(self._place), purge_step=plots[0][0])
        try:
            for _, draw in plots:
                draw(self._board)
            self._board.flush()
        except OSError:  # a writer that has failed once writes nothing any more
            with suppress(OSError):
                self._board.close()
            self._board = None
            raise

    def _truncate_file(self, step: int) -> None:
        if self._path.exists() and not self._path.is_file():
            raise InputError(f"{self._path} is not a regular file, but the log is to be written there: move it away")
        if self._path.is_file():
            with locked(self._path.parent):  # runs of other names may write to the same log
                self._truncate_after(step)

    def _truncate_after(self, step: int) -> None:
        kept, content = [], self._path.read_bytes()
        for line in content.splitlines(keepends=True):
            try:
                entry = parse_json(line)
                later = (ours := entry["run"] == self._name) and entry["step"] > step
                if ours and not later:
                    self._bicubic = entry.get("bicubic", self._bicubic)
            except UnicodeDecodeError:  # what a damaged disk left
                later = True
            except ValueError:
                later = _cut_off(line)
            except (KeyError, TypeError):  # not written by us
                later = False
            if not later:
                kept.append(line)
        if (new := b"".join(kept)) != content:
            with atomic_write(self._path) as temporary:
                temporary.write_bytes(new)


class _Output:
    """Entries (step, what) that `write_all` writes to `place`. Those that could not be written wait for the next time."""

    def __init__(self, place: Path, write_all: Callable[[list], None], report: Callable[[str], None]):
        self.place = place
        self.waiting: list[tuple[int, Any]] = []
        self._write_all, self._report, self._reported = write_all, report, False

    def write(self, entry: tuple[int, Any]) -> None:
        self.waiting.append(entry)
        try:
            self.flush()
        except (InputError, OSError) as error:
            if not self._reported:
                why = summarize_exception(error) if isinstance(error, InputError) else error.strerror
                self._report(
                    f"{self.place} cannot be written ({why}): training goes on, and tries again at each interval"
                )
            self._reported = True

    def flush(self) -> None:
        if self.waiting:
            self._write_all(self.waiting)
            self.waiting.clear()

    def missing(self) -> str:
        return f"{self.place} lacks the lines of steps {self.waiting[0][0]} to {self.waiting[-1][0]}"


def _add_scalars(board: SummaryWriter, step: int, values: Values) -> None:
    for key, value in values.items():
        for scale, scores in value.items() if isinstance(value, dict) else ():
            for name, score in scores.items():
                board.add_scalar(f"{key}/{name}_{scale}", score, step)
        if isinstance(value, float):
            board.add_scalar(key, value, step)


def _report_unless_os_error(args: threading.ExceptHookArgs) -> None:
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


def _cut_off(line: bytes) -> bool:
    """Whether this is one of our lines, cut off by a crash, and not a line of another program."""
    rest = line.strip(b"\0\r\n")
    return rest[: len(START)] == START[: len(rest)]


def _append(path: Path, line: str) -> None:
    """Appends the whole line or, if the disk is full, nothing."""
    with open(path, "a+b", buffering=0, opener=lambda name, flags: os.open(name, flags | NOFOLLOW, 0o666)) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else f"\n{line}"  # so that a cut-off line does not swallow this one
        rest = memoryview(line.encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise

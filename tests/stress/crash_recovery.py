"""Kills a training run at random moments, resumes it each time, and compares it with an uninterrupted run.

SIGKILL cannot be caught, so the run cannot clean up. After each kill every file under a final name must be
readable; in the end weights and log must equal those of the uninterrupted run, bit for bit. On the CPU, with synthetic
images.
Command line: `python -m tests.stress.crash_recovery --kills 50`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.synthetic import synthetic_training_set, write_synthetic
from common.cli import CliParser
from common.errors import InputError, run_cli
from common.files import TEMP_PREFIX
from common.progress import progress
from dataset.image_writer import write_png
from model.checkpoint import read_state_dict

STEPS, INTERVAL = 12, 2  # of each run; a checkpoint every other step, so that many kills hit one being written
CLOCKS = ("seconds", "images_per_second", "seconds_left")  # fields of a log line that differ from run to run
CONTEXT = multiprocessing.get_context("forkserver")  # starts fast: PyTorch is already imported


@dataclass
class Tally:
    """The findings: kills by what they hit, damaged files, and differences from the uninterrupted run."""

    early: int = 0
    writing: int = 0
    between: int = 0
    finished: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """All kills so far."""
        return self.early + self.writing + self.between

    def __str__(self) -> str:
        rows = [
            ("kills", self.kills),
            ("  before the first checkpoint", self.early),
            ("  while a file was being written", self.writing),
            ("  at other moments", self.between),
            ("runs that came to their end and were compared", self.finished),
            ("damaged files, leftovers and differences", len(self.wrong)),
        ]
        return "\n".join([f"{what:<48}{count:>6}" for what, count in rows] + self.wrong)


def kill_and_compare(kills: int, seed: int, folder: Path, longest: float) -> Tally:
    """Does `kills` kills, each up to `longest` seconds after a start, in as many successive runs as that takes."""
    CONTEXT.set_forkserver_preload(["train", "torch.utils.tensorboard", "torch._dynamo"])
    moments, tally = random.Random(seed), Tally()
    data = make_data(folder)
    alone = folder / "alone"
    start(data, alone, folder / "output.txt").join()
    if not (alone / f"cfsrcnn_{STEPS}.pth").exists():
        raise InputError(f"training itself fails: see {folder / 'output.txt'}")
    with progress(total=kills, desc="kills", unit="kill") as bar:
        while tally.kills < kills:
            run = folder / f"run{tally.finished}"
            while tally.kills < kills and not finishes_before_kill(data, run, moments.uniform(0, longest)):
                inspect(run, tally)
                bar.update()
            process = start(data, run, folder / "output.txt")
            process.join()
            tally.wrong += [f"the last run ended with {process.exitcode}"] if process.exitcode else []
            tally.wrong += differences(run, alone)
            tally.finished += 1
            shutil.rmtree(run)
    return tally


def make_data(folder: Path) -> list[str]:
    """Makes a training set of four synthetic images and a test set of the first; returns the flags that name them."""
    images = synthetic_training_set(4, 24, 24)
    write_synthetic(folder / "train.h5", images)
    write_png(folder / "set/0.png", images.hr[0])
    return ["--train_data_path", str(folder / "train.h5"), "--val_data_dir", str(folder / "set")]


def start(data: list[str], run: Path, output: Path) -> BaseProcess:
    """A process that trains in the folder `run`, from the start or from where the last one was killed."""
    flags = [
        "--ckpt_dir",
        run,
        "--max_steps",
        STEPS,
        "--print_interval",
        INTERVAL,
        "--patch_size",
        8,
        "--batch_size",
        2,
    ]
    flags += ["--ema", 0.9, "--init", "identity", "--device", "cpu", "--resume", *data]
    process = CONTEXT.Process(target=train, args=([str(flag) for flag in flags], output))
    process.start()
    return process


def train(flags: list[str], output: Path) -> None:
    """What the process of `start` does: `train.py` with these flags on one thread; what it prints is added to `output`."""
    import train as command

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared between processes, and a kill would leave it locked
    with open(output, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["train.py", *flags]
    run_cli(command.main)


def finishes_before_kill(data: list[str], run: Path, seconds: float) -> bool:
    """Trains for `seconds` and kills; returns whether the run finished before."""
    process = start(data, run, run.parent / "output.txt")
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == 0


def inspect(run: Path, tally: Tally) -> None:
    """Classifies a kill and checks all files that it left."""
    files = list(run.iterdir()) if run.exists() else []
    if any(file.name.startswith(TEMP_PREFIX) for file in files):
        tally.writing += 1
    elif not any(file.suffix == ".pt" for file in files):
        tally.early += 1
    else:
        tally.between += 1
    tally.wrong += [f"kill {tally.kills}: {file.name} is damaged" for file in files if not readable(file)]


def readable(file: Path) -> bool:
    """Whether a checkpoint, a state, a record or a log is complete; other files are not checked."""
    try:
        if file.name.startswith(TEMP_PREFIX):
            return True
        if file.suffix == ".pth":
            return bool(read_state_dict(file))
        if file.suffix == ".pt":
            return "sampler" in torch.load(file, weights_only=True)
        if file.suffix == ".json":
            return bool(json.loads(file.read_text())["starts"])
        if file.name == "log.jsonl":
            return all(json.loads(line)["step"] for line in file.read_text().splitlines())
    except Exception:  # whatever the error, the file is damaged
        return False
    return True


def differences(run: Path, alone: Path) -> list[str]:
    """How a finished run differs from the uninterrupted one."""
    wrong = [f"{file.name} is left over" for file in run.iterdir() if file.name.startswith(TEMP_PREFIX)]
    if names(run) != names(alone):
        return [*wrong, f"the files are {names(run)}, not {names(alone)}"]
    for name in names(run):
        if name.endswith(".pth"):
            ours, theirs = read_state_dict(run / name), read_state_dict(alone / name)
            same = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
            wrong += [] if same else [f"{name} differs"]
    wrong += [] if log_of(run) == log_of(alone) else ["log.jsonl differs"]
    return wrong + ([] if board_of(run) == board_of(alone) else ["TensorBoard differs"])


def names(run: Path) -> list[str]:
    """The files of a run under their final names."""
    return sorted(file.name for file in run.iterdir() if file.is_file() and not file.name.startswith(TEMP_PREFIX))


def log_of(run: Path) -> list[dict]:
    """The lines of the log, validation scores included, without the fields that depend on time."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def board_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of all TensorBoard points by scalar name, without those that depend on time."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points = {}
    for folder in sorted(run.glob("*_tensorboard")):
        board = EventAccumulator(str(folder), {"scalars": 0}).Reload()  # 0: all points
        for name in set(board.Tags()["scalars"]) - set(CLOCKS):
            points[name] = [(event.step, event.value) for event in board.Scalars(name)]
    return points


def main() -> None:
    parser = CliParser(prog="python -m tests.stress.crash_recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    parser.add_argument(
        "--longest", type=float, default=2.0, help="seconds after a start at which to kill at the latest"
    )
    args = parser.parse_args()
    if args.kills < 1 or not args.longest > 0 or args.seed < 0:
        raise InputError("--kills and --longest must be positive, --seed must not be negative")
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_and_compare(args.kills, args.seed, Path(folder), args.longest)
    print(tally)
    sys.exit(1 if tally.wrong else 0)


if __name__ == "__main__":
    run_cli(main)

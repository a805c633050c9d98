"""What a run was started with, for people to read: `CKPT_DIR/CKPT_NAME.json`, with an entry for each start, newest last."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import torch

from common.device import runs_in_tf32
from common.errors import InputError
from common.files import atomic_write, parse_json, realpath
from training.config import TrainConfig
from training.distributed import DistributedContext

ROOT = Path(__file__).parent.parent
GIT_SECONDS = 10  # as on a slow network disk
# which Git sets for its hooks, `rebase --exec` and the like, and which name another repository than that of the folder
GIT_VARIABLES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"}


class RunRecord:
    """The record at `path`. Opening it writes nothing, but raises `InputError` if another file stands there.

    To be opened and written while the run is locked (`training/run_lock.py`), by its main process.
    """

    def __init__(self, path: Path):
        self._path, self._starts = path, _read(path) if path.exists() else []

    def add(self, given: TrainConfig, used: TrainConfig, context: DistributedContext, step: int, images: int) -> None:
        """Writes a start at `step` on a data set of that many images. At step 0 nothing is left of earlier starts.

        `given`: the flags of the command line; `used`: with --preload and --accumulate as they were chosen by themselves.
        """
        start = {
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "step": step,
            "command": shlex.join(sys.argv),
            "commit": project_commit(),
            "pytorch": torch.__version__,
            "python": platform.python_version(),
            "device": describe_device(context.device),
            "processes": context.world_size,
            "precision": describe_precision(given, context.device),
            "preload": used.preload,
            "accumulate": used.accumulate,
            "images": images,
            "flags": given.as_flags(),
        }
        self._starts = [*(self._starts if step else []), start]
        with atomic_write(self._path) as temporary:
            temporary.write_text(json.dumps({"starts": self._starts}, indent=2) + "\n")


def _read(path: Path) -> list:
    with suppress(ValueError, KeyError, TypeError):
        if path.is_file() and isinstance(starts := parse_json(path.read_bytes())["starts"], list):
            return starts
    raise InputError(f"{path} is not the record of a run, but one is to be written there: move it away")


def describe_device(device: torch.device) -> str:
    """Such as "cuda:0 (NVIDIA H100 PCIe)" or "cpu (8 threads)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else str(device)


def describe_precision(args: TrainConfig, device: torch.device) -> str:
    """ "bf16", "fp32" or, if convolutions run in it, "fp32 (TF32)"."""
    return args.precision + " (TF32)" * (args.precision == "fp32" and runs_in_tf32(device, args.tf32))


def project_commit() -> str | None:
    """The commit that this project's folder is a clone of, ending in "-dirty" if files were changed; None if it is none."""
    try:
        if realpath(Path(_git("rev-parse", "--show-toplevel"))) != realpath(ROOT):
            return None  # a copy inside of another project's clone
        return _git("describe", "--always", "--exclude=*", "--abbrev=40", "--dirty")
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _git(*argv: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *argv]
    variables = {name: value for name, value in os.environ.items() if name not in GIT_VARIABLES}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=variables, timeout=GIT_SECONDS)
    return found.stdout.strip()

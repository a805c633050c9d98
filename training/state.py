"""The state of a training run on disk, CKPT_DIR/CKPT_NAME_latest.train.pt: saving, finding and restoring it.

It holds everything needed to resume: weights, EMA weights, optimizer, patch sampler, random number generators.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import nn

from common.errors import InputError, escape_unprintable, explain_access_error, summarize_exception
from common.files import DeferredErrorFile, atomic_write
from dataset.patches import PatchSampler
from model.checkpoint import safe_torch_load
from training.config import TrainConfig, Value, spell
from training.muon import MuonWithAuxAdam

STATE_KEYS = (
    "options",
    "images",
    "step",
    "seconds",
    "elapsed",
    "lr",
    "window",
    "net",
    "ema",
    "optimizer",
    "sampler",
    "random",
)
RESUME_INVARIANTS = (  # fixed for the whole run
    "model",
    "scale",
    "group",
    "patch_size",
    "batch_size",
    "seed",
    "ema",
    "optimizer",
    "hard_crops",
)
ENDING = "_latest.train.pt"  # of the state file, after the run's name
FRESH_START_ONLY = ("init", "pretrained")  # decide initial weights, which a resumed run does not need
OF_THE_START = ("ckpt_dir", "ckpt_name", "verbose", "resume")  # where the run is and what is printed, not how it trains
CHANGEABLE = tuple(
    each.name for each in fields(TrainConfig) if each.name not in {*RESUME_INVARIANTS, *FRESH_START_ONLY, *OF_THE_START}
)


def _shown(name: str, value: Value) -> str:
    """The value of a flag, for a message."""
    if value is None or isinstance(value, bool):
        return {None: "unset", False: "off", True: "on"}[value]
    return escape_unprintable(str(spell(name, value)))


class TrainingState:
    """The state file of one run; `ema` is None without EMA weights."""

    def __init__(self, args: TrainConfig):
        self.args = args
        self.path = Path(args.ckpt_dir) / f"{args.ckpt_name}{ENDING}"

    def describe_absence(self) -> str:
        """One line for `--resume` without a state of this name: what happens, and the names of other runs in the folder."""
        others = sorted(each.name.removesuffix(ENDING) for each in self.path.parent.glob(f"*{ENDING}"))
        names = escape_unprintable(", ".join(others))
        rest = f"; --ckpt_name is {self.args.ckpt_name}, the folder has {names}" if others else ""
        return f"--resume: there is no {self.path} yet, so training starts at step 0{rest}"

    def describe_changes(self, saved: dict) -> str:
        """A line break and one line on the flags that differ from the settings of the `saved` run: without effect, or in
        force from here on; "" if none differs."""
        was, now = saved["settings"], asdict(self.args)
        differs = [name for name in was if now.get(name, was[name]) != was[name]]
        ignored = [f"--{name}" for name in FRESH_START_ONLY if name in differs]
        changed = [
            f"--{name} {_shown(name, now[name])} (was {_shown(name, was[name])})"
            for name in CHANGEABLE
            if name in differs
        ]
        notes = [f"{' and '.join(ignored)} without effect, the weights are those of the run"] if ignored else []
        notes += [f"from here on {', '.join(changed)}"] if changed else []
        return f"\n--resume: {'; '.join(notes)}" if notes else ""

    def last_good(self) -> str:
        """What a run that diverges can go on from, for its message."""
        return f"the last good state is {self.path}" if self.path.exists() else "nothing was saved before"

    def describe_saved(self, step: int) -> str:
        """What a run that was stopped can go on from, for its message; `step`: of the saved state, 0 if there is none."""
        return f"{self.path} is saved as of step {step}, go on with --resume" if step else "nothing is saved"

    def find(self) -> dict | None:
        """The saved state to resume from; None for a fresh start.

        `InputError` if a fresh start would overwrite a run, or if the file is damaged or of a run with other options.
        """
        args = self.args
        if not self.path.exists():
            if not args.resume:
                self._check_weights()
            return None
        if not args.resume:
            raise InputError(
                f"{self.path} belongs to a run that stands there: go on with --resume, or choose another "
                "--ckpt_dir or --ckpt_name"
            )
        if not self.path.is_file():
            raise InputError(
                f"{self.path} is not a regular file, but the state of the run is to be there: move it away"
            )
        with self._readable():
            saved = safe_torch_load(self.path)
            saved.setdefault("elapsed", saved["seconds"])  # states of before --max_minutes have neither
            saved.setdefault("lr", 0.0)
            saved.setdefault("settings", {})
            options = {name: saved[name] for name in STATE_KEYS}["options"].items()
            saved["step"], saved["seconds"] = int(saved["step"]), float(saved["seconds"])
            saved["elapsed"], saved["lr"] = float(saved["elapsed"]), float(saved["lr"])
            plain = (str, int, float, bool, type(None))
            saved["settings"] = {str(k): v for k, v in dict(saved["settings"]).items() if isinstance(v, plain)}
            saved["window"] = [(float(loss), float(norm)) for loss, norm in saved["window"]]
        if differs := [
            f"--{name} {value}, not {getattr(args, name, 'known here')}"
            for name, value in options
            if name not in RESUME_INVARIANTS or getattr(args, name) != value
        ]:
            raise InputError(f"--resume: the run in {self.path.parent} has {'; '.join(differs)}")
        return saved

    def save(
        self,
        counters: dict,
        net: nn.Module,
        ema: nn.Module | None,
        optimizer: torch.optim.Optimizer | MuonWithAuxAdam,
        sampler: PatchSampler,
    ) -> None:
        """Writes the state atomically. `counters`: plain values, "images", "step", "seconds", "elapsed", "lr" and "window"."""
        state = {
            "options": {name: getattr(self.args, name) for name in RESUME_INVARIANTS},
            "settings": {name: getattr(self.args, name) for name in (*FRESH_START_ONLY, *CHANGEABLE)},
            **counters,
            "net": net.state_dict(),
            "ema": ema.state_dict() if ema else None,
            "optimizer": optimizer.state_dict(),
            "sampler": sampler.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state() if _on_cuda(net) else None,
        }
        with atomic_write(self.path) as temporary, DeferredErrorFile(temporary) as file:
            torch.save(state, file)

    def restore(
        self,
        saved: dict,
        images: int,
        net: nn.Module,
        ema: nn.Module | None,
        optimizer: torch.optim.Optimizer | MuonWithAuxAdam,
        sampler: PatchSampler,
    ) -> None:
        """Restores what `find` returned. `InputError` if the training set has another number of images."""
        if saved["images"] != images:
            raise InputError(
                f"--resume: the run in {self.path.parent} had {saved['images']} images, but "
                f"{self.args.train_data_path} has {images}: give it the same --train_data_path"
            )
        with self._readable():
            net.load_state_dict(saved["net"])
            if ema is not None:
                ema.load_state_dict(saved["ema"])
            _keep_fused_flags(saved["optimizer"], optimizer)
            optimizer.load_state_dict(saved["optimizer"])
            _check_shapes(optimizer)
            sampler.load_state_dict(saved["sampler"])
            torch.set_rng_state(saved["random"])
            if saved.get("cuda_random") is not None and _on_cuda(net):
                torch.cuda.set_rng_state(saved["cuda_random"])

    def _check_weights(self) -> None:
        """`InputError` if weights of this name exist without a state: a fresh start would overwrite them."""
        name = re.compile(re.escape(self.args.ckpt_name) + r"_[0-9]+\.pth")
        if self.path.parent.is_dir() and (
            there := sorted(each for each in os.listdir(self.path.parent) if name.fullmatch(each))
        ):
            raise InputError(
                f"{self.path.parent / there[0]} is of an earlier run and might be overwritten: choose another --ckpt_dir "
                "or --ckpt_name, move it away, or allow it by --resume"
            )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, torch.cuda.OutOfMemoryError):  # the file may be as good as ever
            raise
        except Exception as error:  # a damaged file may fail in any way
            if explained := explain_access_error(self.path, error):
                raise explained from None
            what = f"{type(error).__name__}: {summarize_exception(error)[:200]}"
            raise InputError(f"{self.path} cannot be read ({what}): move it away") from None


def _on_cuda(net: nn.Module) -> bool:
    return any(weight.is_cuda for weight in net.parameters())


def _keep_fused_flags(saved: dict, optimizer: torch.optim.Optimizer | MuonWithAuxAdam) -> None:
    """Sets the `fused` flags of a saved state to those of `optimizer`: the run may go on on another kind of device.

    Before loading, because PyTorch moves the step counters to the device of fused optimizers then.
    """
    if isinstance(optimizer, MuonWithAuxAdam):
        for name, part in optimizer.parts.items():
            _keep_fused_flags(saved[name], part)
        return
    for group, current in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        if "fused" in current:
            group["fused"] = current["fused"]


def _check_shapes(optimizer: torch.optim.Optimizer | MuonWithAuxAdam) -> None:
    """`ValueError` if a state has another shape than its weight, which PyTorch does not check."""
    for part in optimizer.parts.values() if isinstance(optimizer, MuonWithAuxAdam) else (optimizer,):
        for weight, values in part.state.items():
            if any(value.ndim and value.shape != weight.shape for value in values.values()):
                raise ValueError("the optimizer's state is of other shapes than the weights")

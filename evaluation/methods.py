"""The rows that `evaluation.paper` measures: bicubic, our networks, other people's pictures, all with one face.

A method says what it is about to measure on a test set (`about`: if that is unchanged, a kept result still holds; None: it
has nothing there), and measures it (`measure`). `against` is the row of the paper it is held against, None for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from common.errors import InputError
from dataset.testset import TestSet
from evaluation import published
from evaluation.benchmark import Result, evaluate
from evaluation.compare import assign, find_sr, measure_folder
from evaluation.inference import BicubicUpscaler, NetworkUpscaler, Upscale
from evaluation.inventory import Checkpoint, hash_files
from model.checkpoint import load_net

OURS = "CFSRCNN"  # the paper's row that our network and its self-ensemble are held against
ENSEMBLE = " + self-ensemble"


class Method(Protocol):
    """What all methods have."""

    @property
    def label(self) -> str:
        """The name of its row."""

    @property
    def against(self) -> str | None:
        """The row of the paper it is held against."""

    def about(self, test_set: TestSet) -> dict | None:
        """What it would measure there, in plain values; None: nothing."""

    def measure(self, test_set: TestSet) -> Result:
        """Measures it there, with a progress bar. `InputError` names an unusable picture."""


class Bicubic:
    """The baseline, `imresize`."""

    label = against = "Bicubic"

    def about(self, test_set: TestSet) -> dict:
        return {"method": "bicubic"}

    def measure(self, test_set: TestSet) -> Result:
        return _evaluate(self, BicubicUpscaler(test_set.scale), test_set, check_lr=True)


@dataclass
class Network:
    """A checkpoint, in float32; `self_ensemble`: the mean over the 8 flips and turns, a row of its own."""

    checkpoint: Checkpoint
    self_ensemble: bool
    device: torch.device
    protocol: str
    against = OURS

    @property
    def label(self) -> str:
        return self.checkpoint.label + ENSEMBLE * self.self_ensemble

    def about(self, test_set: TestSet) -> dict | None:
        if test_set.scale not in self.checkpoint.scales:
            return None
        return {
            "method": self.checkpoint.sha256[:16] + "_ensemble" * self.self_ensemble,
            "checkpoint": str(self.checkpoint.path),
            "checkpoint_sha256": self.checkpoint.sha256,
            "self_ensemble": self.self_ensemble,
            "protocol": self.protocol,
            "precision": "fp32",
            "device": str(self.device),
        }

    def measure(self, test_set: TestSet) -> Result:
        scale = test_set.scale
        upscale = NetworkUpscaler(
            load_net(self.checkpoint.path, scale=scale),
            scale,
            self.device,
            protocol=self.protocol,
            self_ensemble=self.self_ensemble,
        )
        return _evaluate(self, upscale, test_set, check_lr=False)  # bicubic has looked at the LR images


class Pictures:
    """Other people's SR pictures in `root`; held against the paper's row of the same name, if there is one."""

    def __init__(self, name: str, root: Path, test_sets: list[TestSet]):
        self.label = name
        self.against = next((each for each in published.quality("Set5") if each.lower() == name.lower()), None)
        self._folders = assign(name, root, test_sets)

    def about(self, test_set: TestSet) -> dict | None:
        folder = self._folders.get((test_set.name, test_set.scale))
        if folder is None:
            return None
        files = filter(None, (find_sr(folder, pair) for pair in test_set.pairs))
        return {"method": f"compare_{self.label}", "sr_sha256": hash_files(files)}

    def measure(self, test_set: TestSet) -> Result:
        return measure_folder(self._folders[test_set.name, test_set.scale], test_set)


def make_methods(
    checkpoints: list[Checkpoint],
    compare: list[tuple[str, Path]],
    test_sets: list[TestSet],
    device: torch.device,
    protocol: str,
    self_ensemble: bool,
) -> list[Method]:
    """All methods in the order of their rows. `InputError` where two rows would have one name."""
    methods: list[Method] = [Bicubic()]
    for ensemble in (False, True) if self_ensemble else (False,):
        methods += [Network(checkpoint, ensemble, device, protocol) for checkpoint in checkpoints]
    for name, root in compare:
        if any(method.label == name for method in methods):
            raise InputError(f"--compare {name}={root}: there is a row {name} already, give it another name")
        methods.append(Pictures(name, root, test_sets))
    return methods


def _evaluate(method: Method, upscale: Upscale, test_set: TestSet, check_lr: bool) -> Result:
    bar = f"{method.label}, {test_set.name} x{test_set.scale}"
    return evaluate(upscale, test_set, check_lr=check_lr, bar=bar)

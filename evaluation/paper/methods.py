"""The methods that `evaluation.paper` measures: bicubic, our networks, precomputed SR images of other methods.

`metadata` describes what a method would measure on a test set: a cached result is reused while it is unchanged; None: nothing
to measure there. `measure` measures it. `paper_row` is the paper's row to compare with, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from common.errors import InputError, error_context
from dataset.benchmark_set import BenchmarkSet
from evaluation.cache import hash_files
from evaluation.compare import check_names, match_folders, match_sr, measure_folder
from evaluation.evaluate import EvalResult, evaluate
from evaluation.paper import paper_results
from evaluation.paper.discovery import OUR_MODEL, PEERS, Checkpoint
from inference.upscaler import BicubicUpscaler, NetworkUpscaler, Upscale
from model import source_files
from model.checkpoint import load_model

OURS = "CFSRCNN"  # the paper's row that our network and its self-ensemble are compared with
ENSEMBLE = " + self-ensemble"


class Method(Protocol):
    """The interface of all methods."""

    @property
    def label(self) -> str:
        """The name of its row."""

    @property
    def paper_row(self) -> str | None:
        """The paper's row to compare with."""

    def metadata(self, test_set: BenchmarkSet) -> dict | None:
        """A JSON-serializable description of what it would measure there; None: nothing."""

    def measure(self, test_set: BenchmarkSet) -> EvalResult:
        """Measures it there, with a progress bar. Raises an `InputError` that names an unusable image or replaced weights."""


class Bicubic:
    """The bicubic baseline, `imresize`."""

    label = paper_row = "Bicubic"

    def metadata(self, test_set: BenchmarkSet) -> dict:
        return {"method": "bicubic"}

    def measure(self, test_set: BenchmarkSet) -> EvalResult:
        return _evaluate(self, BicubicUpscaler(test_set.scale), test_set, check_lr=True)


@dataclass
class Network:
    """A checkpoint, in float32; `self_ensemble`: averaged over the 8 dihedral transforms, in a row of its own.

    Only those of CFSRCNN have a row of the paper to compare with.
    """

    checkpoint: Checkpoint
    self_ensemble: bool
    device: torch.device
    protocol: str

    @property
    def paper_row(self) -> str | None:
        return OURS if self.checkpoint.model == OUR_MODEL else None

    @property
    def label(self) -> str:
        return self.checkpoint.label + ENSEMBLE * self.self_ensemble

    def metadata(self, test_set: BenchmarkSet) -> dict | None:
        if test_set.scale not in self.checkpoint.scales:
            return None
        model = self.checkpoint.model
        own = model not in (OUR_MODEL, *PEERS)  # whose code may change
        return {
            "method": f"{model}_" * own + self.checkpoint.sha256[:16] + "_ensemble" * self.self_ensemble,
            "checkpoint": str(self.checkpoint.path),
            "checkpoint_sha256": self.checkpoint.sha256,
            "self_ensemble": self.self_ensemble,
            "protocol": self.protocol,
            "precision": "fp32",
            "device": str(self.device),
            **({"model_sha256": hash_files(source_files(model))} if own else {}),
        }

    def measure(self, test_set: BenchmarkSet) -> EvalResult:
        path, scale = self.checkpoint.path, test_set.scale
        net = load_model(path, self.checkpoint.model, scale)
        if hash_files([path], names=False) != self.checkpoint.sha256:
            raise InputError(f"{path} was replaced while this command ran: run it again")
        upscale = NetworkUpscaler(net, scale, self.device, protocol=self.protocol, self_ensemble=self.self_ensemble)
        named = _NamedUpscaler(upscale, f"{path} (model/{self.checkpoint.model}.py)")
        return _evaluate(self, named, test_set, check_lr=False)  # checked with bicubic


class _NamedUpscaler:
    """`upscale`, whose `InputError`s get the name of its network."""

    def __init__(self, upscale: Upscale, name: str):
        self.scale, self._upscale, self._name = upscale.scale, upscale, name

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        with error_context(self._name):
            return self._upscale(lr)


class PrecomputedSR:
    """SR images of another method in `root`, compared with the paper's row of the same name, if there is one."""

    def __init__(self, name: str, root: Path, test_sets: list[BenchmarkSet]):
        self.label = name
        self.paper_row = next((each for each in paper_results.scores("Set5") if each.lower() == name.lower()), None)
        self._folders = match_folders(name, root, test_sets)

    def metadata(self, test_set: BenchmarkSet) -> dict | None:
        folder = self._folders.get((test_set.name, test_set.scale))
        if folder is None:
            return None
        return {"method": f"compare_{self.label}", "sr_sha256": hash_files(match_sr(folder, test_set.pairs).values())}

    def measure(self, test_set: BenchmarkSet) -> EvalResult:
        return measure_folder(self._folders[test_set.name, test_set.scale], test_set)


def make_methods(
    checkpoints: list[Checkpoint],
    compare: list[tuple[str, Path]],
    test_sets: list[BenchmarkSet],
    device: torch.device,
    protocol: str,
    self_ensemble: bool,
    peers: Sequence[Checkpoint] = (),
) -> list[Method]:
    """All methods in the order of their rows. Raises `InputError` if two rows would have the same name."""
    methods: list[Method] = [Bicubic()]
    for ensemble in (False, True) if self_ensemble else (False,):
        methods += [Network(checkpoint, ensemble, device, protocol) for checkpoint in checkpoints]
    methods += [Network(peer, False, device, protocol) for peer in peers]
    check_names(compare, [method.label for method in methods])
    return [*methods, *(PrecomputedSR(name, root, test_sets) for name, root in compare)]


def _evaluate(method: Method, upscale: Upscale, test_set: BenchmarkSet, check_lr: bool) -> EvalResult:
    bar = f"{method.label}, {test_set.name} x{test_set.scale}"
    return evaluate(upscale, test_set, check_lr=check_lr, bar=bar)

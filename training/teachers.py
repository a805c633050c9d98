"""Teachers: well-trained networks whose mean output on an LR image is a training target, on processes or on one GPU."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import torch

from common.errors import InputError, error_context
from common.malloc import tune_malloc
from inference.upscaler import NetworkUpscaler
from model.checkpoint import load_model


@dataclass(frozen=True)
class Teacher:
    """A network, `model/MODEL.py`, and the file of its weights."""

    model: str
    path: Path

    def __str__(self) -> str:
        return f"{self.model}={self.path}"


class TeacherEnsemble:
    """LR uint8 HxWx3 -> the mean of the teachers' SR, float32 (scale*H)x(scale*W)x3, about [0, 1], not clamped; in fp32.

    `self_ensemble`: each teacher's output is itself the mean over the 8 dihedral transforms of the image.
    Raises `InputError` where a weight file is missing or does not fit its network or the scale; calls raise it for an image
    that a teacher cannot take.
    """

    def __init__(self, teachers: Sequence[Teacher], scale: int, device: torch.device, self_ensemble: bool = False):
        self._upscalers = [
            NetworkUpscaler(_load(each, scale), scale, device, tile="off", self_ensemble=self_ensemble)
            for each in teachers
        ]

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return np.stack([upscaler.to_float(lr) for upscaler in self._upscalers]).mean(axis=0)


class TeacherPool:
    """Calls a `TeacherEnsemble` from any number of threads. To be used in a `with` block.

    On the CPU with `workers` above one, images are computed by that many processes of one PyTorch thread each, which start at
    the first call; else one after the other by a single thread of this process. On a GPU cuDNN is off meanwhile: it prepares
    each convolution anew for each size of image, which takes longer than an image. Results do not depend on the number of
    workers.
    Raises `InputError` as `TeacherEnsemble` does, and if a process dies, for example because memory ran out.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        scale: int,
        device: torch.device,
        self_ensemble: bool = False,
        workers: int = 1,
    ):
        self._ensemble = TeacherEnsemble(teachers, scale, device, self_ensemble)  # here too, so that errors come early
        self._device, self._workers = device, workers if device.type == "cpu" else 1
        self._arguments = (teachers, scale, self_ensemble)
        self._executor: Executor | None = None

    def __enter__(self) -> TeacherPool:
        self._threads_before, self._cudnn_before = torch.get_num_threads(), torch.backends.cudnn.enabled
        if self._workers > 1:
            context = get_context("spawn")  # a fork would copy PyTorch's threads in whatever state they are
            self._executor = ProcessPoolExecutor(self._workers, context, _start_worker, self._arguments)
            self._call: Callable[[np.ndarray], np.ndarray] = _run_in_worker
        else:
            if self._device.type == "cpu":
                torch.set_num_threads(1)
            else:
                torch.backends.cudnn.enabled = False
            self._executor, self._call = ThreadPoolExecutor(1), self._ensemble
        return self

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        assert self._executor is not None, "for a `with` block"
        try:
            return self._executor.submit(self._call, lr).result()
        except BrokenProcessPool:
            raise InputError(
                "a worker process died, most likely because memory ran out: use fewer with --workers; "
                "finished images are kept"
            ) from None

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads_before)
        torch.backends.cudnn.enabled = self._cudnn_before
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)


def _load(teacher: Teacher, scale: int) -> torch.nn.Module:
    with error_context(f"--teacher {teacher}"):
        if teacher.path.is_dir():
            raise InputError("it is a folder: name the file of the weights in it")
        if not teacher.path.is_file():
            raise InputError("there is no such file; docs/training.md says where the teachers' weights are published")
        return load_model(teacher.path, teacher.model, scale)


_worker_ensemble: Callable[[np.ndarray], np.ndarray]  # of a worker process


def _start_worker(teachers: Sequence[Teacher], scale: int, self_ensemble: bool) -> None:
    global _worker_ensemble
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    tune_malloc()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker_ensemble = TeacherEnsemble(teachers, scale, torch.device("cpu"), self_ensemble)


def _leave_with_parent() -> None:
    """Ends this process when its parent is killed, which would leave it waiting for work forever."""
    if parent := parent_process():
        with suppress(Exception):
            parent.join()
        os._exit(1)


def _run_in_worker(lr: np.ndarray) -> np.ndarray:
    return _worker_ensemble(lr)

"""One training step as a CUDA graph: recorded once, then replayed by a single call, without time between its kernels.

A step of `solver.py` is several hundred kernels. On a fast GPU and with small batches, Python launches them more slowly than
they run. What a graph replays is fixed: the same shapes, the same memory. So the batch is copied into the memory that the
recorded step reads, and the values that change from step to step, the learning rate and the weight of the EMA, are tensors.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from common.device import is_out_of_memory
from common.errors import InputError, summarize_exception
from dataset.patches import Batch
from training.muon import MuonWithAuxAdam

EAGER_STEPS = 3  # before recording: they create the optimizer's state, compile, and let cuDNN choose its algorithms

Losses = tuple[Tensor, Tensor]  # the loss and the gradient norm of a step, on the device


class Update(Protocol):
    """Gradients, weights and EMA of one step; `lr` and `ema_weight` may be scalar tensors on the device."""

    def __call__(self, batch: Batch, lr: float | Tensor, ema_weight: float | Tensor) -> Losses: ...


class Graph(Protocol):
    """A recorded step."""

    def replay(self) -> None: ...


def check_cuda_graph(device: torch.device, world_size: int, scale: int) -> None:
    """`InputError` where `--cuda_graph` cannot be used."""
    if device.type != "cuda":
        raise InputError(f"--cuda_graph is for CUDA GPUs, and this run is on {device}: leave it out")
    if world_size > 1:
        raise InputError(f"--cuda_graph is for one GPU, not for {world_size}: leave it out")
    if scale == 0:
        raise InputError("--cuda_graph records a step of one scale, and --scale 0 trains three: leave it out")


class GraphedUpdate:
    """An `Update` that records `update` as a graph after `EAGER_STEPS` calls, and from then on replays it.

    Every batch must have the shapes of the first. Raises `InputError` for a step that cannot be recorded, such as that of a
    network that reads a value back from the GPU.
    """

    def __init__(self, update: Update, optimizer: torch.optim.Optimizer | MuonWithAuxAdam):
        self._update, self._optimizer = update, optimizer
        self._eager_steps_left = EAGER_STEPS
        self._graph: Graph | None = None

    def __call__(self, batch: Batch, lr: float | Tensor, ema_weight: float | Tensor) -> Losses:
        if self._eager_steps_left:
            self._eager_steps_left -= 1
            return self._update(batch, lr, ema_weight)
        if self._graph is None:
            self._record(batch)
        assert self._graph is not None
        self._batch.lr.copy_(batch.lr)
        self._batch.hr.copy_(batch.hr)
        for static, value in ((self._lr, lr), (self._ema_weight, ema_weight)):
            static.fill_(value)
        self._graph.replay()
        loss, norm = self._losses
        return loss.clone(), norm.clone()  # the next replay writes over them

    def _record(self, batch: Batch) -> None:
        self._batch = Batch(torch.empty_like(batch.lr), torch.empty_like(batch.hr), batch.scale)
        self._lr, self._ema_weight = (torch.zeros((), device=batch.lr.device) for _ in range(2))
        groups = self._optimizer.param_groups
        before = [dict(group) for group in groups]
        for group in groups:
            if "capturable" in group:  # by which PyTorch's own optimizers agree to be recorded
                group["capturable"] = True
        try:
            self._graph, self._losses = record(lambda: self._update(self._batch, self._lr, self._ema_weight))
        except RuntimeError as error:
            cause = _first_cause(error)
            if isinstance(cause, InputError) or is_out_of_memory(cause):
                raise cause from None
            raise InputError(
                f"--cuda_graph: this step cannot be recorded ({summarize_exception(cause)}): leave it out"
            ) from None
        finally:
            for group, old in zip(groups, before, strict=True):  # states are saved as without a graph
                group.update(lr=old["lr"])
                if "capturable" in old:
                    group["capturable"] = old["capturable"]


def _first_cause(error: BaseException) -> BaseException:
    """The exception that ended the recording; ending it raises another, which says no more than that it was ended."""
    while isinstance(error.__context__, Exception):
        error = error.__context__
    return error


def record(step: Callable[[], Losses]) -> tuple[Graph, Losses]:
    """Records `step` without running it: the graph, and the tensors that it writes its results to."""
    graph = torch.cuda.CUDAGraph()
    collects = gc.isenabled()
    gc.collect()  # a collection in between might free memory of other graphs, which ends a recording
    gc.disable()
    try:
        with torch.cuda.graph(graph):
            losses = step()
    finally:
        if collects:
            gc.enable()
    return graph, losses

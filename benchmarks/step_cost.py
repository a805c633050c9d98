"""What a training step costs a GPU, counted without one: kernel launches, and bytes kept for the backward pass.

Runs the solver's own step on tensors without values (`FakeTensorMode`), as on CUDA where code depends on the device. A step
that reads a value on the host, for which a GPU would wait, raises here. A launch is an operation that is neither a view nor an
allocation; the backward pass of a convolution counts as two, foreach operations as one. cuDNN may add conversions.
Command line: `python -m benchmarks.step_cost`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import product, repeat
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.training import make_solver
from common import SCALES
from common.cli import CliParser
from common.errors import run_cli
from common.tables import Table, to_markdown
from dataset.patches import Batch
from model import create_model
from model.ops import PixelShuffle, nhwc_pixel_shuffle
from solver import OPTIMIZERS

PRECISIONS, CPU = ("fp32", "bf16"), torch.device("cpu")
NO_KERNEL = ("aten::empty", "aten::lift_fresh", "aten::_unsafe_view", "aten::is_same_size", "prim::")


class CountLaunches(TorchDispatchMode):
    """Counts the kernel launches of what runs inside it, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.name()
        if not func.is_view and not name.startswith(NO_KERNEL):
            masks = args[-1] if name.startswith("aten::convolution_backward") else [True]
            self.launches[name] += sum(masks)  # the gradients of input, weight and bias
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors without values, and the code of `model/` that runs on CUDA. They are CPU tensors: autograd wants a real GPU."""

    def shuffle(layer: PixelShuffle, x: Tensor) -> Tensor:
        return nhwc_pixel_shuffle(x, layer.upscale_factor)

    def to_format(
        net: nn.Module, *_: torch.device, memory_format: torch.memory_format = torch.preserve_format
    ) -> nn.Module:
        for weight in net.parameters():  # the original swaps tensors, which fake ones refuse
            weight.data = weight.data.to(memory_format=memory_format) if weight.ndim == 4 else weight.data
        return net

    relu_ = partial(nn.functional.relu, inplace=True)
    clip = partial(nn.utils.clip_grad_norm_, foreach=True)
    with (
        FakeTensorMode(),
        patch("model.cfsrcnn.relu_", relu_),
        patch("torch.nn.utils.clip_grad_norm_", clip),
        patch.object(PixelShuffle, "forward", shuffle),
        patch.object(nn.Module, "to", to_format),
        patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True),
    ):
        yield


def fake_batch(batch: int, side: int, scale: int) -> Batch:
    """A batch in channels_last, for use in `fake_cuda`."""
    lr, hr = torch.rand(batch, 3, side, side), torch.rand(batch, 3, scale * side, scale * side)
    lr, hr = (each.contiguous(memory_format=torch.channels_last) for each in (lr, hr))
    return Batch(lr=lr, hr=hr, scale=scale)


def count_launches(**settings: Any) -> Counter[str]:
    """Launches of a training step at x2 with these fields of `TrainConfig`, by operation: the second, when the optimizer has
    its state."""
    with tempfile.TemporaryDirectory() as folder, fake_cuda(), redirect_stdout(None):
        solver = make_solver(Path(folder), 4, 24, CPU, init="default", **settings)
        solver.sampler = repeat(fake_batch(4, 24, 2))  # type: ignore[assignment]
        solver.train_step()
        with CountLaunches() as counter:
            solver.train_step()
    return counter.launches


def saved_bytes(precision: str, scale: int) -> float:
    """Bytes for each LR pixel of the batch that the forward pass keeps for the backward pass."""
    found: dict[int, Tensor] = {}
    n, side = 2, 32

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4 and len(tensor) == n:  # not the weights, nor what autocast makes of them
            found[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with fake_cuda():
        net, batch = create_model("cfsrcnn", scale), fake_batch(n, side, scale)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = nn.functional.mse_loss(net(batch.lr, scale).float(), batch.hr)
        del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values()) / (n * side**2)


def main() -> None:
    CliParser(prog="python -m benchmarks.step_cost", description=__doc__.splitlines()[0]).parse_args()
    rows = []
    for precision, optimizer in product(PRECISIONS, OPTIMIZERS):
        launches = count_launches(precision=precision, optimizer=optimizer)
        most = ", ".join(f"{name.partition('::')[2]} {count}" for name, count in launches.most_common(5))
        rows.append([precision, optimizer, str(sum(launches.values())), most])
    head = [("precision", ""), ("optimizer", ""), ("launches", "a step"), ("most frequent", "")]
    print(
        to_markdown(
            Table("launches", "Kernel launches of a training step at x2", head, rows, len(rows), [], text_columns=2)
        )
    )
    kept = [[p, *(f"{saved_bytes(p, scale) / 1e3:.1f}" for scale in SCALES)] for p in PRECISIONS]
    head = [("precision", ""), *((f"x{scale}", "KB") for scale in SCALES)]
    print(to_markdown(Table("saved", "Kept for the backward pass, for each LR pixel of the batch", head, kept, 2, [])))


if __name__ == "__main__":
    run_cli(main)

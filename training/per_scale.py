"""Multi-scale training on several processes: one DistributedDataParallel for each scale, over the weights that it uses.

Each batch has one scale, the same in all processes, and the upsamplers of the other scales get no gradients. PyTorch's
`find_unused_parameters` would look for them at every step, and wait for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import LaunchError
from training.nonfinite import BufferSnapshot


class PerScaleDDP(nn.Module):
    """`net`, with gradients averaged over the processes: `forward(x, scale, *rest)`, N x 3 x H x W, is that of `net`.

    `wrap` makes a DistributedDataParallel of `net`. The first batch of each scale tells which weights the scale uses.
    Raises `LaunchError` in a backward pass that uses others, as networks that draw their layers at random do.
    """

    def __init__(self, net: nn.Module, wrap: Callable[[nn.Module], DistributedDataParallel]):
        super().__init__()
        self._net, self._wrap = [net], wrap  # in a list, so that its weights are not weights of this module
        self._replicas: dict[int, DistributedDataParallel] = {}
        self._unused: dict[int, set[str]] = {}
        self._watched: set[str] = set()
        self._scale, self._sync = 0, True

    def forward(self, x: Tensor, scale: int, *rest: Tensor) -> Tensor:
        if scale not in self._replicas:
            self._add_scale(x, scale, *rest)
        self._scale, replica = scale, self._replicas[scale]
        with nullcontext() if self._sync else replica.no_sync():
            return replica(x, scale, *rest)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients of forward passes in this block are not averaged but kept, to be averaged with those of a later one."""
        self._sync = False
        try:
            yield
        finally:
            self._sync = True

    @torch.compiler.disable
    def _add_scale(self, x: Tensor, scale: int, *rest: Tensor) -> None:
        (net,) = self._net
        used = _weights_behind(net, x, scale, *rest)
        weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
        self._unused[scale] = {name for name, weight in weights.items() if id(weight) not in used}
        for name in self._unused[scale] - self._watched:
            weights[name].register_post_accumulate_grad_hook(partial(self._check, name))
        self._watched |= self._unused[scale]
        net._ddp_params_and_buffers_to_ignore = self._unused[scale]  # type: ignore[assignment]  # read while it wraps
        self._replicas[scale] = self._wrap(net)
        del net._ddp_params_and_buffers_to_ignore

    def _check(self, name: str, _weight: Tensor) -> None:
        if name in self._unused[self._scale]:
            raise LaunchError(
                f"the network used {name} at scale {self._scale}, and did not in the first batch of this scale: "
                "several processes can only train the same weights at every step, so train it on one"
            )


def _weights_behind(net: nn.Module, x: Tensor, scale: int, *rest: Tensor) -> set[int]:
    """The `id` of each weight that the output depends on, by a forward pass that leaves the buffers as they are."""
    buffers = BufferSnapshot(net)
    nodes, seen, used = [net(x, scale, *rest).grad_fn], set(), set()
    buffers.restore_unless(torch.zeros((), dtype=torch.bool, device=x.device))
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            used.add(id(getattr(node, "variable", None)))
            nodes += [following for following, _ in node.next_functions]
    return used

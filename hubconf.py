"""For `torch.hub.load`: the network with the shipped weights, from a clone's folder (source="local") or its address.

PyTorch takes every callable here for a network, but those that begin with an underscore: so modules are imported whole.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections import abc

from torch import nn

dependencies = ["torch", "safetensors"]

_ROOT = pathlib.Path(__file__).resolve().parent


def cfsrcnn(scale: int = 2, pretrained: bool = True) -> nn.Module:
    """CFSRCNN in eval mode: batches Nx3xHxW, RGB in [0, 1] -> Nx3x(scale*H)x(scale*W), about [0, 1], not clamped.

    `scale`: 2, 3 or 4; without `pretrained`, which leaves the weights random, also 0: one network for all three, which is
    called with the batch's scale. Raises `InputError` for others.
    """
    with _our_packages():
        from common.errors import InputError
        from model import build_net
        from model.checkpoint import load_net

        if not pretrained:
            return build_net("cfsrcnn", scale, multi_scale=scale == 0).eval()
        weights = _ROOT / "checkpoint" / f"x{scale}" / f"cfsrcnn_x{scale}.pth"
        if not weights.is_file():
            raise InputError(f"there are no weights for scale {scale} ({weights}): use 2, 3 or 4, or pretrained=False")
        return load_net(weights, scale=scale).eval()


@contextlib.contextmanager
def _our_packages() -> abc.Iterator[None]:
    """Imports of `model` and `common` find ours. A user's own modules of these names are back in place afterwards."""
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("model", "common")}
    tops = [module for name, module in loaded.items() if "." not in name]
    if all(_ROOT in pathlib.Path(module.__file__ or "").resolve().parents for module in tops):
        yield
        return
    for name in loaded:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("model", "common")]:
            del sys.modules[name]
        sys.modules.update(loaded)

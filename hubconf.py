"""Entry point of `torch.hub.load`: the network with pretrained weights, from a local clone (source="local") or from GitHub.

PyTorch lists every public callable of this file as a model, so modules are imported instead of names.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections import abc

from torch import nn

dependencies = ["torch", "safetensors"]

_ROOT = pathlib.Path(__file__).resolve().parent
_PACKAGES = ("common", "dataset", "model")  # the lowest, which the network and its weights need


def cfsrcnn(scale: int = 2, pretrained: bool = True) -> nn.Module:
    """CFSRCNN in eval mode: batches Nx3xHxW, RGB in [0, 1] -> Nx3x(scale*H)x(scale*W), about [0, 1], not clamped.

    `scale`: 2, 3 or 4. With `pretrained=False` the weights are random, and scale 0 is allowed too: one network for all three
    scales, called as `net(lr, scale)`. Raises `InputError` for other scales.
    """
    with _isolated_imports():
        from common.errors import InputError
        from model import create_model
        from model.checkpoint import load_model

        if not pretrained:
            return create_model("cfsrcnn", scale, multi_scale=scale == 0).eval()
        weights = _ROOT / "checkpoint" / f"x{scale}" / f"cfsrcnn_x{scale}.pth"
        if not weights.is_file():
            raise InputError(f"there are no weights for scale {scale} ({weights}): use 2, 3 or 4, or pretrained=False")
        return load_model(weights, scale=scale).eval()


@contextlib.contextmanager
def _isolated_imports() -> abc.Iterator[None]:
    """Makes imports of our packages find ours, then restores the caller's own modules of these names.

    Ours do not stay either: the caller may import a `model` of its own later. But where they were before, they are used.
    """
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _PACKAGES}
    tops = [module for name, module in loaded.items() if "." not in name]
    if tops and all(_ROOT in pathlib.Path(module.__file__ or "").resolve().parents for module in tops):
        yield
        return
    for name in loaded:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
            del sys.modules[name]
        sys.modules.update(loaded)

"""Entry point of `torch.hub.load`: the network with pretrained weights, from a local clone (source="local") or from GitHub.

PyTorch lists every public callable of this file as a model, so modules are imported instead of names. It executes the file
anew for each call and forgets it, so a pickled network names `torch.hub.load` alone. Several threads may load and pickle
networks at once; meanwhile, no other thread may import modules that are named as our packages.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import pathlib
import pickle
import sys
import threading
import types
from collections import abc

import torch
from torch import nn

dependencies = ["torch", "safetensors"]

_ROOT = pathlib.Path(__file__).resolve().parent
_Modules = dict[str, types.ModuleType]
# one for all executions of this file
_LOCK: threading.RLock = vars(torch.hub).setdefault("_cfsrcnn_lock", threading.RLock())
_PACKAGES = ("common", "dataset", "model")  # the lowest, which the network and its weights need


def cfsrcnn(scale: int = 2, pretrained: bool = True) -> nn.Module:
    """CFSRCNN in eval mode: batches Nx3xHxW, RGB in [0, 1] -> Nx3x(scale*H)x(scale*W), about [0, 1], not clamped.

    `scale`: 2, 3 or 4. With `pretrained=False` the weights are random, and scale 0 is allowed too: one network for all three
    scales, called as `net(lr, scale)`. Raises `InputError` for other scales.
    """
    ours: _Modules = {}
    with _isolated_imports(ours):
        from common.errors import InputError
        from model import create_model
        from model.checkpoint import load_model

        weights = _ROOT / "checkpoint" / f"x{scale}" / f"cfsrcnn_x{scale}.pth"
        if not pretrained:
            net = create_model("cfsrcnn", scale, multi_scale=scale == 0)
        elif weights.is_file():
            net = load_model(weights, scale=scale)
        else:
            raise InputError(f"there are no weights for scale {scale} ({weights}): use 2, 3 or 4, or pretrained=False")
    return _picklable(net.eval(), ours)


def _restore(structure: bytes, tensors: list[torch.Tensor]) -> nn.Module:
    """The network that `_picklable` made a pickle of."""
    ours: _Modules = {}
    with _isolated_imports(ours):
        net = _Unpickler(structure, tensors).load()
    return _picklable(net, ours)


@contextlib.contextmanager
def _isolated_imports(ours: _Modules) -> abc.Iterator[None]:
    """Makes imports of our packages find `ours` or else our files, then restores the caller's own modules of these names.

    Ours do not stay either, but in `ours`: the caller may import a `model` of its own later. Where they were before, they are
    used and stay, and `ours` remains empty. One thread at a time, since all share `sys.modules`.
    """
    with _LOCK:
        yield from _swap_modules(ours)


def _swap_modules(ours: _Modules) -> abc.Iterator[None]:
    loaded = {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in _PACKAGES}
    tops = [module for name, module in loaded.items() if "." not in name]
    if not ours and tops and all(_ROOT in pathlib.Path(module.__file__ or "").resolve().parents for module in tops):
        yield
        return
    for name in loaded:
        del sys.modules[name]
    sys.modules.update(ours)
    try:
        yield
    finally:
        for name in [name for name in list(sys.modules) if name.partition(".")[0] in _PACKAGES]:
            ours[name] = sys.modules.pop(name)
        sys.modules.update(loaded)


def _picklable(net: nn.Module, ours: _Modules) -> nn.Module:
    """`net`, made picklable if the modules of its classes, `ours`, are not importable.

    Its pickle is a call of `torch.hub.load` with the tensors, which `torch.save`, `torch.load` and `torch.multiprocessing`
    treat as any others, and with a pickle of all the rest.
    """
    if not ours:
        return net
    kind = type(net)

    def reduce(self: nn.Module, protocol: int) -> tuple:
        plain = kind.__new__(kind)
        plain.__dict__.update(self.__dict__)
        with _isolated_imports(ours):
            parts = _Pickler().split(plain)
        return functools.partial(torch.hub.load, str(_ROOT), "_restore", source="local"), parts

    def deepcopy(self: nn.Module, memo: dict) -> nn.Module:
        memo[id(self)] = copied = self.__class__.__new__(self.__class__)
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    methods = {"__reduce_ex__": reduce, "__deepcopy__": deepcopy, "__module__": kind.__module__}
    net.__class__ = type(kind.__name__, (kind,), methods)
    return net


class _Pickler(pickle.Pickler):
    """Pickles all but tensors, which it collects."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        super().__init__(self._file, protocol=4)
        self._tensors: dict[int, tuple[int, torch.Tensor]] = {}  # by id: place, tensor

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, torch.Tensor):
            return None
        return self._tensors.setdefault(id(value), (len(self._tensors), value))[0]

    def split(self, value: object) -> tuple[bytes, list[torch.Tensor]]:
        """The pickle of `value`, and the tensors that it refers to."""
        self.dump(value)
        return self._file.getvalue(), [tensor for _, tensor in self._tensors.values()]


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` made."""

    def __init__(self, structure: bytes, tensors: list[torch.Tensor]):
        super().__init__(io.BytesIO(structure))
        self._tensors = tensors

    def persistent_load(self, place: int) -> torch.Tensor:
        return self._tensors[place]

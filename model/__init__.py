"""The networks: each `model/NAME.py` with a class `Net` is a model that `--model NAME` selects; and their weight files."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from common.errors import InputError, one_line

if TYPE_CHECKING:
    from evaluation.pretrained import Pretrained

NOT_MODELS = {"ops", "names", "checkpoint", "export", "init", "bf16"}


def model_names() -> list[str]:
    """The names that `--model` takes for a network, in alphabetical order."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - NOT_MODELS)


def net_class(name: str) -> type[nn.Module]:
    """The class `Net` of `model/NAME.py`. `InputError` where there is none."""
    if name not in model_names():
        raise InputError(f"there is no model {name!r}: --model takes {', '.join(model_names())} (a file model/NAME.py)")
    try:
        module = importlib.import_module(f"model.{name}")
    except Exception as error:  # a file of somebody else may fail in any way
        raise InputError(f"model/{name}.py cannot be imported ({type(error).__name__}: {one_line(error)})") from None
    if not hasattr(module, "Net"):
        raise InputError(f"model/{name}.py has no class Net: a model needs Net(scale=, multi_scale=, group=)")
    return module.Net


def build_net(name: str, scale: int, multi_scale: bool = False, group: int = 1) -> nn.Module:
    """`model/NAME.py`'s `Net(scale=, multi_scale=, group=)`, freshly initialised; `InputError` if that fails."""
    net = net_class(name)
    try:
        return net(scale=scale, multi_scale=multi_scale, group=group)
    except InputError:
        raise
    except Exception as error:  # a file of somebody else may fail in any way
        what = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"model/{name}.py cannot be built with scale={scale}, group={group} ({what})") from None


def load(
    path: Path | str,
    scale: int | None = None,
    model: str = "cfsrcnn",
    device: str | torch.device = "auto",
    precision: str = "fp32",
) -> Pretrained:
    """The network in a weight file, ready for use: `load("checkpoint/x2/cfsrcnn_x2.pth").upscale(image)`.

    `scale`: 2, 3 or 4; may be left out for a CFSRCNN of one scale. `device`: "auto", "cpu", "cuda", "mps" or PyTorch's.
    `precision`: "fp32", "bf16", "fp16" or "auto", see `Pretrained`. Raises `InputError`, saying what is wrong, if they do
    not fit together.
    """
    from evaluation.pretrained import Pretrained  # here, since `evaluation/` stands on `model/`
    from model.checkpoint import load_net, only_scale

    scale = scale or only_scale(path)
    return Pretrained(load_net(path, model, scale), scale, device, precision)

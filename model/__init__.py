"""The networks and their weight files. Each `model/NAME.py` with a class `Net` is a model that `--model NAME` selects."""

from __future__ import annotations

import importlib
import pkgutil

from torch import nn

from common.errors import InputError, summarize_exception

NOT_MODELS = {"ops", "key_mapping", "checkpoint", "export", "init", "esa"}


def model_names() -> list[str]:
    """The network names that `--model` accepts, in alphabetical order."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - NOT_MODELS)


def get_model_class(name: str) -> type[nn.Module]:
    """The class `Net` of `model/NAME.py`. Raises `InputError` if there is none."""
    if name not in model_names():
        raise InputError(f"there is no model {name!r}: --model takes {', '.join(model_names())} (a file model/NAME.py)")
    try:
        module = importlib.import_module(f"model.{name}")
    except Exception as error:  # third-party code may fail in any way
        raise InputError(
            f"model/{name}.py cannot be imported ({type(error).__name__}: {summarize_exception(error)})"
        ) from None
    if not hasattr(module, "Net"):
        raise InputError(f"model/{name}.py has no class Net: a model needs Net(scale=, multi_scale=, group=)")
    return module.Net


def create_model(name: str, scale: int, multi_scale: bool = False, group: int = 1) -> nn.Module:
    """A newly initialized `Net(scale=, multi_scale=, group=)` of `model/NAME.py`. Raises `InputError` if that fails."""
    net = get_model_class(name)
    try:
        return net(scale=scale, multi_scale=multi_scale, group=group)
    except InputError:
        raise
    except Exception as error:  # third-party code may fail in any way
        what = f"{type(error).__name__}: {summarize_exception(error)}"
        raise InputError(f"model/{name}.py cannot be built with scale={scale}, group={group} ({what})") from None

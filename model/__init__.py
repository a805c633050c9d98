"""The networks and their weight files. Each `model/NAME.py` with a class `Net` is a model that `--model NAME` selects."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from traceback import extract_tb

from torch import Tensor, nn

from common.errors import InputError, summarize_exception

NOT_MODELS = {"ops", "key_mapping", "checkpoint", "export", "init", "esa"}


def model_names() -> list[str]:
    """The network names that `--model` accepts, in alphabetical order."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - NOT_MODELS)


def check_model_name(name: str) -> None:
    """Raises `InputError` if `--model` does not accept the name."""
    if name not in model_names():
        raise InputError(f"there is no model {name!r}: --model takes {', '.join(model_names())} (a file model/NAME.py)")


def get_model_class(name: str) -> type[nn.Module]:
    """The class `Net` of `model/NAME.py`. Raises `InputError` if there is none."""
    check_model_name(name)
    try:
        module = importlib.import_module(f"model.{name}")
    except Exception as error:  # third-party code may fail in any way
        raise InputError(f"model/{name}.py cannot be imported ({describe_failure(name, error)})") from None
    if not hasattr(module, "Net"):
        raise InputError(f"model/{name}.py has no class Net: a model needs Net(scale=, multi_scale=, group=)")
    return module.Net


def create_model(name: str, scale: int, multi_scale: bool = False, group: int = 1) -> nn.Module:
    """A newly initialized `Net(scale=, multi_scale=, group=)` of `model/NAME.py`. Raises `InputError` if that fails.

    It takes `forward(x, scale)`, also if its author wrote `forward(x)` alone.
    """
    model_class = get_model_class(name)
    try:
        net = model_class(scale=scale, multi_scale=multi_scale, group=group)
    except InputError:
        raise
    except Exception as error:  # third-party code may fail in any way
        what = describe_failure(name, error)
        raise InputError(f"model/{name}.py cannot be built with scale={scale}, group={group} ({what})") from None
    if not isinstance(net, nn.Module):
        raise InputError(f"model/{name}.py: Net makes a {type(net).__name__}, but a model must be a torch.nn.Module")
    return _accept_scale(net)


def describe_failure(name: str, error: Exception) -> str:
    """An exception of the code of `model/NAME.py` on one line: its type, its message, and the line of that file."""
    numbers = [frame.lineno for frame in extract_tb(error.__traceback__) if Path(frame.filename).name == f"{name}.py"]
    if isinstance(error, SyntaxError) and Path(error.filename or "").name == f"{name}.py":
        numbers.append(error.lineno)
    where = f", line {numbers[-1]}" if numbers else ""
    return f"{type(error).__name__}: {summarize_exception(error)[:200]}{where}"


def _accept_scale(net: nn.Module) -> nn.Module:
    """`net`; if its `forward` takes no scale, of a subclass whose `forward` ignores it, so that copies of `net` do, too."""
    kind = type(net)
    try:
        inspect.signature(net.forward).bind(None, 2)
        return net
    except ValueError:  # a forward without a signature, such as a compiled one
        return net
    except TypeError:
        pass

    def forward(self: nn.Module, x: Tensor, scale: int | None = None) -> Tensor:
        return kind.forward(self, x)

    net.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return net

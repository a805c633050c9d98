"""The networks and their weight files. Each `model/NAME.py` with a class `Net` is a model that `--model NAME` selects."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from traceback import extract_tb

from torch import Tensor, nn

from common.errors import InputError, summarize_exception

NEEDS = "a model needs Net(scale=, multi_scale=, group=)"


def model_names() -> list[str]:
    """The network names that `--model` accepts, in alphabetical order. Imports none, so one that fails hides no other."""
    return sorted(name for name in _module_names() if _defines_net(name))


def source_files(name: str) -> list[Path]:
    """The files of `model/NAME.py` and of the other modules in `model/` that it imports, directly or through others."""
    found: dict[str, list[Path]] = {}
    names = [name]
    while names:
        if (each := names.pop()) in found:
            continue
        found[each] = _files_of(each)
        for file in found[each]:
            with suppress(OSError, SyntaxError, ValueError):  # a compiled module
                names += _imported_names(file) & _module_names()
    return sorted(file for files in found.values() for file in files)


def check_model_name(name: str) -> None:
    """Raises `InputError` if `--model` does not accept the name."""
    names = model_names()
    if name not in names:
        why = f"--model takes {', '.join(names)} (a file model/NAME.py)"
        if name in _module_names():
            why = f"model/{name}.py has no class Net: {NEEDS}"
        raise InputError(f"there is no model {name!r}: {why}")


def get_model_class(name: str) -> type[nn.Module]:
    """The class `Net` of `model/NAME.py`. Raises `InputError` if there is none."""
    check_model_name(name)
    try:
        module = importlib.import_module(f"model.{name}")
    except Exception as error:  # third-party code may fail in any way
        raise InputError(f"model/{name}.py cannot be imported ({describe_failure(name, error)})") from None
    if not hasattr(module, "Net"):
        raise InputError(f"model/{name}.py has no class Net: {NEEDS}")
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


def failed_model(error: Exception) -> str | None:
    """The module in `model/` whose code raised an exception, directly or in what it called; None if none did."""
    for frame in reversed(extract_tb(error.__traceback__)):
        for folder in map(Path, __path__):
            if folder in (file := Path(frame.filename)).parents:
                return Path(file.relative_to(folder).parts[0]).stem
    return None


def _module_names() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _files_of(name: str) -> list[Path]:
    """The file of `model/NAME.py`, or those of a package `model/NAME/`."""
    spec = PathFinder.find_spec(name, __path__)
    folders = (spec and spec.submodule_search_locations) or []
    inside = sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
    return inside or ([Path(spec.origin)] if spec and spec.origin else [])


def _imported_names(file: Path) -> set[str]:
    """All parts of the dotted names in the import statements of a source file."""
    imports = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in imports for alias in node.names]
    names += [node.module or "" for node in imports if isinstance(node, ast.ImportFrom)]
    return {part for name in names for part in name.split(".")}


def _defines_net(name: str) -> bool:
    """Whether the source of `model/NAME.py` binds the name `Net`. True if it cannot be parsed: importing it says why."""
    spec = PathFinder.find_spec(name, __path__)
    try:
        nodes = list(ast.walk(ast.parse(Path(spec.origin if spec and spec.origin else "").read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return True
    defined = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    defined |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined |= {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    return not defined.isdisjoint({"Net", "*"})  # all names of another module may be among them


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

    def reduce(self: nn.Module, protocol: int) -> tuple:  # the subclass cannot be imported, `kind` can
        plain = kind.__new__(kind)
        plain.__dict__.update(self.__dict__)
        return _accept_scale, (plain,)

    methods = {"forward": forward, "__reduce_ex__": reduce, "__module__": kind.__module__}
    net.__class__ = type(kind.__name__, (kind,), methods)
    return net

"""Packages that only some users need: found, or one line that says what to install."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from common.errors import InputError


def is_installed(*names: str) -> bool:
    """Whether all these packages are there; none is imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def load_package(name: str, needed_for: str) -> ModuleType:
    """Imports a package of requirements-backends.txt; `InputError` that begins with `needed_for` where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{needed_for} needs the package {name}: pip install -r requirements-backends.txt") from None

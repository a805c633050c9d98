"""`--compile`: a network, or a part of it, through TorchInductor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import TypeVar, cast

import torch

from common.errors import InputError

Run = TypeVar("Run", bound=Callable)


def compiled(run: Run, dynamic: bool = False) -> Run:
    """`run`, compiled at its first call, which takes a minute or so. `dynamic`: for images of any size.

    Raises `InputError` where there is no C++ compiler for TorchInductor to call.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        raise InputError("--compile needs a C++ compiler (g++ or clang++): install one, or leave --compile out")
    return cast(Run, torch.compile(run, dynamic=dynamic))

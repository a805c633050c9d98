"""Exported graphs of CFSRCNN in a cache folder, since an export takes seconds. Without a usable folder, none are kept.

The folder is $CFSRCNN_CACHE, else cfsrcnn in $XDG_CACHE_HOME or ~/.cache. Files are SHA-256 of the graph (32 bytes), graph.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import nn

from common.errors import InputError
from common.files import atomic_write
from model import source_files
from model.export import to_onnx

CACHED = ("model.cfsrcnn.", "model.ops.", "torch.nn.")  # classes that use no code but PyTorch's and that of model/
PLAIN = (int, float, str, tuple, list, type(None))
PACKAGES = ("torch", "onnx", "onnxscript")
MAX_FILES = 32  # of up to 4 MB; the least recently used ones are removed
OURS = "[0-9a-f]" * 64 + ".onnx"  # the folder may hold files of others
# the code as it is imported: what the files hold later does not make the graphs of this process
CODE = [file.read_bytes() for file in sorted({*source_files("cfsrcnn"), *source_files("export")})]


def cached_onnx(net: nn.Module, scale: int, stage: str = "forward") -> bytes:
    """`to_onnx`, or what it returned before for the same weights, code, scale, stage and versions. Raises what it raises."""
    try:
        file = cache_folder() / f"{_key(net, scale, stage)}.onnx"
    except (LookupError, PackageNotFoundError, RuntimeError):
        return to_onnx(net, scale, stage)
    with suppress(OSError):
        content = file.read_bytes()
        if sha256(content[32:]).digest() == content[:32]:
            with suppress(OSError):
                os.utime(file)
            return content[32:]
    graph = to_onnx(net, scale, stage)
    with suppress(OSError, InputError):
        with atomic_write(file) as temporary:
            temporary.write_bytes(sha256(graph).digest() + graph)
        for old in sorted(file.parent.glob(OURS), key=os.path.getmtime)[:-MAX_FILES]:
            old.unlink()
    return graph


def cache_folder() -> Path:
    """Where the graphs are kept; it need not exist. Raises `RuntimeError` if the home folder is unknown."""
    if folder := os.environ.get("CFSRCNN_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cfsrcnn"


def _key(net: nn.Module, scale: int, stage: str) -> str:
    """A hash of all that the graph depends on. Raises `LookupError` if that is more than can be told."""
    digest = sha256(repr((scale, stage, [version(each) for each in PACKAGES], CODE)).encode())
    inherited = vars(nn.Module()).keys()
    for name, module in net.named_modules():
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        own = {key: value for key, value in vars(module).items() if key not in inherited}
        hooks = bool(module._forward_hooks or module._forward_pre_hooks)
        if hooks or not kind.startswith(CACHED) or not all(isinstance(value, PLAIN) for value in own.values()):
            raise LookupError(kind)
        digest.update(repr((name, kind, own)).encode())
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        digest.update(repr((name, value.shape, value.dtype)).encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()

"""Weight files: loads every known format safely, puts the weights into a network, writes ours and the authors' format.

A CFSRCNN checkpoint may have the authors' keys or ours (`model/key_mapping.py`), one scale or several, be a `.pth` or a
`.safetensors` file, bare or nested as other training code saves it (`UNWRAP_KEYS`), with the prefixes that wrappers leave
on the keys (`WRAPPER_PREFIXES`, `PARENT_PREFIXES`).
Command line: `python -m model.checkpoint show FILE`, and `convert IN OUT --format authors|native`.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import re
import sys
import warnings
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from common import SCALES
from common.cli import CliParser
from common.errors import (
    InputError,
    escape_unprintable,
    run_cli,
    searched_in,
    summarize_exception,
    translate_access_errors,
)
from common.files import DeferredErrorFile, atomic_write, ensure_not_input
from model import create_model, get_model_class, model_names
from model.key_mapping import StateDict, inspect_state_dict, to_authors, to_native

UNWRAP_KEYS = (  # the best weights first: a file may hold EMA weights beside the others
    "params_ema",
    "ema_state_dict",
    "g_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "net_g",
    "netG",
    "generator",
    "model",
    "net",
    "network",
)
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DataParallel and DDP, torch.compile: never part of a network
PARENT_PREFIXES = (  # a module around the network
    "model.",
    "net_g.",
    "netG.",
    "generator.",
    "net.",
    "network.",
    "ema_model.",
)
TRAINING_STATE_KEYS = {"options", "images", "step", "window", "net", "optimizer", "sampler"}  # of training/state.py

MAX_LISTED = 6  # weight files that a message names

_reported: set[str] = set()


def read_state_dict(path: Path | str) -> StateDict:
    """The state dict in a weight file, unwrapped and without the prefixes of wrappers. No code in the file is ever executed.

    What was taken off is reported once per file on stderr. Raises `InputError` if the file is missing, is not a weight file,
    or is a pickle of more than weights.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a .pth or .safetensors file in it")
    if not path.is_file():
        missing = f"does not exist{searched_in(path)}"
        what = "is a link to a file that does not exist" if path.is_symlink() else missing
        raise InputError(f"{path} {what}: name a .pth or .safetensors file")
    try:
        with translate_access_errors(path):
            loaded = load_file(path) if path.suffix.lower() == ".safetensors" else safe_torch_load(path)
    except InputError:
        raise
    except Exception as error:  # torch.load raises nearly anything for a damaged file
        raise InputError(f"{path} is not a readable weight file ({summarize_exception(error)[:120]})") from None
    if isinstance(loaded, dict) and loaded.keys() >= TRAINING_STATE_KEYS:
        raise InputError(
            f"{path} is the state of a training run, for --resume: its weights are in the .pth files beside it"
        )
    wrappers, state = _unwrap(loaded)
    if state is None:
        raise InputError(f"{path} holds no weights: expected tensors by name, or those inside {', '.join(UNWRAP_KEYS)}")
    plain, prefix = _strip_prefixes(state)
    _report(path, wrappers, prefix, len(state) - len(plain))
    return plain


def _unwrap(loaded: Any) -> tuple[list[str], StateDict | None]:
    """The tensors by name in what a file holds, and the keys that lead there; None if there are none."""
    wrappers: list[str] = []
    while isinstance(loaded, dict) and loaded:
        if all(_is_plain(value) for value in loaded.values()):
            return wrappers, {str(name): value for name, value in loaded.items()}
        key = next((each for each in UNWRAP_KEYS if isinstance(loaded.get(each), dict) and loaded[each]), None)
        if key is None:
            break
        wrappers.append(key)
        loaded = loaded[key]
    return wrappers, None


def _strip_prefixes(state: StateDict) -> tuple[StateDict, str]:
    """The state dict without the prefixes that others leave on all keys, and what was removed.

    A parent's prefix may be part of a third-party network, so it goes only where a CFSRCNN appears under it; what stands
    beside it, such as the weights of a loss, is dropped then.
    """
    removed = ""
    while inspect_state_dict(state) is None:
        prefix = next((each for each in WRAPPER_PREFIXES if all(name.startswith(each) for name in state)), None)
        if prefix is None:
            break
        removed += prefix
        state = {name[len(prefix) :]: value for name, value in state.items()}
    for prefix in PARENT_PREFIXES if inspect_state_dict(state) is None else ():
        below = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        inner, deeper = _strip_prefixes(below) if below else (below, "")
        if inspect_state_dict(inner) is not None:
            return inner, removed + prefix + deeper
    return state, removed


def _report(path: Path, wrappers: list[str], prefix: str, dropped: int) -> None:
    """Says once per file on stderr which of another program's wrapping was taken off."""
    what = [f"read from {' / '.join(wrappers)}"] if wrappers else []
    what += [f"the prefix {prefix} removed from the keys"] if prefix else []
    what += [f"{dropped} other tensors ignored"] if dropped else []
    if what and (line := f"{path}: {', '.join(what)}") not in _reported:
        _reported.add(line)
        print(line, file=sys.stderr)


def safe_torch_load(path: Path) -> Any:
    """`torch.load` for untrusted files: plain data only, no code is executed. A damaged file may raise any exception.

    Raises `InputError` for a file of another type, one that would run code, and one that would expand to far more memory
    than its size.
    """
    with open(path, "rb") as file:
        if (start := file.read(2))[:1] != pickle.PROTO and start != b"PK":
            what = f"starts with {start!r}, not as a pickle or zip file" if start else "is empty"
            raise InputError(f"{path} is not a PyTorch weight file: it {what}")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > max(path.stat().st_size * 2, 1 << 20):
                raise InputError(f"{path} has an implausible compression ratio (decompression bomb): refused")
    try:
        with warnings.catch_warnings():  # of odd files, besides the error
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower():
            raise InputError(
                f"{path} is a pickle of more than weights, which could run code: refused; ask its author for a state dict"
            ) from None
        raise


def hash_file(path: Path) -> str:
    """SHA-256 of a weight file in hexadecimal digits, as the model cards have it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def infer_scale(path: Path | str) -> int:
    """The scale of a CFSRCNN checkpoint. Raises `InputError` if it supports several or is of another network."""
    info = inspect_state_dict(read_state_dict(path))
    if info is None or info.multi_scale:
        raise InputError(f"{path} is {info or 'not of CFSRCNN'}: choose its scale, 2, 3 or 4 (--scale)")
    return info.scales[0]


def load_model(path: Path | str, model: str = "cfsrcnn", scale: int = 2, group: int = 1) -> nn.Module:
    """The network of `model/MODEL.py` with the weights of `path`, ready to upscale by `scale` (2, 3 or 4).

    A multi-scale checkpoint works for each of its scales. Raises `InputError`, which says what the file is, if it does not fit.
    """
    if not Path(path).exists():
        raise InputError(f"{path} does not exist{searched_in(Path(path))}: {_suggest_path(Path(path), scale)}")
    get_model_class(model)
    state = read_state_dict(path)
    info = inspect_state_dict(state)
    if info is not None and model == "cfsrcnn":
        if scale not in info.scales:
            fits = "|".join(map(str, info.scales))
            raise InputError(f"{path} is {info}, not for --scale {scale}: use --scale {fits} or another file")
        net = create_model(model, scale, info.multi_scale, group)
        return _load_strict(net, to_native(state), path)
    net = create_model(model, scale, group=group)
    if _shapes(net.state_dict()) != _shapes(state):
        with suppress(InputError):  # third-party networks need not support several scales
            net = create_model(model, scale, multi_scale=True, group=group)
    for prefix in ("", *PARENT_PREFIXES):
        inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if inner and _shapes(net.state_dict()) == _shapes(inner):
            _report(Path(path), [], prefix, len(state) - len(inner))
            return _load_strict(net, inner, path)
    what = f"{info}" if info else f"a file of {len(state)} tensors such as {next(iter(state))}"
    raise InputError(f"{path} does not fit --model {model} --scale {scale}: it is {what}")


def load_compatible_weights(net: nn.Module, path: Path | str) -> str:
    """Copies the weights of `path` into `net`, those of the upsampler only if the scale is the same. Returns a summary.

    Raises `InputError` if any other layer is missing or has another shape.
    """
    state, own = read_state_dict(path), net.state_dict()
    if inspect_state_dict(state) is not None:
        state = to_native(state)
    taken = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    upsampler = {name for name in (*state, *own) if "upsample" in name}
    if not upsampler <= taken.keys():
        taken = {name: value for name, value in taken.items() if name not in upsampler}
    left = [name for name in own if name not in taken]
    if wrong := [name for name in left if "upsample" not in name]:
        raise InputError(f"{path} cannot be a start for this network: {wrong[0]} is missing or of another shape")
    _check_finite(taken, path)
    net.load_state_dict(taken, strict=False)
    rest = "" if not left else f", {len(left)} of the upsampler left as initialized"
    return f"{len(taken)} tensors taken from {path}{rest}"


def save_state_dict(state: StateDict, path: Path | str) -> None:
    """Writes a state dict as `.safetensors` or, for any other suffix, as a `.pth` file of weights alone."""
    contiguous = torch.contiguous_format  # copies each tensor: .safetensors accepts none that share memory
    state = {name: value.detach().cpu().clone(memory_format=contiguous) for name, value in state.items()}
    with atomic_write(path) as temporary:
        if Path(path).suffix.lower() == ".safetensors":
            temporary.write_bytes(save(state))
        else:
            with DeferredErrorFile(temporary) as file:
                torch.save(state, file)


def _suggest_path(path: Path, scale: int) -> str:
    """A suggestion for a path that does not exist: the same path with `scale` in it, or the files that exist."""
    meant = Path(re.sub(r"(?<![A-Za-z0-9])x[234](?![0-9])", f"x{scale}", str(path)))
    if meant != path:
        return f"for --scale {scale} you mean {meant}" + ("" if meant.is_file() else ", which is not there yet either")
    return _list_weights()


def suggest_weights(model: str, scale: int) -> str:
    """The value for --ckpt_path: the pretrained file for this network and scale if it is there, else what to do instead."""
    if model != "cfsrcnn":
        return f"FILE, such as `python train.py --model {model} --scale {scale}` makes"
    pretrained = [file for file in _find_weights() if file.match(f"x{scale}/cfsrcnn_x{scale}.*")]
    return str(pretrained[0]) if pretrained else f"FILE; {_list_weights()}"


def _find_weights() -> list[Path]:
    """The weight files in ./checkpoint or, if there are none, in that of this repository."""
    places = (Path("checkpoint"), Path(__file__).parent.parent / "checkpoint")
    found = (sorted(file for file in place.rglob("*") if file.suffix in (".pth", ".safetensors")) for place in places)
    return next(filter(None, found), [])


def _list_weights() -> str:
    there = [str(file) for file in _find_weights()]
    if not there:
        return "there are none in checkpoint/: copy that folder from the repository, or train one with train.py"
    more = len(there) - MAX_LISTED
    return f"there are {', '.join(there[:MAX_LISTED])}" + (f" and {more} more" if more > 0 else "")


def _is_plain(value: object) -> bool:
    """An ordinary tensor: dense, real, not quantized, with storage for each of its values (none expanded)."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized or value.is_complex() or value.is_meta:
        return False
    if value.layout != torch.strided:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _shapes(state: StateDict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _load_strict(net: nn.Module, state: StateDict, path: Path | str) -> nn.Module:
    own, given = _shapes(net.state_dict()), _shapes(state)
    for name in own:
        if own[name] != given.get(name):
            raise InputError(f"{path} is damaged: {name} is {given.get(name, 'missing')}, not {own[name]}")
    if extra := [name for name in given if name not in own]:
        raise InputError(f"{path} has a tensor that the network does not know: {extra[0]}")
    _check_finite(state, path)
    net.load_state_dict(state)
    return net


def _check_finite(state: StateDict, path: Path | str) -> None:
    for name, value in state.items():
        if not torch.isfinite(value.float()).all():  # float(): not every 8-bit type knows isfinite
            raise InputError(f"{path} is damaged: {name} has values that are not finite")


def _describe(path: Path, state: StateDict) -> str:
    """What a weight file holds, for people. Raises `InputError` if it fits none of the networks in `model/`."""
    info = inspect_state_dict(state)
    if info is not None:
        model, scales, title = "cfsrcnn", info.scales, str(info)
        net = create_model(model, scales[0], info.multi_scale)
    else:
        model, net, scales = _identify(path, state)
        title = f"a checkpoint of {model}"
    trainable = {name for name, value in net.named_parameters() if value.requires_grad}
    counts = Counter({True: 0, False: 0})
    for name, value in to_native(state).items():
        counts[name in trainable] += value.numel()
    kind = "safetensors" if path.suffix.lower() == ".safetensors" else "PyTorch" + " zip" * zipfile.is_zipfile(path)
    types = ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in state.values()}))
    lines = [
        f"{path} is {title}",
        f"  model       {model}",
        f"  scale       {', '.join(map(str, scales))}",
        f"  parameters  {counts[True]:,} trainable" + f", {counts[False]:,} fixed" * bool(counts[False]),
        f"  file        {kind}, {types}, {path.stat().st_size / 1e6:.1f} MB",
        f"  SHA-256     {hash_file(path)}",
        f"  tensors     {len(state)}",
    ]
    width = max(map(len, state))
    lines += [f"    {name:{width}}  {'x'.join(map(str, value.shape)) or 'scalar'}" for name, value in state.items()]
    return "\n".join(map(escape_unprintable, lines))


def _identify(path: Path, state: StateDict) -> tuple[str, nn.Module, tuple[int, ...]]:
    """The network of `model/` whose tensors are those of `state`: its name, the network, its scales. `InputError` if none."""
    for model in model_names():
        nets: dict[int, nn.Module] = {}
        for scale, multi_scale in itertools.product(SCALES, (False, True)):
            with suppress(InputError):  # a network need not know each scale
                net = create_model(model, scale, multi_scale)
                if _shapes(net.state_dict()) == _shapes(state):
                    nets[scale] = net
        if nets:
            return model, next(iter(nets.values())), tuple(nets)
    first = next(iter(state))
    raise InputError(
        f"{path} is not a CFSRCNN checkpoint, nor one of another network in model/: its first tensor is {first}"
    )


def main() -> None:
    parser = CliParser(prog="python -m model.checkpoint", description="Weight files of CFSRCNN.")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="write a weight file in another format")
    convert.add_argument("input", type=Path, help="weights, .pth or .safetensors")
    convert.add_argument("output", type=Path, help="file to write, .pth or .safetensors")
    convert.add_argument("--format", choices=("authors", "native"), required=True, help="whose layer names to use")
    show = commands.add_parser("show", help="print what a weight file holds")
    show.add_argument("input", type=Path, help="weights, .pth or .safetensors")
    args = parser.parse_args()

    state = read_state_dict(args.input)
    if args.command == "show":
        print(_describe(args.input, state))
        return
    info = inspect_state_dict(state)
    if info is None:
        raise InputError(f"{args.input} is not a CFSRCNN checkpoint: its first tensor is {next(iter(state))}")
    ensure_not_input(args.output, [args.input])
    save_state_dict(to_authors(state) if args.format == "authors" else to_native(state), args.output)
    print(f"wrote {args.output} ({args.format} format, {', '.join(f'x{scale}' for scale in info.scales)})")


if __name__ == "__main__":
    run_cli(main)

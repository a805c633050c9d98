"""Weight files: reading any known form safely, putting them into a network, writing ours and the authors'.

Known forms of CFSRCNN are the authors' and ours (`model/names.py`), single- or multi-scale, as `.pth` or `.safetensors`, bare
or inside `state_dict`, `params_ema` or `params`, with or without the `module.` of DataParallel.
Command line: `python -m model.checkpoint show FILE`, and `convert IN OUT --format authors|native`.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from common.errors import InputError, one_line, run_command
from common.files import PatientFile, check_not_read, whole_file
from common.flags import Flags
from model import build_net, net_class
from model.names import State, identify, to_authors, to_native

WRAPPERS = ("params_ema", "params", "state_dict")


def read_state(path: Path | str) -> State:
    """The tensors of a weight file by name, unwrapped and without `module.`; nothing in the file is ever run.

    Raises `InputError` for a file that is missing, no weight file, or a pickle of more than weights.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a .pth or .safetensors file in it")
    if not path.is_file():
        raise InputError(f"{path} does not exist: name a .pth or .safetensors file")
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else load_plain(path)
    except InputError:
        raise
    except Exception as error:  # torch.load raises nearly anything for a damaged file
        raise InputError(f"{path} is no readable weight file ({one_line(error)[:120]})") from None
    if isinstance(loaded, dict) and "optimizer" in loaded:
        raise InputError(
            f"{path} is the state of a training run, for --resume: its weights are in the .pth files beside it"
        )
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, dict) or not loaded or not all(_is_plain(value) for value in loaded.values()):
        raise InputError(f"{path} holds no weights: expected tensors by name, or those inside {', '.join(WRAPPERS)}")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def load_plain(path: Path) -> Any:
    """What `torch.save` wrote, if it is plain data: nothing in it is run. Any error for a damaged file.

    `InputError` for what is no such file, would run code, or would take far more memory than its size.
    """
    with open(path, "rb") as file:
        if (start := file.read(2))[:1] != pickle.PROTO and start != b"PK":
            raise InputError(f"{path} is no PyTorch weight file: it starts with {start!r}, not as a pickle or zip file")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > max(path.stat().st_size * 2, 1 << 20):
                raise InputError(f"{path} is packed far smaller than its contents, as no weight file is: refused")
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


def only_scale(path: Path | str) -> int:
    """The scale of a CFSRCNN weight file. `InputError` if it serves several or is of another network."""
    contents = identify(read_state(path))
    if contents is None or contents.multi_scale:
        raise InputError(f"{path} is {contents or 'not of CFSRCNN'}: choose its scale, 2, 3 or 4 (--scale)")
    return contents.scales[0]


def load_net(path: Path | str, model: str = "cfsrcnn", scale: int = 2, group: int = 1) -> nn.Module:
    """The network `model/MODEL.py` with the weights of `path`, ready to upscale by `scale` (2, 3 or 4).

    A multi-scale file serves each of its scales. Raises `InputError`, saying what the file is, where it does not fit.
    """
    if not Path(path).exists():
        raise InputError(f"{path} does not exist: {_meant(Path(path), scale)}")
    net_class(model)
    state = read_state(path)
    contents = identify(state)
    if contents is not None and model == "cfsrcnn":
        if scale not in contents.scales:
            fits = "|".join(map(str, contents.scales))
            raise InputError(f"{path} is {contents}, not for --scale {scale}: use --scale {fits} or another file")
        net = build_net(model, scale, contents.multi_scale, group)
        return _fill(net, to_native(state), path)
    net = build_net(model, scale, group=group)
    if _shapes(net.state_dict()) != _shapes(state):
        with suppress(InputError):  # a network of somebody else need not serve several scales
            net = build_net(model, scale, multi_scale=True, group=group)
    if _shapes(net.state_dict()) == _shapes(state):
        return _fill(net, state, path)
    what = f"{contents}" if contents else f"a file of {len(state)} tensors such as {next(iter(state))}"
    raise InputError(f"{path} does not fit --model {model} --scale {scale}: it is {what}")


def load_matching(net: nn.Module, path: Path | str) -> str:
    """Copies into `net` all weights of `path`, but the upsampler's only if they are of the same scale; says what it did.

    Raises `InputError` where another layer is missing or of another shape.
    """
    state, own = read_state(path), net.state_dict()
    if identify(state) is not None:
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
    rest = "" if not left else f", {len(left)} of the upsampler left as initialised"
    return f"{len(taken)} tensors taken from {path}{rest}"


def save_state(state: State, path: Path | str) -> None:
    """Writes a state dict as `.safetensors` or, with any other ending, as a `.pth` of weights alone."""
    whole = torch.contiguous_format  # each tensor by itself: .safetensors takes none that share memory
    state = {name: value.detach().cpu().clone(memory_format=whole) for name, value in state.items()}
    with whole_file(path) as temporary:
        if Path(path).suffix == ".safetensors":
            temporary.write_bytes(save(state))
        else:
            with PatientFile(temporary) as file:
                torch.save(state, file)


def _meant(path: Path, scale: int) -> str:
    """What the user of a path that does not exist may have meant: the same path with `scale` in it, or what there is."""
    meant = Path(re.sub(r"(?<![A-Za-z0-9])x[234](?![0-9])", f"x{scale}", str(path)))
    if meant != path:
        return f"for --scale {scale} you mean {meant}" + ("" if meant.is_file() else ", which is not there yet either")
    there = sorted(map(str, Path("checkpoint").glob("**/*.pth")))
    return f"there are {', '.join(there)}" if there else "train one with train.py"


def _is_plain(value: object) -> bool:
    """An ordinary tensor: dense, real, not quantised, with all of its values at hand and not one that stands for many."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized or value.is_complex() or value.is_meta:
        return False
    if value.layout != torch.strided:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _fill(net: nn.Module, state: State, path: Path | str) -> nn.Module:
    own, given = _shapes(net.state_dict()), _shapes(state)
    for name in own:
        if own[name] != given.get(name):
            raise InputError(f"{path} is damaged: {name} is {given.get(name, 'missing')}, not {own[name]}")
    if extra := [name for name in given if name not in own]:
        raise InputError(f"{path} has a tensor that the network does not know: {extra[0]}")
    _check_finite(state, path)
    net.load_state_dict(state)
    return net


def _check_finite(state: State, path: Path | str) -> None:
    for name, value in state.items():
        if not torch.isfinite(value.float()).all():  # float(): not every 8-bit type knows isfinite
            raise InputError(f"{path} is damaged: {name} has values that are not finite")


def main() -> None:
    parser = Flags(prog="python -m model.checkpoint", description="Weight files of CFSRCNN.")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="write a weight file in another form")
    convert.add_argument("input", type=Path, help="weights, .pth or .safetensors")
    convert.add_argument("output", type=Path, help="the file to write, .safetensors by its ending")
    convert.add_argument("--format", choices=("authors", "native"), required=True, help="whose layer names")
    show = commands.add_parser("show", help="say what a weight file holds")
    show.add_argument("input", type=Path, help="weights, .pth or .safetensors")
    args = parser.parse_args()

    state = read_state(args.input)
    contents = identify(state)
    if contents is None:
        raise InputError(f"{args.input} is no CFSRCNN checkpoint: its first tensor is {next(iter(state))}")
    if args.command == "show":
        print(f"{args.input} is {contents}: {sum(value.numel() for value in state.values()):,} values")
        return
    check_not_read(args.output, [args.input])
    save_state(to_authors(state) if args.format == "authors" else to_native(state), args.output)
    print(f"wrote {args.output} ({args.format} form, {', '.join(f'x{scale}' for scale in contents.scales)})")


if __name__ == "__main__":
    run_command(main)

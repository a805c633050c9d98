"""The average of several weight files, such as those before and after fine-tuning on other images.

Command line: `python -m model.average A.pth B.pth --out FILE`. Runs that start from the same weights average well: the mean
keeps much of what each learned and less of their noise (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022,
and "Model soups", ICML 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from common.cli import CliParser, bounded
from common.errors import InputError, run_cli
from common.files import ensure_not_input
from model.checkpoint import check_finite, read_state_dict, save_state_dict
from model.key_mapping import StateDict, inspect_state_dict, to_native


def average_weights(files: Sequence[Path], weights: Sequence[float]) -> StateDict:
    """The mean of the tensors in `files`, each file weighted by its share of `weights`; CFSRCNN's are returned in native form.

    Computed in float64 and returned in the types of the first file.
    Raises `InputError` if the files cannot be read, differ in names, shapes or tensors of integers, or are not finite.
    """
    states = [_read(file) for file in files]
    first = states[0]
    for file, state in zip(files, states, strict=True):
        for name in first.keys() | state.keys():
            if name not in first or name not in state or first[name].shape != state[name].shape:
                raise InputError(f"{file} and {files[0]} are not the same network: {name} differs or is in one only")
            if not (first[name].is_floating_point() or torch.equal(first[name], state[name])):
                raise InputError(f"{file} and {files[0]} cannot be averaged: {name} holds other whole numbers")
    shares = [weight / math.fsum(weights) for weight in weights]

    def mean(name: str) -> torch.Tensor:
        if not first[name].is_floating_point():
            return first[name]
        parts = (share * state[name].double() for share, state in zip(shares, states, strict=True))
        return torch.stack(list(parts)).sum(0).to(first[name].dtype)

    return {name: mean(name) for name in first}


def _read(file: Path) -> StateDict:
    state = read_state_dict(file)
    check_finite(state, file)
    return to_native(state) if inspect_state_dict(state) else state


def main() -> None:
    parser = CliParser(prog="python -m model.average", description="Average several weight files of one network.")
    share = bounded(float, lambda value: 0 < value < math.inf, "a number above zero")
    parser.add_argument("input", type=Path, nargs="+", help="weights, .pth or .safetensors")
    parser.add_argument("--weights", type=share, nargs="+", help="of the files, in their order (default: all equal)")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .pth or .safetensors")
    args = parser.parse_args()
    weights = args.weights or [1.0] * len(args.input)
    if len(weights) != len(args.input):
        raise InputError(f"--weights has {len(weights)} numbers for {len(args.input)} files: give one for each file")
    if len(args.input) < 2:
        raise InputError("one file has no average: name two or more")
    ensure_not_input(args.out, args.input)
    save_state_dict(average_weights(args.input, weights), args.out)
    print(f"wrote {args.out}: the average of {len(args.input)} files")


if __name__ == "__main__":
    run_cli(main)

"""State dict keys: maps the authors' layer names to ours and back, and tells what a state dict holds. Reads no files.

The authors' keys are `conv1.0.weight`, ...; ours, called "native", are `febs.0.feu.weight`, ....
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common import SCALES

StateDict = dict[str, Tensor]


def _authors_names() -> dict[str, str]:
    """Native name -> the authors' name of each layer, as in Figure 2 (docs/paper_map.md), in the authors' order."""
    names: dict[str, str] = {}
    for k in range(17):
        names |= {f"febs.{k}.feu": f"conv{2 * k + 1}.0", f"febs.{k}.cu": f"conv{2 * k + 2}.0"}
    del names["febs.16.cu"]  # the last FEB has no CU
    names |= {f"eb.feus.{k}": f"conv{34 + k}.0" for k in range(6)}
    names |= {f"frb.feus.{k}": f"conv34_{k + 1}.0" for k in range(5)}
    return names | {"frb.conv": "conv41.0"}


AUTHORS_NAME = _authors_names()
NATIVE_NAME = {authors: native for native, authors in AUTHORS_NAME.items()}


@dataclass(frozen=True)
class CheckpointInfo:
    """What a CFSRCNN checkpoint holds: its `key_format` ("authors" or "native") and the scales it supports."""

    key_format: str
    scales: tuple[int, ...]

    @property
    def multi_scale(self) -> bool:
        """Whether one network supports several scales."""
        return len(self.scales) > 1

    def __str__(self) -> str:
        kind = "a multi-scale" if self.multi_scale else f"an x{self.scales[0]}"
        keys = "the authors'" if self.key_format == "authors" else "native"
        return f"{kind} CFSRCNN checkpoint in {keys} format"


def inspect_state_dict(state: StateDict) -> CheckpointInfo | None:
    """What a CFSRCNN state dict holds, inferred from its keys and shapes. None if it is not of CFSRCNN."""
    key_format = "native" if "febs.0.feu.weight" in state else "authors" if "conv34_1.0.weight" in state else None
    if key_format is None:
        return None
    prefix = "cb.upsample." if key_format == "native" else "upsample."
    if f"{prefix}up2.body.0.weight" in state:
        return CheckpointInfo(key_format, SCALES)
    first = state.get(f"{prefix}up.body.0.weight")
    if first is None:
        return None
    if first.shape[:1] == (9 * 64,):
        return CheckpointInfo(key_format, (3,))
    return CheckpointInfo(key_format, (4,) if f"{prefix}up.body.2.weight" in state else (2,))


def to_native(state: StateDict) -> StateDict:
    """Renames the authors' keys to ours. A native state dict is returned unchanged. Tensors are not copied."""
    return {_rename(name, NATIVE_NAME, ("upsample.", "cb.upsample.")): value for name, value in state.items()}


def to_authors(state: StateDict) -> StateDict:
    """Renames our keys to the authors' and puts them in their order: mean shifts, layers, upsampler."""
    renamed = {_rename(name, AUTHORS_NAME, ("cb.upsample.", "upsample.")): value for name, value in state.items()}
    order = ["sub_mean.shifter", "add_mean.shifter", *AUTHORS_NAME.values()]
    place = {layer: number for number, layer in enumerate(order)}

    def position(name: str) -> tuple[int, str, bool]:
        layer, _, kind = name.rpartition(".")
        return place.get(layer, len(place)), layer, kind != "weight"

    return {name: renamed[name] for name in sorted(renamed, key=position)}


def _rename(name: str, table: dict[str, str], prefix: tuple[str, str]) -> str:
    if name.startswith(prefix[0]):
        return prefix[1] + name[len(prefix[0]) :]
    layer, _, kind = name.rpartition(".")
    return f"{table[layer]}.{kind}" if layer in table else name

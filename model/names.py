"""The layers' names in the authors' checkpoints and in ours, and what a state dict of either holds. Reads no files.

The authors' names are `conv1.0.weight`, ...; ours, "native": `febs.0.feu.weight`, ....
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.scales import SCALES

State = dict[str, Tensor]


def _authors_names() -> dict[str, str]:
    """Native name -> the authors' name of each layer, read off Figure 2 (docs/paper_map.md), in the authors' order."""
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
class Contents:
    """What a CFSRCNN weight file holds: its `form` ("authors" or "native") and the scales it serves."""

    form: str
    scales: tuple[int, ...]

    @property
    def multi_scale(self) -> bool:
        """Whether one network serves several scales."""
        return len(self.scales) > 1

    def __str__(self) -> str:
        kind = "a multi-scale" if self.multi_scale else f"an x{self.scales[0]}"
        form = "the authors'" if self.form == "authors" else "native"
        return f"{kind} CFSRCNN checkpoint in {form} form"


def identify(state: State) -> Contents | None:
    """What a state dict of CFSRCNN holds, found in its names and shapes; None if it is not of CFSRCNN."""
    form = "native" if "febs.0.feu.weight" in state else "authors" if "conv34_1.0.weight" in state else None
    if form is None:
        return None
    prefix = "cb.upsample." if form == "native" else "upsample."
    if f"{prefix}up2.body.0.weight" in state:
        return Contents(form, SCALES)
    first = state.get(f"{prefix}up.body.0.weight")
    if first is None:
        return None
    if first.shape[:1] == (9 * 64,):
        return Contents(form, (3,))
    return Contents(form, (4,) if f"{prefix}up.body.2.weight" in state else (2,))


def to_native(state: State) -> State:
    """Renames the authors' layers to ours; a native state comes back as it is. The tensors are the same."""
    return {_rename(name, NATIVE_NAME, ("upsample.", "cb.upsample.")): value for name, value in state.items()}


def to_authors(state: State) -> State:
    """Renames our layers to the authors'; the order becomes theirs too: mean shifts, layers, upsampler."""
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

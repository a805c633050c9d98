"""Parameters, MACs and activations of CFSRCNN, counted on the running network and compared with the paper's Table X.

No number is hard-coded: the network runs on a small LR image, and each convolution that PyTorch executes counts one MAC per
output value and weight that contributes to it. Biases, sums, ReLU and pixel shuffles are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from common import SCALES
from common.tables import Table
from evaluation.paper import paper_results
from model.cfsrcnn import CFSRCNN, FEU

PATCH = 77  # side of the paper's training patches in LR pixels
WIDTH, HEIGHT = 1280, 720  # the SR size for which most papers count
HOW_COUNTED = (
    "parameters: all trained ones, biases included, without the frozen mean shifts",
    "MACs: PyTorch's FlopCounterMode over all convolutions, halved, since it counts a MAC as two",
    "activations: output values of all convolutions",
    f"1280x720: the size of the SR image, so {WIDTH}x{HEIGHT}/s^2 LR pixels, each of which costs the same",
    '"merged": the two passes through the shared upsampler as one, which is the default; "reference": both, as in Figure 2',
)


@dataclass(frozen=True)
class Count:
    """Trained parameters; MACs and convolution outputs (activations) for one LR image of `pixels` pixels."""

    parameters: int
    macs: int
    activations: int
    pixels: int

    def scaled(self, pixels: float) -> Count:
        """The counts for `pixels` LR pixels: in a convolutional network both are proportional to them."""
        macs, activations = (round(each * pixels / self.pixels) for each in (self.macs, self.activations))
        return Count(self.parameters, macs, activations, round(pixels))


def count(net: nn.Module, scale: int, height: int = 8, width: int = 8) -> Count:
    """The cost of `net(lr, scale)` for one LR image of height x width pixels."""
    outputs = _ConvolutionOutputs()
    with FlopCounterMode(display=False) as flops, outputs, torch.no_grad():
        net(torch.zeros(1, 3, height, width), scale)
    parameters = sum(each.numel() for each in net.parameters() if each.requires_grad)
    return Count(parameters, flops.get_total_flops() // 2, outputs.values, height * width)


def count_cfsrcnn(scale: int, merged: bool = True) -> Count:
    """CFSRCNN on one LR patch of 77x77, with the upsampler run once (merged) or twice (reference)."""
    net = CFSRCNN(scale)
    net.cb.merge = merged
    return count(net, scale).scaled(PATCH**2)


def count_all() -> dict:
    """All counts, as written to the JSON file: by scale, by input size, merged and reference."""
    scales = {}
    for scale in SCALES:
        by_variant = {"merged": count_cfsrcnn(scale), "reference": count_cfsrcnn(scale, merged=False)}
        sizes = {f"lr_{PATCH}x{PATCH}": PATCH**2, f"sr_{WIDTH}x{HEIGHT}": WIDTH * HEIGHT / scale**2}
        scales[f"x{scale}"] = {
            "parameters": by_variant["merged"].parameters,
            **{
                size: {
                    variant: {"macs": each.macs, "activations": each.activations}
                    for variant, each in ((variant, counted.scaled(pixels)) for variant, counted in by_variant.items())
                }
                for size, pixels in sizes.items()
            },
        }
    multi = CFSRCNN(0, multi_scale=True)
    return {
        "scales": scales,
        "parameters_multi_scale": count(multi, 2).parameters,
        "paper_x2": dict(zip(("parameters_k", "flops_g"), paper_results.complexity()["CFSRCNN"], strict=True)),
        "how_counted": list(HOW_COUNTED),
        "about_the_paper": explain(scales["x2"]),
    }


def explain(x2: dict) -> list[str]:
    """Sentences on what explains the paper's parameters and "Flops" and what does not, with every number computed."""
    rows = paper_results.complexity()
    parameters_k, flops_g = rows["CFSRCNN"]
    sides = [round((float(rows[name][1]) * 1e6 / float(rows[name][0])) ** 0.5) for name in ("VDSR", "DnCNN")]
    patch = x2[f"lr_{PATCH}x{PATCH}"]
    merged, reference = (patch[variant]["macs"] / 1e9 for variant in ("merged", "reference"))
    net = CFSRCNN(2)
    feu = _size(FEU())
    fewer = round((x2["parameters"] - float(parameters_k) * 1000) / feu)
    fewest = merged - fewer * feu * PATCH**2 / 1e9
    return [
        f'image size of Table X: VDSR and DnCNN use each weight once per SR pixel, so "Flops" over parameters give the '
        f"pixels: {sides[0]}x{sides[0]} and {sides[1]}x{sides[1]}, twice {PATCH}; so it is for one LR patch of {PATCH}x{PATCH}",
        f"{flops_g}G: matches the MACs for that patch with the upsampler counted once ({merged:.3f} G), as a counter does that "
        f"keeps one number per layer; the reference, with both passes, has {reference:.3f} G",
        f"{parameters_k}K: matches no count of this network, which has {x2['parameters']:,} parameters, as have the authors' "
        f"checkpoints. Without the upsampler it has {x2['parameters'] - _size(net.cb):,}. With {fewer} of its 3x3 "
        f"convolutions 64 -> 64 fewer it would have {x2['parameters'] - fewer * feu:,}, but if they were at the LR size then "
        f"{fewest:.2f} G MACs, so the two numbers do not come from one count",
    ]


def scale_table(counted: dict) -> Table:
    """Per scale: parameters, then MACs and activations for both input sizes."""
    sizes = {f"lr_{PATCH}x{PATCH}": f"LR {PATCH}x{PATCH}", f"sr_{WIDTH}x{HEIGHT}": f"SR {WIDTH}x{HEIGHT}"}
    head = [("scale", ""), ("upsampler", ""), ("parameters", "")]
    head += [(text, unit) for text in sizes.values() for unit in ("MACs (G)", "activations (M)")]
    rows, records = [], []
    for scale, of_scale in counted["scales"].items():
        for variant in ("merged", "reference"):
            record = {"scale": scale, "upsampler": variant, "parameters": of_scale["parameters"]}
            row = [scale, variant, f"{of_scale['parameters']:,}"]
            for size in sizes:
                each = of_scale[size][variant]
                record |= {f"{size}_{kind}": each[kind] for kind in ("macs", "activations")}
                row += [f"{each['macs'] / 1e9:.3f}", f"{each['activations'] / 1e6:.1f}"]
            rows.append(row)
            records.append(record)
    multi = f"the multi-scale network has {counted['parameters_multi_scale']:,} parameters"
    return Table(
        "complexity_scales",
        "Complexity of CFSRCNN at each scale",
        head,
        rows,
        len(rows),
        records,
        2,
        [*counted["how_counted"], multi],
    )


class _ConvolutionOutputs(TorchDispatchMode):
    """Counts the output values of every convolution that runs inside it, including those outside any module."""

    values = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.values += out.numel()
        return out


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())

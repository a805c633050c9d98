"""Exports a network to ONNX with dynamic image sizes. Runs no graph itself.

Command line: `python -m model.export --ckpt_path FILE --out FILE.onnx`. The graph has the input `lr`, float32 Nx3xHxW, RGB in
[0, 1], and the output `sr`, float32 Nx3x(scale*H)x(scale*W), about [0, 1], not clamped. Its metadata says so too (`describe`).
"""

from __future__ import annotations

import argparse
import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import conv2d, relu

from common import SCALES
from common.cli import CliParser
from common.device import import_optional
from common.errors import InputError, escape_unprintable, run_cli, summarize_exception
from common.files import atomic_write
from common.units import format_bytes
from model.cfsrcnn import CU, FEB
from model.checkpoint import hash_file, infer_scale, load_model

STAGES = {"forward": (["lr"], ["sr"]), "extract": (["lr"], ["deep", "first"]), "refine": (["deep", "first"], ["sr"])}
LICENSE = "code: MIT; weights: as their author says (those of checkpoint/: MIT)"


class _Stage(nn.Module):
    """`forward`, `extract` or `refine` of a network at a fixed scale; takes and returns tensors only."""

    def __init__(self, net: nn.Module, stage: str, scale: int):
        super().__init__()
        self.net, self.stage, self.scale = net, stage, scale

    def forward(self, *maps: Tensor) -> Tensor | tuple[Tensor, ...]:
        rest = () if self.stage == "extract" else (self.scale,)
        return (self.net if self.stage == "forward" else getattr(self.net, self.stage))(*maps, *rest)


class _SplitConcatFEB(nn.Module):
    """A FEB whose CU is split into two convolutions, of the previous FEU and of this one, whose outputs are added.

    Runtimes fuse the addition into the convolution, while a concatenation copies its inputs. A test checks that the graph
    gives the network's output.
    """

    def __init__(self, feu: nn.Module, cu: CU):
        super().__init__()
        self.feu = feu
        of_previous, of_feu = cu.weight.detach().chunk(2, 1)  # 64x128x1x1 -> twice 64x64x1x1
        self.of_previous, self.of_feu = nn.Parameter(of_previous.clone()), nn.Parameter(of_feu.clone())

    def forward(self, x: Tensor, previous: Tensor, feu_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feu = self.feu(x)
        rectified = relu(feu)
        return relu(conv2d(previous, self.of_previous) + conv2d(rectified, self.of_feu)), rectified, feu_sum + feu


def to_onnx(net: nn.Module, scale: int, stage: str = "forward", metadata: dict[str, str] | None = None) -> bytes:
    """One of the `STAGES` of `net` at `scale` as a serialized ONNX model with dynamic batch size, height and width.

    `metadata`: name -> text, stored in the model beside its producer and `opset`. `net` is not modified. Raises `InputError` if
    the exporter's packages are missing, if they cannot express the network, or if its graph would depend on the size of the
    image.
    """
    for package in ("onnx", "onnxscript"):
        import_optional(package, "the export to ONNX")
    net = _split_concat_convs(copy.deepcopy(net).cpu().float().eval())
    inputs: tuple[Tensor, ...] = (torch.zeros(2, 3, 20, 24),)
    names = STAGES[stage]
    sizes = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            if stage == "refine":
                inputs = _Stage(net, "extract", scale)(*inputs)
            program = torch.onnx.export(
                _Stage(net, stage, scale).eval(),
                inputs,
                dynamo=True,
                dynamic_shapes=(tuple(sizes for _ in inputs),),
                input_names=names[0],
                output_names=names[1],
                verbose=False,
            )
        assert program is not None
    except Exception as error:  # third-party networks may fail in any way
        what = f"{type(error).__name__}: {summarize_exception(error)[:200]}"
        raise InputError(f"this network cannot become an ONNX graph for images of any size ({what})") from None
    sizes_out = [dim for out in program.model_proto.graph.output for dim in out.type.tensor_type.shape.dim[2:]]
    if not all(dim.dim_param for dim in sizes_out):
        raise InputError("this network cannot become an ONNX graph for images of any size (its output has a fixed one)")
    model = _strip_metadata(program.model_proto)
    model.producer_name, model.producer_version = "CFSRCNN in PyTorch", f"PyTorch {torch.__version__}"
    opset = next(each.version for each in model.opset_import if not each.domain)
    for name, text in ({"opset": str(opset)} | (metadata or {})).items():
        model.metadata_props.add(key=name, value=text)
    return model.SerializeToString()


def describe(path: Path, model: str, scale: int) -> dict[str, str]:
    """The metadata of an exported weight file: which network and weights it has, what goes in and what comes out."""
    return {
        "model": model,
        "scale": str(scale),
        "weights": escape_unprintable(path.name),
        "weights_sha256": hash_file(path),
        "layout": "NCHW, float32, RGB",
        "input_range": "[0, 1]",
        "output_range": "about [0, 1], not clamped",
        "model_license": LICENSE,
    }


def _split_concat_convs(net: nn.Module) -> nn.Module:
    """Replaces each FEB that has a predecessor and a CU by a `_SplitConcatFEB`, in place."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if (
                isinstance(child, FEB)
                and isinstance(child.cu, CU)
                and child.cu.in_channels == 2 * child.cu.out_channels
            ):
                setattr(parent, name, _SplitConcatFEB(child.feu, child.cu))
    return net


def _strip_metadata(model: Any) -> Any:
    """Removes the source locations that the exporter records: they hold local paths and outweigh the graph itself."""
    for each in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""
    del model.graph.value_info[:], model.graph.metadata_props[:]
    return model


def parse_flags() -> argparse.Namespace:
    """The flags of the command line. `InputError` unless a weight file and an output file are given."""
    example = "python -m model.export --ckpt_path checkpoint/x2/cfsrcnn_x2.pth --out cfsrcnn_x2.onnx"
    parser = CliParser(prog="python -m model.export", description="Export a network to ONNX.", example=example)
    parser.add_argument("files", nargs="*", type=Path, help=argparse.SUPPRESS)  # as before there were flags: CKPT OUT
    parser.add_argument("--ckpt_path", type=Path, help="weights, .pth or .safetensors")
    parser.add_argument("--out", type=Path, help="ONNX file to write")
    parser.add_argument("--scale", type=int, choices=SCALES, help="needed if the weights support several")
    parser.add_argument("--model", default="cfsrcnn", help="a file model/NAME.py with a class Net")
    parser.add_argument("--group", type=int, default=1, help="groups of the convolutions (cfsrcnn: 1)")
    args = parser.parse_intermixed_args()
    files = [*args.files, *(file for file in (args.ckpt_path, args.out) if file)]
    if len(files) != 2 or len(args.files) == 1:
        raise InputError("needs two files: --ckpt_path FILE --out FILE.onnx")
    args.ckpt_path, args.out = files
    if args.out.suffix != ".onnx":
        raise InputError(f"{args.out} does not end with .onnx: choose a name that does")
    return args


def main() -> None:
    args = parse_flags()
    scale = args.scale or infer_scale(args.ckpt_path)
    net = load_model(args.ckpt_path, args.model, scale, args.group)
    graph = to_onnx(net, scale, metadata=describe(args.ckpt_path, args.model, scale))
    with atomic_write(args.out) as temporary:
        temporary.write_bytes(graph)
    print(f"wrote {args.out} (x{scale}, {format_bytes(len(graph))})")


if __name__ == "__main__":
    run_cli(main)

"""Where the time of one image goes, by kind of operation: in PyTorch, and in OpenVINO where it is installed.

Says how far from nothing but convolutions a precision is. An engine's own clocks tell; PyTorch's slow it down a little.
Command line: `python -m benchmarks.layers --scale 2 --precision bf16`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.inference import SIDES, make_net
from benchmarks.timing import device_name
from common.device import fast_precision
from common.errors import run_command
from common.flags import Flags, positive
from common.memory import keep_freed_memory
from common.scales import SCALES
from evaluation.backends import openvino_requests, usable_backends
from evaluation.inference import PRECISIONS
from evaluation.tables import Table, to_markdown
from model.bf16 import fitted_to_bf16
from model.export import to_onnx

CPU = torch.device("cpu")
KINDS = {  # by words in the names that PyTorch and OpenVINO give
    "convolutions": ("mkldnn_convolution", "Convolution"),
    "ReLU": ("clamp_min", "threshold", "relu"),
    "concatenation": ("aten::cat", "Concat"),
    "sub-pixels": ("pixel_shuffle", "DepthToSpace"),
    "sums, and ReLU with them": ("aten::add", "Subgraph", "Eltwise"),
}
OTHER = "copies and other types"


def by_kind(milliseconds: dict[str, float]) -> dict[str, float]:
    """Adds up what operations of these names take, by `KINDS`."""
    found: Counter[str] = Counter()
    for name, each in milliseconds.items():
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHER)
        found[kind] += each  # type: ignore[assignment]  # Counter adds up any numbers
    return dict(found)


def in_pytorch(net: nn.Module, scale: int, lr: Tensor, precision: str, rounds: int) -> dict[str, float]:
    """Milliseconds an image by operation. `lr`: 1x3xHxW, float32 in [0, 1], channels_last."""
    keep_freed_memory()
    net = net.to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", PRECISIONS[precision], enabled=precision != "fp32"):
        net(lr, scale)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(rounds):
                net(lr, scale)
    return {event.key: event.self_cpu_time_total / 1e3 / rounds for event in profiled.key_averages()}


def in_openvino(net: nn.Module, scale: int, lr: Tensor, precision: str, rounds: int) -> dict[str, float]:
    """Likewise, with both stages one after the other."""
    found: Counter[str] = Counter()
    maps = [lr.permute(0, 2, 3, 1).numpy()]
    for stage in ("extract", "refine"):
        request = openvino_requests(to_onnx(net, scale, stage), precision, PERF_COUNT=True)(*(x.shape for x in maps))
        for number in range(rounds + 1):  # the first warms up
            made = request.infer(maps, share_inputs=True).to_tuple()
            for each in request.profiling_info if number else ():
                found[each.node_type] += each.real_time.total_seconds() * 1e3 / rounds
        maps = list(map(np.array, made))
    return dict(found)


def main() -> None:
    parser = Flags(prog="python -m benchmarks.layers", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, choices=SCALES, default=2, help="upscaling factor")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default=fast_precision(CPU), help="default: the fastest"
    )
    parser.add_argument("--rounds", type=positive, default=5, help="images; means are shown")
    args = parser.parse_args()
    side, net = SIDES[args.scale], make_net(args.scale).eval()
    fitted = fitted_to_bf16(net) if args.precision == "bf16" else net
    lr = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    ways = {"PyTorch": in_pytorch}
    if "openvino" in usable_backends(CPU, args.precision):
        ways["OpenVINO"] = in_openvino
    found = {name: by_kind(way(fitted, args.scale, lr, args.precision, args.rounds)) for name, way in ways.items()}
    rows = [
        [kind, *(f"{each.get(kind, 0):.1f} ({each.get(kind, 0) / sum(each.values()):.0%})" for each in found.values())]
        for kind in (*KINDS, OTHER)
    ]
    title = f"{side}x{side} at x{args.scale}, {args.precision}, {device_name(CPU)}"
    head = [("", ""), *((name, "ms") for name in found)]
    print(to_markdown(Table("layers", title, head, rows, len(rows), [])))


if __name__ == "__main__":
    run_command(main)

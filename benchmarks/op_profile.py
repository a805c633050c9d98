"""Where the time of one image goes, by kind of operation: in PyTorch and, if installed, in OpenVINO.

Shows how much of the time goes into convolutions. Each runtime's own profiler is used; PyTorch's adds a small overhead.
Command line: `python -m benchmarks.op_profile --scale 2 --precision bf16`.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.inference import SIDES, make_net
from benchmarks.timing import device_name
from common import SCALES
from common.cli import CliParser, positive_int
from common.device import preferred_precision
from common.errors import run_cli
from common.malloc import tune_malloc
from common.tables import Table, to_markdown
from inference.backends import openvino_requests, usable_backends
from inference.upscaler import PRECISIONS
from model.export import to_onnx

CPU = torch.device("cpu")
KINDS = {  # by parts of the names that PyTorch and OpenVINO give
    "convolutions": ("mkldnn_convolution", "Convolution"),
    "ReLU": ("clamp_min", "threshold", "relu"),
    "concatenation": ("aten::cat", "Concat"),
    "sub-pixels": ("pixel_shuffle", "DepthToSpace"),
    "sums, and ReLU with them": ("aten::add", "Subgraph", "Eltwise"),
}
OTHER = "copies and other types"


def by_kind(milliseconds: dict[str, float]) -> dict[str, float]:
    """Sums the times of the operations by `KINDS`."""
    found: Counter[str] = Counter()
    for name, each in milliseconds.items():
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)
        found[kind] += each  # type: ignore[assignment]  # Counter adds up any numbers
    return dict(found)


def in_pytorch(net: nn.Module, scale: int, lr: Tensor, precision: str, rounds: int) -> dict[str, float]:
    """Milliseconds an image by operation. `lr`: 1x3xHxW, float32 in [0, 1], channels_last."""
    net = net.to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", PRECISIONS[precision], enabled=precision != "fp32"):
        net(lr, scale)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own log, of GPUs that it looks for
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
    tune_malloc()
    parser = CliParser(prog="python -m benchmarks.op_profile", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, choices=SCALES, default=2, help="upscaling factor")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default=preferred_precision(CPU), help="default: the fastest"
    )
    parser.add_argument("--rounds", type=positive_int, default=5, help="images; means are shown")
    args = parser.parse_args()
    side, net = SIDES[args.scale], make_net(args.scale).eval()
    lr = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    runtimes = {"PyTorch": in_pytorch}
    if "openvino" in usable_backends(CPU, args.precision):
        runtimes["OpenVINO"] = in_openvino
    found = {name: by_kind(run(net, args.scale, lr, args.precision, args.rounds)) for name, run in runtimes.items()}
    rows = [
        [kind, *(f"{each.get(kind, 0):.1f} ({each.get(kind, 0) / sum(each.values()):.0%})" for each in found.values())]
        for kind in (*KINDS, OTHER)
    ]
    title = f"{side}x{side} at x{args.scale}, {args.precision}, {device_name(CPU)}"
    head = [("", ""), *((name, "ms") for name in found)]
    print(to_markdown(Table("op_profile", title, head, rows, len(rows), [])))


if __name__ == "__main__":
    run_cli(main)

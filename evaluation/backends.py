"""What runs a network, and in which precision: PyTorch, TorchInductor, or on the CPU ONNX Runtime or OpenVINO. Cuts no tiles.

For the last two the network is exported to ONNX (`model/export.py`); what runs it has the network's methods, for the `Tiler`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from common.compiled import compiled
from common.device import fast_precision
from common.errors import InputError, one_line
from common.optional import is_installed, load_package
from model.export import to_onnx

Run = Callable[..., tuple[Tensor, ...]]  # NxCxHxW float32 in, the same out
UNLIMITED = torch.finfo(torch.float32).max  # a clamp to it changes infinity alone


class Substitute(nn.Module):
    """The face of `net` at one scale whose `forward` runs in an engine; `original` stays at hand to be probed."""

    extract_maps, refine_side = 28, 512  # as `EXTRACT_MAPS` and `REFINE_SIDE` of `evaluation/tiles.py`, measured

    def __init__(self, net: nn.Module, scale: int, load: Callable[[bytes], Run]):
        super().__init__()
        self.original = net
        self._load(net, scale, load)

    def _load(self, net: nn.Module, scale: int, load: Callable[[bytes], Run]) -> None:
        self._forward = load(to_onnx(net, scale))

    def forward(self, lr: Tensor, scale: int) -> Tensor:
        return self._forward(lr)[0]


class StagedSubstitute(Substitute):
    """The same for a network of two stages."""

    def _load(self, net: nn.Module, scale: int, load: Callable[[bytes], Run]) -> None:
        self._extract, self._refine = (load(to_onnx(net, scale, stage)) for stage in ("extract", "refine"))

    def forward(self, lr: Tensor, scale: int) -> Tensor:
        deep, first = self.extract(lr)
        return self.refine(deep, first, scale)

    def extract(self, lr: Tensor) -> tuple[Tensor, ...]:
        return self._extract(lr)

    def refine(self, deep: Tensor, first: Tensor, scale: int) -> Tensor:
        return self._refine(deep, first)[0]


class Compiled(nn.Module):
    """The face of `net` whose two stages, or else the whole of it, run through TorchInductor; for images of any size.

    `original` stays at hand to be probed. `InputError` where there is no compiler.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.original = net
        for stage in ("extract", "refine") if _staged(net) else ("forward",):
            setattr(self, stage, compiled(getattr(net, stage), dynamic=True))


def _staged(net: nn.Module) -> bool:
    return hasattr(net, "extract") and hasattr(net, "refine")


def usable_backends(device: torch.device, precision: str) -> list[str]:
    """The backends that are installed and compute in that precision on that device, the fastest first."""
    engines = ENGINES.items() if device.type == "cpu" else ()
    return [name for name, each in engines if precision in each.precisions and is_installed(*each.packages)] + ["torch"]


def pick_precision(name: str, device: torch.device, backend: str = "torch", measured: bool = False) -> str:
    """The precision `name`; for "auto" the device's `fast_precision` if the backend knows it, else fp32.

    `measured`: the output is held against published figures, which are fp32, so "auto" is that.
    """
    if name != "auto":
        return name
    fast = "fp32" if measured else fast_precision(device)
    return fast if backend not in ENGINES or fast in ENGINES[backend].precisions else "fp32"


def start_backend(
    name: str, net: nn.Module, scale: int, device: torch.device, precision: str, by_inductor: bool = False
) -> tuple[str, nn.Module]:
    """The backend's name, and what runs `net` in it: `net` itself for "torch", or, `by_inductor`, `Compiled`.

    "auto" takes the first of `usable_backends` that can run the network. `InputError` where the named one cannot: it is
    not installed, the device is no CPU, it does not know the precision, or the network cannot be exported.
    """
    if by_inductor:
        if name != "torch":
            raise InputError(f"--compile is of --backend torch alone: leave out --compile, or --backend {name}")
        return name, Compiled(net)
    if name != "auto":
        return name, _start(name, net, scale, device, precision)
    for each in usable_backends(device, precision):
        try:
            return each, _start(each, net, scale, device, precision)
        except InputError as error:
            print(f"--backend auto goes on without {each}: {one_line(error)}", file=sys.stderr)
    return "torch", net


def _start(name: str, net: nn.Module, scale: int, device: torch.device, precision: str) -> nn.Module:
    if name == "torch":
        return net
    engine = ENGINES[name]
    if device.type != "cpu":
        raise InputError(f"--backend {name} computes on the CPU: use --device cpu, or --backend torch")
    if precision not in engine.precisions:
        known = "|".join(engine.precisions)
        raise InputError(f"--backend {name} knows --precision {known}, not {precision}: use it, or another --backend")
    for package in engine.packages:
        load_package(package, f"--backend {name}")
    substitute = StagedSubstitute if _staged(net) else Substitute
    try:
        return substitute(net, scale, lambda graph: engine.load(graph, precision))
    except InputError:
        raise
    except Exception as error:  # an engine may lack an operation that the network of somebody else has
        what = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise InputError(f"--backend {name} cannot run this network ({what}): use --backend torch") from None


@lru_cache
def _openvino_core() -> Any:
    """One for the process: of two, the one freed last leaves signals the other's freed stack, and Ctrl-C then crashes."""
    import openvino

    return openvino.Core()


def openvino_requests(graph: bytes, precision: str, **settings: object) -> Callable[..., Any]:
    """What makes a request of OpenVINO's to compute the graph on maps of given shapes NxHxWxC, float32 in and out.

    Channels last from end to end, as OpenVINO computes; with "bf16" the last layer still gives float32.
    Compiled anew for images of another size, which takes a fraction of a second: a graph for all sizes takes 1.6 times
    the memory, since it shares none between layers. `settings`: more of OpenVINO's own.
    """
    import openvino  # the packages of an engine are there when its loader is called
    from openvino import opset13, preprocess

    core = _openvino_core()
    model = core.read_model(graph)
    edges = preprocess.PrePostProcessor(model)
    for number in range(len(model.inputs)):
        edges.input(number).tensor().set_layout(openvino.Layout("NHWC"))
        edges.input(number).model().set_layout(openvino.Layout("NCHW"))
    for number in range(len(model.outputs)):
        edges.output(number).model().set_layout(openvino.Layout("NCHW"))
        edges.output(number).tensor().set_layout(openvino.Layout("NHWC"))
        if precision == "bf16":  # a convolution rounds its sums to bf16, but not with such an operation behind it
            edges.output(number).postprocess().custom(lambda out: opset13.clamp(out, -UNLIMITED, UNLIMITED).output(0))
    settings |= {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = edges.build()
    core.compile_model(model, "CPU", settings)  # an operation that it lacks shows now

    @lru_cache(maxsize=1)
    def request(*shapes: tuple[int, ...]) -> openvino.InferRequest:
        model.reshape({number: openvino.PartialShape(shape) for number, shape in enumerate(shapes)})
        return core.compile_model(model, "CPU", settings).create_infer_request()

    return request


def _load_openvino(graph: bytes, precision: str) -> Run:
    request = openvino_requests(graph, precision)

    def run(*maps: Tensor) -> tuple[Tensor, ...]:
        arrays = [each.permute(0, 2, 3, 1).contiguous().numpy() for each in maps]
        results = request(*(each.shape for each in arrays)).infer(arrays, share_inputs=True)
        return tuple(torch.from_numpy(each).permute(0, 3, 1, 2) for each in results.to_tuple())

    return run


def _load_onnxruntime(graph: bytes, precision: str) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*maps: Tensor) -> tuple[Tensor, ...]:
        results = session.run(None, {n: each.contiguous().numpy() for n, each in zip(names, maps, strict=True)})
        return tuple(map(torch.from_numpy, results))

    return run


@dataclass(frozen=True)
class Engine:
    """The packages that it needs, the precisions that it knows on a CPU, and how it loads a graph in one of them."""

    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    load: Callable[[bytes, str], Run]


ENGINES = {  # the fastest first
    "openvino": Engine(("onnx", "onnxscript", "openvino"), ("fp32", "bf16"), _load_openvino),
    "onnxruntime": Engine(("onnx", "onnxscript", "onnxruntime"), ("fp32",), _load_onnxruntime),
}
BACKENDS = ("torch", *ENGINES, "auto")

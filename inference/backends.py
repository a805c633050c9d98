"""Backends that run a network: PyTorch, TorchInductor, or on the CPU ONNX Runtime or OpenVINO; and their precisions.

For the last two the network is exported to ONNX (`model/export.py`). Wrappers have the methods of the network they wrap.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from common.device import (
    check_precision,
    compile_module,
    import_optional,
    is_installed,
    pick_device,
    preferred_precision,
)
from common.errors import InputError, summarize_exception
from inference.graph_cache import cached_onnx

Run = Callable[..., tuple[Tensor, ...]]  # float32 NxCxHxW in and out
FP32_MAX = torch.finfo(torch.float32).max  # clamping to it changes only infinity


class BackendModel(nn.Module):
    """Wrapper of a network at a fixed scale that runs it in a runtime. `unwrapped`: the network, for probing.

    Its `check_input(lr)`, if it has one, is called first: a graph raises no errors, and a runtime may crash instead.
    """

    extract_maps, refine_side = 28, 512  # in place of EXTRACT_MAPS and REFINE_SIDE of `inference/tiling.py`; measured

    def __init__(self, net: nn.Module, scale: int, load: Callable[[bytes], Run]):
        super().__init__()
        self.unwrapped = net
        self._load(net, scale, load)

    def _load(self, net: nn.Module, scale: int, load: Callable[[bytes], Run]) -> None:
        self._forward = load(cached_onnx(net, scale))

    def _check_input(self, lr: Tensor) -> None:
        if check := getattr(self.unwrapped, "check_input", None):
            check(lr)

    def forward(self, lr: Tensor, scale: int) -> Tensor:
        self._check_input(lr)
        return self._forward(lr)[0]


class TwoStageBackendModel(BackendModel):
    """The same for a network with the stages `extract` and `refine`."""

    def _load(self, net: nn.Module, scale: int, load: Callable[[bytes], Run]) -> None:
        self._extract, self._refine = (load(cached_onnx(net, scale, stage)) for stage in ("extract", "refine"))

    def forward(self, lr: Tensor, scale: int) -> Tensor:
        deep, first = self.extract(lr)
        return self.refine(deep, first, scale)

    def extract(self, lr: Tensor) -> tuple[Tensor, ...]:
        self._check_input(lr)
        return self._extract(lr)

    def refine(self, deep: Tensor, first: Tensor, scale: int) -> Tensor:
        return self._refine(deep, first)[0]


class CompiledModel(nn.Module):
    """Wrapper of a network that compiles its two stages, or else its `forward`, with TorchInductor, for images of any size.

    `unwrapped`: the network, for probing. Raises `InputError` if there is no C++ compiler.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.unwrapped = net
        for stage in ("extract", "refine") if _has_two_stages(net) else ("forward",):
            setattr(self, stage, compile_module(getattr(net, stage), dynamic=True))


def _has_two_stages(net: nn.Module) -> bool:
    return hasattr(net, "extract") and hasattr(net, "refine")


def usable_backends(device: torch.device, precision: str) -> list[str]:
    """The installed backends that support this precision on this device, the fastest first."""
    runtimes = RUNTIMES.items() if device.type == "cpu" else ()
    return [name for name, each in runtimes if precision in each.precisions and is_installed(*each.packages)] + [
        "torch"
    ]


def pick_backend_device(name: str, backend: str) -> torch.device:
    """`pick_device`, but "auto" is the CPU for a backend that runs on nothing else."""
    return pick_device("cpu" if name == "auto" and backend in RUNTIMES else name)


def resolve_precision(name: str, device: torch.device, backend: str = "torch", measured: bool = False) -> str:
    """The precision `name`; "auto" becomes the device's `preferred_precision` if the backend supports it, else fp32.

    `measured`: the output is compared with published results, which are fp32, so "auto" is fp32.
    """
    if name != "auto":
        return name
    fast = "fp32" if measured else preferred_precision(device)
    return fast if backend not in RUNTIMES or fast in RUNTIMES[backend].precisions else "fp32"


def start_backend(
    name: str, net: nn.Module, scale: int, device: torch.device, precision: str, compile: bool = False
) -> tuple[str, nn.Module]:
    """The backend's name and the module that runs `net`: `net` itself for "torch", or a wrapper. `compile`: TorchInductor.

    "auto" takes the first of `usable_backends` that can run the network. Raises `InputError` if the named one cannot: it is
    not installed, the device is no CPU, it does not support the precision, or the network cannot be exported; and for bf16 on
    a GPU that emulates it.
    """
    check_precision(device, precision)
    if compile:
        if name != "torch":
            raise InputError(f"--compile needs --backend torch: leave out --compile, or --backend {name}")
        return name, CompiledModel(net)
    if name != "auto":
        return name, _start(name, net, scale, device, precision)
    for each in usable_backends(device, precision):
        try:
            return each, _start(each, net, scale, device, precision)
        except InputError as error:
            print(f"--backend auto skips {each}: {summarize_exception(error)}", file=sys.stderr)
    return "torch", net


def _start(name: str, net: nn.Module, scale: int, device: torch.device, precision: str) -> nn.Module:
    if name == "torch":
        return net
    runtime = RUNTIMES[name]
    if device.type != "cpu":
        raise InputError(f"--backend {name} runs on the CPU: use --device cpu, or --backend torch")
    if precision not in runtime.precisions:
        known = "|".join(runtime.precisions)
        raise InputError(
            f"--backend {name} supports --precision {known}, not {precision}: use it, or another --backend"
        )
    for package in runtime.packages:
        import_optional(package, f"--backend {name}")
    wrapper = TwoStageBackendModel if _has_two_stages(net) else BackendModel
    try:
        return wrapper(net, scale, lambda graph: runtime.load(graph, precision))
    except InputError:
        raise
    except Exception as error:  # a runtime may lack an operation of a third-party network
        what = f"{type(error).__name__}: {summarize_exception(error)[:200]}"
        raise InputError(f"--backend {name} cannot run this network ({what}): use --backend torch") from None


@lru_cache
def _openvino_core() -> Any:
    """One Core per process: destroying a second leaves a dangling signal stack, and Ctrl-C then crashes."""
    import openvino

    return openvino.Core()


def openvino_requests(graph: bytes, precision: str, **settings: object) -> Callable[..., Any]:
    """A function that returns an OpenVINO inference request for maps of given shapes NxHxWxC, float32 in and out.

    Channels last from end to end, OpenVINO's own layout; with "bf16" the output is still float32. The graph is compiled again
    for each image size, which takes a fraction of a second: a dynamic graph takes 1.6 times the memory, since it shares none
    between layers. `settings`: further OpenVINO properties.
    """
    import openvino  # optional; `_start` has checked that it is installed
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
        if precision == "bf16":  # keeps the last convolution from rounding its output to bf16
            edges.output(number).postprocess().custom(lambda out: opset13.clamp(out, -FP32_MAX, FP32_MAX).output(0))
    settings |= {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = edges.build()
    core.compile_model(model, "CPU", settings)  # fails now if an operation is not supported

    @lru_cache(maxsize=1)
    def request(*shapes: tuple[int, ...]) -> openvino.InferRequest:
        model.reshape({number: openvino.PartialShape(shape) for number, shape in enumerate(shapes)})
        return core.compile_model(model, "CPU", settings).create_infer_request()

    return request


def _load_openvino(graph: bytes, precision: str) -> Run:
    request = openvino_requests(graph, precision)
    lock = threading.Lock()  # threads may share the network, while a request runs once at a time

    def run(*maps: Tensor) -> tuple[Tensor, ...]:
        arrays = [each.permute(0, 2, 3, 1).contiguous().numpy() for each in maps]
        with lock:
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
class Runtime:
    """The packages of a runtime, the precisions it supports on a CPU, and the function that loads a graph in one of them."""

    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    load: Callable[[bytes, str], Run]


RUNTIMES = {  # the fastest first
    "openvino": Runtime(("onnx", "onnxscript", "openvino"), ("fp32", "bf16"), _load_openvino),
    "onnxruntime": Runtime(("onnx", "onnxscript", "onnxruntime"), ("fp32",), _load_onnxruntime),
}
BACKENDS = ("torch", *RUNTIMES, "auto")

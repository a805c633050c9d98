"""Training speed: the optimized step against a straightforward one, in one run, and the parts of a step.

"baseline" crops and augments each patch in Python behind a `DataLoader`, and trains the network as the paper writes it:
NCHW, float32, both passes through the upsampler. On synthetic images: no speed depends on their content.
Command line: `python -m benchmarks.training --out results/training.json`; `--quick` for a first look.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.json_output import write_json
from benchmarks.synthetic import synthetic_training_set, write_synthetic
from benchmarks.timing import SubprocessJob, device_name, min_seconds, time_interleaved
from common.cli import CliParser, positive_int
from common.device import available_memory, fixed_shapes, has_bf16, pick_device
from common.errors import run_cli
from common.malloc import tune_malloc
from common.tables import Table, to_markdown
from dataset.hdf5 import TrainingImages
from dataset.patches import PatchSampler
from evaluation.complexity import count_cfsrcnn
from model import create_model
from model.init import init_weights
from solver import OPTIMIZERS, Solver
from training.config import TrainConfig
from training.cuda_graph import EAGER_STEPS
from training.distributed import DistributedContext
from training.memory import RESERVE, TRANSIENT, activation_bytes

STEPS = ((8, 24), (16, 32))  # patches, side of an LR patch; at x2
GPU_STEPS = ((44, 48), (64, 77), *STEPS)  # first as the pretrained weights were trained, and as the paper trains
SAMPLER = (64, 77)  # as the paper trains
TRAINING_SET = 64, 160, 240  # images of so many LR pixels
CONVOLUTION = "bf16 convolutions alone"  # with as many MACs: what a step could take at best
Job = Callable[[], object]


class BaselinePatches(Dataset[tuple[Tensor, Tensor]]):
    """One patch per item, cropped and augmented in Python."""

    def __init__(self, images: TrainingImages, patch: int):
        self.images, self.patch = images, patch

    def __len__(self) -> int:
        return 1 << 30  # an endless epoch

    def __getitem__(self, _: int) -> tuple[Tensor, Tensor]:
        number, patch = random.randrange(len(self.images)), self.patch
        lr, hr = self.images.lr[2][number], self.images.hr[number]
        y, x = random.randint(0, lr.shape[0] - patch), random.randint(0, lr.shape[1] - patch)
        lr, hr = lr[y : y + patch, x : x + patch], hr[2 * y : 2 * (y + patch), 2 * x : 2 * (x + patch)]
        if random.random() < 0.5:
            lr, hr = np.fliplr(lr), np.fliplr(hr)
        rotations = random.randrange(4)
        return _to_tensor(np.rot90(lr, rotations)), _to_tensor(np.rot90(hr, rotations))


def _to_tensor(patch: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1))).float() / 255


def baseline_batches(batch: int, patch: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches by a `DataLoader`."""
    random.seed(0)
    return iter(DataLoader(BaselinePatches(synthetic_training_set(*TRAINING_SET), patch), batch, num_workers=workers))


def make_baseline_step(batch: int, patch: int, workers: int, device: torch.device) -> Job:
    """A straightforward training step, for a process of its own."""
    torch.manual_seed(0)
    net = create_model("cfsrcnn", 2).to(device)
    init_weights(net, "identity")
    net.get_submodule("cb").merge = False  # type: ignore[assignment]
    optimizer = torch.optim.Adam([weight for weight in net.parameters() if weight.requires_grad], 1e-4)
    batches = baseline_batches(batch, patch, workers)

    def step() -> None:
        lr, hr = (each.to(device) for each in next(batches))
        optimizer.zero_grad()
        nn.functional.mse_loss(net(lr, 2), hr).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10)
        optimizer.step()

    return step


def make_solver(folder: Path, batch: int, patch: int, device: torch.device, **settings: Any) -> Solver:
    """A run in `folder` on synthetic images, without validation; `settings`: further fields of `TrainConfig`."""
    path = folder / "train.h5"
    if not path.exists():
        write_synthetic(path, synthetic_training_set(*TRAINING_SET))
    where = {"train_data_path": str(path), "val_data_dir": "none", "ckpt_dir": str(folder / "run")}
    size = {"batch_size": batch, "patch_size": patch}
    config = TrainConfig(**{"init": "identity", **where, **size, **settings})  # type: ignore[arg-type]
    return Solver(config, DistributedContext(pick_device(device.type)))


def optimized(precisions: list[str], optimizers: list[str], compile: bool, graph: bool) -> dict[str, dict[str, Any]]:
    """The settings of each optimized row, by its name; `compile` and `graph`: also with --compile, --cuda_graph and both."""
    ways = [(c, g) for c in (False, True)[: 1 + compile] for g in (False, True)[: 1 + graph]]
    found: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        for optimizer in optimizers:
            name = precision if optimizer == "adam" else f"{precision}, {optimizer}"
            for compiled, graphed in ways:
                row = name + ", compiled" * compiled + ", CUDA graph" * graphed
                found[row] = {"precision": precision, "optimizer": optimizer}
                found[row] |= {"compile": True} if compiled else {}
                found[row] |= {"cuda_graph": True} if graphed else {}
    return found


def compare_steps(
    folder: Path,
    device: torch.device,
    configs: dict[str, dict[str, Any]],
    rounds: int,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """By batch size: seconds of a step, baseline with 0 and 4 workers and each of `configs`; on CUDA also peak memory in GB.

    `keep` is called after each batch size with what was measured so far: compiling takes minutes, and may be stopped.
    Rows with a CUDA graph are timed after the others, one by one, and have no peak: a graph keeps the memory of its step.
    """
    found, memory = {}, {}
    graphed = {name: settings for name, settings in configs.items() if settings.get("cuda_graph")}
    for batch, patch in GPU_STEPS if device.type == "cuda" else STEPS:
        size = f"{batch} x {patch}x{patch}"
        if not has_room(batch, patch, device):
            print(f"{size} is left out: there is too little free memory on the GPU", file=sys.stderr)
            continue
        make = partial(make_solver, folder, batch, patch, device)
        solvers = {name: make(**settings) for name, settings in configs.items() if name not in graphed}
        steps: dict[str, Job] = {name: solver.train_step for name, solver in solvers.items()}
        convolution = {CONVOLUTION: bare_convolution(batch, patch, device)}
        start = partial(SubprocessJob, make_baseline_step, batch, patch)
        with start(0, device) as alone, start(4, device) as helped:
            jobs: dict[str, Job] = {"baseline, 0 workers": alone, "baseline, 4 workers": helped, **steps, **convolution}
            times = time_interleaved(jobs, rounds, size, min_seconds(device))
        if device.type == "cuda":
            memory[size] = {name: peak_memory(step, device) for name, step in steps.items()}
        graphs = {name: time_graphed(partial(make, **settings), rounds, name) for name, settings in graphed.items()}
        order = [name for name in times if name not in steps and name != CONVOLUTION] + [*configs, CONVOLUTION]
        found[size] = {name: (times | graphs)[name] for name in order}
        keep({"steps": found} | ({"peak_memory_gb": memory} if memory else {}))
    return found, memory


def has_room(batch: int, patch: int, device: torch.device) -> bool:
    """Whether a step of each of the two baselines and one of ours, in fp32, fit onto a GPU side by side."""
    step = TRANSIENT * activation_bytes(TrainConfig(batch_size=batch, patch_size=patch), 1) + RESERVE
    return device.type != "cuda" or 3 * step < available_memory(device)


def time_graphed(make: Callable[[], Solver], rounds: int, name: str) -> float:
    """Seconds of a step of a run with a CUDA graph, which is recorded before and freed afterwards."""
    free_memory()  # while a graph is recorded, PyTorch does not give back what it has cached
    solver = make()
    for _ in range(EAGER_STEPS):
        solver.train_step()
    seconds = time_interleaved({name: solver.train_step}, rounds, name, min_seconds(solver.device))[name]
    del solver
    free_memory()
    return seconds


def free_memory() -> None:
    """Gives back GPU memory that nothing uses any more."""
    gc.collect()  # a run and its graph refer to each other
    torch.cuda.empty_cache()


def bare_convolution(batch: int, patch: int, device: torch.device) -> Job:
    """A bf16 convolution 64 -> 64 at LR size with as many MACs as a step, of which the backward pass counts as two."""
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, torch.bfloat16).to(memory_format=torch.channels_last)
    x = torch.rand(batch, 64, patch, patch, device=device).bfloat16().contiguous(memory_format=torch.channels_last)
    repeats = round(3 * count_cfsrcnn(2).scaled(patch**2).macs / (64 * 64 * 9 * patch**2))

    @torch.inference_mode()
    def run() -> None:
        with fixed_shapes(device):  # as training steps have it
            for _ in range(repeats):
                conv(x)

    return run


def peak_memory(step: Job, device: torch.device) -> float:
    """GB that a step allocates at most on a CUDA device, by PyTorch, beyond what was allocated before it."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return (torch.cuda.max_memory_allocated(device) - before) / 1e9


def compare_samplers(device: torch.device, rounds: int) -> dict[str, float]:
    """Seconds of a batch of the paper's size: cropped in Python, and optimized."""
    batch, patch = SAMPLER
    cropped = baseline_batches(batch, patch, 0)
    sampler = PatchSampler(
        synthetic_training_set(*TRAINING_SET), patch, batch, 0, device, on_device=device.type == "cuda"
    )
    return time_interleaved(
        {"cropped in Python": partial(next, cropped), "optimized": partial(next, sampler)},
        4 * rounds,
        "batches",
        min_seconds(device),
    )


def parts_of_a_step(folder: Path, device: torch.device, precision: str, rounds: int) -> dict[str, float]:
    """Seconds of the parts of an optimized step, each alone: sampler, forward, forward and backward, optimizer."""
    solver = make_solver(folder, *STEPS[-1], device, precision=precision)
    batch = next(solver.sampler)
    solver.train_step()  # computes gradients for the optimizer

    def forward(grad: bool) -> None:
        with torch.set_grad_enabled(grad), fixed_shapes(device):
            loss = solver.batch_loss(batch.lr, 2, batch.hr)
            if grad:
                loss.backward()

    jobs: dict[str, Job] = {
        "sampler": partial(next, solver.sampler),
        "forward": partial(forward, False),
        "forward and backward": partial(forward, True),
        "clip and optimizer": lambda: (nn.utils.clip_grad_norm_(solver.parameters, 10), solver.optimizer.step()),
        "whole step": solver.train_step,
    }
    return time_interleaved(jobs, rounds, f"parts, {precision}", min_seconds(device))


def main() -> None:
    tune_malloc()
    parser = CliParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/training.json"), help="JSON file to write")
    parser.add_argument("--rounds", type=positive_int, default=10, help="measured runs of each; medians are shown")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), help="to measure (default: those that the device has)"
    )
    parser.add_argument(
        "--optimizers", nargs="+", choices=tuple(OPTIMIZERS), help="to measure (default: adam; on a GPU all)"
    )
    parser.add_argument("--compile", action="store_true", help="measure --compile as well; on a GPU always")
    parser.add_argument("--quick", action="store_true", help="a first look: two rounds, nothing written")
    args = parser.parse_args()
    device, rounds = pick_device(args.device), 2 if args.quick else args.rounds
    gpu = device.type == "cuda"
    optimizers = args.optimizers or (list(OPTIMIZERS) if gpu else ["adam"])
    precisions = args.precisions or ["fp32", *["bf16"] * has_bf16(device)]
    configs = optimized(precisions, optimizers, args.compile or gpu, gpu)

    content: dict[str, Any] = {"device": device_name(device)}
    partly = not args.quick and not args.out.exists()  # a part does not replace the whole of an earlier run

    def keep(measured: dict[str, Any]) -> None:
        content.update(measured)
        if partly:
            write_json(args.out, content)

    with tempfile.TemporaryDirectory() as folder:
        steps, memory = compare_steps(Path(folder), device, configs, rounds, keep)
        parts = {name: parts_of_a_step(Path(folder), device, name, rounds) for name in precisions}
    samplers = compare_samplers(device, rounds)
    for table in tables(steps, memory, samplers, parts, device):
        print(to_markdown(table), end="\n\n")
    if args.quick:
        print("--quick: nothing written")
        return
    write_json(args.out, content | {"sampler": samplers, "parts": parts})


def tables(
    steps: dict[str, dict[str, float]],
    memory: dict[str, dict[str, float]],
    samplers: dict[str, float],
    parts: dict[str, dict[str, float]],
    device: torch.device,
) -> list[Table]:
    """The measurements as tables."""
    batch, patch = SAMPLER
    sampled = [
        [name, f"{each * 1e3:.2f}", f"{samplers['cropped in Python'] / each:.2f}"] for name, each in samplers.items()
    ]
    fractions = [
        [precision, name, f"{each * 1e3:.1f}", f"{each / seconds['whole step']:.1%}"]
        for precision, seconds in parts.items()
        for name, each in seconds.items()
    ]
    count, side = STEPS[-1]
    return [
        steps_table(steps, memory, device),
        Table(
            "sampler",
            f"A batch of {batch} LR patches of {patch}x{patch} at x2",
            [("", ""), ("ms", ""), ("speedup", "")],
            sampled,
            len(sampled),
            [],
        ),
        Table(
            "parts",
            f"Where a step of {count} x {side}x{side} goes; each part timed alone",
            [("", ""), ("part", ""), ("ms", ""), ("of the step", "")],
            fractions,
            len(fractions),
            [],
            text_columns=2,
        ),
    ]


def steps_table(steps: dict[str, dict[str, float]], memory: dict[str, dict[str, float]], device: torch.device) -> Table:
    """Steps per second by batch size and configuration, against the baseline and against convolutions alone."""
    rows = [
        [
            size,
            name,
            f"{1 / each:.2f}",
            f"{max(seconds['baseline, 0 workers'], 1e-9) / each:.2f}",
            f"{seconds[CONVOLUTION] / each:.0%}",
            f"{memory[size][name]:.2f}" if name in memory.get(size, {}) else "-",
        ]
        for size, seconds in steps.items()
        for name, each in seconds.items()
    ]
    columns = {
        "batch at x2": "",
        "what": "",
        "steps/s": "",
        "speedup": "over baseline, 0 workers",
        "fraction": "of the rate of bf16 convolutions",
        "peak memory": "GB for the step",
    }
    title = f"Training steps, {device_name(device)}"
    return Table("training", title, list(columns.items()), rows, len(rows), [], text_columns=2)


if __name__ == "__main__":
    run_cli(main)

"""How many training steps a second: ours against a loop as one would write it first, in one run; and where ours go.

"plain" cuts and turns each patch in Python behind a `DataLoader`, and trains the network as the paper writes it: NCHW,
float32, both passes through the upsampler. On images of random values: no speed depends on what is in them.
Command line: `python -m benchmarks.training --out results/training.json`; `--quick` for a first look.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.noise import training_noise, write_noise
from benchmarks.result import write_result
from benchmarks.timing import Elsewhere, device_name, time_alternately
from common.device import pick_device
from common.errors import run_command
from common.flags import Flags, positive
from dataset.hdf5 import TrainingImages
from dataset.patches import PatchSampler
from evaluation.tables import Table, to_markdown
from model import build_net
from model.init import initialise
from solver import Solver
from train import parse_flags
from training.parallel import Crew

STEPS = ((8, 24), (16, 32))  # patches, side of an LR patch; at x2
SAMPLER = (64, 77)  # as the paper trains
NOISE = 64, 160, 240  # images of so many LR pixels
Job = Callable[[], object]


class PlainPatches(Dataset[tuple[Tensor, Tensor]]):
    """One patch per item, cut and turned in Python."""

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
        turns = random.randrange(4)
        return _to_tensor(np.rot90(lr, turns)), _to_tensor(np.rot90(hr, turns))


def _to_tensor(patch: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1))).float() / 255


def plain_batches(batch: int, patch: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches by a `DataLoader`."""
    random.seed(0)
    return iter(DataLoader(PlainPatches(training_noise(*NOISE), patch), batch, num_workers=workers))


def make_plain_step(batch: int, patch: int, workers: int, device: torch.device) -> Job:
    """A training step as one would write it first, for a process of its own."""
    torch.manual_seed(0)
    net = build_net("cfsrcnn", 2).to(device)
    initialise(net, "identity")
    net.get_submodule("cb").merge = False  # type: ignore[assignment]
    optimizer = torch.optim.Adam([weight for weight in net.parameters() if weight.requires_grad], 1e-4)
    batches = plain_batches(batch, patch, workers)

    def step() -> None:
        lr, hr = (each.to(device) for each in next(batches))
        optimizer.zero_grad()
        nn.functional.mse_loss(net(lr, 2), hr).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10)
        optimizer.step()

    return step


def make_solver(folder: Path, batch: int, patch: int, precision: str, device: torch.device) -> Solver:
    """Ours, as `train.py` builds it from these flags."""
    path = folder / "train.h5"
    if not path.exists():
        write_noise(path, training_noise(*NOISE))
    where = ["--train_data_path", str(path), "--val_data_dir", str(folder / "none"), "--ckpt_dir", str(folder / "run")]
    how = ["--device", device.type, "--precision", precision, "--init", "identity"]
    words = [*where, *how, "--batch_size", str(batch), "--patch_size", str(patch)]
    return Solver(parse_flags(words), Crew(pick_device(device.type)))


def compare_steps(
    folder: Path, device: torch.device, precisions: list[str], rounds: int
) -> dict[str, dict[str, float]]:
    """Seconds of a step: plain with 0 and 4 workers, and ours in each precision, by the size of the batch."""
    found = {}
    for batch, patch in STEPS:
        ours = {name: make_solver(folder, batch, patch, name, device).train_step for name in precisions}
        size = f"{batch} x {patch}x{patch}"
        make = partial(Elsewhere, make_plain_step, batch, patch)
        with make(0, device) as alone, make(4, device) as helped:
            jobs: dict[str, Job] = {"plain, 0 workers": alone, "plain, 4 workers": helped, **ours}
            found[size] = time_alternately(jobs, rounds, size)
    return found


def compare_samplers(device: torch.device, rounds: int) -> dict[str, float]:
    """Seconds of a batch of the paper's size: cut in Python, and ours."""
    batch, patch = SAMPLER
    cut = plain_batches(batch, patch, 0)
    ours = PatchSampler(training_noise(*NOISE), patch, batch, 0, device, on_device=device.type == "cuda")
    return time_alternately({"cut in Python": partial(next, cut), "ours": ours.next}, 4 * rounds, "batches")


def parts_of_a_step(folder: Path, device: torch.device, precision: str, rounds: int) -> dict[str, float]:
    """Seconds of the parts of one of our steps, each alone: sampler, forward, forward and backward, optimiser."""
    solver = make_solver(folder, *STEPS[-1], precision, device)
    batch = solver.sampler.next()
    solver.train_step()  # leaves gradients to step with

    def forward(grad: bool) -> None:
        with torch.set_grad_enabled(grad), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            sr = solver.net(batch.lr, 2)
        if grad:
            solver.loss_fn(sr.float(), batch.hr).backward()

    jobs: dict[str, Job] = {
        "sampler": solver.sampler.next,
        "forward": partial(forward, False),
        "forward and backward": partial(forward, True),
        "clip and optimiser": lambda: (nn.utils.clip_grad_norm_(solver.parameters, 10), solver.optimizer.step()),
        "whole step": solver.train_step,
    }
    return time_alternately(jobs, rounds, f"parts, {precision}")


def main() -> None:
    parser = Flags(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/training.json"), help="what was measured, as JSON")
    parser.add_argument("--rounds", type=positive, default=10, help="measured runs of each thing; medians are shown")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="of our steps"
    )
    parser.add_argument("--quick", action="store_true", help="two rounds, nothing written: a first look")
    args = parser.parse_args()
    device, rounds = pick_device(args.device), 2 if args.quick else args.rounds

    with tempfile.TemporaryDirectory() as folder:
        steps = compare_steps(Path(folder), device, args.precisions, rounds)
        parts = {name: parts_of_a_step(Path(folder), device, name, rounds) for name in args.precisions}
    samplers = compare_samplers(device, rounds)
    for table in tables(steps, samplers, parts, device):
        print(to_markdown(table), end="\n\n")
    if args.quick:
        print("--quick: nothing written")
        return
    content = {"device": device_name(device), "steps": steps, "sampler": samplers, "parts": parts}
    write_result(args.out, content)


def tables(
    steps: dict[str, dict[str, float]],
    samplers: dict[str, float],
    parts: dict[str, dict[str, float]],
    device: torch.device,
) -> list[Table]:
    """What was measured, to be read."""
    rows = [
        [size, name, f"{1 / each:.2f}", f"{max(seconds['plain, 0 workers'], 1e-9) / each:.2f}"]
        for size, seconds in steps.items()
        for name, each in seconds.items()
    ]
    head = [(name, "") for name in ("batch at x2", "what", "steps/s", "times as fast as plain, 0 workers")]
    batch, patch = SAMPLER
    sampled = [
        [name, f"{each * 1e3:.2f}", f"{samplers['cut in Python'] / each:.2f}"] for name, each in samplers.items()
    ]
    shares = [
        [precision, name, f"{each * 1e3:.1f}", f"{each / seconds['whole step']:.1%}"]
        for precision, seconds in parts.items()
        for name, each in seconds.items()
    ]
    count, side = STEPS[-1]
    return [
        Table("training", f"Training steps, {device_name(device)}", head, rows, len(rows), []),
        Table(
            "sampler",
            f"A batch of {batch} LR patches of {patch}x{patch} at x2",
            [("", ""), ("ms", ""), ("times as fast", "")],
            sampled,
            len(sampled),
            [],
        ),
        Table(
            "parts",
            f"Where a step of {count} x {side}x{side} goes; each part timed alone",
            [("", ""), ("part", ""), ("ms", ""), ("of the step", "")],
            shares,
            len(shares),
            [],
        ),
    ]


if __name__ == "__main__":
    run_command(main)

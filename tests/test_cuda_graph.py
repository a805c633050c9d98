"""`--cuda_graph`: what is refused, and that a step reads all that changes from the memory that a recorded step reads."""

from __future__ import annotations

import pytest
import torch

from benchmarks.training import make_solver
from common.errors import InputError
from training import cuda_graph

CPU = torch.device("cpu")
SETTINGS = {"ema": 0.9, "lr": 1e-3, "warmup": 10}
STEPS = 8


class EagerGraph:
    """Stands in for a CUDA graph, which a CPU does not have: a replay runs the step on the same tensors again."""

    def __init__(self, step):
        self.step, self.losses, self.replays = step, (torch.full((), torch.nan), torch.full((), torch.nan)), 0

    def replay(self) -> None:
        self.replays += 1
        for static, value in zip(self.losses, self.step(), strict=True):
            static.copy_(value)


@pytest.fixture
def graphs(monkeypatch) -> list[EagerGraph]:
    made = []

    def record(step):
        made.append(EagerGraph(step))
        return made[-1], made[-1].losses

    monkeypatch.setattr(cuda_graph, "record", record)
    return made


def graphed(solver):
    solver._update = cuda_graph.GraphedUpdate(solver._update_eagerly, solver.optimizer)
    return solver


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_replayed_steps_are_the_eager_ones(tmp_path, graphs, optimizer):
    settings = {**SETTINGS, "optimizer": optimizer}
    eager = make_solver(tmp_path, 4, 12, CPU, **settings)
    recorded = graphed(make_solver(tmp_path, 4, 12, CPU, **settings))
    losses: list[list] = [[], []]
    for step in range(STEPS):
        if step == cuda_graph.EAGER_STEPS:  # a recorded step reads float32 tensors, by which the values are rounded
            eager._update = lambda batch, *values: eager._update_eagerly(batch, *map(torch.tensor, values))
        for each, solver in zip(losses, (eager, recorded), strict=True):
            each.append(solver.train_step())
    assert torch.equal(torch.tensor(losses[0]), torch.tensor(losses[1]))
    assert len(graphs) == 1 and graphs[0].replays == STEPS - cuda_graph.EAGER_STEPS
    for ours, theirs in zip(recorded.ema_net.parameters(), eager.ema_net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_saved_settings_of_the_optimizer_are_those_of_an_eager_run(tmp_path, monkeypatch):
    class Recorded:
        def replay(self) -> None: ...

    monkeypatch.setattr(cuda_graph, "record", lambda step: (Recorded(), step()))
    solvers = [make_solver(tmp_path, 4, 12, CPU, **SETTINGS) for _ in range(2)]
    graphed(solvers[1])
    for solver in solvers:
        for _ in range(cuda_graph.EAGER_STEPS + 1):
            solver.train_step()
    eager, recorded = ([dict(group, lr=0, params=0) for group in solver.optimizer.param_groups] for solver in solvers)
    assert eager == recorded
    assert all(isinstance(group["lr"], float) for group in solvers[1].optimizer.param_groups)


def refuse(step):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def fail_twice(step):
    """As PyTorch does: leaving a recording that has failed raises as well."""
    try:
        raise RuntimeError("a value was read")
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize(
    ("record", "reason"), [(refuse, "operation not permitted"), (fail_twice, r"a value was read\)")]
)
def test_a_step_that_cannot_be_recorded_is_one_line(tmp_path, monkeypatch, record, reason):
    monkeypatch.setattr(cuda_graph, "record", record)
    solver = graphed(make_solver(tmp_path, 4, 12, CPU, **SETTINGS))
    with pytest.raises(InputError, match=rf"--cuda_graph: this step cannot be recorded \({reason}"):
        for _ in range(cuda_graph.EAGER_STEPS + 1):
            solver.train_step()


@pytest.mark.parametrize(
    ("device", "world_size", "scale", "message"),
    [
        ("cpu", 1, 2, "for CUDA GPUs, and this run is on cpu"),
        ("cuda", 2, 2, "for one GPU, not for 2"),
        ("cuda", 1, 0, "--scale 0 trains three"),
    ],
)
def test_where_it_cannot_be_used(device, world_size, scale, message):
    with pytest.raises(InputError, match=message):
        cuda_graph.check_cuda_graph(torch.device(device), world_size, scale)

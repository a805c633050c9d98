"""What a training step would cost a GPU, counted without one: no reads on the host, few launches, one graph for `--compile`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.nn.parallel import DistributedDataParallel

from benchmarks.step_cost import count_launches, fake_cuda, saved_bytes
from benchmarks.training import make_solver
from training.losses import BatchLoss
from training.muon import MIN_CHANNELS

MAX_LAUNCHES = {("fp32", "adam"): 360, ("fp32", "muon"): 500, ("bf16", "adam"): 455, ("bf16", "muon"): 595}


def test_a_read_on_the_host_would_raise():
    with fake_cuda(), pytest.raises(DataDependentOutputException):
        bool(torch.ones(()).isfinite())


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # by deepcopy, for the EMA weights
@pytest.mark.parametrize(("precision", "optimizer"), MAX_LAUNCHES)
def test_a_training_step_reads_nothing_on_the_host_and_launches_few_kernels(precision, optimizer):
    launches = count_launches(precision=precision, optimizer=optimizer, ema=0.99, lr_schedule="cosine", warmup=3)
    assert launches["aten::convolution"] == 46 and launches["aten::convolution_backward"] == 92
    assert sum(launches.values()) <= MAX_LAUNCHES[precision, optimizer], launches


@pytest.mark.parametrize(("scale", "fp32", "bf16"), [(2, 25e3, 13.5e3), (3, 33e3, 19e3), (4, 45e3, 27e3)])
def test_what_the_backward_pass_needs_is_bounded(scale, fp32, bf16):
    assert 0.9 * fp32 < saved_bytes("fp32", scale) < fp32
    assert 0.9 * bf16 < saved_bytes("bf16", scale) < bf16


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
    counters.clear()


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients(run: nn.Module, net: nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(0)
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    run(lr, 2, hr).backward()
    return [weight.grad for weight in net.parameters() if weight.requires_grad]


def compare_compiled(net: nn.Module, wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Compiles network and loss as `solver.py` does, and compares with the gradients of a copy that is not compiled."""
    reference = copy.deepcopy(net)
    compiled = torch.compile(wrap(BatchLoss(net, "cfsrcnn", "MSE", "fp32")), backend="aot_eager")
    eager = BatchLoss(reference, "cfsrcnn", "MSE", "fp32")
    for ours, expected in zip(gradients(compiled, net), gradients(eager, reference), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


def test_network_and_loss_compile_into_one_graph_with_the_same_gradients(one_thread, fresh_compiler, golden_net):
    compare_compiled(golden_net("x2"), nn.Module.train)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


def test_under_ddp_they_compile_into_two_graphs_at_most(one_thread, fresh_compiler, one_process, golden_net):
    compare_compiled(golden_net("x2"), DistributedDataParallel)
    assert 1 <= counters["stats"]["unique_graphs"] <= 2, counters["stats"]


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_compiled_training_step_is_the_eager_one(one_thread, fresh_compiler, monkeypatch, tmp_path, optimizer):
    """The network with its loss is one graph, and Muon's update is one for each shape of weights; none is made again as the
    learning rate changes from step to step."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, dynamic, mode: whole(run, dynamic=dynamic, backend="aot_eager"))
    losses = {}
    for compiled in (False, True):
        settings = {"optimizer": optimizer, "compile": compiled, "lr": 1e-3, "warmup": 4, "loss_fn": "L1"}
        solver = make_solver(tmp_path / str(compiled), 2, 8, torch.device("cpu"), **settings)
        losses[compiled] = [solver.train_step()[0].item() for _ in range(4)]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    wide = (weight.shape for weight in solver.parameters if weight.ndim == 4)
    shapes = {shape for shape in wide if min(shape[:2]) >= MIN_CHANNELS}
    assert counters["stats"]["unique_graphs"] == 1 + (len(shapes) if optimizer == "muon" else 0)
    assert not counters["graph_break"]

"""`--scale 0` on several processes: each scale averages the gradients of the weights that it uses, and the others get none."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.process import BaseProcess

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import TCPStore
from torch.nn.parallel import DistributedDataParallel

from common import SCALES
from common.errors import LaunchError
from model.cfsrcnn import CFSRCNN
from model.checkpoint import read_state_dict
from model.init import init_weights
from solver import Solver
from tests.stress.crash_recovery import log_of
from training.config import TrainConfig
from training.distributed import DistributedContext
from training.per_scale import PerScaleDDP

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif("forkserver" not in get_all_start_methods(), reason="this system cannot fork"),
]


def train(config: TrainConfig, rank: int, processes: int, port: int) -> None:
    """One process of a run."""
    torch.set_num_threads(1)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    variables |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}  # the test holds the store
    for name, value in {**variables, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
        os.environ[name] = str(value)
    with DistributedContext(torch.device("cpu")) as context:
        Solver(config, context).fit()


def start(config: TrainConfig, processes: int, store: TCPStore) -> list[BaseProcess]:
    """A run of several processes that meet by `store`, forked from one that has imported what they need."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["solver"])
    started = [context.Process(target=train, args=(config, rank, processes, store.port)) for rank in range(processes)]
    for process in started:
        process.start()
    return started


def test_several_processes_have_the_losses_of_one(training_set, tmp_path):
    where = TrainConfig(train_data_path=str(training_set), val_data_dir="none", print_interval=1, max_steps=6)
    small = replace(where, scale=0, patch_size=8, batch_size=7, accumulate=2, init="identity", lr=1e-3)
    configs = {count: replace(small, ckpt_dir=str(tmp_path / str(count))) for count in (1, 2, 3)}
    stores = {count: TCPStore("localhost", 0, is_master=True) for count in (2, 3)}
    started = [process for count, store in stores.items() for process in start(configs[count], count, store)]
    Solver(configs[1], DistributedContext(torch.device("cpu"))).fit()
    for process in started:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in started] == [0] * 5
    expected, weights = log_of(tmp_path / "1"), read_state_dict(tmp_path / "1/cfsrcnn_6.pth")
    for count in (2, 3):
        for ours, theirs in zip(log_of(tmp_path / str(count)), expected, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        found = read_state_dict(tmp_path / str(count) / "cfsrcnn_6.pth")
        assert all(torch.isclose(found[name], weights[name], atol=1e-4).float().mean() > 0.99 for name in weights)


@pytest.fixture
def wrap(tmp_path):
    """Makes a DistributedDataParallel, in a group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield partial(DistributedDataParallel)
    dist.destroy_process_group()


def test_each_scale_has_the_gradients_of_the_network_alone(wrap):
    torch.manual_seed(0)
    net = CFSRCNN(0, multi_scale=True)
    init_weights(net, "identity")
    alone, replica, lr = copy.deepcopy(net), PerScaleDDP(net, wrap), torch.rand(1, 3, 6, 6)
    assert not list(replica.parameters())  # the optimizer and the saved state have those of the network
    for scale in (*SCALES, 2):
        for run, its_net in ((alone, alone), (replica, net)):
            its_net.zero_grad(set_to_none=True)
            run(lr, scale).square().mean().backward()
        ours, theirs = ([weight.grad for weight in each.parameters() if weight.requires_grad] for each in (net, alone))
        for our, their in zip(ours, theirs, strict=True):
            assert our is their is None or torch.equal(our, their)
        assert None in ours


def test_gradients_of_several_passes_add_up(wrap):
    net = nn.Conv2d(3, 3, 1)
    net.forward = lambda x, scale: nn.functional.conv2d(x, net.weight, net.bias)
    replica, lr = PerScaleDDP(net, wrap), torch.rand(1, 3, 6, 6)
    with replica.no_sync():
        replica(lr, 2).sum().backward()
    once = net.weight.grad.clone()
    replica(lr, 2).sum().backward()
    assert torch.allclose(net.weight.grad, 2 * once)


class Moody(nn.Module):
    """Uses another branch at another time."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm, self.calls = nn.BatchNorm2d(3), 0

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        self.calls += 1
        return self.norm((self.first if self.calls <= 2 else self.second)(x))


def test_a_network_that_uses_other_weights_later_is_refused(wrap):
    net = Moody()
    replica, lr = PerScaleDDP(net, wrap), torch.rand(2, 3, 6, 6)
    replica(lr, 2).sum().backward()
    assert net.norm.num_batches_tracked == 1  # finding the weights leaves no trace
    with pytest.raises(LaunchError, match=r"the network used second\.(weight|bias) at scale 2"):
        replica(lr, 2).sum().backward()

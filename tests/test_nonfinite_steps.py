"""Steps whose loss or gradients are not finite are skipped and counted; too many in a row end the run."""

from __future__ import annotations

import copy
import signal

import pytest
import torch
from torch import nn

from model.checkpoint import read_state_dict
from solver import Solver
from tests.stress.crash_recovery import log_of
from training import losses
from training.muon import MuonWithAuxAdam
from training.nonfinite import BufferSnapshot, propagate_nonfinite, step_if_finite, update_ema

pytestmark = pytest.mark.usefixtures("one_thread")
FINITE, NONFINITE = torch.tensor(True), torch.tensor(False)


@pytest.fixture
def train(command, training_set, tmp_path):
    """`train("run", flags...)`: a small run in tmp_path/run, without validation."""

    def run(folder: str, *flags):
        argv = [
            "--train_data_path",
            training_set,
            "--val_data_dir",
            "none",
            "--ckpt_dir",
            tmp_path / folder,
        ]
        argv += ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--device", "cpu", "--print_interval", 4]
        return command("train.py", *argv, *flags)

    return run


def spoil(monkeypatch, is_nonfinite, only_gradients: bool = False) -> None:
    """The loss of batches for which `is_nonfinite(hr)` is infinite, or only its gradients are."""

    class SometimesInfinite(nn.MSELoss):
        def forward(self, sr, hr):
            if is_nonfinite(hr):
                if only_gradients:
                    sr.register_hook(lambda gradient: gradient / 0)
                else:
                    return super().forward(sr, hr) / 0
            return super().forward(sr, hr)

    monkeypatch.setitem(losses.LOSSES, "MSE", SometimesInfinite)


def every_third(hr) -> bool:
    """Depends on the batch, so that a resumed run meets the same."""
    return int(hr.double().sum() * 255 + 0.5) % 3 == 0


@pytest.mark.parametrize(("flags", "only_gradients"), [(["--ema", 0.9], False), (["--optimizer", "muon"], True)])
def test_such_steps_change_nothing_and_a_resumed_run_skips_the_same(
    train, tmp_path, monkeypatch, flags, only_gradients
):
    spoil(monkeypatch, every_third, only_gradients)
    skipped = []

    def watch(self):
        before = copy.deepcopy((self.net.state_dict(), self.ema_net and self.ema_net.state_dict()))
        state = copy.deepcopy(self.optimizer.state_dict()) if self.step else None
        loss, norm = train_step(self)
        same = all(torch.equal(value, before[0][name]) for name, value in self.net.state_dict().items())
        assert same == (not norm.isfinite())
        if same:
            skipped.append(self.step)
            assert self.ema_net is None or equal(self.ema_net.state_dict(), before[1])
            assert state is None or equal(self.optimizer.state_dict(), state)
        if self.step == 6 and stop:
            signal.raise_signal(signal.SIGTERM)
        return loss, norm

    train_step, stop = Solver.train_step, False
    monkeypatch.setattr(Solver, "train_step", watch)
    assert train("whole", "--max_steps", 12, *flags).code == 0
    counts = [line.get("skipped", 0) for line in log_of(tmp_path / "whole")]
    assert sum(counts) == len(skipped) >= 2
    stop = True
    assert train("parts", "--max_steps", 12, *flags).code == 143
    stop = False
    assert train("parts", "--max_steps", 12, *flags, "--resume").code == 0
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    last = [read_state_dict(tmp_path / name / "cfsrcnn_12.pth") for name in ("whole", "parts")]
    assert equal(*last) and all(value.isfinite().all() for value in last[0].values())


def test_too_many_in_a_row_end_the_run_and_the_last_good_state_is_named(train, tmp_path, monkeypatch):
    assert train("run", "--max_steps", 4).code == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").glob("*.p*")}
    spoil(monkeypatch, lambda hr: True)
    outcome = train("run", "--max_steps", 40, "--resume")
    assert outcome.code == 2 and "at step 15, the 11th in a row" in outcome.err, outcome.err
    assert "the last good state is" in outcome.err and "cfsrcnn_latest.train.pt" in outcome.err
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").glob("*.p*")} == before
    lines = log_of(tmp_path / "run")[1:]
    assert [(line["step"], line["loss"], line["skipped"]) for line in lines] == [(8, None, 4), (12, None, 4)]


def test_ten_in_a_row_do_not(train, tmp_path, monkeypatch):
    batches = iter(range(100))
    spoil(monkeypatch, lambda hr: 1 <= next(batches) <= 10)
    outcome = train("run", "--max_steps", 12)
    assert outcome.code == 0 and "3 steps skipped" in outcome.err + outcome.out
    assert [line.get("skipped") for line in log_of(tmp_path / "run")] == [3, 4, 3]
    assert sorted(file.name for file in (tmp_path / "run").glob("*.pth")) == ["cfsrcnn_12.pth"]


def test_a_loss_that_is_not_finite_spoils_the_gradients_of_all_processes():
    """Its own gradient may be finite: that of an overflowing square is."""
    weight = torch.ones(3, requires_grad=True)
    propagate_nonfinite((weight * 1e30).square().sum()).backward()
    assert weight.grad.isnan().all()
    weight.grad = None
    propagate_nonfinite(weight.square().sum()).backward()
    assert torch.equal(weight.grad, torch.full((3,), 2.0))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_step_is_taken_if_finite_or_skipped(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)).to(device)]
    nets += [copy.deepcopy(nets[0]) for _ in range(2)]
    for make in (torch.optim.Adam, MuonWithAuxAdam):
        plain, guarded, slow = (
            make(list(net.parameters()), 1e-2, fused=fused) for net, fused in zip(nets, (1, 1, 0), strict=True)
        )
        for number in range(4):
            for net in nets:
                for weight in net.parameters():
                    weight.grad = torch.full_like(weight, 0.1 * (number + 1))
            plain.step()
            step_if_finite(guarded, FINITE.to(device), fused=True)
            step_if_finite(slow, FINITE.to(device), fused=False)
            for net, optimizer, fused in ((nets[1], guarded, True), (nets[2], slow, False)):
                for weight in net.parameters():
                    weight.grad = torch.full_like(weight, torch.nan)
                step_if_finite(optimizer, NONFINITE.to(device), fused)
        assert equal(nets[0].state_dict(), nets[1].state_dict())
        torch.testing.assert_close(nets[0].state_dict(), nets[2].state_dict())


def test_ema_weights_and_running_statistics_stay_too():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    ema = copy.deepcopy(net)
    for is_finite in (NONFINITE, FINITE):
        before, ema_before = copy.deepcopy(net.state_dict()), copy.deepcopy(ema.state_dict())
        snapshot = BufferSnapshot(net)
        net(torch.rand(2, 3, 4, 4) / is_finite)  # infinite where it is false
        snapshot.restore_unless(is_finite)
        assert equal(net.state_dict(), before) == (not is_finite)
        with torch.no_grad():
            net[0].weight += 1
        update_ema(ema, net, 0.25, is_finite)
        expected = ema_before["0.weight"].lerp(net[0].weight, 0.25 * is_finite.item())
        torch.testing.assert_close(ema[0].weight, expected)


def equal(a, b) -> bool:
    """Nested dicts and lists of tensors and numbers, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

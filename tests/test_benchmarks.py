"""The benchmarks run and report what they measure; no test asserts a speed."""

from __future__ import annotations

import json
import sys
import weakref
from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from benchmarks import inference, op_profile, timing, training
from benchmarks.synthetic import synthetic_images
from benchmarks.timing import time_interleaved
from common.errors import InputError
from inference import backends
from training.cuda_graph import EAGER_STEPS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_things_are_timed_in_turn():
    calls: list[str] = []
    seconds = time_interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 2, "turns")
    assert calls == list("ababab")  # the first round warms up
    assert seconds.keys() == {"a", "b"}


def test_the_inference_benchmark_writes_what_the_papers_tables_read(monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "SIDES", {2: 16, 4: 16})
    monkeypatch.setattr(inference, "TABLE9", (16, 32, 48))
    monkeypatch.setattr(inference, "GROWTH", (8, 16))
    monkeypatch.setattr(
        "sys.argv",
        ["x", "--out", str(tmp_path / "i.json"), "--rounds", "1", "--precisions", "fp32", "--backends", "torch"],
    )
    inference.main()
    content = json.loads((tmp_path / "i.json").read_text())
    assert content["compared"]["x2"]["rows"]["baseline"]["speedup"] == 1
    assert content["table9"].keys() == {"device", "hr_16", "hr_32", "hr_48"}
    assert content["seconds_by_lr_side_x2"].keys() == {"8", "16"}


def test_the_inference_benchmark_times_the_sizes_named_alone(monkeypatch, tmp_path, capsys):
    argv = ["--sides", "8", "24", "--rounds", "1", "--precisions", "fp32", "--out", str(tmp_path / "i.json")]
    monkeypatch.setattr("sys.argv", ["x", *argv])
    inference.main()
    rows = [line.split("|") for line in capsys.readouterr().out.strip().splitlines()]
    assert [row[1].strip() for row in rows[-2:]] == ["8x8", "24x24"] and float(rows[-2][4]) == 1
    assert not list(tmp_path.iterdir())


def test_each_backend_that_is_installed_has_a_row(monkeypatch):
    cpu, started = torch.device("cpu"), []

    def start(*args, backend):
        started.append((*args[1:], backend))
        return lambda lr: None

    monkeypatch.setattr(inference, "SIDES", {2: 8})
    monkeypatch.setattr(inference, "NetworkUpscaler", start)
    monkeypatch.setattr(backends, "is_installed", lambda *names: "onnxruntime" not in names)
    configs = inference.optimized(cpu, ["fp32", "bf16"], None)
    rows = inference.compare(2, cpu, configs, 1, 1)["rows"]
    assert list(rows) == ["baseline", "fp32", "fp32 openvino", "bf16", "bf16 openvino"]
    assert started == [(2, cpu, *configs[name]) for name in list(rows)[1:]]
    assert all(row["fraction_of_convolution"] > 0 for name, row in rows.items() if name != "baseline")


def test_a_named_backend_that_is_missing_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"--backends openvino .* pip install -r requirements-backends"):
        inference.optimized(torch.device("cpu"), ["fp32"], ["openvino"])


def test_the_baseline_is_the_same_network():
    """What is compared for speed makes the same image up to the last bit."""
    baseline, optimized = (
        inference.Baseline(2, torch.device("cpu")),
        inference.NetworkUpscaler(inference.make_net(2), 2),
    )
    (lr,) = synthetic_images(1, 20, 20)
    assert abs(baseline(lr).astype(int) - optimized(lr)).max() <= 1


def test_a_short_job_is_repeated_within_a_timing(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: len(calls) / 1024))
    assert time_interleaved({"a": lambda: calls.append(1)}, 1, "turns", min_seconds=1 / 32) == {"a": 1 / 1024}
    assert len(calls) == 1 + 1 + 32  # to warm up, to see how long it takes, and in the timing


def test_the_training_benchmark_has_rows_for_muon_compile_and_cuda_graph():
    rows = training.optimized(["bf16"], ["adam", "muon"], compile=True, graph=False)
    assert list(rows) == ["bf16", "bf16, compiled", "bf16, muon", "bf16, muon, compiled"]
    assert rows["bf16, muon, compiled"] == {"precision": "bf16", "optimizer": "muon", "compile": True}
    rows = training.optimized(["bf16"], ["adam"], compile=True, graph=True)
    assert list(rows) == ["bf16", "bf16, CUDA graph", "bf16, compiled", "bf16, compiled, CUDA graph"]
    both = {"precision": "bf16", "optimizer": "adam", "compile": True, "cuda_graph": True}
    assert rows["bf16, compiled, CUDA graph"] == both


def test_the_training_benchmark_compares_steps_samplers_and_parts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training, "STEPS", ((2, 8),))
    monkeypatch.setattr(training, "SAMPLER", (2, 8))
    monkeypatch.setattr(training, "TRAINING_SET", (4, 24, 32))
    argv = ["x", "--out", str(tmp_path / "t.json"), "--rounds", "1", "--precisions", "fp32", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", argv)
    training.main()
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["steps"]["2 x 8x8"].keys() == {
        "baseline, 0 workers",
        "baseline, 4 workers",
        "fp32",
        training.CONVOLUTION,
    }
    assert content["sampler"].keys() == {"cropped in Python", "optimized"}
    assert "forward and backward" in content["parts"]["fp32"] and "steps/s" in capsys.readouterr().out


class FakeSolver:
    """A run that counts its steps and refers to itself, as one with a CUDA graph does."""

    made: ClassVar[list[weakref.ref]] = []
    steps: ClassVar[list[int]] = []  # of those with a graph

    def __init__(self, cuda_graph: bool):
        self.device, self.itself, self.count = torch.device("cpu"), self, 0
        assert not cuda_graph or not [each for ref in self.made if (each := ref()) and each.graphed]
        self.graphed = cuda_graph
        self.made.append(weakref.ref(self))

    def train_step(self) -> None:
        self.count += 1
        if self.graphed:
            self.steps.append(self.count)


def test_runs_with_a_cuda_graph_are_recorded_before_they_are_timed_and_exist_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(FakeSolver, "made", [])
    monkeypatch.setattr(FakeSolver, "steps", [])
    monkeypatch.setattr(training, "STEPS", ((2, 8),))
    monkeypatch.setattr(training, "SubprocessJob", lambda *_: nullcontext(lambda: None))
    monkeypatch.setattr(training, "make_solver", lambda *_, **settings: FakeSolver("cuda_graph" in settings))
    timed = []

    def time(jobs, rounds, desc, min_seconds):
        timed.append((list(jobs), list(FakeSolver.steps)))
        return dict.fromkeys(jobs, 1.0)

    monkeypatch.setattr(training, "time_interleaved", time)
    configs = training.optimized(["bf16"], ["adam"], compile=True, graph=True)
    found, _ = training.compare_steps(tmp_path, torch.device("cpu"), configs, 1)
    others = ["baseline, 0 workers", "baseline, 4 workers", "bf16", "bf16, compiled", training.CONVOLUTION]
    graphs = ["bf16, CUDA graph", "bf16, compiled, CUDA graph"]
    eager = list(range(1, EAGER_STEPS + 1))
    assert timed == [(others, []), (graphs[:1], eager), (graphs[1:], eager * 2)]
    assert list(found["2 x 8x8"]) == [*others[:2], *configs, training.CONVOLUTION]


@pytest.mark.parametrize(("gigabytes", "sizes"), [(40, 4), (24, 3), (1, 0)])
def test_steps_that_do_not_fit_onto_the_gpu_are_left_out(monkeypatch, tmp_path, capsys, gigabytes, sizes):
    monkeypatch.setattr(training, "available_memory", lambda device: gigabytes * 1e9)
    monkeypatch.setattr(training, "SubprocessJob", lambda *_: nullcontext(lambda: None))
    monkeypatch.setattr(training, "bare_convolution", lambda *_: lambda: None)
    monkeypatch.setattr(training, "time_interleaved", lambda jobs, *_: dict.fromkeys(jobs, 1.0))
    monkeypatch.setattr(training, "min_seconds", lambda device: 0)
    found, _ = training.compare_steps(tmp_path, torch.device("cuda"), {}, 1)
    assert len(found) == sizes and ("64 x 77x77" in found) == (sizes == 4)
    assert ("64 x 77x77 is left out" in capsys.readouterr().err) == (sizes < 4)


@pytest.mark.parametrize("earlier", [None, "all of an earlier run"])
def test_a_training_benchmark_that_is_stopped_keeps_what_it_has_measured(monkeypatch, tmp_path, earlier):
    monkeypatch.setattr(FakeSolver, "made", [])
    monkeypatch.setattr(training, "STEPS", ((2, 8), (3, 8)))
    monkeypatch.setattr(training, "SubprocessJob", lambda *_: nullcontext(lambda: None))
    monkeypatch.setattr(training, "make_solver", lambda *_, **settings: FakeSolver("cuda_graph" in settings))

    def time(jobs, rounds, desc, min_seconds):
        if desc == "3 x 8x8":
            raise KeyboardInterrupt
        return dict.fromkeys(jobs, 1.0)

    monkeypatch.setattr(training, "time_interleaved", time)
    out = tmp_path / "t.json"
    if earlier:
        out.write_text(earlier)
    monkeypatch.setattr("sys.argv", ["x", "--out", str(out), "--precisions", "bf16", "--device", "cpu"])
    with pytest.raises(KeyboardInterrupt):
        training.main()
    assert out.read_text() == earlier if earlier else list(json.loads(out.read_text())["steps"]) == ["2 x 8x8"]


@pytest.mark.parametrize(
    ("module", "capability", "precisions"),
    [
        (training, (9, 0), ["fp32", "bf16"]),
        (training, (7, 5), ["fp32"]),
        (inference, (9, 0), ["fp32", "fp16"]),
        (inference, (7, 5), ["fp32", "fp16"]),
        (inference, None, ["fp32", "bf16"]),
    ],
)
def test_the_default_precisions_are_those_of_the_device(monkeypatch, module, capability, precisions):
    chosen = []

    def optimized(*args, **_):
        chosen.extend(next(each for each in args if isinstance(each, list)))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "pick_device", lambda name: torch.device("cuda" if capability else "cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(module, "optimized", optimized)
    monkeypatch.setattr("sys.argv", ["x"])
    with pytest.raises(KeyboardInterrupt):
        module.main()
    assert chosen == precisions


@pytest.mark.parametrize("name", ["inference", "training"])
def test_no_rounds_are_refused(expect_error, name):
    expect_error("--rounds: 0 is not a whole number above zero", "-m", f"benchmarks.{name}", "--rounds", 0)


def test_the_memory_benchmark_gives_the_peak_of_the_command(command, expect_error):
    argv = ["-m", "benchmarks.memory", "--device", "cpu", "--precisions", "fp32", "--backends", "torch"]
    outcome = command(*argv, "--size", "24x20")
    assert outcome.code == 0 and "24x20 at x2" in outcome.out, outcome
    name, peak, seconds = outcome.out.strip().splitlines()[-1].strip("| ").split(" | ")
    assert name == "fp32" and 0.1 < float(peak) < 8 and float(seconds) >= 1
    expect_error("--size: 4K is not a size such as 3840x2160", *argv, "--size", "4K")


def test_the_compiled_network_has_a_row_where_it_is_asked_for():
    cpu = torch.device("cpu")
    assert inference.optimized(cpu, ["bf16"], ["torch", "compiled"]) == {
        "bf16": ("bf16", "torch"),
        "bf16 compiled": ("bf16", "compiled"),
    }
    assert all(backend != "compiled" for _, backend in inference.optimized(cpu, ["fp32"], None).values())


def test_the_time_of_an_image_is_shown_by_kind_of_operation(monkeypatch, capsys):
    monkeypatch.setattr(op_profile, "SIDES", {2: 32})
    monkeypatch.setattr("sys.argv", ["x", "--scale", "2", "--precision", "fp32", "--rounds", "1"])
    op_profile.main()
    heading, *rows = (line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    cells = {cell[1].strip(): cell[2:-1] for cell in (row.split("|") for row in rows[1:])}
    assert "PyTorch ms" in heading and list(cells) == [*op_profile.KINDS, op_profile.OTHER]
    for column in zip(*cells.values(), strict=True):
        milliseconds = [float(each.split()[0]) for each in column]
        assert milliseconds[0] > 0 and min(milliseconds) >= 0

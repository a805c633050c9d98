"""train.py: the whole chain a user runs, bit-exact resume, what is written, what is rejected."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.cfsrcnn import CFSRCNN
from model.checkpoint import read_state_dict
from model.init import init_weights
from solver import Solver
from tests.stress.crash_recovery import CLOCKS, log_of
from training.config import TrainConfig
from training.schedule import learning_rate

SMALL = ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--device", "cpu", "--print_interval", 5]


@pytest.fixture
def train(command, training_set, test_set, tmp_path):
    """`train("run", flags...)`: a small run in tmp_path/run; flags that come later win."""

    def run(folder: str, *flags):
        where = ["--train_data_path", training_set, "--val_data_dir", test_set, "--ckpt_dir", tmp_path / folder]
        return command("train.py", *where, *SMALL, *flags)

    return run


def signaled(number: int, steps: int) -> list[str]:
    """In place of `python` before a command that trains: after so many steps the process gets the signal, in the next one."""
    code = f"""import runpy, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from solver import Solver
train_step = Solver.train_step
def signal_first(solver):
    if solver.step == {steps}:
        signal.raise_signal({int(number)})
    return train_step(solver)
Solver.train_step = signal_first
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")"""
    return [sys.executable, "-c", code]


def weights(path):
    return read_state_dict(path)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_images_to_hdf5_to_training_to_resume_to_benchmark(train, command, test_set, tmp_path):
    assert train("run", "--max_steps", 10, "--loss_fn", "L1", "--lr", 1e-3).code == 0
    outcome = train("run", "--max_steps", 20, "--loss_fn", "L1", "--lr", 1e-3, "--resume")
    assert outcome.code == 0 and "at step 10" in outcome.out
    assert [line["step"] for line in log_of(tmp_path / "run")] == [5, 10, 15, 20]
    sample = ["--test_data_dir", test_set, "--scale", 2, "--sample_dir", tmp_path / "out", "--device", "cpu"]
    outcome = command("tcw_sample.py", *sample, "--ckpt_path", tmp_path / "run/cfsrcnn_20.pth")
    assert outcome.code == 0
    results = json.loads((tmp_path / "out/cfsrcnn_20/Four/x2/results.json").read_text())
    validated = log_of(tmp_path / "run")[-1]["validation"]["x2"]
    assert results["mean"]["psnr"] == pytest.approx(validated["psnr"], abs=1e-4)  # one code measures both
    assert results["mean"]["ssim"] == pytest.approx(validated["ssim"], abs=1e-6)


@pytest.mark.parametrize(
    "flags", [[], ["--optimizer", "muon"], ["--ema", 0.9, "--scale", 0, "--lr_schedule", "cosine", "--warmup", 3]]
)
def test_resume_goes_on_bit_for_bit(train, tmp_path, monkeypatch, flags):
    """Stopped at step 7 of 12: in the middle of an epoch and of an interval."""
    train("whole", "--max_steps", 12, *flags)

    def stop_at_7(solver):
        outcome = train_step(solver)
        if solver.step == 7:
            signal.raise_signal(signal.SIGINT)
        return outcome

    train_step = Solver.train_step
    monkeypatch.setattr(Solver, "train_step", stop_at_7)
    outcome = train("parts", "--max_steps", 12, *flags)
    assert outcome.code == 130 and "stopped at step 7" in outcome.err
    monkeypatch.undo()
    assert "trained to step 7: " in train("parts", "--max_steps", 3, *flags, "--resume").out  # past it already
    assert (tmp_path / "parts/cfsrcnn_7.pth").exists()
    assert "at step 7" in train("parts", "--max_steps", 12, *flags, "--resume").out
    assert same(weights(tmp_path / "whole/cfsrcnn_12.pth"), weights(tmp_path / "parts/cfsrcnn_12.pth"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_state_of_an_optimizer_that_was_not_fused_goes_on_fused(train, tmp_path, optimizer):
    """As written on a device without fused optimizers and resumed on one with them."""
    flags = ["--max_steps", 4, "--print_interval", 2, "--optimizer", optimizer]
    train("whole", *flags)
    train("parts", *flags, "--max_steps", 2)
    path = tmp_path / "parts/cfsrcnn_latest.train.pt"
    state = torch.load(path, weights_only=True)
    parts = [state["optimizer"]["adam"]] if optimizer == "muon" else [state["optimizer"]]
    for group in (group for part in parts for group in part["param_groups"]):
        assert group["fused"]
        group["fused"] = None
    torch.save(state, path)
    assert train("parts", *flags, "--resume").code == 0
    assert same(weights(tmp_path / "whole/cfsrcnn_4.pth"), weights(tmp_path / "parts/cfsrcnn_4.pth"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_random_state_of_the_gpu_is_saved_and_restored(train, tmp_path):
    flags = ["--max_steps", 2, "--print_interval", 2, "--device", "cuda"]
    train("run", *flags)
    saved = torch.load(tmp_path / "run/cfsrcnn_latest.train.pt", weights_only=True)["cuda_random"]
    torch.cuda.manual_seed(99)
    assert train("run", *flags, "--resume").code == 0
    assert torch.equal(torch.cuda.get_rng_state(), saved)


def test_a_run_stopped_by_sigterm_goes_on_as_if_never_stopped(train, training_set, test_set, tmp_path):
    flags = ["--max_steps", 60, "--print_interval", 50, "--ema", 0.9]
    argv = [*signaled(signal.SIGTERM, 20), ROOT / "train.py", "--train_data_path", training_set]
    argv += ["--val_data_dir", test_set, "--ckpt_dir", tmp_path / "stopped", *SMALL, *flags]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 143 and "as of step 21, go on with --resume" in done.stderr
    assert train("stopped", *flags, "--resume").code == 0
    assert train("whole", *flags).code == 0
    assert same(weights(tmp_path / "stopped/cfsrcnn_60.pth"), weights(tmp_path / "whole/cfsrcnn_60.pth"))
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")


@pytest.mark.usefixtures("one_thread")
def test_a_batch_in_parts_gives_the_same_step(train, tmp_path):
    flags = ["--batch_size", 5, "--max_steps", 5, "--print_interval", 1, "--init", "kaiming", "--val_data_dir", "none"]
    train("whole", *flags)
    assert train("parts", *flags, "--accumulate", 2).code == 0  # of 3 and 2 patches
    # after one step: from then on Adam enlarges, where a gradient is almost zero, what the CPU rounds off
    whole, parts = weights(tmp_path / "whole/cfsrcnn_1.pth"), weights(tmp_path / "parts/cfsrcnn_1.pth")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)
    for a, b in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "parts"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


def test_it_says_what_it_does(train, tmp_path):
    outcome = train("run", "--max_steps", 5)
    first = outcome.out.splitlines()[0]
    assert "1,310,336 parameters" in first and "4 images, 64.8 KB in memory" in first and "cpu" in first
    assert "step 5: loss" in outcome.out + outcome.err
    assert re.search(r"^step 5: loss 0\.\d{5}, x2 .*\), lr 0\.0001, [0-9]+\.[0-9] images/s$", outcome.out, re.MULTILINE)
    assert "images/s" in outcome.err
    line = json.loads((tmp_path / "run/log.jsonl").read_text())
    measured = {"validation", "bicubic"}
    assert line.keys() == {"run", "step", "loss", "grad_norm", "lr", *CLOCKS} | measured
    board = EventAccumulator(str(tmp_path / "run/cfsrcnn_tensorboard")).Reload()
    assert {"loss", "lr", "grad_norm", "validation/psnr_x2"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"] == ["SR"]


def test_host_and_device_preloading_train_the_same_weights(train, tmp_path):
    assert "mapped from the file" in train("host", "--max_steps", 3, "--preload", "host").out
    assert "in memory" in train("device", "--max_steps", 3, "--preload", "device").out
    assert same(weights(tmp_path / "host/cfsrcnn_3.pth"), weights(tmp_path / "device/cfsrcnn_3.pth"))


def test_a_gpu_out_of_memory_is_one_line(train, monkeypatch):
    def train_step(solver):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Solver, "train_step", train_step)
    outcome = train("run", "--max_steps", 5)
    assert outcome.code == 2 and "at step 1: use a smaller --batch_size" in outcome.err


def test_main_memory_that_runs_out_is_one_line(train, monkeypatch):
    monkeypatch.setattr(Solver, "train_step", lambda solver: torch.empty(1 << 50))
    outcome = train("run", "--max_steps", 5)
    assert outcome.code == 2 and "error: out of memory" in outcome.err and "Traceback" not in outcome.err


def test_lines_of_others_stay_in_the_log(train, tmp_path):
    assert train("run", "--max_steps", 1).code == 0
    with (tmp_path / "run/log.jsonl").open("a") as log:
        log.write('{"note": "by hand"}\n7\n{"run": "cfsrcnn", "st')
    assert train("run", "--max_steps", 2, "--resume").code == 0
    lines = (tmp_path / "run/log.jsonl").read_text().splitlines()
    assert lines[1:3] == ['{"note": "by hand"}', "7"] and [json.loads(lines[i])["step"] for i in (0, 3)] == [1, 2]


def test_bytes_that_are_no_text_do_not_stop_a_run_that_goes_on(train, tmp_path):
    assert train("run", "--max_steps", 1).code == 0
    note = '{"note": "\u2028"}\n'.encode()
    with (tmp_path / "run/log.jsonl").open("ab") as log:
        log.write(note + b"\xff\xfe\x00\n")
    outcome = train("run", "--max_steps", 2, "--resume")
    assert outcome.code == 0, outcome.err
    lines = (tmp_path / "run/log.jsonl").read_bytes().splitlines(True)
    assert lines[1] == note and [json.loads(line).get("step") for line in lines] == [1, None, 2]


def test_pretrained_weights_of_another_scale_are_all_taken_but_the_upsampler(train, tmp_path):
    train("x2", "--max_steps", 1)
    outcome = train("x4", "--max_steps", 1, "--scale", 4, "--pretrained", tmp_path / "x2/cfsrcnn_1.pth", "--lr", 1e-12)
    assert "4 of the upsampler left as initialized" in outcome.out
    x2, x4 = weights(tmp_path / "x2/cfsrcnn_1.pth"), weights(tmp_path / "x4/cfsrcnn_1.pth")
    assert torch.allclose(x2["eb.feus.0.weight"], x4["eb.feus.0.weight"], atol=1e-9)


def test_a_run_that_stands_is_not_overwritten(train, expect_error, training_set, tmp_path):
    train("run", "--max_steps", 1)
    before = (tmp_path / "run/cfsrcnn_1.pth").read_bytes()
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL]
    expect_error("go on with --resume", *argv, "--max_steps", 2)
    expect_error("--batch_size 2, not 3", *argv, "--resume", "--batch_size", 3)
    assert (tmp_path / "run/cfsrcnn_1.pth").read_bytes() == before


def test_weights_whose_state_is_gone_are_not_overwritten_unasked(train, tmp_path):
    train("run", "--max_steps", 1)
    (tmp_path / "run/cfsrcnn_latest.train.pt").unlink()
    before = (tmp_path / "run/cfsrcnn_1.pth").read_bytes()
    flags = ["--max_steps", 1, "--pretrained", tmp_path / "run/cfsrcnn_1.pth"]
    outcome = train("run", *flags)
    assert outcome.code == 2 and "cfsrcnn_1.pth is of an earlier run" in outcome.err
    assert (tmp_path / "run/cfsrcnn_1.pth").read_bytes() == before
    assert train("run", *flags, "--ckpt_name", "cfsr").code == train("run", *flags, "--resume").code == 0


def test_a_state_that_is_a_pipe_is_not_waited_for(train, tmp_path):
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/cfsrcnn_latest.train.pt")
    outcome = train("run", "--max_steps", 1, "--resume")
    assert outcome.code == 2 and "cfsrcnn_latest.train.pt is not a regular file" in outcome.err


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_checkpoint(train, tmp_path):
    train("run", "--max_steps", 5)
    before = sorted((file.name, file.read_bytes()) for file in (tmp_path / "run").glob("*.p*"))
    outcome = train("run", "--max_steps", 50, "--resume", "--lr", 1e30)
    assert outcome.code == 2 and "cfsrcnn_latest.train.pt" in outcome.err
    assert any(f"at step {step}, the 11th in a row" in outcome.err for step in (16, 17, 18))
    assert sorted((file.name, file.read_bytes()) for file in (tmp_path / "run").glob("*.p*")) == before


def test_weights_that_outgrow_the_validation_are_one_line_with_what_to_do(train, tmp_path):
    outcome = train("run", "--max_steps", 5, "--lr", 1e30, "--print_interval", 1)
    assert outcome.code == 2 and "step 1 cannot be validated (the network's output is not finite" in outcome.err
    assert "nothing was saved before; if the weights grow without bound, try a lower --lr" in outcome.err
    assert not list((tmp_path / "run").glob("*.p*"))


def test_images_smaller_than_the_patch_are_named(expect_error, training_set, tmp_path):
    message = expect_error(
        "--patch_size 40 is larger",
        "train.py",
        "--train_data_path",
        training_set,
        "--ckpt_dir",
        tmp_path,
        *SMALL,
        "--patch_size",
        40,
    )
    assert "0 (36x30)" in message and "--patch_size 30" in message


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        (["--group", 2], "must be 1"),
        (["--lr", 0], "--lr"),
        (["--lr", "nan"], "--lr"),
        (["--clip", -1], "--clip"),
        (["--seed", -1], "--seed"),
        (["--ema", 1], "--ema"),
        (["--ckpt_name", "a/b"], "must be a plain name"),
        (["--warmup", -1], "--warmup"),
        (["--batch_size", 10**12], "the patches alone need more than"),
        (["--batch_size", 10**400], "is not a whole number above zero, 10^15 at most"),
        (["--patch_size", 10**9], "--patch_size 1000000000"),
        (
            ["--accumulate", 3],
            "divides the patches of each process, which are --batch_size 2 / --num_gpu 1: use 2 at most",
        ),
        (["--model", "nonesuch"], "--model takes"),
        (["--pretrained", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--train_data_path", "nowhere.h5"], "python div2h5.py"),
    ],
)
def test_flags_that_make_no_sense_get_one_line(expect_error, training_set, tmp_path, flags, phrase):
    expect_error(phrase, "train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL, *flags)
    assert not (tmp_path / "run").exists()


def test_the_papers_schedule_halves_and_the_cosine_ends_at_zero():
    args = TrainConfig(lr=1e-4, decay=400_000, max_steps=600_000, warmup=0, lr_schedule="step")
    assert [learning_rate(step, args) for step in (0, 399_999, 400_000)] == [1e-4, 1e-4, 5e-5]
    args = replace(args, lr_schedule="cosine", warmup=100)
    assert learning_rate(0, args) == pytest.approx(1e-6) and learning_rate(300_000, args) == pytest.approx(5e-5)
    assert learning_rate(600_000, args) == 0


def test_the_identity_initialization_passes_its_input_on():
    torch.manual_seed(0)
    net = CFSRCNN(2)
    means = net.sub_mean.state_dict()
    init_weights(net, "identity")
    assert all(torch.equal(value, net.sub_mean.state_dict()[name]) for name, value in means.items())
    assert net.cb.upsample.up.body[0].bias.abs().max() == 0
    diagonal = torch.stack([net.frb.feus[0].weight[c, c, 1, 1] for c in range(64)])
    assert abs(diagonal.mean() - 1) < 0.1


def test_compressed_training_sets_train_the_same(train, training_set, tmp_path):
    with h5py.File(training_set) as old, h5py.File(tmp_path / "small.h5", "w") as new:
        for group in old:
            for name, dataset in old[group].items():
                new.create_dataset(f"{group}/{name}", data=dataset[()], compression="gzip")
    train("plain", "--max_steps", 2)
    train("small", "--max_steps", 2, "--train_data_path", tmp_path / "small.h5")
    assert same(weights(tmp_path / "plain/cfsrcnn_2.pth"), weights(tmp_path / "small/cfsrcnn_2.pth"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_training_on_cuda_follows_the_cpu(train, tmp_path):
    train("cpu", "--max_steps", 5)
    train("cuda", "--max_steps", 5, "--device", "cuda")
    cpu, cuda = (log_of(tmp_path / name)[0]["loss"] for name in ("cpu", "cuda"))
    assert np.isclose(cpu, cuda, rtol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_a_device_that_is_not_there_is_named(expect_error, training_set, tmp_path):
    expect_error(
        "--device cuda", "train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path, "--device", "cuda"
    )


def test_a_state_that_is_damaged_is_one_line(expect_error, train, training_set, tmp_path):
    train("run", "--max_steps", 1)
    latest = tmp_path / "run/cfsrcnn_latest.train.pt"
    argv = ["train.py", "--train_data_path", training_set, "--ckpt_dir", tmp_path / "run", *SMALL, "--resume"]
    state = torch.load(latest, weights_only=True)
    del state["sampler"]
    torch.save(state, latest)
    expect_error("cannot be read (KeyError: 'sampler')", *argv)
    latest.write_bytes(b"junk")
    expect_error("cannot be read", *argv)


def test_a_training_state_is_not_taken_for_weights(expect_error, train, tmp_path):
    train("run", "--max_steps", 1)
    argv = ["tcw_sample.py", "--scale", 2, "--ckpt_path"]
    expect_error("is the state of a training run", *argv, tmp_path / "run/cfsrcnn_latest.train.pt")
    expect_error("run is a folder", *argv, tmp_path / "run")

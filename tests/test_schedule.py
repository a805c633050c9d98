"""`--max_minutes`: the schedule ends with the time, the run stops there annealed, and resumed time counts."""

from __future__ import annotations

import json

import pytest
import torch

from common.errors import InputError
from solver import Solver
from training.config import TrainConfig
from training.distributed import DistributedContext
from training.schedule import Clock, learning_rate
from training.stopping import SIGNALS

COSINE = TrainConfig(lr=1.0, decay=100, max_steps=1000, warmup=0, lr_schedule="cosine")


def test_without_a_limit_the_clock_changes_nothing():
    clock = Clock(None, 1000)
    clock.agree(10, 1e9)
    assert clock.schedule_step(20) is None and not clock.is_over(999)


def test_progress_is_the_larger_of_steps_and_time():
    clock = Clock(1.0, 1000)
    clock.agree(10, 30.0)  # half of the time after 1% of the steps
    assert clock.schedule_step(10) == 500 and learning_rate(10, COSINE, clock.schedule_step(10)) == pytest.approx(0.5)
    clock.agree(900, 31.0)
    assert clock.schedule_step(900) == 900
    clock.agree(901, 60.0)
    assert clock.is_over(901) and learning_rate(901, COSINE, clock.schedule_step(901)) == 0


def test_between_two_agreements_time_is_extrapolated_by_the_steps():
    clock = Clock(1.0, 1000)
    clock.agree(10, 10.0)
    assert clock.schedule_step(20) == pytest.approx(1000 * 20 / 60)
    clock.agree(10, 25.0, stepping=False)  # a validation of 15 seconds
    assert clock.schedule_step(20) == pytest.approx(1000 * 35 / 60)
    assert not clock.is_over(44) and clock.is_over(45)


def test_the_time_left_is_that_of_the_steps_or_of_the_limit_at_the_speed_of_late(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("training.schedule.time.perf_counter", lambda: now[0])
    unlimited, limited = Clock(None, 1000), Clock(1.0, 1000)
    for clock in (unlimited, limited):
        clock.start(500, 20.0)  # resumed
    now[0] += 10.0
    assert (unlimited.seconds_left(600), limited.seconds_left(600)) == (40, 30)
    now[0] += 20.0  # a second for each step
    assert (unlimited.seconds_left(620), limited.seconds_left(620)) == (380, 10)
    now[0] += 11.0
    assert (unlimited.seconds_left(1000), limited.seconds_left(999)) == (0, 0)


def test_processes_agree_every_two_seconds_and_every_fifty_steps_at_least():
    clock = Clock(None, 1000)
    assert clock.is_due(1)  # the speed is not known yet
    clock.agree(1, 8.0)  # a slow first step
    assert clock.is_due(2)
    for step, elapsed, due in ((2, 8.5, 6), (6, 10.5, 10), (10, 10.6, 60), (60, 11.0, 110), (110, 311.0, 111)):
        clock.agree(step, elapsed)  # with half a second for each step, and later 25 ms, 8 ms, 6 s
        assert not any(clock.is_due(each) for each in range(step, due)) and clock.is_due(due), step
    clock.agree(111, 1e4, stepping=False)  # a validation says nothing on the speed
    assert clock.is_due(112)


def test_a_run_stops_with_the_time_annealed_and_counts_resumed_time(command, monkeypatch, training_set, tmp_path):
    now = [0.0]

    def tick() -> float:
        now[0] += 0.4
        return now[0]

    monkeypatch.setattr("training.schedule.time.perf_counter", tick)
    run = tmp_path / "run"
    flags = [
        "--train_data_path",
        training_set,
        "--ckpt_dir",
        run,
        "--val_data_dir",
        "none",
        "--device",
        "cpu",
    ]
    flags += [
        "--patch_size",
        8,
        "--batch_size",
        1,
        "--max_steps",
        1000,
        "--lr_schedule",
        "cosine",
        "--print_interval",
        2,
    ]
    outcome = command("train.py", *flags, "--max_minutes", 0.1)
    assert outcome.code == 0 and ", the end of --max_minutes: " in outcome.out, outcome
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = log[-1]["step"]
    assert 2 <= last <= 13 and log[-1]["lr"] < 0.2 * log[0]["lr"] and (run / f"cfsrcnn_{last}.pth").is_file()
    again = command("train.py", *flags, "--max_minutes", 0.1, "--resume")
    assert again.code == 0 and f"trained to step {last}, the end of --max_minutes" in again.out
    longer = command("train.py", *flags, "--max_minutes", 0.2, "--resume")
    assert longer.code == 0 and int(longer.out.rsplit("trained to step ", 1)[1].split(",")[0]) > last


def test_the_time_of_the_main_process_counts_in_all_before_the_first_step(monkeypatch, training_set, tmp_path):
    context = DistributedContext(torch.device("cpu"))

    def add_main(values: torch.Tensor) -> torch.Tensor:
        values[-1 - len(SIGNALS)] += 61  # seconds, before the votes
        return values

    where = {"train_data_path": str(training_set), "val_data_dir": "none", "ckpt_dir": str(tmp_path)}
    solver = Solver(TrainConfig(patch_size=8, batch_size=1, max_steps=3, max_minutes=1, **where), context)
    monkeypatch.setattr(context, "rank", 1)  # as if it were another one
    monkeypatch.setattr(context, "all_reduce", add_main)
    with pytest.raises(InputError, match="--max_minutes 1: the time is up before the first step, the start took 6"):
        solver.fit()
    assert solver.step == 0


def test_a_time_of_zero_is_refused(expect_error):
    expect_error("--max_minutes", "train.py", "--max_minutes", 0)


def test_a_time_that_the_start_takes_up_writes_nothing(expect_error, training_set, tmp_path):
    flags = ["--train_data_path", training_set, "--val_data_dir", "none", "--ckpt_dir", tmp_path / "run"]
    flags += ["--device", "cpu", "--patch_size", 8, "--batch_size", 1, "--max_minutes", 1e-6]
    expect_error("--max_minutes 1e-06: the time is up before the first step", "train.py", *flags)
    assert not list(tmp_path.iterdir())

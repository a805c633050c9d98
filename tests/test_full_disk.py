"""The disk fills up while something is written: one line that names the file, what stood there stays, and all can go on."""

from __future__ import annotations

import errno
import os
import subprocess
import threading

import numpy as np
import pytest
import torch
from conftest import largest_file
from PIL import Image

import training.log
from common.errors import InputError
from common.files import atomic_write
from model.checkpoint import read_state_dict, save_state_dict
from tests.stress.crash_recovery import board_of, log_of
from training.log import TrainingLog

pytestmark = pytest.mark.usefixtures("one_thread", "event_files_in_order")
SMALL = ["--patch_size", 8, "--batch_size", 2, "--init", "identity", "--device", "cpu", "--print_interval", 2]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB; only root can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place]
    try:
        subprocess.run(argv, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk, and not everywhere")
    yield place
    subprocess.run(["umount", place], check=True)


def content(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_training_stops_and_goes_on_when_there_is_room(command, expect_error, image_folder, tmp_path):
    assert command("div2h5.py", "--source", image_folder, "--out", tmp_path / "a.h5", "--scales", 2).code == 0

    def argv(folder: str, steps: int) -> list:
        where = ["--train_data_path", tmp_path / "a.h5", "--val_data_dir", "none", "--ckpt_dir", tmp_path / folder]
        return ["train.py", *where, *SMALL, "--max_steps", steps, "--resume"]

    assert command(*argv("run", 2)).code == 0 and command(*argv("alone", 4)).code == 0
    told = {"log.jsonl", "cfsrcnn.json"}  # what tells of each start
    kept = {name: data for name, data in content(tmp_path / "run").items() if name not in told}
    with largest_file(1 << 20):
        line = expect_error("cfsrcnn_4.pth cannot be written (File too large): free some space", *argv("run", 4))
    assert "untouched" in line
    after = content(tmp_path / "run")
    assert {name: after[name] for name in after if name not in told} == kept
    assert after.keys() == kept.keys() | told
    with largest_file(8 << 20):  # now the weights fit, but not the state
        expect_error("cfsrcnn_latest.train.pt cannot be written", *argv("run", 4))
    assert content(tmp_path / "run")["cfsrcnn_latest.train.pt"] == kept["cfsrcnn_latest.train.pt"]
    assert command(*argv("run", 4)).code == 0
    ours, theirs = (read_state_dict(tmp_path / name / "cfsrcnn_4.pth") for name in ("run", "alone"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("size", [0, 100, 3000, 20_000])
def test_a_training_set_is_whole_or_not_there(expect_error, image_folder, tmp_path, size):
    (tmp_path / "a.h5").write_text("the earlier one")
    argv = ["div2h5.py", "--source", image_folder, "--out", tmp_path / "a.h5"]
    with largest_file(size):
        expect_error("a.h5 cannot be written (File too large)", *argv)
    assert content(tmp_path) == {"a.h5": b"the earlier one"}


def test_an_sr_image_is_whole_or_not_there(expect_error, image_folder, tmp_path):
    (tmp_path / "0000_x2.png").write_text("the earlier one")
    argv = ["tcw_sample.py", "--model", "bicubic", "--scale", 2, "--input", image_folder / "0000.png"]
    with largest_file(1000):
        expect_error("0000_x2.png cannot be written (File too large)", *argv, "--sample_dir", tmp_path)
    assert content(tmp_path) == {"0000_x2.png": b"the earlier one"}


def test_a_report_is_whole_or_not_there(command, expect_error, image_folder, tmp_path):
    argv = [
        "tcw_sample.py",
        "--model",
        "bicubic",
        "--scale",
        2,
        "--test_data_dir",
        image_folder,
        "--sample_dir",
        tmp_path,
    ]
    assert command(*argv).code == 0
    folder = tmp_path / "bicubic" / image_folder.name / "x2"
    before = content(folder)["report.html"]
    for size in (100_000, len(before) - 100):  # while its images are gathered, and at its end; seconds vary in length
        with largest_file(size):
            expect_error("report.html cannot be written (File too large)", *argv)
        assert content(folder).keys() == {"report.html", "results.json"} and content(folder)["report.html"] == before
    with largest_file(100):
        expect_error("cannot be written (File too large)", *argv)


def test_a_log_gets_a_whole_line_or_none(tmp_path):
    reports = []
    log = TrainingLog(tmp_path, "run", 0, reports.append)
    log.write(1, {"loss": 1.0})
    before = (tmp_path / "log.jsonl").read_bytes()
    with largest_file(len(before) + 10):
        log.write(2, {"loss": 1.0})
    assert any("log.jsonl cannot be written" in line for line in reports)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    log.close()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("size", "name"), [(0, "cfsrcnn_tensorboard"), (1, "cfsrcnn_tensorboard"), (5_000, "cfsrcnn_2.pth")]
)  # of what is written later, the weights come first
def test_curves_that_do_not_fit_are_one_line(command, expect_error, image_folder, tmp_path, size, name):
    """TensorBoard's files are written on a thread of its own."""
    assert command("div2h5.py", "--source", image_folder, "--out", tmp_path / "a.h5", "--scales", 2).code == 0
    where = ["--train_data_path", tmp_path / "a.h5", "--val_data_dir", image_folder, "--ckpt_dir", tmp_path / "run"]
    argv, hook = ["train.py", *where, *SMALL, "--max_steps", 2], threading.excepthook
    with largest_file(size):
        expect_error(f"{name} cannot be written (File too large): free some space", *argv)
    assert threading.excepthook == hook
    assert command(*argv).code == 0 and len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 1


def test_what_a_full_disk_kept_out_of_the_log_is_written_when_there_is_room(tmp_path):
    reports = []
    log = TrainingLog(tmp_path, "run", 0, reports.append)
    log.write(1, {"loss": 1.0})
    with largest_file(10):
        log.log_image(2, np.zeros((8, 8, 3), np.uint8))
        for step in (2, 3):
            log.write(step, {"loss": 1.0 / step})
    assert sorted(line.partition(" cannot be written (File too large): ")[0] for line in reports) == [
        str(tmp_path / name) for name in ("log.jsonl", "run_tensorboard")
    ]
    log.write(4, {"loss": 0.25})
    assert log.close() == ""
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4]
    assert board_of(tmp_path)["loss"] == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)]


def test_what_never_fits_is_named_at_the_end(tmp_path):
    log = TrainingLog(tmp_path, "run", 0, [].append)
    with largest_file(10):
        log.write(2, {"loss": 1.0})
        log.write(4, {"loss": 1.0})
        missing = log.close()
    assert missing.split(", ") == [
        f"{tmp_path / name} lacks the lines of steps 2 to 4" for name in ("log.jsonl", "run_tensorboard")
    ]


@pytest.mark.parametrize("failures", [1, 99])
def test_a_full_disk_for_the_log_does_not_end_a_run(
    command, training_set, image_folder, tmp_path, monkeypatch, failures
):
    """At the end the exit code tells whether the log is complete."""
    append, calls = training.log._append, []

    def full(path, lines):
        calls.append(lines)
        if len(calls) <= failures:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(path, lines)

    monkeypatch.setattr(training.log, "_append", full)
    where = ["--train_data_path", training_set, "--val_data_dir", image_folder, "--ckpt_dir", tmp_path / "run"]
    outcome = command("train.py", *where, *SMALL, "--max_steps", 6)
    assert outcome.err.count("log.jsonl cannot be written (No space left on device): training goes on") == 1
    assert "trained to step 6" in outcome.out and (tmp_path / "run/cfsrcnn_6.pth").exists()
    assert torch.load(tmp_path / "run/cfsrcnn_latest.train.pt", weights_only=True)["step"] == 6
    assert [step for step, _ in board_of(tmp_path / "run")["loss"]] == [2, 4, 6]
    if failures == 1:
        assert outcome.code == 0 and [line["step"] for line in log_of(tmp_path / "run")] == [2, 4, 6]
    else:
        assert outcome.code == 2 and not (tmp_path / "run/log.jsonl").exists()
        assert "the training is complete, but not its log: " in outcome.err
        assert "log.jsonl lacks the lines of steps 2 to 6" in outcome.err


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_on_a_disk_that_is_really_full(small_disk, name):
    save_state_dict({"a": torch.ones(10_000)}, small_disk / name)
    with pytest.raises(InputError, match=rf"{name} cannot be written \(No space left on device\)"):
        save_state_dict({"a": torch.zeros(60_000)}, small_disk / name)
    assert torch.equal(read_state_dict(small_disk / name)["a"], torch.ones(10_000))
    assert [file.name for file in small_disk.iterdir()] == [name]


def test_a_training_set_on_a_disk_that_is_really_full(expect_error, command, image_folder, small_disk, tmp_path):
    large = tmp_path / "large"
    large.mkdir()
    Image.open(image_folder / "0000.png").resize((400, 400)).save(large / "0.png")
    expect_error("No space left on device", "div2h5.py", "--source", large, "--out", small_disk / "a.h5")
    assert not list(small_disk.iterdir())
    assert command("div2h5.py", "--source", image_folder, "--out", small_disk / "a.h5").code == 0


def test_other_errors_of_the_system_keep_their_own_words(tmp_path):
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a.txt"):
        raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(("number", "advice"), [(errno.EROFS, "name another"), (errno.EIO, "check the disk")])
def test_an_error_of_a_temporary_file_names_the_file_that_was_asked_for(
    expect_error, image_folder, tmp_path, monkeypatch, number, advice
):
    def fail(temporary, _):
        raise OSError(number, os.strerror(number), str(temporary))

    (tmp_path / "a.h5").write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    line = expect_error(advice, "div2h5.py", "--source", image_folder, "--out", tmp_path / "a.h5")
    assert line.startswith(f"error: {tmp_path / 'a.h5'} cannot be written ({os.strerror(number)}): ")
    assert "unfinished" not in line and (tmp_path / "a.h5").read_text() == "old"

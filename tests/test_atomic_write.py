"""Atomic writes: a file is on the disk before it has its final name, whichever command writes it and whenever it stops."""

from __future__ import annotations

import os
import signal

import pytest
from conftest import largest_file, sample_image
from PIL import Image

from common.files import atomic_dir, atomic_write

pytestmark = pytest.mark.usefixtures("one_thread")
LOG = '{"run": "run", "step": 1, "loss": 0.1, "lr": 1e-4, "seconds": 1.0}\n'


@pytest.fixture
def calls(monkeypatch):
    """`fsync` and `replace` in their order, with the size of the file when it is synced."""
    seen, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (seen.append(("fsync", os.fstat(handle).st_size)), fsync(handle))[1]
    )
    monkeypatch.setattr(os, "replace", lambda *names: (seen.append(("replace", names[1])), replace(*names))[1])
    return seen


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, calls):
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path and not calls
    assert calls == [("fsync", 3), ("replace", tmp_path / "a.txt")]


@pytest.mark.parametrize("failure", [OSError("no disk"), KeyboardInterrupt(), SystemExit(143)], ids=repr)
def test_what_stood_there_stays_whatever_happens(tmp_path, failure):
    (tmp_path / "a.txt").write_text("old")
    for name, write in (("a.txt", atomic_write), ("folder", atomic_dir)):
        with pytest.raises(type(failure)), write(tmp_path / name) as temporary:
            (temporary / "b" if temporary.is_dir() else temporary).write_text("half")
            raise failure
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "old"}


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("name", "write"), [("open", atomic_write), ("mkdir", atomic_dir)])
def test_a_signal_as_soon_as_a_temporary_file_exists_leaves_none(tmp_path, monkeypatch, name, write):
    make = getattr(os, name)
    monkeypatch.setattr(os, name, lambda *args: (make(*args), signal.raise_signal(signal.SIGINT))[0])
    with pytest.raises(KeyboardInterrupt), write(tmp_path / "a"):
        pytest.fail("it goes on")
    assert not any(tmp_path.iterdir())


def test_a_new_folder_that_another_process_takes_for_a_stale_one_is_made_again(tmp_path, monkeypatch):
    make, made = os.mkdir, []

    def make_and_lose(*args) -> None:
        make(*args)
        made.append(args[0])
        if len(made) == 1:
            os.rmdir(args[0])

    monkeypatch.setattr(os, "mkdir", make_and_lose)
    with atomic_dir(tmp_path / "a") as folder:
        (folder / "b").write_text("whole")
    assert len(made) == 2 and [file.name for file in tmp_path.rglob("*")] == ["a", "b"]


@pytest.fixture
def commands(tmp_path, checkpoint) -> dict:
    """By name: a file, and the arguments of the command that writes it from what lies in tmp_path/in."""
    (tmp_path / "in/Set5").mkdir(parents=True)
    Image.fromarray(sample_image("coffee.png", 48, 48)).save(tmp_path / "in/Set5/a.png")
    (tmp_path / "in/log.jsonl").write_text(LOG)
    inputs, out, image = tmp_path / "in", tmp_path / "out", tmp_path / "in/Set5/a.png"
    bicubic = ["tcw_sample.py", "--model", "bicubic", "--scale", 2, "--test_data_dir", inputs / "Set5"]
    figure = ["-m", "evaluation.figure", "--image", image, "--scale", 2, "--ckpt_path", checkpoint]
    paper = ["-m", "evaluation.paper", "--data", inputs, "--checkpoints", inputs, "--device", "cpu"]
    return {
        "SR": (out / "bicubic/Set5/x2/SR/a.png", [*bicubic, "--sample_dir", out]),
        "results": (out / "bicubic/Set5/x2/results.json", [*bicubic, "--sample_dir", out]),
        "figure": (out / "a.pdf", [*figure, "--out", out / "a.pdf"]),
        "curves": (out / "a.png", ["-m", "training.curves", inputs / "log.jsonl", "--out", out / "a.png"]),
        "weights": (
            out / "a.pth",
            ["-m", "model.checkpoint", "convert", checkpoint, out / "a.pth", "--format", "native"],
        ),
        "set": (out / "S/x2", ["-m", "dataset.prepare", "--hr", inputs / "Set5", "--name", "S", "--out", out]),
        "paper": (out / "tables.md", [*paper, "--out", out]),
    }


SIZES = {"SR": 500, "results": 0, "figure": 1000, "curves": 1000, "weights": 100_000, "set": 100, "paper": 3000}


@pytest.mark.parametrize("name", SIZES)
def test_on_a_full_disk_each_command_keeps_what_stood_there(command, expect_error, commands, tmp_path, name):
    file, argv = commands[name]
    if name != "set":  # which is never written over
        file.parent.mkdir(parents=True)
        file.write_text("the earlier one")
    with largest_file(SIZES[name]):
        assert "cannot be written (File too large)" in expect_error("free some space", *argv)
    assert name == "set" or file.read_text() == "the earlier one"
    assert file.exists() == (name != "set") and not list((tmp_path / "out").rglob(".unfinished_*"))
    assert command(*argv).code == 0
    if name == "results":  # a results.json that is not of this run is left alone; the results go to a folder beside it
        assert file.read_text() == "the earlier one" and len(list((tmp_path / "out").rglob("results.json"))) == 2
    else:
        assert file.is_dir() if name == "set" else file.read_bytes() != b"the earlier one"

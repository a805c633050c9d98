"""Teacher targets: what they are, that train.py reads them, that a stopped command goes on, and what is expect_error."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import golden_weights, largest_file, sample_image
from PIL import Image

from common.errors import InputError
from dataset.hdf5 import read_hdf5
from inference.upscaler import NetworkUpscaler
from model import create_model
from model.checkpoint import load_model, save_state_dict
from training.teachers import Teacher, TeacherEnsemble, TeacherPool

PHOTOGRAPHS = 3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three small photographs of two shapes."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, name in enumerate(["astronaut.png", "chelsea.png", "coffee.png"]):
        image = sample_image(name, 40, 53, 60 + 30 * number)
        Image.fromarray(image if number else image.transpose(1, 0, 2)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """`--teacher NAME=FILE` of two untrained networks that give images near their input."""
    folder, words = tmp_path_factory.mktemp("teachers"), []
    for name in ("rlfn", "bsrn"):
        net = create_model(name, 2)
        state = golden_weights({key: list(value.shape) for key, value in net.state_dict().items()})
        save_state_dict({key: value * 0.3 for key, value in state.items()}, folder / f"{name}.pth")
        words += ["--teacher", f"{name}={folder / f'{name}.pth'}"]
    return words


@pytest.fixture
def distill(command, photographs, teachers, tmp_path):
    """`distill(flags...)`: the command on the photographs at x2 in this process, to tmp_path/out.h5."""

    def run(*flags):
        where = ["--scale", 2, "--source", photographs, "--out", tmp_path / "out.h5", "--workers", 1]
        return command("-m", "training.distillation", *where, *teachers, *flags)

    return run


def nets_of(teachers: list[str], self_ensemble: bool = False) -> list[NetworkUpscaler]:
    named = [word.split("=") for word in teachers[1::2]]
    return [NetworkUpscaler(load_model(path, name, 2), 2, self_ensemble=self_ensemble) for name, path in named]


@pytest.mark.parametrize("self_ensemble", [False, True])
def test_targets_are_the_rounded_mean_of_the_teachers(distill, command, photographs, teachers, tmp_path, self_ensemble):
    weight, shrink = (0.25, []) if self_ensemble else (1, ["--shrink", 0.8])
    flags = ["--self_ensemble", "--teacher_weight", weight] if self_ensemble else []
    outcome = distill(*shrink, *flags)
    assert outcome.code == 0 and "targets: mean output of rlfn, bsrn" in outcome.out, outcome
    command("div2h5.py", "--source", photographs, "--scales", 2, *shrink, "--out", tmp_path / "hr.h5")
    ours, plain = read_hdf5(tmp_path / "out.h5", [2]), read_hdf5(tmp_path / "hr.h5", [2])
    assert len(ours) == len(plain) == PHOTOGRAPHS * (1 if self_ensemble else 2)
    nets = nets_of(teachers, self_ensemble)
    for target, hr, our_lr, lr in zip(ours.hr, plain.hr, ours.lr[2], plain.lr[2], strict=True):
        assert np.array_equal(our_lr, lr)
        mean = 255 * weight * np.mean([net.to_float(lr) for net in nets], axis=0) + (1 - weight) * hr
        assert target.std() > 1 and abs(target - mean.clip(0, 255)).max() < 0.51
    assert not (tmp_path / "out.h5.parts").exists()


def test_what_is_finished_is_kept_when_the_command_stops(distill, tmp_path):
    assert distill().code == 0
    whole = (tmp_path / "out.h5").read_bytes()
    (tmp_path / "out.h5").write_bytes(b"older")
    with largest_file(20_000):  # enough for an image, too little for all
        outcome = distill()
    assert outcome.code == 2 and "cannot be written" in outcome.err
    assert (tmp_path / "out.h5").read_bytes() == b"older"
    outcome = distill()
    assert outcome.code == 0 and f"finished before: {PHOTOGRAPHS} images" in outcome.out
    assert (tmp_path / "out.h5").read_bytes() == whole and not (tmp_path / "out.h5.parts").exists()


def test_what_another_command_finished_is_not_taken(distill, tmp_path):
    with largest_file(20_000):
        assert distill().code == 2
    outcome = distill("--teacher_weight", 0.5)
    assert outcome.code == 0 and "finished before" not in outcome.out and "0.5 of it and 0.5 of HR" in outcome.out


def test_several_processes_give_the_same_and_one_that_dies_is_one_line(teachers):
    named = [Teacher(name, Path(path)) for name, path in (word.split("=") for word in teachers[1::2])]
    lr = sample_image("coffee.png", 20, 31)
    alone = TeacherEnsemble(named, 2, torch.device("cpu"))(lr)
    with TeacherPool(named, 2, torch.device("cpu"), workers=2) as pool:
        assert np.array_equal(pool(lr), alone)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(InputError, match="a worker process died"):
            pool(lr)


@pytest.mark.parametrize(("device", "cudnn"), [("cuda", False), ("cpu", True)])
def test_on_a_gpu_the_teachers_run_without_cudnn(monkeypatch, device, cudnn):
    monkeypatch.setattr("training.teachers.TeacherEnsemble", lambda *_: lambda lr: torch.backends.cudnn.enabled)
    with TeacherPool([], 2, torch.device(device), workers=1) as pool:
        assert pool(np.zeros((1, 1, 3), np.uint8)) == cudnn
    assert torch.backends.cudnn.enabled


def test_the_same_images_are_held_out_as_by_div2h5(distill, command, photographs, tmp_path):
    assert distill("--hold_out", 2).code == 0
    command("div2h5.py", "--source", photographs, "--scales", 2, "--hold_out", 2, "--out", tmp_path / "hr.h5")
    ours, theirs = (
        {file.name: file.read_bytes() for file in (tmp_path / f"{name}_held_out").glob("x2/*")}
        for name in ("out", "hr")
    )
    assert ours == theirs and len(ours) == 4
    assert len(read_hdf5(tmp_path / "out.h5", [2])) == PHOTOGRAPHS - 2


def test_train_reads_it(distill, command, tmp_path):
    assert distill().code == 0
    flags = [
        "--patch_size",
        8,
        "--batch_size",
        2,
        "--max_steps",
        1,
        "--device",
        "cpu",
        "--val_data_dir",
        "none",
    ]
    where = ["--train_data_path", tmp_path / "out.h5", "--ckpt_dir", tmp_path / "run"]
    outcome = command("train.py", "--scale", 2, *where, *flags)
    assert outcome.code == 0, outcome.err


def test_teachers_that_cannot_be_used_are_one_line(expect_error, teachers, photographs, tmp_path):
    path = teachers[1].split("=")[1]

    def refuse(phrase, *words):
        out = ["--out", tmp_path / "new" / "out.h5"]
        expect_error(phrase, "-m", "training.distillation", "--source", photographs, *out, "--workers", 1, *words)
        assert not (tmp_path / "new").exists()

    refuse("bsrn.pth is not NAME=FILE", "--scale", 2, "--teacher", "bsrn.pth")
    refuse("--teacher bsrn=none.pth: there is no such file", "--scale", 2, "--teacher", "bsrn=none.pth")
    refuse("does not fit --model rlfn --scale 3", "--scale", 3, "--teacher", f"rlfn={path}")
    refuse("does not fit --model bsrn --scale 2", "--scale", 2, "--teacher", f"bsrn={path}")
    refuse("there is no model 'esrgan'", "--scale", 2, "--teacher", f"esrgan={path}")
    refuse("0 is not a number above 0, to 1", "--scale", 2, "--teacher", f"rlfn={path}", "--teacher_weight", 0)
    refuse("is itself read", "--scale", 2, "--teacher", f"rlfn={path}", "--out", path)


def test_places_that_cannot_take_the_output_are_one_line(expect_error, teachers, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["-m", "training.distillation", "--scale", 2, "--source", photographs, "--workers", 1, *teachers]
    for out in ("", ".", "/", tmp_path):
        expect_error("is a folder: name the file to write", *argv, "--out", out)
    (tmp_path / "file.h5.parts").touch()
    (tmp_path / "link.h5.parts").symlink_to(tmp_path)
    for name in ("file.h5", "link.h5"):
        expect_error(f"{name}.parts is not a folder", *argv, "--out", tmp_path / name)
    expect_error("is given twice", *argv, *teachers, "--out", tmp_path / "out.h5")
    expect_error("it is a folder", *argv, "--teacher", f"bsrn={tmp_path}", "--out", tmp_path / "out.h5")


def test_what_else_is_in_the_folder_of_finished_images_stays(distill, tmp_path):
    (tmp_path / "out.h5.parts").mkdir()
    (tmp_path / "out.h5.parts/notes.txt").write_text("mine")
    assert distill().code == 0
    assert [file.name for file in (tmp_path / "out.h5.parts").iterdir()] == ["notes.txt"]


def test_an_image_too_small_for_a_teacher_is_named(expect_error, teachers, tmp_path):
    Image.new("RGB", (40, 28)).save(tmp_path / "flat.png")
    words = ["--scale", 2, "--source", tmp_path, "--out", tmp_path / "out.h5", "--workers", 1, *teachers]
    expect_error(
        "flat.png: rlfn needs images of at least 15x15 pixels, not 20x14", "-m", "training.distillation", *words
    )
    Image.new("RGB", (40, 40)).save(tmp_path / "flat.png")
    line = "flat.png after --shrink 0.5: rlfn needs images of at least 15x15 pixels, not 10x10"
    expect_error(line, "-m", "training.distillation", *words, "--shrink", 0.5)

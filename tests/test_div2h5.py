"""`div2h5.py`: images, or DIV2K as downloaded, become the training set in one HDF5 file; or nothing does."""

import shutil
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, sample_image
from PIL import Image

import dataset.training_set
from dataset.image_writer import write_png
from dataset.images import list_images, read_image, read_rgb
from dataset.imresize import imresize
from dataset.prepare import prepare


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def source(tmp_path, image_folder) -> Path:
    """A copy of the four images that a test may spoil."""
    return Path(shutil.copytree(image_folder, tmp_path / "source"))


@pytest.fixture
def div2k(tmp_path) -> Path:
    """DIV2K as downloaded, but with two small images, and with LR images that no resize would make."""
    random, folder = np.random.default_rng(0), tmp_path / "DIV2K"
    for name, (height, width) in {"0001": (24, 36), "0002": (36, 12)}.items():
        write_png(folder / f"DIV2K_train_HR/{name}.png", random.integers(0, 256, (height, width, 3), np.uint8))
        for scale in (2, 3, 4):
            lr = random.integers(0, 256, (height // scale, width // scale, 3), np.uint8)
            write_png(folder / f"DIV2K_train_LR_bicubic/X{scale}/{name}x{scale}.png", lr)
    return folder


@pytest.fixture
def old_file(tmp_path) -> Path:
    """A finished file of an earlier run, in a folder of its own."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.h5").write_bytes(b"old")
    return tmp_path / "out" / "train.h5"


def assert_untouched(old_file: Path) -> None:
    assert names_in(old_file.parent) == ["train.h5"] and old_file.read_bytes() == b"old"


# --- a folder of images ---------------------------------------------------------------------------------------------


def test_a_folder_of_images_becomes_the_authors_layout(command, image_folder, tmp_path):
    outcome = command("div2h5.py", "--source", image_folder, "--out", tmp_path / "new" / "train.h5")
    assert outcome.code == 0 and "4 images, scales x2, x3, x4" in outcome.out, outcome
    with h5py.File(tmp_path / "new" / "train.h5") as file:
        assert set(file) == {"HR", "X2", "X3", "X4"}
        for group, scale in {"HR": 1, "X2": 2, "X3": 3, "X4": 4}.items():
            assert set(file[group]) == {"0", "1", "2", "3"}
            for number, path in enumerate(list_images(image_folder)):
                image = file[group][str(number)]
                assert image.dtype == np.uint8 and image.chunks is None and image.id.get_offset()
                assert np.array_equal(image, imresize(read_rgb(path), Fraction(1, scale)))
    assert names_in(tmp_path / "new") == ["train.h5"]


def test_only_the_scales_asked_for_are_written(command, image_folder, tmp_path):
    assert command("div2h5.py", "--source", image_folder, "--out", tmp_path / "a.h5", "--scales", 3).code == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"HR", "X3"}


def test_hr_images_are_cropped_to_a_multiple_of_the_scales(command, source, tmp_path):
    shutil.rmtree(source)
    hr = sample_image("chelsea.png", 31, 47)
    write_png(source / "a.png", hr)
    for scales, (height, width) in {(2, 3, 4): (24, 36), (2,): (30, 46), (3,): (30, 45)}.items():
        assert command("div2h5.py", "--source", source, "--out", tmp_path / "a.h5", "--scales", *scales).code == 0
        with h5py.File(tmp_path / "a.h5") as file:
            assert np.array_equal(file["HR/0"], hr[:height, :width])
            for scale in scales:
                assert np.array_equal(file[f"X{scale}/0"], imresize(hr[:height, :width], Fraction(1, scale)))


@pytest.mark.parametrize("flag", [("--padding", "symmetric"), ("--edge", "mirror")])  # new and former spelling
def test_the_padding_can_be_chosen(command, image_folder, tmp_path, flag):
    assert command("div2h5.py", "--source", image_folder, "--out", tmp_path / "a.h5", *flag).code == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["X2/0"], imresize(read_rgb(image_folder / "0000.png"), Fraction(1, 2), "symmetric"))


def test_more_folders_can_be_added(command, image_folder, div2k, tmp_path):
    argv = ["--source", div2k, "--extra", image_folder, div2k / "DIV2K_train_HR"]
    outcome = command("div2h5.py", *argv, "--out", tmp_path / "a.h5")
    assert outcome.code == 0 and "8 images" in outcome.out
    assert "padding replicate (4 of 8; the others as found)" in outcome.out
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["HR/1"], read_rgb(div2k / "DIV2K_train_HR/0002.png"))
        assert np.array_equal(file["HR/2"], read_rgb(image_folder / "0000.png"))


def test_images_keep_file_name_order_whichever_is_decoded_first(command, image_folder, tmp_path, monkeypatch):
    def slow_at_first(path):
        time.sleep(0.1 if path.name == "0000.png" else 0)
        return read_image(path)

    monkeypatch.setattr(dataset.training_set, "read_image", slow_at_first)
    assert command("div2h5.py", "--source", image_folder, "--out", tmp_path / "a.h5", "--workers", 3).code == 0
    with h5py.File(tmp_path / "a.h5") as file:
        for number, path in enumerate(list_images(image_folder)):
            assert np.array_equal(file[f"HR/{number}"], read_rgb(path))


def test_images_leave_the_memory_once_they_are_written(command, source, tmp_path, images_read):
    for number in range(4, 30):
        shutil.copy(source / "0000.png", source / f"{number:04}.png")
    read = images_read(dataset.training_set)
    assert command("div2h5.py", "--source", source, "--out", tmp_path / "a.h5", "--workers", 2).code == 0
    assert read.count == 30 and read.most_at_once <= 8  # two per thread wait, one per thread is decoded, one is written


def test_conversions_are_reported_once(command, source, tmp_path):
    for name, mode in {"0000": "L", "0001": "P", "0002": "L"}.items():
        Image.open(source / f"{name}.png").convert(mode).save(source / f"{name}.png")
    outcome = command("div2h5.py", "--source", source, "--out", tmp_path / "a.h5", "--workers", 1)
    assert outcome.code == 0
    notes = [line for line in outcome.out.splitlines() if "converted" in line]
    assert notes == ["converted to 8-bit RGB: 2 grayscale, 1 palette (0000.png, 0001.png, 0002.png)"]
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["HR/0"].shape == (60, 72, 3)


# --- DIV2K as downloaded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["DIV2K", "DIV2K/DIV2K_train_HR"])
def test_div2k_is_taken_with_the_lr_images_it_came_with(command, div2k, tmp_path, named):
    assert command("div2h5.py", "--source", tmp_path / named, "--out", tmp_path / "a.h5").code == 0
    with h5py.File(tmp_path / "a.h5") as file:
        for number, name in enumerate(["0001", "0002"]):
            assert np.array_equal(file[f"HR/{number}"], read_rgb(div2k / f"DIV2K_train_HR/{name}.png"))
            for scale in (2, 3, 4):
                lr = read_rgb(div2k / f"DIV2K_train_LR_bicubic/X{scale}/{name}x{scale}.png")
                assert np.array_equal(file[f"X{scale}/{number}"], lr)


def test_a_scale_left_out_need_not_be_downloaded(command, div2k, tmp_path):
    shutil.rmtree(div2k / "DIV2K_train_LR_bicubic/X3")
    assert command("div2h5.py", "--source", div2k, "--out", tmp_path / "a.h5", "--scales", 2, 4).code == 0


def test_div2k_without_any_lr_images_gets_ours_and_says_so(command, div2k, tmp_path):
    shutil.rmtree(div2k / "DIV2K_train_LR_bicubic")
    outcome = command("div2h5.py", "--source", div2k, "--out", tmp_path / "a.h5")
    assert outcome.code == 0 and "DIV2K_train_LR_bicubic is not there" in outcome.out
    with h5py.File(tmp_path / "a.h5") as file:
        hr = read_rgb(div2k / "DIV2K_train_HR/0002.png")
        assert np.array_equal(file["X3/1"], imresize(hr, Fraction(1, 3)))


def test_a_missing_lr_image_is_named(expect_error, div2k, old_file):
    missing = div2k / "DIV2K_train_LR_bicubic/X3/0002x3.png"
    missing.unlink()
    line = expect_error(f"{missing} is missing", "div2h5.py", "--source", div2k, "--out", old_file)
    assert "0002.png" in line and "--scales" in line
    assert_untouched(old_file)


def test_an_lr_image_without_its_hr_image_is_named(expect_error, div2k, old_file):
    (div2k / "DIV2K_train_HR/0002.png").unlink()
    line = expect_error("X2/0002x2.png belongs to no pair", "div2h5.py", "--source", div2k, "--out", old_file)
    assert f"no image in {div2k / 'DIV2K_train_HR'} has its name" in line
    assert_untouched(old_file)


def test_endings_in_upper_case_are_accepted(command, div2k, tmp_path):
    for file in div2k.rglob("0002*.png"):
        file.rename(file.with_suffix(".PNG"))
    (div2k / "DIV2K_train_HR/0001.png").rename(div2k / "DIV2K_train_HR/0001.Png")
    outcome = command("div2h5.py", "--source", div2k, "--out", tmp_path / "a.h5")
    assert outcome.code == 0 and "2 images, scales x2, x3, x4, LR as found" in outcome.out


def test_lr_images_are_not_taken_for_hr_images(expect_error, div2k, image_folder, tmp_path):
    prepare(list_images(image_folder), tmp_path / "Set", [2])
    out = ["--out", tmp_path / "never.h5"]
    expect_error("beside its LR image", "div2h5.py", "--source", tmp_path / "Set/x2", *out)
    lr = div2k / "DIV2K_train_LR_bicubic/X2"
    expect_error("X2 holds LR images by its name", "div2h5.py", "--source", image_folder, "--extra", lr, *out)
    assert not (tmp_path / "never.h5").exists()


def test_an_lr_image_of_another_size_is_named(expect_error, div2k, old_file):
    wrong = div2k / "DIV2K_train_LR_bicubic/X4/0002x4.png"
    write_png(wrong, np.zeros((9, 4, 3), np.uint8))
    line = expect_error(f"{wrong} is 4x9", "div2h5.py", "--source", div2k, "--out", old_file)
    assert "0002.png (12x36)" in line
    assert_untouched(old_file)


# --- what goes wrong leaves nothing behind ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_a_broken_image_is_named(expect_error, source, old_file, workers):
    broken = source / "0002.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    argv = ["--source", source, "--out", old_file, "--workers", workers]
    expect_error(f"{broken} is not a readable image", "div2h5.py", *argv)
    assert_untouched(old_file)


def test_all_broken_images_are_named_in_one_run(command, source, old_file):
    for name in ("0001.png", "0003.png"):
        (source / name).write_bytes((source / name).read_bytes()[:2000])
    for extra in (
        [],
        ["--shrink", 0.5],
        ["--hold_out", 2],
        ["--hold_out", 3],
    ):  # both are held out, or the second alone
        outcome = command("div2h5.py", "--source", source, "--out", old_file, *extra)
        last = outcome.err.splitlines()[-1]
        assert outcome.code == 2 and last.startswith("error: 2 failures (") and "written" in last, outcome.err
        assert "0001.png is not a readable image" in last and "0003.png is not a readable image" in last
        assert "unfinished" not in last
        assert_untouched(old_file)
    assert "nothing is written and the exit code is 2" in " ".join(command("div2h5.py", "--help").out.split())


def test_an_image_too_small_to_shrink_is_named(expect_error, source, old_file):
    write_png(source / "small.png", np.zeros((11, 30, 3), np.uint8))
    expect_error("small.png is 30x11, smaller than 12x12", "div2h5.py", "--source", source, "--out", old_file)
    assert_untouched(old_file)


def test_ctrl_c_leaves_no_file(command, image_folder, old_file, monkeypatch):
    def interrupted(path):
        if path.name == "0002.png":
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(dataset.training_set, "read_image", interrupted)
    new = old_file.parent.parent / "new" / "train.h5"
    for out in (new, old_file):
        outcome = command("div2h5.py", "--source", image_folder, "--out", out, "--workers", 1)
        assert outcome.code == 130 and "stopped by Ctrl-C" in outcome.err and "Traceback" not in outcome.err
    assert names_in(new.parent) == []
    assert_untouched(old_file)


def test_a_missing_folder_is_named(expect_error, tmp_path):
    expect_error(
        f"{tmp_path / 'gone'} is not a folder", "div2h5.py", "--source", tmp_path / "gone", "--out", "never.h5"
    )


def test_a_folder_in_the_place_of_the_file_is_named_before_anything_is_read(expect_error, image_folder, tmp_path):
    expect_error(f"{tmp_path} is a folder", "div2h5.py", "--source", image_folder, "--out", tmp_path)
    expect_error(
        "--workers: -1 is not", "div2h5.py", "--source", image_folder, "--out", tmp_path / "never.h5", "--workers", -1
    )


def test_an_image_is_never_overwritten(expect_error, div2k, tmp_path):
    source = tmp_path / "DIV2K"
    before = {file: file.read_bytes() for file in source.rglob("*.png")}
    (tmp_path / "link.h5").symlink_to(next(iter(before)))
    for out in (*before, tmp_path / "link.h5"):
        expect_error("is itself read and would be overwritten", "div2h5.py", "--source", source, "--out", out)
    assert {file: file.read_bytes() for file in source.rglob("*.png")} == before


def test_a_folder_without_images_is_named(expect_error, tmp_path):
    expect_error(f"{tmp_path} holds no images", "div2h5.py", "--source", tmp_path, "--out", tmp_path / "never.h5")


# --- as the paper's README calls it ------------------------------------------------------------------------------------


def run_in(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "div2h5.py", *argv], cwd=folder, capture_output=True, text=True)


def test_it_runs_from_inside_the_dataset_folder():
    outcome = run_in(ROOT / "dataset", "--help")
    assert outcome.returncode == 0 and "--source" in outcome.stdout, outcome


def test_without_flags_div2k_in_the_dataset_folder_becomes_div2k_train_h5(div2k, tmp_path):
    project = tmp_path / "project"
    for folder in ("common", "dataset"):
        shutil.copytree(
            ROOT / folder, project / folder, ignore=lambda place, names: {n for n in names if n[-3:] != ".py"}
        )
    shutil.copy(ROOT / "div2h5.py", project)
    none = run_in(project)
    assert none.returncode == 2 and none.stderr.startswith("error: DIV2K_train_HR is not in dataset/"), none
    for folder in div2k.iterdir():
        folder.rename(project / "dataset" / folder.name)
    done = run_in(project / "dataset")
    assert done.returncode == 0, done
    with h5py.File(project / "dataset/DIV2K_train.h5") as file:
        assert set(file) == {"HR", "X2", "X3", "X4"} and len(file["X4"]) == 2


def test_from_another_folder_the_defaults_are_in_that_folder(command, expect_error, div2k, tmp_path, monkeypatch):
    """As those of train.py and of all other commands."""
    (tmp_path / "elsewhere/dataset").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    expect_error(f"is not in dataset/ or dataset/DIV2K/ in {tmp_path}/elsewhere", "div2h5.py")
    shutil.move(div2k, "dataset")
    assert command("div2h5.py").code == 0
    assert names_in(Path("dataset")) == ["DIV2K", "DIV2K_train.h5"]
    train = ("train.py", "--patch_size", 4, "--batch_size", 1, "--max_steps", 1)
    assert command(*train, "--device", "cpu").code == 0
    assert names_in(Path("checkpoint")) and not (ROOT / "dataset/DIV2K_train.h5").exists()


def test_images_come_again_shrunk(command, expect_error, image_folder, tmp_path):
    argv = ["div2h5.py", "--source", image_folder, "--scales", 2, "--out", tmp_path / "train.h5"]
    assert command(*argv, "--shrink", 0.5, 0.5, "--hold_out", 1).code == 0
    whole = [read_rgb(file) for file in list_images(image_folder)]
    with h5py.File(tmp_path / "train.h5") as file:
        hrs = [file["HR"][number][()] for number in sorted(file["HR"], key=int)]
    kept, count = hrs[: len(whole) - 1], len(whole) - 1
    assert len(hrs) == 2 * count
    for hr, small in zip(kept, hrs[count:], strict=True):
        (source,) = (each for each in whole if np.array_equal(each[: len(hr), : hr.shape[1]], hr))
        assert np.array_equal(small, imresize(source, 0.5)[: len(small), : small.shape[1]])
    expect_error("1.5 is not a number from 0.1 to below 1", *argv, "--shrink", 1.5)


def test_an_image_that_is_too_small_only_once_it_is_shrunk_blames_the_flag(expect_error, image_folder, tmp_path):
    argv = ["--source", image_folder, "--out", tmp_path / "train.h5", "--shrink", 0.5, 0.1]
    line = expect_error("0000.png is 8x6 after --shrink 0.1, smaller than 12x12: shrink less", "div2h5.py", *argv)
    assert "--shrink 0.5" not in line and not list(tmp_path.iterdir())


def test_a_folder_that_is_named_twice_is_refused(expect_error, image_folder, tmp_path):
    """Otherwise images held out of the one would be trained on in the other."""
    (tmp_path / "link").symlink_to(image_folder)
    argv = ["--source", image_folder, "--hold_out", 1, "--out", tmp_path / "train.h5"]
    expect_error(f"{tmp_path / 'link'} is given twice", "div2h5.py", *argv, "--extra", tmp_path / "link")


# --- images held out ------------------------------------------------------------------------------------------------


def test_images_held_out_are_a_test_set_and_not_trained_on(command, image_folder, tmp_path):
    outcome = command("div2h5.py", "--source", image_folder, "--hold_out", 1, "--out", tmp_path / "train.h5")
    assert outcome.code == 0
    held_out, files = tmp_path / "train_held_out", list_images(image_folder)
    (name,) = {file.name.split("_SRF_")[0] for file in held_out.rglob("*_HR.png")}
    assert {folder.name for folder in held_out.iterdir()} == {"x2", "x3", "x4"}
    with h5py.File(tmp_path / "train.h5") as file:
        kept = [file["HR"][number][()] for number in sorted(file["HR"], key=int)]
    trained_on = [read_rgb(each) for each in files if each.stem != name]
    assert len(kept) == len(files) - 1
    assert all((a == b[: len(a), : a.shape[1]]).all() for a, b in zip(kept, trained_on, strict=True))


@pytest.mark.parametrize(("number", "phrase"), [(4, "some must be left"), (-1, "is not a whole number, zero or above")])
def test_some_images_must_be_left(expect_error, image_folder, tmp_path, number, phrase):
    expect_error(phrase, "div2h5.py", "--source", image_folder, "--hold_out", number, "--out", tmp_path / "train.h5")
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_a_folder_leaves_no_held_out_set(expect_error, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in ("", ".", tmp_path):
        expect_error("is a folder", "div2h5.py", "--source", image_folder, "--hold_out", 1, "--out", out)
    assert not list(tmp_path.iterdir()) and not list(tmp_path.parent.glob("*_held_out"))


def test_a_run_that_failed_can_be_run_again(command, expect_error, image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "mine")
    argv = ["div2h5.py", "--source", tmp_path / "mine", "--hold_out", 1, "--out", tmp_path / "out/train.h5"]
    for file in list_images(tmp_path / "mine"):
        kept = file.read_bytes()
        file.write_bytes(kept[:100])
        expect_error(file.name, *argv)
        assert not (tmp_path / "out").exists()
        file.write_bytes(kept)
    assert command(*argv).code == 0
    expect_error("train_held_out exists", *argv)

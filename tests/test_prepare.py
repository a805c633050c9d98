"""`python -m dataset.prepare` and `python -m dataset.demo` write test sets in the authors' layout, whole or not at all."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import sample_image
from PIL import Image

import dataset.images
from dataset.benchmark_set import open_test_set
from dataset.demo import PHOTOGRAPHS
from dataset.image_writer import write_png
from dataset.images import list_images, read_image, read_rgb
from dataset.imresize import imresize

PREPARE = ("-m", "dataset.prepare")
DEMO = ("-m", "dataset.demo")


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below: its time and its bytes."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@pytest.fixture
def source(tmp_path) -> Path:
    """Two images of odd sizes, one of them gray."""
    write_png(tmp_path / "source/cat.png", sample_image("chelsea.png", 31, 47))
    Image.fromarray(sample_image("coffee.png", 26, 25)[:, :, 0]).save(tmp_path / "source/cup.bmp")
    return tmp_path / "source"


@pytest.fixture
def sets(tmp_path) -> Path:
    """Where the test sets go."""
    return tmp_path / "sets"


# --- what is made -----------------------------------------------------------------------------------------------------


def test_a_folder_of_hr_images_becomes_the_authors_layout(command, source, sets):
    outcome = command(*PREPARE, "--hr", source, "--name", "Mine", "--out", sets, "--scales", 2, 3, 4)
    assert outcome.code == 0 and "2 images, scales x2, x3, x4" in outcome.out, outcome
    expected = {
        f"x{s}/{name}_SRF_{s}_{kind}.png" for s in (2, 3, 4) for name in ("cat", "cup") for kind in ("HR", "LR")
    }
    assert set(tree(sets / "Mine")) == expected and [each.name for each in sets.iterdir()] == ["Mine"]
    for scale in (2, 3, 4):
        for file in list_images(source):
            stem = sets / f"Mine/x{scale}/{file.stem}_SRF_{scale}"
            original = read_rgb(file)
            height, width = (size // scale * scale for size in original.shape[:2])
            assert np.array_equal(read_rgb(f"{stem}_HR.png"), original[:height, :width])
            assert np.array_equal(read_rgb(f"{stem}_LR.png"), imresize(original[:height, :width], Fraction(1, scale)))


def test_what_is_made_opens_as_a_test_set(command, source, sets):
    assert command(*PREPARE, "--hr", source, "--name", "Mine", "--out", sets, "--scales", 3).code == 0
    pairs = open_test_set(sets / "Mine", 3).pairs
    assert [pair.hr_path.name for pair in pairs] == ["cat_SRF_3_HR.png", "cup_SRF_3_HR.png"]
    assert [pair.read()[1].shape for pair in pairs] == [(10, 15, 3), (8, 8, 3)]


@pytest.mark.parametrize("flag", [("--padding", "symmetric"), ("--edge", "mirror")])  # new and former spelling
def test_the_padding_can_be_chosen(command, source, sets, flag):
    argv = ("--hr", source, "--name", "Mine", "--out", sets, "--scales", 2, *flag)
    assert command(*PREPARE, *argv).code == 0
    hr = read_rgb(sets / "Mine/x2/cat_SRF_2_HR.png")
    assert np.array_equal(read_rgb(sets / "Mine/x2/cat_SRF_2_LR.png"), imresize(hr, Fraction(1, 2), "symmetric"))


def test_conversions_are_reported_once(command, source, sets):
    outcome = command(*PREPARE, "--hr", source, "--name", "Mine", "--out", sets, "--scales", 2, 3)
    notes = [line for line in outcome.out.splitlines() if "converted" in line]
    assert notes == ["converted to 8-bit RGB: 1 grayscale (cup.bmp)"]


def test_a_scale_can_be_added_later(command, source, sets):
    for scale in (2, 4):
        assert command(*PREPARE, "--hr", source, "--name", "Mine", "--out", sets, "--scales", scale).code == 0
    assert sorted(each.name for each in (sets / "Mine").iterdir()) == ["x2", "x4"]


def test_images_leave_the_memory_once_they_are_written(command, source, sets, images_read):
    for number in range(10):
        shutil.copy(source / "cat.png", source / f"{number}.png")
    read = images_read(dataset.images)
    assert command(*PREPARE, "--hr", source, "--name", "Mine", "--out", sets, "--scales", 2).code == 0
    assert read.count == 12 and read.most_at_once <= 2


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_stands_there_is_never_overwritten(command, expect_error, source, sets):
    argv = ("--hr", source, "--name", "Mine", "--out", sets)
    assert command(*PREPARE, *argv, "--scales", 3).code == 0
    before = tree(sets)
    expect_error(
        f"{sets / 'Mine' / 'x3'} exists: remove it, leave 3 out of --scales or", *PREPARE, *argv, "--scales", 2, 3, 4
    )
    assert tree(sets) == before and not (sets / "Mine/x2").exists()


def test_two_files_of_one_stem_are_named(expect_error, source, sets):
    shutil.copy(source / "cat.png", source / "cup.png")
    line = expect_error("two images are called cup", *PREPARE, "--hr", source, "--name", "Mine", "--out", sets)
    assert f"{source / 'cup.bmp'} and {source / 'cup.png'}" in line
    assert not sets.exists()


@pytest.mark.parametrize("name", ["a/b", "../up", "..", ".", "", " ", "/", "Mine/", "a\nb", "\x1b[31mred"])
def test_the_name_must_not_be_a_path(expect_error, source, sets, name):
    expect_error("must be a plain name, not a path", *PREPARE, "--hr", source, "--name", name, "--out", sets)
    assert not sets.exists()


def test_the_name_must_be_given(expect_error, source, sets):
    expect_error("--hr needs --name", *PREPARE, "--hr", source, "--out", sets)


@pytest.mark.parametrize("found_before", [False, True])
def test_a_broken_image_is_named_and_leaves_no_folder(expect_error, source, sets, found_before):
    if found_before:
        (sets / "Mine").mkdir(parents=True)
    broken = source / "dog.png"
    broken.write_bytes((source / "cat.png").read_bytes()[:500])
    expect_error(f"{broken} is not a readable image", *PREPARE, "--hr", source, "--name", "Mine", "--out", sets)
    assert [str(each.relative_to(sets)) for each in sets.rglob("*")] == (["Mine"] if found_before else [])


def test_ctrl_c_leaves_no_folder(command, source, sets, monkeypatch):
    def interrupted(path):
        if path.name == "cup.bmp":
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(dataset.images, "read_image", interrupted)
    outcome = command(*PREPARE, "--hr", source, "--name", "Mine", "--out", sets)
    assert outcome.code == 130 and "Traceback" not in outcome.err
    assert list(sets.rglob("*")) == []


def test_an_image_smaller_than_the_scale_is_named(expect_error, source, sets):
    write_png(source / "dot.png", np.zeros((3, 20, 3), np.uint8))
    expect_error(
        "dot.png is smaller than 4x4", *PREPARE, "--hr", source, "--name", "Mine", "--out", sets, "--scales", 4
    )


def test_a_missing_folder_is_named(expect_error, tmp_path, sets):
    expect_error("gone is not a folder", *PREPARE, "--hr", tmp_path / "gone", "--name", "Mine", "--out", sets)


# --- the demo's set -----------------------------------------------------------------------------------------------------


def test_the_demo_makes_its_set_once_and_adds_the_scales_it_lacks(command, sets):
    first = command(*DEMO, "--out", sets, "--scales", 4)
    assert first.code == 0 and "6 images" in first.out, first
    stems = {Path(name).stem for name in PHOTOGRAPHS}
    assert {pair.hr_path.stem for pair in open_test_set(sets, 4).pairs} == {f"{stem}_SRF_4_HR" for stem in stems}
    before = tree(sets)
    assert command(*DEMO, "--out", sets, "--scales", 4).code == 0 and tree(sets) == before
    assert command(*DEMO, "--out", sets, "--scales", 3, 4).code == 0
    after = tree(sets)
    assert len(after) == 2 * len(before) and all(after[name] == file for name, file in before.items())

"""SR images of other programs are matched by the HR image's name, whatever these append to it; ambiguity is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from dataset.benchmark_set import ImagePair, open_test_set
from dataset.image_writer import write_png
from dataset.prepare import prepare
from evaluation.compare import match_folders, match_sr, require_sr

HR_NAMES = ("a_SRF_2_HR", "ax2_SRF_2_HR", "img_1_SRF_2_HR", "img_10_SRF_2_HR", "b_SRF_2_HR", "b_c_SRF_2_HR")


@pytest.fixture
def pairs(tmp_path) -> list[ImagePair]:
    """Pairs whose names begin alike, with HR files of no content beside their LR files."""
    (tmp_path / "x2").mkdir()
    for name in HR_NAMES:
        for kind in ("HR", "LR"):
            (tmp_path / f"x2/{name[:-2]}{kind}.png").touch()
    return [ImagePair(tmp_path / f"x2/{name}.png", tmp_path / f"x2/{name[:-2]}LR.png", 2) for name in HR_NAMES]


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "{}.png", "{}.PNG", "{}.bmp", "{}.Tif", "{}x2.png", "{}_x2.png", "{}_x2_SR.png", "{}x2_SR.png", "{}_SR.png",
        "{}_out.png", "{}_RCAN_x2.png", "{}_SwinIR.png", "{}x2_SwinIR.png", "{}_EDSR_Lx2_f256b32_DIV2K_official.png",
        "{}_2x.png", "{}-x2-esrgan.png", "{}_SRF_2_SR.png", "{}_SRF_2_HR.png", "{}_SRF_2_LR.png", "{}_SRF_2_LR_out.png",
        "{}_HAT_SRx2.png", "{}_SRF_2_bicubic.png",
    ],
)  # fmt: skip
def test_the_names_of_other_programs_are_understood(pairs, tmp_path, name):
    bases = [hr.removesuffix("_SRF_2_HR") for hr in HR_NAMES]
    theirs = touch(tmp_path / "theirs", *(name.format(base) for base in bases), "notes.txt")
    found = match_sr(theirs, pairs)
    assert found == {pair.hr_path: theirs / name.format(base) for pair, base in zip(pairs, bases, strict=True)}
    assert {pair.hr_path: require_sr(theirs, pair) for pair in pairs} == found


def test_hr_lr_and_other_scales_beside_the_sr_images_are_not_taken(pairs, tmp_path):
    for base in ("a", "b"):
        names = [f"{base}_{end}.png" for end in ("x2_SR", "x2_HR", "x2_LR", "x3_SR", "x4_SR", "3x", "SRF_4_SR", "GT")]
        touch(tmp_path / "theirs", *names, f"{base}.jpg")
    found = match_sr(tmp_path / "theirs", [pairs[0], pairs[4]])
    assert [file.name for file in found.values()] == ["a_x2_SR.png", "b_x2_SR.png"]


def test_images_of_other_stems_are_not_taken(pairs, tmp_path):
    assert match_sr(touch(tmp_path / "theirs", "apple.png", "img_100.png", "a.jpg", "a_x3.png"), pairs) == {}
    with pytest.raises(InputError, match=r"has neither a_SRF_2_SR\.png nor a\.png"):
        require_sr(tmp_path / "theirs", pairs[0])
    assert match_sr(tmp_path / "nowhere", pairs) == {}


@pytest.mark.parametrize("names", [("a.png", "a_x2_SR.png"), ("a_out.png", "a_out.bmp"), ("a_HAT.png", "a_SwinIR.png")])
def test_an_ambiguity_is_an_error_that_shows_both(pairs, tmp_path, names):
    theirs = touch(tmp_path / "theirs", "b_x2_SR.png", "b_c_x2_SR.png", *names)
    for match in (lambda: match_sr(theirs, pairs), lambda: require_sr(theirs, pairs[0])):
        with pytest.raises(InputError) as error:
            match()
        assert all(name in str(error.value) for name in names) and "a_SRF_2_HR.png" in str(error.value)


@pytest.mark.parametrize("name", ["CFSRCNN", "hr", "Bicubic", "Twice"])
def test_foreign_images_under_a_name_of_ours_are_refused_by_every_command(expect_error, checkpoint, tmp_path, name):
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path / "cup.png")
    theirs = touch(tmp_path / "theirs", "cup.png")
    compare = ["--compare", f"{name}={theirs}"] * (1 + (name == "Twice"))
    argv = ["--image", tmp_path / "cup.png", "--scale", 2, "--ckpt_path", checkpoint, "--out", tmp_path / "figure"]
    expect_error(f"there is a row {name} already", "-m", "evaluation.figure", *argv, *compare)
    assert not list(tmp_path.glob("figure*"))


@pytest.mark.parametrize("layout", [".", "SR", "Set5", "Set5/SR"])
def test_without_the_scale_in_the_path_the_size_of_the_images_tells_it(tmp_path, layout):
    write_png(tmp_path / "a.png", np.zeros((62, 70, 3), np.uint8))
    prepare([tmp_path / "a.png"], tmp_path / "data/Set5", [2, 3])
    at_x2, at_x3 = (open_test_set(tmp_path / "data/Set5", scale) for scale in (2, 3))
    place = tmp_path / "theirs" / layout
    write_png(place / "a.png", at_x3.pairs[0].read()[0])
    assert match_folders("EDSR", tmp_path / "theirs", [at_x2, at_x3]) == {("Set5", 3): place}


@pytest.mark.parametrize("layout", [".", "Set5"])
def test_one_folder_may_hold_all_scales_if_the_names_tell_them(tmp_path, layout):
    write_png(tmp_path / "a.png", np.zeros((60, 72, 3), np.uint8))
    prepare([tmp_path / "a.png"], tmp_path / "data/Set5", [2, 3])
    sets = [open_test_set(tmp_path / "data/Set5", scale) for scale in (2, 3)]
    place = tmp_path / "theirs" / layout
    for scale in (2, 3):
        write_png(place / f"a_EDSR_x{scale}.png", np.full((60, 72, 3), scale, np.uint8))
    assert match_folders("EDSR", tmp_path / "theirs", sets) == {("Set5", 2): place, ("Set5", 3): place}
    (place / "a_EDSR_x2.png").rename(place / "a.png")
    (place / "a_EDSR_x3.png").unlink()
    with pytest.raises(InputError, match="would match Set5 x2 and Set5 x3"):
        match_folders("EDSR", tmp_path / "theirs", sets)

"""`python -m dataset.prepare --verify`: whether a test set is the published one, and what is said where it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import sample_image
from PIL import Image
from serving import published_hash

from dataset.image_writer import write_png
from dataset.images import read_rgb
from dataset.prepare import prepare
from dataset.verify import PUBLISHED, published_set

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # it is run as a command and imported

VERIFY = ("-m", "dataset.prepare", "--verify")


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """Three small images as the published set "Tiny" at x2 and x3, in the authors' layout."""
    originals = [tmp_path / f"originals/{name}.png" for name in ("2", "10", "9")]
    for number, file in enumerate(originals):
        write_png(file, sample_image("coffee.png", 26 + number, 31, top=100 + 40 * number))
    prepare(originals, tmp_path / "Tiny", [2, 3])
    table = {
        scale: {kind: published_hash(tmp_path / "Tiny" / scale, kind) for kind in ("HR", "LR")}
        for scale in ("x2", "x3")
    }
    file = tmp_path / "published.json"
    file.write_text(json.dumps({"definition": "", "aliases": {"little": "Tiny"}, "sets": {"Tiny": table, "More": {}}}))
    monkeypatch.setattr("dataset.verify.PUBLISHED", file)
    return tmp_path / "Tiny"


def as_edsr(folder: Path) -> None:
    """Lays the test set out as EDSR's archive has it; its HR images are not cropped."""
    for scale in (2, 3):
        for file in (folder / f"x{scale}").glob("*_LR.png"):
            low = folder / f"LR_bicubic/X{scale}" / file.name.replace(f"_SRF_{scale}_LR", f"x{scale}")
            low.parent.mkdir(parents=True, exist_ok=True)
            file.rename(low)
        shutil.rmtree(folder / f"x{scale}")
    shutil.copytree(folder.parent / "originals", folder / "HR")


def as_hr_only(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "originals", folder)


LINES = [f"Tiny x{scale} {kind}: as published (3 images" for scale in (2, 3) for kind in ("HR", "LR")]


@pytest.mark.parametrize("lay_out", [lambda folder: None, as_edsr], ids=["authors", "edsr"])
def test_each_layout_is_as_published(command, tiny, lay_out):
    lay_out(tiny)
    outcome = command(*VERIFY, tiny)
    assert outcome.code == 0 and outcome.out.splitlines()[-4:] == [line + ")" for line in LINES], outcome


def test_a_digit_in_a_name_that_is_no_number_is_a_letter(command, tiny):
    for kind in ("HR", "LR"):
        (tiny / f"x2/10_SRF_2_{kind}.png").rename(tiny / f"x2/9\N{SUPERSCRIPT TWO}1_{kind}.png")
    assert command(*VERIFY, tiny).code == 0


def test_lr_images_made_from_hr_are_said_to_be(command, tiny):
    as_hr_only(tiny)
    outcome = command(*VERIFY, tiny, "--scales", 3)
    assert outcome.code == 0 and outcome.out.splitlines()[-2:] == [LINES[2] + ")", LINES[3] + ", made from HR)"]


def test_another_spelling_of_the_name_will_do(command, tiny):
    assert command(*VERIFY, tiny.rename(tiny.with_name("lit-tle"))).code == 0


def test_a_link_is_known_by_its_own_name(command, tiny):
    tiny.symlink_to(tiny.rename(tiny.with_name("store")))
    assert command(*VERIFY, tiny).code == 0


def test_lr_images_of_another_tool_are_named(command, expect_error, tiny):
    lr = tiny / "x2/10_SRF_2_LR.png"
    Image.open(tiny / "x2/10_SRF_2_HR.png").resize(Image.open(lr).size, Image.Resampling.BICUBIC).save(lr)
    expect_error("is not as published (x2 LR)", *VERIFY, tiny)
    out = command(*VERIFY, tiny).out
    assert "x2 LR: 1 of 3 images are not the benchmarks' resize of their HR image (10_SRF_2_HR.png)" in out
    assert all(line in out for line in (LINES[0], LINES[2], LINES[3]))


def test_one_changed_hr_pixel_is_found(command, expect_error, tiny):
    hr = read_rgb(tiny / "x3/2_SRF_3_HR.png")
    hr[0, 0, 0] ^= 1
    write_png(tiny / "x3/2_SRF_3_HR.png", hr)
    expect_error("(x3 HR)", *VERIFY, tiny)
    assert "x3 HR: 3 images as published, but other pixels" in command(*VERIFY, tiny).out


def test_a_missing_image_is_a_matter_of_the_count(command, expect_error, tiny):
    for file in (tiny / "x2").glob("9_*"):
        file.unlink()
    expect_error("(x2 HR, x2 LR)", *VERIFY, tiny)
    assert "x2 HR: 2 images, but 3 are published" in command(*VERIFY, tiny).out


def test_sizes_that_do_not_match_are_named_and_the_other_scales_still_told(command, expect_error, tiny):
    write_png(tiny / "x2/2_SRF_2_LR.png", np.zeros((5, 5, 3), np.uint8))
    expect_error("(x2 HR and LR)", *VERIFY, tiny)
    out = command(*VERIFY, tiny).out
    assert "2_SRF_2_LR.png is 5x5, not 1/2 of" in out and LINES[2] in out


def test_what_cannot_be_compared_is_one_line(expect_error, tiny, tmp_path, image_folder):
    expect_error("known are Tiny, More", *VERIFY, image_folder)
    shutil.rmtree(tiny)
    expect_error("does not exist", *VERIFY, tiny)
    tiny.touch()
    expect_error("Tiny is a file: name the folder", *VERIFY, tiny)
    as_more = tmp_path / "More"
    as_more.mkdir()
    expect_error("More holds no images", *VERIFY, as_more)
    as_more.rmdir()
    expect_error("is one scale of a test set: name the folder around it, Tiny", *VERIFY, tiny / "x2")
    shutil.copytree(image_folder, as_more)
    expect_error("nothing to compare", *VERIFY, as_more)


def test_flags_that_do_not_go_together_are_refused(command, expect_error, image_folder, tiny):
    assert command("-m", "dataset.prepare").code == 2
    assert command(*VERIFY, tiny, "--hr", image_folder).code == 2
    expect_error("--hr needs --name", "-m", "dataset.prepare", "--hr", image_folder)
    expect_error("leave out --name", *VERIFY, tiny, "--name", "Tiny")


def test_the_published_table_knows_the_sets():
    assert {name: list(published_set(name)[1]) for name in ("Set5", "Set14", "BSD100", "urban_100")} == {
        "Set5": ["x2", "x3", "x4"],
        "Set14": ["x2", "x3", "x4"],
        "BSD100": ["x2", "x3", "x4"],
        "urban_100": ["x4"],
    }
    table = json.loads(PUBLISHED.read_text())["sets"]
    entries = [entry for scales in table.values() for kinds in scales.values() for entry in kinds.values()]
    assert len(entries) == 20 and all(len(entry["sha256"]) == 64 for entry in entries)

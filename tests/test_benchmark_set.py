"""Test sets are found in three layouts, their pairs by name; whatever does not fit together is an error, never skipped."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import random_images, sample_image
from PIL import Image

from common.errors import InputError
from dataset.benchmark_set import MissingTestSetError, available_scales, lr_mismatch, open_test_set
from dataset.image_writer import write_png
from dataset.images import read_rgb
from dataset.imresize import PADDING_MODES, imresize

image = random_images()
NAMES = (
    "a",
    "ab",
    "ax2",
    "b",
    "10",
    "9",
)  # sorted, the LR names of EDSR's layout stand in another order: "abx2" < "ax2"


@pytest.fixture
def authors(tmp_path) -> Path:
    """A set in the authors' layout at x2 and x3, every image of a size of its own."""
    for scale in (2, 3):
        for number, name in enumerate(NAMES):
            stem = tmp_path / f"Set/x{scale}/{name}_SRF_{scale}"
            write_png(f"{stem}_HR.png", image(scale * (4 + number), scale * 5))
            write_png(f"{stem}_LR.png", image(4 + number, 5))
    return tmp_path / "Set"


@pytest.fixture
def edsr(tmp_path) -> Path:
    """The same as EDSR's benchmark archive has it; HR sizes are one more than a multiple of the scales."""
    for number, name in enumerate(NAMES):
        write_png(tmp_path / f"Set/HR/{name}.png", image(6 * (4 + number) + 1, 31))
        for scale in (2, 3):
            write_png(
                tmp_path / f"Set/LR_bicubic/X{scale}/{name}x{scale}.png", image(6 * (4 + number) // scale, 30 // scale)
            )
    return tmp_path / "Set"


# --- the three layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3])
def test_the_authors_layout_is_paired_by_name(authors, scale):
    found = open_test_set(authors, scale)
    assert (found.name, found.scale, len(found)) == ("Set", scale, 6)
    assert [pair.hr_path.name for pair in found.pairs] == sorted(f"{name}_SRF_{scale}_HR.png" for name in NAMES)
    for pair in found.pairs:
        assert pair.lr_path == pair.hr_path.with_name(pair.hr_path.name.replace("_HR", "_LR"))
        hr, lr = pair.read()
        assert np.array_equal(hr, read_rgb(pair.hr_path)) and np.array_equal(lr, read_rgb(pair.lr_path))


@pytest.mark.parametrize("scale", [2, 3])
def test_edsrs_layout_is_paired_by_name(edsr, scale):
    found = open_test_set(edsr, scale)
    assert (found.name, found.scale) == ("Set", scale)
    assert [pair.hr_path.stem for pair in found.pairs] == sorted(NAMES)
    for pair in found.pairs:
        assert pair.lr_path == edsr / f"LR_bicubic/X{scale}/{pair.hr_path.stem}x{scale}.png"
        assert np.array_equal(pair.read()[1], read_rgb(pair.lr_path))


def test_in_edsrs_layout_the_file_types_of_hr_and_lr_may_differ(edsr):
    Image.open(edsr / "HR/a.png").save(edsr / "HR/a.bmp")
    (edsr / "HR/a.png").unlink()
    assert open_test_set(edsr, 2).pairs[2].lr_path == edsr / "LR_bicubic/X2/ax2.png"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_from_hr_images_alone_the_lr_images_are_made(image_folder, scale):
    found = open_test_set(image_folder, scale)
    assert [pair.hr_path.name for pair in found.pairs] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    for pair in found.pairs:
        hr, lr = pair.read()
        assert pair.lr_path is None
        assert np.array_equal(hr, read_rgb(pair.hr_path)) and np.array_equal(lr, imresize(hr, Fraction(1, scale)))


def test_an_hr_folder_without_lr_bicubic_gets_lr_images_made(edsr):
    shutil.rmtree(edsr / "LR_bicubic")
    assert all(pair.lr_path is None for pair in open_test_set(edsr, 4).pairs)


def test_hr_images_alone_are_cropped_to_a_multiple_of_the_scale(tmp_path):
    hr_image = image(11, 14)
    write_png(tmp_path / "a.png", hr_image)
    hr, lr = open_test_set(tmp_path, 4).pairs[0].read()
    assert np.array_equal(hr, hr_image[:8, :12]) and lr.shape == (2, 3, 3)


def test_the_sr_image_is_named_after_the_hr_file(authors, edsr, image_folder):
    assert open_test_set(authors, 2).pairs[0].sr_name == "10_SRF_2_SR.png"
    assert open_test_set(image_folder, 2).pairs[0].sr_name == "0000.png"


@pytest.mark.parametrize("ending", [".", "x2/.."])
def test_the_set_is_named_after_its_folder_however_it_is_written(authors, ending, monkeypatch):
    monkeypatch.chdir(authors)
    assert open_test_set(ending, 2).name == "Set"


def test_a_linked_set_is_named_after_its_link(authors, tmp_path):
    (tmp_path / "Set5").symlink_to(authors)
    assert open_test_set(tmp_path / "Set5", 2).name == "Set5"


def test_a_sets_scales_are_those_it_can_be_opened_at(authors, edsr, image_folder, tmp_path):
    assert available_scales(authors) == [2, 3]
    shutil.rmtree(edsr / "x2"), shutil.rmtree(edsr / "x3")  # the two fixtures share a folder: EDSR's layout is left
    assert available_scales(edsr) == [2, 3]
    assert available_scales(image_folder) == [2, 3, 4]
    (tmp_path / "empty").mkdir()
    assert available_scales(tmp_path / "empty") == []


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3])
def test_an_hr_image_larger_by_less_than_the_scale_is_cropped(edsr, scale):
    for pair in open_test_set(edsr, scale).pairs:
        hr, lr = pair.read()
        assert hr.shape == (lr.shape[0] * scale, lr.shape[1] * scale, 3)
        assert np.array_equal(hr, read_rgb(pair.hr_path)[:-1, :-1])


@pytest.mark.parametrize("size", [(7, 5), (9, 5), (8, 4), (8, 6)], ids=str)
def test_sizes_that_disagree_are_an_error_that_names_both_files(authors, size):
    """HR is 16x10 pixels."""
    wrong = authors / "x2/b_SRF_2_LR.png"
    write_png(authors / "x2/b_SRF_2_HR.png", image(16, 10))
    write_png(wrong, image(*size))
    pairs = {pair.hr_path.name: pair for pair in open_test_set(authors, 2).pairs}
    with pytest.raises(InputError) as error:
        pairs["b_SRF_2_HR.png"].read()
    assert f"{wrong} is {size[1]}x{size[0]}, not 1/2 of b_SRF_2_HR.png (10x16)" in str(error.value)
    assert "python -m dataset.prepare" in str(error.value)


def test_an_hr_image_smaller_than_the_scale_is_named(tmp_path):
    write_png(tmp_path / "dot.png", image(3, 9))
    with pytest.raises(InputError, match=r"dot\.png is smaller than 4x4"):
        open_test_set(tmp_path, 4).pairs[0].read()


def test_a_broken_image_is_named_when_it_is_read(authors):
    (authors / "x2/b_SRF_2_LR.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"b_SRF_2_LR\.png is not a readable image"):
        [pair.read() for pair in open_test_set(authors, 2).pairs]


# --- what is missing or left over ---------------------------------------------------------------------------------------


def test_a_missing_folder_is_an_error_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError) as error:
        open_test_set(tmp_path / "dataset" / "Urban100", 3)
    command = f"python -m dataset.prepare --hr FOLDER --name Urban100 --out {tmp_path / 'dataset'} --scales 3"
    download = f"python -m dataset.download Urban100 --out {tmp_path / 'dataset'}"
    expected = f"Urban100 does not exist: download it with `{download}`, or make it from HR images with `{command}`"
    assert expected in str(error.value)
    with pytest.raises(InputError, match="Mine does not exist: make it from HR images with"):
        open_test_set(tmp_path / "dataset" / "Mine", 3)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        open_test_set(tmp_path, 2)


def test_a_missing_scale_is_an_error_that_tells_those_there_are(authors, edsr):
    with pytest.raises(InputError, match=r"Set has x2, x3 but no x4: make it with `python -m dataset\.prepare"):
        open_test_set(authors, 4)


def test_a_missing_scale_of_edsrs_layout_is_an_error(edsr):
    with pytest.raises(MissingTestSetError, match=r"X4/10x4\.png is missing, the LR image of 10\.png"):
        open_test_set(edsr, 4)


def test_a_missing_lr_image_is_named(authors):
    (authors / "x2/b_SRF_2_LR.png").unlink()
    with pytest.raises(InputError, match=r"b_SRF_2_LR\.png is missing, the LR image of b_SRF_2_HR\.png"):
        open_test_set(authors, 2)


def test_a_missing_lr_image_of_edsrs_layout_is_named(edsr):
    (edsr / "LR_bicubic/X2/bx2.png").unlink()
    with pytest.raises(InputError, match=r"bx2\.png is missing, the LR image of b\.png"):
        open_test_set(edsr, 2)


def test_an_lr_image_without_its_hr_is_named(authors):
    (authors / "x2/b_SRF_2_HR.png").unlink()
    with pytest.raises(InputError, match=r"b_SRF_2_LR\.png belongs to no pair"):
        open_test_set(authors, 2)


def test_an_lr_image_without_its_hr_of_edsrs_layout_is_named(edsr):
    (edsr / "HR/b.png").unlink()
    with pytest.raises(InputError, match=r"bx2\.png belongs to no pair"):
        open_test_set(edsr, 2)


def test_an_image_with_another_kind_of_name_is_named(authors):
    write_png(authors / "x2/holiday.png", image(4, 4))
    with pytest.raises(InputError, match=r"holiday\.png belongs to no pair"):
        open_test_set(authors, 2)


def test_the_folder_of_one_scale_is_not_taken_for_one_of_hr_images(authors, expect_error):
    """Its LR images would be measured as HR images, too."""
    with pytest.raises(InputError, match=r"x2 holds 10_SRF_2_HR\.png beside its LR image, .* name the folder around"):
        open_test_set(authors / "x2", 2)
    argv = ["--name", "Again", "--out", authors.parent]
    expect_error("x3 holds 10_SRF_3_HR.png beside its LR image", "-m", "dataset.prepare", "--hr", authors / "x3", *argv)


@pytest.mark.parametrize("scale", [2, 3])
def test_endings_may_be_in_upper_case_in_every_layout(authors, edsr, scale):
    for layout in ("authors", "edsr"):
        for number, file in enumerate(sorted((authors if layout == "authors" else edsr).rglob("*.png"))):
            if number % 3:
                file.rename(file.with_suffix(".PNG"))
        assert len(open_test_set(authors, scale)) == len(NAMES)
        shutil.rmtree(authors / "x2", ignore_errors=True), shutil.rmtree(authors / "x3", ignore_errors=True)


@pytest.mark.parametrize("name", ["LR", "LR_bicubic/X2", "DIV2K_valid_LR_bicubic/X4", "Set5_LR", "LRbicx2", "mine"])
def test_a_folder_of_lr_images_is_not_measured_as_if_hr(expect_error, tmp_path, name):
    """Known by the folder's name or, in "mine", by the names of the files."""
    lr = "baby_LR.png" if name == "mine" else "baby.png"
    write_png(tmp_path / name / lr, image(24, 24))
    with pytest.raises(InputError, match=f"{name} holds LR images by .* such as {lr}, but HR images are needed"):
        open_test_set(tmp_path / name, 2)
    expect_error("holds LR images", "-m", "dataset.prepare", "--hr", tmp_path / name, "--name", "N", "--out", tmp_path)


@pytest.mark.parametrize("name", ["ALRIGHT", "lr_schedule", "x2", "X2", "CLR", "Urban100"])
def test_other_names_are_no_sign_of_lr_images(tmp_path, name):
    write_png(tmp_path / name / "COLOR.png", image(24, 24))
    assert len(open_test_set(tmp_path / name, 2)) == 1


def test_a_folder_without_images_names_those_below_that_have_some(tmp_path):
    for name in ("GTmod12/a.png", "original/deep/b.PNG", "empty/notes.txt", "a/b/c/d.png"):
        (tmp_path / "Set5" / name).parent.mkdir(parents=True)
        write_png(tmp_path / "Set5" / name, image(4, 4)) if "png" in name.lower() else None
    with pytest.raises(
        InputError, match=r"Set5 holds no images .*, but GTmod12, original/deep below it do: name one of"
    ):
        open_test_set(tmp_path / "Set5", 2)
    with pytest.raises(InputError, match=r"a holds no images .*, but b/c below it does: name it$"):
        open_test_set(tmp_path / "Set5/a", 2)


# --- LR images of other tools ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDING_MODES)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_our_resize_by_either_padding_differs_nowhere(scale, padding):
    hr = sample_image("chelsea.png", 48, 60)
    assert lr_mismatch(hr, imresize(hr, Fraction(1, scale), padding), scale) == 0


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pillows_bicubic_differs_in_many_values(scale):
    hr = sample_image("chelsea.png", 48, 60)
    lr = np.asarray(Image.fromarray(hr).resize((60 // scale, 48 // scale), Image.Resampling.BICUBIC))
    assert 0.05 < lr_mismatch(hr, lr, scale) < 0.5


def test_the_share_is_that_of_the_differing_values():
    hr = sample_image("chelsea.png", 20, 20)
    lr = imresize(hr, Fraction(1, 2))
    lr[3, 4, 1] ^= 1
    assert lr_mismatch(hr, lr, 2) == 1 / 300


def test_two_hr_images_of_one_name_are_refused(tmp_path):
    for ending in ("png", "bmp"):
        Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(tmp_path / f"a.{ending}")
    with pytest.raises(InputError, match=r"a\.bmp shares its name"):
        open_test_set(tmp_path, 2)

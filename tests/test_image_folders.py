"""`tcw_sample.py --input`: several images and folders, trees, and one that fails among them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOR
from PIL import Image

from dataset.images import EXTENSIONS
from inference.upscaler import BicubicUpscaler


def files_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def tree(tmp_path):
    """Three images, one of them damaged, and one that is not read here."""
    for name in ("in/a.png", "in/deep/er/b.png", "in/.hidden/c.png", "in/deep/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOR).save(tmp_path / name)
    (tmp_path / "in/e.heic").touch()
    return tmp_path / "in"


@pytest.fixture
def bicubic(tmp_path):
    """`bicubic(*inputs)`: the command line, with the output within the tree."""
    start = ["tcw_sample.py", "--model", "bicubic", "--scale", 2, "--sample_dir", tmp_path / "in/out", "--input"]
    return lambda *rest: [*start, *rest]


def test_a_tree_is_mirrored_and_its_output_is_not_read_again(command, bicubic, tree):
    for _ in range(2):
        outcome = command(*bicubic(tree, "--recursive"))
        assert outcome.code == 0 and f"ignored 1 .heic: {', '.join(sorted(EXTENSIONS))}" in outcome.err
        assert files_in(tree / "out") == ["a_x2.png", "deep/d_x2.png", "deep/er/b_x2.png"]


def test_several_inputs_and_one_bad_image_does_not_end_them(command, bicubic, tree):
    whole = (tree / "a.png").read_bytes()
    (tree / "bad.png").write_bytes(whole[: len(whole) // 2])
    outcome = command(*bicubic(tree, tree / "deep/d.png", tree / "deep"))
    assert outcome.code == 2 and files_in(tree / "out") == ["a_x2.png", "d_x2.png"]
    assert "failed: " in outcome.err and "bad.png is not a readable image" in outcome.err
    assert outcome.err.rstrip().endswith("error: 1 of 3 images failed, see the lines above; the others are written")


def test_a_linked_image_has_an_output_of_its_own_name(command, bicubic, tree):
    (tree / "z.png").symlink_to("a.png")
    outcome = command(*bicubic(tree, tree / "z.png", tree / "deep/../a.png"))
    assert outcome.code == 0 and files_in(tree / "out") == ["a_x2.png", "z_x2.png"]


def test_a_name_too_long_for_the_output_is_told_first_and_does_not_end_the_others(command, bicubic, tree, decoded):
    long = (tree / "a.png").rename(tree / f"{'n' * 250}.png")
    outcome = command(*bicubic(long))
    assert outcome.code == 2 and f"the name {'n' * 20}... has 257 bytes, but 255 at most fit" in outcome.err
    assert not decoded and not (tree / "out").exists()
    assert command(*bicubic(tree, tree / "deep")).code == 2 and files_in(tree / "out") == ["d_x2.png"]


@pytest.mark.parametrize(
    ("name", "phrase"), [("none.png", "none.png: no such file or folder"), ("in/empty", "empty holds no images")]
)
def test_an_input_that_is_missing_or_empty_does_not_end_the_others(command, bicubic, tree, name, phrase):
    (tree / "empty").mkdir()
    outcome = command(*bicubic(tree.parent / name, tree / "a.png"))
    assert outcome.code == 2 and files_in(tree / "out") == ["a_x2.png"]
    assert phrase in outcome.err.splitlines()[-2] and outcome.err.splitlines()[-2].startswith("failed: ")
    assert "error: 1 of 2 images failed" in outcome.err


@pytest.mark.parametrize("flags", [[], ["--recursive"]])
def test_a_folder_that_may_not_be_read_is_named_and_does_not_end_the_others(command, bicubic, tree, monkeypatch, flags):
    entries = Path.iterdir

    def iterdir(self):
        if self.name == "er":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return entries(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    outcome = command(*bicubic(*([tree] if flags else [tree / "deep/er", tree]), *flags))
    assert outcome.code == 2 and files_in(tree / "out") == ["a_x2.png", "deep/d_x2.png"][: 1 + len(flags)]
    line = f"failed: {tree / 'deep/er'} cannot be opened (Permission denied): change its permissions"
    assert outcome.err.splitlines().count(line) == 1


def test_where_nothing_is_written_no_others_are_mentioned(command, bicubic, tree):
    for name in ("bad.png", "worse.png"):
        (tree / name).write_bytes(b"no image")
    outcome = command(*bicubic(tree / "bad.png", tree / "worse.png"))
    assert outcome.code == 2 and outcome.err.endswith("error: 2 of 2 images failed, see the lines above\n")


def test_a_folder_that_may_not_be_written_to_is_named_before_anything_is_computed(
    expect_error, bicubic, tree, monkeypatch
):
    monkeypatch.setattr(BicubicUpscaler, "__call__", lambda *_: pytest.fail("computed"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    expect_error("out may not be written to: change its permissions, or choose another --sample_dir", *bicubic(tree))


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (MemoryError(), "on this machine"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "on this machine"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "on the GPU"),
    ],
)
def test_an_image_for_which_memory_is_too_little_does_not_end_the_others(
    command, bicubic, tree, monkeypatch, error, place
):
    upscale = BicubicUpscaler.__call__

    def fail(self, lr):
        if lr.shape[0] > COLOR.shape[0]:
            raise error
        return upscale(self, lr)

    monkeypatch.setattr(BicubicUpscaler, "__call__", fail)
    Image.fromarray(np.repeat(COLOR, 2, 0)).save(tree / "b.png")
    outcome = command(*bicubic(tree))
    assert outcome.code == 2 and files_in(tree / "out") == ["a_x2.png"]
    assert f"failed: {tree / 'b.png'}: there is too little free memory for it {place}: free some" in outcome.err


def test_skip_existing_goes_on_where_a_run_stopped(command, bicubic, tree):
    assert command(*bicubic(tree / "a.png")).code == 0
    (tree / "out/a_x2.png").write_text("mine")
    outcome = command(*bicubic(tree, "--recursive", "--skip_existing"))
    assert outcome.code == 0 and "skipped 1 whose output exists" in outcome.out
    assert (tree / "out/a_x2.png").read_text() == "mine" and len(files_in(tree / "out")) == 3


def test_files_that_are_written_over_are_counted(command, bicubic, tree):
    assert "replaced" not in command(*bicubic(tree / "a.png")).out
    assert "replaced 1 existing file; --skip_existing keeps them" in command(*bicubic(tree, "--recursive")).out


def test_two_inputs_never_have_one_output(expect_error, bicubic, tree):
    Image.fromarray(COLOR).save(tree / "deep/a.png")
    expect_error("would both be written to", *bicubic(tree / "a.png", tree / "deep/a.png"))


def test_subfolders_with_images_are_mentioned(expect_error, bicubic, tree):
    (tree / "a.png").unlink()
    expect_error("--recursive reads its subfolders too", *bicubic(tree))


def test_formats_that_are_not_read_are_named_with_those_that_are(expect_error, bicubic, tree):
    (tree / "e.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    expect_error("it is HEIC; PNG, JPEG, BMP, TIFF", *bicubic(tree / "e.heic"))


# --- the process --------------------------------------------------------------------------------------------------------

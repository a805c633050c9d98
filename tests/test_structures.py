"""`python -m dataset.structures`: the same images for the same arguments, fine structures with soft edges, all or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from dataset.images import read_rgb
from dataset.structures import draw_structures


def test_the_command_writes_the_images_that_the_function_draws(command, tmp_path):
    outcome = command("-m", "dataset.structures", "--count", 3, "--seed", 5, "--size", 64, "--out", tmp_path / "out")
    assert outcome.code == 0
    assert "3 images of 64x64" in outcome.out
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"structure_000{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        np.testing.assert_array_equal(read_rgb(file), draw_structures(number, 5, 64))


def test_each_number_and_seed_gives_another_image():
    images = [draw_structures(number, seed, 64) for number, seed in [(0, 0), (1, 0), (0, 1)]]
    assert images[0].shape == (64, 64, 3)
    assert images[0].dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 3


def test_the_images_have_more_fine_structure_than_bicubic_interpolation_keeps():
    """The mean squared difference between neighbors is many times that of photographs (about 100)."""
    images = np.stack([draw_structures(number, size=96) for number in range(12)]).astype(float)
    assert 500 < np.square(np.diff(images, axis=2)).mean() < 10_000
    assert images.std((1, 2, 3)).min() > 5  # none is flat


def test_edges_are_averages_of_samples():
    """A plane of two tones has pixels between them where an edge crosses."""
    image = draw_structures(1, size=96)
    assert len(np.unique(image[..., 0])) > 50


@pytest.mark.parametrize("arguments", [(-1, 0, 64), (0, -1, 64), (0, 0, 63), (0, 0, 2049)])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 0"):
        draw_structures(*arguments)


def test_bad_flags_are_named(expect_error, tmp_path):
    out = ["-m", "dataset.structures", "--out", tmp_path / "out"]
    expect_error("--count: 0 is not a whole number from 1 to", *out, "--count", 0)
    expect_error("--size: 10 is not a whole number from 64 to 2048", *out, "--count", 1, "--size", 10)
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_kept(expect_error, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    expect_error("is there already", "-m", "dataset.structures", "--count", 1, "--out", tmp_path)
    assert (tmp_path / "photo.png").read_bytes() == b"mine"


def test_a_size_of_nothing_writable_is_one_line(expect_error, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    expect_error("file", "-m", "dataset.structures", "--count", 1, "--size", 64, "--out", tmp_path / "file" / "out")

"""The resize makes the published LR images to the last bit, and follows the formula for every size and type."""

import math
from fractions import Fraction

import numpy as np
import pytest
from conftest import GOLDEN
from PIL import Image
from reference_resize import reference_resize

from dataset.imresize import PADDING_MODES, imresize

RANDOM = np.random.default_rng(0)
SCALES = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(3, 4), 0.37, 1, 1.5, 2, 3, 4]


def rounded(image: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


# --- the published images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "hr_scale"), [(2, 2), (3, 3), (4, 2)])
def test_the_published_lr_image_is_made_bit_for_bit(scale, hr_scale):
    folder = GOLDEN / "butterfly"
    hr = np.asarray(Image.open(folder / f"img_003_SRF_{hr_scale}_HR.png"))
    published = np.asarray(Image.open(folder / f"img_003_SRF_{scale}_LR.png"))
    assert np.count_nonzero(imresize(hr, Fraction(1, scale)) != published) == 0


# --- the formula --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDING_MODES)
@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("size", [(7, 5), (4, 9), (13, 1), (2, 3)], ids=str)
def test_floats_follow_the_formula_down_and_up(size, scale, padding):
    image = RANDOM.random((*size, 3))
    expected = reference_resize(reference_resize(image, scale, padding).swapaxes(0, 1), scale, padding).swapaxes(0, 1)
    result = imresize(image, scale, padding)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", PADDING_MODES)
@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(1, 4), 2, 4], ids=str)
def test_uint8_is_rounded_after_the_rows_and_after_the_columns(scale, padding):
    image = RANDOM.choice(np.array([0, 1, 90, 254, 255], np.uint8), (11, 9, 3))
    rows = rounded(reference_resize(image, scale, padding))
    expected = rounded(reference_resize(rows.swapaxes(0, 1), scale, padding)).swapaxes(0, 1)
    result = imresize(image, scale, padding)
    assert result.dtype == np.uint8
    assert np.array_equal(result, expected)
    once = rounded(imresize(image.astype(np.float64), scale, padding))
    assert not np.array_equal(result, once)  # so the rounding between the passes was put to the test


def test_halves_are_rounded_up():
    image = np.array([[0, 1]], np.uint8)  # their mean is a half
    assert imresize(image, Fraction(1, 2)).tolist() == [[1]]


# --- padding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4)], ids=str)
def test_shrinking_the_paddings_differ_in_the_outermost_two_pixels_only(scale):
    image = RANDOM.random((50, 45))
    replicate, symmetric = (imresize(image, scale, padding) for padding in ("replicate", "symmetric"))
    assert np.array_equal(replicate[2:-2, 2:-2], symmetric[2:-2, 2:-2])
    for outer in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        assert (replicate[outer] != symmetric[outer]).any()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_enlarging_the_paddings_differ_within_two_pixels_of_the_border_only(scale):
    image = RANDOM.random((12, 10))
    replicate, symmetric = (imresize(image, scale, padding) for padding in ("replicate", "symmetric"))
    inner = np.s_[2 * scale : -2 * scale, 2 * scale : -2 * scale]
    assert np.array_equal(replicate[inner], symmetric[inner])
    assert not np.array_equal(replicate, symmetric)


def test_padding_is_replicate_unless_asked():
    image = RANDOM.random((9, 9))
    assert np.array_equal(imresize(image, 0.5), imresize(image, 0.5, "replicate"))


# --- shapes and types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDING_MODES)
@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_a_constant_stays_constant_down_to_one_pixel(scale, padding):
    for size in [(1, 1), (1, 6), (5, 1), (8, 7)]:
        image = np.full((*size, 3), 201, np.uint8)
        result = imresize(image, scale, padding)
        assert result.shape == (math.ceil(size[0] * scale), math.ceil(size[1] * scale), 3)
        assert (result == 201).all()


def test_sizes_are_rounded_up():
    image = np.zeros((7, 10), np.uint8)
    assert imresize(image, Fraction(1, 2)).shape == (4, 5)
    assert imresize(image, Fraction(1, 3)).shape == imresize(image, 1 / 3).shape == (3, 4)
    assert imresize(image, 3).shape == (21, 30)
    assert imresize(image, 1.25).shape == (9, 13)


def test_scale_1_changes_nothing():
    image = RANDOM.integers(0, 256, (6, 7, 3), np.uint8)
    assert np.array_equal(imresize(image, 1), image)


def test_each_channel_is_resized_by_itself():
    image = RANDOM.integers(0, 256, (9, 8, 4), np.uint8)
    result = imresize(image, Fraction(1, 2))
    for channel in range(4):
        assert np.array_equal(result[:, :, channel], imresize(image[:, :, channel], Fraction(1, 2)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_come_back_as_float64_neither_rounded_nor_clipped(dtype):
    image = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], dtype)
    result = imresize(image, 2)
    assert result.dtype == np.float64
    assert result.min() < 0 and result.max() > 1


def test_uint8_overshoot_is_clipped():
    image = np.array([[0, 0, 255, 255]] * 2, np.uint8)
    result = imresize(image, 2)
    assert result.min() == 0 and result.max() == 255


def test_the_given_image_stays_as_it_was_and_need_not_be_contiguous():
    image = RANDOM.integers(0, 256, (8, 9, 3), np.uint8)
    image.flags.writeable = False
    view = image[::-1, ::2].swapaxes(0, 1)
    assert np.array_equal(imresize(view, 2), imresize(view.copy(), 2))
    assert imresize(view, 2).flags.c_contiguous


# --- errors ---------------------------------------------------------------------------------------------------------------


def test_large_images_are_resized_in_blocks_to_the_same_values(monkeypatch):
    image = RANDOM.integers(0, 256, (23, 31, 3), np.uint8)
    whole = [imresize(each, scale) for each in (image, image / 3) for scale in (Fraction(1, 3), 2)]
    monkeypatch.setattr("dataset.imresize.BLOCK", 300)
    blocks = [imresize(each, scale) for each in (image, image / 3) for scale in (Fraction(1, 3), 2)]
    assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(whole, blocks, strict=True))


@pytest.mark.parametrize("scale", [1e-4, Fraction(1, 10_000)])
def test_the_smallest_scale_is_taken(scale):
    assert imresize(np.full((3, 2), 7, np.uint8), scale).tolist() == [[7]]


@pytest.mark.parametrize("scale", [0, -1, 1e-9, float("nan"), float("inf")])
def test_an_impossible_scale_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be"):
        imresize(np.zeros((4, 4)), scale)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool, complex])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match="uint8 or floating point"):
        imresize(np.zeros((4, 4), dtype), 2)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0, 3), (4,), (1, 4, 4, 3)], ids=str)
def test_empty_images_and_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="non-empty HxW or HxWxC"):
        imresize(np.zeros(shape), 2)


def test_an_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="padding must be one of"):
        imresize(np.zeros((4, 4)), 2, "wrap")

"""The resize is the sum that its formula says, for any size, scale, padding and type."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from reference_resize import reference_resize

from dataset.imresize import PADDING_MODES, imresize
from tests.stress.fuzzing import bounded, cases

SCALES = st.one_of(
    st.sampled_from([Fraction(1, each) for each in (2, 3, 4)] + [Fraction(each) for each in (2, 3, 4)]),
    st.fractions(Fraction(1, 60), 6, max_denominator=10_000),
    st.fractions(Fraction(1, 10_000), Fraction(1, 60), max_denominator=10_000),
)
SIZES = st.integers(1, 40)
TYPES = [np.uint8, np.float16, np.float32, np.float64]


def check(result: np.ndarray, image: np.ndarray, scale: Fraction, padding: str) -> None:
    """Against both passes of the sum. Where a pass of uint8 is within a hair of a half, either whole number is right."""
    exact = reference_resize(image, scale, padding)
    if image.dtype != np.uint8:
        expected = reference_resize(exact.swapaxes(0, 1), scale, padding).swapaxes(0, 1)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-11 * max(1.0, float(np.abs(image).max())))
        return
    rows = imresize_rows(exact)
    if rows is None:
        return
    columns = reference_resize(rows.swapaxes(0, 1), scale, padding).swapaxes(0, 1)
    assert result.dtype == np.uint8 and result.shape == columns.shape
    assert (np.abs(result - columns.clip(0, 255)) <= 0.5 + 1e-9).all()


def imresize_rows(exact: np.ndarray) -> np.ndarray | None:
    """The first pass in 8 bits; None where a last bit decides which way a value is rounded."""
    if (np.abs(exact - np.floor(exact) - 0.5) < 1e-9).any():
        return None
    return np.floor(exact + 0.5).clip(0, 255).astype(np.uint8)


@cases(300)
@given(
    size=st.one_of(st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES, st.integers(1, 5))),
    scale=SCALES,
    padding=st.sampled_from(PADDING_MODES),
    dtype=st.sampled_from(TYPES),
    seed=st.integers(0, 1 << 30),
    as_float=st.booleans(),
)
def test_it_is_the_direct_sum(size, scale, padding, dtype, seed, as_float):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, size).astype(dtype) if seed % 2 else random.choice([0, 255], size).astype(dtype)
    with bounded("resize"):
        result = imresize(image, float(scale) if as_float else scale, padding)
        check(result, image, scale, padding)

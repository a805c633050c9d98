"""Amounts are in the units that a person would take."""

from __future__ import annotations

import pytest

from common.units import format_bytes, format_count, format_duration


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 KB"), (82_944, "82.9 KB"), (829_440, "829 KB"),
        (999_499, "999 KB"), (999_999, "1.00 MB"), (5_242_000, "5.24 MB"), (9_999_000, "10.0 MB"), (99_960_000, "100 MB"),
        (5_680_000_000, "5.68 GB"), (128e9, "128 GB"), (2e12, "2.00 TB"), (5e15, "5,000 TB"),
    ],
)  # fmt: skip
def test_a_size_has_three_digits(number, words):
    assert format_bytes(number) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3569, "59 min"), (3571, "1 h 0 min"), (7800, "2 h 10 min"),
        (86_369, "23 h 59 min"), (86_371, "1 d 0 h"), (273_600, "3 d 4 h"), (1e9, "11574 d 2 h"),
    ],
)  # fmt: skip
def test_a_time_is_in_its_two_largest_units(seconds, words):
    assert format_duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(0, "0 images"), (1, "1 image"), (1500, "1,500 images")])
def test_a_number_of_things_has_its_plural(number, words):
    assert format_count(number, "image") == words

"""Laws of the bins: they hold every finite value, and nothing depends on the order in which values arrive."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellxlate.quality.histogram import MOST_BINS, Histogram


def histogram_of(*parts: npt.NDArray[Any]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part, part[:0], part[:0])
    return histogram


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float16"])
def test_small_dtypes_have_exact_bins(dtype: str) -> None:
    values = (
        np.random.default_rng(0)
        .integers(-100 if dtype != "uint8" else 0, 120, 5000)
        .clip(0 if dtype[0] == "u" else -100)
    )
    histogram = histogram_of(values.astype(dtype))
    assert histogram.exponent <= 0
    starts = (np.arange(len(histogram.before)) + histogram.first) * 2.0**histogram.exponent
    found = dict(zip(starts, histogram.before, strict=True))
    expected = dict(zip(*np.unique(values, return_counts=True), strict=True))
    assert {start: count for start, count in found.items() if count} == expected


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=20),
        min_size=2,
        max_size=5,
    )
)
@example(parts=[[1e300], [-5e-324]])
@example(parts=[[-5e-324], [1e300], [0.0]])
@example(parts=[[1e-300], [1.0]])
def test_no_order_of_floats_changes_the_bins(parts: list[list[float]]) -> None:
    arrays = [np.array(part) for part in parts]
    forward, backward, whole = histogram_of(*arrays), histogram_of(*arrays[::-1]), histogram_of(np.concatenate(arrays))
    for other in (backward, whole):
        assert (forward.exponent, forward.first) == (other.exponent, other.first)
        assert np.array_equal(forward.before, other.before)
    assert forward.before.sum() == sum(map(len, parts))
    assert len(forward.before) <= MOST_BINS


def test_every_value_lies_in_its_bin() -> None:
    values = np.random.default_rng(1).normal(0, 1e6, 3000)
    histogram = histogram_of(values[:1000], values[1000:])
    places = np.floor(values / 2.0**histogram.exponent).astype(int) - histogram.first
    assert np.array_equal(np.bincount(places, minlength=len(histogram.before)), histogram.before)


def test_values_that_are_not_finite_are_left_out() -> None:
    histogram = histogram_of(np.array([np.nan, 1.0, np.inf, -np.inf], np.float32), np.array([np.nan], np.float32))
    assert histogram.before.sum() == 1


def test_after_is_before_with_the_moved_pixels_moved() -> None:
    histogram = Histogram()
    histogram.add(np.array([5, 5, 6], np.uint8), np.array([5], np.uint8), np.array([9], np.uint8))
    assert histogram.before.tolist() == [2, 1, 0, 0, 0]
    assert histogram.after.tolist() == [1, 1, 0, 0, 1]


def test_wide_integers_share_bins_of_a_power_of_two() -> None:
    values = np.array([0, 2**32 - 1], np.uint32)
    histogram = histogram_of(values)
    assert (histogram.exponent, histogram.before[0], histogram.before[-1]) == (16, 1, 1)

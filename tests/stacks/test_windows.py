"""Windows of lazy pixels are what numpy gives for the same index, read plane by plane."""

from typing import Any

import numpy as np
import pytest

from cellxlate.stacks.stack import Stack
from cellxlate.stacks.windows import as_slice, read_planes

STORED = np.arange(3 * 2 * 7 * 6, dtype=np.uint16).reshape(3, 2, 7, 6)


class Lazy:
    """Pixels that know their shape and dtype, how a plane of them is read, and no more."""

    shape, dtype = STORED.shape, STORED.dtype

    def __getitem__(self, key: Any) -> Any:
        return read_planes(key, self.shape, self.dtype, 2, lambda plane, within: STORED[plane][np.ix_(*within)])


@pytest.mark.parametrize("key", [..., 1, (0, 1), (slice(None), 1), (..., 3), (slice(2, 0, -1), ..., slice(5, None, -2)),
                                 (1, 1, slice(6, 2, -3), slice(1, 5)), (slice(1, 1), ...), (2, 0, 3, 4)])  # fmt: skip
def test_a_window_is_what_numpy_gives(key: Any) -> None:
    window = Lazy()[key]
    assert window.dtype == STORED.dtype
    np.testing.assert_array_equal(window, STORED[key])


def test_too_many_indices_are_an_error() -> None:
    with pytest.raises(IndexError, match="5 indices for 4 axes"):
        Lazy()[0, 0, 0, 0, 0]


@pytest.mark.parametrize("part", [slice(None), slice(5, None, -1), slice(4, 1, -2), slice(3, 3), slice(0, 6, 4)])
def test_a_range_becomes_the_slice_that_picks_it(part: slice) -> None:
    np.testing.assert_array_equal(np.arange(6)[as_slice(range(6)[part])], np.arange(6)[part])


def test_pixels_that_know_no_number_of_axes_become_a_dask_array() -> None:
    lazy = Stack(Lazy(), "TCYX").to_dask()
    assert (lazy.chunksize, lazy.dtype) == ((1, 1, 7, 6), STORED.dtype)
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), STORED)

"""A stack is indexed plane by plane, in any order of axes, and never hands out its own memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.errors import InputError
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.read.pixels import Expanded
from cellxlate.stacks.stack import SUPPORTED_DTYPES, Stack

PIXELS = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)


def test_planes_are_numbered_over_all_axes_but_rows_and_columns() -> None:
    stack = Stack.from_array(PIXELS)
    assert (stack.axes, stack.plane_axes, stack.plane_count, stack.plane_shape) == ("TCZYX", "TCZ", 24, (5, 6))
    indices = list(stack.plane_indices())
    assert len(indices) == len(set(indices)) == 24
    assert indices[:2] == [(0, 0, 0), (0, 0, 1)]
    for index in indices:
        np.testing.assert_array_equal(stack.read(index), PIXELS[index])
        np.testing.assert_array_equal(stack.read(index, slice(1, 3), slice(4, None)), PIXELS[index][1:3, 4:])


@pytest.mark.parametrize(("axes", "plane"), [("XYC", lambda a, c: a[:, :, c].T), ("YCX", lambda a, c: a[:, c]),
                                             ("YXS", lambda a, c: a[:, :, c])])  # fmt: skip
def test_rows_come_first_in_any_order_of_axes(axes: str, plane: Callable[[np.ndarray, int], np.ndarray]) -> None:
    pixels = np.arange(4 * 5 * 3).reshape(4, 5, 3).astype(np.int16)
    stack = Stack.from_array(pixels, axes)
    for position in range(stack.channel_count):
        expected = plane(pixels, position)
        assert stack.plane_shape == expected.shape
        np.testing.assert_array_equal(stack.read((position,)), expected)
        np.testing.assert_array_equal(stack.read((position,), slice(1, 3), slice(0, 1)), expected[1:3, :1])


def test_channels_are_those_of_the_channel_axis_or_of_the_colour_samples() -> None:
    stack = Stack.from_array(PIXELS)
    assert stack.channel_count == 3
    assert [stack.channel_of(index) for index in [(0, 0, 3), (1, 2, 0)]] == [0, 2]
    colour = Stack.from_array(np.zeros((4, 5, 3), np.uint8), "YXS")
    assert (colour.channel_count, colour.channel_of((2,))) == (3, 2)
    grey = Stack.from_array(np.zeros((4, 5), np.uint8))
    assert (grey.channel_count, grey.channel_of(())) == (1, 0)


def lazy_stack(folder: Path, kind: str) -> tuple[Stack, np.ndarray]:
    pixels = PIXELS[0, :2]
    if kind == "array":
        return Stack.from_array(pixels, "CZYX"), pixels
    if kind == "expanded":
        return Stack(Expanded(pixels, "CZYX", "TCZYX"), "TCZYX"), pixels[None]
    tifffile.imwrite(folder / "a.tif", pixels, photometric="minisblack", metadata={"axes": "CZYX"}, byteorder=">",
                     compression=None if kind == "plain" else kind)  # fmt: skip
    return open_stack(folder / "a.tif"), pixels


@pytest.mark.parametrize("kind", ["array", "plain", "zstd", "expanded"])
def test_dask_and_numpy_see_the_same_pixels(tmp_path: Path, kind: str) -> None:
    stack, pixels = lazy_stack(tmp_path, kind)
    with stack:
        lazy = stack.to_dask()
        assert (lazy.shape, lazy.dtype) == (pixels.shape, pixels.dtype)
        assert lazy.dtype.isnative
        assert lazy.chunks[-2:] == ((5,), (6,))
        assert all(set(sizes) == {1} for sizes in lazy.chunks[:-2])
        np.testing.assert_array_equal(lazy.compute(scheduler="threads"), pixels)
        np.testing.assert_array_equal(lazy[..., 1:3, 2].compute(scheduler="sync"), pixels[..., 1:3, 2])
        seen = np.asarray(stack)
        assert (seen.dtype, seen.dtype.isnative) == (pixels.dtype, True)
        np.testing.assert_array_equal(seen, pixels)
        np.testing.assert_array_equal(np.asarray(stack, dtype=np.float32), pixels.astype(np.float32))


def test_a_copy_is_a_copy() -> None:
    pixels = PIXELS.copy()
    stack = Stack.from_array(pixels)
    copy = np.array(stack)
    copy[...] = 0
    np.testing.assert_array_equal(pixels, PIXELS)
    assert np.shares_memory(np.asarray(stack), pixels)
    with pytest.raises(ValueError, match="copy"):
        np.array(stack, dtype=np.float32, copy=False)


@pytest.mark.parametrize("dtype", SUPPORTED_DTYPES)
def test_every_dtype_is_read_as_it_is(dtype: str) -> None:
    stack = Stack.from_array(PIXELS.astype(np.dtype(dtype).newbyteorder(">")))
    window = stack.read((1, 2, 3))
    assert window.dtype == stack.dtype == np.dtype(dtype)
    assert window.dtype.isnative
    np.testing.assert_array_equal(window, PIXELS[1, 2, 3].astype(dtype))


@pytest.mark.parametrize("dtype", ["complex64", "uint64", "int64", "U3"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(InputError, match="expected one of bool, uint8"):
        Stack.from_array(np.zeros((2, 2), dtype))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((2, 3), "YXC"), ((2, 3), "YY"), ((2, 3), "ZX"), ((2, 3), "xz"), ((2, 0), "YX"), ((2,), None), ((1,) * 6, None)],
)
def test_axes_that_are_not_clear_are_refused(shape: tuple[int, ...], axes: str | None) -> None:
    with pytest.raises(InputError) as caught:
        Stack.from_array(np.zeros(shape, np.uint8), axes)
    assert "\n" not in str(caught.value)


class Damaged:
    """Pixels that cannot be decoded."""

    shape = (2, 4, 5)
    dtype = np.dtype(np.uint8)

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    def __getitem__(self, key: Any) -> Any:
        raise self.fault


@pytest.mark.parametrize("fault", [OSError("gone"), ValueError("bad\nstrip"), MemoryError(), RuntimeError("zstd")])
def test_damage_is_reported_with_the_plane(fault: Exception) -> None:
    with pytest.raises(InputError, match=r"movie: the plane at T=1 is damaged .*copy the file again") as caught:
        Stack(Damaged(fault), "TYX", "movie").read((1,))
    assert "\n" not in str(caught.value)


def test_closing_releases_once_and_by_with(tmp_path: Path) -> None:
    calls = []
    with Stack(np.zeros((2, 2), np.uint8), "YX", release=lambda: calls.append(1)):
        assert calls == []
    assert calls == [1]


def test_the_mask_of_an_array_is_not_dropped_in_silence() -> None:
    pixels = np.ma.masked_greater(np.arange(12, dtype=np.uint16).reshape(3, 4), 5)
    with pytest.raises(InputError, match="has a mask"):
        Stack.from_array(pixels)
    np.testing.assert_array_equal(np.asarray(Stack.from_array(pixels.filled(0)))[1], [4, 5, 0, 0])


def test_a_lazy_array_of_unknown_shape_is_refused() -> None:
    dask_array = pytest.importorskip("dask.array")
    lazy = dask_array.from_array(np.arange(24, dtype=np.uint16).reshape(2, 3, 4), chunks=(1, 3, 4))
    chosen = lazy[lazy[:, 0, 0] > 5]
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        Stack.from_array(chosen, "ZYX")
    np.testing.assert_array_equal(np.asarray(Stack.from_array(chosen.compute_chunk_sizes(), "ZYX")), lazy[1:].compute())


class Named(np.ndarray):
    """An array that names its dimensions, as those of xarray do."""

    dims: tuple[Any, ...] = ()


@pytest.mark.parametrize(
    ("dims", "axes"),
    [
        (("c", "y", "x"), "CYX"), (("channel", "row", "column"), "CYX"), (("x", "y", "c"), "XYC"),
        (("dim_0", "y", "x"), "ZYX"), ((None, "y", "x"), "ZYX"), ((), "ZYX"),
    ],
)  # fmt: skip
def test_the_dimensions_that_an_array_names_are_its_axes(dims: tuple[Any, ...], axes: str) -> None:
    pixels = np.zeros((5, 6, 7), np.uint8).view(Named)
    pixels.dims = dims
    assert Stack.from_array(pixels).axes == axes
    assert Stack.from_array(pixels, "TYX").axes == "TYX"  # as the user says


def test_the_dimensions_that_a_zarr_array_names_are_its_axes() -> None:
    array = zarr.create_array({}, shape=(5, 6, 7), dtype="u1", dimension_names=("c", "y", "x"))
    assert Stack.from_array(array).axes == "CYX"


def test_planes_of_several_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="parts differ in shape"):
        Stack.from_array([np.zeros((4, 5)), np.zeros((4, 6))])

"""Pixels that are not an array yet: straight from a file, seen with further axes of length 1, or in blocks."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cellxlate.errors import InputError
from cellxlate.stacks.stack import Pixels
from cellxlate.stacks.windows import as_slice, positions, read_planes

LARGEST_BLOCK_BYTES = 2**30
"""A compressed strip, tile or chunk is decoded as a whole; a larger one would not fit the memory of many machines."""


@dataclass(frozen=True)
class FilePixels:
    """Pixels that lie uncompressed and in order in one part of a file; reading a window reads only its rows.

    The first pixel lies `offset` bytes from the start, `dtype` has the byte order of the file, `row_axis` is the
    position of Y. Each read opens the file, so that threads do not disturb each other.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    row_axis: int

    def __getitem__(self, key: Any) -> Any:
        return read_planes(key, self.shape, self.dtype, self.row_axis, self._window)

    def _window(self, plane: tuple[int, ...], within: list[range]) -> Any:
        rows, *further = within
        first = min(rows)
        shifted = range(rows.start - first, rows.stop - first, rows.step)
        return self._rows(plane, first, max(rows) + 1)[tuple(as_slice(part) for part in (shifted, *further))]

    def _rows(self, plane: tuple[int, ...], first: int, last: int) -> Any:
        """Read whole rows of one plane."""
        row_px = prod(self.shape[self.row_axis + 1 :])
        number = int(np.ravel_multi_index(plane, self.shape[: self.row_axis])) if plane else 0
        start = (number * self.shape[self.row_axis] + first) * row_px
        count = (last - first) * row_px
        pixels = np.fromfile(self.path, self.dtype, count, offset=self.offset + start * self.dtype.itemsize)
        if len(pixels) < count:
            raise OSError("the file ends before them")
        return pixels.reshape(last - first, *self.shape[self.row_axis + 1 :])


@dataclass(frozen=True)
class Expanded:
    """Pixels of `inner_axes` seen with further ones of length 1: `axes` hold the others in the same order."""

    inner: Pixels
    inner_axes: str
    axes: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each of the axes."""
        sizes = iter(self.inner.shape)
        return tuple(int(next(sizes)) if axis in self.inner_axes else 1 for axis in self.axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the stored pixels."""
        return self.inner.dtype

    def __getitem__(self, key: Any) -> Any:
        chosen = positions(key, self.shape)
        inner = [part for axis, part in zip(self.axes, chosen, strict=True) if axis in self.inner_axes]
        window = self.inner[tuple(as_slice(part) if isinstance(part, range) else part for part in inner)]
        shape = [len(part) for part in chosen if isinstance(part, range)]
        return np.empty(shape, self.dtype) if 0 in shape else np.reshape(window, shape)


def check_blocks(chunks: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise InputError where reading one pixel would mean to decode more than 1 GiB."""
    block_bytes = prod(chunks) * dtype.itemsize
    if block_bytes > LARGEST_BLOCK_BYTES:
        raise InputError(
            f"the pixels are stored in blocks of {' x '.join(map(str, chunks))}, {block_bytes / 1e9:.1f} GB each when "
            "decoded; save the file in tiles or chunks first"
        )


def first_level(group: zarr.Group) -> zarr.Array[Any]:
    """Return the array of full resolution in a pyramid; its keys come unsorted."""
    keys = sorted(group.array_keys(), key=lambda key: (len(key), key))
    return group[keys[0]]  # type: ignore[return-value]

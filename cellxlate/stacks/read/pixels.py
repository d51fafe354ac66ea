"""Pixels that are not an array yet: straight from a file, seen with further axes of length 1, or in blocks."""

from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cellxlate.errors import InputError
from cellxlate.stacks.stack import Pixels

LARGEST_BLOCK_BYTES = 2**30
"""A compressed strip, tile or chunk is decoded as a whole; a larger one would not fit the memory of many machines."""


@dataclass(frozen=True)
class FilePixels:
    """Pixels that lie uncompressed and in order in one part of a file; reading a window reads only its rows.

    Attributes
    ----------
    path : Path
        The file; opened for each read, so that threads do not disturb each other.
    offset : int
        Where the first pixel lies, in bytes.
    shape : tuple of int
        Size along each axis, last fastest.
    dtype : dtype
        With the byte order of the file.
    row_axis : int
        Position of the axis Y.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    row_axis: int

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> Any:
        ranges, kept = picked(key, self.shape)
        window = np.empty([len(part) for part in ranges], self.dtype)
        rows = ranges[self.row_axis]
        if window.size:
            within = (slice(None), *(as_slice(part) for part in ranges[self.row_axis + 1 :]))
            for position in product(*(range(len(part)) for part in ranges[: self.row_axis])):
                plane = [part[number] for part, number in zip(ranges, position, strict=False)]
                window[position] = self._rows(plane, min(rows), max(rows) + 1)[:: abs(rows.step)][within]
            if rows.step < 0:
                window = np.flip(window, self.row_axis)
        return window.reshape(kept)

    def _rows(self, plane: list[int], first: int, last: int) -> Any:
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
    """Pixels seen with further axes of length 1.

    Attributes
    ----------
    inner : Pixels
        The array as it is stored.
    inner_axes, axes : str
        Its axes; the axes it is seen with, which contain those of `inner` in the same order.
    """

    inner: Pixels
    inner_axes: str
    axes: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each of the axes."""
        sizes = iter(self.inner.shape)
        return tuple(int(next(sizes)) if axis in self.inner_axes else 1 for axis in self.axes)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

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


def positions(key: Any, shape: tuple[int, ...]) -> list[int | range]:
    """Return, for each axis, the position or the positions that an index of integers, slices and `...` picks."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(shape) + 1 - len(parts))
    if len(parts) > len(shape):
        raise IndexError(f"{len(parts)} indices for {len(shape)} axes")
    parts += [slice(None)] * (len(shape) - len(parts))
    return [range(size)[part] for size, part in zip(shape, parts, strict=True)]


def picked(key: Any, shape: tuple[int, ...]) -> tuple[list[range], list[int]]:
    """Return the positions that an index picks along each axis, and the shape of the result, without single ones."""
    chosen = positions(key, shape)
    ranges = [range(part, part + 1) if isinstance(part, int) else part for part in chosen]
    return ranges, [len(part) for part in chosen if isinstance(part, range)]


def as_slice(part: range) -> slice:
    """Return the slice that picks the positions of a range."""
    return slice(part.start, part.stop if part.stop >= 0 else None, part.step)

"""Windows of lazy pixels: what an index picks along each axis, and how it is read plane by plane."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

ReadPlane = Callable[[tuple[int, ...], list[range]], Any]
"""From the position of a plane, and the positions within it along each of its axes, to pixels."""


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


def read_planes(key: Any, shape: tuple[int, ...], dtype: np.dtype[Any], outer: int, read: ReadPlane) -> Any:
    """Return what an index picks of pixels that are read plane by plane; `outer` axes come before those of a plane."""
    ranges, kept = picked(key, shape)
    window = np.empty([len(part) for part in ranges], dtype)
    if window.size:
        for position in np.ndindex(window.shape[:outer]):
            plane = tuple(part[number] for part, number in zip(ranges, position, strict=False))
            window[position] = read(plane, ranges[outer:])
    return window.reshape(kept)


def mirrored(first: int, last: int, size: int) -> npt.NDArray[np.int64]:
    """Return which of `size` pixels, or planes, stand at first..last-1 of a line continued by its mirror image.

    Examples
    --------
    >>> mirrored(-2, 5, 3).tolist()
    [1, 0, 0, 1, 2, 2, 1]
    """
    within: npt.NDArray[np.int64] = np.arange(first, last) % (2 * size)
    return np.minimum(within, 2 * size - 1 - within)

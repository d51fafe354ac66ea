"""Files as lazy arrays for layers: every level of a pyramid, read tile by tile when it is shown."""

import weakref
from typing import Any

from cellxlate.locations import Location
from cellxlate.stacks.read.resolutions import open_resolutions
from cellxlate.stacks.stack import Stack

CHUNK_PX = 1024


def lazy_resolutions(path: Location, axes: str | None = None) -> tuple[Stack, list[Any]]:
    """Return a stack and the dask arrays of its levels, the finest first; axes as `open_stack` takes them.

    The file is closed when nothing refers to its pixels any more.
    """
    resolutions = open_resolutions(path, axes)
    weakref.finalize(resolutions[0].pixels, resolutions[0].release)
    return resolutions[0], [lazy_pixels(level) for level in resolutions]


def lazy_pixels(stack: Stack) -> Any:
    """Return the pixels of a stack as a dask array in chunks of at most 1024 x 1024 px."""
    chunks = tuple(
        min(size, CHUNK_PX) if axis in "YX" else size if axis == "S" else 1
        for axis, size in zip(stack.axes, stack.shape, strict=True)
    )
    return stack.to_dask(chunks)

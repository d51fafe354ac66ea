"""The lower levels of a pyramid: 2 x 2 pixels become one, band by band, from memory or from the level above."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellxlate.stacks.stack import PlaneIndex
from cellxlate.stacks.write.bands import BAND_PX, Bands

PYRAMID_PX = 1024

Reduction = Literal["mean", "max"]
Share = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Does something with each of many items, like `map`: here, or on other machines."""


def resolution_count(plane_shape: tuple[int, int]) -> int:
    """Return how many levels a pyramid over planes (Y, X) has: halved while the shorter side exceeds 1024 px."""
    count, shorter = 1, min(plane_shape)
    while shorter > PYRAMID_PX:
        count, shorter = count + 1, -(-shorter // 2)
    return count


@dataclass(frozen=True)
class Pyramid:
    """A stack on its way to disk: bands of full resolution, and the levels that are halved from them.

    The folder of `full` is called "0"; the levels become its neighbours "1", "2", ...; `resolutions` counts them all.
    """

    full: Bands
    reduction: Reduction
    resolutions: int

    @cached_property
    def all_resolutions(self) -> list[Bands]:
        """The levels, `full` first."""
        full = self.full
        return [full] + [
            replace(full, folder=full.folder.with_name(str(level)), shape=full.level_shape(level))
            for level in range(1, self.resolutions)
        ]

    def create(self) -> None:
        """Make the empty arrays of all levels."""
        for level in self.all_resolutions:
            level.create()

    def drop_damaged(self) -> int:
        """Remove bands that are damaged, on all levels; return how many were."""
        return sum(level.drop_damaged() for level in self.all_resolutions)

    def restore(self) -> None:
        """Write the metadata of all levels again, should it be damaged."""
        for level in self.all_resolutions:
            level.restore()

    def write(self, index: PlaneIndex, first_row: int, pixels: npt.NDArray[Any]) -> None:
        """Write whole bands of one plane as `Bands.write` does, and those of level 1 that these rows fill."""
        self.full.write(index, first_row, pixels)
        for below in self.all_resolutions[1:2]:
            first, last = first_row // 2, -(-(first_row + len(pixels)) // 2)
            if first_row % (2 * BAND_PX) == 0 and (len(pixels) % (2 * BAND_PX) == 0 or last == below.size("Y")):
                below.write(index, first, halve(pixels, self.reduction))

    def complete(self, share: Share = map) -> list[Bands]:
        """Write what is not there of the lower levels, where `full` is complete; return all, `full` first.

        What `share`, which is like `map`, is given may be sent to other processes that see the folder.
        """
        for above, below in pairwise(self.all_resolutions):
            is_done = below.found()
            keys = product(below.plane_indices(), range(below.per_plane))
            missing = (key for key in keys if not is_done(*key))
            for _ in share(partial(_halve_bands, above, below, self.reduction), missing):
                pass
        return self.all_resolutions


def _halve_bands(above: Bands, below: Bands, reduction: Reduction, key: tuple[PlaneIndex, int]) -> None:
    """Write one band of a level from the bands above it."""
    index, band = key
    rows = below.rows(band)
    below.write(index, rows.start, halve(above.read(index, slice(2 * rows.start, 2 * rows.stop)), reduction))


def halve(pixels: npt.NDArray[Any], reduction: Reduction) -> npt.NDArray[Any]:
    """Reduce 2 x 2 pixels to one.

    Parameters
    ----------
    pixels : ndarray (Y, X)
        Any supported dtype. A side of odd length counts its last row or column twice.
    reduction : {"mean", "max"}
        The mean of integers is rounded, half upwards. NaN spreads to the pixels it touches.

    Returns
    -------
    ndarray (ceil(Y / 2), ceil(X / 2))
        In the dtype of `pixels`.
    """
    height, width = pixels.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2)), mode="edge")
    upper, lower = pixels[0::2], pixels[1::2]
    if reduction == "max":
        rows = np.maximum(upper, lower)
        return np.asarray(np.maximum(rows[:, 0::2], rows[:, 1::2]))
    if pixels.dtype.kind == "f":
        with np.errstate(all="ignore"):  # infinities of both signs, signalling NaN
            quarters = [
                corner.astype(np.float64) / 4 for row in (upper, lower) for corner in (row[:, 0::2], row[:, 1::2])
            ]
            return (quarters[0] + quarters[1] + quarters[2] + quarters[3]).astype(pixels.dtype)
    rows = np.add(upper, lower, dtype=np.int32 if pixels.dtype.itemsize < 4 else np.int64)
    total = rows[:, 0::2] + rows[:, 1::2] + 2
    return np.asarray(total >> 2, dtype=pixels.dtype)

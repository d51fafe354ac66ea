"""Planes that are seen for several others are read and looked at once, and kept as they are stored.

Unit range takes twice the memory of 16-bit counts, and follows from them pixel by pixel, but for those few of which
networks see something else. So it is made again, to the same bits, for each window that asks for it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import ANEW, ReadRows, SeenPlane
from cellxlate.model.attention import Floats
from cellxlate.prefetch import FoundOnce
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import PlaneIndex

FEW = 1 / 8
"""Where networks see something else in more pixels than this share, unit range is kept as it is."""


@dataclass(frozen=True)
class UnitOfCounts:
    """Rows of a plane in unit range, made of their counts (rows, X) where a window of them is asked for.

    Attributes
    ----------
    counts : ndarray (rows, X)
        As stored.
    intensity : IntensityRange
        What makes unit range of them.
    replaced : (ndarray, ndarray, ndarray)
        Rows, in their order, and columns of pixels of which networks see something else; and what, in unit range.
    """

    counts: npt.NDArray[Any]
    intensity: IntensityRange
    replaced: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]

    def __getitem__(self, key: tuple[Any, ...]) -> Floats:
        """Return the window at slices of rows and columns."""
        top, bottom, _ = key[-2].indices(self.counts.shape[0])
        left, right, _ = key[-1].indices(self.counts.shape[1])
        unit = self.intensity.to_unit(self.counts[top:bottom, left:right])
        rows, columns, values = self._replaced(top, bottom)
        inside = (columns >= left) & (columns < right)
        unit[rows[inside] - top, columns[inside] - left] = values[inside]
        return unit

    def part(self, rows: slice) -> "UnitOfCounts":
        """Return some of its rows."""
        places, columns, values = self._replaced(rows.start, rows.stop)
        return UnitOfCounts(self.counts[rows], self.intensity, (places - rows.start, columns, values))

    def _replaced(self, top: int, bottom: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]:
        rows, columns, values = self.replaced
        some = slice(*np.searchsorted(rows, (top, bottom)))
        return rows[some], columns[some], values[some]


class HeldPlanes:
    """Keeps what networks see of the rows that were asked for last; several threads may ask.

    Parameters
    ----------
    most : int
        How many are kept: all that are seen for the planes that are worked on at once.
    are_whole : bool
        Whether planes are looked at whole, and rows cut from that; otherwise rows are kept as they are asked for.
    """

    def __init__(self, most: int, *, are_whole: bool) -> None:
        self._kept: FoundOnce[SeenPlane] = FoundOnce(most)
        self._are_whole = are_whole

    def __call__(
        self, index: PlaneIndex, read: ReadRows, intensity: IntensityRange, rows: slice, whole: slice
    ) -> SeenPlane:
        """Return rows of a plane, which one of the threads that want them reads while the others wait."""
        wanted = whole if self._are_whole else rows
        key = index, wanted.start, wanted.stop, intensity
        plane = self._kept(key, partial(_held, index, read, intensity, wanted))
        return plane.part(rows) if self._are_whole else plane


def _held(index: PlaneIndex, read: ReadRows, intensity: IntensityRange, rows: slice) -> SeenPlane:
    """Read rows of a plane and look at them; their unit range is not kept where it follows from their counts."""
    plane = ANEW(index, read, intensity, rows, rows)
    kept = np.zeros((0, 0), np.bool_) if plane.kept is None else plane.kept
    if plane.counts.ndim == 3 or np.count_nonzero(kept) > FEW * kept.size:  # a luminance takes as much as unit range
        return plane
    places = np.nonzero(kept)
    rows_and_columns = places[0].astype(np.int32), places[1].astype(np.int32)
    unit = UnitOfCounts(plane.counts, intensity, (*rows_and_columns, np.asarray(plane.unit)[places]))
    return SeenPlane(plane.counts, unit, plane.kept)

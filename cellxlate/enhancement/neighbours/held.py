"""Planes that are seen for several others are read and looked at once."""

from functools import partial

from cellxlate.enhancement.input import ANEW, ReadRows, SeenPlane
from cellxlate.prefetch import FoundOnce
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import PlaneIndex


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
        plane = self._kept(key, partial(ANEW, index, read, intensity, wanted, wanted))
        return plane.part(rows) if self._are_whole else plane

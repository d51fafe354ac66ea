"""Planes that are seen for several others are read and looked at once."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future

from cellxlate.enhancement.input import ANEW, ReadRows, SeenPlane
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
        self._most, self._are_whole = most, are_whole
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Future[SeenPlane]] = OrderedDict()

    def __call__(
        self, index: PlaneIndex, read: ReadRows, intensity: IntensityRange, rows: slice, whole: slice
    ) -> SeenPlane:
        """Return rows of a plane, which one of the threads that want them reads while the others wait."""
        wanted = whole if self._are_whole else rows
        key = index, wanted.start, wanted.stop, intensity
        with self._lock:
            known = self._kept.get(key)
            seen = known or Future[SeenPlane]()
            self._kept[key] = seen
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        if known is None:
            self._read(key, seen, index, read, intensity, wanted)
        plane = seen.result()
        return plane.part(rows) if self._are_whole else plane

    def _read(
        self, key: Hashable, seen: "Future[SeenPlane]", index: PlaneIndex, read: ReadRows, intensity: IntensityRange,
        rows: slice,
    ) -> None:  # fmt: skip
        try:
            seen.set_result(ANEW(index, read, intensity, rows, rows))
        except BaseException as fault:  # whatever it is, others wait for it
            with self._lock:
                self._kept.pop(key, None)
            seen.set_exception(fault)
            raise

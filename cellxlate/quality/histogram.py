"""Intensities before and after, in bounded bins that need no range in advance."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_BINS = 65536
BLOCK_PX = 2**17
"""Values that are binned at once: as many as the processor's cache holds."""


@dataclass
class Histogram:
    """Intensities before and after, in bins whose width is a power of two and doubles when the range outgrows them.

    Attributes
    ----------
    exponent : int
        A bin is 2 ** exponent counts wide.
    first : int
        The first bin starts at first * 2 ** exponent counts.
    before, moved_from, moved_to : ndarray of int64 (bins,)
        All input pixels; input and output values of pixels that were selected or changed.
    low, high : float
        The smallest and the largest value so far.
    whole : bool
        Whether values are whole numbers.
    """

    exponent: int = 0
    first: int = 0
    before: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    moved_from: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    moved_to: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    @property
    def after(self) -> npt.NDArray[np.int64]:
        """Output pixels per bin."""
        return self.before - self.moved_from + self.moved_to

    def add(self, before: npt.NDArray[Any], moved_from: npt.NDArray[Any], moved_to: npt.NDArray[Any]) -> None:
        """Count finite values of three flat arrays of one dtype."""
        if before.dtype.kind == "f":
            before, moved_from, moved_to = (
                values[np.isfinite(values)].astype(np.float64) for values in (before, moved_from, moved_to)
            )
        ends = [float(end) for values in (before, moved_to) if values.size for end in (values.min(), values.max())]
        if not ends:
            return
        self.whole = before.dtype.kind != "f"
        self._cover(min(ends), max(ends))
        for counts, values in ((self.before, before), (self.moved_from, moved_from), (self.moved_to, moved_to)):
            for start in range(0, values.size, BLOCK_PX):
                counts += np.bincount(self._bins(values[start : start + BLOCK_PX]), minlength=len(counts))

    def include(self, other: "Histogram") -> None:
        """Add what another histogram has counted of other pixels of the same dtype."""
        if other.low > other.high:
            return
        self.whole = other.whole
        self._cover(other.low, other.high)
        bins = ((np.arange(len(other.before)) + other.first) >> (self.exponent - other.exponent)) - self.first
        for name in ("before", "moved_from", "moved_to"):
            np.add.at(getattr(self, name), bins, getattr(other, name))

    def _bins(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if values.dtype.kind == "f":
            bins = np.floor(np.ldexp(values, -self.exponent)).astype(np.int64)
            bins[(values < 0) & (bins == 0)] = -1  # so small that the division gave -0.0
        else:
            bins = values.astype(np.int64)
            bins >>= self.exponent
        bins -= self.first
        return np.asarray(bins, dtype=np.int64)

    def _cover(self, low: float, high: float) -> None:
        """Widen the bins until they hold low to high; absolute edges keep the result independent of the order."""
        if low >= self.low and high <= self.high:
            return
        self.low, self.high = min(low, self.low), max(high, self.high)
        exponent = _bin_exponent(self.low, self.high, whole=self.whole)
        first, last = _bin(self.low, exponent), _bin(self.high, exponent)
        shift = exponent - self.exponent
        bins = ((np.arange(len(self.before)) + self.first) >> shift) - first
        for name in ("before", "moved_from", "moved_to"):
            wider = np.zeros(last - first + 1, np.int64)
            np.add.at(wider, bins, getattr(self, name))
            setattr(self, name, wider)
        self.exponent, self.first = exponent, first


def _bin(value: float, exponent: int) -> int:
    number = math.floor(math.ldexp(value, -exponent))
    return -1 if value < 0 and number == 0 else number


def _bin_exponent(low: float, high: float, *, whole: bool) -> int:
    """Return the smallest exponent at which low to high fill at most MOST_BINS bins; at least 0 for whole numbers."""
    exponent = 0 if whole else max(math.frexp(max(abs(low), abs(high)))[1] - 50, -1000)
    while _bin(high, exponent) - _bin(low, exponent) >= MOST_BINS:
        exponent += 1
    return exponent

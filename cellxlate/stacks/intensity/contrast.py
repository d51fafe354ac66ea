"""Windows of a channel in which something stands out: a bounded sample, spread over all planes."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.prefetch import ahead
from cellxlate.stacks.intensity.noise_patches import spread_evenly
from cellxlate.stacks.intensity.range import SMOOTHING_PX, IntensityRange
from cellxlate.stacks.stack import PlaneIndex, Stack

CANDIDATES = 3
"""Windows that are looked at for each that is taken: the one with most contrast."""
Place = tuple[PlaneIndex, slice, slice]


def contrast(counts: npt.NDArray[Any], intensity: IntensityRange) -> float:
    """Return the standard deviation of a window (Y, X) of counts after a Gaussian of 2 px, in unit range."""
    return float(np.std(ndimage.gaussian_filter(intensity.to_unit(counts), SMOOTHING_PX)))


def contrast_windows(
    stack: Stack, channel: int, intensity: IntensityRange, *, side_px: int, count: int
) -> Iterator[tuple[Place, npt.NDArray[Any], IntensityRange]]:
    """Yield at most so many windows of a channel, spread over its planes, each where there is contrast.

    Windows are as large as asked for, or as the plane. Those with pixels that are not finite, or of one value, are left
    out.

    Yields
    ------
    place : (index, rows, columns)
        Of the window.
    counts : ndarray (Y, X)
        As stored.
    intensity : IntensityRange
        Of its time point.
    """
    places = list(_places(stack, channel, side_px))
    for group in _groups(spread_evenly(places, CANDIDATES * count), count):
        best: tuple[float, Place, npt.NDArray[Any], IntensityRange] | None = None
        for place, counts in ahead(lambda one: (one, stack.read(*one)), group, threads=2):
            if not np.isfinite(counts).all() or counts.min() == counts.max():
                continue
            own = intensity.at(stack.time_of(place[0]))
            found = contrast(counts, own)
            if best is None or found > best[0]:
                best = found, place, counts, own
        if best:
            yield best[1:]


def _places(stack: Stack, channel: int, side_px: int) -> Iterator[Place]:
    """Yield all windows of a channel, plane by plane, as large as asked for or as the plane."""
    starts = [
        np.linspace(0, max(size - side_px, 0), -(-size // side_px)).astype(int).tolist() for size in stack.plane_shape
    ]
    for number in range(stack.planes_per_channel):
        index = stack.plane_of(number, channel)
        for top in starts[0]:
            for left in starts[1]:
                yield index, slice(top, top + side_px), slice(left, left + side_px)


def _groups(windows: list[Any], count: int) -> list[list[Any]]:
    """Cut windows, in their order, into at most so many groups."""
    bounds = [len(windows) * part // count for part in range(count + 1)]
    return [windows[first:last] for first, last in pairwise(bounds) if first < last]

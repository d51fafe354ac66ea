"""What networks see of stored pixels: unit range, without faults of the sensor and without parts never recorded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.stacks.intensity import constant_parts, hot_pixels
from cellxlate.stacks.intensity.constant_parts import RIM_PX, carried_in, empty_pixels, grown
from cellxlate.stacks.intensity.hot_pixels import find_hot
from cellxlate.stacks.intensity.range import IntensityRange

REACH_PX = constant_parts.REACH_PX + hot_pixels.REACH_PX
"""What becomes of a pixel depends on those within this distance, so rows are read with as many above and below."""


@dataclass(frozen=True)
class NetworkInput:
    """Rows of a plane as networks see them.

    Attributes
    ----------
    unit : ndarray (rows, X) of float32
        Unit range: black is 0, white is 1; what exceeds white stays.
    kept : ndarray (rows, X) of bool, or None
        Pixels that no one may change: hot, not finite, or never recorded. None where there are none.
    """

    unit: npt.NDArray[np.float32]
    kept: npt.NDArray[np.bool_] | None = None


def network_input(counts: npt.NDArray[Any], intensity: IntensityRange) -> NetworkInput:
    """Return what networks see of rows of a plane.

    Parameters
    ----------
    counts : ndarray (rows, X)
        As stored. Rows and columns within 40 px of an edge that is no edge of the plane are not to be used.
    intensity : IntensityRange
        Of the channel, at this time point.

    Notes
    -----
    Hot pixels and cosmic rays become the median of their neighbours, parts never recorded what surrounds them, fading
    to black: their neighbours come out as if nothing were wrong. In the output they keep their stored bits.
    """
    unit = intensity.to_unit(counts)
    hollow = empty_pixels(counts, intensity.empty_values, intensity.empty_below, intensity.hot_counts)
    if hollow is not None:
        hollow = grown(hollow, RIM_PX)
    if counts.dtype.kind == "f" and not (finite := np.isfinite(counts)).all():
        hollow = ~finite if hollow is None else hollow | ~finite
    kept = hollow
    if unit.size and unit.max() > intensity.hot_unit:
        known = unit if hollow is None else np.where(hollow, np.float32(np.nan), unit)
        rows, columns, calm = find_hot(known, intensity.hot_unit, intensity.hot_unit)
        if len(rows):
            unit[rows, columns] = calm
            kept = np.zeros(unit.shape, np.bool_) if hollow is None else hollow.copy()
            kept[rows, columns] = True
    return NetworkInput(unit if hollow is None else carried_in(unit, hollow), kept)

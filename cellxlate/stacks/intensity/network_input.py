"""What networks see of stored pixels: unit range, without faults of the sensor and without parts never recorded."""

from collections.abc import Iterator
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
NAMED_SHARE = 0.001


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


def remarks(intensity: IntensityRange, name: str) -> Iterator[str]:
    """Say what was found in a channel of this name that levels had to be kept from.

    Examples
    --------
    >>> from cellxlate.stacks.intensity.constant_parts import ConstantPart
    >>> list(remarks(IntensityRange(100, 200, constant_parts=(ConstantPart(0.0, 0.12),)), "channel 0"))
    ['12.0% of channel 0 is one constant value (0): left out of the intensity levels and kept.']
    """
    for part in intensity.constant_parts:
        if part.share >= NAMED_SHARE:
            what = "no number" if part.value is None else f"one constant value ({part.value:g})"
            yield f"{part.share:.1%} of {name} is {what}: left out of the intensity levels and kept."
    if intensity.drift:
        offsets = [offset for _, offset in intensity.drift]
        low, high = intensity.black + min(offsets), intensity.black + max(offsets)
        first, last = (intensity.black + offset for offset in (offsets[0], offsets[-1]))
        yield (
            f"the background of {name} drifts over time, from {first:.4g} to {last:.4g} counts (between {low:.4g} and "
            f"{high:.4g}, {(high - low) / intensity.span:.0%} of the intensity range): the levels follow it. Do not "
            "compare intensities between time points before you have taken the background off."
        )
    if intensity.uneven:
        low, high = intensity.uneven
        yield (
            f"the background of {name} is uneven over the field, from {low:.4g} to {high:.4g} counts "
            f"({(high - low) / intensity.span:.0%} of the intensity range): where it is brighter it may be taken for "
            "cells. Correct the illumination, or enhance tiles of different exposure one by one."
        )

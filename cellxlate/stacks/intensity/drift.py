"""The background of a channel over time, from a bounded sample at places that stay the same."""

from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.stacks.intensity.constant_parts import without_empty_parts
from cellxlate.stacks.stack import Stack

MOST_TIMES = 64
"""So many time points are read; between them the background is interpolated."""
SAMPLE_PX = 2**21
WINDOWS = 4
CENTRES = (0.3, 0.3), (0.7, 0.7), (0.3, 0.7), (0.7, 0.3)
SMOOTHING_PX, BLACK_PERCENTILE = 2.0, 10.0
"""Black is this percentile of the pixels smoothed by a Gaussian."""

Floats = npt.NDArray[np.float64]


def background_over_time(stack: Stack, channel: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Measure the black level at up to 64 time points.

    Returns
    -------
    (times, background) : ndarrays (N,)
        Time points, and the 10th percentile of the smoothed pixels there, in counts: of the whole plane in the middle
        of the Z axis, or of four windows of it that hold together with those of other times 2 megapixels. Time points
        without light (one value alone) are left out. Nothing where the stack has one time point.
    """
    count = stack.size("T")
    if count < 2:
        return np.zeros(0, np.int64), np.zeros(0)
    times = np.unique(np.linspace(0, count - 1, min(count, MOST_TIMES)).round().astype(np.int64))
    backgrounds = np.array([_background(stack, channel, int(time), SAMPLE_PX // len(times)) for time in times])
    known = np.isfinite(backgrounds)
    return times[known], backgrounds[known]


def _background(stack: Stack, channel: int, time: int, most_px: int) -> float:
    middle = {"T": time, "Z": stack.size("Z") // 2, "C": channel}
    index = tuple(middle.get(axis, channel if "C" not in stack.axes else 0) for axis in stack.plane_axes)
    height, width = stack.plane_shape
    if height * width <= most_px:
        windows = [stack.read(index)]
    else:
        side = isqrt(most_px // WINDOWS)
        rows, columns = min(side, height), min(side, width)
        windows = []
        for down, across in CENTRES:
            top, left = int((height - rows) * down), int((width - columns) * across)
            windows.append(stack.read(index, slice(top, top + rows), slice(left, left + columns)))
    values = np.concatenate([_smoothed(window) for window in windows])
    return float(np.percentile(values, BLACK_PERCENTILE)) if len(values) else np.nan


def _smoothed(window: npt.NDArray[Any]) -> Floats:
    """Return the smoothed pixels of a window in which anything was recorded, in one row."""
    counts = without_empty_parts(window)[0].astype(np.float64)
    finite = np.isfinite(counts)
    if not finite.any() or counts[finite].min() == counts[finite].max():
        return np.zeros(0)
    counts[~finite] = np.median(counts[finite])
    smooth: Floats = ndimage.gaussian_filter(counts, SMOOTHING_PX)
    return smooth[finite]

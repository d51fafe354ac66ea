"""Counts to unit range and back, by robust levels measured per channel of a stack.

The levels are percentiles of the *smoothed* image, so that sensor noise and hot pixels do not set them, and their span
is floored by the measured noise, so that a field without cells is not stretched into a field of noise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.errors import InputError
from cellxlate.stacks.stack import PlaneIndex, Stack

SMOOTHING_PX = 2.0
BLACK_PERCENTILE, WHITE_PERCENTILE = 10.0, 99.5
SPAN_PER_NOISE = 6.0
SAMPLE_PLANES = 16
SAMPLE_PX = 2048


@dataclass(frozen=True)
class Levels:
    """The counts that become 0 and 1, and the noise that was found.

    Attributes
    ----------
    black, white : float
        Counts; white > black.
    noise : float
        Standard deviation of the pixel noise in the darker half of the field, in counts.
    """

    black: float
    white: float
    noise: float = 0.0

    @property
    def span(self) -> float:
        """Counts per unit."""
        return self.white - self.black

    def to_unit(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Map counts (any shape, any dtype) to float32 where black is 0 and white is 1. Pixels that are not finite become 0."""
        unit = ((counts.astype(np.float64) - self.black) / self.span).astype(np.float32)
        if counts.dtype.kind == "f":
            unit[~np.isfinite(counts)] = 0.0
        return unit


def pixel_noise(plane: npt.NDArray[Any]) -> float:
    """Estimate the standard deviation of white pixel noise, in counts, in the darker half of a plane.

    Parameters
    ----------
    plane : ndarray (Y, X)
        Counts; finite.

    Notes
    -----
    Second differences in rows and columns cancel structure that is locally flat or a ramp; their median absolute value
    over the darker half measures the noise of the background. Noise that the camera or a filter has correlated between
    neighbours is underestimated.

    References
    ----------
    J. Immerkaer, Fast noise variance estimation, CVIU 64 (1996), 10.1006/cviu.1996.0060.
    """
    if min(plane.shape) < 3:
        return 0.0
    counts = plane.astype(np.float64)
    ridge = counts[:, :-2] - 2 * counts[:, 1:-1] + counts[:, 2:]
    response = (ridge[:-2] - 2 * ridge[1:-1] + ridge[2:]) / 6.0  # (Y - 2, X - 2)
    smooth = ndimage.uniform_filter(counts, 5)[1:-1, 1:-1]
    dark = smooth <= np.median(smooth)
    return float(np.median(np.abs(response[dark])) / 0.6745)


def measure_levels(planes: Iterable[npt.NDArray[Any]]) -> Levels:
    """Measure robust levels over planes that share one scale.

    Parameters
    ----------
    planes : iterable of ndarray (Y, X)
        Counts of any dtype. Pixels that are not finite are ignored.

    Returns
    -------
    Levels
        Black is the 10th and white the 99.5th percentile of the planes smoothed by a Gaussian of 2 px; the span is at
        least six times the pixel noise and at least one count of an integer type.
    """
    smoothed, noises = [], []
    smallest_span = 0.0
    for plane in planes:
        if plane.dtype.kind != "f":
            smallest_span = 1.0
        finite = np.isfinite(plane)
        if not finite.any():
            continue
        counts = plane.astype(np.float64)
        if not finite.all():
            counts[~finite] = np.median(counts[finite])
        smoothed.append(ndimage.gaussian_filter(counts, SMOOTHING_PX, mode="reflect")[finite])
        noises.append(pixel_noise(counts))
    if not smoothed:
        return Levels(0.0, 1.0)
    values = np.concatenate(smoothed)
    black, white = (float(level) for level in np.percentile(values, [BLACK_PERCENTILE, WHITE_PERCENTILE]))
    noise = float(np.median(noises))
    floor = max(SPAN_PER_NOISE * noise, smallest_span, 1e-6 * max(abs(black), abs(white)), np.finfo(np.float32).tiny)
    return Levels(black, max(white, black + floor), noise)


def sample_windows(stack: Stack, channel: int) -> Iterable[npt.NDArray[Any]]:
    """Read a bounded sample of one channel: at most 16 planes spread over the stack, at most 2048 x 2048 px of each."""
    planes = [index for index in stack.plane_indices() if stack.channel_of(index) == channel]
    chosen = spread(planes, SAMPLE_PLANES)
    rows, columns = (_central(size) for size in stack.plane_shape)
    for index in chosen:
        yield stack.read(index, rows, columns)


def spread(positions: list[PlaneIndex], count: int) -> list[PlaneIndex]:
    """Return at most `count` of the positions, evenly spread, the middle of each share."""
    if len(positions) <= count:
        return positions
    return [positions[(2 * part + 1) * len(positions) // (2 * count)] for part in range(count)]


def _central(size: int) -> slice:
    start = max((size - SAMPLE_PX) // 2, 0)
    return slice(start, min(start + SAMPLE_PX, size))


def stack_levels(stack: Stack, channels: Iterable[int]) -> dict[int, Levels]:
    """Measure the levels of each of the channels over a bounded sample of the stack.

    Raises
    ------
    InputError
        A channel does not exist.
    """
    found = {}
    for channel in channels:
        if not 0 <= channel < stack.channel_count:
            raise InputError(f"{stack.name}: channel {channel} does not exist, the stack has {stack.channel_count}")
        found[channel] = measure_levels(sample_windows(stack, channel))
    return found

"""Counts to unit range and back, by robust levels measured per channel of a stack.

The levels are percentiles of the *smoothed* image, so that sensor noise and hot pixels do not set them, and their span
is floored by the measured noise, so that a field without cells is not stretched into a field of noise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isqrt, pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.errors import InputError
from cellxlate.stacks.ahead import ahead
from cellxlate.stacks.camera import measure_noise, tiles_of
from cellxlate.stacks.stack import Stack

SMOOTHING_PX = 2.0
BLACK_PERCENTILE, WHITE_PERCENTILE = 10.0, 99.5
SPAN_PER_NOISE = 6.0
SAMPLE_PX = 2**22
SAMPLE_WINDOWS = 32
THINNED_PX = 2**16
FEWEST_NOISE_PX, TILES_PER_PLANE = 2**15, 12
WHITE_NOISE_LEFT = 1 / (2 * sqrt(pi) * SMOOTHING_PX)
"""What a Gaussian of 2 px leaves of white noise."""
PLASTIC = 1.32471795724474602596
"""Its powers spread points evenly over a square (the additive recurrence R2 of M. Roberts, 2018)."""


@dataclass(frozen=True)
class Levels:
    """The counts that become 0 and 1, and the noise that was found.

    Attributes
    ----------
    black, white : float
        Counts; white > black.
    noise : float
        Standard deviation of the noise at the background, in counts (`camera.measure_noise`; where that finds no flat
        place, or the field is small, `pixel_noise`).
    noise_left : float
        Standard deviation that a Gaussian of 2 px leaves of the noise, in counts; 0 where only `noise` is known.
    """

    black: float
    white: float
    noise: float = 0.0
    noise_left: float = 0.0

    @property
    def span(self) -> float:
        """Counts per unit."""
        return self.white - self.black

    @property
    def smooth_noise(self) -> float:
        """Standard deviation that a Gaussian of 2 px leaves of the noise; where that is not known, of white noise."""
        return self.noise_left or self.noise * WHITE_NOISE_LEFT

    def to_unit(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Map counts (any shape, any dtype) to float32: black to 0, white to 1, pixels that are not finite to 0."""
        with np.errstate(over="ignore", invalid="ignore"):
            unit = ((counts.astype(np.float64) - self.black) / self.span).astype(np.float32)
        if counts.dtype.kind == "f":
            unit[~np.isfinite(unit)] = 0.0
        return unit


def smoothed(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a plane (Y, X) smoothed by a Gaussian of 2 px."""
    smooth: npt.NDArray[np.float64] = ndimage.gaussian_filter(counts, SMOOTHING_PX, mode="reflect")
    return smooth


def thinned(smooth: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return every second row and column of a smoothed plane (Y, X) of 65,536 px or more: the rest tells no more."""
    return smooth[::2, ::2] if smooth.size >= THINNED_PX else smooth


def pixel_noise(plane: npt.NDArray[Any], smooth: npt.NDArray[np.float64] | None = None) -> float:
    """Estimate the standard deviation of white pixel noise, in counts, in the darker half of a plane.

    Parameters
    ----------
    plane : ndarray (Y, X)
        Counts. Pixels that are not finite, and those that touch one, are left out.
    smooth : ndarray (Y, X), optional
        The plane after a Gaussian of 2 px, where it is known already.

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
    finite = np.isfinite(plane)
    counts = _filled(plane, finite)
    ridge = counts[:, :-2] - 2 * counts[:, 1:-1] + counts[:, 2:]
    response = (ridge[:-2] - 2 * ridge[1:-1] + ridge[2:]) / 6.0  # (Y - 2, X - 2)
    inner = (smoothed(counts) if smooth is None else smooth)[1:-1, 1:-1]
    if finite.all():
        dark = inner <= np.median(thinned(inner))
    else:
        valid = ndimage.minimum_filter(finite, 3)[1:-1, 1:-1]
        dark = valid & (inner <= np.median(inner[valid] if valid.any() else inner))
    return float(np.median(np.abs(response[dark])) / 0.6745) if dark.any() else 0.0


def _filled(plane: npt.NDArray[Any], finite: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the counts as float64, with the median in place of those that are not finite."""
    counts = plane.astype(np.float64)
    if not finite.all():
        counts[~finite] = np.median(counts[finite]) if finite.any() else 0.0
    return counts


def measure_levels(planes: Iterable[npt.NDArray[Any]]) -> Levels:
    """Measure robust levels over planes that share one scale.

    Parameters
    ----------
    planes : iterable of ndarray (Y, X)
        Counts of any dtype. Pixels that are not finite are ignored, and so are planes of one value, unless all are.

    Returns
    -------
    Levels
        Black is the 10th and white the 99.5th percentile of the planes smoothed by a Gaussian of 2 px; the span is at
        least six times the pixel noise and at least one count of an integer type.

    Notes
    -----
    A hot pixel, which exceeds all eight neighbours by more than the span of its plane, counts as the brightest of
    them: smoothing alone would spread it over some 25 px, so that one hot pixel in 10,000 could set the white level.
    """
    levels: list[npt.NDArray[np.float64]] = []
    noises: list[float] = []
    tiles: list[npt.NDArray[Any]] = []
    constant: float | None = None
    smallest_span = 0.0
    for found in ahead(_measured, planes, threads=2):
        smallest_span = max(smallest_span, found.smallest_span)
        if found.constant is not None:
            constant = found.constant if constant is None else constant
        elif found.levels is not None:
            noises.append(found.noise)
            levels.append(found.levels)
            tiles += found.tiles
    if not levels:
        black = constant or 0.0
        return Levels(black, black + _smallest_span(black, black, 1.0))
    black, white = _percentiles(np.concatenate(levels))
    noise, left = _noise(tiles, float(np.median(noises)))
    floor = max(SPAN_PER_NOISE * noise, _smallest_span(black, white, smallest_span))
    return Levels(black, max(white, black + floor), noise, left)


@dataclass(frozen=True)
class _Measured:
    """What one plane tells: finite pixels of it smoothed, and its noise; or its only value, or nothing."""

    smallest_span: float
    constant: float | None = None
    levels: npt.NDArray[np.float64] | None = None
    noise: float = 0.0
    tiles: Sequence[npt.NDArray[Any]] = ()


def _noise(tiles: Sequence[npt.NDArray[Any]], pixel: float) -> tuple[float, float]:
    """Return the noise at the background, and what a Gaussian of 2 px leaves of it, in counts.

    A few tiles hold too few flat places; then, and where none is flat, the pixel noise counts, but for the least that
    the camera's noise can be.
    """
    if sum(tile.size for tile in tiles) < FEWEST_NOISE_PX:
        return pixel, 0.0
    camera = measure_noise(tiles)
    if camera.reliable:
        return camera.sd_counts, camera.after_smoothing(SMOOTHING_PX)
    noise = max(pixel, camera.sd_interval[0])
    return noise, noise * min(camera.left_by_smoothing(SMOOTHING_PX), camera.sd_counts / max(noise, 1e-300))


def _measured(plane: npt.NDArray[Any]) -> _Measured:
    smallest_span, finite = 0.0 if plane.dtype.kind == "f" else 1.0, np.isfinite(plane)
    if not finite.any():
        return _Measured(smallest_span)
    counts = _filled(plane, finite)
    if counts.min() == counts.max():
        return _Measured(smallest_span, constant=float(counts.flat[0]))
    smooth = smoothed(counts)
    noise = pixel_noise(plane, smooth)
    smooth = _without_hot(counts, smooth, noise)
    return _Measured(smallest_span, levels=thinned(smooth).ravel() if finite.all() else smooth[finite], noise=noise,
                     tiles=tiles_of(plane, TILES_PER_PLANE))  # fmt: skip


def _smallest_span(black: float, white: float, least: float) -> float:
    """Return the span below which float32 would lose the counts between the levels."""
    return max(least, 1e-6 * max(abs(black), abs(white)), float(np.finfo(np.float32).tiny))


def _percentiles(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    black, white = np.percentile(values, [BLACK_PERCENTILE, WHITE_PERCENTILE])
    return float(black), float(white)


def _without_hot(
    counts: npt.NDArray[np.float64], smooth: npt.NDArray[np.float64], noise: float
) -> npt.NDArray[np.float64]:
    """Return a plane (Y, X) smoothed as it is, or, where it has hot pixels, smoothed again without them."""
    black, white = _percentiles(thinned(smooth))
    excess = max(white - black, SPAN_PER_NOISE * noise)
    if excess <= 0 or counts.max() <= white + excess:
        return smooth
    rows, columns = np.nonzero(counts > white + excess)
    padded = np.pad(counts, 1, constant_values=-np.inf)
    shifts = [(row, column) for row in (0, 1, 2) for column in (0, 1, 2) if (row, column) != (1, 1)]
    neighbours = np.max([padded[rows + row, columns + column] for row, column in shifts], axis=0)
    hot = (counts[rows, columns] > neighbours + excess) & np.isfinite(neighbours)
    if not hot.any():
        return smooth
    cooled = counts.copy()
    cooled[rows[hot], columns[hot]] = neighbours[hot]
    return smoothed(cooled)


def sample_windows(stack: Stack, channel: int) -> Iterable[npt.NDArray[Any]]:
    """Read a bounded sample of one channel.

    Yields
    ------
    ndarray (Y, X)
        All planes whole, if they hold at most 4 megapixels together; otherwise 32 windows that hold as many, spread
        over the planes and over their rows and columns.
    """
    count = stack.plane_count // stack.channel_count
    height, width = stack.plane_shape
    if count * height * width <= SAMPLE_PX:
        yield from (stack.read(stack.plane_of(number, channel)) for number in range(count))
        return
    area = SAMPLE_PX // SAMPLE_WINDOWS
    rows = min(height, max(isqrt(area), area // width))
    columns = min(width, area // rows)
    for number in range(SAMPLE_WINDOWS):
        index = stack.plane_of((2 * number + 1) * count // (2 * SAMPLE_WINDOWS), channel)
        top = int((height - rows + 1) * ((0.5 + number * PLASTIC**-1) % 1.0))
        left = int((width - columns + 1) * ((0.5 + number * PLASTIC**-2) % 1.0))
        yield stack.read(index, slice(top, top + rows), slice(left, left + columns))


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

"""The intensity range of a stack, from a bounded sample of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError
from cellxlate.prefetch import ahead
from cellxlate.stacks.intensity.drift import background_over_time
from cellxlate.stacks.intensity.range import IntensityRange, MeasuredPlane, combined_range, measured_plane
from cellxlate.stacks.stack import PlaneIndex, Stack

SAMPLE_PX = 2**22
SAMPLE_WINDOWS = 32

UNEVEN_SPANS, UNEVEN_PARTS, FEWEST_PARTS, UNEVEN_FROM_PX = 0.25, 4, 6, 256
"""Backgrounds of a field, in 4 x 4 parts, that differ by more than this share of the span are named."""
DRIFT_SPANS = 0.1
"""A background that moves over time by more than this share of the span is followed."""
PLASTIC = 1.32471795724474602596
"""Its powers spread points evenly over a square (the additive recurrence R2 of M. Roberts, 2018)."""


def sample_windows(stack: Stack, channel: int) -> Iterable[npt.NDArray[Any]]:
    """Read a bounded sample of one channel, as `sample_places` chooses it: counts (Y, X)."""
    for index, rows, columns in sample_places(stack, channel):
        yield stack.read(index, rows, columns)


def sample_places(stack: Stack, channel: int, most_px: int | None = None) -> Iterator[tuple[PlaneIndex, slice, slice]]:
    """Choose a bounded sample of one channel.

    Yields
    ------
    (index, rows, columns)
        All planes whole, if they hold at most `most_px` together, 4 megapixels by default; otherwise 32 windows that
        hold as many, spread over the planes and over their rows and columns.
    """
    count, most_px = stack.planes_per_channel, most_px or SAMPLE_PX
    height, width = stack.plane_shape
    if count * height * width <= most_px:
        for number in range(count):
            yield stack.plane_of(number, channel), slice(0, height), slice(0, width)
        return
    area = most_px // SAMPLE_WINDOWS
    rows = min(height, max(isqrt(area), area // width))
    columns = min(width, area // rows)
    for number in range(SAMPLE_WINDOWS):
        index = stack.plane_of((2 * number + 1) * count // (2 * SAMPLE_WINDOWS), channel)
        top = int((height - rows + 1) * ((0.5 + number * PLASTIC**-1) % 1.0))
        left = int((width - columns + 1) * ((0.5 + number * PLASTIC**-2) % 1.0))
        yield index, slice(top, top + rows), slice(left, left + columns)


def stack_ranges(stack: Stack, channels: Iterable[int]) -> dict[int, IntensityRange]:
    """Measure the intensity range of each of the channels over a bounded sample of the stack.

    Raises
    ------
    InputError
        A channel does not exist.
    """
    ranges = {}
    for channel in channels:
        if not 0 <= channel < stack.channel_count:
            raise InputError(f"{stack.name}: channel {channel} does not exist, the stack has {stack.channel_count}")
        ranges[channel] = _range_of(stack, channel)
    return ranges


def _range_of(stack: Stack, channel: int) -> IntensityRange:
    """Measure the range of a channel; where its background drifts over time, of what is left without the drift."""
    windows = list(sample_places(stack, channel))
    parts = None
    if min(stack.plane_shape) >= UNEVEN_FROM_PX:
        height, width = stack.plane_shape
        _, rows, columns = windows[0]  # all windows are of one size
        parts = (
            max(round(UNEVEN_PARTS * (rows.stop - rows.start) / height), 1),
            max(round(UNEVEN_PARTS * (columns.stop - columns.start) / width), 1),
        )
    planes = list(ahead(partial(measured_plane, parts=parts), (stack.read(*window) for window in windows), threads=2))
    measured, offsets = combined_range(planes), [0.0] * len(planes)
    times, background = background_over_time(stack, channel)
    if len(times) > 1 and np.ptp(background) > DRIFT_SPANS * measured.span:
        background = background - background.mean()
        offsets = np.interp([stack.time_of(index) for index, _, _ in windows], times, background).tolist()
        measured = replace(
            combined_range(planes, offsets), drift=tuple(zip(times.tolist(), background.tolist(), strict=True))
        )
    return replace(measured, uneven=_unevenness(stack, windows, planes, offsets, measured.span))


def _unevenness(
    stack: Stack, places: Sequence[tuple[PlaneIndex, slice, slice]], planes: Sequence[MeasuredPlane],
    offsets: Sequence[float], span: float,
) -> tuple[float, float] | None:  # fmt: skip
    """Return the background in the darkest and in the brightest tenth of the field where they differ much."""
    backgrounds: dict[tuple[int, int], list[float]] = {}
    for (_, rows, columns), plane, offset in zip(places, planes, offsets, strict=True):
        for at, value in np.ndenumerate(plane.backgrounds):
            row, column = (
                int((along.start + (number + 0.5) / count * (along.stop - along.start)) / size * UNEVEN_PARTS)
                for along, number, count, size in zip(
                    (rows, columns), at, plane.backgrounds.shape, stack.plane_shape, strict=True
                )
            )
            if np.isfinite(value):
                backgrounds.setdefault((row, column), []).append(value - offset)
    if len(backgrounds) < FEWEST_PARTS:
        return None
    low, high = np.percentile([np.median(values) for values in backgrounds.values()], [10, 90])
    return (float(low), float(high)) if high - low > UNEVEN_SPANS * span else None

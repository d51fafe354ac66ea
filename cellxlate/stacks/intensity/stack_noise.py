"""The camera noise of a stack: from flat places of its planes, or from frame differences where time shows more."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError
from cellxlate.stacks.intensity.camera_noise import measure_noise
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.stacks.intensity.stack_range import sample_windows
from cellxlate.stacks.stack import Stack

MOST_PAIRS, PAIR_SIDE_PX = 6, 512

__all__ = ["CameraNoise", "measure_noise", "stack_noise"]


def stack_noise(stack: Stack, channel: int, *, along: str = "T") -> CameraNoise:
    """Measure the noise of one channel, counted from 0, over a bounded sample of a stack of any axes.

    Parameters
    ----------
    along : {"T", "Z"}
        The axis whose planes are compared with the next.

    Raises
    ------
    InputError
        The channel does not exist.

    Notes
    -----
    Where there are time points, differences of at most 6 pairs of successive frames are looked at as well, and are
    believed where they show more flat places than the frames themselves. Frames that follow each other may differ in
    brightness (bleaching); the gain between them is fitted first. Where cells move, their differences are structure,
    and are told from noise as in single planes.
    """
    if not 0 <= channel < stack.channel_count:
        raise InputError(f"{stack.name}: channel {channel} does not exist, the stack has {stack.channel_count}")
    single = measure_noise(sample_windows(stack, channel))
    pairs = _pairs(stack, channel, along)
    if not pairs:
        return single
    differences, means = zip(*(_difference(*pair) for pair in pairs), strict=True)
    paired = measure_noise(differences, brightness=means)
    if not paired.reliable or (single.reliable and paired.flat_share <= single.flat_share):
        return single
    return replace(paired, quantisation_counts=single.quantisation_counts, saturation_counts=single.saturation_counts)


def _pairs(stack: Stack, channel: int, along: str) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Read the middle of successive planes along an axis, in the middle of others; none where there is one plane."""
    count = stack.size(along)
    if count < 2:
        return []
    starts = (max((size - PAIR_SIDE_PX) // 2, 0) for size in stack.plane_shape)
    rows, columns = (slice(start, start + PAIR_SIDE_PX) for start in starts)
    first, axis = stack.plane_of(0, channel), stack.plane_axes.index(along)
    middle = [
        stack.size(name) // 2 if name in "TZ" else position
        for name, position in zip(stack.plane_axes, first, strict=True)
    ]

    def read(at: int) -> npt.NDArray[Any]:
        return stack.read((*middle[:axis], at, *middle[axis + 1 :]), rows, columns)

    most = min(count - 1, MOST_PAIRS)
    firsts = [(2 * number + 1) * (count - 1) // (2 * most) for number in range(most)]
    return [(read(first), read(first + 1)) for first in firsts]


def _difference(
    first: npt.NDArray[Any], second: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the difference of two frames, scaled to the noise of one, and their mean brightness; (Y, X) each."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    one, other = np.where(finite, one, 0.0), np.where(finite, other, 0.0)
    spreads = [float(np.subtract(*np.percentile(_coarse(frame), [95, 5]))) for frame in (one, other)]
    gain = spreads[0] / spreads[1] if min(spreads) > 0 else 1.0
    gain = min(max(gain, 0.5), 2.0)
    offset = float(np.median(one) - gain * np.median(other))
    fitted = gain * other + offset
    return (one - fitted) / np.sqrt(1 + gain**2), (one + fitted) / 2


def _coarse(frame: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the means of blocks of 8 x 8 px, of smaller ones where a frame is."""
    height, width = (min(8, size) for size in frame.shape)
    rows, columns = frame.shape[0] // height, frame.shape[1] // width
    blocks = frame[: rows * height, : columns * width].reshape(rows, height, columns, width)
    return np.asarray(blocks.mean((1, 3)))

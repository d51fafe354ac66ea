"""Colour as one luminance: the plain mean of red, green and blue, and a change of it that keeps the hue of each pixel.

What a sample exceeds its black by is its light. Hue and saturation are the ratios of the three lights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.settings import Color
from cellxlate.stacks.stack import Pixels, PlaneIndex, Stack

RGB = (0, 1, 2)
KNOWN_NOISES = 1.0
"""Below so many standard deviations of the luminance's noise above black, the colour of a pixel is not known."""
LEAST_SHARE = 1e-3
"""Of the luminance's span: where nothing is known of the noise, colour is known from here on."""


def is_color(stack: Stack) -> bool:
    """Return whether the samples of a stack are red, green and blue, with or without opacity beside them."""
    samples = range(stack.size("S")) if "S" in stack.axes else ()
    opaque = stack.alpha_samples if "S" in stack.axes else ()
    return tuple(sample for sample in samples if sample not in opaque) == RGB


def of_colors(stack: Stack, index: PlaneIndex) -> tuple[PlaneIndex, ...]:
    """Return the planes of red, green and blue at the position of one of them."""
    axis = stack.plane_axes.index("S")
    return tuple((*index[:axis], sample, *index[axis + 1 :]) for sample in RGB)


def luminance_of(samples: npt.NDArray[Any], axis: int = 0) -> npt.NDArray[np.floating[Any]]:
    """Return the mean of three samples along an axis, in counts, float32 where that holds the counts exactly.

    Notes
    -----
    The plain mean, not Rec. 601: samples of a microscope are dyes, or light that a camera has counted. The weights of
    the eye would leave 11 % of a nucleus in blue, and have networks see little but the noise of green.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # of samples that are not finite, nor is their mean
        return np.asarray(samples.mean(axis=axis, dtype=np.result_type(samples.dtype, np.float32)))


def light_of(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what networks see of rows of a plane (rows, X): themselves, or of (3, rows, X) in colour the luminance."""
    return luminance_of(counts) if counts.ndim == 3 else counts


@dataclass(frozen=True)
class LuminancePixels:
    """The luminance of colour pixels, computed for what is read; nothing is kept. Its axis of samples is 1 long."""

    pixels: Pixels
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels, but for the samples."""
        return (*self.pixels.shape[: self.axis], 1, *self.pixels.shape[self.axis + 1 :])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of a mean of samples."""
        return np.result_type(np.dtype(self.pixels.dtype.name), np.float32)

    def __getitem__(self, key: tuple[int | slice, ...]) -> npt.NDArray[np.floating[Any]]:
        where = (*key[: self.axis], slice(RGB[0], RGB[-1] + 1), *key[self.axis + 1 :])
        axis = sum(isinstance(one, slice) for one in key[: self.axis])
        samples = np.asarray(self.pixels[where])
        light = luminance_of(samples.astype(samples.dtype.newbyteorder("="), copy=False), axis)
        return np.expand_dims(light, axis) if isinstance(key[self.axis], slice) else light


def luminance_stack(stack: Stack) -> Stack:
    """Return the luminance of a colour stack as a stack of one sample, computed as it is read.

    Planes are asked for as they are of the colour stack, whichever sample is named.
    """
    pixels = LuminancePixels(stack.pixels, stack.axes.index("S"))
    names = stack.channel_names if "C" in stack.axes else ()
    return replace(stack, pixels=pixels, channel_names=names, alpha=())


def is_in_color(stack: Stack, channels: Sequence[int], color: Color = "luminance") -> bool:
    """Return whether red, green and blue of a stack are enhanced together: all of them are chosen, and it is wanted."""
    return color == "luminance" and is_color(stack) and ("C" in stack.axes or tuple(channels) == stack.light_channels)


def what_is_seen(stack: Stack, channels: Sequence[int], color: Color = "luminance") -> tuple[Stack, tuple[int, ...]]:
    """Return the stack whose channels networks see, the luminance of one in colour, and the numbers of them."""
    if not is_in_color(stack, channels, color):
        return stack, tuple(channels)
    return luminance_stack(stack), tuple(channels) if "C" in stack.axes else (0,)


def known_from(noise: float, span: float) -> float:
    """Return the luminance above black from which on the colour of a pixel is known; all three are counts."""
    return max(KNOWN_NOISES * noise, LEAST_SHARE * span)


def change_in_color(
    change: npt.NDArray[np.float64], samples: npt.NDArray[Any], blacks: Sequence[float], known: float
) -> npt.NDArray[np.float64]:
    """Return what to add to red, green and blue so that their mean changes as it shall and their ratio stays.

    Parameters
    ----------
    change : ndarray (1, Y, X)
        Of the luminance, in counts.
    samples : ndarray (3, Y, X)
        As stored.
    blacks : sequence of float
        Counts of no light, of each sample.
    known : float
        Luminance above black from which on the colour of a pixel is known, in counts, above 0. What brightens a darker
        pixel becomes grey by so much as it falls short, since a factor would make colours of noise.

    Returns
    -------
    ndarray (3, Y, X)
        In counts: each light times one factor, at least 0. A sample at its black or below has no light, and stays
        where the colour is known. Where a sample would leave the range of the dtype, the changes of all three are
        reduced by one factor.
    """
    counts = samples.astype(np.float64)
    light = np.maximum(counts - np.reshape(blacks, (-1, 1, 1)), 0)
    total = light.mean(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        darker = light * np.maximum(np.where(total > 0, change / total, 0), -1)
        brighter = change * (light / np.maximum(total, known) + np.maximum(1 - total / known, 0))
        changes = np.where(change < 0, darker, brighter)
        limits: Any = np.finfo(samples.dtype) if samples.dtype.kind == "f" else np.iinfo(samples.dtype)
        room = np.where(changes < 0, counts - float(limits.min), float(limits.max) - counts)
        within = np.where(changes == 0, 1, room / np.abs(changes)).min(axis=0, keepdims=True)
    return np.asarray(changes * np.clip(within, 0, 1))

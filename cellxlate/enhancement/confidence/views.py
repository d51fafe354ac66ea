"""How sure is the model of each pixel? Its outputs for views of the same pixels that a sure model would treat alike.

Arrays and functions only: a translator turns unit-range batches into a gated output, whoever runs the networks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Unit = npt.NDArray[np.float32]
Noise = float | npt.NDArray[np.float64]
Output = Callable[[Unit], Unit]
"""(B, C, Y, X) float32 unit range -> the gated output s + g (F(s) - s), (B, G, Y, X)."""

LEVEL_SHIFTS = ((0.0, 1.0), (0.02, 1.0), (-0.02, 1.0), (0.0, 1.06), (0.0, 0.94))
"""Offset and gain of the views: levels that are measured a little differently."""
NOISE_SHARE = 0.7
VIEWS = 8
SMOOTHING_PX = 2.0
FULL_DEVIATION = 0.25
"""In unit range; a spread of this much and more is no confidence at all."""


@dataclass(frozen=True)
class View:
    """A view of a plane: flipped or turned, its levels shifted a little, its noise drawn again in part.

    Attributes
    ----------
    turns : int
        Quarter turns.
    flip : bool
        Whether it is mirrored left to right before it is turned.
    offset, gain : float
        Of the levels, in unit range.
    seed : int
        Of the noise.
    """

    turns: int
    flip: bool
    offset: float
    gain: float
    seed: int

    def of(self, unit: Unit, noise: Noise) -> Unit:
        """Return the view of planes (..., Y, X) with pixel noise of this standard deviation, in unit range."""
        noisy = unit
        if np.any(np.greater(noise, 0)):
            draw = np.random.default_rng(self.seed)
            noisy = unit + (NOISE_SHARE * noise * draw.standard_normal(unit.shape)).astype(np.float32)
        levelled = (self.gain * noisy + self.offset).astype(np.float32)
        return np.ascontiguousarray(np.rot90(levelled[..., ::-1] if self.flip else levelled, self.turns, (-2, -1)))

    def back(self, output: Unit) -> Unit:
        """Return what was made of the view, (..., Y, X), where it was and on the levels of the plane."""
        turned = np.rot90(output, -self.turns, (-2, -1))
        return np.asarray(((turned[..., ::-1] if self.flip else turned) - self.offset) / self.gain, np.float32)


def views_of(count: int = VIEWS, seed: int = 0) -> Iterator[View]:
    """Yield views: every flip and turn once in eight, levels in turn, each with noise of its own."""
    for number in range(count):
        offset, gain = LEVEL_SHIFTS[number % len(LEVEL_SHIFTS)]
        yield View(number % 4, number % 8 >= 4, offset, gain, seed + number)


def as_it_is(made: Unit) -> Unit:
    """Return what is gated already."""
    return made


def deviation(
    unit: Unit, output: Output, *, noise: Noise, views: int = VIEWS, seed: int = 0,
    gated: Callable[[Unit], Unit] = as_it_is,
) -> Unit:  # fmt: skip
    """Return the standard deviation of the outputs of several views, smoothed by 2 px.

    Parameters
    ----------
    unit : ndarray (C, Y, X) float32
        What the networks see of a plane, or of a window with their halo, in unit range.
    output : callable
        What the networks make of a batch, composed with the gate.
    noise : float or ndarray (C, 1, 1)
        Standard deviation of the pixel noise in unit range.
    views : int
        How many; the cost of each is that of the networks.
    seed : int
        Of the noise.
    gated : callable
        Makes the output of what lies where it was again: for a gate that does not depend on the view.

    Returns
    -------
    ndarray (G, Y, X) float32
        In unit range.
    """
    made = [gated(one.back(output(one.of(unit, noise)[None])[0])) for one in views_of(views, seed)]
    spread = np.std(np.stack(made), axis=0)  # (G, Y, X)
    smooth = ndimage.gaussian_filter(spread**2, SMOOTHING_PX, mode="reflect", axes=(-2, -1))
    return np.asarray(np.sqrt(smooth), np.float32)


def confidence_map(deviations: Unit, selected: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return confidence as it is stored: 0 where the pixel was kept, 255 sure, 1 not sure at all.

    Parameters
    ----------
    deviations : ndarray (G, Y, X)
        As `deviation` returns them.
    selected : ndarray of bool (G, Y, X)
        Where the attention that is stored is above 0.
    """
    sure = 1 - np.clip(deviations / FULL_DEVIATION, 0, 1)
    return np.where(selected, 1 + np.rint(254 * sure), 0).astype(np.uint8)

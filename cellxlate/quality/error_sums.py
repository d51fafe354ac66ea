"""What is measured to judge without truth: sums over the pixels of a plane, and the squared errors that they give.

Each candidate is asked for the plane plus and minus a little more noise. `risk.py` makes a ranking of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.errors import OptionError
from cellxlate.stacks.intensity.noise_model import CameraNoise

Plane = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Candidate = Callable[[Plane], npt.NDArray[Any]]
"""Turns a plane (Y, X) of counts into another of the same shape, also in counts."""

FITTED = ("gaussian 0.7", "gaussian 1", "gaussian 1.5")
BLOCK_PX, LEVEL_PX = 32, 2.0
FINE_PX, SIGNAL_BINS, FEWEST_BIN_PX, SCATTER_OF_VARIANCE = 1.0, 8, 100, 8.0


def smoothed(counts: npt.NDArray[Any]) -> Floats:
    """Return a plane without what is not finite, smoothed: where it is how bright."""
    finite = np.isfinite(counts)
    known = np.where(finite, counts, np.median(counts[finite]) if finite.any() else 0.0)
    return np.asarray(ndimage.gaussian_filter(known.astype(np.float64), LEVEL_PX, mode="reflect"))


@dataclass(frozen=True)
class ErrorSums:
    """Sums over the judged pixels of each block, of some by how bright it is there. Counts less a constant.

    `square` is of f², `first` of f, `product` of f y, `follows` of z (f+ - f-) / 2 a, `spread` of (f+ - f-)² / 4 a².
    Of fine detail, over all pixels: `left` of (y - f)², `expected` of the same if nothing but noise were left.
    """

    names: tuple[str, ...]
    saturated: float
    """Share of the judged pixels that could hold no more."""
    pixels: Floats  # (blocks,)
    plane: Floats
    plane_square: Floats
    square: Floats  # (candidates, blocks)
    first: Floats
    product: Floats
    signal: Floats  # (blocks, bins): counts above black
    variance: Floats  # (blocks, bins): as it was measured
    follows: Floats  # (candidates, blocks, bins)
    spread: Floats
    around: Floats  # (4, bins): pixels, at_black, signal, variance of all pixels
    left: Floats  # (candidates, bins)
    expected: Floats

    @classmethod
    def together(cls, parts: Sequence["ErrorSums"]) -> "ErrorSums":
        """Return the sums of several planes: the blocks of all, what is summed by brightness added up."""

        def joined(axis: int, *names: str) -> list[Floats]:
            return [np.concatenate([getattr(part, name) for part in parts], axis=axis) for name in names]

        return cls(
            parts[0].names, max(part.saturated for part in parts), *joined(0, "pixels", "plane", "plane_square"),
            *joined(1, "square", "first", "product"), *joined(0, "signal", "variance"),
            *joined(1, "follows", "spread"),
            *(np.sum([getattr(part, name) for part in parts], axis=0) for name in ("around", "left", "expected")),
        )  # fmt: skip


def error_sums(
    counts: npt.NDArray[Any],
    noise: CameraNoise,
    candidates: Mapping[str, Candidate],
    inside: npt.NDArray[np.bool_],
    *,
    brightest: float,
    rng: np.random.Generator,
    strength: float,
) -> ErrorSums:
    """Ask candidates for one plane with more and with less noise, and add up what they answer.

    Parameters
    ----------
    counts : ndarray (Y, X)
        The plane.
    noise : CameraNoise
        Of the plane.
    candidates : mapping of str to callable
        By name.
    inside : ndarray of bool (Y, X)
        Where the error counts.
    brightest : float
        Counts above black of the brightest place of all planes; bins of brightness end there.
    rng, strength
        Of the noise that is drawn, as of `estimate_risks`.

    Raises
    ------
    OptionError
        A candidate changes the plane's shape.
    """
    finite = np.isfinite(counts)
    full = np.zeros(counts.shape, bool) if noise.saturation_counts is None else counts >= noise.saturation_counts
    judged = finite & inside
    saturated = float(full[judged].mean()) if judged.any() else 0.0
    offset = float(np.median(counts[finite])) if finite.any() else 0.0
    plane = np.where(finite, counts, offset).astype(np.float32)
    own = plane - np.float64(offset)
    above = np.maximum(smoothed(counts) - noise.black_counts, 0.0)
    at_black = np.full(plane.shape, noise.sd_counts**2)
    variance = at_black + noise.gain * above
    bins = np.minimum((above / max(brightest, 1e-30) * SIGNAL_BINS).astype(np.int64), SIGNAL_BINS - 1)
    groups, everywhere = _Groups(judged & ~full, bins), _Groups(finite & ~full, bins)
    kernel = noise.kernel()
    rim = kernel.shape[0] // 2
    white = rng.standard_normal([size + 2 * rim for size in plane.shape])
    drawn = np.sqrt(variance) * ndimage.convolve(white, kernel)[rim:-rim, rim:-rim]
    noisier = (plane + strength * drawn).astype(np.float32), (plane - strength * drawn).astype(np.float32)
    square, first, product, follows, spread = of_blocks = np.zeros((5, len(candidates), len(groups), SIGNAL_BINS))
    left, expected = of_all = np.zeros((2, len(candidates), SIGNAL_BINS))
    for row, (name, candidate) in enumerate(candidates.items()):
        up, down = (_asked(candidate, one, name) - offset for one in noisier)
        middle, change = (up + down) / 2, (up - down) / (2 * strength)
        terms = (up**2 + down**2) / 2, middle, middle * own, drawn * change, change**2
        of_blocks[:, row] = [groups.sums(one) for one in terms]
        of_all[:, row] = [everywhere.sums(_fine(one) ** 2).sum(axis=0) for one in (own - middle, drawn - change)]
    ones = np.ones(plane.shape)
    around = np.stack([everywhere.sums(one).sum(axis=0) for one in (ones, at_black, above, variance)])
    of_pixels, of_plane, of_square = (groups.sums(one).sum(axis=1) for one in (ones, own, own**2))
    return ErrorSums(
        tuple(candidates), saturated, of_pixels, of_plane, of_square, square.sum(axis=2), first.sum(axis=2),
        product.sum(axis=2), groups.sums(above), groups.sums(variance), follows, spread, around,
        left, expected,
    )  # fmt: skip


def _fine(plane: Floats) -> Floats:
    """Return what a Gaussian of 1 px removes: nearly all noise, hardly any structure."""
    return np.asarray(plane - ndimage.gaussian_filter(plane, FINE_PX, mode="reflect"))


def _asked(candidate: Candidate, plane: Plane, name: str) -> Floats:
    output = np.asarray(candidate(plane), dtype=np.float64)
    if output.shape != plane.shape:
        raise OptionError(f"candidate {name!r} gave an output of {output.shape} for a plane of {plane.shape} px")
    return output


class _Groups:
    """Pixels of a plane by blocks of 32 px, those without any left out, and by bins of brightness."""

    def __init__(self, chosen: npt.NDArray[np.bool_], bins: npt.NDArray[np.int64]) -> None:
        rows, columns = (np.arange(size) // BLOCK_PX for size in chosen.shape)
        block = (rows[:, None] * (columns[-1] + 1 if len(columns) else 1) + columns)[chosen]
        self._kept, self._block = np.unique(block, return_inverse=True)
        self._number = self._block * SIGNAL_BINS + bins[chosen]
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._kept)

    def sums(self, values: npt.NDArray[Any]) -> Floats:
        """Return the sum over the pixels of each block and bin."""
        sums = np.bincount(self._number, values[self._chosen], len(self) * SIGNAL_BINS)
        return np.asarray(sums, dtype=np.float64).reshape(len(self), SIGNAL_BINS)


def variance_times(sums: ErrorSums, within: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return by what the variance measured is to be multiplied in each bin of brightness, and its standard error.

    What `left` exceeds `expected` by is structure that a filter took away, so of linear filters, for which both are
    exact, the least ratio is nearest to the noise. Through the bins goes a line: a factor of the variance at black,
    `within` what was measured, and a gain, which may have been measured far too small where little is bright.
    """
    pixels, at_black, above, variance = sums.around
    filters = [row for row, name in enumerate(sums.names) if name in FITTED]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (sums.left[filters] / sums.expected[filters]).min(axis=0)
    seen = (pixels >= FEWEST_BIN_PX) & np.isfinite(ratio) & (variance > 0)
    times, error = np.ones(SIGNAL_BINS), np.zeros(SIGNAL_BINS)
    if seen.sum() < 2:
        return times, error
    measured, black, bright = (one[seen] / pixels[seen] for one in (ratio * variance, at_black, above))
    weight = pixels[seen] / measured**2
    level = float(np.clip(_at_zero(bright / black, measured / black, weight * black**2), *within))
    lever = weight * bright**2
    gains = (measured - level * black) / np.maximum(bright, 1e-300)
    gain = max(float((lever * gains).sum() / lever.sum()), 0.0)
    scatter = float(np.sqrt((lever * (gains - gain) ** 2).sum() / lever.sum() / (len(gains) - 1)))
    scatter = max(scatter, float(np.sqrt(SCATTER_OF_VARIANCE / lever.sum())))
    full = variance > 0
    times[full] = ((level * at_black + gain * above) / np.where(full, variance, 1.0))[full]
    error[full] = (scatter * above / np.where(full, variance, 1.0))[full]
    return times, error


def _at_zero(across: Floats, up: Floats, weight: Floats) -> float:
    """Return the value at 0 of the line that fits best."""
    total = weight.sum()
    middle, height = (weight * across).sum() / total, (weight * up).sum() / total
    square = (weight * (across - middle) ** 2).sum()
    slope = float((weight * (across - middle) * (up - height)).sum() / square) if square > 0 else 0.0
    return float(height - slope * middle)


@dataclass(frozen=True)
class SquaredErrors:
    """Estimated squared error: sums (candidates, blocks), means (candidates,), and what of these the noise makes."""

    blocks: Floats
    mse: Floats
    made_by_noise: Floats
    variance: float


def squared_errors(sums: ErrorSums, times: Floats) -> SquaredErrors:
    """Return what is left after the best gain and offset, if the noise has so many times the variance in each bin."""
    pixels = sums.pixels.sum()

    def mean(values: Floats) -> Floats:
        return np.asarray(values.sum(axis=-1) / pixels)

    first, plane = mean(sums.first), mean(sums.plane)
    follows, spread, variance = sums.follows @ times, sums.spread @ times, sums.variance @ times
    own_square = mean(sums.square) - first**2
    shared = mean(sums.product) - mean(follows) - first * plane
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(own_square > 0, np.maximum(shared, 0.0) / own_square, 0.0)[:, None]
    offset = plane - gain * first[:, None]
    blocks = (
        gain**2 * sums.square + 2 * gain * offset * sums.first + offset**2 * sums.pixels
        - 2 * gain * (sums.product - follows) - 2 * offset * sums.plane + sums.plane_square - variance
    )  # fmt: skip
    return SquaredErrors(blocks, mean(blocks), gain[:, 0] ** 2 * mean(spread), float(sums.variance.sum() / pixels))

"""Is what the output shows supported by the input? Phantoms, losses, and attention against the image's own contrast."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.quality.sums import Sums
from cellxlate.stacks.intensity.range import SMOOTHING_PX, WHITE_NOISE_LEFT, pixel_noise, smoothed

BACKGROUND_PX, BACKGROUND_STEP_PX, MARGIN_PX = 32.0, 4, 5
SEEN, CLEARLY_SEEN, UNSUPPORTED_SHARE = 5.0, 10.0, 0.25
NEARLY_NOTHING = 0.1
LEAST_PX, INDEPENDENT_PX = 40, 4 * math.pi * SMOOTHING_PX**2
FEWEST_FOR_GAIN = 100
JUDGED_EVERY_PX = 4
FEWEST_JUDGED = 40


@dataclass
class Support(Sums):
    """What was found in some windows; `include` adds windows up.

    Attributes
    ----------
    windows : int
        Looked at.
    added, lost : int
        Regions that the output shows and the input does not, and the reverse.
    agreement : float
        Sum over windows of the probability that a selected pixel has more contrast in the input than a kept one.
    judged : int
        Windows with enough selected and kept pixels to tell.
    salient, salient_selected : int
        Pixels that stand out clearly in the input (ten times the noise that smoothing leaves), and those of them that
        attention selected.
    """

    windows: int = 0
    added: int = 0
    lost: int = 0
    agreement: float = 0.0
    judged: int = 0
    salient: int = 0
    salient_selected: int = 0

    @property
    def mean_agreement(self) -> float:
        """0.5 for attention that knows nothing of contrast, 1 at best; NaN where no window can tell."""
        return self.agreement / self.judged if self.judged else math.nan

    @property
    def salient_share(self) -> float:
        """Share of the salient pixels that attention selected; NaN without any."""
        return self.salient_selected / self.salient if self.salient else math.nan


def supported(
    raw: npt.NDArray[Any], enhanced: npt.NDArray[Any], attention: npt.NDArray[np.uint8], *, noise_left: float = 0.0
) -> Support:
    """Look for regions of the output that the input does not support, and the reverse, in one window.

    Parameters
    ----------
    raw, enhanced : ndarray (Y, X)
        Counts. Pixels that are not finite count as background.
    attention : ndarray of uint8 (Y, X)
        0 where the pixel was kept.
    noise_left : float
        What a Gaussian of 2 px leaves of the camera's noise, in counts, where it is known: pixel noise is too little
        where neighbours share it.

    Returns
    -------
    Support
        Of one window; nothing is found in one that is smaller than 32 px or holds one value.

    Notes
    -----
    Both images are smoothed by a Gaussian of 2 px, and the same background, a Gaussian of 32 px over kept pixels of the
    input that are farther than 5 px from selected ones, is taken from both. A region of at least 40 px counts as added
    where the output stands out by more than five times the noise that smoothing leaves in the input, and the input by
    less than a quarter of that (after the gain of the field's cells) and, averaged over the region, by no more than a
    tenth, or three times the noise of such an average. Lost is the reverse. Only selected pixels can differ, so only
    there anything is looked for.
    """
    if min(raw.shape) < 32 or not np.isfinite(raw).any():
        return Support()
    filled, made = (_filled(pixels, raw) for pixels in (raw, enhanced))
    if filled.min() == filled.max():
        return Support()
    selected = attention > 0
    quiet = ~ndimage.maximum_filter(selected, 2 * MARGIN_PX + 1)
    smooth = smoothed(filled)
    ground = _background(filled, quiet, smooth)
    seen = smooth - ground
    left = max(pixel_noise(filled, smooth) * WHITE_NOISE_LEFT, noise_left)
    noise = max(left, _spread(seen[quiet]), 1e-9 * float(np.abs(filled).max()))
    shown = smoothed(made) - ground
    clearly = selected & (seen > CLEARLY_SEEN * noise)
    gain = float(np.median(shown[clearly] / seen[clearly])) if clearly.sum() >= FEWEST_FOR_GAIN else 1.0
    gain = max(gain, 1.0)
    support = Support(
        windows=1,
        added=_unsupported(shown / gain, seen, selected, noise),
        lost=_unsupported(seen, shown / gain, selected, noise),
    )
    _judge_attention(support, np.abs(smooth - np.percentile(smooth, 25)), selected, quiet, noise=noise)
    return support


def _filled(pixels: npt.NDArray[Any], raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    counts = pixels.astype(np.float64)
    finite = np.isfinite(counts)
    if not finite.all():
        counts[~finite] = np.median(raw[np.isfinite(raw)].astype(np.float64))
    return counts


def _spread(values: npt.NDArray[np.float64]) -> float:
    """Return a robust standard deviation; 0 for fewer than 100 values."""
    return float(np.median(np.abs(values - np.median(values)))) / 0.6745 if values.size >= 100 else 0.0


def _background(
    counts: npt.NDArray[np.float64], quiet: npt.NDArray[np.bool_], smooth: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the background under every pixel, from quiet pixels alone; one low value where there are hardly any."""
    if quiet.mean() < 0.02:
        return np.full(counts.shape, np.percentile(smooth, 5))
    step = BACKGROUND_STEP_PX
    rows, columns = (range(0, size, step) for size in counts.shape)
    sums = [
        np.add.reduceat(np.add.reduceat(part, rows, axis=0), columns, axis=1)
        for part in (np.where(quiet, counts, 0.0), quiet.astype(np.float64))
    ]
    spread = [ndimage.gaussian_filter(part, BACKGROUND_PX / step, mode="reflect") for part in sums]
    mean = float(counts[quiet].mean())
    weight = 1e-3
    coarse = (spread[0] + weight * mean) / (spread[1] + weight)
    return np.repeat(np.repeat(coarse, step, axis=0), step, axis=1)[: counts.shape[0], : counts.shape[1]]


def _unsupported(
    shown: npt.NDArray[np.float64], seen: npt.NDArray[np.float64], selected: npt.NDArray[np.bool_], noise: float
) -> int:
    """Count regions that stand out in one image and not in the other."""
    labels, _ = ndimage.label(selected & (shown > SEEN * noise) & (seen < UNSUPPORTED_SHARE * shown))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = np.flatnonzero(sizes >= LEAST_PX)
    if not large.size:
        return 0
    there, here = (ndimage.mean(image, labels, large) for image in (seen, shown))
    by_chance = 3 * noise / np.sqrt(np.maximum(sizes[large] / INDEPENDENT_PX, 1.0))
    return int((there < np.maximum(by_chance, NEARLY_NOTHING * here)).sum())


def _judge_attention(
    support: Support,
    contrast: npt.NDArray[np.float64],
    selected: npt.NDArray[np.bool_],
    quiet: npt.NDArray[np.bool_],
    *,
    noise: float,
) -> None:
    """Compare attention with contrast: brighter or darker than the field's lower quarter."""
    step = (slice(JUDGED_EVERY_PX // 2, None, JUDGED_EVERY_PX),) * 2
    ours, theirs = contrast[step][selected[step]], contrast[step][quiet[step]]
    if min(len(ours), len(theirs)) >= FEWEST_JUDGED:
        support.agreement = probability_above(ours, theirs)
        support.judged = 1
    salient = contrast > CLEARLY_SEEN * noise
    support.salient, support.salient_selected = int(salient.sum()), int((salient & selected).sum())


def probability_above(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    """Return the probability that a value of one sample exceeds one of the other; ties count half.

    Examples
    --------
    >>> probability_above(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    ordered = np.sort(theirs)
    below = np.searchsorted(ordered, ours, side="left").sum()
    equal = np.searchsorted(ordered, ours, side="right").sum() - below
    return float((below + 0.5 * equal) / (len(ours) * len(theirs)))

"""What a result took away: input less output, where attention selects. It should look like the camera's noise."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.quality.sums import Sums
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.stacks.intensity.range import SMOOTHING_PX

FEWEST_PX = 200
SUSPICIOUS_SDS = 4.0
NEXT = (slice(None), slice(1, None)), (slice(1, None), slice(None))
OWN = (slice(None), slice(None, -1)), (slice(None, -1), slice(None))
"""Pixels that have one before them in their row, and in their column; and those before them."""


@dataclass
class Taken(Sums):
    """What was found of the residual in some windows; `include` adds windows up.

    Attributes
    ----------
    pixels, suspicious : int
        Selected pixels that were looked at, and those about which more was taken away, or added, than noise explains.
    products, squares : float
        Sums over pairs of selected neighbours of the product of their residuals, and of their mean square, both in
        units of the noise's variance.
    expected : float
        The sum of products that the camera's own noise would give beside those squares.
    """

    pixels: int = 0
    suspicious: int = 0
    products: float = 0.0
    squares: float = 0.0
    expected: float = 0.0

    @property
    def suspicious_share(self) -> float:
        """Share of the pixels about which more was taken away than noise explains; NaN where none was looked at."""
        return self.suspicious / self.pixels if self.pixels else math.nan

    def as_dict(self) -> dict[str, float]:
        """Return plain values for JSON: "neighbour_correlation", "expected", "suspicious_percent"; NaN if not known."""
        known = self.squares > 0
        return {
            "neighbour_correlation": self.products / self.squares if known else math.nan,
            "expected": self.expected / self.squares if known else math.nan,
            "suspicious_percent": 100 * self.suspicious_share,
        }


def taken_away(
    raw: npt.NDArray[Any], enhanced: npt.NDArray[Any], attention: npt.NDArray[np.uint8], camera: CameraNoise
) -> Taken:
    """Compare input less output with the noise of the camera, in one window.

    Parameters
    ----------
    raw, enhanced : ndarray (Y, X)
        Counts.
    attention : ndarray of uint8 (Y, X)
        0 where the pixel was kept.
    camera : CameraNoise
        Of the input.

    Returns
    -------
    Taken
        Nothing where fewer than 200 finite pixels are selected, or where the noise is not known.

    Notes
    -----
    What was proposed follows from the output and the gate; it is brought to the input's scale by the best gain and
    offset, so that a result on another scale is judged alike, and the gate's share of the difference is the residual:
    input less output, where the scale is the input's. Noise that was taken away whole is as correlated as the camera's;
    a smoothing filter, which leaves the slow part of noise in place, gives less, and structure that was taken away with
    it gives more. The residual smoothed by 2 px shows where: noise leaves there a known share of its standard
    deviation, which grows with brightness by the camera's gain. A pixel is suspicious where it is more than four of
    these.
    """
    before, after = raw.astype(np.float64), enhanced.astype(np.float64)
    selected = (attention > 0) & np.isfinite(before) & np.isfinite(after)
    left = camera.left_by_smoothing(SMOOTHING_PX)
    if selected.sum() < FEWEST_PX or not camera.reliable or not camera.sd_counts * left > 0:
        return Taken()
    share = np.where(selected, attention / 255.0, 0.0)
    proposed = before + np.divide(after - before, share, where=selected, out=np.zeros_like(before))
    shown = np.where(selected, _on_scale_of(before, proposed, selected, share**2), 0.0)
    residual = np.where(selected, share * (before - shown), 0.0)
    variance = np.where(selected, camera.sd_counts**2 + camera.gain * np.maximum(shown - camera.black_counts, 0.0), 0.0)
    weight = _smooth(selected.astype(np.float64))
    noise = left * np.sqrt(_smooth(variance) / np.maximum(weight, 1e-6))
    taken = Taken(int(selected.sum()), int((np.abs(_smooth(residual)) > SUSPICIOUS_SDS * noise)[selected].sum()))
    unit = np.divide(residual, np.sqrt(variance), where=selected, out=np.zeros_like(residual))
    for own, following in zip(OWN, NEXT, strict=True):
        both = selected[own] & selected[following]
        one, other = unit[own][both], unit[following][both]
        taken.products += float((one * other).sum())
        taken.squares += float((one**2 + other**2).sum()) / 2
    taken.expected = camera.neighbour_correlation * taken.squares
    return taken


def _on_scale_of(
    counts: npt.NDArray[np.float64],
    image: npt.NDArray[np.float64],
    selected: npt.NDArray[np.bool_],
    share: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return an image (Y, X) after the gain and offset that bring it nearest to some counts, each pixel by its share.

    Rounding is as large as one over the gate in what was proposed, so pixels that are hardly selected say little.
    """
    seen, wanted, weight = image[selected], counts[selected], share[selected] / share[selected].sum()
    middle, level = float(weight @ seen), float(weight @ wanted)
    spread = float(weight @ (seen - middle) ** 2)
    gain = float(weight @ ((seen - middle) * (wanted - level))) / spread if spread > 0 else 0.0
    return gain * (image - middle) + level


def _smooth(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(ndimage.gaussian_filter(image, SMOOTHING_PX, mode="constant", truncate=3.0))

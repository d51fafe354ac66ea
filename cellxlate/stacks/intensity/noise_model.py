"""The noise of a camera: strength, gain, spatial covariance, and what smoothing leaves of it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

REACH_PX, FAR_REACH_PX, NOISE_REACH_PX = 4, 10, 5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CameraNoise:
    """Noise of one channel.

    Attributes
    ----------
    sd_counts : float
        Standard deviation at the background, in counts, as recorded: rounding and cutting at the black level included.
    sd_interval : (float, float)
        Within which `sd_counts` is believed to lie; wide where no flat place was found.
    gain : float
        Variance in counts squared per count of signal above `black_counts`.
    covariance : ndarray (9, 9)
        Spatial autocovariance over the variance: 1 at the centre, symmetric about it.
    quantisation_counts : float
        Step between grey values; 0 for floats that take any value.
    saturation_counts : float or None
        Count that many pixels share because they could hold no more.
    flat_share : float
        Share of the patches looked at that show nothing but noise.
    reliable : bool
        Whether flat places were found; if not, structure may have been taken for noise.
    black_counts : float
        Background level that `sd_counts` belongs to.
    """

    sd_counts: float
    sd_interval: tuple[float, float]
    gain: float
    covariance: Floats
    quantisation_counts: float = 0.0
    saturation_counts: float | None = None
    flat_share: float = 0.0
    reliable: bool = False
    black_counts: float = 0.0

    @property
    def neighbour_correlation(self) -> float:
        """Mean correlation of a pixel with the next in its row and in its column; 0 for white noise."""
        return float(self.covariance[REACH_PX, REACH_PX + 1] + self.covariance[REACH_PX + 1, REACH_PX]) / 2

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "sd_counts": self.sd_counts, "sd_interval": list(self.sd_interval), "gain": self.gain,
            "neighbour_correlation": self.neighbour_correlation, "black_counts": self.black_counts,
            "quantisation_counts": self.quantisation_counts, "saturation_counts": self.saturation_counts,
            "flat_share": self.flat_share, "reliable": self.reliable,
        }  # fmt: skip

    def left_by_smoothing(self, sigma_px: float) -> float:
        """Return the share of the sd that a Gaussian of sigma_px leaves; 1 / (2 sqrt(pi) sigma_px) of white noise.

        Examples
        --------
        >>> white = CameraNoise(2.0, (1.9, 2.1), 0.0, unit_covariance())
        >>> round(white.left_by_smoothing(2.0), 3)
        0.141
        """
        if sigma_px <= 0:
            return 1.0
        reach = REACH_PX + int(6 * sigma_px + 1)
        offsets = np.arange(-reach, reach + 1)
        kernel = np.exp(-0.5 * (offsets / sigma_px) ** 2)
        kernel /= kernel.sum()
        overlap = np.convolve(kernel, kernel, mode="same")[reach - REACH_PX : reach + REACH_PX + 1]
        share = float((self.covariance * overlap[:, None] * overlap).sum())
        return float(np.sqrt(max(share, 0.0)))

    def after_smoothing(self, sigma_px: float) -> float:
        """Return the standard deviation at the background, in counts, that a Gaussian of sigma_px leaves."""
        return self.sd_counts * self.left_by_smoothing(sigma_px)

    def rescaled(self, factor: float, black: float, to: float) -> "CameraNoise":
        """Return the noise of counts that were multiplied, so that those at `black` are now at `to`."""
        full = self.saturation_counts
        return replace(
            self, sd_counts=factor * self.sd_counts, gain=factor * self.gain,
            sd_interval=(factor * self.sd_interval[0], factor * self.sd_interval[1]),
            black_counts=(self.black_counts - black) * factor + to,
            quantisation_counts=factor * self.quantisation_counts,
            saturation_counts=None if full is None else (full - black) * factor + to,
        )  # fmt: skip

    def kernel(self) -> Floats:
        """Return the kernel (9, 9) that turns white noise of variance 1 into noise of this covariance."""
        side = 4 * REACH_PX
        spread = np.zeros((side, side))
        offsets = np.arange(-REACH_PX, REACH_PX + 1)
        spread[np.ix_(offsets, offsets)] = self.covariance
        power = np.maximum(fft.fft2(spread).real, 0.0)
        root = fft.ifft2(np.sqrt(power)).real[np.ix_(offsets, offsets)]
        return np.asarray(root / np.sqrt((root**2).sum()))


def unit_covariance() -> Floats:
    """Return the covariance (9, 9) of white noise."""
    covariance = np.zeros((2 * REACH_PX + 1, 2 * REACH_PX + 1))
    covariance[REACH_PX, REACH_PX] = 1.0
    return covariance

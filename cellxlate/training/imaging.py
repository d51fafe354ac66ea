"""The imaging process as the backward generator: blur, exposure and noise turn a clear field into a faint one.

The paper's F_TS is a network. For a faint and blurred source the process that made it is known up to a few numbers,
which are estimated from the source images alone. A deterministic network cannot make noise; this one draws it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from cellxlate.settings import ImagingSettings
from cellxlate.stacks.intensity import BLACK_PERCENTILE, SMOOTHING_PX, WHITE_PERCENTILE, Levels, pixel_noise

KERNEL_REACH_PX = 9


@dataclass(frozen=True)
class NoiseModel:
    """Signal-dependent noise of a camera: variance = read_variance + gain * (counts - black), in counts squared."""

    read_variance: float
    gain: float

    def unit_variance(self, levels: Levels) -> tuple[float, float]:
        """Return (at black, per unit) of the variance in unit range for a field with these levels."""
        return self.read_variance / levels.span**2, self.gain / levels.span


def fit_noise(
    planes: list[npt.NDArray[Any]], levels: list[Levels], guides: list[npt.NDArray[np.float32]]
) -> NoiseModel:
    """Estimate the noise model from faint fields: background noise, and its excess inside the cells.

    Parameters
    ----------
    planes, guides : list of ndarray (Y, X)
        Counts, and 1 in cells.
    levels : list of Levels
        One per plane.

    Notes
    -----
    Inside cells the response of the second differences holds texture too, which is small after the blur of a faint
    image but biases the gain upwards; the median over fields limits it.
    """
    read = float(np.median([field.noise**2 for field in levels]))
    gains = []
    for plane, field, guide in zip(planes, levels, guides, strict=True):
        inside = ndimage.binary_erosion(guide > 0, iterations=3)[1:-1, 1:-1]
        if inside.sum() < 200:
            continue
        counts = plane.astype(np.float64)
        ridge = counts[:, :-2] - 2 * counts[:, 1:-1] + counts[:, 2:]
        response = (ridge[:-2] - 2 * ridge[1:-1] + ridge[2:]) / 6.0
        variance = float(np.mean(np.minimum(response[inside] ** 2, 9 * np.median(response[inside] ** 2))))
        signal = float(counts[1:-1, 1:-1][inside].mean() - field.black)
        background = max(field.noise, pixel_noise(plane)) ** 2
        gains.append(max(variance - background, 0.0) / max(signal, 1e-6))
    return NoiseModel(read_variance=max(read, 1e-12), gain=float(np.median(gains)) if gains else 0.0)


class ImagingProcess(nn.Module):
    """F_TS: clear fields in unit range to faint fields in unit range.

    Parameters
    ----------
    settings : ImagingSettings
        Range of the blur, jitter of the exposure.
    variances : ndarray (fields, 2)
        Noise variance at black and per unit of signal, of each source field, in unit range.
    """

    def __init__(self, settings: ImagingSettings, variances: npt.NDArray[np.float64]) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("variances", torch.from_numpy(variances).float())

    def forward(self, targets: Tensor, rng: torch.Generator) -> Tensor:
        """Map targets (B, C, Y, X) to what the source microscope would have recorded, same shape, releveled.

        Blur, exposure and noise are drawn per image. The result is brought to the levels that would be measured on it,
        since that is what the translator meets.
        """
        count, device = len(targets), targets.device
        low, high = self.settings.blur_px
        sigma = low + (high - low) * torch.rand(count, generator=rng).to(device)
        blurred = gaussian_blur(targets, sigma)
        field = torch.randint(len(self.variances), (count,), generator=rng).to(device)  # type: ignore[arg-type]
        jitter = self.settings.exposure_jitter ** (2 * torch.rand(count, generator=rng).to(device) - 1)
        at_black, per_unit = (self.variances[field] * jitter[:, None]).T[:, :, None, None, None]  # type: ignore[index]
        noise = torch.randn(targets.shape, generator=rng).to(device)
        faint = blurred + noise * (at_black + per_unit * blurred.clamp(min=0)).sqrt()
        black_before, white_before = patch_levels(targets)
        black, white = patch_levels(faint)
        black, white = black - black_before, 1 + white - white_before
        return (faint - black) / (white - black).clamp(min=0.2)


def gaussian_blur(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Blur images (B, C, Y, X), each by its own sigma (B,), reflecting at the border."""
    offsets = torch.arange(-KERNEL_REACH_PX, KERNEL_REACH_PX + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_px[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # (B, K)
    count, channels = images.shape[:2]
    kernel = kernel.repeat_interleave(channels, dim=0)[:, None]  # (B * C, 1, K)
    padded = nn.functional.pad(images, (KERNEL_REACH_PX,) * 4, mode="reflect")
    flat = padded.reshape(1, count * channels, *padded.shape[2:])
    rows = nn.functional.conv2d(flat, kernel[:, :, :, None], groups=count * channels)
    both = nn.functional.conv2d(rows, kernel[:, :, None, :], groups=count * channels)
    return both.reshape(images.shape)


def patch_levels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Measure black and white of each image (B, C, Y, X) as stacks.intensity does; two tensors (B, 1, 1, 1)."""
    sigma = torch.full((len(images),), SMOOTHING_PX, device=images.device)
    smooth = gaussian_blur(images.detach(), sigma).flatten(1)
    levels = torch.quantile(
        smooth, torch.tensor([BLACK_PERCENTILE, WHITE_PERCENTILE], device=images.device) / 100, dim=1
    )
    return levels[0, :, None, None, None], levels[1, :, None, None, None]

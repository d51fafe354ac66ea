"""The imaging process as the backward generator: blur, exposure and noise turn a clear field into a faint one.

The paper's F_TS is a network. For a faint and blurred source the process that made it is known up to a few numbers,
which are estimated from the unpaired images: the noise from the source alone, the blur from the spectra of both
domains. A deterministic network cannot make noise; this one draws it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from cellxlate.settings import ImagingSettings
from cellxlate.stacks.intensity.camera_noise import measure_noise
from cellxlate.stacks.intensity.range import (
    BLACK_PERCENTILE,
    SMOOTHING_PX,
    SPAN_PER_NOISE,
    WHITE_PERCENTILE,
    IntensityRange,
    pixel_noise,
)
from cellxlate.training.losses import largest_within

KERNEL_REACH_PX = 9
SMALLEST_SIGMA_PX, LARGEST_SIGMA_PX = 0.05, KERNEL_REACH_PX / 3
"""Below the first the kernel is a single pixel; above the other it would be cut off."""

USUAL_BLUR_PX = (1.0, 2.2)
"""Taken where the blur cannot be estimated."""
SPECTRUM_PX = 256
BAND_PER_PX = 0.02, 0.25
NOISE_BAND_PER_PX = 0.3
FEWEST_RINGS, FEWEST_FIELDS = 4, 5

SHARED_NOISE = 0.05
PATCH_PX = 7
SMALLEST_SIGNAL = 0.1


@dataclass(frozen=True)
class NoiseModel:
    """Signal-dependent noise of a camera: variance = read_variance + gain * (counts - black), in counts squared.

    `kernel` (9, 9), where neighbours share noise, makes such noise of white noise.
    """

    read_variance: float
    gain: float
    kernel: npt.NDArray[np.float64] | None = None

    def unit_variance(self, intensity: IntensityRange) -> tuple[float, float]:
        """Return (at black, per unit) of the variance in unit range for a field of this intensity range."""
        return self.read_variance / intensity.span**2, self.gain / intensity.span


def fit_noise(
    planes: list[npt.NDArray[Any]], intensities: list[IntensityRange], guides: list[npt.NDArray[np.float32]]
) -> NoiseModel:
    """Estimate the noise model from faint fields: background noise, and its excess inside the cells.

    Parameters
    ----------
    planes, guides : list of ndarray (Y, X)
        Counts, and 1 in cells.
    intensities : list of IntensityRange
        One per plane.

    Notes
    -----
    Where neighbours correlate by more than 0.05 in flat places, gain and kernel are those of `camera.measure_noise`.
    Elsewhere second differences inside cells tell the gain; they hold texture too, which is small
    after the blur of a faint image but biases the gain upwards; the median over fields limits it.
    """
    read = max(float(np.median([field.noise**2 for field in intensities])), 1e-12)
    camera = measure_noise(planes)
    if camera.reliable and camera.neighbour_correlation > SHARED_NOISE:
        return NoiseModel(read, camera.gain, camera.kernel())
    gains = []
    for plane, field, guide in zip(planes, intensities, guides, strict=True):
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
    return NoiseModel(read_variance=read, gain=float(np.median(gains)) if gains else 0.0)


def fit_blur(
    source: list[npt.NDArray[np.float32]], target: list[npt.NDArray[np.float32]]
) -> tuple[float, float] | None:
    """Estimate how much more the source fields are blurred than the target fields, from their power spectra.

    Parameters
    ----------
    source, target : list of ndarray (Y, X) of float32
        Fields in unit range that show the same kind of cells; they need not be pairs.

    Returns
    -------
    (float, float) or None
        Sigma of a Gaussian in pixels: the 10th and the 90th percentile over the source fields. None where fewer than
        five of them stand out from their noise.

    Notes
    -----
    A blur of sigma multiplies a power spectrum at frequency f by exp(-(2 pi f sigma)^2). The logarithm of the ratio of
    a source field's spectrum, less its white noise, to the targets' mean spectrum is fitted against f^2, from 0.02
    cycles per pixel up to where signal and noise are equal. Single fields differ in their cells, so one sigma is
    uncertain by 0.2 px; where the two domains show different kinds of cells the result has no meaning, and 0 is common.
    """
    side = min(SPECTRUM_PX, *(min(field.shape) for field in (*source, *target)))
    clear = [
        np.log(np.maximum(signal, np.finfo(float).tiny)) for _, signal, _ in (spectrum(one, side) for one in target)
    ]
    reference = np.mean(clear, axis=0)
    sigmas = []
    for field in source:
        frequencies, signal, noise = spectrum(field, side)
        first = int(np.argmax(frequencies > BAND_PER_PX[0]))
        hidden = (signal <= noise) | (frequencies >= BAND_PER_PX[1])
        last = first + int(np.argmax(hidden[first:]))
        if last - first < FEWEST_RINGS:
            continue
        band = slice(first, last)
        slope, _ = np.polyfit(
            (2 * np.pi * frequencies[band]) ** 2,
            np.log(signal[band]) - reference[band],
            deg=1,
            w=np.sqrt(frequencies[band]),
        )
        sigmas.append(float(np.sqrt(np.clip(-slope, 0.0, LARGEST_SIGMA_PX**2))))
    if len(sigmas) < FEWEST_FIELDS:
        return None
    low, high = np.percentile(sigmas, [10, 90])
    return float(low), float(high)


def spectrum(
    field: npt.NDArray[np.float32], side: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Return frequencies in cycles per pixel, the power above the white noise at each, and the power of that noise.

    Of the middle of a field (Y, X), side x side px, under a Hann window, averaged over rings.
    """
    top, left = ((size - side) // 2 for size in field.shape)
    window = field[top : top + side, left : left + side].astype(np.float64)
    taper = np.hanning(side)
    power = np.abs(np.fft.fft2((window - window.mean()) * taper[:, None] * taper)) ** 2
    axis = np.fft.fftfreq(side)
    ring = np.rint(np.hypot(axis[:, None], axis) * side / 2).astype(int).ravel()
    rings = np.bincount(ring, power.ravel()) / np.bincount(ring)
    frequencies = 2 * np.arange(len(rings)) / side
    noise = float(rings[frequencies > NOISE_BAND_PER_PX].mean())
    return frequencies, rings - noise, noise


class ImagingProcess(nn.Module):
    """F_TS: clear fields in unit range to faint fields in unit range.

    Parameters
    ----------
    settings : ImagingSettings
        Range of the blur (where it is None, 1.0 to 2.2 px), jitter of the exposure.
    variances : ndarray (fields, 2)
        Noise variance at black and per unit of signal, of each source field, in unit range.
    kernels : ndarray (fields, K, K), optional
        Of each source field, K odd: what turns white noise into noise that neighbours share; white noise without.
    """

    kernels: Tensor | None

    def __init__(
        self,
        settings: ImagingSettings,
        variances: npt.NDArray[np.float64],
        kernels: npt.NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("kernels", None if kernels is None else torch.from_numpy(kernels).float())
        self.register_buffer("variances", torch.from_numpy(variances).float())

    def forward(self, targets: Tensor, rng: torch.Generator) -> Tensor:
        """Map targets (B, C, Y, X) to what the source microscope would have recorded, same shape, releveled.

        Blur, exposure and noise are drawn per image. The result is brought to the range that would be measured on it,
        since that is what the translator meets.
        """
        count, device = len(targets), targets.device
        low, high = self.settings.blur_px or USUAL_BLUR_PX
        sigma = low + (high - low) * torch.rand(count, generator=rng).to(device)
        blurred = gaussian_blur(targets, sigma)
        field = torch.randint(len(self.variances), (count,), generator=rng).to(device)  # type: ignore[arg-type]
        jitter = self.settings.exposure_jitter ** (2 * torch.rand(count, generator=rng).to(device) - 1)
        at_black, per_unit = (self.variances[field] * jitter[:, None]).T[:, :, None, None, None]  # type: ignore[index]
        noise = torch.randn(targets.shape, generator=rng).to(device)
        if self.kernels is not None:
            noise = correlated(noise, self.kernels[field])
        faint = blurred + noise * (at_black + per_unit * blurred.clamp(min=0)).sqrt()
        black_before, white_before = patch_range(targets)
        black, white = patch_range(faint)
        black, white = black - black_before, 1 + white - white_before
        releveled: Tensor = (faint - black) / (white - black).clamp(min=0.2)
        return releveled

    def without_cells(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """Draw fields without cells, of the shape of `like`, as the microscope records and a range scales them.

        Black lies at the 10th percentile, and the span is floored at six times the noise, so such a field is noise of
        about 1/6 on slightly uneven illumination. Training sets are chosen for their cells and seldom hold one.
        """
        count, channels, rows, columns = like.shape
        drawn = torch.rand(count, 4, 1, 1, 1, generator=rng).to(like.device)
        level, slope, direction, share = drawn[:, 0] ** 2 / 3, drawn[:, 1] / 3, 2 * math.pi * drawn[:, 2], drawn[:, 3]
        down = torch.linspace(-0.5, 0.5, rows, device=like.device)[:, None]
        over = torch.linspace(-0.5, 0.5, columns, device=like.device)
        uneven = slope * (torch.cos(direction) * down + torch.sin(direction) * over)  # (B, 1, Y, X)
        sigma = (0.7 + 0.4 * share) / SPAN_PER_NOISE
        noise = torch.randn(count, channels, rows, columns, generator=rng).to(like.device)
        if self.kernels is not None:
            noise = correlated(noise, self.kernels[torch.arange(count) % len(self.kernels)])
        return level + uneven + sigma * noise


def correlated(white: Tensor, kernels: Tensor) -> Tensor:
    """Return white noise (B, C, Y, X) after the kernels (B, K, K), one for each image, continued by its mirror."""
    count, channels = white.shape[:2]
    reach = kernels.shape[-1] // 2
    weight = kernels.repeat_interleave(channels, dim=0)[:, None]  # (B * C, 1, K, K)
    padded = nn.functional.pad(white, (reach,) * 4, mode="reflect")
    flat = padded.reshape(1, count * channels, *padded.shape[2:])
    shared: Tensor = nn.functional.conv2d(flat, weight, groups=count * channels).reshape(white.shape)
    return shared


def gaussian_blur(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Blur images (B, C, Y, X), each by its own sigma (B,) of 0 to 3 px, reflecting at the border."""
    offsets = torch.arange(-KERNEL_REACH_PX, KERNEL_REACH_PX + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_px.clamp(min=SMALLEST_SIGMA_PX)[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # (B, K)
    count, channels = images.shape[:2]
    kernel = kernel.repeat_interleave(channels, dim=0)[:, None]  # (B * C, 1, K)
    padded = nn.functional.pad(images, (KERNEL_REACH_PX,) * 4, mode="reflect")
    flat = padded.reshape(1, count * channels, *padded.shape[2:])
    rows = nn.functional.conv2d(flat, kernel[:, :, :, None], groups=count * channels)
    both = nn.functional.conv2d(rows, kernel[:, :, None, :], groups=count * channels)
    return both.reshape(images.shape)


def patch_range(images: Tensor) -> tuple[Tensor, Tensor]:
    """Measure black and white of each image (B, C, Y, X) as stacks.intensity does; two tensors (B, 1, 1, 1)."""
    sigma = torch.full((len(images),), SMOOTHING_PX, device=images.device)
    smooth = gaussian_blur(images.detach(), sigma).flatten(1)
    percents = [BLACK_PERCENTILE, WHITE_PERCENTILE]
    if smooth.device.type == "cpu":  # which sorts ten times as long as numpy looks for a percentile
        ends = torch.from_numpy(np.percentile(smooth.numpy(), percents, axis=1).astype(np.float32))
    else:
        ends = torch.quantile(smooth, torch.tensor(percents, device=images.device) / 100, dim=1)
    return ends[0, :, None, None, None], ends[1, :, None, None, None]


def grow_guide(guides: Tensor, at_px: tuple[float, float] = (0.45, 0.2)) -> Tensor:
    """Let guides (B, 1, Y, X) fade past the outline of the cells: to these values at 1 and at 2 px.

    Blur carries a cell's light past its outline, and the gate, which reaches 1 only where attention does, must not end
    inside the cell: without this it cost 0.7 dB of the generator's gain (docs/evidence/objective.md).
    """
    near, far = (largest_within(guides, reach_px) for reach_px in (1, 2))
    return torch.maximum(guides, torch.maximum(at_px[0] * near, at_px[1] * far))


def texture_distance(
    restored: Tensor, clear: Tensor, guides: Tensor, rng: torch.Generator, *, patches: int = 2048, directions: int = 64
) -> Tensor:
    """Return the squared sliced Wasserstein distance of patches in cells: 7 x 7 px, mean removed, over the cell signal.

    Parameters
    ----------
    restored, clear : Tensor (B, 1, Y, X)
        Unit range; compared as two sets of patches, taken at the same random places.
    guides : Tensor (B, 1, Y, X)
        1 in cells.
    rng : torch.Generator
        Draws places and directions.

    References
    ----------
    J. Rabin et al., Wasserstein barycenter and its application to texture mixing, 2011, 10.1007/978-3-642-24785-9_37.
    """
    side = PATCH_PX
    inner = torch.zeros_like(guides)
    reach = side // 2
    inner[..., reach:-reach, reach:-reach] = guides[..., reach:-reach, reach:-reach]
    centres = (inner[:, 0] > 0).nonzero()
    if not len(centres):
        return restored.sum() * 0
    area, rest = (mask.sum(dim=(1, 2, 3)).clamp(min=1) for mask in (guides, 1 - guides))
    signal = (clear * guides).sum(dim=(1, 2, 3)) / area - (clear * (1 - guides)).sum(dim=(1, 2, 3)) / rest
    chosen = centres[torch.randint(len(centres), (patches,), generator=rng).to(centres.device)]  # (N, 3)
    offsets = torch.arange(-reach, reach + 1, device=centres.device)
    number, rows, columns = chosen[:, 0, None, None], chosen[:, 1, None, None], chosen[:, 2, None, None]
    axes = torch.randn(side * side, directions, generator=rng).to(centres.device)
    axes = axes / axes.norm(dim=0)

    def ordered(images: Tensor) -> Tensor:
        values = images[:, 0][number, rows + offsets[:, None], columns + offsets].flatten(1)  # (N, 49)
        values = (values - values.mean(dim=1, keepdim=True)) / signal[chosen[:, 0], None].clamp(min=SMALLEST_SIGNAL)
        projected: Tensor = (values @ axes).sort(dim=0).values
        return projected

    return ((ordered(restored) - ordered(clear)) ** 2).mean()

"""The imaging process of any camera as the backward generator: what a generalist learns to undo.

`imaging` estimates the process of one microscope from its images. Here strength, kind and correlation of the noise,
background, exposure, grey levels and saturation are drawn anew for every image, within wide ranges, so that nothing
about the camera need be known when the model is used.
"""

import math

import torch
from torch import Tensor, nn

from cellxlate.stacks.intensity.range import BLACK_PERCENTILE, SPAN_PER_NOISE, WHITE_PERCENTILE
from cellxlate.training.imaging.process import gaussian_blur

PHOTONS = 2.0, 300.0
"""Of a pixel at the white level, above the background."""
READ_PHOTONS = 0.2, 8.0
PULSES_SHARE, PULSE_SHAPE = 0.4, (0.7, 5.0)
"""How often a photon makes a pulse of random height, as in a photomultiplier, and the shape of that height's gamma."""
MOST_BACKGROUND = 0.6
DEMOSAICED_SHARE, RESAMPLED_SHARE, CORRELATED_SHARE = 0.2, 0.15, 0.4
"""How often each of three things makes neighbours share noise; several may."""
LARGEST_PIXEL = 2.2
"""Of a recording that software enlarged, in pixels of its result."""
CORRELATION_PX = 0.35, 1.4
"""Width of the filter that shares noise: the standard deviation of a Gaussian, and as much of others."""
STEEP_SHARE, STEEPNESS, CORNERS = 0.5, (1.5, 8.0), (1.0, 2.0, 6.0)
"""How often the filter's spectrum falls otherwise than a Gaussian's, by which power of the frequency, and over what: a
diamond, a disc or a square."""
WIDER_SHARE, LINES_SHARE, COARSE_SHARE, CLIPPED_SHARE, SATURATED_SHARE = 0.3, 0.1, 0.35, 0.25, 0.15
STEEPEST_EMPTY = 0.95
"""Of the illumination of fields without cells, which must not pass for haze."""
BLUR_PX, SHARP_SHARE = (0.0, 0.8), 0.5
"""Of half of the clear images; the others stay as sharp as they are, or sharp recordings would come out smoothed."""
SMOOTHING_BOX_PX = 7
"""A box as wide as the Gaussian of 2 px that intensity levels are measured under."""


def by_any_camera(targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Record clear fields as some camera would: F_TS of a generalist, scaled as an `IntensityRange` would scale it.

    Parameters
    ----------
    targets : Tensor (B, C, Y, X)
        Unit range; the C planes of each are recorded by the same camera, each with noise of its own.
    rng : torch.Generator
        Of the CPU.

    Returns
    -------
    faint, clear : Tensor (B, C, Y, X)
        The recording, and what it shows without noise, in the unit range of the recording.
    """
    count = len(targets)
    clear = gaussian_blur(targets, uniform(count, *BLUR_PX, rng) * chance(count, 1 - SHARP_SHARE, rng))
    clear = (clear - clear.amin(dim=(1, 2, 3), keepdim=True)).clamp(min=0)
    clear = clear ** per_image(uniform(count, 0.75, 1.5, rng))
    background = per_image(MOST_BACKGROUND * uniform(count, 0, 1, rng) ** 2)
    light = clear + background * shading(clear.shape, rng)
    faint, noise = recorded(light, rng)
    return releveled(faint, light, noise, rng)


def without_cells(shape: torch.Size, rng: torch.Generator) -> Tensor:
    """Record fields (B, C, Y, X) that show nothing but uneven illumination."""
    light = per_image(uniform(shape[0], 0.02, 1, rng)) * shading(shape, rng, steepest=STEEPEST_EMPTY)
    light = light.expand(shape)
    faint, noise = recorded(light, rng)
    return releveled(faint, light, noise, rng)[0]


def recorded(light: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Record light (B, C, Y, X): photons, read noise, what camera and software make of them.

    Returns
    -------
    recording : Tensor (B, C, Y, X)
        On the scale of the light.
    noise : Tensor (B, 1, 1, 1)
        Standard deviation of its noise where the light is dim.
    """
    count = len(light)
    photons = per_image(log_uniform(count, *PHOTONS, rng))
    read = per_image(log_uniform(count, *READ_PHOTONS, rng) * chance(count, 0.7, rng)) / photons
    pulses = per_image(chance(count, PULSES_SHARE, rng) / log_uniform(count, *PULSE_SHAPE, rng))
    noise = pulsed(torch.poisson((light * photons).clamp(min=0), generator=rng), pulses, rng) / photons - light
    noise = noise + read * torch.randn(light.shape, generator=rng)
    noise = correlated(resampled(demosaiced(noise, rng), rng), rng)
    lines = chance(count, LINES_SHARE, rng) * uniform(count, 0, 0.4, rng)
    dim = percentile(light, 0.1)
    deviation = (dim * (1 + pulses) / photons + read**2).sqrt() + 1e-4
    noise = noise + per_image(lines) * deviation * torch.randn((*light.shape[:3], 1), generator=rng)
    recording = light + noise
    floor = dim + per_image(uniform(count, -2, 0.5, rng)) * deviation
    clipped = torch.maximum(recording, floor)
    recording = torch.where(per_image(chance(count, CLIPPED_SHARE, rng)) > 0, clipped, recording)
    top = percentile(light, 0.999) * per_image(uniform(count, 0.8, 1.3, rng))
    recording = torch.where(per_image(chance(count, SATURATED_SHARE, rng)) > 0, recording.minimum(top), recording)
    step = per_image(chance(count, COARSE_SHARE, rng) * log_uniform(count, 0.1, 2, rng)) * deviation
    coarse = (recording / step.clamp(min=1e-6)).round() * step
    return torch.where(step > 0, coarse, recording), deviation


def pulsed(photons: Tensor, pulses: Tensor, rng: torch.Generator) -> Tensor:
    """Return the sum of the pulses that photons (B, 1, Y, X) make, of mean height 1.

    Its distribution, a gamma, is made of a normal one (Wilson and Hilferty, PNAS 1931).

    Parameters
    ----------
    pulses : Tensor (B, 1, 1, 1)
        Variance of a pulse's height; 0 leaves an image as it is.
    """
    spread = (pulses / photons.clamp(min=1)).sqrt() / 3
    normal = torch.randn(photons.shape, generator=rng)
    return photons * (1 - spread**2 + spread * normal).clamp(min=0) ** 3


def demosaiced(noise: Tensor, rng: torch.Generator) -> Tensor:
    """Keep the noise (B, 1, Y, X) of one colour of a Bayer mosaic, and fill in between, in some of the images.

    Green is every second pixel, red and blue are every fourth. Software takes the mean of the neighbours, or that of
    the two, in a row or in a column, that differ less: their noise then shows as short bars.
    """
    rows, columns = noise.shape[2:]
    chosen = chance(len(noise), DEMOSAICED_SHARE, rng) > 0
    mosaic = noise[chosen]
    count = len(mosaic)
    green, directed = (per_image(chance(count, 0.5, rng)) for _ in range(2))
    first = torch.randint(2, (count, 2), generator=rng)
    down = (torch.arange(rows) + first[:, :1])[:, None, :, None] % 2
    across = (torch.arange(columns) + first[:, 1:])[:, None, None, :] % 2
    corners = [torch.roll(mosaic, (row, column), (2, 3)) for row in (-1, 1) for column in (-1, 1)]
    centres = sum(corners, torch.zeros_like(mosaic)) / 4
    known = torch.where((green > 0) | (down == 0), mosaic, centres)
    left, right, above, below = (torch.roll(known, by, axis) for axis in (3, 2) for by in (1, -1))
    row, column = (left + right) / 2, (above + below) / 2
    smoother = torch.where((left - right).abs() < (above - below).abs(), row, column)
    between = directed * smoother + (1 - directed) * (row + column) / 2
    filled = noise.clone()
    filled[chosen] = torch.where((down + across) % 2 == 0, known, between)
    return filled


def resampled(noise: Tensor, rng: torch.Generator) -> Tensor:
    """Enlarge coarser pixels of noise (B, 1, Y, X) by interpolation, as software resizes, in some of the images."""
    chosen = chance(len(noise), RESAMPLED_SHARE, rng)
    pixels = uniform(len(noise), 1.05, LARGEST_PIXEL, rng)
    size = (noise.shape[2], noise.shape[3])
    made = []
    for image, is_chosen, pixel in zip(noise, chosen.tolist(), pixels.tolist(), strict=True):
        coarse = nn.functional.interpolate(image[None], size=[round(side / pixel) for side in size], mode="nearest")
        mode = "bicubic" if pixel > (1 + LARGEST_PIXEL) / 2 else "bilinear"
        made.append(nn.functional.interpolate(coarse, size=size, mode=mode) if is_chosen else image[None])
    return torch.cat(made)


def correlated(noise: Tensor, rng: torch.Generator) -> Tensor:
    """Share noise (B, 1, Y, X) between neighbours by a linear filter in some of the images.

    Its strength stays, or falls to half; along one axis it may reach further than along the other.
    """
    count, _, rows, columns = noise.shape
    share = chance(count, CORRELATED_SHARE, rng)
    width = uniform(count, *CORRELATION_PX, rng)
    stretch = torch.where(chance(count, WIDER_SHARE, rng) > 0, uniform(count, 0.4, 1, rng), torch.ones(count))
    upright = chance(count, 0.5, rng)
    down, across = width * torch.where(upright > 0, stretch, 1.0), width * torch.where(upright > 0, 1.0, stretch)
    steep = chance(count, STEEP_SHARE, rng) > 0
    power = torch.where(steep, log_uniform(count, *STEEPNESS, rng), 2.0)
    corner = torch.where(steep, torch.tensor(CORNERS)[torch.randint(len(CORNERS), (count,), generator=rng)], 2.0)
    frequencies = torch.fft.fftfreq(rows).abs()[:, None], torch.fft.rfftfreq(columns)
    reach = sum(
        (2 * math.pi * per_image(width) * frequency) ** per_image(corner)
        for width, frequency in zip((down, across), frequencies, strict=True)
    )
    passed = torch.exp(-0.5 * torch.as_tensor(reach) ** per_image(power / corner))
    blurred = torch.fft.irfft2(torch.fft.rfft2(noise) * passed, s=(rows, columns))
    kept = noise.std(dim=(2, 3), keepdim=True) / blurred.std(dim=(2, 3), keepdim=True).clamp(min=1e-9)
    blurred = blurred * kept * per_image(uniform(count, 0.5, 1, rng))
    white = per_image(uniform(count, 0, 0.35, rng) * chance(count, 0.5, rng))
    return torch.where(per_image(share) > 0, (1 - white**2).sqrt() * blurred + white * noise, noise)


def releveled(faint: Tensor, light: Tensor, noise: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bring a recording and its light to the levels of a stack that it might be a part of.

    A stack's levels are measured over all of it, so a part may lie higher or be dimmer than its own levels would say.
    """
    count = len(faint)
    smooth = nn.functional.avg_pool2d(faint, SMOOTHING_BOX_PX, stride=SMOOTHING_BOX_PX // 2)
    black, white = (percentile(smooth, percent / 100, every=1) for percent in (BLACK_PERCENTILE, WHITE_PERCENTILE))
    black, span = black.flatten(), torch.maximum(white - black, SPAN_PER_NOISE * noise).flatten()
    span = span * torch.exp(0.25 * torch.randn(count, generator=rng).clamp(-1, 2.5))
    lower = chance(count, 0.3, rng) * uniform(count, 0, 0.5, rng) * span
    shift = 0.03 * torch.randn(count, generator=rng) * span
    black, span = per_image(black - lower + shift), per_image(span + lower)
    return (faint - black) / span, (light - black) / span


def shading(shape: torch.Size, rng: torch.Generator, *, steepest: float = 0.5) -> Tensor:
    """Return uneven illumination (B, 1, Y, X), about 1: a ramp of any direction, of at most `steepest` to a corner."""
    count, _, rows, columns = shape
    slope, direction = (per_image(uniform(count, 0, most, rng)) for most in (steepest, 2 * math.pi))
    down, across = torch.linspace(-1, 1, rows)[:, None], torch.linspace(-1, 1, columns)
    ramp: Tensor = 1 + slope * (torch.cos(direction) * down + torch.sin(direction) * across) / math.sqrt(2)
    return ramp


def percentile(images: Tensor, share: float, every: int = 4) -> Tensor:
    """Return the value (B, 1, 1, 1) that a share of each image lies below, of every so many rows and columns."""
    return images[..., ::every, ::every].flatten(1).quantile(share, dim=1)[:, None, None, None]


def uniform(count: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Draw numbers (count,) evenly between two."""
    return low + (high - low) * torch.rand(count, generator=rng)


def log_uniform(count: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Draw numbers (count,) whose logarithms lie evenly between those of two."""
    return torch.exp(uniform(count, math.log(low), math.log(high), rng))


def chance(count: int, share: float, rng: torch.Generator) -> Tensor:
    """Draw 1 with a probability, else 0, (count,)."""
    return (torch.rand(count, generator=rng) < share).float()


def per_image(numbers: Tensor) -> Tensor:
    """Give numbers (B,) the shape (B, 1, 1, 1)."""
    return numbers[:, None, None, None]

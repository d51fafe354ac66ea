"""The noise that a camera adds, measured on images that show cells as well: strength, gain, spatial covariance.

Only numpy and scipy. Flat places are told from structure by one ratio: what structure and noise leave between Gaussians
of 1.5 and 4 px, over what a Gaussian of 1.5 px removes. In noise the logarithm of that ratio scatters by 0.28 over
patches of 16 px, whatever the noise's strength, gain and correlation; structure lies above.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage, special

from cellxlate.stacks.intensity.noise_model import (
    FAR_REACH_PX,
    NOISE_REACH_PX,
    REACH_PX,
    CameraNoise,
    Floats,
    unit_covariance,
)
from cellxlate.stacks.intensity.noise_patches import (
    BLOCK_PX,
    FINE_PX,
    GROUND_PX,
    LEVEL_PX,
    PATCH_BLOCKS,
    SMALLEST_SIDE_PX,
    FloatPlane,
    Look,
    gaussian,
    look_at,
    masks_of,
    tiles_and_brightness,
)

SCATTER = 0.28
"""Standard deviation of the logarithm of the ratio over patches of pure noise: 0.276 to 0.281, correlated or not."""
FLAT_SCATTERS = 1.3
DARK_SHARE, BLACK_SHARE = 0.2, 0.1
FEWEST_PATCHES, FEWEST_GAIN_PX = 200, 200
EVEN_SHARE, LEAST_FLAT_SHARE = 0.3, 0.03
HIGH_PER_PX = 0.28


def measure_noise(
    windows: Iterable[npt.NDArray[Any]], *, brightness: Sequence[npt.NDArray[Any]] | None = None
) -> CameraNoise:
    """Measure the noise of windows that share one camera and one gain.

    Parameters
    ----------
    windows : iterable of ndarray (Y, X)
        Counts of any dtype. Pixels that are not finite count as the median. At most 12 tiles of 256 px, spread evenly,
        are looked at.
    brightness : sequence of ndarray (Y, X), optional
        How bright each window is, where the windows hold differences of frames.

    Returns
    -------
    CameraNoise
        Of sd 0, not reliable, where no pixel differs from its neighbours.

    Notes
    -----
    1. Patches of 16 px whose ratio (see the module) lies in the lowest peak of the ratios are flat; of these the darker
       ones are kept.
    2. Their autocovariance about a background smoothed by 8 px, less what reaches beyond 5 px (a parabola over
       distances of 5 to 10 px: slow structure, and the background's own noise), is the covariance of the noise.
    3. What a Gaussian of 1 px removes is a fixed share of the variance; so the variance at the darkest fifth of the
       pixels, and at each brightness, follows from it without asking for flat places there.
    4. Where the ratios have no clean peak (more low ratios than noise can have, or much beyond 5 px), every patch holds
       structure: the spectrum beyond 0.28 cycles per pixel, where optics pass little, is continued as a Gaussian
       instead, and the result is not `reliable`.

    Noise that is correlated over more than some 1.3 px in a field dense with equally fine structure cannot be told from
    it; frame differences can. About 0.3 s on one core.
    """
    tiles, levels = tiles_and_brightness(windows, brightness)
    values = np.concatenate([tile[:, ::3].ravel() for tile in tiles]) if tiles else np.zeros(0)
    step = _quantisation(values)
    top = _saturation(values)
    if not any(min(tile.shape) >= SMALLEST_SIDE_PX for tile in tiles) or values.min() == values.max():
        return _unmeasured(tiles, step, top)
    offset, scale = _normal(values)
    ground = offset if brightness is None else float(np.median(np.concatenate([one[:, ::3].ravel() for one in levels])))
    looks = [
        look_at(_normalised(tile, offset, scale), _normalised(level, ground, scale))
        for tile, level in zip(tiles, levels, strict=True)
        if min(tile.shape) >= SMALLEST_SIDE_PX
    ]
    if not any(np.isfinite(look.ratio).any() for look in looks):
        return _unmeasured(tiles, step, top)
    noise = _measured(looks, None if top is None else (top - ground) / scale)
    low, high = noise.sd_interval
    return replace(
        noise,
        sd_counts=scale * noise.sd_counts,
        sd_interval=(scale * low, scale * high),
        gain=scale * noise.gain,
        black_counts=scale * noise.black_counts + ground,
        quantisation_counts=step,
        saturation_counts=top,
    )


def _normal(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return what is taken from counts, and what they are divided by, so that float32 holds them on any scale."""
    low, middle, high = (float(value) for value in np.quantile(values.astype(np.float64), [0.05, 0.5, 0.95]))
    return middle, (high - low) or float(values.max()) - float(values.min())


def _normalised(tile: npt.NDArray[Any], offset: float, scale: float) -> FloatPlane:
    return ((tile.astype(np.float64) - offset) / scale).astype(np.float32)


def _measured(looks: Sequence[Look], top: float | None) -> CameraNoise:
    ratio = np.concatenate([look.ratio.ravel() for look in looks])
    patch_level = np.concatenate([look.patch_level.ravel() for look in looks])
    varied = np.isfinite(ratio)
    peak, clutter = _flat_peak(ratio[varied], patch_level[varied])
    flat = varied & (ratio < peak + FLAT_SCATTERS * SCATTER)
    black_patch = float(np.quantile(patch_level[varied], BLACK_SHARE))
    ordered = np.sort(patch_level[flat])
    enough = float(ordered[min(len(ordered) - 1, FEWEST_PATCHES)])
    chosen = flat & (patch_level <= max(float(np.quantile(ordered, 0.4)), black_patch, enough))
    autocovariance, pairs, fine = _autocovariance(looks, chosen)
    clipped = _clipped(looks, chosen)
    if clipped:  # the darkest patches of such noise are those in which most was cut
        power = float(np.sum(_without_far(autocovariance, pairs)[0] * (_distances() <= NOISE_REACH_PX)))
        side_px = BLOCK_PX * PATCH_BLOCKS
        limit = float(patch_level[chosen].max()) + 2 * float(np.sqrt(max(power, 0.0))) / side_px
        chosen = flat & (patch_level <= limit)
        autocovariance, pairs, fine = _autocovariance(looks, chosen)
    covariance, variance, narrow, doubt = _of_noise(autocovariance, pairs, clutter)
    per_energy = variance / fine
    spread = float(np.sqrt(variance * max(covariance.sum(), 1.0) / (4 * np.pi * LEVEL_PX**2))) if clipped else 0.0
    dark_energy, black = _at_black(looks, flat, spread)
    dark_energy = min(dark_energy, fine)
    sd = float(np.sqrt(per_energy * dark_energy))
    independent = float(pairs[FAR_REACH_PX, FAR_REACH_PX]) / max(float((covariance**2).sum()), 1.0)
    share = float(flat.mean())
    reliable = doubt < 0.5 and share > LEAST_FLAT_SHARE and int(flat.sum()) >= FEWEST_PATCHES // 4
    margin = 0.06 + 1.96 * float(np.sqrt(0.5 / max(independent, 1.0)))
    low, high = (1 - margin, 1 + margin) if reliable else (0.8 * np.sqrt(narrow), 1.3 / np.sqrt(1 - 0.4 * doubt))
    return CameraNoise(
        sd_counts=sd,
        sd_interval=(sd * float(low), sd * float(high)),
        gain=_gain(looks, per_energy, black=black, variance=sd**2, top=top),
        covariance=covariance.astype(np.float64),
        flat_share=share,
        reliable=bool(reliable),
        black_counts=black,
    )


def _of_noise(autocovariance: Floats, pairs: Floats, clutter: float) -> tuple[Floats, float, float, float]:
    """Return of the noise in chosen patches the covariance (9, 9), the variance, its least share, and the doubt in it.

    The doubt goes from 0 to 1 with the scatters by which the tail of the ratios is too low, and with what reaches far.
    """
    centre = FAR_REACH_PX, FAR_REACH_PX
    near, beyond = _without_far(autocovariance, pairs)
    variance = near[centre]
    if not variance > 0:
        near, variance, beyond = autocovariance, autocovariance[centre], 1.0
    shape = near / variance
    doubt = float(np.clip(max((clutter - 0.3) / 0.4, (beyond - 0.08) / 0.1), 0.0, 1.0))
    continued = _continued(shape) if doubt > 0 else None
    narrow = _least(shape)
    if continued is not None:
        narrow = min(float(continued[centre]), 1.0)
        mixed = (1 - doubt) * shape + doubt * continued * (narrow / continued[centre])
        kept = float(mixed[centre])
        shape, variance = mixed / kept, variance * kept
    inner = slice(FAR_REACH_PX - REACH_PX, FAR_REACH_PX + REACH_PX + 1)
    return shape[inner, inner], variance, narrow, doubt


def _unmeasured(tiles: Sequence[npt.NDArray[Any]], step: float, top: float | None) -> CameraNoise:
    """Return what can be said of windows too small for patches, or of one value."""
    fine = [
        (tile - ndimage.gaussian_filter(tile.astype(np.float64), FINE_PX, truncate=3.0)).ravel()
        for tile in tiles
        if tile.size
    ]
    values = np.concatenate(fine) if fine else np.zeros(1)
    sd = float(np.sqrt(np.mean(values**2) / 0.76))
    black = float(np.median(np.concatenate([tile.ravel() for tile in tiles]))) if fine else 0.0
    return CameraNoise(sd, (sd / 2, 2 * sd), 0.0, unit_covariance(), step, top, black_counts=black)


def _flat_peak(ratio: FloatPlane, level: FloatPlane) -> tuple[float, float]:
    """Return the peak of flat patches in the logarithms of the ratio, and how many scatters too low their tail reaches.

    In the darker half first, where flat places usually are; in all where that shows lower ratios.
    """
    dark = ratio[level <= np.median(level)]
    dark_peak, all_peak = _peak(dark), _peak(ratio)
    values, (peak, share) = (ratio, all_peak) if all_peak[0] < dark_peak[0] - SCATTER / 2 else (dark, dark_peak)
    low = 0.02
    expected = float(special.ndtri(min(low / max(share, 2 * low), 0.5)))
    return peak, expected - (float(np.quantile(values, low)) - peak) / SCATTER


def _peak(ratio: FloatPlane) -> tuple[float, float]:
    """Fit a normal of known width at the low end, with structure evenly spread above it; return its mean and share."""
    lowest = float(np.quantile(ratio, 0.002))
    edges = np.arange(lowest - 1.0, max(float(ratio.max()), lowest + 1.0) + 0.1, 0.05)
    weights, _ = np.histogram(ratio, edges)
    middles = (edges[1:] + edges[:-1]) / 2
    means = np.arange(lowest, float(np.quantile(ratio, 0.98)) + 0.01, 0.05)[:, None]
    noise = np.exp(-0.5 * ((middles - means) / SCATTER) ** 2) / (SCATTER * np.sqrt(2 * np.pi))
    structure = special.ndtr((middles - means) / SCATTER - 1)
    structure /= structure.sum(axis=1, keepdims=True) * 0.05 + 1e-12
    share = np.full(means.shape, 0.5)
    for _ in range(30):
        flat = share * noise
        share = (weights * flat / (flat + (1 - share) * structure + 1e-12)).sum(axis=1, keepdims=True) / weights.sum()
    likelihood = (weights * np.log(share * noise + (1 - share) * structure + 1e-4)).sum(axis=1)
    best = int(likelihood.argmax())
    return float(means[best, 0]), float(share[best, 0])


def _autocovariance(looks: Sequence[Look], chosen: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, float]:
    """Return the autocovariance (21, 21) of chosen patches, from how many pairs, and their mean fine energy."""
    side = 2 * FAR_REACH_PX + 1
    products, pairs, energy, count = np.zeros((side, side)), np.zeros((side, side)), 0.0, 0
    offsets = np.arange(-FAR_REACH_PX, FAR_REACH_PX + 1)
    for look, mask in masks_of(looks, chosen):
        weight = mask.astype(np.float32)
        ground = gaussian(look.counts * weight, GROUND_PX) / np.maximum(gaussian(weight, GROUND_PX), 1e-3)
        residual = (look.counts - ground) * weight
        shape = [fft.next_fast_len(size + FAR_REACH_PX, real=True) for size in mask.shape]
        for total, part in ((products, residual), (pairs, weight)):
            power = np.abs(fft.rfft2(part.astype(np.float64), shape)) ** 2
            total += fft.irfft2(power, shape)[np.ix_(offsets, offsets)]
        energy += float(look.fine[mask].sum(dtype=np.float64))
        count += int(mask.sum())
    return products / np.maximum(pairs, 1.0), np.maximum(pairs, 1.0), energy / count


def _distances() -> Floats:
    offsets = np.arange(-FAR_REACH_PX, FAR_REACH_PX + 1)
    return np.asarray(np.hypot(offsets[:, None], offsets))


def _without_far(autocovariance: Floats, pairs: Floats) -> tuple[Floats, float]:
    """Take from an autocovariance the parabola that fits it beyond 5 px; return the share that this was."""
    distance = _distances()
    ring = (distance > NOISE_REACH_PX) & (distance <= FAR_REACH_PX)
    weight = np.sqrt(pairs[ring])
    terms = np.stack([np.ones(int(ring.sum())), distance[ring] ** 2], axis=1)
    fit = np.linalg.lstsq(terms * weight[:, None], autocovariance[ring] * weight, rcond=None)[0]
    near = autocovariance - (fit[0] + fit[1] * distance**2)
    centre = FAR_REACH_PX, FAR_REACH_PX
    return near, float(fit[0] / near[centre]) if near[centre] > 0 else 1.0


def _continued(shape: Floats) -> Floats | None:
    """Continue the spectrum beyond 0.28 cycles per pixel to lower frequencies as a Gaussian, and return its covariance.

    None where less than a tenth of the power lies there: then nothing follows from it.
    """
    power, squared = _spectrum(shape)
    offsets = np.arange(-FAR_REACH_PX, FAR_REACH_PX + 1)
    high = squared > HIGH_PER_PX**2
    if power[high].mean() < 0.1 * power.mean():
        return None
    misfit, continued = np.inf, power
    for sigma_px in np.arange(0.0, 0.85, 0.05):
        falling = np.exp(-((2 * np.pi * sigma_px) ** 2) * squared)
        height = float((falling[high] * power[high]).sum() / (falling[high] ** 2).sum())
        trial = float(((height * falling[high] - power[high]) ** 2).sum())
        if trial < misfit:
            misfit, continued = trial, height * falling
    covariance = fft.ifft2(continued).real[np.ix_(offsets, offsets)]
    return np.asarray(covariance) if covariance[FAR_REACH_PX, FAR_REACH_PX] > 0 else None


def _least(shape: Floats) -> float:
    """Return the share of the variance that is white at least: the power beyond 0.28 cycles per pixel, everywhere."""
    power, squared = _spectrum(shape)
    return float(np.clip(power[squared > HIGH_PER_PX**2].mean(), 1e-3, 1.0))


def _spectrum(shape: Floats) -> tuple[Floats, Floats]:
    """Return the power (32, 32) of an autocovariance (21, 21) of variance 1, and the squared frequencies."""
    side, distance = 32, _distances()
    spread = np.zeros((side, side))
    offsets = np.arange(-FAR_REACH_PX, FAR_REACH_PX + 1)
    spread[np.ix_(offsets, offsets)] = shape * np.exp(-0.5 * (distance / 4.0) ** 2)
    axis = np.fft.fftfreq(side)
    return fft.fft2(spread).real, axis[:, None] ** 2 + axis**2


def _clipped(looks: Sequence[Look], chosen: npt.NDArray[np.bool_]) -> bool:
    """Return whether more than 2 % of the pixels of chosen patches have the lowest count of all."""
    lowest = min(float(look.counts.min()) for look in looks)
    at, count = 0, 0
    for look, mask in masks_of(looks, chosen):
        values = look.counts[mask]
        at, count = at + int((values <= lowest).sum()), count + values.size
    return at > 0.02 * count


def _at_black(looks: Sequence[Look], flat: npt.NDArray[np.bool_], spread: float) -> tuple[float, float]:
    """Return the fine energy at the darkest fifth of the pixels, in flat patches where it has some; the black level.

    Where none of the darkest pixels are flat, the median tells their energy, which outlines raise less than the mean.
    """
    varied = np.concatenate([np.isfinite(look.ratio).ravel() for look in looks])
    recorded = [(look.level[mask], look.fine[mask]) for look, mask in masks_of(looks, varied)]
    level, energy = (np.concatenate(parts) for parts in zip(*recorded, strict=True))
    black, dark = (float(value) for value in np.quantile(level, [BLACK_SHARE, DARK_SHARE]))
    dark += 2 * spread
    inside = [(look.level[mask], look.fine[mask]) for look, mask in masks_of(looks, flat)]
    flat_level, flat_energy = (np.concatenate(parts) for parts in zip(*inside, strict=True))
    here = flat_level <= dark
    if here.sum() >= max(0.05 * DARK_SHARE * level.size, 1000):
        return _trimmed(flat_energy[here]), black
    energy = energy[level <= dark]
    median = float(np.median(flat_energy))
    by_median = float(np.median(energy)) / median * float(flat_energy.mean()) if median > 0 else np.inf
    return min(_trimmed(energy), by_median), black


def _trimmed(energy: FloatPlane) -> float:
    """Return the mean, with single pixels cut to 25 times the mean of the others."""
    usual = float(energy[energy <= np.quantile(energy, 0.98)].mean(dtype=np.float64))
    return float(np.minimum(energy, max(25 * usual, 1e-30)).mean(dtype=np.float64))


def _gain(looks: Sequence[Look], per_energy: float, *, black: float, variance: float, top: float | None) -> float:
    """Fit variance = variance at black + gain * (level - black) to the pixels of each brightness that slope least."""
    level = np.concatenate([look.level[:, ::2].ravel() for look in looks])
    energy = np.concatenate([look.fine[:, ::2].ravel() for look in looks])
    slopes = [np.hypot(*np.gradient(look.level)) for look in looks if min(look.level.shape) > 1]
    slope = np.concatenate([one[:, ::2].ravel() for one in slopes])
    edges = np.quantile(level, np.concatenate([np.linspace(0, 0.9, 10), [0.95, 0.98, 0.995]]))
    most = np.inf if top is None else 0.8 * top + 0.2 * black
    excesses, weights, strongest = [], [], 0.0
    for low, high in pairwise(edges):
        here = (level >= low) & (level <= high)
        signal = (float(low) + float(high)) / 2 - black
        if signal <= 0 or high > most or here.sum() < FEWEST_GAIN_PX:
            continue
        even = slope[here] <= np.quantile(slope[here], EVEN_SHARE)
        excesses.append((_trimmed(energy[here][even]) * per_energy - variance) / signal)
        weights.append(signal * np.sqrt(here.sum()))
        strongest = max(strongest, signal)
    if strongest**2 < variance:
        return 0.0
    order = np.argsort(excesses)
    cumulative = np.cumsum(np.array(weights)[order])
    return max(float(np.array(excesses)[order][int(np.searchsorted(cumulative, cumulative[-1] / 2))]), 0.0)


def _quantisation(values: npt.NDArray[Any]) -> float:
    """Return the step between the grey values that occur; 0 for floats that take any value."""
    if values.size < 2:
        return 0.0
    low, high = np.quantile(values, [0.01, 0.99])
    grey = np.unique(values[(values >= low) & (values <= high)]).astype(np.float64)
    whole = values.dtype.kind != "f"
    if grey.size < 2 or (not whole and grey.size > values.size / 4):
        return 1.0 if whole else 0.0
    gaps = np.diff(grey)
    smallest = float(gaps.min())
    if float(gaps.max()) <= 2 * smallest * (1 + 1e-6):
        return float(gaps.mean())
    return float(np.gcd.reduce(gaps.astype(np.int64))) if whole else (smallest if grey.size < values.size / 20 else 0.0)


def _saturation(values: npt.NDArray[Any]) -> float | None:
    """Return the highest count where far more pixels have it than the next counts below."""
    if values.size < 100:
        return None
    grey, counts = np.unique(values, return_counts=True)
    top, at = grey[-1], int(counts[-1])
    below = counts[-6:-1].mean() if len(grey) > 1 else np.inf
    return float(top) if at >= 8 and at > 3 * below else None

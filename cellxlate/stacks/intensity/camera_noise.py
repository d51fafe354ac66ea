"""The noise that a camera adds, measured on images that show cells as well: strength, gain, spatial covariance.

Only numpy and scipy. Flat places are told from structure by one ratio: what structure and noise leave between Gaussians
of 1.5 and 4 px, over what a Gaussian of 1.5 px removes. In noise the logarithm of that ratio scatters by 0.28 over
patches of 16 px, whatever the noise's strength, gain and correlation; structure lies above.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage, special

TILE_PX, MOST_TILES, SMALLEST_SIDE_PX = 256, 12, 32
BLOCK_PX = 8
PATCH_BLOCKS = 2
FINE_PX, NEAR_PX, LEVEL_PX, FAR_PX, GROUND_PX = 1.0, 1.5, 2.0, 4.0, 8.0
SCATTER = 0.28
"""Standard deviation of the logarithm of the ratio over patches of pure noise: 0.276 to 0.281, correlated or not."""
FLAT_SCATTERS = 1.3
REACH_PX, FAR_REACH_PX, NOISE_REACH_PX = 4, 10, 5
DARK_SHARE, BLACK_SHARE = 0.2, 0.1
HOT_SIDE_PX, HOT_SHARE, HOT_TIMES = 5, 0.6, 100.0
FEWEST_PATCHES, FEWEST_GAIN_PX = 200, 200
EVEN_SHARE, LEAST_FLAT_SHARE = 0.3, 0.03
HIGH_PER_PX = 0.28
FloatPlane = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Place = TypeVar("Place")


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
    tiles, levels = _tiles(windows, brightness)
    values = np.concatenate([tile[:, ::3].ravel() for tile in tiles]) if tiles else np.zeros(0)
    step = _quantisation(values)
    top = _saturation(values)
    if not any(min(tile.shape) >= SMALLEST_SIDE_PX for tile in tiles) or values.min() == values.max():
        return _unmeasured(tiles, step, top)
    offset, scale = _normal(values)
    ground = offset if brightness is None else float(np.median(np.concatenate([one[:, ::3].ravel() for one in levels])))
    looks = [
        _look(_normalised(tile, offset, scale), _normalised(level, ground, scale))
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


@dataclass(frozen=True)
class _Look:
    """One tile: counts and brightness, fine energy per pixel, and per patch brightness, coarse and near energy."""

    counts: FloatPlane
    level: FloatPlane
    fine: FloatPlane
    patch_level: FloatPlane
    ratio: FloatPlane


def _tiles(
    windows: Iterable[npt.NDArray[Any]], brightness: Sequence[npt.NDArray[Any]] | None
) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    """Cut windows into tiles of at most 256 px and keep at most 12, spread evenly; the same of their brightness."""
    windows = list(windows)
    brightness = windows if brightness is None else list(brightness)
    places = spread_evenly(
        [(number, *inside) for number, window in enumerate(windows) for inside in _windows(window)], MOST_TILES
    )
    return tuple(  # type: ignore[return-value]
        [_finite(images[number][rows, columns]) for number, rows, columns in places] for images in (windows, brightness)
    )


def tiles_of(window: npt.NDArray[Any], most: int) -> list[npt.NDArray[Any]]:
    """Return copies of at most so many tiles of 256 px of a window (Y, X), as `measure_noise` looks at."""
    return [window[inside].copy() for inside in spread_evenly(_windows(window), most)]


def _windows(window: npt.NDArray[Any]) -> list[tuple[slice, slice]]:
    counts = [max(round(size / TILE_PX), 1) for size in window.shape]
    rows, columns = (
        [int(start) for start in np.linspace(0, max(size - TILE_PX, 0), count)]
        for size, count in zip(window.shape, counts, strict=True)
    )
    return [(slice(top, top + TILE_PX), slice(left, left + TILE_PX)) for top in rows for left in columns]


def spread_evenly(places: Sequence[Place], most: int) -> list[Place]:
    """Return at most so many of some places, spread evenly."""
    if len(places) <= most:
        return list(places)
    return [places[(2 * number + 1) * len(places) // (2 * most)] for number in range(most)]


def _finite(tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a tile with the median in place of pixels that are not finite."""
    if tile.dtype.kind != "f":
        return tile
    finite = np.isfinite(tile)
    if finite.all():
        return tile
    return np.where(finite, tile, np.median(tile[finite]) if finite.any() else 0.0)


def _gaussian(plane: FloatPlane, sigma_px: float) -> FloatPlane:
    smooth: FloatPlane = ndimage.gaussian_filter(plane, sigma_px, mode="reflect", truncate=3.0)
    return smooth


def _patches(plane: FloatPlane) -> FloatPlane:
    """Return the means of patches of 16 px, every 8 px."""
    rows, columns = (size // BLOCK_PX * BLOCK_PX for size in plane.shape)
    blocks = plane[:rows, :columns].reshape(rows // BLOCK_PX, BLOCK_PX, columns // BLOCK_PX, BLOCK_PX).mean((1, 3))
    return np.asarray((blocks[1:, 1:] + blocks[:-1, 1:] + blocks[1:, :-1] + blocks[:-1, :-1]) / 4)


def _look(counts: FloatPlane, level: FloatPlane) -> _Look:
    counts = _without_hot(counts)
    near = _gaussian(counts, NEAR_PX)
    energy = _patches((counts - near) ** 2)
    coarse = _patches((near - _gaussian(counts, FAR_PX)) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(energy > 0, np.log(np.maximum(coarse, 1e-30) / energy), np.inf).astype(np.float32)
    return _Look(counts, _gaussian(level, LEVEL_PX), (counts - _gaussian(counts, FINE_PX)) ** 2, _patches(level), ratio)


def _without_hot(counts: FloatPlane) -> FloatPlane:
    """Return a plane with the local mean in place of single pixels that hold nearly all the energy around them."""
    fine = counts - ndimage.uniform_filter(counts, 3, mode="reflect")
    energy = fine**2
    around = HOT_SIDE_PX**2 * ndimage.uniform_filter(energy, HOT_SIDE_PX, mode="reflect")
    hot = (energy > HOT_SHARE * around) & (energy > HOT_TIMES * float(np.median(energy[::2, ::2])))
    if not hot.any():
        return counts
    return np.where(hot, counts - fine * np.float32(9 / 8), counts)  # the mean of the eight others


def _measured(looks: Sequence[_Look], top: float | None) -> CameraNoise:
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
    near, beyond = _without_far(autocovariance, pairs)
    variance = near[FAR_REACH_PX, FAR_REACH_PX]
    if not variance > 0:
        near, variance, beyond = autocovariance, autocovariance[FAR_REACH_PX, FAR_REACH_PX], 1.0
    shape = near / variance
    doubt = float(np.clip(max((clutter - 0.3) / 0.4, (beyond - 0.08) / 0.1), 0.0, 1.0))
    continued = _continued(shape) if doubt > 0 else None
    narrow = _least(shape)
    if continued is not None:
        narrow = min(float(continued[FAR_REACH_PX, FAR_REACH_PX]), 1.0)
        mixed = (1 - doubt) * shape + doubt * continued * (narrow / continued[FAR_REACH_PX, FAR_REACH_PX])
        kept = float(mixed[FAR_REACH_PX, FAR_REACH_PX])
        shape, variance = mixed / kept, variance * kept
    inner = slice(FAR_REACH_PX - REACH_PX, FAR_REACH_PX + REACH_PX + 1)
    covariance = shape[inner, inner]
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


def _unmeasured(tiles: Sequence[npt.NDArray[Any]], step: float, top: float | None) -> CameraNoise:
    """Return what can be said of windows too small for patches, or of one value."""
    sd = 0.0
    fine = [
        (tile - ndimage.gaussian_filter(tile.astype(np.float64), FINE_PX, truncate=3.0)).ravel()
        for tile in tiles
        if tile.size
    ]
    values = np.concatenate(fine) if fine else np.zeros(1)
    sd = float(np.sqrt(np.mean(values**2) / 0.76)) if values.size else 0.0
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


def _masks(looks: Sequence[_Look], chosen: npt.NDArray[np.bool_]) -> Iterable[tuple[_Look, npt.NDArray[np.bool_]]]:
    """Yield each look that has chosen patches, with the pixels of those patches."""
    begin = 0
    for look in looks:
        rows, columns = look.ratio.shape
        here = chosen[begin : begin + look.ratio.size].reshape(rows, columns)
        begin += look.ratio.size
        if not here.any():
            continue
        blocks = np.zeros((rows + PATCH_BLOCKS - 1, columns + PATCH_BLOCKS - 1), bool)
        for row in range(PATCH_BLOCKS):
            for column in range(PATCH_BLOCKS):
                blocks[row : row + rows, column : column + columns] |= here
        mask = np.zeros(look.counts.shape, bool)
        pixels = np.repeat(np.repeat(blocks, BLOCK_PX, axis=0), BLOCK_PX, axis=1)
        mask[: pixels.shape[0], : pixels.shape[1]] = pixels
        yield look, mask


def _autocovariance(looks: Sequence[_Look], chosen: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, float]:
    """Return the autocovariance (21, 21) of chosen patches, from how many pairs, and their mean fine energy."""
    side = 2 * FAR_REACH_PX + 1
    products, pairs, energy, count = np.zeros((side, side)), np.zeros((side, side)), 0.0, 0
    offsets = np.arange(-FAR_REACH_PX, FAR_REACH_PX + 1)
    for look, mask in _masks(looks, chosen):
        weight = mask.astype(np.float32)
        ground = _gaussian(look.counts * weight, GROUND_PX) / np.maximum(_gaussian(weight, GROUND_PX), 1e-3)
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


def _clipped(looks: Sequence[_Look], chosen: npt.NDArray[np.bool_]) -> bool:
    """Return whether more than 2 % of the pixels of chosen patches have the lowest count of all."""
    lowest = min(float(look.counts.min()) for look in looks)
    at, count = 0, 0
    for look, mask in _masks(looks, chosen):
        values = look.counts[mask]
        at, count = at + int((values <= lowest).sum()), count + values.size
    return at > 0.02 * count


def _at_black(looks: Sequence[_Look], flat: npt.NDArray[np.bool_], spread: float) -> tuple[float, float]:
    """Return the fine energy at the darkest fifth of the pixels, in flat patches where it has some; the black level.

    Where none of the darkest pixels are flat, the median tells their energy, which outlines raise less than the mean.
    """
    varied = np.concatenate([np.isfinite(look.ratio).ravel() for look in looks])
    recorded = [(look.level[mask], look.fine[mask]) for look, mask in _masks(looks, varied)]
    level, energy = (np.concatenate(parts) for parts in zip(*recorded, strict=True))
    black, dark = (float(value) for value in np.quantile(level, [BLACK_SHARE, DARK_SHARE]))
    dark += 2 * spread
    inside = [(look.level[mask], look.fine[mask]) for look, mask in _masks(looks, flat)]
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


def _gain(looks: Sequence[_Look], per_energy: float, *, black: float, variance: float, top: float | None) -> float:
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

"""Counts to unit range and back, by robust levels measured per channel of a stack.

The levels are percentiles of the *smoothed* image, so that sensor noise and hot pixels do not set them, and their span
is floored by the measured noise, so that a field without cells is not stretched into a field of noise.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import pi, sqrt
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.prefetch import ahead
from cellxlate.stacks.intensity.camera_noise import measure_noise
from cellxlate.stacks.intensity.constant_parts import ConstantPart, without_empty_parts
from cellxlate.stacks.intensity.drift import BLACK_PERCENTILE as BLACK_PERCENTILE
from cellxlate.stacks.intensity.drift import SMOOTHING_PX as SMOOTHING_PX
from cellxlate.stacks.intensity.hot_pixels import find_hot
from cellxlate.stacks.intensity.noise_patches import tiles_of

WHITE_PERCENTILE = 99.5
SPAN_PER_NOISE = 6.0
THINNED_PX = 2**16
HOT_SPANS = 2.0
TAIL_PERCENTILE = 99.0
TAIL_EVERY_PX = 17
TAIL_SPANS = 1.5
EMPTY_SPANS = 0.02
FEWEST_NOISE_PX, TILES_PER_PLANE = 2**15, 12
WHITE_NOISE_LEFT = 1 / (2 * sqrt(pi) * SMOOTHING_PX)
"""What a Gaussian of 2 px leaves of white noise."""


@dataclass(frozen=True)
class IntensityRange:
    """The counts that become 0 and 1, and the noise that was found.

    Attributes
    ----------
    black, white : float
        Counts; white > black.
    noise : float
        Standard deviation of the noise at the background, in counts (`camera_noise.measure_noise`; where that finds no
        flat place, or the field is small, `pixel_noise`).
    tail : float
        By how many counts the 99th percentile of the pixels themselves exceeds black, where that is more than 1.5
        spans; 0 elsewhere. Where photons are counted one by one, single pixels reach far, and are no faults.
    constant_parts : tuple of ConstantPart
        Values that stand for "nothing recorded", and the share of the sample that each fills.
    drift : tuple of (int, float)
        Time points, and what is to be added to black and white there, in counts; in between it is interpolated. Empty
        where the background stays.
    uneven : (float, float) or None
        The background in the darkest and in the brightest tenth of the field, in counts, where they differ much.
    noise_left : float
        Standard deviation that a Gaussian of 2 px leaves of the noise, in counts; 0 where only `noise` is known.
    """

    black: float
    white: float
    noise: float = 0.0
    tail: float = 0.0
    constant_parts: tuple[ConstantPart, ...] = ()
    drift: tuple[tuple[int, float], ...] = ()
    uneven: tuple[float, float] | None = None
    noise_left: float = 0.0

    @property
    def span(self) -> float:
        """Counts per unit."""
        return self.white - self.black

    @property
    def hot_unit(self) -> float:
        """Only pixels above this, in unit range, can be hot pixels."""
        return HOT_SPANS * max(1.0, self.tail / self.span)

    @property
    def hot_counts(self) -> float:
        """The same in counts."""
        return self.black + self.hot_unit * self.span

    @property
    def empty_values(self) -> tuple[float, ...]:
        """Counts of constant parts in which nothing was recorded."""
        return tuple(part.value for part in self.constant_parts if part.value is not None)

    @property
    def empty_below(self) -> float:
        """A large constant part below so many counts was not recorded either."""
        return self.black - max(SPAN_PER_NOISE * self.noise, EMPTY_SPANS * self.span)

    def at(self, time: int) -> Self:
        """Return the range of one time point."""
        if not self.drift:
            return self
        times, offsets = zip(*self.drift, strict=True)
        offset = float(np.interp(time, times, offsets))
        return replace(self, black=self.black + offset, white=self.white + offset, drift=())

    def stated(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_stated` turns them back."""
        further = {
            "noise_left": self.noise_left,
            "tail": self.tail,
            "constant_parts": [asdict(part) for part in self.constant_parts],
            "drift": [list(one) for one in self.drift],
            "uneven": list(self.uneven or ()),
        }
        values = {"black": self.black, "white": self.white, "noise": self.noise}
        return values | {name: value for name, value in further.items() if value}

    @classmethod
    def from_stated(cls, stated: Mapping[str, Any]) -> Self:
        """Return a range from what `stated` has made of them.

        Raises
        ------
        LookupError, TypeError, ValueError
            They do not say a range.
        """
        parts = tuple(
            ConstantPart(None if part["value"] is None else float(part["value"]), float(part["share"]))
            for part in stated.get("constant_parts", ())
        )
        drift = tuple((int(time), float(offset)) for time, offset in stated.get("drift", ()))
        low_high = stated.get("uneven")
        uneven = None if low_high is None else (float(low_high[0]), float(low_high[1]))
        return cls(
            float(stated["black"]), float(stated["white"]), float(stated["noise"]), float(stated.get("tail", 0.0)),
            parts, drift, uneven, float(stated.get("noise_left", 0.0)),
        )  # fmt: skip

    @property
    def smooth_noise(self) -> float:
        """Standard deviation that a Gaussian of 2 px leaves of the noise; where that is not known, of white noise."""
        return self.noise_left or self.noise * WHITE_NOISE_LEFT

    def to_unit(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Map counts (any shape, any dtype) to float32: black to 0, white to 1, pixels that are not finite to 0."""
        with np.errstate(over="ignore", invalid="ignore"):
            unit = ((counts.astype(np.float64) - self.black) / self.span).astype(np.float32)
        if counts.dtype.kind == "f":
            unit[~np.isfinite(unit)] = 0.0
        return unit

    def levelled(self, counts: npt.NDArray[Any], own: "IntensityRange") -> npt.NDArray[np.float32]:
        """Return counts of other levels on these: black and white are where these have them."""
        moved = (counts.astype(np.float64) - own.black) * (self.span / own.span) + self.black
        return np.asarray(moved, dtype=np.float32)


def smoothed(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a plane (Y, X) smoothed by a Gaussian of 2 px."""
    smooth: npt.NDArray[np.float64] = ndimage.gaussian_filter(counts, SMOOTHING_PX, mode="reflect")
    return smooth


def thinned(smooth: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return every second row and column of a smoothed plane (Y, X) of 65,536 px or more: the rest tells no more."""
    return smooth[::2, ::2] if smooth.size >= THINNED_PX else smooth


def pixel_noise(plane: npt.NDArray[Any], smooth: npt.NDArray[np.float64] | None = None) -> float:
    """Estimate the standard deviation of white pixel noise, in counts, in the darker half of a plane.

    Parameters
    ----------
    plane : ndarray (Y, X)
        Counts. Pixels that are not finite, and those that touch one, are left out.
    smooth : ndarray (Y, X), optional
        The plane after a Gaussian of 2 px, where it is known already.

    Notes
    -----
    Second differences in rows and columns cancel structure that is locally flat or a ramp; their median absolute value
    over the darker half measures the noise of the background. Noise that the camera or a filter has correlated between
    neighbours is underestimated.

    References
    ----------
    J. Immerkaer, Fast noise variance estimation, CVIU 64 (1996), 10.1006/cviu.1996.0060.
    """
    if min(plane.shape) < 3:
        return 0.0
    finite = np.isfinite(plane)
    counts = _filled(plane, finite)
    ridge = counts[:, :-2] - 2 * counts[:, 1:-1] + counts[:, 2:]
    response = (ridge[:-2] - 2 * ridge[1:-1] + ridge[2:]) / 6.0  # (Y - 2, X - 2)
    inner = (smoothed(counts) if smooth is None else smooth)[1:-1, 1:-1]
    if finite.all():
        dark = inner <= np.median(thinned(inner))
    else:
        valid = ndimage.minimum_filter(finite, 3)[1:-1, 1:-1]
        dark = valid & (inner <= np.median(inner[valid] if valid.any() else inner))
    return float(np.median(np.abs(response[dark])) / 0.6745) if dark.any() else 0.0


def _filled(plane: npt.NDArray[Any], finite: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the counts as float64, with the median in place of those that are not finite."""
    counts = plane.astype(np.float64)
    if not finite.all():
        counts[~finite] = np.median(counts[finite]) if finite.any() else 0.0
    return counts


def measure_range(planes: Iterable[npt.NDArray[Any]]) -> IntensityRange:
    """Measure a robust range over planes that share one scale.

    Parameters
    ----------
    planes : iterable of ndarray (Y, X)
        Counts of any dtype. Pixels that are not finite are ignored, and so are planes of one value, unless all are, and
        large constant parts in which nothing was recorded (`constant_parts.empty_parts`).

    Returns
    -------
    IntensityRange
        Black is the 10th and white the 99.5th percentile of the planes smoothed by a Gaussian of 2 px; the span is at
        least six times the pixel noise and at least one count of an integer type.

    Notes
    -----
    A hot pixel (`hot_pixels.find_hot`) that stands out by more than the span of its plane counts as the median around
    it: smoothing alone would spread it over some 25 px, so that one hot pixel in 10,000 could set the white level.
    """
    return combined_range(list(ahead(measured_plane, planes, threads=2)))


def combined_range(planes: Sequence["MeasuredPlane"], offsets: Sequence[float] | None = None) -> IntensityRange:
    """Return the range that some planes share, less what the background of each has drifted, in counts."""
    lit = [
        (plane, plane.smoothed, offset)
        for plane, offset in zip(planes, offsets or [0.0] * len(planes), strict=True)
        if plane.smoothed is not None
    ]
    if not lit:
        black = next((plane.constant for plane in planes if plane.constant is not None), 0.0)
        return IntensityRange(black, black + _smallest_span(black, black, 1.0))
    black, white = _percentiles(np.concatenate([smooth - offset if offset else smooth for _, smooth, offset in lit]))
    tiles = [tile for plane, _, _ in lit for tile in plane.tiles]
    noise, left = _noise(tiles, float(np.median([plane.noise for plane, _, _ in lit])))
    least = max(plane.smallest_span for plane in planes)
    white = max(white, black + max(SPAN_PER_NOISE * noise, _smallest_span(black, white, least)))
    tail = (
        float(np.percentile(np.concatenate([plane.raw - offset for plane, _, offset in lit]), TAIL_PERCENTILE)) - black
    )
    sampled = sum(plane.pixels for plane in planes)
    empty: Counter[float | None] = Counter()
    for plane in planes:
        empty.update(plane.empty)
    parts = tuple(ConstantPart(value, count / sampled) for value, count in empty.most_common())
    return IntensityRange(
        black, white, noise, tail if tail > TAIL_SPANS * (white - black) else 0.0, parts, noise_left=left
    )


@dataclass(frozen=True)
class MeasuredPlane:
    """What one plane tells: finite pixels of it smoothed, and its noise; or its only value, or nothing.

    `raw` holds some of the pixels themselves, `empty` how many stand for nothing recorded, by their value;
    `backgrounds` are black levels of parts of it; NaN where most is not known.
    """

    pixels: int
    smallest_span: float
    empty: Mapping[float | None, int] = field(default_factory=dict)
    constant: float | None = None
    smoothed: npt.NDArray[np.float64] | None = None
    noise: float = 0.0
    raw: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    backgrounds: npt.NDArray[np.float64] = field(default_factory=lambda: np.full((1, 1), np.nan))
    tiles: Sequence[npt.NDArray[Any]] = ()


def _noise(tiles: Sequence[npt.NDArray[Any]], pixel: float) -> tuple[float, float]:
    """Return the noise at the background, and what a Gaussian of 2 px leaves of it, in counts.

    A few tiles hold too few flat places; then, and where none is flat, the pixel noise counts, but for the least that
    the camera's noise can be.
    """
    if sum(tile.size for tile in tiles) < FEWEST_NOISE_PX:
        return pixel, 0.0
    camera = measure_noise(tiles)
    if camera.reliable:
        return camera.sd_counts, camera.after_smoothing(SMOOTHING_PX)
    noise = max(pixel, camera.sd_interval[0])
    return noise, noise * min(camera.left_by_smoothing(SMOOTHING_PX), camera.sd_counts / max(noise, 1e-300))


def measured_plane(plane: npt.NDArray[Any], parts: tuple[int, int] | None = None) -> MeasuredPlane:
    """Return what one plane (Y, X) tells, with the backgrounds of so many parts along its rows and columns."""
    smallest_span, pixels = 0.0 if plane.dtype.kind == "f" else 1.0, plane.size
    unknown = pixels - int(np.count_nonzero(np.isfinite(plane)))
    plane, left_out = without_empty_parts(plane)
    empty: dict[float | None, int] = {None: unknown} if unknown else {}
    empty.update(left_out)
    finite = np.isfinite(plane)
    if not finite.any():
        return MeasuredPlane(pixels, smallest_span, empty)
    counts = _filled(plane, finite)
    if counts.min() == counts.max():
        return MeasuredPlane(pixels, smallest_span, empty, constant=float(counts.flat[0]))
    smooth = smoothed(counts)
    noise = pixel_noise(plane, smooth)
    smooth = _without_hot(counts, smooth, noise)
    raw = counts[finite]
    raw = raw[::TAIL_EVERY_PX] if pixels >= THINNED_PX else raw
    kept = thinned(smooth).ravel() if finite.all() else smooth[finite]
    return MeasuredPlane(
        pixels,
        smallest_span,
        empty,
        smoothed=kept,
        noise=noise,
        raw=raw,
        backgrounds=_backgrounds(smooth, finite, parts),
        tiles=tiles_of(plane, TILES_PER_PLANE),
    )


def _backgrounds(
    smooth: npt.NDArray[np.float64], finite: npt.NDArray[np.bool_], parts: tuple[int, int] | None
) -> npt.NDArray[np.float64]:
    """Return the black level of each of so many parts along rows and columns; NaN where half of it is not known."""
    backgrounds = np.full(parts or (1, 1), np.nan)
    if parts is None:
        return backgrounds
    rows, columns = (np.arange(number + 1) * size // number for number, size in zip(parts, smooth.shape, strict=True))
    for row, column in np.ndindex(*parts):
        inside = slice(rows[row], rows[row + 1], 2), slice(columns[column], columns[column + 1], 2)
        known = smooth[inside][finite[inside]]
        if 2 * known.size > finite[inside].size:
            backgrounds[row, column] = np.percentile(known, BLACK_PERCENTILE)
    return backgrounds


def _smallest_span(black: float, white: float, least: float) -> float:
    """Return the span below which float32 would lose the counts inside the range."""
    return max(least, 1e-6 * max(abs(black), abs(white)), float(np.finfo(np.float32).tiny))


def _percentiles(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    black, white = np.percentile(values, [BLACK_PERCENTILE, WHITE_PERCENTILE])
    return float(black), float(white)


def _without_hot(
    counts: npt.NDArray[np.float64], smooth: npt.NDArray[np.float64], noise: float
) -> npt.NDArray[np.float64]:
    """Return a plane (Y, X) smoothed as it is, or, where it has hot pixels, smoothed again without them."""
    black, white = _percentiles(thinned(smooth))
    excess = max(white - black, SPAN_PER_NOISE * noise)
    if excess <= 0 or counts.max() <= white + excess:
        return smooth
    rows, columns, calm = find_hot(counts, white + excess, excess)
    if not len(rows):
        return smooth
    cooled = counts.copy()
    cooled[rows, columns] = calm
    return smoothed(cooled)

"""A canvas on which structures are drawn: random numbers of its own, smooth noise, and points along paths as light.

Thin structures are points, shared out to the four nearest pixels and blurred once for each width. Noise is a cubic
spline over white noise, two small matrix products.
"""

from dataclasses import dataclass
from math import exp, log, pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
"""Floating-point numbers of either precision."""
Bools = npt.NDArray[np.bool_]
Light = tuple[Floats, Bools]
"""Light of a structure, and where it is; (Y, X) each, on the canvas."""

MASK_LEVEL = 0.12  # of its own peak, above which light belongs to a structure
STEP_PX = 0.6  # between the points of a path
SPLINE_STD = 0.4794  # of a cubic spline over white noise of unit variance, in two dimensions


@dataclass(frozen=True)
class Canvas:
    """What all structures of one field share: the canvas around it, its blur, and the random numbers."""

    shape: tuple[int, int]
    margin_px: int
    scale: float
    psf_px: float
    rng: np.random.Generator
    fraction: float | None = None
    """Share of the field that bodies shall cover; None for any."""

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the field itself."""
        inside = slice(self.margin_px, -self.margin_px)
        return inside, inside

    def between(self, low: float, high: float) -> float:
        """Draw a number evenly between two."""
        return float(self.rng.uniform(low, high))

    def decades(self, low: float, high: float) -> float:
        """Draw a number whose logarithm lies evenly between those of two positive ones."""
        return exp(self.between(log(low), log(high)))

    def chance(self, share: float) -> bool:
        """Say yes in a share of the draws."""
        return bool(self.rng.random() < share)

    def noise(self, grain_px: float) -> Floats:
        """Draw smooth noise of zero mean and unit variance with grains of a size; (Y, X)."""
        return smooth_noise(self.shape, grain_px, self.rng)

    def blur(self, light: Array, sigma_px: float) -> Floats:
        """Blur by a Gaussian."""
        blurred: Floats = ndimage.gaussian_filter(light, sigma_px, mode="nearest", truncate=3.0)
        return blurred

    def brightness(self, count: int, spread: float) -> Floats:
        """Draw relative brightness: lognormal, at most 30 times below the median."""
        drawn: Floats = np.exp(spread * self.rng.standard_normal(count)).clip(0.04, None).astype(np.float32)
        return drawn

    def places(self, count: int, reach_px: float = 0.0) -> Floats:
        """Draw places all over the canvas and a reach beyond it, the first one inside the field; (count, 2)."""
        size = np.asarray(self.shape, np.float64)
        drawn = self.rng.random((count, 2)) * (size + 2.0 * reach_px) - reach_px
        drawn[:1] = self.margin_px + self.rng.random((1, 2)) * (size - 2.0 * self.margin_px)
        return drawn.astype(np.float32)


def smooth_noise(shape: tuple[int, int], grain_px: float, rng: np.random.Generator) -> Floats:
    """Draw noise (Y, X) of zero mean and about unit variance: a cubic spline over white noise, at a random offset.

    Its knots lie `grain_px` apart, at least 1.
    """
    down, over = (spline_basis(size, max(grain_px, 1.0), float(rng.random())) for size in shape)
    knots: Array = rng.standard_normal((down.shape[1], over.shape[1]), dtype=np.float32) / np.float32(SPLINE_STD)
    noise: Array = down @ (knots @ over.T)
    return noise


def spline_basis(size: int, grain_px: float, phase: float) -> Floats:
    """Return the weights of the knots of a cubic spline at each of a row of pixels; (size, knots)."""
    position = np.arange(size, dtype=np.float32) / np.float32(grain_px) + np.float32(phase)
    first = position.astype(np.intp)
    along = position - first
    back = 1.0 - along
    basis = np.zeros((size, int(first[-1]) + 4), np.float32)
    at = np.arange(size)
    basis[at, first] = back**3 / 6.0
    basis[at, first + 1] = (3.0 * along**3 - 6.0 * along**2 + 4.0) / 6.0
    basis[at, first + 2] = (3.0 * back**3 - 6.0 * back**2 + 4.0) / 6.0
    basis[at, first + 3] = along**3 / 6.0
    return basis


def splat(canvas: Canvas, points: Array, weights: Array) -> Floats:
    """Add points (count, 2) to the four pixels around each; (Y, X)."""
    rows, columns = canvas.shape
    corner = np.floor(points)
    part = points - corner
    row, column = corner[:, 0].astype(np.intp), corner[:, 1].astype(np.intp)
    inside = (row >= 0) & (row < rows - 1) & (column >= 0) & (column < columns - 1)
    row, column, part, weights = row[inside], column[inside], part[inside], weights[inside]
    first = row * columns + column
    down, over = part[:, 0], part[:, 1]
    pixels = np.concatenate([first, first + 1, first + columns, first + columns + 1])
    shares = np.concatenate(
        [
            weights * (1.0 - down) * (1.0 - over),
            weights * (1.0 - down) * over,
            weights * down * (1.0 - over),
            weights * down * over,
        ]
    )
    return np.bincount(pixels, shares, minlength=canvas.area_px).reshape(canvas.shape).astype(np.float32)


def walks(
    canvas: Canvas, starts: Array, *, length_px: float, persistence_px: float, headings: Array
) -> tuple[Floats, npt.NDArray[np.intp], Floats]:
    """Walk persistently from starts: points (count, 2), whose walk each is, and how far along it lies (0 to 1)."""
    count = len(starts)
    own = length_px * np.exp(0.5 * canvas.rng.standard_normal(count)).clip(0.2, 3.0)
    steps = np.maximum((own / STEP_PX).astype(np.intp), 2)
    most = int(steps.max())
    turns = canvas.rng.standard_normal((count, most), dtype=np.float32) * np.float32(sqrt(STEP_PX / persistence_px))
    turns[:, 0] = headings
    angle = np.cumsum(turns, axis=1)
    down = starts[:, :1] + STEP_PX * np.cumsum(np.sin(angle), axis=1)
    over = starts[:, 1:] + STEP_PX * np.cumsum(np.cos(angle), axis=1)
    number = np.arange(most)
    within = number < steps[:, None]  # (count, most)
    walk, at = np.nonzero(within)
    along = (at / steps[walk]).astype(np.float32)
    return np.stack([down[within], over[within]], axis=1), walk, along


def headings_from(canvas: Canvas, starts: Array) -> Array:
    """Draw where walks go from their starts: anywhere, about one direction or two, or as their neighbours do."""
    rng, count, kind = canvas.rng, len(starts), canvas.between(0.0, 1.0)
    free = rng.uniform(0.0, 2.0 * pi, count)
    if kind < 0.4:
        return free
    if kind < 0.65:
        at = tuple(starts.T.astype(np.intp).clip(0, np.asarray(canvas.shape)[:, None] - 1))
        mean = canvas.between(0.5, 2.0) * canvas.noise(canvas.decades(40.0, 200.0) * canvas.scale)[at]
    else:
        mean = rng.integers(0, 2, count) * (canvas.between(0.5, 1.6) if kind > 0.85 else 0.0)
    turned = canvas.between(0.0, 2.0 * pi) + pi * rng.integers(0, 2, count)
    headings: Array = mean + turned + canvas.between(0.05, 0.5) * rng.standard_normal(count)
    return headings


def line_light(
    canvas: Canvas, points: Array, weights: Array, radius_px: float, *, flat: bool = False, hollow: float = 0.0
) -> Light:
    """Blur points of paths to tubes of a radius; flat ones have an even inside and firm edges, hollow ones dark cores.

    The mask is where an evenly bright path would have a part of the light in its middle.
    """
    even = splat(canvas, points, np.full(len(points), STEP_PX, np.float32))
    if not flat:
        sigma_px = sqrt((0.5 * radius_px) ** 2 + canvas.psf_px**2)
        mask = canvas.blur(even, sigma_px) > MASK_LEVEL / (sqrt(2.0 * pi) * sigma_px)
        light = canvas.blur(splat(canvas, points, STEP_PX * weights), sigma_px)
        return light * np.float32(sqrt(2.0 * pi) * sigma_px), mask
    sigma_px = max(0.6 * radius_px, 0.5)
    peak = 1.0 / (sqrt(2.0 * pi) * sigma_px)
    density = canvas.blur(even, sigma_px)
    local = canvas.blur(splat(canvas, points, STEP_PX * weights), sigma_px) / np.maximum(density, 1e-3 * peak)
    level = density / np.float32(peak)
    body = ((level - 0.25) / 0.2).clip(0.0, 1.0)
    if hollow:
        body = body * (1.0 - hollow * ((level - 0.7) / 0.3).clip(0.0, 1.0))
    light = canvas.blur(body * local, canvas.psf_px)
    mask = canvas.blur((level > 0.35).astype(np.float32), canvas.psf_px) > MASK_LEVEL
    return light, mask


def spots(canvas: Canvas, points: Array, weights: Array, sigma_px: float) -> Light:
    """Blur points to Gaussian spots of unit height; the mask ends where one alone is at its part of the height."""
    height = np.float32(2.0 * pi * (sigma_px**2 + 1.0 / 6.0))
    even = canvas.blur(splat(canvas, points, np.ones(len(points), np.float32)), sigma_px)
    return canvas.blur(splat(canvas, points, weights), sigma_px) * height, even * height > MASK_LEVEL


def nothing(canvas: Canvas) -> Light:
    """Return a canvas without light."""
    return np.zeros(canvas.shape, np.float32), np.zeros(canvas.shape, np.bool_)


def together(one: Light, other: Light) -> Light:
    """Add the light of two structures."""
    return one[0] + other[0], one[1] | other[1]

"""Drawn fluorescent structures with exact masks: what a generalist is trained on where no clear recordings are at hand.

Every structure is light on a canvas that is larger than the field and cut to it, so borders look like the middle. Thin
structures are points along their paths, shared out to the four nearest pixels and blurred once for each width. Bodies
of cells are outlines in polar harmonics. Textures are cubic splines over white noise, two small matrix products each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, exp, log, pi, sqrt
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import Voronoi

from cellxlate.errors import OptionError

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Structure = Literal["filaments", "tubules", "membranes", "puncta", "blobs", "nuclei", "reticulum", "cells", "tissue"]
STRUCTURES: tuple[str, ...] = get_args(Structure)
"""Kinds that `draw_structure` draws; "mixed" draws any of them, or two on top of each other."""

SCALE_LIMITS = (0.2, 8.0)
MASK_LEVEL = 0.12  # of its own peak, above which light belongs to a structure
PSF_PX, PSF_LIMITS_PX = (0.6, 2.0), (0.5, 3.0)  # Gaussian sigma at scale 1, and at any scale
STEP_PX = 0.6  # between the points of a path
SPLINE_STD = 0.4794  # of a cubic spline over white noise of unit variance, in two dimensions
CHUNK_POINTS = 2**21
HARMONICS = (2, 3, 4, 5)  # of an outline, above the ellipse


@dataclass(frozen=True)
class DrawnField:
    """A drawn field and where its structure is.

    Attributes
    ----------
    image : ndarray (Y, X) or (Z, Y, X), float32
        Light without noise, from 0 to about 1: blurred as in focus, with the haze.
    mask : ndarray of the same shape, bool
        Where the structure's own light in focus exceeds about an eighth of its peak nearby; cells whole, without holes.
    """

    image: Floats
    mask: Bools


@dataclass(frozen=True)
class Canvas:
    """What all structures of one field share: the canvas around it, its blur, and the random numbers."""

    shape: tuple[int, int]
    margin_px: int
    scale: float
    psf_px: float
    rng: np.random.Generator

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

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

    def blur(self, light: Floats, sigma_px: float) -> Floats:
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


Light = tuple[Floats, Bools]
"""Light of a structure, and where it is; (Y, X) each, on the canvas."""


def draw_structure(
    kind: str,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    scale: float = 1.0,
    haze: float = 0.0,
) -> DrawnField:
    """Draw a field of one kind of structure, clear and without noise.

    Parameters
    ----------
    kind : str
        One of `STRUCTURES`, or "mixed": any of them, or two on top of each other.
    shape : tuple of int
        Rows and columns, in pixels.
    rng : numpy.random.Generator
        Where everything that varies is drawn from: the same state gives the same field, bit for bit on one machine.
    scale : float
        Multiplies all sizes, 0.2 to 8. The blur grows with it within 0.5 to 3 px.
    haze : float
        Out-of-focus light: its brightest part relative to the structure's, 0 for none. Not in the mask.

    Returns
    -------
    DrawnField
        Image float32 and mask, both (Y, X).

    Raises
    ------
    OptionError
        The kind does not exist, or a number is outside its range.

    Notes
    -----
    Fields differ on purpose: densities from a single structure to a field that is covered, brightness over one to two
    decades, blur from 0.6 to 2 px. A field of 256 x 256 px takes 10 to 30 ms on one core.

    Examples
    --------
    >>> field = draw_structure("filaments", (64, 96), np.random.default_rng(1))
    >>> field.image.shape, field.image.dtype, bool(field.mask.any())
    ((64, 96), dtype('float32'), True)
    """
    _check(kind, shape, 2, scale=scale, haze=haze)
    psf_px = min(max(float(rng.uniform(*PSF_PX)) * scale, PSF_LIMITS_PX[0]), PSF_LIMITS_PX[1])
    margin_px = ceil(4.0 * psf_px + 6.0 * scale) + 4
    canvas = Canvas((shape[0] + 2 * margin_px, shape[1] + 2 * margin_px), margin_px, scale, psf_px, rng)
    light, mask = _draw(kind, canvas)
    if canvas.chance(0.5):  # uneven labelling or illumination
        light = light * np.exp(canvas.between(0.1, 0.5) * canvas.noise(canvas.decades(60.0, 300.0)))
    core = (slice(margin_px, -margin_px), slice(margin_px, -margin_px))
    inside, own = mask[core], light[core]
    bright = _bright(own, inside) if inside.any() else _bright(light, mask)
    image = own / np.float32(bright)
    if haze > 0:
        image = image + np.float32(haze) * _haze(canvas, light / np.float32(bright))[core]
    return DrawnField(image=_softened(image), mask=np.ascontiguousarray(inside))


def smooth_noise(shape: tuple[int, int], grain_px: float, rng: np.random.Generator) -> Floats:
    """Draw noise of zero mean and about unit variance that is smooth over grains.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    grain_px : float
        Spacing of the knots of a cubic spline, at least 1.
    rng : numpy.random.Generator
        Where it is drawn from.

    Returns
    -------
    ndarray (Y, X), float32
        A spline over white noise, with its knots at a random offset.
    """
    down, over = (_spline_basis(size, max(grain_px, 1.0), float(rng.random())) for size in shape)
    knots = rng.standard_normal((down.shape[1], over.shape[1]), dtype=np.float32) / np.float32(SPLINE_STD)
    noise: Floats = down @ (knots @ over.T)
    return noise


def _check(kind: str, shape: tuple[int, ...], axes: int, *, scale: float, haze: float) -> None:
    if kind not in (*STRUCTURES, "mixed"):
        raise OptionError(f"structure {kind!r} does not exist; choose one of {', '.join(STRUCTURES)}, mixed")
    if len(shape) != axes or any(not size >= 1 or size % 1 for size in shape):
        raise OptionError(f"shape {tuple(shape)} is not {'Z,Y,X'[-2 * axes + 1 :]} with sizes of at least 1")
    if not SCALE_LIMITS[0] <= scale <= SCALE_LIMITS[1]:
        raise OptionError(f"scale {scale} is outside {SCALE_LIMITS[0]} to {SCALE_LIMITS[1]}; choose one inside")
    if not 0 <= haze <= 100:
        raise OptionError(f"haze {haze} is outside 0 to 100; choose one inside")


def _spline_basis(size: int, grain_px: float, phase: float) -> Floats:
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


def _bright(light: Floats, mask: Bools) -> float:
    """Return what is taken for 1: the 99.8th percentile of light in the mask."""
    own = light[mask]
    if not own.size:
        return max(float(light.max()), 1e-6)
    return max(float(np.partition(own, min(int(0.998 * own.size), own.size - 1))[int(0.998 * own.size)]), 1e-6)


def _softened(image: Floats) -> Floats:
    """Bend what is far above 1 down to at most 2."""
    above = np.maximum(image - 1.0, 0.0)
    softened: Floats = np.ascontiguousarray(np.minimum(image, 1.0) + np.tanh(above), dtype=np.float32)
    return softened


def _haze(canvas: Canvas, light: Floats) -> Floats:
    """Return out-of-focus light of about unit height: the scene's own, that of shifted copies of it, and a floor."""
    step = 4
    small = light[: light.shape[0] // step * step, : light.shape[1] // step * step]
    small = small.reshape(small.shape[0] // step, step, small.shape[1] // step, step).mean(axis=(1, 3))
    around = np.pad(small, [(0, size) for size in small.shape], mode="symmetric")
    planes = []
    for number in range(int(canvas.rng.integers(1, 5))):
        first = [0, 0] if number == 0 else [int(canvas.rng.integers(0, size + 1)) for size in small.shape]
        copy = around[first[0] : first[0] + small.shape[0], first[1] : first[1] + small.shape[1]]
        copy = copy[:: -1 if number % 2 else 1]
        sigma_px = canvas.decades(2.5, 24.0) * canvas.scale**0.5
        blurred = ndimage.gaussian_filter(copy, sigma_px / step, mode="reflect", truncate=3.0)
        planes.append(blurred / max(float(blurred.max()), 1e-6) * canvas.between(0.3, 1.0))
    summed = np.sum(planes, axis=0) + canvas.between(0.0, 0.3)
    factors = tuple(wide / narrow for wide, narrow in zip(light.shape, summed.shape, strict=True))
    whole: Floats = ndimage.zoom(summed.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
    return whole / max(float(whole.max()), 1e-6)


def _splat(canvas: Canvas, points: Floats, weights: Floats) -> Floats:
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


def _walks(
    canvas: Canvas,
    starts: Floats,
    *,
    length_px: float,
    persistence_px: float,
    headings: npt.NDArray[Any],
    length_spread: float = 0.5,
) -> tuple[Floats, npt.NDArray[np.intp], Floats]:
    """Walk persistently from starts: points (count, 2), whose walk each is, and how far along it lies (0 to 1)."""
    count = len(starts)
    own = length_px * np.exp(length_spread * canvas.rng.standard_normal(count)).clip(0.2, 3.0)
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


def _headings(canvas: Canvas, starts: Floats) -> npt.NDArray[Any]:
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
    return mean + turned + canvas.between(0.05, 0.5) * rng.standard_normal(count)


def _line_light(
    canvas: Canvas, points: Floats, weights: Floats, radius_px: float, *, flat: bool = False, hollow: float = 0.0
) -> Light:
    """Blur points of paths to tubes of a radius; flat ones have an even inside and firm edges, hollow ones dark cores.

    The mask is where an evenly bright path would have a part of the light in its middle.
    """
    even = _splat(canvas, points, np.full(len(points), STEP_PX, np.float32))
    if not flat:
        sigma_px = sqrt((0.5 * radius_px) ** 2 + canvas.psf_px**2)
        mask = canvas.blur(even, sigma_px) > MASK_LEVEL / (sqrt(2.0 * pi) * sigma_px)
        light = canvas.blur(_splat(canvas, points, STEP_PX * weights), sigma_px)
        return light * np.float32(sqrt(2.0 * pi) * sigma_px), mask
    sigma_px = max(0.6 * radius_px, 0.5)
    peak = 1.0 / (sqrt(2.0 * pi) * sigma_px)
    density = canvas.blur(even, sigma_px)
    local = canvas.blur(_splat(canvas, points, STEP_PX * weights), sigma_px) / np.maximum(density, 1e-3 * peak)
    level = density / np.float32(peak)
    body = ((level - 0.25) / 0.2).clip(0.0, 1.0)
    if hollow:
        body = body * (1.0 - hollow * ((level - 0.7) / 0.3).clip(0.0, 1.0))
    light = canvas.blur(body * local, canvas.psf_px)
    mask = canvas.blur((level > 0.35).astype(np.float32), canvas.psf_px) > MASK_LEVEL
    return light, mask


def _filaments(canvas: Canvas) -> Light:
    """Draw actin or microtubules: persistent walks of a few widths, crossing, bundled, aligned or from centres."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = _nothing(canvas)
    spread = canvas.between(0.2, 1.1)
    density = canvas.decades(0.008, 0.5) / scale  # length on an area
    layers = int(rng.integers(1, 3))
    persistence_px = canvas.decades(12.0, 800.0) * scale
    length_px = canvas.decades(30.0, 400.0) * scale
    for _ in range(layers):
        count = max(int(density / layers * canvas.area_px / min(length_px, 1.2 * max(canvas.shape))), 1)
        reach_px = min(0.5 * length_px, 100.0)
        starts = canvas.places(count, reach_px)
        headings = _headings(canvas, starts)
        if canvas.chance(0.2):  # microtubules from their centres
            centres = canvas.places(int(rng.integers(1, 1 + max(1, int(3 / scale)))))
            starts = centres[rng.integers(0, len(centres), count)] + rng.normal(0.0, 3.0 * scale, (count, 2))
            headings = rng.uniform(0.0, 2.0 * pi, count)
        if canvas.chance(0.35):  # bundles
            strands = int(rng.integers(2, 7))
            bundles = -(-count // strands)
            which = rng.integers(0, bundles, count)
            starts = starts[which] + rng.normal(0.0, canvas.between(0.6, 4.0) * scale, (count, 2))
            headings = headings[which] + rng.normal(0.0, 0.06, count)
        points, walk, along = _walks(
            canvas, starts.astype(np.float32), length_px=length_px, persistence_px=persistence_px, headings=headings
        )
        weights = canvas.brightness(count, spread)[walk]
        if canvas.chance(0.6):
            phase = rng.uniform(0.0, 2.0 * pi, count).astype(np.float32)[walk]
            waves = np.float32(2.0 * pi * canvas.between(0.5, 4.0))
            weights = weights * (1.0 + canvas.between(0.1, 0.6) * np.sin(waves * along + phase)).astype(np.float32)
        if canvas.chance(0.3):  # speckles of sparse labels
            weights = weights * rng.gamma(canvas.decades(0.1, 1.0), size=len(weights)).astype(np.float32)
        radius_px = canvas.decades(0.2, 2.5) * scale
        light, mask = _together((light, mask), _line_light(canvas, points, weights, radius_px))
    return light, mask


def _tubules(canvas: Canvas) -> Light:
    """Draw mitochondria: short thick curved tubes, fragments or networks, even or hollow, often around nuclei."""
    scale, rng = canvas.scale, canvas.rng
    radius_px = canvas.decades(1.0, 4.0) * scale
    length_px = radius_px * canvas.decades(2.0, 40.0)
    density = canvas.decades(0.02, 0.6) / (2.0 * radius_px)
    reach_px = min(0.5 * length_px, 60.0)
    count = max(int(density * canvas.area_px / length_px), 1)
    starts = canvas.places(count, reach_px)
    headings = _headings(canvas, starts) if canvas.chance(0.3) else rng.uniform(0.0, 2.0 * pi, count)
    if canvas.chance(0.6):  # in cells, away from their nuclei
        cell_px = canvas.between(40.0, 110.0) * scale
        centres = canvas.places(1 + int(canvas.between(0.2, 1.0) * canvas.area_px / (6.0 * cell_px**2)), cell_px)
        toward = rng.uniform(0.0, 2.0 * pi, count)
        away = cell_px * (0.35 + np.abs(rng.normal(0.0, 0.35, count)))
        starts = centres[rng.integers(0, len(centres), count)]
        starts = starts + (away * np.stack([np.sin(toward), np.cos(toward)])).T
        starts[:1] = canvas.places(1)
        headings = headings if canvas.chance(0.4) else toward + rng.normal(0.0, 0.7, count)
    persistence_px = canvas.decades(6.0, 60.0) * scale
    points, walk, along = _walks(
        canvas, starts.astype(np.float32), length_px=length_px, persistence_px=persistence_px, headings=headings
    )
    if canvas.chance(0.35) and len(points) > 10:  # branches
        chosen = points[rng.integers(0, len(points), max(count // 2, 1))]
        branches, branch, far = _walks(
            canvas,
            chosen,
            length_px=0.5 * length_px + radius_px,
            persistence_px=persistence_px,
            headings=rng.uniform(0.0, 2.0 * pi, len(chosen)),
        )
        points = np.concatenate([points, branches])
        walk, along = np.concatenate([walk, branch % count]), np.concatenate([along, far])
    weights = canvas.brightness(count, canvas.between(0.1, 0.8))[walk]
    flat = canvas.chance(0.7)
    hollow = canvas.between(0.3, 0.8) if canvas.chance(0.25) else 0.0
    light, mask = _line_light(canvas, points, weights, radius_px, flat=flat, hollow=hollow)
    if canvas.chance(0.6):
        grains = canvas.noise(canvas.between(0.8, 2.5) * max(radius_px, canvas.psf_px))
        light = light * np.exp(canvas.between(0.1, 0.5) * grains)
    return light, mask


def _membranes(canvas: Canvas) -> Light:
    """Draw membranes: bent edges between the nearest of many places, or outlines, of uneven thickness, with gaps."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = _nothing(canvas)
    if canvas.chance(0.75):
        points, edge = _cell_edges(canvas, canvas.decades(10.0, 90.0) * scale)
    else:
        bodies = _bodies(canvas, canvas.decades(8.0, 70.0) * scale, cover=canvas.decades(0.15, 1.2))
        points, edge = _outline_points(bodies)
    bend_px = canvas.decades(6.0, 40.0) * scale
    strength_px = np.float32(canvas.between(0.02, 0.16) * bend_px)
    at = tuple(points.T.astype(np.intp).clip(0, np.asarray(canvas.shape)[:, None] - 1))
    points = points + strength_px * np.stack([canvas.noise(bend_px)[at], canvas.noise(bend_px)[at]], axis=1)
    weights = canvas.brightness(int(edge.max(initial=0)) + 1, canvas.between(0.05, 0.7))[edge]
    weights = weights * np.exp(canvas.between(0.1, 0.6) * canvas.noise(canvas.decades(2.0, 30.0) * scale)[at])
    if canvas.chance(0.3):
        present = canvas.noise(canvas.decades(4.0, 20.0) * scale)[at] > canvas.between(-1.8, -0.6)
        points, weights, edge = points[present], weights[present], edge[present]
    layers = int(rng.integers(1, 3))
    for layer in range(layers):
        chosen = edge % layers == layer
        radius_px = canvas.decades(0.4, 4.0) * scale
        part = _line_light(
            canvas, points[chosen], weights[chosen], radius_px, flat=radius_px > 2.0 and canvas.chance(0.5)
        )
        light, mask = _together((light, mask), part)
    return light, mask


def _cell_edges(canvas: Canvas, spacing_px: float) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return points along the edges between jittered places of a triangular lattice, and whose edge each is."""
    rng = canvas.rng
    reach_px = 3.0 * spacing_px
    stretch = canvas.decades(0.6, 1.6)
    steps = np.array([spacing_px * stretch * sqrt(0.75), spacing_px / stretch])
    sizes = [ceil((size + 2.0 * reach_px) / step) + 1 for size, step in zip(canvas.shape, steps, strict=True)]
    row, column = np.indices(sizes).reshape(2, -1)
    places = np.stack([row, column + 0.5 * (row % 2)], axis=1) + rng.random(2)
    places = (places + canvas.decades(0.05, 0.6) * rng.standard_normal(places.shape)) * steps - reach_px
    if canvas.chance(0.4):
        angle = canvas.between(0.0, pi)
        middle = np.asarray(canvas.shape) / 2.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        places = ((places - middle) * sqrt(2.0)) @ turn.T / sqrt(2.0) + middle
    edges = Voronoi(places)
    pairs = np.asarray(edges.ridge_vertices)
    pairs = pairs[(pairs >= 0).all(axis=1)]
    start, end = edges.vertices[pairs[:, 0]], edges.vertices[pairs[:, 1]]
    lengths = np.hypot(*(end - start).T)
    low, high = -20.0, np.asarray(canvas.shape) + 20.0
    near = (np.maximum(start, end) > low).all(axis=1) & (np.minimum(start, end) < high).all(axis=1)
    near &= lengths < 4.0 * max(canvas.shape)
    start, end, lengths = start[near], end[near], lengths[near]
    counts = np.maximum((lengths / STEP_PX).astype(np.intp), 1)
    edge = np.repeat(np.arange(len(counts)), counts)
    along = (np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + 0.5) / counts[edge]
    points = start[edge] + along[:, None] * (end - start)[edge]
    return points.astype(np.float32), edge


def _puncta(canvas: Canvas) -> Light:
    """Draw vesicles or single molecules: spots from unresolved to 4 px, evenly spread, in clusters or in cells."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = _nothing(canvas)
    density = canvas.decades(1e-4, 0.02) / scale**2
    count = max(int(density * canvas.area_px), 1)
    points = canvas.places(count)
    layout = canvas.between(0.0, 1.0)
    if layout > 0.5:
        cell_px = canvas.decades(8.0, 60.0) * scale
        centres = canvas.places(1 + int(canvas.decades(0.05, 1.0) * canvas.area_px / (8.0 * cell_px**2)), cell_px)
        toward = rng.uniform(0.0, 2.0 * pi, count)
        away = np.abs(rng.normal(0.0, 0.6, count)) if layout > 0.75 else np.sqrt(rng.uniform(0.1, 1.0, count))
        points = centres[rng.integers(0, len(centres), count)]
        points = points + (cell_px * away * np.stack([np.sin(toward), np.cos(toward)])).T
        points[:1] = canvas.places(1)
        points = points.astype(np.float32)
    weights = canvas.brightness(count, canvas.between(0.1, 1.3))
    layers = int(rng.integers(1, 4))
    for layer in range(layers):
        radius_px = canvas.decades(0.05, 1.6) * scale
        sigma_px = sqrt(radius_px**2 + canvas.psf_px**2)
        part = _spots(canvas, points[layer::layers], weights[layer::layers], sigma_px)
        light, mask = _together((light, mask), part)
    return light, mask


def _spots(canvas: Canvas, points: Floats, weights: Floats, sigma_px: float) -> Light:
    """Blur points to Gaussian spots of unit height; the mask ends where one alone is at its part of the height."""
    height = np.float32(2.0 * pi * (sigma_px**2 + 1.0 / 6.0))
    even = canvas.blur(_splat(canvas, points, np.ones(len(points), np.float32)), sigma_px)
    return canvas.blur(_splat(canvas, points, weights), sigma_px) * height, even * height > MASK_LEVEL


@dataclass(frozen=True)
class _Bodies:
    """Outlines of cells: places and half axes in pixels, harmonics of the outline, and relative brightness."""

    places: Floats  # (count, 2)
    half_px: Floats  # (count, 2): major and minor
    angle: Floats  # (count,)
    harmonics: npt.NDArray[np.complex64]  # (count, len(HARMONICS))
    brightness: Floats  # (count,)

    def __len__(self) -> int:
        return len(self.places)


def _bodies(
    canvas: Canvas,
    radius_px: float,
    *,
    cover: float,
    irregular: float | None = None,
    aspect: float | None = None,
    spread: float | None = None,
) -> _Bodies:
    """Choose cells of about a radius whose areas together make up a cover of the canvas, evenly or in groups."""
    rng = canvas.rng
    reach_px = 1.3 * radius_px
    wide = (canvas.shape[0] + 2.0 * reach_px) * (canvas.shape[1] + 2.0 * reach_px)
    count = max(int(cover * wide / (pi * radius_px**2) + rng.random()), 1)
    places = canvas.places(count, reach_px)
    layout = canvas.between(0.0, 1.0)
    if layout < 0.45:  # apart from each other: a lattice, jittered
        step = sqrt(wide / count)
        sizes = [ceil((size + 2.0 * reach_px) / step) for size in canvas.shape]
        sites = np.stack(np.indices(sizes).reshape(2, -1), axis=1) + rng.uniform(-0.4, 0.4, (sizes[0] * sizes[1], 2))
        sites = (sites + rng.random(2)) * step - reach_px
        places[1:] = rng.permutation(sites)[: count - 1] if len(sites) >= count - 1 else places[1:]
        apart = np.hypot(*(places[1:] - places[0]).T) > 1.2 * radius_px
        places = np.concatenate([places[:1], places[1:][apart]])
    elif layout > 0.8:
        centres = canvas.places(1 + count // int(rng.integers(4, 30)), reach_px)
        places = centres[rng.integers(0, len(centres), count)] + rng.normal(0.0, 2.5 * radius_px, (count, 2))
        places[0] = centres[0]
    count = len(places)
    radius = radius_px * np.exp(canvas.between(0.03, 0.3) * rng.standard_normal(count).clip(-2.0, 2.0))
    elongation = np.sqrt(1.0 + np.abs(rng.normal(0.0, canvas.between(0.05, 0.8) if aspect is None else aspect, count)))
    rough = canvas.decades(0.01, 0.12) if irregular is None else irregular
    harmonics = _random_harmonics(count, rough, rng)
    angle = rng.uniform(0.0, pi, count) if canvas.chance(0.7) else canvas.between(0.0, pi) + rng.normal(0.0, 0.2, count)
    return _Bodies(
        places.astype(np.float32),
        np.stack([radius * elongation, radius / elongation], axis=1).astype(np.float32),
        angle.astype(np.float32),
        harmonics,
        canvas.brightness(count, canvas.decades(0.05, 1.0) if spread is None else spread),
    )


def _random_harmonics(count: int, rough: float, rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """Draw harmonics of outlines, the higher the weaker; (count, harmonics)."""
    parts = rng.standard_normal((2, count, len(HARMONICS)))
    harmonics = rough * (parts[0] + 1j * parts[1]) / np.sqrt(np.asarray(HARMONICS) / 2.0)
    return harmonics.astype(np.complex64)


def _outline_points(bodies: _Bodies) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return points along outlines, and whose outline each lies on."""
    counts = np.maximum((2.0 * pi * 1.2 * bodies.half_px[:, 0] / STEP_PX).astype(np.intp), 8)
    body = np.repeat(np.arange(len(counts)), counts)
    along = (np.arange(len(body)) - np.repeat(np.cumsum(counts) - counts, counts)) / counts[body]
    toward = np.exp(2j * pi * along).astype(np.complex64)
    radial = np.maximum(_outline(bodies.harmonics[body], toward), 0.3)
    major, minor = bodies.half_px[body].T * radial * (toward.real, toward.imag)
    cosine, sine = np.cos(bodies.angle)[body], np.sin(bodies.angle)[body]
    points = np.stack([major * sine + minor * cosine, major * cosine - minor * sine], axis=1)
    return (bodies.places[body] + points).astype(np.float32), body


def _outline(harmonics: npt.NDArray[np.complex64], toward: npt.NDArray[np.complex64]) -> Floats:
    """Return the relative radius of outlines in directions, unit complex numbers in the frame of the ellipse."""
    power = toward * toward
    radial = np.ones(len(toward), np.float32)
    for number in range(len(HARMONICS)):
        radial += harmonics[:, number].real * power.real + harmonics[:, number].imag * power.imag
        power = power * toward
    return radial


@dataclass(frozen=True)
class _Profile:
    """Light across a body: share of a dome, height and width of a bright rim, and what happens where two overlap."""

    dome: float = 0.0
    rim: float = 0.0
    rim_px: float = 1.0
    overlap: Literal["nearest", "sum"] = "nearest"


def _fill(canvas: Canvas, bodies: _Bodies, profile: _Profile) -> tuple[Floats, Floats]:
    """Fill outlines: light, sharp and without texture, and how far each pixel lies inside one (0 to 1); (Y, X)."""
    rows, columns = canvas.shape
    nearest = np.full(canvas.area_px, np.inf, np.float32)
    light, cover = (np.zeros(canvas.area_px, np.float32) for _ in range(2))
    reach = bodies.half_px[:, 0] * (1.0 + np.abs(bodies.harmonics).sum(axis=1)) + 1.0
    first = np.maximum(np.floor(bodies.places - reach[:, None]).astype(np.intp), 0)
    last = np.minimum(np.ceil(bodies.places + reach[:, None]).astype(np.intp) + 1, (rows, columns))
    sizes = np.maximum(last - first, 0)
    areas = sizes[:, 0] * sizes[:, 1]
    cosines, sines = np.cos(bodies.angle), np.sin(bodies.angle)
    chunk = np.cumsum(areas) // CHUNK_POINTS
    for number in range(int(chunk[-1]) + 1):
        chosen = np.flatnonzero((chunk == number) & (areas > 0))
        if not len(chosen):
            continue
        body = np.repeat(chosen, areas[chosen])
        offsets = np.arange(len(body)) - np.repeat(np.cumsum(areas[chosen]) - areas[chosen], areas[chosen])
        across = sizes[body, 1]
        row = offsets // across
        column = offsets - row * across + first[body, 1]
        row += first[body, 0]
        down, over = row - bodies.places[body, 0], column - bodies.places[body, 1]
        cosine, sine = cosines[body], sines[body]
        toward = np.empty(len(body), np.complex64)
        toward.real = (over * cosine + down * sine) / bodies.half_px[body, 0]
        toward.imag = (down * cosine - over * sine) / bodies.half_px[body, 1]
        far = np.abs(toward)
        close = far < 2.0  # the corners of windows lie in no outline
        body, far, toward, pixel = body[close], far[close], toward[close], (row * columns + column)[close]
        distance = far / np.maximum(_outline(bodies.harmonics[body], toward / np.maximum(far, 1e-6)), 0.2)
        inner_px = (1.0 - distance) * bodies.half_px[body, 1]
        near = inner_px > -0.5
        body, distance, inner_px, pixel = body[near], distance[near], inner_px[near], pixel[near]
        edge = (0.5 + inner_px).clip(0.0, 1.0)
        value = bodies.brightness[body] * edge
        if profile.dome:
            value *= 1.0 - profile.dome + profile.dome * np.sqrt(np.maximum(1.0 - distance * distance, 0.0))
        if profile.rim:
            value *= 1.0 + profile.rim * np.exp(-((inner_px / profile.rim_px) ** 2))
        np.maximum.at(cover, pixel, edge)
        if profile.overlap == "sum":
            light += np.bincount(pixel, value, minlength=canvas.area_px).astype(np.float32)
        else:
            np.minimum.at(nearest, pixel, distance)
            own = distance <= nearest[pixel]
            light[pixel[own]] = value[own]
    return light.reshape(canvas.shape), cover.reshape(canvas.shape)


def _inner_points(canvas: Canvas, bodies: _Bodies, per_body: float, *, within: float = 0.8) -> Floats:
    """Draw points inside outlines; (count, 2)."""
    rng = canvas.rng
    body = np.repeat(np.arange(len(bodies)), rng.poisson(per_body, len(bodies)))
    toward = np.exp(2j * pi * rng.random(len(body))).astype(np.complex64)
    far = within * np.sqrt(rng.random(len(body))) * _outline(bodies.harmonics[body], toward)
    major, minor = bodies.half_px[body].T * far * (toward.real, toward.imag)
    cosine, sine = np.cos(bodies.angle)[body], np.sin(bodies.angle)[body]
    points = np.stack([major * sine + minor * cosine, major * cosine - minor * sine], axis=1)
    return (bodies.places[body] + points).astype(np.float32)


def _texture(canvas: Canvas, grain_px: float, contrast: float) -> Floats:
    """Draw a positive texture with grains of a size and of larger ones; (Y, X)."""
    grains = canvas.noise(grain_px)
    if canvas.chance(0.7):
        grains = 0.7 * grains + 0.7 * canvas.noise(grain_px * canvas.between(2.0, 6.0))
    texture: Floats = np.exp(np.float32(contrast) * grains)
    return texture


def _body_mask(canvas: Canvas, cover: Floats) -> Bools:
    """Return where bodies are, with their blur, without the small holes that are left between them."""
    mask: Bools = canvas.blur(cover, canvas.psf_px) > MASK_LEVEL
    outside, count = ndimage.label(~mask)
    if count > 1:
        areas = np.bincount(outside.ravel())
        small = areas < 30.0 * canvas.psf_px**2
        small[0] = False
        mask = mask | small[outside]
    return mask


def _blobs(canvas: Canvas) -> Light:
    """Draw textured cells of 8 to 400 px: smooth or irregular, with spots and bright edges, sparse to overlapping."""
    large = canvas.chance(0.15)
    radius_px = (canvas.decades(40.0, 200.0) if large else canvas.decades(4.0, 50.0)) * canvas.scale
    bodies = _bodies(canvas, radius_px, cover=canvas.decades(0.04, 1.3))
    profile = _Profile(
        dome=canvas.between(0.0, 0.85) if canvas.chance(0.6) else 0.0,
        rim=canvas.between(0.2, 3.0) if canvas.chance(0.25) else 0.0,
        rim_px=max(canvas.between(0.05, 0.2) * radius_px, canvas.psf_px),
        overlap="sum" if canvas.chance(0.4) else "nearest",
    )
    light, cover = _fill(canvas, bodies, profile)
    if canvas.chance(0.85):
        light = light * _texture(canvas, radius_px * canvas.decades(0.05, 0.4), canvas.decades(0.05, 0.6))
    if canvas.chance(0.4):
        light = _with_spots(canvas, light, bodies, radius_px)
    return canvas.blur(light, canvas.psf_px), _body_mask(canvas, cover)


def _with_spots(canvas: Canvas, light: Floats, bodies: _Bodies, radius_px: float) -> Floats:
    """Make spots inside bodies brighter or, like nucleoli, darker."""
    points = _inner_points(canvas, bodies, canvas.decades(0.8, 8.0), within=0.75)
    sigma_px = max(canvas.between(0.05, 0.2) * radius_px, 0.6)
    spots = canvas.blur(_splat(canvas, points, np.ones(len(points), np.float32)), sigma_px)
    spots *= np.float32(2.0 * pi * sigma_px**2)
    if canvas.chance(0.6):
        return light * (1.0 - canvas.between(0.3, 0.7) * np.minimum(spots, 1.0))
    return light * (1.0 + canvas.decades(0.3, 3.0) * np.minimum(spots, 1.5))


def _nuclei(canvas: Canvas) -> Light:
    """Draw nuclei with chromatin and nucleoli, some of them condensed, dividing or in fragments."""
    scale, rng = canvas.scale, canvas.rng
    radius_px = canvas.decades(5.0, 45.0) * scale
    bodies = _bodies(
        canvas,
        radius_px,
        cover=canvas.decades(0.04, 0.9),
        irregular=canvas.decades(0.005, 0.05),
        aspect=canvas.between(0.1, 0.7),
        spread=canvas.decades(0.1, 0.7),
    )
    profile = _Profile(
        dome=canvas.between(0.0, 0.6),
        rim=canvas.between(0.1, 0.6) if canvas.chance(0.3) else 0.0,
        rim_px=0.15 * radius_px,
        overlap="sum" if canvas.chance(0.2) else "nearest",
    )
    special = rng.random(len(bodies)) < canvas.decades(0.02, 0.3)
    resting = _Bodies(*(part[~special] for part in vars(bodies).values())) if special.any() else bodies
    light, cover = _nothing(canvas)[0], _nothing(canvas)[0]
    if len(resting):
        light, cover = _fill(canvas, resting, profile)
        light = light * _texture(canvas, radius_px * canvas.decades(0.06, 0.35), canvas.decades(0.05, 0.4))
        if canvas.chance(0.6):
            light = _with_spots(canvas, light, resting, radius_px)
    if special.any():
        condensed = _condensed(canvas, _Bodies(*(part[special] for part in vars(bodies).values())))
        more, body = _fill(canvas, condensed, _Profile(dome=0.3))
        light = np.maximum(light, more * _texture(canvas, max(0.15 * radius_px, 1.0), 0.25))
        cover = np.maximum(cover, body)
    return canvas.blur(light, canvas.psf_px), _body_mask(canvas, cover)


def _condensed(canvas: Canvas, bodies: _Bodies) -> _Bodies:
    """Turn bodies into plates of metaphase, pairs of anaphase, or fragments: smaller and brighter."""
    rng = canvas.rng
    parts = []
    for number in range(len(bodies)):
        place, (major, minor) = bodies.places[number], bodies.half_px[number]
        radius, angle = sqrt(major * minor), float(bodies.angle[number])
        kind = int(rng.integers(3))
        if kind == 0:
            parts.append((place, 0.9 * radius, 0.3 * radius, angle))
        elif kind == 1:
            apart = canvas.between(0.35, 0.9) * radius * np.array([np.cos(angle), -np.sin(angle)])
            parts += [(place + side * apart, 0.75 * radius, 0.25 * radius, angle) for side in (-1, 1)]
        else:
            for _ in range(int(rng.integers(2, 8))):
                size = canvas.between(0.12, 0.4) * radius
                parts.append((place + rng.normal(0.0, 0.4 * radius, 2), size, size, 0.0))
    count = len(parts)
    return _Bodies(
        np.array([part[0] for part in parts], np.float32),
        np.array([part[1:3] for part in parts], np.float32),
        np.array([part[3] for part in parts], np.float32),
        _random_harmonics(count, 0.05, rng),
        canvas.brightness(count, 0.3) * np.float32(canvas.between(1.3, 3.0) * float(np.median(bodies.brightness))),
    )


def _reticulum(canvas: Canvas) -> Light:
    """Draw networks in bodies of cells: level lines of smooth noise, denser towards the nuclei, which stay dark."""
    scale = canvas.scale
    radius_px = canvas.decades(30.0, 160.0) * scale
    bodies = _bodies(canvas, radius_px, cover=canvas.decades(0.25, 1.3), irregular=canvas.decades(0.03, 0.12))
    glow, cover = _fill(canvas, bodies, _Profile(dome=canvas.between(0.3, 0.85)))
    mesh_px = canvas.decades(2.5, 9.0) * scale
    width = canvas.between(0.12, 0.4)
    first, second = canvas.noise(mesh_px), canvas.noise(mesh_px * canvas.between(0.8, 1.6))
    net = np.maximum(np.exp(-((first / width) ** 2)), canvas.between(0.3, 1.0) * np.exp(-((second / width) ** 2)))
    net = net * np.exp(canvas.between(0.1, 0.6) * canvas.noise(mesh_px * canvas.between(2.0, 8.0)))
    light = glow * (canvas.between(0.15, 0.6) + net)
    if canvas.chance(0.7):
        light = light * _nuclear_shade(canvas, bodies, canvas.between(0.5, 0.85))
    return canvas.blur(light, canvas.psf_px), _body_mask(canvas, cover)


def _nuclear_shade(canvas: Canvas, bodies: _Bodies, depth: float) -> Floats:
    """Return a factor that is lower where the bodies have their nuclei; (Y, X)."""
    share = canvas.between(0.25, 0.5)
    aside = 0.15 * bodies.half_px[:, 1:] * canvas.rng.standard_normal(bodies.places.shape)
    nuclei = _Bodies(
        (bodies.places + aside).astype(np.float32),
        (share * bodies.half_px).astype(np.float32),
        bodies.angle,
        (0.3 * bodies.harmonics).astype(np.complex64),
        np.ones(len(bodies), np.float32),
    )
    shade: Floats = 1.0 - np.float32(depth) * _fill(canvas, nuclei, _Profile())[1]
    return shade


def _cells(canvas: Canvas) -> Light:
    """Draw bodies of cells that glow and hold puncta, filaments or tubules, with bright or dark nuclei."""
    radius_px = canvas.decades(12.0, 140.0) * canvas.scale
    bodies = _bodies(canvas, radius_px, cover=canvas.decades(0.1, 1.2), irregular=canvas.decades(0.02, 0.12))
    glow, cover = _fill(
        canvas,
        bodies,
        _Profile(
            dome=canvas.between(0.0, 0.85),
            rim=canvas.between(0.2, 2.0) if canvas.chance(0.3) else 0.0,
            rim_px=max(0.06 * radius_px, canvas.psf_px),
            overlap="sum" if canvas.chance(0.3) else "nearest",
        ),
    )
    light = glow * _texture(canvas, radius_px * canvas.decades(0.04, 0.3), canvas.decades(0.05, 0.4))
    if canvas.chance(0.7):
        light = light * _nuclear_shade(canvas, bodies, canvas.between(-1.0, 0.8))
    light = canvas.blur(light, canvas.psf_px)
    if canvas.chance(0.75):
        inner = (_puncta, _filaments, _tubules)[int(canvas.rng.integers(3))](canvas)[0]
        held = inner / np.float32(max(float(np.quantile(inner[::3, ::3], 0.99)), 1e-3)) * glow
        light = light + np.float32(canvas.decades(0.3, 4.0)) * np.minimum(held, 3.0 * glow)
    return light, _body_mask(canvas, cover)


def _tissue(canvas: Canvas) -> Light:
    """Draw dense tissue: nuclei, fibres and membranes of very different brightness on top of each other."""
    light, mask = _nothing(canvas)
    makers = (_nuclei, _blobs, _filaments, _membranes, _puncta)
    weights = (0.3, 0.25, 0.2, 0.15, 0.1)
    for number in canvas.rng.choice(len(makers), size=2, replace=False, p=weights):
        more, where = makers[int(number)](canvas)
        level = float(np.quantile(more[::2, ::2], 0.995))
        part = more * np.float32(canvas.decades(0.15, 1.0) / max(level, 1e-3))
        part = part * np.exp(canvas.between(0.2, 0.8) * canvas.noise(canvas.decades(20.0, 120.0) * canvas.scale))
        light, mask = light + part, mask | where
    return light, mask


def _nothing(canvas: Canvas) -> Light:
    return np.zeros(canvas.shape, np.float32), np.zeros(canvas.shape, np.bool_)


def _together(one: Light, other: Light) -> Light:
    return one[0] + other[0], one[1] | other[1]


MAKERS: dict[str, Callable[[Canvas], Light]] = {
    "filaments": _filaments,
    "tubules": _tubules,
    "membranes": _membranes,
    "puncta": _puncta,
    "blobs": _blobs,
    "nuclei": _nuclei,
    "reticulum": _reticulum,
    "cells": _cells,
    "tissue": _tissue,
}


def _draw(kind: str, canvas: Canvas) -> Light:
    if kind != "mixed":
        return MAKERS[kind](canvas)
    first, second = (STRUCTURES[int(number)] for number in canvas.rng.integers(0, len(STRUCTURES), 2))
    light, mask = MAKERS[first](canvas)
    if canvas.chance(0.7):
        return light, mask
    more, where = MAKERS[second](canvas)
    levels = [max(float(np.quantile(part[::2, ::2], 0.995)), 1e-3) for part in (light, more)]
    share = np.float32(canvas.decades(0.2, 5.0) * levels[0] / levels[1])
    return light + share * more, mask | where

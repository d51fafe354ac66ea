"""Bodies of cells: outlines in polar harmonics, how they are filled with light, and what is inside them."""

from dataclasses import dataclass, replace
from math import ceil, log, pi, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import Voronoi

from cellxlate.stacks.samples.drawing import MASK_LEVEL, STEP_PX, Array, Bools, Canvas, Floats, splat

CHUNK_POINTS = 2**21
HARMONICS = (2, 3, 4, 5)  # of an outline, above the ellipse


@dataclass(frozen=True)
class Bodies:
    """Outlines of cells: places and half axes in pixels, harmonics of the outline, and relative brightness."""

    places: Floats  # (count, 2)
    half_px: Floats  # (count, 2): major and minor
    angle: Floats  # (count,)
    harmonics: npt.NDArray[np.complex64]  # (count, len(HARMONICS))
    brightness: Floats  # (count,)

    def __len__(self) -> int:
        return len(self.places)

    def chosen(self, which: Bools) -> "Bodies":
        """Return some of them."""
        return Bodies(*(part[which] for part in vars(self).values()))


@dataclass(frozen=True)
class Profile:
    """Light across a body: share of a dome, height and width of a bright rim, and what happens where two overlap."""

    dome: float = 0.0
    rim: float = 0.0
    rim_px: float = 1.0
    overlap: Literal["nearest", "sum"] = "nearest"


def choose_bodies(
    canvas: Canvas,
    radius_px: float,
    *,
    cover: float,
    irregular: float | None = None,
    aspect: float | None = None,
    spread: float | None = None,
) -> Bodies:
    """Choose cells of about a radius whose areas together make up a cover of the canvas, evenly or in groups."""
    rng = canvas.rng
    reach_px = 1.3 * radius_px
    wide = (canvas.shape[0] + 2.0 * reach_px) * (canvas.shape[1] + 2.0 * reach_px)
    if canvas.fraction is not None:
        cover = -log(1.0 - canvas.fraction)  # of places at random
    count = max(int(cover * wide / (pi * radius_px**2) + rng.random()), 1)
    places: Array = canvas.places(count, reach_px)
    layout = canvas.between(0.0, 1.0)
    if layout < 0.45:  # apart from each other: a lattice, jittered
        step = sqrt(wide / count)
        sizes = [ceil((size + 2.0 * reach_px) / step) for size in canvas.shape]
        sites: Array = np.indices(sizes).reshape(2, -1).T + rng.uniform(-0.4, 0.4, (sizes[0] * sizes[1], 2))
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
    harmonics = random_harmonics(count, rough, rng)
    angle = rng.uniform(0.0, pi, count) if canvas.chance(0.7) else canvas.between(0.0, pi) + rng.normal(0.0, 0.2, count)
    bodies = Bodies(
        places.astype(np.float32),
        np.stack([radius * elongation, radius / elongation], axis=1).astype(np.float32),
        angle.astype(np.float32),
        harmonics,
        canvas.brightness(count, canvas.decades(0.05, 1.0) if spread is None else spread),
    )
    return bodies if canvas.fraction is None else _covering(canvas, bodies, canvas.fraction)


def _covering(canvas: Canvas, bodies: Bodies, fraction: float) -> Bodies:
    """Make all bodies larger or smaller by one factor, so that they cover a share of the field."""
    low, high = 0.1, 10.0
    for _ in range(8):
        factor = sqrt(low * high)
        resized = replace(bodies, half_px=bodies.half_px * np.float32(factor))
        covered = float(body_mask(canvas, fill(canvas, resized, Profile())[1])[canvas.core].mean())
        low, high = (factor, high) if covered < fraction else (low, factor)
    return resized


def random_harmonics(count: int, rough: float, rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """Draw harmonics of outlines, the higher the weaker; (count, harmonics)."""
    parts = rng.standard_normal((2, count, len(HARMONICS)))
    harmonics = rough * (parts[0] + 1j * parts[1]) / np.sqrt(np.asarray(HARMONICS) / 2.0)
    single: npt.NDArray[np.complex64] = harmonics.astype(np.complex64)
    return single


def outline_points(bodies: Bodies) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return points along outlines, and whose outline each lies on."""
    counts = np.maximum((2.0 * pi * 1.2 * bodies.half_px[:, 0] / STEP_PX).astype(np.intp), 8)
    body = np.repeat(np.arange(len(counts)), counts)
    along = (np.arange(len(body)) - np.repeat(np.cumsum(counts) - counts, counts)) / counts[body]
    toward = np.exp(2j * pi * along).astype(np.complex64)
    radial = np.maximum(_outline(bodies.harmonics[body], toward), 0.3)
    return _points(bodies, body, toward, radial), body


def _points(bodies: Bodies, body: npt.NDArray[np.intp], toward: Array, radial: Array) -> Floats:
    """Return points of bodies in directions, unit complex numbers in the frame of the ellipse, at relative radii."""
    major, minor = bodies.half_px[body].T * radial * (toward.real, toward.imag)
    cosine, sine = np.cos(bodies.angle)[body], np.sin(bodies.angle)[body]
    points = np.stack([major * sine + minor * cosine, major * cosine - minor * sine], axis=1)
    placed: Floats = (bodies.places[body] + points).astype(np.float32)
    return placed


def _outline(harmonics: npt.NDArray[np.complex64], toward: Array) -> Floats:
    """Return the relative radius of outlines in directions, unit complex numbers in the frame of the ellipse."""
    power = toward * toward
    radial = np.ones(len(toward), np.float32)
    for number in range(len(HARMONICS)):
        radial += harmonics[:, number].real * power.real + harmonics[:, number].imag * power.imag
        power = power * toward
    return radial


def fill(canvas: Canvas, bodies: Bodies, profile: Profile) -> tuple[Floats, Floats]:
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


def inner_points(canvas: Canvas, bodies: Bodies, per_body: float, *, within: float) -> Floats:
    """Draw points inside outlines; (count, 2)."""
    rng = canvas.rng
    body = np.repeat(np.arange(len(bodies)), rng.poisson(per_body, len(bodies)))
    toward = np.exp(2j * pi * rng.random(len(body))).astype(np.complex64)
    far = within * np.sqrt(rng.random(len(body))) * _outline(bodies.harmonics[body], toward)
    return _points(bodies, body, toward, far)


def texture(canvas: Canvas, grain_px: float, contrast: float) -> Floats:
    """Draw a positive texture with grains of a size and of larger ones; (Y, X)."""
    grains = canvas.noise(grain_px)
    if canvas.chance(0.7):
        grains = 0.7 * grains + 0.7 * canvas.noise(grain_px * canvas.between(2.0, 6.0))
    texture: Floats = np.exp(np.float32(contrast) * grains)
    return texture


def body_mask(canvas: Canvas, cover: Floats) -> Bools:
    """Return where bodies are, with their blur, without the small holes that are left between them."""
    return without_small_holes(canvas, canvas.blur(cover, canvas.psf_px) > MASK_LEVEL)


def without_small_holes(canvas: Canvas, mask: Bools) -> Bools:
    """Fill the holes of a mask (Y, X) that the blur nearly bridges."""
    outside, count = ndimage.label(~mask)
    if count <= 1:
        return mask
    small = np.bincount(outside.ravel()) < max(30.0 * canvas.psf_px**2, 12.0)
    small[0] = False
    filled: Bools = mask | small[outside]
    return filled


def with_spots(canvas: Canvas, light: Array, bodies: Bodies, radius_px: float) -> Array:
    """Make spots inside bodies brighter or, like nucleoli, darker."""
    points = inner_points(canvas, bodies, canvas.decades(0.8, 8.0), within=0.75)
    sigma_px = max(canvas.between(0.05, 0.2) * radius_px, 0.6)
    spots = canvas.blur(splat(canvas, points, np.ones(len(points), np.float32)), sigma_px)
    spots *= np.float32(2.0 * pi * sigma_px**2)
    if canvas.chance(0.6):
        return light * (1.0 - canvas.between(0.3, 0.7) * np.minimum(spots, 1.0))
    return light * (1.0 + canvas.decades(0.3, 3.0) * np.minimum(spots, 1.5))


def nuclear_shade(canvas: Canvas, bodies: Bodies, depth: float) -> Floats:
    """Return a factor that is lower where the bodies have their nuclei; (Y, X)."""
    share = canvas.between(0.25, 0.5)
    aside = 0.15 * bodies.half_px[:, 1:] * canvas.rng.standard_normal(bodies.places.shape)
    nuclei = Bodies(
        (bodies.places + aside).astype(np.float32),
        (share * bodies.half_px).astype(np.float32),
        bodies.angle,
        (0.3 * bodies.harmonics).astype(np.complex64),
        np.ones(len(bodies), np.float32),
    )
    shade: Floats = 1.0 - np.float32(depth) * fill(canvas, nuclei, Profile())[1]
    return shade


def condense(canvas: Canvas, bodies: Bodies) -> Bodies:
    """Turn bodies into plates of metaphase, pairs of anaphase, or fragments: smaller and brighter."""
    rng = canvas.rng
    parts = []
    for number in range(len(bodies)):
        middle, (major, minor) = bodies.places[number], bodies.half_px[number]
        radius, angle = sqrt(major * minor), float(bodies.angle[number])
        kind = int(rng.integers(3))
        if kind == 0:
            parts.append((middle, 0.9 * radius, 0.3 * radius, angle))
        elif kind == 1:
            apart = canvas.between(0.35, 0.9) * radius * np.array([np.cos(angle), -np.sin(angle)])
            parts += [(middle + side * apart, 0.75 * radius, 0.25 * radius, angle) for side in (-1, 1)]
        else:
            for _ in range(int(rng.integers(2, 8))):
                size = canvas.between(0.12, 0.4) * radius
                parts.append((middle + rng.normal(0.0, 0.4 * radius, 2), size, size, 0.0))
    count = len(parts)
    return Bodies(
        np.array([part[0] for part in parts], np.float32),
        np.array([part[1:3] for part in parts], np.float32),
        np.array([part[3] for part in parts], np.float32),
        random_harmonics(count, 0.05, rng),
        canvas.brightness(count, 0.3) * np.float32(canvas.between(1.3, 3.0) * float(np.median(bodies.brightness))),
    )


def jittered_lattice(canvas: Canvas, spacing_px: float) -> Array:
    """Draw places of a triangular lattice beyond the canvas, jittered, stretched and turned; (count, 2)."""
    rng = canvas.rng
    reach_px = 3.0 * spacing_px
    stretch = canvas.decades(0.6, 1.6)
    steps = np.array([spacing_px * stretch * sqrt(0.75), spacing_px / stretch])
    sizes = [ceil((size + 2.0 * reach_px) / step) + 1 for size, step in zip(canvas.shape, steps, strict=True)]
    row, column = np.indices(sizes).reshape(2, -1)
    places: Array = np.stack([row, column + 0.5 * (row % 2)], axis=1) + rng.random(2)
    places = (places + canvas.decades(0.05, 0.6) * rng.standard_normal(places.shape)) * steps - reach_px
    if canvas.chance(0.4):
        angle = canvas.between(0.0, pi)
        middle = np.asarray(canvas.shape) / 2.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        places = ((places - middle) * sqrt(2.0)) @ turn.T / sqrt(2.0) + middle
    return places


def edges_between(canvas: Canvas, places: Array) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return points along the edges between places and their neighbours, and whose edge each is."""
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

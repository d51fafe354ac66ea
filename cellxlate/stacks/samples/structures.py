"""Drawn fluorescent structures with exact masks: what a generalist is trained on where no clear recordings are at hand.

Every structure is light on a canvas that is larger than the field and cut to it, so borders look like the middle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, pi, sqrt
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from cellxlate.errors import OptionError
from cellxlate.stacks.samples.drawing import (
    Array,
    Bools,
    Canvas,
    Floats,
    Light,
    headings_from,
    line_light,
    nothing,
    spots,
    together,
    walks,
)
from cellxlate.stacks.samples.outlines import (
    Bodies,
    Profile,
    body_mask,
    choose_bodies,
    condense,
    edges_between,
    fill,
    jittered_lattice,
    nuclear_shade,
    outline_points,
    texture,
    with_spots,
)

Structure = Literal["filaments", "tubules", "membranes", "puncta", "blobs", "nuclei", "reticulum", "cells", "tissue"]
STRUCTURES: tuple[str, ...] = get_args(Structure)
"""Kinds that `draw_structure` draws; "mixed" draws any of them, or two on top of each other."""

CELL_STRUCTURES = ("blobs", "nuclei", "reticulum", "cells")
"""Those whose share of the field can be chosen."""

SCALE_LIMITS, MOST_HAZE, MOST_COVERED = (0.2, 8.0), 20.0, 0.9
PSF_PX, PSF_LIMITS_PX = (0.6, 2.0), (0.5, 3.0)  # Gaussian sigma at scale 1, and at any scale


@dataclass(frozen=True)
class DrawnField:
    """A drawn field and where its structure is.

    Attributes
    ----------
    image : ndarray (Y, X) or (Z, Y, X), float32
        Light without noise, blurred as in focus: from 0 to about 1, at most 2, plus the haze.
    mask : ndarray of the same shape, bool
        Where the structure's own light in focus exceeds about an eighth of its peak nearby; cells whole, without holes.
    """

    image: Floats
    mask: Bools


def draw_structure(
    kind: str,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    scale: float = 1.0,
    haze: float = 0.0,
    fraction: float | None = None,
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
        Out-of-focus light: its brightest part relative to the structure's, 0 (none) to 20. Not in the mask.
    fraction : float or None
        Share of the field that cells shall cover, above 0 to 0.9, for blobs, nuclei, reticulum and cells. They are
        made larger or smaller to cover it, which takes about five times as long. None for any.

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
    check_drawing(kind, shape, 2, scale=scale, haze=haze, fraction=fraction)
    psf_px = draw_blur(rng, scale)
    margin_px = ceil(4.0 * psf_px + 6.0 * scale) + 4
    canvas = Canvas((shape[0] + 2 * margin_px, shape[1] + 2 * margin_px), margin_px, scale, psf_px, rng, fraction)
    light, mask = _draw(kind, canvas)
    if canvas.chance(0.5):  # uneven labelling or illumination
        light = light * np.exp(canvas.between(0.1, 0.5) * canvas.noise(canvas.decades(60.0, 300.0)))
    core = (slice(margin_px, -margin_px), slice(margin_px, -margin_px))
    inside, own = mask[core], light[core]
    bright = bright_light(own, inside) if inside.any() else bright_light(light, mask)
    image = softened(own / np.float32(bright))
    if haze > 0:
        image = image + np.float32(haze) * _haze(canvas, light / np.float32(bright))[core]
    return DrawnField(image=image, mask=np.ascontiguousarray(inside))


def check_drawing(
    kind: str, shape: tuple[int, ...], axes: int, *, scale: float, haze: float, fraction: float | None
) -> None:
    """Raise OptionError where something cannot be drawn."""
    if kind not in (*STRUCTURES, "mixed"):
        raise OptionError(f"structure {kind!r} does not exist; choose one of {', '.join(STRUCTURES)}, mixed")
    if len(shape) != axes or any(not size >= 1 or size % 1 for size in shape):
        raise OptionError(f"shape {tuple(shape)} is not {'Y,X' if axes == 2 else 'Z,Y,X'} with sizes of at least 1")
    if not SCALE_LIMITS[0] <= scale <= SCALE_LIMITS[1]:
        raise OptionError(f"scale {scale} is outside {SCALE_LIMITS[0]} to {SCALE_LIMITS[1]}; choose one inside")
    if not 0 <= haze <= MOST_HAZE:
        raise OptionError(f"haze {haze} is outside 0 to {MOST_HAZE}; choose one inside")
    if fraction is not None and kind not in CELL_STRUCTURES:
        raise OptionError(
            f"a cell fraction has no meaning for {kind}; leave it out, or draw {', '.join(CELL_STRUCTURES)}"
        )
    if fraction is not None and not 0 < fraction <= MOST_COVERED:
        raise OptionError(f"cell fraction {fraction} is outside 0 (not included) to {MOST_COVERED}; choose one inside")


def draw_blur(rng: np.random.Generator, scale: float) -> float:
    """Draw the Gaussian sigma of the blur in focus, in pixels."""
    return min(max(float(rng.uniform(*PSF_PX)) * scale, PSF_LIMITS_PX[0]), PSF_LIMITS_PX[1])


def bright_light(light: Floats, mask: Bools) -> float:
    """Return what is taken for 1: the 99.8th percentile of light in the mask."""
    own = light[mask]
    if not own.size:
        return max(float(light.max()), 1e-6)
    return max(float(np.partition(own, min(int(0.998 * own.size), own.size - 1))[int(0.998 * own.size)]), 1e-6)


def softened(image: Floats) -> Floats:
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


def _filaments(canvas: Canvas) -> Light:
    """Draw actin or microtubules: persistent walks of a few widths, crossing, bundled, aligned or from centres."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = nothing(canvas)
    spread = canvas.between(0.2, 1.1)
    density = canvas.decades(0.008, 0.5) / scale  # length on an area
    layers = int(rng.integers(1, 3))
    persistence_px = canvas.decades(12.0, 800.0) * scale
    length_px = canvas.decades(30.0, 400.0) * scale
    for _ in range(layers):
        count = max(int(density / layers * canvas.area_px / min(length_px, 1.2 * max(canvas.shape))), 1)
        reach_px = min(0.5 * length_px, 100.0)
        starts: Array = canvas.places(count, reach_px)
        headings = headings_from(canvas, starts)
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
        points, walk, along = walks(
            canvas, starts.astype(np.float32), length_px=length_px, persistence_px=persistence_px, headings=headings
        )
        weights: Array = canvas.brightness(count, spread)[walk]
        if canvas.chance(0.6):
            phase = rng.uniform(0.0, 2.0 * pi, count).astype(np.float32)[walk]
            waves = np.float32(2.0 * pi * canvas.between(0.5, 4.0))
            weights = weights * (1.0 + canvas.between(0.1, 0.6) * np.sin(waves * along + phase)).astype(np.float32)
        if canvas.chance(0.3):  # speckles of sparse labels
            weights = weights * rng.gamma(canvas.decades(0.1, 1.0), size=len(weights)).astype(np.float32)
        radius_px = canvas.decades(0.2, 2.5) * scale
        light, mask = together((light, mask), line_light(canvas, points, weights, radius_px))
    return light, mask


def _tubules(canvas: Canvas) -> Light:
    """Draw mitochondria: short thick curved tubes, fragments or networks, even or hollow, often around nuclei."""
    scale, rng = canvas.scale, canvas.rng
    radius_px = canvas.decades(1.0, 4.0) * scale
    length_px = radius_px * canvas.decades(2.0, 40.0)
    density = canvas.decades(0.02, 0.6) / (2.0 * radius_px)
    reach_px = min(0.5 * length_px, 60.0)
    count = max(int(density * canvas.area_px / length_px), 1)
    starts: Array = canvas.places(count, reach_px)
    headings = headings_from(canvas, starts) if canvas.chance(0.3) else rng.uniform(0.0, 2.0 * pi, count)
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
    points, walk, along = walks(
        canvas, starts.astype(np.float32), length_px=length_px, persistence_px=persistence_px, headings=headings
    )
    if canvas.chance(0.35) and len(points) > 10:  # branches
        chosen = points[rng.integers(0, len(points), max(count // 2, 1))]
        branches, branch, far = walks(
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
    light, mask = line_light(canvas, points, weights, radius_px, flat=flat, hollow=hollow)
    if canvas.chance(0.6):
        grains = canvas.noise(canvas.between(0.8, 2.5) * max(radius_px, canvas.psf_px))
        light = light * np.exp(canvas.between(0.1, 0.5) * grains)
    return light, mask


def _membranes(canvas: Canvas) -> Light:
    """Draw membranes: bent edges between the nearest of many places, or outlines, of uneven thickness, with gaps."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = nothing(canvas)
    if canvas.chance(0.75):
        points: Array
        points, edge = edges_between(canvas, jittered_lattice(canvas, canvas.decades(10.0, 90.0) * scale))
    else:
        bodies = choose_bodies(canvas, canvas.decades(8.0, 70.0) * scale, cover=canvas.decades(0.15, 1.2))
        points, edge = outline_points(bodies)
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
        part = line_light(
            canvas, points[chosen], weights[chosen], radius_px, flat=radius_px > 2.0 and canvas.chance(0.5)
        )
        light, mask = together((light, mask), part)
    return light, mask


def _puncta(canvas: Canvas) -> Light:
    """Draw vesicles or single molecules: spots from unresolved to 4 px, evenly spread, in clusters or in cells."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = nothing(canvas)
    density = canvas.decades(1e-4, 0.02) / scale**2
    count = max(int(density * canvas.area_px), 1)
    points: Array = canvas.places(count)
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
        part = spots(canvas, points[layer::layers], weights[layer::layers], sigma_px)
        light, mask = together((light, mask), part)
    return light, mask


def _blobs(canvas: Canvas) -> Light:
    """Draw textured cells of 8 to 400 px: smooth or irregular, with spots and bright edges, sparse to overlapping."""
    large = canvas.chance(0.15)
    radius_px = (canvas.decades(40.0, 200.0) if large else canvas.decades(4.0, 50.0)) * canvas.scale
    bodies = choose_bodies(canvas, radius_px, cover=canvas.decades(0.04, 1.3))
    profile = Profile(
        dome=canvas.between(0.0, 0.85) if canvas.chance(0.6) else 0.0,
        rim=canvas.between(0.2, 3.0) if canvas.chance(0.25) else 0.0,
        rim_px=max(canvas.between(0.05, 0.2) * radius_px, canvas.psf_px),
        overlap="sum" if canvas.chance(0.4) else "nearest",
    )
    light, cover = fill(canvas, bodies, profile)
    if canvas.chance(0.85):
        light = light * texture(canvas, radius_px * canvas.decades(0.05, 0.4), canvas.decades(0.05, 0.6))
    if canvas.chance(0.4):
        light = with_spots(canvas, light, bodies, radius_px)
    return canvas.blur(light, canvas.psf_px), body_mask(canvas, cover)


def _nuclei(canvas: Canvas) -> Light:
    """Draw nuclei with chromatin and nucleoli, some of them condensed, dividing or in fragments."""
    scale, rng = canvas.scale, canvas.rng
    radius_px = canvas.decades(5.0, 45.0) * scale
    bodies = choose_bodies(
        canvas,
        radius_px,
        cover=canvas.decades(0.04, 0.9),
        irregular=canvas.decades(0.005, 0.05),
        aspect=canvas.between(0.1, 0.7),
        spread=canvas.decades(0.1, 0.7),
    )
    profile = Profile(
        dome=canvas.between(0.0, 0.6),
        rim=canvas.between(0.1, 0.6) if canvas.chance(0.3) else 0.0,
        rim_px=0.15 * radius_px,
        overlap="sum" if canvas.chance(0.2) else "nearest",
    )
    special = rng.random(len(bodies)) < canvas.decades(0.02, 0.3)
    resting = Bodies(*(part[~special] for part in vars(bodies).values())) if special.any() else bodies
    light, cover = nothing(canvas)[0], nothing(canvas)[0]
    if len(resting):
        light, cover = fill(canvas, resting, profile)
        light = light * texture(canvas, radius_px * canvas.decades(0.06, 0.35), canvas.decades(0.05, 0.4))
        if canvas.chance(0.6):
            light = with_spots(canvas, light, resting, radius_px)
    if special.any():
        condensed = condense(canvas, Bodies(*(part[special] for part in vars(bodies).values())))
        more, body = fill(canvas, condensed, Profile(dome=0.3))
        light = np.maximum(light, more * texture(canvas, max(0.15 * radius_px, 1.0), 0.25))
        cover = np.maximum(cover, body)
    return canvas.blur(light, canvas.psf_px), body_mask(canvas, cover)


def _reticulum(canvas: Canvas) -> Light:
    """Draw networks in bodies of cells: level lines of smooth noise, denser towards the nuclei, which stay dark."""
    scale = canvas.scale
    radius_px = canvas.decades(30.0, 160.0) * scale
    bodies = choose_bodies(canvas, radius_px, cover=canvas.decades(0.25, 1.3), irregular=canvas.decades(0.03, 0.12))
    glow, cover = fill(canvas, bodies, Profile(dome=canvas.between(0.3, 0.85)))
    mesh_px = canvas.decades(2.5, 9.0) * scale
    width = canvas.between(0.12, 0.4)
    first, second = canvas.noise(mesh_px), canvas.noise(mesh_px * canvas.between(0.8, 1.6))
    net = np.maximum(np.exp(-((first / width) ** 2)), canvas.between(0.3, 1.0) * np.exp(-((second / width) ** 2)))
    net = net * np.exp(canvas.between(0.1, 0.6) * canvas.noise(mesh_px * canvas.between(2.0, 8.0)))
    light = glow * (canvas.between(0.15, 0.6) + net)
    if canvas.chance(0.7):
        light = light * nuclear_shade(canvas, bodies, canvas.between(0.5, 0.85))
    return canvas.blur(light, canvas.psf_px), body_mask(canvas, cover)


def _cells(canvas: Canvas) -> Light:
    """Draw bodies of cells that glow and hold puncta, filaments or tubules, with bright or dark nuclei."""
    radius_px = canvas.decades(12.0, 140.0) * canvas.scale
    bodies = choose_bodies(canvas, radius_px, cover=canvas.decades(0.1, 1.2), irregular=canvas.decades(0.02, 0.12))
    glow, cover = fill(
        canvas,
        bodies,
        Profile(
            dome=canvas.between(0.0, 0.85),
            rim=canvas.between(0.2, 2.0) if canvas.chance(0.3) else 0.0,
            rim_px=max(0.06 * radius_px, canvas.psf_px),
            overlap="sum" if canvas.chance(0.3) else "nearest",
        ),
    )
    light = glow * texture(canvas, radius_px * canvas.decades(0.04, 0.3), canvas.decades(0.05, 0.4))
    if canvas.chance(0.7):
        light = light * nuclear_shade(canvas, bodies, canvas.between(-1.0, 0.8))
    light = canvas.blur(light, canvas.psf_px)
    if canvas.chance(0.75):
        inner = (_puncta, _filaments, _tubules)[int(canvas.rng.integers(3))](canvas)[0]
        held = inner / np.float32(max(float(np.quantile(inner[::3, ::3], 0.99)), 1e-3)) * glow
        light = light + np.float32(canvas.decades(0.3, 4.0)) * np.minimum(held, 3.0 * glow)
    return light, body_mask(canvas, cover)


def _tissue(canvas: Canvas) -> Light:
    """Draw dense tissue: nuclei, fibres and membranes of very different brightness on top of each other."""
    light, mask = nothing(canvas)
    makers = (_nuclei, _blobs, _filaments, _membranes, _puncta)
    weights = (0.3, 0.25, 0.2, 0.15, 0.1)
    for number in canvas.rng.choice(len(makers), size=2, replace=False, p=weights):
        more, where = makers[int(number)](canvas)
        level = float(np.quantile(more[::2, ::2], 0.995))
        part = more * np.float32(canvas.decades(0.15, 1.0) / max(level, 1e-3))
        part = part * np.exp(canvas.between(0.2, 0.8) * canvas.noise(canvas.decades(20.0, 120.0) * canvas.scale))
        light, mask = light + part, mask | where
    return light, mask


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

"""Drawn fluorescent structures with exact masks: what a generalist is trained on where no clear recordings are at hand.

Every structure is light on a canvas that is larger than the field and cut to it, so borders look like the middle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from cellxlate.errors import OptionError
from cellxlate.option_values import real_number, require_choice
from cellxlate.options import HAZE, SCALE, STRUCTURE
from cellxlate.stacks.samples import in_depth, in_plane
from cellxlate.stacks.samples.drawing import Bools, Canvas, Floats, Light
from cellxlate.stacks.samples.in_depth import Room

Structure = Literal["filaments", "tubules", "membranes", "puncta", "blobs", "nuclei", "reticulum", "cells", "tissue"]
STRUCTURES: tuple[str, ...] = get_args(Structure)
"""Kinds that `draw_structure` draws; "mixed" draws any of them, or two on top of each other."""

CELL_STRUCTURES = ("blobs", "nuclei", "reticulum", "cells")
"""Those whose share of the field can be chosen."""

SCALE_LIMITS, MOST_HAZE, MOST_COVERED = (0.2, 8.0), 20.0, 0.9
PSF_PX, PSF_LIMITS_PX = (0.6, 2.0), (0.5, 3.0)  # Gaussian sigma at scale 1, and at any scale
AXIAL = (1.8, 3.5)  # of the blur along z, relative to that within planes
SPACING_LIMITS = (0.2, 50.0)
HAZE_STEP = 4  # haze is drawn on every fourth pixel


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
    canvas = _canvas_around(shape, rng, scale, fraction)
    light, mask = _draw(kind, canvas)
    if canvas.chance(0.5):  # uneven labelling or illumination
        light = light * np.exp(canvas.between(0.1, 0.5) * canvas.noise(canvas.decades(60.0, 300.0)))
    return _cut_field(light, mask, canvas.core, haze, lambda bright: _haze(canvas, bright))


def draw_volume(
    kind: str,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
    *,
    spacing_z: float = 2.0,
    scale: float = 1.0,
    haze: float = 0.0,
    fraction: float | None = None,
) -> DrawnField:
    """Draw a volume of one kind of structure, clear and without noise, whose planes fit together.

    Parameters
    ----------
    kind : str
        One of `STRUCTURES`, or "mixed": any of them.
    shape : tuple of int
        Planes, rows and columns.
    spacing_z : float
        Distance between planes in pixels, 0.2 to 50.
    rng, scale, haze, fraction
        As in `draw_structure`; sizes along z are multiplied too, and cells cover their share where they are widest: a
        plane that misses the middle of most of them holds less.

    Returns
    -------
    DrawnField
        Image float32 and mask, both (Z, Y, X).

    Raises
    ------
    OptionError
        The kind does not exist, or a number is outside its range.

    Notes
    -----
    Simpler than `draw_structure`: there are no bundles, branches, hollow tubes, nucleoli or condensed nuclei. The blur
    along z is 1.8 to 3.5 times that within planes. The mask is taken in three dimensions, so what lies out of focus of
    a plane by more than about twice that blur is not in the mask of that plane.

    Examples
    --------
    >>> volume = draw_volume("puncta", (3, 32, 48), np.random.default_rng(1))
    >>> volume.image.shape, volume.mask.dtype
    ((3, 32, 48), dtype('bool'))
    """
    check_drawing(kind, shape, 3, scale=scale, haze=haze, fraction=fraction)
    if not SPACING_LIMITS[0] <= spacing_z <= SPACING_LIMITS[1]:
        raise OptionError(f"spacing of planes {spacing_z} px is outside {SPACING_LIMITS[0]} to {SPACING_LIMITS[1]}")
    canvas = _canvas_around(shape[1:], rng, scale, fraction)
    axial = float(rng.uniform(*AXIAL)) * canvas.psf_px / spacing_z
    beyond = ceil(3.0 * axial)
    room = Room(canvas, shape[0] + 2 * beyond, spacing_z, axial)
    if kind == "mixed":
        kind = STRUCTURES[int(rng.integers(len(STRUCTURES)))]
    light, mask = in_depth.MAKERS[kind](room)
    core = (slice(beyond, beyond + shape[0]), *canvas.core)
    return _cut_field(light, mask, core, haze, lambda bright: _haze_in_depth(room, bright))


def check_drawing(
    kind: str, shape: tuple[int, ...], axes: int, *, scale: float, haze: float, fraction: float | None
) -> None:
    """Raise OptionError where something cannot be drawn."""
    require_choice(STRUCTURE, kind, (*STRUCTURES, "mixed"))
    if len(shape) != axes or any(not size >= 1 or size % 1 for size in shape):
        raise OptionError(f"shape {tuple(shape)} is not {'Y,X' if axes == 2 else 'Z,Y,X'} with sizes of at least 1")
    real_number(SCALE, scale)
    real_number(HAZE, haze)
    if fraction is not None:
        real_number("cell_fraction", fraction)
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


def _canvas_around(shape: tuple[int, int], rng: np.random.Generator, scale: float, fraction: float | None) -> Canvas:
    """Draw the blur in focus, and return the canvas around a field."""
    psf_px = min(max(float(rng.uniform(*PSF_PX)) * scale, PSF_LIMITS_PX[0]), PSF_LIMITS_PX[1])
    margin_px = ceil(4.0 * psf_px + 6.0 * scale) + 4
    return Canvas((shape[0] + 2 * margin_px, shape[1] + 2 * margin_px), margin_px, scale, psf_px, rng, fraction)


def _cut_field(
    light: Floats, mask: Bools, core: tuple[slice, ...], haze: float, haze_of: Callable[[Floats], Floats]
) -> DrawnField:
    """Cut the field out of a canvas or a room: its light from 0 to about 1, at most 2, and the haze of all around."""
    own, inside = light[core], mask[core]
    bright = np.float32(_bright_light(own, inside) if inside.any() else _bright_light(light, mask))
    relative = own / bright
    image = np.minimum(relative, 1.0) + np.tanh(np.maximum(relative - 1.0, 0.0))
    if haze > 0:
        image = image + np.float32(haze) * haze_of(light / bright)[core]
    return DrawnField(image=np.ascontiguousarray(image, np.float32), mask=np.ascontiguousarray(inside))


def _bright_light(light: Floats, mask: Bools) -> float:
    """Return what is taken for 1: the 99.8th percentile of light in the mask."""
    own = light[mask]
    if not own.size:
        return max(float(light.max()), 1e-6)
    at = int(0.998 * own.size)
    return max(float(np.partition(own, at)[at]), 1e-6)


def _haze(canvas: Canvas, light: Floats) -> Floats:
    """Return out-of-focus light of about unit height: the scene's own, that of shifted copies of it, and a floor."""
    small = light[: light.shape[0] // HAZE_STEP * HAZE_STEP, : light.shape[1] // HAZE_STEP * HAZE_STEP]
    small = small.reshape(small.shape[0] // HAZE_STEP, HAZE_STEP, small.shape[1] // HAZE_STEP, HAZE_STEP).mean(
        axis=(1, 3)
    )
    around = np.pad(small, [(0, size) for size in small.shape], mode="symmetric")
    planes = []
    for number in range(int(canvas.rng.integers(1, 5))):
        first = [0, 0] if number == 0 else [int(canvas.rng.integers(0, size + 1)) for size in small.shape]
        copy = around[first[0] : first[0] + small.shape[0], first[1] : first[1] + small.shape[1]]
        copy = copy[:: -1 if number % 2 else 1]
        sigma_px = canvas.decades(2.5, 24.0) * canvas.scale**0.5
        blurred = ndimage.gaussian_filter(copy, sigma_px / HAZE_STEP, mode="reflect", truncate=3.0)
        planes.append(blurred / max(float(blurred.max()), 1e-6) * canvas.between(0.3, 1.0))
    summed = np.sum(planes, axis=0) + canvas.between(0.0, 0.3)
    return _enlarged(summed.astype(np.float32), light.shape)


def _enlarged(haze: Floats, shape: tuple[int, ...]) -> Floats:
    """Return haze in the shape of the light that it comes from, of unit height."""
    factors = tuple(wide / narrow for wide, narrow in zip(shape, haze.shape, strict=True))
    whole: Floats = ndimage.zoom(haze, factors, order=1, mode="nearest", grid_mode=True)
    return whole / max(float(whole.max()), 1e-6)


def _haze_in_depth(room: Room, light: Floats) -> Floats:
    """Return the light of the volume far out of focus, of about unit height, with a floor."""
    canvas = room.canvas
    step = (1.0, 1.0 / HAZE_STEP, 1.0 / HAZE_STEP)
    small = ndimage.zoom(light, step, order=1, mode="nearest", grid_mode=True)  # (Z, Y / 4, X / 4)
    sigma_px = canvas.decades(4.0, 20.0) * canvas.scale**0.5
    widths = (2.0 * sigma_px / room.spacing_px, sigma_px / HAZE_STEP, sigma_px / HAZE_STEP)
    blurred = ndimage.gaussian_filter(small, widths, mode="reflect", truncate=3.0)
    blurred = blurred / max(float(blurred.max()), 1e-6) + canvas.between(0.0, 0.3)
    return _enlarged(blurred, light.shape)


def _draw(kind: str, canvas: Canvas) -> Light:
    if kind != "mixed":
        return in_plane.MAKERS[kind](canvas)
    first, second = (STRUCTURES[int(number)] for number in canvas.rng.integers(0, len(STRUCTURES), 2))
    light, mask = in_plane.MAKERS[first](canvas)
    if canvas.chance(0.7):
        return light, mask
    more, where = in_plane.MAKERS[second](canvas)
    levels = [max(float(np.quantile(part[::2, ::2], 0.995)), 1e-3) for part in (light, more)]
    share = np.float32(canvas.decades(0.2, 5.0) * levels[0] / levels[1])
    return light + share * more, mask | where

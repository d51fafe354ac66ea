"""Drawn cells seen in phase contrast and, their nuclei labelled, in fluorescence: one geometry, so the truth is known.

Phase contrast shows bodies, nuclei in them, and debris that carries no label; fluorescence shows nuclei alone. It is a
drawing: halo and shading come from a difference of Gaussians, not from optics, and real cells vary far more.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SIDE_PX = 256
BODY_PX, NUCLEUS_SHARE, APART = (15.0, 23.0), (0.36, 0.48), 0.8
CELLS, DEBRIS, THREADS = (8, 26), (4, 18), (0, 3)
UNLABELLED = 0.04
"""Share of cells whose nucleus stays dark: no network can know which."""


@dataclass(frozen=True)
class DrawnPair:
    """A field in both modalities, in counts (Y, X), with the masks of cell bodies and of labelled nuclei."""

    phase: npt.NDArray[np.uint16]
    fluorescence: npt.NDArray[np.uint16]
    bodies: Bools
    nuclei: Bools


def drawn_pair(rng: np.random.Generator, side: int = SIDE_PX) -> DrawnPair:
    """Draw a field of `side` px: cells, what lies between them, how both microscopes record it."""
    margin = 24
    size = side + 2 * margin
    thickness, light = np.zeros((size, size)), np.zeros((size, size))
    bodies, nuclei = np.zeros((size, size), bool), np.zeros((size, size), bool)
    for row, column, radius in _places(rng, size):
        body = _outline(rng, size, (row, column), radius, roughness=0.16)
        thickness += np.clip(ndimage.gaussian_filter(body, radius / 6), 0, 1) * rng.uniform(0.7, 1.2)
        shift = rng.uniform(-0.2, 0.2, 2) * radius
        nucleus = _outline(
            rng, size, (row + shift[0], column + shift[1]), radius * rng.uniform(*NUCLEUS_SHARE), roughness=0.06
        )
        thickness += 0.45 * ndimage.gaussian_filter(nucleus, 0.8)
        thickness -= 0.5 * ndimage.gaussian_filter(nucleus * _specks(rng, size, 0.012), 1.2) * 4
        bodies |= body > 0
        if rng.random() >= UNLABELLED:
            chromatin = 1 + 0.35 * _noise(rng, size, 2.0)
            light += nucleus * rng.lognormal(0, 0.3) * np.clip(chromatin, 0.2, None)
            nuclei |= nucleus > 0
    cytoplasm = bodies * (1 + 0.6 * _noise(rng, size, 1.2))
    thickness = thickness + 0.12 * cytoplasm + _debris(rng, size)
    inner = slice(margin, margin + side), slice(margin, margin + side)
    return DrawnPair(
        _phase_contrast(rng, thickness)[inner], _fluorescence(rng, light, bodies)[inner], bodies[inner], nuclei[inner]
    )


def _places(rng: np.random.Generator, size: int) -> list[tuple[float, float, float]]:
    """Return rows, columns and radii of cells that hardly overlap."""
    placed: list[tuple[float, float, float]] = []
    wanted = int(rng.integers(*CELLS))
    for _ in range(40 * wanted):
        row, column, radius = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(*BODY_PX)
        if all(np.hypot(row - r, column - c) > APART * (radius + other) for r, c, other in placed):
            placed.append((row, column, radius))
        if len(placed) == wanted:
            break
    return placed


def _outline(
    rng: np.random.Generator, size: int, centre: tuple[float, float], radius: float, *, roughness: float
) -> Floats:
    """Return 1 inside a rounded shape, 0 outside."""
    rows, columns = np.mgrid[:size, :size]
    down, across = rows - centre[0], columns - centre[1]
    angle = np.arctan2(down, across)
    reach = np.full((size, size), radius)
    for wave in (2, 3, 4, 5):
        reach += radius * roughness * rng.normal() / wave * 1.5 * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return (np.hypot(down, across) < reach).astype(np.float64)


def _noise(rng: np.random.Generator, size: int, width_px: float) -> Floats:
    """Return smooth noise of variance 1."""
    smooth = ndimage.gaussian_filter(rng.normal(size=(size, size)), width_px, mode="wrap")
    return np.asarray(smooth / smooth.std())


def _specks(rng: np.random.Generator, size: int, share: float) -> Floats:
    """Return 1 at a share of the pixels."""
    return (rng.random((size, size)) < share).astype(np.float64)


def _debris(rng: np.random.Generator, size: int) -> Floats:
    """Return the thickness of what is no cell: grains, some as large as a nucleus, and threads."""
    made = np.zeros((size, size))
    for _ in range(int(rng.integers(*DEBRIS))):
        centre = (rng.uniform(0, size), rng.uniform(0, size))
        made += rng.uniform(0.3, 1.3) * _outline(rng, size, centre, rng.uniform(1.5, 7.0), roughness=0.2)
    for _ in range(int(rng.integers(THREADS[0], THREADS[1] + 1))):
        start, heading = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(30, 120))):
            heading += rng.normal(0, 0.12)
            start = start + np.array([np.sin(heading), np.cos(heading)])
            row, column = np.rint(start).astype(int)
            if 0 <= row < size and 0 <= column < size:
                made[row, column] = 1.5
    return np.asarray(ndimage.gaussian_filter(made, 0.9))


def _phase_contrast(rng: np.random.Generator, thickness: Floats) -> npt.NDArray[np.uint16]:
    """Record thickness as positive phase contrast: dark on grey, with a bright halo and shading, some 11,000 counts."""
    halo = ndimage.gaussian_filter(thickness, rng.uniform(5.0, 8.0))
    fine = ndimage.gaussian_filter(thickness, 0.7)
    shade = 1 + 0.06 * _noise(rng, len(thickness), 60.0) / 2
    bright = rng.uniform(9000, 13000) * shade * (1 - rng.uniform(0.25, 0.4) * (fine - 0.85 * halo))
    recorded = bright + rng.normal(0, 0.008, thickness.shape) * bright
    return np.clip(np.rint(recorded), 0, 2**16 - 1).astype(np.uint16)


def _fluorescence(rng: np.random.Generator, light: Floats, bodies: Bools) -> npt.NDArray[np.uint16]:
    """Record light: blurred, on a camera's offset, with a little light from the bodies."""
    seen = ndimage.gaussian_filter(light + 0.03 * bodies, rng.uniform(1.0, 1.5))
    photons = rng.poisson(np.clip(rng.uniform(700, 1400) * seen + 20, 0, None))
    return np.clip(np.rint(100 + photons + rng.normal(0, 4, light.shape)), 0, 2**16 - 1).astype(np.uint16)

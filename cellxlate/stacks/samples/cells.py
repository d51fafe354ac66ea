"""Simulated cells: where they lie, which outline they have, and how large they are in each plane.

A cell is an ellipsoid with a slightly irregular outline: the level 1 of a squared distance that grows from its centre.
Every pixel belongs to the cell that is nearest by this distance, so cells touch but never overlap. Scaling all cells of
a plane by one factor divides the distance by its square, so the factor that covers a given share of the plane is the
root of a quantile of the distance.
"""

from math import ceil, pi, sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Layout = Literal["scattered", "clustered"]
Cells = npt.NDArray[Any]
"""One record of type `CELL` for each cell."""

RADIUS_PX, RADIUS_SPREAD = 15.0, 0.15  # of a disc of the cell's area: median, and standard deviation of the logarithm
ASPECT, ASPECT_SPREAD, ASPECT_LIMITS = 1.5, 0.2, (1.05, 2.1)  # of the axes of the outline
THREEFOLD = 0.12  # largest share by which an outline departs from an ellipse
REACH = 1.0 / sqrt(1.0 - THREEFOLD)  # farthest point of an outline, in half major axes
SCALE_LIMITS = (0.7, 1.5)

SPACING_PX, JITTER, MARGIN_PX = 30.0, 0.25, 12.0  # of a triangular lattice of sites, reaching beyond the plane
APART = 0.4  # preference for every third site, which has no neighbours of its kind: few cells touch where there is room
SITE_PX = SPACING_PX**2 * sqrt(0.75)
CELL_PX = 740.0  # mean area of a cell
GROUP_DENSITY, GROUP_RADIUS_PX, MOST_GROUPS = 0.88, 190.0, 5
HALF_HEIGHT = 2.2  # of a cell; the stack reaches from -1 to 1, and so do the depths at which cells are widest
DRIFT_PX, DRIFT_PERIOD = 6.0, 40.0  # a cell wanders about its place, over so many time points
SAMPLE_POINTS, NEIGHBOURS = 2**15, 6

CELL = np.dtype(
    [(name, np.float32) for name in ("row", "column", "half_major", "half_minor", "cosine", "sine", "threefold")]
    + [(name, np.float32) for name in ("equator", "drift_row", "drift_column", "phase")]
    + [("texture_row", np.int32), ("texture_column", np.int32)]
)


def place_cells(plane_shape: tuple[int, int], *, cell_fraction: float, layout: Layout, seed: int) -> Cells:
    """Choose the cells of a sample.

    Parameters
    ----------
    plane_shape : tuple of int
        Rows and columns, in pixels.
    cell_fraction : float
        Share of the plane that the cells of their median size shall roughly cover, 0 to 0.9.
    layout : {"scattered", "clustered"}
        Random sites of a jittered lattice, or the sites nearest to a few centres.
    seed : int
        Not negative.

    Returns
    -------
    ndarray (cells,) of CELL
        Places, half axes and drift in pixels; equators in half depths of the stack; texture offsets from 0 to 255.
    """
    if cell_fraction == 0:
        return np.empty(0, CELL)
    random = np.random.default_rng([seed, 0])
    rows, columns, apart = _sites(plane_shape, random)
    plane_px = plane_shape[0] * plane_shape[1]
    if layout == "clustered":
        groups_px = cell_fraction * plane_px / GROUP_DENSITY
        wanted = groups_px / SITE_PX
        centres = _group_centres(plane_shape, groups_px, random)
        order = np.argsort(cKDTree(centres).query(np.stack([rows, columns], axis=1))[0])
    else:
        wanted = cell_fraction / (1.0 - cell_fraction / 3.0) * plane_px / CELL_PX  # neighbours hide each other
        order = np.argsort(random.uniform(0.0, 1.0, len(rows)) - APART * apart)
    in_plane = (rows >= 0) & (rows < plane_shape[0]) & (columns >= 0) & (columns < plane_shape[1])
    chosen = order[np.cumsum(in_plane[order]) <= max(1, round(wanted))]
    count = len(chosen)
    radius = RADIUS_PX * np.exp(RADIUS_SPREAD * random.standard_normal(count).clip(-2.0, 2.0))
    elongation = np.sqrt((ASPECT * np.exp(ASPECT_SPREAD * random.standard_normal(count))).clip(*ASPECT_LIMITS))
    angle = random.uniform(0.0, pi, count)
    cells = np.empty(count, CELL)
    cells["row"], cells["column"] = rows[chosen], columns[chosen]
    cells["half_major"], cells["half_minor"] = radius * elongation, radius / elongation
    cells["cosine"], cells["sine"] = np.cos(angle), np.sin(angle)
    cells["threefold"] = random.uniform(-THREEFOLD, THREEFOLD, count)
    cells["equator"] = random.uniform(-1.0, 1.0, count)
    cells["drift_row"], cells["drift_column"] = random.uniform(-DRIFT_PX, DRIFT_PX, (2, count)) / sqrt(2.0)
    cells["phase"] = random.uniform(0.0, 2.0 * pi, count)
    cells["texture_row"], cells["texture_column"] = random.integers(0, 256, (2, count))
    return cells


def cells_in_plane(
    cells: Cells, plane_shape: tuple[int, int], *, cell_fraction: float, time: int, depth: float
) -> Cells:
    """Move and scale cells, (cells,) of CELL, to what they are in one plane: at a time point, at a depth from -1 to 1.

    The common factor of all half axes, with which they shall cover a share of the plane, is limited to 0.7 to 1.5, so a
    plane that holds a few cells only may miss the share.
    """
    moved = cells.copy()
    if not len(cells):
        return moved
    turn = 2.0 * pi * time / DRIFT_PERIOD + cells["phase"]
    moved["row"] += cells["drift_row"] * np.cos(turn)
    moved["column"] += cells["drift_column"] * np.sin(turn)
    section = np.sqrt(1.0 - ((depth - cells["equator"]) / HALF_HEIGHT) ** 2)
    moved["half_major"] *= section
    moved["half_minor"] *= section
    scale = _scale_for(moved, plane_shape, cell_fraction)
    moved["half_major"] *= scale
    moved["half_minor"] *= scale
    return moved


def outline_distance(cell: Any, down_px: npt.NDArray[Any], over_px: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the squared distance from the centre of a cell, 1 on its outline; about rho^2 (1 + threefold cos 3 phi).

    Rows down and columns over from the centre have shapes that broadcast, with that of the cells if there are several.
    """
    along = (over_px * cell["cosine"] + down_px * cell["sine"]) / cell["half_major"]
    across = (down_px * cell["cosine"] - over_px * cell["sine"]) / cell["half_minor"]
    along_squared, across_squared = along * along, across * across
    squared = along_squared + across_squared
    cubic = along * (along_squared - 3.0 * across_squared)  # rho^3 cos 3 phi
    result: npt.NDArray[Any] = squared + cell["threefold"] * cubic / np.sqrt(squared + 1e-6)
    return result


def _sites(
    plane_shape: tuple[int, int], random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return rows and columns of the sites of cells, and which third of the sites has no neighbours of its kind."""
    spacing_px = (SPACING_PX * sqrt(0.75), SPACING_PX)
    first = [random.uniform(0.0, step) - MARGIN_PX for step in spacing_px]
    row, column = np.indices(
        [
            ceil((size + MARGIN_PX - start) / step) + 1
            for size, start, step in zip(plane_shape, first, spacing_px, strict=True)
        ]
    ).reshape(2, -1)
    jitter_px = SPACING_PX * random.uniform(-JITTER, JITTER, (2, len(row)))
    return (
        first[0] + row * spacing_px[0] + jitter_px[0],
        first[1] + (column - 0.5 * (row % 2)) * spacing_px[1] + jitter_px[1],
        (column - (row + 1) // 2 - row) % 3 == 0,
    )


def _group_centres(
    plane_shape: tuple[int, int], groups_px: float, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return rows and columns of the centres of groups: few enough that their surroundings stay small."""
    groups = groups_px / (pi * GROUP_RADIUS_PX**2)
    if groups < 1.0:  # what is seen of one group: half of it at a border, less in a corner
        centre = random.uniform(0.2, 0.8, 2)
        at_border = [int(random.integers(2))] if groups >= 0.5 else [0, 1]
        centre[at_border] = random.integers(0, 2, len(at_border))
        return centre[None] * plane_shape
    candidates = random.uniform(0.0, 1.0, (256, 2)) * plane_shape
    chosen = [candidates[0]]
    while len(chosen) < min(int(groups), MOST_GROUPS):
        distance = cKDTree(chosen).query(candidates)[0]
        chosen.append(candidates[np.argmax(distance)])
    return np.array(chosen)


def _scale_for(cells: Cells, plane_shape: tuple[int, int], cell_fraction: float) -> float:
    """Return the factor of all half axes with which cells cover a share of the plane, found at up to 2**15 points."""
    step = ceil(sqrt(max(plane_shape[0] * plane_shape[1] / SAMPLE_POINTS, 1.0)))
    axes = [np.arange(min(step, size) // 2, size, step) for size in plane_shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    centres = np.stack([cells["row"], cells["column"]], axis=1)
    neighbours = min(NEIGHBOURS, len(cells))
    reach_px = float(cells["half_major"].max()) * REACH * SCALE_LIMITS[1]
    apart, numbers = cKDTree(centres).query(points, k=list(range(1, neighbours + 1)), distance_upper_bound=reach_px)
    near = np.isfinite(apart)  # (points, neighbours)
    offsets = points[np.nonzero(near)[0]] - centres[numbers[near]]
    distance = np.full(near.shape, np.inf)
    distance[near] = outline_distance(cells[numbers[near]], offsets[:, 0], offsets[:, 1])
    nearest = distance.min(axis=1)
    covered = min(round(cell_fraction * len(nearest)), len(nearest) - 1)
    return float(np.clip(np.sqrt(np.partition(nearest, covered)[covered]), *SCALE_LIMITS))

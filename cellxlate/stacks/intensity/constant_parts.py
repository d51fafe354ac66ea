"""Large parts of a plane where nothing was recorded: padding of mosaics, rotated fields, missing tiles, NaN.

Every rule looks at a bounded neighbourhood, so that rows of a plane tell the same as the whole of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SIDE_PX = 16
"""A pixel lies in a constant part if it lies in a square of this side that holds one value alone. The plane is thought
of as continued by its mirror image, so a strip of 8 px along its border is one too."""
RIM_PX = 2
"""So many pixels around a constant part are neither seen nor changed: resampling has mixed its value into them."""
FADE_PX = 16
"""So far is the surrounding carried into a part without values, fading to the black level."""
WIDE_PX = 4
REACH_PX = SIDE_PX + RIM_PX + FADE_PX + WIDE_PX
MOST_VALUES = 4
NEAR_PX, FAR_PX = 3, 8
LEAST_RING_PX = 16
STEP_SHARE = 0.8
LARGE_PX = 32
WEDGE_PX = 64
"""Where padding runs out between a slanted field and the border, it is narrower than a square for so long."""
LEAST_EDGE_SHARE = 0.5
MOST_EMPTY = 0.1

Mask = npt.NDArray[np.bool_]
NEIGHBOURS = tuple(shift for shift in product((-1, 0, 1), repeat=2) if shift != (0, 0))


@dataclass(frozen=True)
class ConstantPart:
    """One value that large parts of a channel hold, and the share of the sample that it fills; None is no number."""

    value: float | None
    share: float


def recorded_window(empty: Mask) -> tuple[slice, slice]:
    """Return rows and columns of a window that hold at most a tenth of empty pixels each, as many as there are."""
    rows, columns = slice(0, empty.shape[0]), slice(0, empty.shape[1])
    for _ in range(2):
        rows = _longest(empty[:, columns].mean(axis=1) <= MOST_EMPTY if columns.stop else np.zeros(0, np.bool_))
        columns = _longest(empty[rows].mean(axis=0) <= MOST_EMPTY if rows.stop else np.zeros(0, np.bool_))
    return rows, columns


def _longest(true: Mask) -> slice:
    """Return where the longest run of what is true lies; an empty slice where nothing is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    if not len(edges):
        return slice(0, 0)
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return slice(int(edges[2 * longest]), int(edges[2 * longest + 1]))


def constant_pixels(plane: npt.NDArray[Any]) -> Mask | None:
    """Return which pixels of a plane (Y, X) lie in a square of 16 px of one value; None where none does.

    Examples
    --------
    >>> plane = np.arange(40 * 40).reshape(40, 40)
    >>> plane[:, :8] = 7  # with its mirror image 16 px wide
    >>> int(constant_pixels(plane).sum()), constant_pixels(plane[:, 1:]) is None
    (320, True)
    """
    if min(plane.shape) < SIDE_PX or not _run(plane[1:, ::4] == plane[:-1, ::4], SIDE_PX // 2 - 1).any():
        return None
    wide = np.pad(plane, SIDE_PX - 1, mode="symmetric")
    columns = _run(wide[1:] == wide[:-1], SIDE_PX - 1)  # (Y + 15, X + 30): 16 px down from here are equal
    pairs = columns[:, 1:] & columns[:, :-1] & (wide[: len(columns), 1:] == wide[: len(columns), :-1])
    squares = _run(pairs.T, SIDE_PX - 1).T  # (Y + 15, X + 15): their top left corners
    if not squares.any():
        return None
    grown = ~_run(_run(~squares, SIDE_PX).T, SIDE_PX).T  # (Y, X)
    return np.ascontiguousarray(grown)


def _run(true: Mask, length: int) -> Mask:
    """Return where a run of so many rows begins in which all is true: (rows - length + 1, X)."""
    run, reached = true, 1
    while reached < length:
        step = min(reached, length - reached)
        run = run[:-step] & run[step:]
        reached += step
    return run


def grown(mask: Mask, radius_px: int) -> Mask:
    """Return a mask with all pixels within so many rows and columns of it."""
    side = 2 * radius_px + 1
    padded = np.pad(~mask, radius_px, constant_values=True)
    return ~_run(_run(padded, side).T, side).T


def empty_parts(plane: npt.NDArray[Any]) -> dict[float, Mask]:
    """Return the values that stand for "nothing recorded" in a plane (Y, X), each with the pixels of its parts.

    A constant part counts as empty where the recorded image begins at it with a step. The background of an image whose
    offset was subtracted, and saturated cells, are constant too, but the image rises or falls towards them.

    Notes
    -----
    Of the pixels 3 px outside (nearer ones may be mixed with it), four fifths must be at least half as far from the
    value as the median 8 px outside is. What remains must lie in large pieces, half of it in squares of 32 px, or else
    the constant part is the background of cells. A value above all others may be saturation with sharp borders: it must
    touch a side of the plane over half of its length.
    """
    constant = constant_pixels(plane)
    if constant is None or constant.all():
        return {}
    values, counts = np.unique(plane[constant], return_counts=True)
    parts = {}
    for value in values[np.argsort(-counts, kind="stable")[:MOST_VALUES]]:
        part = constant & (plane == value)
        if _begins_with_a_step(plane, constant, part, float(value)) and _is_no_saturation(plane, part, value):
            alike = plane == value
            parts[float(value)] = part if (alike & ~grown(part, WEDGE_PX)).any() else alike
    if parts and not _in_large_pieces(~np.logical_or.reduce(list(parts.values()))):
        return {}
    return parts


def _begins_with_a_step(plane: npt.NDArray[Any], constant: Mask, part: Mask, value: float) -> bool:
    near, far = (
        np.abs(plane[grown(part, px) & ~grown(part, px - 1) & ~constant].astype(np.float64) - value)
        for px in (NEAR_PX, FAR_PX)
    )
    if min(len(near), len(far)) < LEAST_RING_PX:
        return False
    step = float(np.median(far))
    return step > 0 and float(np.mean(near > step / 2)) >= STEP_SHARE


def _is_no_saturation(plane: npt.NDArray[Any], part: Mask, value: float) -> bool:
    if (plane > value).any():
        return True
    labels, count = ndimage.label(part)
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    touching = [np.bincount(edge, minlength=count + 1) / len(edge) >= LEAST_EDGE_SHARE for edge in edges]
    return bool(np.logical_or.reduce(touching)[1:].any())


def _in_large_pieces(recorded: Mask) -> bool:
    squares = _run(_run(recorded, LARGE_PX).T, LARGE_PX).T
    if not squares.any():
        return False
    pieces = ~_run(_run(np.pad(~squares, LARGE_PX - 1, constant_values=True), LARGE_PX).T, LARGE_PX).T
    return bool(2 * np.count_nonzero(pieces) >= np.count_nonzero(recorded))


def without_empty_parts(plane: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], dict[float | None, int]]:
    """Return a plane with NaN where nothing was recorded, rims included, and the pixels of each value left out.

    A plane that is recorded everywhere comes back as it is.
    """
    parts = empty_parts(plane)
    if not parts:
        return plane, {}
    recorded = plane.astype(np.float64)
    recorded[grown(np.logical_or.reduce(list(parts.values())), RIM_PX)] = np.nan
    return recorded, {value: int(np.count_nonzero(part)) for value, part in parts.items()}


def empty_pixels(
    plane: npt.NDArray[Any], values: Sequence[float], below: float, above: float = math.inf
) -> Mask | None:
    """Return the pixels of rows of a plane where nothing was recorded, without rims; None where there are none.

    Parameters
    ----------
    plane : ndarray (rows, X)
        Counts.
    values : sequence of float
        The values of constant parts that were found in a sample of the channel.
    below : float
        A constant part below so many counts is one too: a missing tile that the sample did not meet.
    above : float
        Known values below `below` or above `above` occur nowhere else, so that every pixel that has one counts.
    """
    empty = _in_squares(plane, values, below)
    for value in values:
        if not below <= value <= above and (alike := plane == value).any():
            empty = alike if empty is None else empty | alike
    return empty


def _in_squares(plane: npt.NDArray[Any], values: Sequence[float], below: float) -> Mask | None:
    lattice = plane[:: SIDE_PX // 2, :: SIDE_PX // 2]  # every square holds a point of it
    if not _stands_for_nothing(lattice, values, below).any():
        return None
    constant = constant_pixels(plane)
    if constant is None:
        return None
    constant[constant] = _stands_for_nothing(plane[constant], values, below)
    return constant if constant.any() else None


def _stands_for_nothing(counts: npt.NDArray[Any], values: Sequence[float], below: float) -> Mask:
    with np.errstate(invalid="ignore"):
        empty = counts < below
        for value in values:
            empty |= counts == value
    return np.asarray(empty)


def carried_in(unit: npt.NDArray[np.float32], hollow: Mask) -> npt.NDArray[np.float32]:
    """Return rows in unit range with what surrounds hollow pixels carried 16 px into them, fading to 0, black.

    Each ring of hollow pixels becomes the mean of its known neighbours, so that no border shows and none rings; the
    first of a part that is 3 px wide or more, of those within 4 px, because the noise of single pixels would be drawn
    out into streaks that look like faint cells.
    """
    filled = unit.copy()
    filled[hollow] = 0.0
    known, faded = ~hollow, filled.copy()
    wide = grown(~grown(known, 1), 1)
    ring = np.argwhere(grown(known, 1) & hollow)
    first = wide[ring[:, 0], ring[:, 1]]
    for number in range(FADE_PX):
        if not len(ring):
            break
        rows, columns = ring[:, 0], ring[:, 1]
        value = _mean_around(filled, known, ring, 1)
        if number == 0:
            value[first] = _mean_around(filled, known, ring[first], WIDE_PX)
        filled[rows, columns], faded[rows, columns] = value, value * np.float32(1 - number / FADE_PX)
        known[rows, columns] = True
        beside = np.concatenate([_inside(ring + shift, unit.shape) for shift in NEIGHBOURS])
        beside = beside[~known[beside[:, 0], beside[:, 1]]]
        ring = np.stack(np.divmod(np.unique(beside[:, 0] * unit.shape[1] + beside[:, 1]), unit.shape[1]), axis=1)
    return faded


def _mean_around(
    plane: npt.NDArray[np.float32], known: Mask, places: npt.NDArray[np.int64], radius_px: int
) -> npt.NDArray[np.float32]:
    """Return the mean of the known pixels around each place (N, 2), always added up in the same order."""
    total, count = np.zeros(len(places), np.float32), np.zeros(len(places), np.float32)
    for shift in product(range(-radius_px, radius_px + 1), repeat=2):
        beside = _inside(places + shift, plane.shape)
        there = known[beside[:, 0], beside[:, 1]]
        total += np.where(there, plane[beside[:, 0], beside[:, 1]], np.float32(0))
        count += there
    return total / count


def _inside(places: npt.NDArray[np.int64], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.clip(places, 0, np.array(shape) - 1)

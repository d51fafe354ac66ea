"""Hot pixels and cosmic rays: one to four pixels that exceed all around them by far.

Every rule looks at 5 x 5 px, so that rows of a plane tell the same as the whole of it.
"""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

REACH_PX = 2
MOST_BESIDE = 3
"""A cosmic ray touches up to four pixels, so up to three neighbours may be bright too."""
LEAST_RATIO = 5.0
"""A hot pixel stands out from its surroundings five times more than its fourth brightest neighbour; the centre of the
smallest spot that a microscope draws (sigma 0.6 px) does so four times."""
CLUSTER_FACTOR = 4.0
"""Several bright pixels side by side must be brighter by this factor: they may be a spot that is sampled coarsely."""
LEAST_KNOWN = 8
WHITE_PERCENTILE = 99.0

NEAREST = tuple((down, across) for down, across in product((-1, 0, 1), repeat=2) if (down, across) != (0, 0))
AROUND = tuple(
    (down, across) for down, across in product(range(-REACH_PX, REACH_PX + 1), repeat=2) if (down, across) != (0, 0)
)


def find_hot(
    plane: npt.NDArray[np.floating[Any]], above: float, excess: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]:
    """Find hot pixels.

    Parameters
    ----------
    plane : ndarray (Y, X)
        Counts or unit range; NaN where nothing is known.
    above : float
        Only pixels above it are looked at.
    excess : float
        By so much a hot pixel exceeds the median of its neighbours at least.

    Returns
    -------
    (rows, columns, calm) : ndarrays (N,)
        Where they are, and the median of the neighbours in 5 x 5 px, which is what they might have been.

    Examples
    --------
    >>> plane = np.zeros((9, 9))
    >>> plane[4, 4], plane[2, 7], plane[2, 8] = 100.0, 50.0, 60.0
    >>> [part.tolist() for part in find_hot(plane, 2, 1)]
    [[2, 2, 4], [7, 8, 4], [0.0, 0.0, 0.0]]
    """
    with np.errstate(invalid="ignore"):
        rows, columns = np.nonzero(plane > above)
    own = plane[rows, columns]
    likely = np.zeros(len(rows), np.uint8)
    for shift in NEAREST:
        with np.errstate(invalid="ignore"):
            likely += _beside(plane, rows, columns, shift) > own - excess
    rows, columns = rows[likely <= MOST_BESIDE], columns[likely <= MOST_BESIDE]
    own = plane[rows, columns].astype(np.float64)
    around = np.sort([_beside(plane, rows, columns, shift).astype(np.float64) for shift in AROUND], axis=0)  # NaN last
    known = np.count_nonzero(~np.isnan(around), axis=0)
    calm = np.take_along_axis(around, np.maximum(known - 1, 0)[None] // 2, axis=0)[0]
    with np.errstate(invalid="ignore"):
        beside = np.count_nonzero((around - calm) * LEAST_RATIO > own - calm, axis=0)
        hot = (own > calm + np.where(beside > 0, CLUSTER_FACTOR * excess, excess)) & (known >= LEAST_KNOWN)
    hot &= beside <= MOST_BESIDE * known // len(AROUND)  # a filament that leaves the plane is none
    return rows[hot], columns[hot], calm[hot].astype(plane.dtype)


def hot_counts(
    counts: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]:
    """Find the hot pixels of a window (Y, X) of counts of which no levels are known, as `find_hot` does."""
    plane = counts.astype(np.float64)
    plane[~np.isfinite(plane)] = np.nan
    known = plane[np.isfinite(plane)]
    black, white = np.percentile(known, [10, WHITE_PERCENTILE]) if known.size else (0.0, 0.0)
    return find_hot(plane, float(2 * white - black), float(max(white - black, 1e-9)))


def _beside(
    plane: npt.NDArray[Any], rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], shift: tuple[int, int]
) -> npt.NDArray[Any]:
    """Return the neighbours in one direction; NaN outside the plane."""
    down, across = rows + shift[0], columns + shift[1]
    inside = (down >= 0) & (down < plane.shape[0]) & (across >= 0) & (across < plane.shape[1])
    neighbours = plane[np.where(inside, down, 0), np.where(inside, across, 0)]
    return np.where(inside, neighbours, np.asarray(np.nan, plane.dtype))

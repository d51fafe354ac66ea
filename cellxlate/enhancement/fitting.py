"""Where the generator runs: rectangles fitted to the selected pixels of a band, so that cost follows cells, not area.

An output pixel needs its whole receptive field, so a rectangle costs what its surroundings cost too, and many small
ones can cost more than one large one. Rectangles are merged as long as that is cheaper by this model:
(rows + halo) x (columns + halo) pixels, plus a constant for the call.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.enhancement.tiling import Tile, tiles_of

CELL_PX = 8
"""Rectangles are cut on a grid of this pitch."""

PIECE_CELLS = 16
"""Connected regions are first cut at multiples of this many cells."""

CALL_PX = 2000
"""What a rectangle costs beside its area, in pixels of the `fast` generator: about 1 ms, for the call, for composing,
and for what engines prepare when they first see a shape. Between 600 and 3000 the time hardly differs."""

MOST_PIECES = 300
"""A band with more pieces is cut on a coarse grid alone: merging takes time with the square of their number."""

DENSE_FROM = 0.85
"""Above this share of a band within half a halo of a selected pixel nothing is gained by fitting."""

LARGEST_BATCH = 16

Boxes = npt.NDArray[np.int64]
"""(N, 4): top, bottom, left, right in cells, ends excluded."""


def fitted_tiles(selected: npt.NDArray[np.bool_], area: Tile, *, side_px: int, halo_px: int) -> list[Tile]:
    """Return tiles that hold all selected pixels of an area at about the least cost.

    Parameters
    ----------
    selected : ndarray (rows, columns) of bool
        Of the area.
    area : Tile
        A band of a plane.
    side_px : int
        Tiles are at most this high and wide.
    halo_px : int
        Margin the generator needs.

    Returns
    -------
    list of Tile
        They may overlap. Where the cheapest cover is the whole area, the tiles of `tiling.tiles_of`.
    """
    cells = coarse(selected)
    if not cells.any():
        return []
    dense = list(tiles_of(area, side_px))
    reach = -(-halo_px // (2 * CELL_PX))
    if ndimage.maximum_filter(cells, 2 * reach + 1, mode="constant").mean() >= DENSE_FROM:
        return dense
    boxes = merged(pieces(cells, side_px // CELL_PX), side_px // CELL_PX, halo_px)
    corners = boxes * CELL_PX + np.array([area.top, area.top, area.left, area.left])
    fitted = [
        Tile(int(top), min(int(bottom), area.bottom), int(left), min(int(right), area.right))
        for top, bottom, left, right in corners
    ]
    return min(fitted, dense, key=lambda tiles: cost_px(tiles, halo_px))


def cost_px(tiles: Sequence[Tile], halo_px: int) -> int:
    """Return what tiles cost the generator, in pixels."""
    return sum((rows + halo_px) * (columns + halo_px) + CALL_PX for rows, columns in (tile.shape for tile in tiles))


def coarse(selected: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which cells of 8 x 8 pixels hold a selected pixel; the last ones may be cut short."""
    rows, columns = selected.shape
    down, across = -(-rows // CELL_PX), -(-columns // CELL_PX)
    if (rows, columns) != (down * CELL_PX, across * CELL_PX):
        selected = np.pad(selected, ((0, down * CELL_PX - rows), (0, across * CELL_PX - columns)))
    eights = np.ascontiguousarray(selected).view(np.uint64)  # 8 pixels of a row at a time
    return np.asarray(eights.reshape(down, CELL_PX, across).any(axis=1))


def pieces(cells: npt.NDArray[np.bool_], side: int) -> Boxes:
    """Return the rectangles around connected regions, cut at multiples of 16 cells, or of the side where it is less."""
    pitch = max(1, min(PIECE_CELLS, side))
    labels, _ = ndimage.label(cells, np.ones((3, 3)))
    rows, columns = np.nonzero(cells)
    grid = (rows // pitch) * (cells.shape[1] // pitch + 1) + columns // pitch
    keys = labels[rows, columns].astype(np.int64) * (int(grid.max()) + 1) + grid
    names, groups = np.unique(keys, return_inverse=True)
    if len(names) > MOST_PIECES:
        names, groups = np.unique(grid, return_inverse=True)
    boxes = np.empty((len(names), 4), np.int64)
    for column, (reduce, positions, start) in enumerate(
        [(np.minimum, rows, cells.size), (np.maximum, rows + 1, 0), (np.minimum, columns, cells.size),
         (np.maximum, columns + 1, 0)]
    ):  # fmt: skip
        boxes[:, column] = start
        reduce.at(boxes[:, column], groups, positions)
    return boxes


def merged(boxes: Boxes, side: int, halo_px: int) -> Boxes:
    """Join the two rectangles whose union saves most, until no union saves anything."""
    if len(boxes) > MOST_PIECES:
        return boxes
    boxes, halo = boxes.copy(), halo_px / CELL_PX
    call = CALL_PX / CELL_PX**2
    alive = np.ones(len(boxes), bool)

    def costs(some: Boxes) -> npt.NDArray[np.float64]:
        high, wide = some[:, 1] - some[:, 0], some[:, 3] - some[:, 2]
        dear = np.where((high > side) | (wide > side), np.inf, 0)
        return np.asarray((high + halo) * (wide + halo) + call + dear)

    def savings(one: int) -> npt.NDArray[np.float64]:
        union = np.empty_like(boxes)
        union[:, ::2] = np.minimum(boxes[:, ::2], boxes[one, ::2])
        union[:, 1::2] = np.maximum(boxes[:, 1::2], boxes[one, 1::2])
        saved = cost + cost[one] - costs(union)
        saved[~alive], saved[one] = -np.inf, -np.inf
        return np.asarray(saved)

    cost = costs(boxes)
    gains = np.stack([savings(one) for one in range(len(boxes))])
    while True:
        one, other = divmod(int(gains.argmax()), len(boxes))
        if gains[one, other] <= 0:
            return boxes[alive]
        boxes[one, ::2] = np.minimum(boxes[one, ::2], boxes[other, ::2])
        boxes[one, 1::2] = np.maximum(boxes[one, 1::2], boxes[other, 1::2])
        alive[other] = False
        cost[one] = costs(boxes[one : one + 1])[0]
        gains[other], gains[:, other] = -np.inf, -np.inf
        gains[one] = savings(one)
        gains[:, one] = gains[one]


def batches(windows: Sequence[tuple[Tile, Tile]], *, most_px: int) -> Iterator[list[tuple[Tile, Tile]]]:
    """Yield tiles with the windows around them in groups of equal windows, which a network runs on at once.

    A batch has at most `most_px` pixels, unless a single window has more.
    """

    def shape(pair: tuple[Tile, Tile]) -> tuple[int, int]:
        return pair[1].shape

    for (rows, columns), group in groupby(sorted(windows, key=shape), shape):
        equal = list(group)
        size = max(1, min(LARGEST_BATCH, most_px // (rows * columns)))
        for first in range(0, len(equal), size):
            yield equal[first : first + size]

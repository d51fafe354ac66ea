"""A cell that moves by its own diameter from frame to frame leaves no trail in attention, whatever looks at neighbours.

Every way to enhance a movie that should hold this is an entry of `WAYS`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

import cellxlate

FRAMES, SIDE_PX, DIAMETER_PX, BORDER_PX, PEAK_COUNTS = 5, 128, 20, 4, 10
ROUND = 2 * DIAMETER_PX
"""How far the two lanes of cells are apart, one going right, one left."""

Masks = npt.NDArray[np.bool_]
Way = Callable[[npt.NDArray[np.uint16]], npt.NDArray[np.uint8]]


def enhanced(**options: Any) -> Way:
    """Return a way: attention of `cellxlate.enhance` with some options."""
    return lambda movie: cellxlate.enhance(movie, "cells", axes="TYX", **options).attention


WAYS: dict[str, Way] = {"each frame alone": enhanced(context="none"), "frames beside": enhanced(context="t")}


@cache
def moving_cells() -> tuple[npt.NDArray[np.uint16], Masks]:
    """A movie (T, Y, X) of two discs that move by their diameter, with photon and read noise, and where they are."""
    rows, columns = np.indices((SIDE_PX, SIDE_PX))
    cells = np.zeros((FRAMES, SIDE_PX, SIDE_PX), bool)
    for at in range(FRAMES):
        for row, column in ((44, 24 + at * DIAMETER_PX), (44 + ROUND, SIDE_PX - 24 - at * DIAMETER_PX)):
            cells[at] |= (rows - row) ** 2 + (columns - column) ** 2 <= (DIAMETER_PX / 2) ** 2
    signal = PEAK_COUNTS * ndimage.gaussian_filter(cells.astype(np.float64), (0, 1, 1))
    draw = np.random.default_rng(1)
    return np.rint(100 + draw.poisson(signal) + draw.normal(0, 2.5, signal.shape)).clip(0).astype(np.uint16), cells


def found_and_trail(selected: Masks, cells: Masks) -> tuple[float, float]:
    """Return which share of the cells is selected, and of the places that a cell left, or is about to enter, alone.

    Attention may reach `BORDER_PX` beyond a cell; nearer than that to one of the same frame, nothing is a trail.
    """
    disc = np.hypot(*np.indices((2 * BORDER_PX + 1,) * 2) - BORDER_PX) <= BORDER_PX
    near = np.stack([ndimage.binary_dilation(frame, disc) for frame in cells])
    beside = np.zeros_like(cells)
    beside[1:] |= cells[:-1]
    beside[:-1] |= cells[1:]
    beside &= ~near
    return float(selected[cells].mean()), float(selected[beside].mean())


@pytest.mark.parametrize("way", WAYS)
def test_a_cell_that_moves_by_its_diameter_is_selected_where_it_is_and_nowhere_else(way: str) -> None:
    movie, cells = moving_cells()
    found, trail = found_and_trail(WAYS[way](movie) > 0, cells)
    assert found > 0.95
    assert trail < 0.02


@pytest.mark.parametrize(
    ("smear", "least"),
    [(lambda masks: ndimage.maximum_filter(masks, (3, 1, 1)), 0.9), (lambda masks: np.roll(masks, 1, axis=0), 0.4)],
    ids=["union of neighbours", "the frame before"],
)
def test_smeared_attention_would_be_noticed(smear: Callable[[Masks], Masks], least: float) -> None:
    _, cells = moving_cells()
    assert found_and_trail(cells, cells) == (1, 0)
    assert found_and_trail(smear(cells), cells)[1] > least

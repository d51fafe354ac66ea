"""Planes that are held for their neighbours take no more memory than as they are stored, and show the same bits."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cellxlate.enhancement.input import ANEW, PlaneInput
from cellxlate.enhancement.neighbours.held import HeldPlanes, UnitOfCounts
from cellxlate.enhancement.tiling import Tile
from cellxlate.stacks.intensity.constant_parts import ConstantPart
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import Stack

LEVELS = IntensityRange(100.0, 200.0, 4.0, constant_parts=(ConstantPart(0.0, 0.1),))


def plane(dtype: str, *, empty_rows: int) -> npt.NDArray[Any]:
    rng = np.random.default_rng(0)
    counts = rng.normal(120, 4, (220, 130)).astype(dtype)
    counts[[10, 100, 180], [5, 60, 129]] = 4000  # hot
    counts[40 : 40 + empty_rows, :30] = 0  # never recorded
    if dtype == "float32":
        counts[150, 70] = np.nan
    return counts


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize(("empty_rows", "is_lean"), [(0, True), (40, True), (180, False)])
@pytest.mark.parametrize("are_whole", [True, False])
def test_windows_of_held_planes_have_the_bits_of_those_that_are_looked_at_anew(
    dtype: str, empty_rows: int, is_lean: bool, are_whole: bool
) -> None:
    stack, held = Stack(plane(dtype, empty_rows=empty_rows), "YX"), HeldPlanes(3, are_whole=are_whole)
    area = Tile(60, 130, 0, 130)
    anew, kept = (PlaneInput.of(stack, (), {0: LEVELS}, see=see).rows(area, 20) for see in (ANEW, held))
    assert isinstance(kept.unit[0], UnitOfCounts) is is_lean
    assert anew.kept[0] is not None
    np.testing.assert_array_equal(anew.kept[0], kept.kept[0])
    for tile in (area, Tile(44, 120, -16, 100), Tile(61, 140, 50, 146), Tile(80, 81, 60, 61)):
        assert anew.window(tile).tobytes() == kept.window(tile).tobytes()
        assert anew.windows([tile, tile]).tobytes() == kept.windows([tile, tile]).tobytes()
    assert all(
        one.tobytes() == other.tobytes() for one, other in zip(anew.inside(area), kept.inside(area), strict=True)
    )


def test_rows_at_the_ends_of_a_whole_plane_have_their_bits_too() -> None:
    stack, held = Stack(plane("uint16", empty_rows=40), "YX"), HeldPlanes(3, are_whole=True)
    for area in (Tile(0, 60, 0, 130), Tile(160, 220, 0, 130)):
        anew, kept = (PlaneInput.of(stack, (), {0: LEVELS}, see=see).rows(area, 20) for see in (ANEW, held))
        around = area.grown(16, 8)
        assert anew.window(around).tobytes() == kept.window(around).tobytes()

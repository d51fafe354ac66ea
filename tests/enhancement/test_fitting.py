"""Laws of fitting: every selected pixel is covered, no tile is too large, and the cover never costs more than all."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellxlate.enhancement.fitting import CALL_PX, MOST_PIECES, batches, coarse, cost_px, fitted_tiles
from cellxlate.enhancement.tiling import Tile, tiles_of

AREA = Tile(512, 1024, 0, 900)


def covered(tiles: list[Tile], area: Tile = AREA) -> npt.NDArray[np.bool_]:
    plane = np.zeros(area.shape, bool)
    for tile in tiles:
        assert area.top <= tile.top < tile.bottom <= area.bottom
        assert area.left <= tile.left < tile.right <= area.right
        plane[tile.slices(area.top, area.left)] = True
    return plane


def squares(count: int, side: int, seed: int, area: Tile = AREA) -> npt.NDArray[np.bool_]:
    random = np.random.default_rng(seed)
    selected = np.zeros(area.shape, bool)
    for _ in range(count):
        row, column = (int(random.integers(0, size - side + 1)) for size in area.shape)
        selected[row : row + side, column : column + side] = True
    return selected


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(0, 60), side=st.integers(1, 90), seed=st.integers(0, 99), halo_px=st.integers(0, 90),
    tile_px=st.sampled_from([8, 36, 128, 512]),
)  # fmt: skip
def test_every_selected_pixel_is_covered_and_never_at_more_than_the_cost_of_all(
    count: int, side: int, seed: int, halo_px: int, tile_px: int
) -> None:
    selected = squares(count, side, seed)
    tiles = fitted_tiles(selected, AREA, side_px=tile_px, halo_px=halo_px)
    assert covered(tiles)[selected].all()
    assert all(max(tile.shape) <= max(tile_px, 8) for tile in tiles)
    assert cost_px(tiles, halo_px) <= cost_px(list(tiles_of(AREA, tile_px)), halo_px)


def test_nothing_selected_needs_no_tile() -> None:
    assert fitted_tiles(np.zeros(AREA.shape, bool), AREA, side_px=512, halo_px=25) == []


def test_a_lone_cell_gets_a_tile_of_its_size() -> None:
    selected = np.zeros(AREA.shape, bool)
    selected[203:230, 411:440] = True
    assert fitted_tiles(selected, AREA, side_px=512, halo_px=25) == [Tile(512 + 200, 512 + 232, 408, 440)]


def test_neighbours_are_joined_where_their_halos_overlap_and_kept_apart_where_not() -> None:
    near, far = np.zeros(AREA.shape, bool), np.zeros(AREA.shape, bool)
    for selected, gap in ((near, 16), (far, 400)):
        selected[64:96, 64:96] = selected[64:96, 96 + gap : 128 + gap] = True
    assert fitted_tiles(near, AREA, side_px=512, halo_px=25) == [Tile(576, 608, 64, 144)]
    assert len(fitted_tiles(far, AREA, side_px=512, halo_px=25)) == 2


def test_a_crowded_area_is_computed_whole() -> None:
    selected = squares(300, 30, 1)
    assert fitted_tiles(selected, AREA, side_px=512, halo_px=25) == list(tiles_of(AREA, 512))


def test_dust_is_covered_in_bounded_time() -> None:
    """Thousands of single pixels far apart, in more pieces than are merged one by one."""
    area = Tile(0, 512, 0, 20_000)
    selected = np.zeros(area.shape, bool)
    selected[::512, ::40] = True
    assert selected.sum() > MOST_PIECES
    tiles = fitted_tiles(selected, area, side_px=512, halo_px=3)
    assert covered(tiles, area)[selected].all()
    assert cost_px(tiles, 3) < 0.3 * cost_px(list(tiles_of(area, 512)), 3)


def test_where_fitting_costs_more_than_all_tiles_all_are_taken() -> None:
    """Diagonals, each of whose pieces spans its rectangle from corner to corner; tiles larger than rectangles."""
    down, across = np.mgrid[: AREA.shape[0], : AREA.shape[1]]
    selected = (down - across) % 32 == 0
    assert fitted_tiles(selected, AREA, side_px=36, halo_px=0) == list(tiles_of(AREA, 36))


@pytest.mark.parametrize("halo_px", [25, 84])
@pytest.mark.parametrize(("count", "bound"), [(3, 1.0), (12, 1.15)])
def test_cost_follows_what_cells_reach(halo_px: int, count: int, bound: float) -> None:
    """In pixels, against the selected area grown by the halo: what no method that computes in the plane can avoid."""
    selected = squares(count, 32, 3)
    cost = cost_px(fitted_tiles(selected, AREA, side_px=512, halo_px=halo_px), halo_px) - CALL_PX * count
    reached = np.zeros(AREA.shape, bool)
    for row, column in np.argwhere(selected[::8, ::8]) * 8:
        reached[max(row - halo_px, 0) : row + 8 + halo_px, max(column - halo_px, 0) : column + 8 + halo_px] = True
    assert cost <= bound * reached.sum()


def test_a_cell_is_marked_wherever_one_of_its_pixels_is_selected() -> None:
    selected = np.zeros((19, 21), bool)
    selected[0, 0] = selected[15, 15] = selected[18, 20] = True
    assert np.argwhere(coarse(selected)).tolist() == [[0, 0], [1, 1], [2, 2]]


def test_equal_windows_come_together_and_a_batch_has_a_limit() -> None:
    windows = [(Tile(0, 8, place, place + 8), Tile(0, 40, place, place + side)) for place, side in
               ((0, 40), (8, 80), (16, 40), (24, 40))]  # fmt: skip
    found = list(batches(windows, most_px=2 * 1600))
    assert [len(batch) for batch in found] == [2, 1, 1]
    assert sorted(pair[0].left for batch in found for pair in batch) == [0, 8, 16, 24]
    assert all(len({around.shape for _, around in batch}) == 1 for batch in found)

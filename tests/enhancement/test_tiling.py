"""Laws of cutting: every pixel once, windows aligned to the stride, borders continued by their mirror image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellxlate.enhancement.tiling import (
    BLOCK_PX,
    LEAST_WINDOW_PX,
    Tile,
    bands_of,
    mirrored,
    tile_side,
    tiles_of,
    window,
)
from cellxlate.errors import OptionError
from cellxlate.model.layers import activation_bytes_per_px, receptive_field
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.settings import PRESETS, PresetName

sides = st.integers(1, 1300)


@given(rows=sides, columns=sides, side_px=st.integers(1, 700))
def test_bands_and_their_tiles_cover_every_pixel_once(rows: int, columns: int, side_px: int) -> None:
    side_px = max(side_px, max(rows, columns) // 40)  # bounds the number of tiles
    covered = np.zeros((rows, columns), np.uint8)
    for band in bands_of((rows, columns), side_px):
        assert band.top % BLOCK_PX == 0
        assert band.bottom == rows or band.bottom % BLOCK_PX == 0
        for tile in tiles_of(band, side_px):
            covered[tile.slices()] += 1
    assert covered.min() == covered.max() == 1


@given(
    top=st.integers(0, 500), left=st.integers(0, 500), rows=sides, columns=sides, halo=st.integers(0, 90),
    stride=st.sampled_from([1, 2, 4, 8]),
)  # fmt: skip
def test_a_window_holds_the_halo_and_is_aligned_to_the_stride(
    top: int, left: int, rows: int, columns: int, halo: int, stride: int
) -> None:
    around = Tile(top, top + rows, left, left + columns).grown(halo, stride)
    assert all(edge % stride == 0 for edge in (around.top, around.bottom, around.left, around.right))
    assert 0 <= top - halo - around.top < stride
    assert 0 <= around.bottom - max(top + rows + halo, around.top + LEAST_WINDOW_PX) < stride
    assert 0 <= left - halo - around.left < stride
    assert 0 <= around.right - max(left + columns + halo, around.left + LEAST_WINDOW_PX) < stride


@given(first=st.integers(-50, 50), count=st.integers(0, 100), size=st.integers(1, 30))
def test_positions_are_mirrored_as_numpy_pads_symmetrically(first: int, count: int, size: int) -> None:
    padded = np.pad(np.arange(size), 200, mode="symmetric")
    assert mirrored(first, first + count, size).tolist() == padded[200 + first : 200 + first + count].tolist()


@pytest.mark.parametrize("tile", [Tile(-7, 30, -3, 40), Tile(4, 12, 0, 17), Tile(0, 20, 10, 60)])
def test_a_window_beyond_the_plane_shows_its_mirror_image(tile: Tile) -> None:
    plane = np.arange(20 * 17).reshape(20, 17)
    padded = np.pad(plane, 60, mode="symmetric")
    expected = padded[tile.top + 60 : tile.bottom + 60, tile.left + 60 : tile.right + 60]
    assert np.array_equal(window(plane, 0, (20, 17), tile), expected)


def test_a_window_finds_its_rows_in_a_part_of_the_plane() -> None:
    plane = np.arange(40 * 9).reshape(40, 9)
    tile = Tile(16, 24, -2, 12)
    assert np.array_equal(window(plane[10:30], 10, (40, 9), tile), window(plane, 0, (40, 9), tile))


def test_a_tile_side_is_rounded_up_to_the_stride_and_follows_the_memory_budget() -> None:
    network = {"halo_px": 25, "stride": 4}
    assert tile_side(201, activation_bytes_per_px=84, **network) == 204
    assert tile_side(None, activation_bytes_per_px=84, **network) == 1024
    assert tile_side(None, activation_bytes_per_px=700, **network) == 512
    with pytest.raises(OptionError, match="tile_px=0"):
        tile_side(0, activation_bytes_per_px=84, **network)


@pytest.mark.parametrize(("preset", "side_px", "most_work"), [("fast", 1024, 1.11), ("paper", 1024, 1.36)])
def test_the_networks_of_a_preset_get_tiles_that_waste_little(
    preset: PresetName, side_px: int, most_work: float
) -> None:
    generator = TranslatorNetworks(PRESETS[preset].networks).generator
    halo_px, stride = receptive_field(generator).halo_px, receptive_field(generator).stride
    per_px = activation_bytes_per_px(generator)
    assert tile_side(None, halo_px=halo_px, stride=stride, activation_bytes_per_px=per_px) == side_px
    assert ((side_px + 2 * halo_px) / side_px) ** 2 < most_work

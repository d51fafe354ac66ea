"""Windows of proposers: whatever the tile, what is proposed is what the whole plane would have there."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellxlate.enhancement.proposals.windows import Geometry
from cellxlate.enhancement.tiling import Tile, bands_of, window
from cellxlate.model.attention import Floats


def strided(halo: int, stride: int, margin: int) -> Callable[[Floats], Floats]:
    """Return a model (Y, X) that sees its borders, whose outcome depends on where blocks of `stride` px begin."""

    def model(image: Floats) -> Floats:
        assert [side % stride for side in image.shape] == [0, 0]
        blocks = image.reshape(image.shape[0] // stride, stride, image.shape[1] // stride, stride)
        coarse = np.repeat(np.repeat(blocks.mean((1, 3)), stride, 0), stride, 1)
        reach = halo - stride + 1
        padded = np.pad(image, reach)  # zeros, as networks do
        far = padded[: image.shape[0], : image.shape[1]] + padded[2 * reach :, 2 * reach :]
        made = coarse + far
        return made[margin : made.shape[0] - margin, margin : made.shape[1] - margin]

    return model


def proposed(model: Callable[[Floats], Floats], geometry: Geometry, plane: Floats, tile: Tile) -> Floats:
    around = geometry.window(tile, plane.shape)
    made = model(window(plane, 0, plane.shape, around))
    margin = (around.shape[0] - made.shape[0]) // 2
    return made[tile.slices(around.top + margin, around.left + margin)]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 90), columns=st.integers(1, 90), stride=st.sampled_from([1, 2, 4, 8]), more=st.integers(1, 9),
    steps=st.integers(1, 3), least=st.integers(1, 5), asked=st.integers(1, 40), margin=st.integers(0, 4),
    fixed=st.integers(0, 6),
)  # fmt: skip
def test_tiles_have_what_the_whole_plane_would_have(
    rows: int, columns: int, stride: int, more: int, steps: int, least: int, asked: int, margin: int, fixed: int
) -> None:
    halo = stride - 1 + more
    margin = min(margin, halo)
    step = steps * stride
    fixed_px = 2 * halo + stride + 8 + 3 * stride if fixed > 4 else 0
    fixed_px = -(-fixed_px // stride) * stride or None
    geometry = Geometry(halo, stride, least * stride, step, fixed_px, margin_px=margin)
    plane = np.random.default_rng(rows * 91 + columns).random((rows, columns)).astype(np.float32)
    model, everywhere = strided(halo, stride, margin), Tile(0, rows, 0, columns)
    whole = replace(geometry, halo_px=None, fixed_px=None)
    if fixed_px is not None:
        whole = replace(whole, least_px=fixed_px, step_px=stride)
    expected = proposed(model, whole, plane, everywhere)
    made = np.full_like(plane, np.nan)
    side = geometry.tile_px(asked)
    for band in bands_of(plane.shape, side):
        for tile, around in geometry.tiles(np.ones(band.shape, bool), band, side, plane.shape):
            assert around == geometry.window(tile, plane.shape)
            assert fixed_px is None or around.shape == (fixed_px, fixed_px)
            for start, length, end in ((around.top, rows, band.bottom), (around.left, columns, columns)):
                assert start >= max(band.top if length == rows else 0, 0) - geometry.rows_px
                assert end <= length
            made[tile.slices()] = proposed(model, geometry, plane, tile)
    np.testing.assert_array_equal(made, expected)


def test_rows_that_windows_need_are_read() -> None:
    geometry = Geometry(21, 8, 48, 16)
    for first, last in ((0, 512), (512, 1024), (1024, 1029)):
        around = geometry.window(Tile(first, last, 0, 40), (1029, 40))
        assert around.top >= first - geometry.rows_px
        assert around.bottom <= last + geometry.rows_px


@pytest.mark.parametrize(("fixed", "halo", "largest"), [(256, 29, 191), (256, 128, -7)])
def test_the_tile_of_a_fixed_window_leaves_room_for_halo_and_stride(fixed: int, halo: int, largest: int) -> None:
    assert Geometry(halo, 8, fixed, 8, fixed).largest_tile_px == largest


def test_tiles_of_heavy_networks_are_small() -> None:
    light, heavy = Geometry(20, bytes_per_px=60), Geometry(20, bytes_per_px=6000)
    assert light.tile_px(None) == 1024
    assert heavy.tile_px(None) == 128
    assert heavy.tile_px(200) == 200

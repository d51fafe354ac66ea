"""A tile with an offset is found, in any split into bands; what is no seam is not."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from cellxlate.quality.checks import read_back, warnings_of
from cellxlate.quality.places import Places
from cellxlate.quality.seams import Seams
from cellxlate.quality.tally import Tally
from cellxlate.stacks.stack import Stack

TILE_PX = 64
Plane = tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]


def plane(seed: int = 0, shape: tuple[int, int] = (200, 260)) -> Plane:
    """A smooth output of which a blotchy half is selected."""
    draw = np.random.default_rng(seed)
    pixels = 300 + 400 * ndimage.gaussian_filter(draw.normal(size=shape), 3) + draw.normal(0, 1, shape)
    return np.rint(pixels).astype(np.uint16), ndimage.gaussian_filter(draw.normal(size=shape), 12) > 0


def seams_of(pixels: npt.NDArray[np.uint16], selected: npt.NDArray[np.bool_], band: int = 1000) -> Seams:
    seams = Seams(TILE_PX)
    for top in range(0, len(pixels), band):
        part = slice(top, top + band)
        seams.add((), top, enhanced=pixels[part], selected=selected[part])
    return seams


def with_offset(pixels: npt.NDArray[np.uint16], selected: npt.NDArray[np.bool_], counts: int) -> npt.NDArray[np.uint16]:
    broken = pixels.copy()
    broken[64:128, 128:192] += np.where(selected[64:128, 128:192], counts, 0).astype(np.uint16)
    return broken


def test_an_honest_output_has_no_seam() -> None:
    for seed in range(8):
        assert seams_of(*plane(seed)).found() == []


def test_a_tile_with_an_offset_is_found_at_its_borders() -> None:
    for seed in range(4):
        pixels, selected = plane(seed)
        found = seams_of(with_offset(pixels, selected, 40), selected).found()
        assert found
        assert {border[1:] for border in found} <= {
            ("row", 64, 2), ("row", 128, 2), ("column", 128, 1), ("column", 192, 1)
        }  # fmt: skip


@pytest.mark.parametrize("band", [1, 5, 64, 77, 199])
def test_any_split_into_bands_finds_the_same(band: int) -> None:
    pixels, selected = plane(1)
    broken = with_offset(pixels, selected, 40)
    whole, split = seams_of(broken, selected).scores(), seams_of(broken, selected, band).scores()
    assert whole.keys() == split.keys()
    assert len(whole) > 10
    for border, score in whole.items():
        assert split[border] == pytest.approx(score, abs=1e-9)


def test_slopes_and_kept_pixels_are_no_seams() -> None:
    ramp = np.add.outer(np.arange(200) * 30, np.arange(260) * 20).astype(np.uint16)
    assert seams_of(ramp, np.ones(ramp.shape, bool)).found() == []
    pixels, selected = plane(2)
    steps = pixels.copy()
    steps[:, 128:] += 500
    assert seams_of(steps, np.zeros_like(selected)).found() == []


def test_the_warning_names_the_place_and_the_tile_reaches_the_report() -> None:
    pixels, selected = plane(3)
    attention = selected.astype(np.uint8) * 200
    stacks = [Stack.from_array(one) for one in (pixels, with_offset(pixels, selected, 40), attention)]
    tally = read_back(*stacks, tile_px=TILE_PX)
    assert any("borders of tiles show as a step" in text for text in warnings_of(tally))
    assert tally.summary()["seams"]["borders_with_a_step"] == len(tally.seams.found()) > 0
    assert read_back(*stacks).summary()["seams"] is None


@pytest.mark.parametrize("band", [1, 100, 256, 300, 1000])
def test_places_count_the_same_for_any_split(band: int) -> None:
    _, selected = plane(4, (600, 700))
    places = Places()
    for top in range(0, 600, band):
        places.add((2,), top, selected[top : top + band])
    expected = np.array(
        [[selected[row : row + 256, column : column + 256].sum() for column in (0, 256, 512)] for row in (0, 256, 512)]
    )
    assert np.array_equal(places.selected[2,], expected)
    assert places.shape == (600, 700)


def test_windows_are_taken_where_attention_selects() -> None:
    places = Places()
    selected = np.zeros((600, 700), bool)
    selected[300:350, 300:350] = True
    for index in ((0,), (1,)):
        places.add(index, 0, selected if index == (1,) else np.zeros_like(selected))
    assert places.choose(4) == [((1,), slice(256, 512), slice(256, 512))]
    assert len(places.choose(4, [(0,)])) == 4
    corner = places.choose(99, [(0,)])[-1]
    assert corner == ((0,), slice(344, 600), slice(444, 700))


def test_a_tally_without_tiles_looks_at_no_seam() -> None:
    assert Tally().summary()["seams"] is None

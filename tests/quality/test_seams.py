"""A tile with an offset is found, in any split into bands; what is no seam is not."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from cellxlate.quality.checks import read_back
from cellxlate.quality.places import Places
from cellxlate.quality.report.doubts import notices_of
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
        assert seams_of(*plane(seed)).visible() == []


def test_a_tile_with_an_offset_is_found_at_its_borders() -> None:
    for seed in range(4):
        pixels, selected = plane(seed)
        found = seams_of(with_offset(pixels, selected, 40), selected).visible()
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
    assert seams_of(ramp, np.ones(ramp.shape, bool)).visible() == []
    pixels, selected = plane(2)
    steps = pixels.copy()
    steps[:, 128:] += 500
    assert seams_of(steps, np.zeros_like(selected)).visible() == []


def test_the_warning_names_the_place_and_the_tile_reaches_the_report() -> None:
    pixels, selected = plane(3)
    attention = selected.astype(np.uint8) * 200
    stacks = [Stack.from_array(one) for one in (pixels, with_offset(pixels, selected, 40), attention)]
    tally = read_back(*stacks, tile_px=TILE_PX)
    assert any("borders of tiles show as a step" in notice.text for notice in notices_of(tally))
    assert tally.summary()["seams"]["borders_with_a_step"] == len(tally.seams.visible()) > 0
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


BESIDE = np.array([9.0, -9, 9, -9, 0, 9, -9, 9, -9])
"""Sums over 64 px of the steps beside a border."""


def side(step: float, beside: npt.NDArray[np.float64] = BESIDE) -> npt.NDArray[np.float64]:
    return np.append(np.where(np.arange(9) == 4, step, beside), 64.0)


def around_a_tile(*steps: float) -> Seams:
    """Top, bottom, left and right of the tile in row 1 and column 2."""
    places = [((), "row", 64, 2), ((), "row", 128, 2), ((), "column", 128, 1), ((), "column", 192, 1)]
    return Seams(TILE_PX, {place: side(step) for place, step in zip(places, steps, strict=False)})


def test_a_tile_is_found_by_all_its_sides_where_none_shows_by_itself() -> None:
    for count in (1, 2, 3, 4):
        scores = around_a_tile(*(27.0, -27.0, 27.0, -27.0)[:count]).scores()
        assert max(scores.values()) == pytest.approx(3 * count**0.5)
    seams = around_a_tile(27.0, -27.0, 28.0, -27.0)
    assert [border[1:] for border in seams.visible()] == [("column", 128, 1)]  # the clearest tells for all


def test_steps_up_or_down_all_around_are_no_offset() -> None:
    """A tile that is brighter steps up where it begins and down where it ends."""
    assert max(around_a_tile(27.0, 27.0, 27.0, 27.0).scores().values()) == pytest.approx(3)


def test_a_neighbour_of_a_broken_tile_is_not_blamed_on_its_other_sides() -> None:
    seams = around_a_tile(99.0, -9.0, 9.0, -9.0)
    seams.sums[(), "row", 128, 2] = side(9.0)
    assert [border[1:] for border in seams.visible()] == [("row", 64, 2)]


def test_a_noisy_neighbourhood_needs_a_larger_step() -> None:
    sums = {((), "row", 64, 0): side(60.0), ((), "row", 64, 5): side(60.0, 3 * BESIDE)}
    scores = Seams(TILE_PX, sums).scores()
    usual, quiet, loud = (81 + 729) / 2 / 64, 81 / 64, 729 / 64
    for place, own in ((0, quiet), (5, loud)):
        assert scores[(), "row", 64, place] == pytest.approx(60 / 8 / np.sqrt((own + 4 * usual) / 5))


def test_sides_that_are_too_short_alone_are_judged_together() -> None:
    sums = around_a_tile(27.0, -27.0).sums | {((), "row", 640, 9): side(0.0)}
    top, bottom, _ = sums
    for place in (top, bottom):
        sums[place] = sums[place] / 4  # 16 px of a side
    assert top in Seams(TILE_PX, sums).scores()
    sums[(), "row", 0, 2] = side(0.0)  # of the tile before; the one after it has 16 px alone
    del sums[bottom]
    sums[top][4] *= 5  # would show by itself
    assert Seams(TILE_PX, sums).scores()[top] < 4
    del sums[(), "row", 0, 2]
    assert top not in Seams(TILE_PX, sums).scores()


def test_one_side_that_shows_by_itself_is_enough() -> None:
    steps = {(kind, place, along): 0.0 for kind in ("row", "column") for place in (64, 128, 192) for along in range(4)}
    steps["row", 128, 1] = 50.0
    scores = Seams(TILE_PX, {((), *place): side(step) for place, step in steps.items()}).scores()
    assert scores[(), "row", 128, 1] == pytest.approx(50 / 9)

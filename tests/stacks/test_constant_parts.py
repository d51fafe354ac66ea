"""Parts never recorded are told from clipped backgrounds and saturation, and networks see no border of them."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cellxlate.stacks.intensity.constant_parts import (
    RIM_PX,
    carried_in,
    constant_pixels,
    empty_parts,
    empty_pixels,
    recorded_window,
    without_empty_parts,
)
from cellxlate.stacks.intensity.network_input import REACH_PX, network_input
from cellxlate.stacks.intensity.range import IntensityRange, measure_range


def field(seed: int = 0, shape: tuple[int, int] = (300, 320), black: float = 100.0) -> np.ndarray:
    """Bright blurred discs of 400 counts above a noisy background: uint16, cells on 8 % of the plane."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    counts = np.zeros(shape)
    for row, column in random.uniform(0, shape, (14, 2)):
        counts[(rows - row) ** 2 + (columns - column) ** 2 < 14**2] = 400.0
    return (ndimage.gaussian_filter(counts, 1.5) + black + random.normal(0, 4, shape)).clip(0).round().astype(np.uint16)


def padded(counts: np.ndarray, share: float, value: Any) -> np.ndarray:
    found = counts.copy()
    found[: round(len(counts) * share)] = value
    return found


def rotated(counts: np.ndarray, order: int) -> np.ndarray:
    return np.asarray(ndimage.rotate(counts, 20, reshape=False, order=order, cval=0))


# --- levels


@pytest.mark.parametrize("share", [0.08, 0.1, 0.3, 0.7])
@pytest.mark.parametrize("value", [0, 1, 50, 4095, 65535])
def test_padding_of_any_value_does_not_set_the_levels(share: float, value: int) -> None:
    counts = field()
    plain = measure_range([counts[round(len(counts) * share) :]])
    found = measure_range([padded(counts, share, value)])
    assert found.black == pytest.approx(plain.black, abs=1)
    assert found.white == pytest.approx(plain.white, rel=0.05)
    assert found.noise == pytest.approx(plain.noise, rel=0.1)  # of other tiles
    assert [part.value for part in found.constant_parts] == [value]
    assert found.constant_parts[0].share == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_padding_is_found_in_any_dtype(dtype: str) -> None:
    counts = (padded(field(), 0.2, 0) // 3).astype(dtype)
    assert measure_range([counts]).black == pytest.approx(33, abs=1)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_corners_of_a_rotated_field_do_not_set_the_levels(order: int) -> None:
    counts = field(shape=(400, 400))
    found = measure_range([rotated(counts, order)])
    assert found.black == pytest.approx(measure_range([counts]).black, abs=1.5)
    assert found.constant_parts[0].value == 0
    assert found.constant_parts[0].share == pytest.approx(float((rotated(counts, 0) == 0).mean()), abs=0.01)


def test_a_missing_tile_inside_a_mosaic_and_two_values_are_left_out() -> None:
    counts = field()
    counts[100:180, 120:220], counts[:, :30] = 0, 7
    found = measure_range([counts])
    assert found.black == pytest.approx(measure_range([field()]).black, abs=1)
    assert sorted(found.empty_values) == [0, 7]


def test_nan_is_named_as_well() -> None:
    counts = padded(field().astype(np.float32), 0.25, np.nan)
    [part] = measure_range([counts]).constant_parts
    assert (part.value, part.share) == (None, 0.25)


def test_images_without_constant_parts_have_the_levels_they_had() -> None:
    counts = field()
    assert empty_parts(counts) == {}
    assert without_empty_parts(counts)[0] is counts
    assert measure_range([counts]).constant_parts == ()


# --- what is constant and was recorded


def test_a_clipped_background_with_speckles_is_a_background() -> None:
    """8 bit, offset taken off: 19 of 20 background pixels are 0."""
    random = np.random.default_rng(1)
    cells = field().astype(float) - 100
    counts = np.where(cells > 40, cells / 2, 0) + random.binomial(1, 0.05, cells.shape)
    found = measure_range([counts.round().clip(0, 255).astype(np.uint8)])
    assert found.constant_parts == ()
    assert found.black == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_a_background_of_exactly_zero_around_blurred_cells_is_a_background(sigma: float) -> None:
    random, cells = np.random.default_rng(2), np.zeros((300, 300))
    cells[tuple(random.integers(20, 280, (2, 40)))] = 1.0
    counts = np.round(ndimage.gaussian_filter(ndimage.grey_dilation(cells, 15), sigma) * 200).astype(np.uint8)
    assert (counts == 0).mean() > 0.5
    assert measure_range([counts]).constant_parts == ()


def test_cells_cut_out_by_a_mask_keep_their_background() -> None:
    counts = field()
    counts[counts < 250] = 0
    assert empty_parts(counts) == {}


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_saturated_cells_are_cells(sigma: float) -> None:
    rows, columns = np.indices((300, 300))
    counts = np.zeros((300, 300))
    for row, column in np.random.default_rng(4).uniform(0, 300, (8, 2)):
        counts[(rows - row) ** 2 + (columns - column) ** 2 < 24**2] = 900.0
    counts = ndimage.gaussian_filter(counts, sigma) + 50 + np.random.default_rng(5).normal(0, 4, counts.shape)
    found = measure_range([counts.clip(0, 255).astype(np.uint8)])
    assert found.constant_parts == ()
    assert found.white == pytest.approx(255, abs=1)


def test_a_vignette_that_ends_in_zero_is_no_padding() -> None:
    down, across = np.mgrid[-1:1:300j, -1:1:300j]
    light = 200 * (1 - 0.8 * (down**2 + across**2)) + np.random.default_rng(6).normal(0, 4, (300, 300))
    assert empty_parts(light.clip(0).astype(np.uint16)) == {}


def test_flat_colours_of_a_drawing_are_no_padding() -> None:
    drawing = np.repeat(np.repeat(np.arange(16).reshape(4, 4), 50, axis=0), 50, axis=1).astype(np.uint8)
    assert empty_parts(drawing) == {}


# --- pixels


def test_squares_of_sixteen_pixels_count_and_smaller_ones_do_not() -> None:
    plane = np.random.default_rng(7).integers(0, 60000, (90, 100))
    plane[20:36, 30:46], plane[60:75, 60:90] = 5, 6
    found = constant_pixels(plane)
    assert found is not None
    assert np.array_equal(found, plane == 5)


def test_bands_tell_what_the_whole_plane_tells() -> None:
    """What becomes of a pixel depends on those within REACH_PX."""
    counts = padded(rotated(field(shape=(500, 200)), 1), 0.1, 0).astype(np.float32)
    counts[np.random.default_rng(8).integers(0, 500, 60), np.random.default_rng(9).integers(0, 200, 60)] = 60000
    counts[300, 100:104], counts[250:290, 40:90], counts[253, 39] = np.nan, np.nan, 60000
    intensity = measure_range([counts])
    whole = network_input(counts, intensity)
    assert whole.kept is not None
    for top, bottom in ((0, 90), (37, 141), (210, 300), (420, 500)):
        first, last = max(top - REACH_PX, 0), min(bottom + REACH_PX, 500)
        part = network_input(counts[first:last], intensity)
        inside = slice(top - first, bottom - first)
        assert part.unit[inside].tobytes() == whole.unit[top:bottom].tobytes()
        kept = np.zeros_like(part.unit, np.bool_) if part.kept is None else part.kept
        assert np.array_equal(kept[inside], whole.kept[top:bottom])


def test_what_networks_see_has_no_step_at_padding() -> None:
    counts = padded(field(), 0.3, 0)
    intensity = measure_range([counts])
    seen = network_input(counts, intensity)
    assert seen.kept is not None
    assert seen.kept[: 90 + RIM_PX].all()
    assert not seen.kept[90 + RIM_PX :].any()
    plain = intensity.to_unit(counts)
    assert np.array_equal(seen.unit[90 + RIM_PX :], plain[90 + RIM_PX :])
    assert plain[:90].max() < -0.2
    assert seen.unit.min() >= plain[92:].min()
    assert np.abs(np.diff(seen.unit[80:100, :], axis=0)).max() <= np.abs(np.diff(plain[92:], axis=0)).max()
    assert not seen.unit[:60].any()  # black, far inside


def test_what_surrounds_a_hole_is_carried_in_and_fades() -> None:
    unit = np.ones((60, 60), np.float32)
    hollow = np.zeros(unit.shape, np.bool_)
    hollow[:, 20:] = True
    filled = carried_in(unit, hollow)
    assert filled[30, 20:37].tolist() == pytest.approx([*(1 - np.arange(16) / 16), 0.0])
    alone = np.zeros(unit.shape, np.bool_)
    alone[9, 9] = True
    assert carried_in(unit, alone)[9, 9] == 1


def test_a_missing_tile_that_the_sample_did_not_meet_is_kept_too() -> None:
    counts = field()
    intensity = measure_range([counts])
    counts[40:80, 50:100] = 0
    found = network_input(counts, intensity).kept
    assert found is not None
    assert found.sum() == (40 + 2 * RIM_PX) * (50 + 2 * RIM_PX)
    counts[40:80, 50:100] = round(intensity.black)
    assert empty_pixels(counts, (), intensity.empty_below) is None


def test_pixels_that_are_no_numbers_leave_no_hole_in_a_cell() -> None:
    counts = np.full((60, 60), 200.0, np.float32)
    counts[30, 30], counts[10, 10] = np.nan, np.inf
    seen = network_input(counts, IntensityRange(100.0, 200.0))
    assert (seen.unit == 1).all()
    assert seen.kept is not None
    assert np.argwhere(seen.kept).tolist() == [[10, 10], [30, 30]]


def test_the_recorded_window_leaves_padding_out() -> None:
    empty = np.zeros((100, 120), np.bool_)
    empty[:30], empty[:, 110:] = True, True
    assert recorded_window(empty) == (slice(30, 100), slice(0, 110))
    assert recorded_window(~np.zeros((5, 6), np.bool_)) == (slice(0, 0), slice(0, 0))

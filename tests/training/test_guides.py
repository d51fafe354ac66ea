"""The automatic guide on fields where thresholds usually fail."""

import numpy as np
import pytest
from scipy import ndimage

from cellxlate.stacks.intensity import measure_levels
from cellxlate.training.guides import REACH_PX, saliency


def field(brightness: list[float], *, side: int = 220, noise: float = 8.0, seed: int = 0):
    """Return counts and mask of round cells of 9 px radius, with a peak of so many counts each, on a grid."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    clear, mask = np.zeros((side, side)), np.zeros((side, side), bool)
    for number, peak in enumerate(brightness):
        row, column = 30 + 52 * (number // 4), 30 + 52 * (number % 4)
        inside = np.hypot(rows - row, columns - column) < 9
        clear[inside] = peak
        mask |= inside
    counts = 200 + ndimage.gaussian_filter(clear, 1.0) + rng.normal(0, noise, clear.shape)
    return counts.round().clip(0).astype(np.uint16), mask


def iou(guide: np.ndarray, mask: np.ndarray) -> float:
    return float(((guide > 0) & mask).sum() / ((guide > 0) | mask).sum())


def otsu(counts: np.ndarray) -> np.ndarray:
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(counts.astype(float), 1)
    return smooth > threshold_otsu(smooth)


def test_cells_of_one_brightness_are_outlined():
    counts, mask = field([300] * 16)
    guide = saliency(counts, measure_levels([counts]))
    assert guide.dtype == np.float32
    assert set(np.unique(guide)) == {0, 1}
    assert iou(guide, mask) > 0.75


def test_one_very_bright_object_does_not_hide_the_others():
    counts, mask = field([5_000] + [300] * 15)
    guide = saliency(counts, measure_levels([counts]))
    assert iou(otsu(counts), mask) < 0.2  # a global threshold sees the bright object alone
    assert iou(guide, mask) > 0.7
    found = ndimage.label(guide)[1]
    assert found == 16


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [1.0, 8.0, 60.0])
def test_a_field_without_cells_stays_empty(seed, noise):
    counts, _ = field([], noise=noise, seed=seed)
    guide = saliency(counts, measure_levels([counts]))
    assert guide.mean() == 0


def test_a_faint_slope_of_illumination_is_no_cell():
    # up to about 3 % of the cells; the notes of saliency say so
    counts, mask = field([300] * 8)
    slope = np.linspace(0, 10, counts.shape[1])[None, :]
    tilted = (counts + slope).round().astype(np.uint16)
    assert iou(saliency(tilted, measure_levels([tilted])), mask) > 0.7


def test_a_constant_plane_has_no_cells():
    counts = np.full((64, 64), 700, np.uint16)
    assert not saliency(counts, measure_levels([counts])).any()


def test_the_guide_does_not_depend_on_gain_and_offset():
    counts, _ = field([300] * 10)
    stretched = counts.astype(np.float64) * 7 + 5000
    one = saliency(counts, measure_levels([counts]))
    other = saliency(stretched, measure_levels([stretched]))
    assert (one != other).mean() < 1e-3


def test_a_window_with_its_margin_has_the_guide_of_the_whole_plane():
    counts, _ = field([300, 5000, 300, 800] * 16, side=2 * REACH_PX + 60)
    counts += np.linspace(0, 90, counts.shape[1]).astype(np.uint16)  # so that the local background tells
    levels = measure_levels([counts])
    whole = saliency(counts, levels)
    row, column, side = REACH_PX + 5, REACH_PX + 15, 40
    top, left = row - REACH_PX, column - REACH_PX
    window = counts[top : row + side + REACH_PX, left : column + side + REACH_PX]
    part = saliency(window, levels)[REACH_PX:-REACH_PX, REACH_PX:-REACH_PX]
    assert np.array_equal(part, whole[row : row + side, column : column + side])


def test_the_guide_looks_no_further_than_it_says():
    counts, _ = field([300, 5000, 300, 800] * 8, side=500)
    levels = measure_levels([counts])
    rows, columns = np.indices(counts.shape)
    distance = np.maximum(abs(rows - 238), abs(columns - 186))  # from the middle of a cell
    wild = np.random.default_rng(1).uniform(-1e9, 1e9, counts.shape)
    core = slice(218, 259), slice(166, 207)
    wanted = saliency(counts, levels)[core]
    assert 0 < wanted.mean() < 1
    for reach, same in ((REACH_PX, True), (45, False)):
        changed = np.where(distance > 20 + reach, wild, counts)
        assert np.array_equal(saliency(changed, levels)[core], wanted) == same


def test_illumination_that_rises_across_the_field_makes_no_cells():
    counts, mask = field([300] * 16, side=300)
    tilted = (counts + np.linspace(0, 75, 300)).round().astype(np.uint16)
    flat, found = (saliency(plane, measure_levels([plane])) for plane in (counts, tilted))
    assert iou(found, mask) > iou(flat, mask) - 0.1


def test_pixels_that_are_no_number_do_not_spread():
    counts, mask = field([300] * 16)
    damaged = counts.astype(np.float32)
    damaged[5, 5], damaged[120, 200] = np.nan, np.inf
    guide = saliency(damaged, measure_levels([damaged]))
    assert iou(guide, mask) > 0.75


def test_real_nuclei_are_outlined(real_images):
    import tifffile

    folder = real_images / "nuclei_lowexp"
    scores = []
    for path in sorted((folder / "train_S").glob("*.tif"))[:8]:
        counts = tifffile.imread(path)
        mask = tifffile.imread(folder / "train_S_masks" / path.name) > 0
        if mask.any():
            scores.append(iou(saliency(counts, measure_levels([counts])), mask))
    assert np.mean(scores) > 0.8


def test_real_fields_without_cells_stay_empty(real_images):
    import tifffile

    for path in sorted((real_images / "nuclei_lowexp" / "no_cells_S").glob("*.tif"))[:3]:
        counts = tifffile.imread(path)
        assert saliency(counts, measure_levels([counts])).mean() < 1e-3

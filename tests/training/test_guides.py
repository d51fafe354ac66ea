"""The automatic guide on fields where thresholds usually fail."""

import numpy as np
import pytest
from scipy import ndimage

from cellxlate.stacks.intensity.range import measure_range
from cellxlate.training.fields.guides import REACH_PX, saliency


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
    guide = saliency(counts, measure_range([counts]))
    assert guide.dtype == np.float32
    assert set(np.unique(guide)) == {0, 1}
    assert iou(guide, mask) > 0.75


def test_one_very_bright_object_does_not_hide_the_others():
    counts, mask = field([5_000] + [300] * 15)
    guide = saliency(counts, measure_range([counts]))
    assert iou(otsu(counts), mask) < 0.2  # a global threshold sees the bright object alone
    assert iou(guide, mask) > 0.7
    found = ndimage.label(guide)[1]
    assert found == 16


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [1.0, 8.0, 60.0])
def test_a_field_without_cells_stays_empty(seed, noise):
    counts, _ = field([], noise=noise, seed=seed)
    guide = saliency(counts, measure_range([counts]))
    assert guide.mean() == 0


def test_a_faint_slope_of_illumination_is_no_cell():
    # up to about 3 % of the cells; the notes of saliency say so
    counts, mask = field([300] * 8)
    slope = np.linspace(0, 10, counts.shape[1])[None, :]
    tilted = (counts + slope).round().astype(np.uint16)
    assert iou(saliency(tilted, measure_range([tilted])), mask) > 0.7


def test_a_constant_plane_has_no_cells():
    counts = np.full((64, 64), 700, np.uint16)
    assert not saliency(counts, measure_range([counts])).any()


def test_the_guide_does_not_depend_on_gain_and_offset():
    counts, _ = field([300] * 10)
    stretched = counts.astype(np.float64) * 7 + 5000
    one = saliency(counts, measure_range([counts]))
    other = saliency(stretched, measure_range([stretched]))
    assert (one != other).mean() < 1e-3


def disc(diameter: int, *, side: int = 560, peak: float = 400, blur: float = 1.0):
    """Return clear counts and mask of one disc, off the middle."""
    rows, columns = np.mgrid[:side, :side]
    mask = np.hypot(rows - 0.48 * side, columns - 0.53 * side) < diameter / 2
    return 200 + peak * ndimage.gaussian_filter(mask.astype(float), blur), mask


def seen(clear: np.ndarray, *, noise: float = 8.0, correlated_px: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return counts with noise of a standard deviation, white or correlated."""
    drawn = np.random.default_rng(seed).normal(0, 1, clear.shape)
    drawn = ndimage.gaussian_filter(drawn, correlated_px) if correlated_px else drawn
    return (clear + noise * drawn / drawn.std()).round().clip(0).astype(np.uint16)


def guide_of(counts: np.ndarray) -> np.ndarray:
    return saliency(counts, measure_range([counts])) > 0


@pytest.mark.parametrize("diameter", [3, 30, 100, 400])
def test_a_disc_of_any_size_is_one_solid_part(diameter):
    clear, mask = disc(diameter)
    found = guide_of(seen(clear))
    assert ndimage.label(found)[1] == 1
    assert ndimage.label(~found)[1] == 1  # no hole
    assert found[mask].all()
    assert not found[~ndimage.binary_dilation(mask, iterations=5)].any()


def test_a_large_cell_with_texture_and_a_dark_nucleolus_has_no_hole():
    clear, mask = disc(250)
    texture = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=mask.shape), 8)
    clear += mask * 80 * texture / texture.std()
    rows, columns = np.indices(mask.shape)
    clear[np.hypot(rows - 270, columns - 320) < 20] = 230
    found = guide_of(seen(clear))
    assert ndimage.label(~found)[1] == 1
    assert iou(found, mask) > 0.93


def test_a_cell_that_reaches_the_border_is_found_to_the_border():
    clear, mask = disc(400)
    assert iou(guide_of(seen(clear[250:, 280:])), mask[250:, 280:]) > 0.95


def test_cells_that_cover_most_of_the_field_are_found():
    rows, columns = np.mgrid[:400, :400]
    mask = np.maximum(abs(rows % 80 - 40), abs(columns % 80 - 40)) < 34  # 70 % of the field
    found = guide_of(seen(200 + 300 * ndimage.gaussian_filter(mask.astype(float), 1)))
    assert iou(found, mask) > 0.9


@pytest.mark.parametrize("diameter", [30, 250])
def test_haze_around_a_cell_is_no_cell(diameter):
    clear, mask = disc(diameter)
    found = guide_of(seen(clear + 120 * np.exp(-((np.linspace(-1.2, 1.2, 560) ** 2)[:, None])) * np.hanning(560)))
    assert iou(found, mask) > 0.6  # smoothing widens a cell of 30 px
    assert found[~ndimage.binary_dilation(mask, iterations=6)].mean() < 0.01


def test_thin_filaments_stay_connected():
    rows, columns = np.mgrid[:300, :300]
    mask = abs(rows - 150 - 40 * np.sin(columns / 40)) < 1.5
    found = guide_of(seen(200 + 300 * ndimage.gaussian_filter(mask.astype(float), 1)))
    assert found[mask].mean() > 0.99
    assert ndimage.label(found, np.ones((3, 3)))[1] == 1
    assert not found[~ndimage.binary_dilation(mask, iterations=8)].any()


@pytest.mark.parametrize("correlated_px", [0.0, 0.8, 1.2])
@pytest.mark.parametrize("noise", [1.5, 40.0])
def test_noise_alone_is_no_cell(noise, correlated_px):
    counts = seen(np.full((300, 300), 1000.0), noise=noise, correlated_px=correlated_px)
    assert guide_of(counts).mean() < 1e-3


def test_a_slope_alone_is_no_cell():
    assert not guide_of(seen(200 + np.linspace(0, 300, 300)[None, :] + np.zeros((300, 1)))).any()


def test_a_window_with_its_margin_has_the_guide_of_the_whole_plane():
    counts, _ = field([300, 5000, 300, 800] * 12, side=2 * REACH_PX + 120)
    counts += np.linspace(0, 90, counts.shape[1]).astype(np.uint16)  # so that the local background tells
    intensity = measure_range([counts])
    whole = saliency(counts, intensity)
    part = saliency(counts[:300, : 200 + REACH_PX], intensity)[:44, :200]
    assert part.any()
    assert (part != whole[:44, :200]).mean() < 2e-3


def test_illumination_that_rises_across_the_field_makes_no_cells():
    counts, mask = field([300] * 16, side=300)
    tilted = (counts + np.linspace(0, 75, 300)).round().astype(np.uint16)
    flat, found = (saliency(plane, measure_range([plane])) for plane in (counts, tilted))
    assert iou(found, mask) > iou(flat, mask) - 0.1


def test_pixels_that_are_no_number_do_not_spread():
    counts, mask = field([300] * 16)
    damaged = counts.astype(np.float32)
    damaged[5, 5], damaged[120, 200] = np.nan, np.inf
    guide = saliency(damaged, measure_range([damaged]))
    assert iou(guide, mask) > 0.75


def test_real_nuclei_are_outlined(real_images):
    import tifffile

    folder = real_images / "nuclei_lowexp"
    scores = []
    for path in sorted((folder / "train_S").glob("*.tif"))[:8]:
        counts = tifffile.imread(path)
        mask = tifffile.imread(folder / "train_S_masks" / path.name) > 0
        if mask.any():
            scores.append(iou(saliency(counts, measure_range([counts])), mask))
    assert np.mean(scores) > 0.8


def test_real_fields_without_cells_stay_empty(real_images):
    import tifffile

    for path in sorted((real_images / "nuclei_lowexp" / "no_cells_S").glob("*.tif"))[:3]:
        counts = tifffile.imread(path)
        assert saliency(counts, measure_range([counts])).mean() < 1e-3

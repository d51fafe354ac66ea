"""Scores on images whose score is known, and against an independent scorer."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from scipy import ndimage

from cellxlate.evaluation import measures

FIELD = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]


def field(seed: int = 0, *, count: int = 12, shape: tuple[int, int] = (160, 200)) -> FIELD:
    """A truth of bright textured discs on a dark ground, none touching, and its mask."""
    draw = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    mask = np.zeros(shape, bool)
    texture = ndimage.gaussian_filter(draw.normal(0, 40, shape), 2)
    truth = np.full(shape, 100.0)
    places = draw.permutation([(r, c) for r in range(20, shape[0] - 15, 40) for c in range(20, shape[1] - 15, 40)])
    for row, column in places[:count]:
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= 11**2
        mask |= disc
        truth[disc] = 200 + draw.uniform(-20, 20) + texture[disc]
    return truth, mask


@pytest.fixture
def scorer(real_images: Path) -> ModuleType:
    """The independent scorer that lies beside the real images."""
    path = real_images.parent / "tools" / "score.py"
    if not path.is_file():
        pytest.skip("the independent scorer is not beside the real images")
    spec = importlib.util.spec_from_file_location("independent_scorer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_truth_itself_is_perfect() -> None:
    truth, cells = field()
    score = measures.foreground(truth, truth, cells)
    assert score.psnr == math.inf
    assert score.psnr_affine > 250
    assert score.ssim == pytest.approx(1, abs=1e-12)
    assert score.ssim_affine == pytest.approx(1, abs=1e-9)


def test_a_shift_of_counts_costs_what_the_formula_says_and_nothing_after_the_fit() -> None:
    truth, cells = field()
    span = np.percentile(truth, 99.9) - np.percentile(truth, 0.1)
    score = measures.foreground(truth + 10, truth, cells)
    assert score.psnr == pytest.approx(20 * math.log10(span / 10), abs=1e-9)
    assert score.psnr_affine > 200


def test_gain_and_offset_leave_the_affine_scores_alone() -> None:
    truth, cells = field()
    noisy = truth + np.random.default_rng(1).normal(0, 8, truth.shape)
    plain, scaled = (measures.foreground(image, truth, cells) for image in (noisy, 7 * noisy - 300))
    assert scaled.psnr_affine == pytest.approx(plain.psnr_affine, abs=1e-9)
    assert scaled.ssim_affine == pytest.approx(plain.ssim_affine, abs=1e-9)
    assert scaled.psnr < plain.psnr - 20


def test_noise_of_known_size_gives_its_psnr() -> None:
    truth, cells = field(count=20, shape=(400, 400))
    span = np.percentile(truth, 99.9) - np.percentile(truth, 0.1)
    noisy = truth + np.random.default_rng(2).normal(0, 5, truth.shape)
    assert measures.foreground(noisy, truth, cells).psnr == pytest.approx(20 * math.log10(span / 5), abs=0.15)


def test_the_affine_score_is_never_worse_and_ignores_the_background() -> None:
    truth, cells = field()
    noisy = truth + np.random.default_rng(3).normal(3, 20, truth.shape)
    spoilt = np.where(ndimage.binary_dilation(cells, np.ones((7, 7))), noisy, 0.0)  # SSIM looks 3 px around
    score, other = (measures.foreground(image, truth, cells) for image in (noisy, spoilt))
    assert score.psnr_affine >= score.psnr
    assert other.psnr_affine == pytest.approx(score.psnr_affine, abs=1e-9)
    assert other.ssim_affine == pytest.approx(score.ssim_affine, abs=1e-9)


def test_a_constant_image_explains_nothing() -> None:
    truth, cells = field()
    span = np.percentile(truth, 99.9) - np.percentile(truth, 0.1)
    score = measures.foreground(np.full(truth.shape, 5.0), truth, cells)
    assert score.psnr_affine == pytest.approx(20 * math.log10(span / truth[cells].std()), abs=1e-9)


@pytest.mark.parametrize("case", ["no cells", "constant truth", "small"])
def test_what_is_not_defined_is_nan(case: str) -> None:
    truth, cells = field()
    if case == "no cells":
        cells = np.zeros_like(cells)
    elif case == "constant truth":
        truth = np.full_like(truth, 3.0)
    else:
        truth, cells = truth[:5, :30] + np.arange(30), np.ones((5, 30), bool)
    score = measures.foreground(truth + 1, truth, cells)
    assert math.isnan(score.ssim)
    assert math.isnan(score.ssim_affine)
    assert math.isnan(score.psnr) == (case != "small")


def test_pixels_that_are_not_finite_are_left_out() -> None:
    truth, cells = field()
    noisy = truth + np.random.default_rng(4).normal(0, 8, truth.shape)
    holed, hole = noisy.copy(), np.argwhere(cells)[100]
    holed[tuple(hole)] = np.nan
    without = cells.copy()
    without[tuple(hole)] = False
    ours, theirs = measures.foreground(holed, truth, cells), measures.foreground(noisy, truth, without)
    assert ours.psnr == theirs.psnr
    assert ours.ssim == pytest.approx(theirs.ssim, abs=2e-3)


def test_unsigned_images_do_not_wrap() -> None:
    truth, cells = field()
    stored, wanted = truth.astype(np.uint16), (truth + 50).astype(np.uint16)
    plain = measures.foreground(stored, wanted, cells)
    assert plain == measures.foreground(stored.astype(float), wanted.astype(float), cells)


def test_background_counts_bits_beyond_the_margin() -> None:
    raw = np.full((40, 40), 7, np.uint16)
    cells = np.zeros(raw.shape, bool)
    cells[20, 20] = True
    for distance, expected in ((3, 0), (4, 1)):
        enhanced = raw.copy()
        enhanced[20, 20 + distance] += 4
        score = measures.background(raw, enhanced, cells)
        outside = 40 * 40 - 29  # a disc of radius 3 holds 29 pixels
        assert score.changed_percent == pytest.approx(100 * expected / outside)
        assert score.mean_abs_change == pytest.approx(4 * expected / outside)


def test_background_without_cells_is_everything_and_with_only_cells_nothing() -> None:
    raw = np.full((10, 10), np.nan, np.float32)
    enhanced = raw.copy()
    enhanced[0] = 1
    none, all_cells = np.zeros(raw.shape, bool), np.ones(raw.shape, bool)
    assert measures.background(raw, enhanced, none).changed_percent == 10
    assert math.isnan(measures.background(raw, enhanced, all_cells).changed_percent)
    assert measures.background(raw, raw.copy(), none).changed_percent == 0


def test_attention_equal_to_the_mask_is_perfect_and_its_inverse_is_worst() -> None:
    _, cells = field()
    assert measures.attention_scores(cells.astype(float), cells) == measures.AttentionScores(1.0, 1.0, 1.0, 0.0)
    inverse = measures.attention_scores(1.0 - cells, cells)
    assert (inverse.iou, inverse.mean_inside, inverse.mean_outside) == (0.0, 0.0, 1.0)
    assert inverse.auprc == pytest.approx(cells.mean())


def test_half_of_the_mask_has_half_the_overlap() -> None:
    cells = np.zeros((10, 10), bool)
    cells[:, :4] = True
    attention = np.zeros((10, 10))
    attention[:, 2:6] = 0.5
    score = measures.attention_scores(attention, cells)
    assert score.iou == pytest.approx(20 / 60)
    assert (score.mean_inside, score.mean_outside) == (0.25, pytest.approx(20 * 0.5 / 60))


def brute_force_precision(score: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        taken = score >= threshold
        recall = (taken & positive).sum() / positive.sum()
        total += (recall - recall_before) * (taken & positive).sum() / taken.sum()
        recall_before = recall
    return total


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_average_precision_equals_brute_force(levels: int) -> None:
    draw = np.random.default_rng(levels)
    for _ in range(20):
        score, positive = draw.integers(0, levels, 60) / levels, draw.random(60) < 0.3
        positive[0] = True
        assert measures.average_precision(score, positive) == pytest.approx(
            brute_force_precision(score, positive), abs=1e-12
        )


def test_attention_that_knows_nothing_has_the_precision_of_chance() -> None:
    _, cells = field(count=20, shape=(400, 400))
    score = measures.attention_scores(np.random.default_rng(5).random(cells.shape), cells)
    assert score.auprc == pytest.approx(cells.mean(), rel=0.05)


def test_attention_scores_without_cells_or_background_are_nan() -> None:
    nothing = np.zeros((5, 5), bool)
    assert all(
        map(math.isnan, (lambda s: (s.iou, s.auprc, s.mean_inside))(measures.attention_scores(nothing * 1.0, nothing)))
    )
    assert math.isnan(measures.attention_scores(np.ones((5, 5)), ~nothing).mean_outside)


def patches(
    image: npt.NDArray[Any], cells: npt.NDArray[np.bool_], seed: int = 0, count: int = 400
) -> npt.NDArray[np.float64]:
    return measures.texture_patches(image, cells, seed=seed, count=count)


def test_a_set_has_no_distance_to_itself_and_distance_is_symmetric() -> None:
    truth, cells = field()
    ours, theirs = patches(truth, cells), patches(ndimage.gaussian_filter(truth, 3), cells)
    assert measures.patch_distance(ours, ours) == 0
    assert measures.patch_distance(ours, theirs) == measures.patch_distance(theirs, ours) > 0


def test_patch_distance_ignores_gain_and_offset_and_order() -> None:
    truth, cells = field()
    ours = patches(truth, cells)
    assert np.allclose(patches(3 * truth + 70, cells), ours, atol=1e-12)
    shuffled = np.random.default_rng(6).permutation(ours)
    assert measures.patch_distance(ours, shuffled) == pytest.approx(0, abs=1e-12)


def test_two_halves_of_one_truth_are_nearer_than_noise() -> None:
    truth, cells = field(count=20, shape=(400, 400))
    noisy = truth + np.random.default_rng(7).normal(0, 15, truth.shape)
    half, other, degraded = (
        patches(image, cells, seed, count=4000) for image, seed in ((truth, 1), (truth, 2), (noisy, 1))
    )
    assert 0 < measures.patch_distance(half, other) < 0.25 * measures.patch_distance(degraded, other)
    weaker = truth + np.random.default_rng(7).normal(0, 5, truth.shape)
    distances = [measures.patch_distance(patches(image, cells), patches(truth, cells)) for image in (weaker, noisy)]
    assert 0 < distances[0] < distances[1]


def test_patch_distance_of_shifted_gaussians_is_the_shift_on_average() -> None:
    draw = np.random.default_rng(8)
    base = draw.normal(size=(4000, 49))
    moved = base + 2.0
    directions = np.random.default_rng(1).normal(size=(49, 256))
    directions /= np.linalg.norm(directions, axis=0)
    expected = math.sqrt(np.mean((2.0 * directions.sum(axis=0)) ** 2))
    assert measures.patch_distance(moved, base) == pytest.approx(expected, rel=1e-9)


def test_patches_lie_inside_the_image_and_are_centred_in_cells() -> None:
    cells = np.zeros((20, 20), bool)
    cells[3, 3] = cells[16, 16] = cells[0, 0] = True
    image = np.where(cells, 50.0, 0.0)
    image[0, 0] = 40.0
    found = patches(image, cells)
    assert found.shape == (400, 49)
    assert np.argmax(found, axis=1).tolist() == [24] * 400


@pytest.mark.parametrize("case", ["no cells", "no background", "dark cells", "nan"])
def test_fields_without_texture_to_compare_give_no_patches(case: str) -> None:
    truth, cells = field()
    if case == "no cells":
        cells = np.zeros_like(cells)
    elif case == "no background":
        cells = np.ones_like(cells)
    elif case == "dark cells":
        truth = -truth
    else:
        truth[0, 0] = np.nan
    found = patches(truth, cells)
    assert found.shape == (0, 49)
    assert math.isnan(measures.patch_distance(found, patches(*field())))


def test_scores_agree_with_the_independent_scorer(real_images: Path, scorer: ModuleType) -> None:
    """The same arrays give the same numbers: a field made from a real target image, blurred and with noise."""
    folder = real_images / "nuclei_lowexp"
    ours, theirs = [], []
    for number, path in enumerate(sorted((folder / "train_T").glob("*.tif"))[:5]):
        truth = tifffile.imread(path).astype(float)
        cells = tifffile.imread(folder / "train_T_masks" / path.name) > 0
        image = ndimage.gaussian_filter(truth, 1.3) / 4 + np.random.default_rng(number).normal(0, 20, truth.shape)
        score = measures.foreground(image, truth, cells)
        expected = scorer.foreground(image, truth, cells)
        assert (score.psnr_affine, score.ssim_affine) == pytest.approx(expected, abs=1e-6)
        ours.append([measures.texture_patches(pixels, cells, seed=number) for pixels in (image, truth)])
        theirs.append([scorer.texture_patches(pixels, cells, number) for pixels in (image, truth)])
    joined, expected_joined = ([np.concatenate(part) for part in zip(*both, strict=True)] for both in (ours, theirs))
    assert measures.patch_distance(*joined) == pytest.approx(scorer.patch_distance(*expected_joined), abs=1e-6)
    assert measures.patch_distance(*joined) > 0.01


def noisy(truth: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    return ndimage.gaussian_filter(truth, 1.5) + np.random.default_rng(seed).normal(0, 15, truth.shape)


def test_objects_are_counted_and_matched() -> None:
    truth, _ = field(count=12)
    assert measures.phantoms(noisy(truth, 1), noisy(truth, 2)) == measures.Phantoms(0, 0, 12, 12)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.25, 90.0), (40.0, -3000.0)])
def test_an_invented_and_a_removed_cell_are_found_on_any_scale(gain: float, offset: float) -> None:
    truth, _ = field(count=12)
    labels, _ = ndimage.label(truth > 150)
    fewer = np.where(labels == 3, 100.0, truth)
    scaled = gain * noisy(truth, 1) + offset
    assert measures.phantoms(scaled, noisy(fewer, 2)) == measures.Phantoms(1, 0, 12, 11)
    assert measures.phantoms(noisy(fewer, 2), scaled) == measures.Phantoms(0, 1, 11, 12)


def test_an_object_that_moved_away_is_lost_and_added() -> None:
    truth, _ = field(count=1)
    assert measures.phantoms(noisy(np.roll(truth, 60, axis=1), 1), noisy(truth, 2)) == measures.Phantoms(1, 1, 1, 1)


def test_an_object_that_moved_a_little_is_the_same() -> None:
    truth, _ = field(count=6)
    assert measures.phantoms(noisy(np.roll(truth, 9, axis=1), 1), noisy(truth, 2)) == measures.Phantoms(0, 0, 6, 6)


@pytest.mark.parametrize("level", [0.0, 100.0])
def test_noise_and_constants_hold_no_object(level: float) -> None:
    constant = np.full((200, 200), level)
    noise = [constant + np.random.default_rng(seed).normal(0, 10, constant.shape) for seed in range(6)]
    assert measures.phantoms(constant, constant) == measures.Phantoms(0, 0, 0, 0)
    assert [measures.find_objects(plane).max() for plane in noise] == [0] * 6
    truth, _ = field()
    assert measures.phantoms(noisy(truth, 0), np.full(truth.shape, 100.0)).added == 12
    assert measures.phantoms(np.full(truth.shape, np.nan), noisy(truth, 0)).lost == 12


def test_specks_are_no_objects() -> None:
    truth, _ = field(count=3)
    truth[80, 10] = 3100  # 22 px above the threshold once smoothed
    assert measures.find_objects(truth).max() == 3

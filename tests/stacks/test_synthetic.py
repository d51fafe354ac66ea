"""Simulated stacks: the same bits through any window, the requested share of cells, the stated physics."""

import tracemalloc
from itertools import product
from typing import get_args

import numpy as np
import pytest
from scipy import ndimage

from cellxlate.errors import OptionError
from cellxlate.stacks.intensity.range import measure_range, pixel_noise
from cellxlate.stacks.samples import nuclei as synthetic
from cellxlate.stacks.samples.cells import Layout, cells_in_plane, place_cells
from cellxlate.stacks.samples.nuclei import SampleSettings, SimulatedStack, simulate
from cellxlate.training.fields.guides import saliency

LAYOUTS = get_args(Layout)
PARTS = ("stack", "truth", "mask")


def forget() -> None:
    """Drop what the process keeps of simulated planes, so that the next read computes them."""
    for kept in (synthetic._block, synthetic._draw, synthetic._cells_across, synthetic._cells, synthetic._population):
        kept.cache_clear()


def sample(
    *plane_shape: int, fraction: float = 0.15, layout: Layout = "scattered", seed: int = 0, depths: int = 1
) -> SimulatedStack:
    return simulate(SampleSettings((1, 1, depths, *plane_shape), fraction, layout, seed))


def first(stack: synthetic.Stack) -> np.ndarray:
    return stack.read((0, 0, 0))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_window_holds_the_same_bits_as_the_whole(part, layout):
    settings = SampleSettings((2, 2, 3, 301, 530), 0.3, layout, seed=5)
    whole = np.asarray(getattr(simulate(settings), part))
    random = np.random.default_rng(0)
    for _ in range(12):
        forget()
        pixels = getattr(simulate(settings), part).pixels
        index = tuple(int(random.integers(size)) for size in settings.shape[:3])
        (top, bottom), (left, right) = (np.sort(random.integers(0, size + 1, 2)) for size in settings.shape[3:])
        np.testing.assert_array_equal(
            pixels[(*index, slice(top, bottom), slice(left, right))], whole[index][top:bottom, left:right]
        )


def test_slices_like_a_numpy_array():
    pixels = simulate(SampleSettings((2, 2, 3, 40, 300), 0.4, seed=2)).stack.pixels
    whole = np.asarray(pixels[...])
    assert whole.shape == pixels.shape == (2, 2, 3, 40, 300)
    assert whole.dtype == pixels.dtype == np.uint16
    for key in (
        np.s_[1], np.s_[-1, 0], np.s_[..., 5], np.s_[0, ..., 250:270], np.s_[:, 1, ::2, 30:5:-3, ::7],
        np.s_[0, 0, 0, 0, 0], np.s_[0, 1, 2, -50:60, 280:900], np.s_[:, :, :, 5:5],
    ):  # fmt: skip
        np.testing.assert_array_equal(pixels[key], whole[key])
    for key in ((2,), (0, 0, 0, 0, 300), (0, 0, 0, 0, 0, 0)):
        with pytest.raises(IndexError):
            pixels[key]


def test_dask_reads_the_same_pixels():
    stack = simulate(SampleSettings((2, 1, 2, 30, 50), 0.4)).stack
    np.testing.assert_array_equal(stack.to_dask().compute(scheduler="threads"), np.asarray(stack))


@pytest.mark.parametrize("part", PARTS)
def test_the_seed_alone_decides(part):
    def pixels(seed: int) -> np.ndarray:
        forget()
        return first(getattr(sample(200, 300, seed=seed), part))

    np.testing.assert_array_equal(pixels(11), pixels(11))
    assert (pixels(11) != pixels(12)).mean() > 0.1


def test_noise_is_drawn_afresh_in_every_block_plane_channel_and_sample(monkeypatch):
    monkeypatch.setattr(synthetic, "SHADING", 0.0)  # all blocks alike but for the noise
    forget()
    blocks = []
    for seed in (0, 1):
        stack = simulate(SampleSettings((2, 2, 2, 512, 512), 0.0, seed=seed)).stack
        for index, row, column in product(stack.plane_indices(), (0, 256), (0, 256)):
            blocks.append(stack.read(index)[row : row + 256, column : column + 256].astype(float).ravel())
    correlation = np.corrcoef(blocks) - np.eye(len(blocks))
    assert np.abs(correlation).max() < 0.05
    forget()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fraction", [0.002, 0.01, 0.05, 0.15, 0.4, 0.9])
@pytest.mark.parametrize(("plane_shape", "seed"), [((512, 512), 0), ((512, 512), 1), ((600, 900), 2)])
def test_holds_the_requested_share_of_cells(plane_shape, seed, fraction, layout):
    found = (first(sample(*plane_shape, fraction=fraction, layout=layout, seed=seed).mask) > 0).mean()
    assert abs(found - fraction) <= max(0.1 * fraction, 0.005) / 2, found


@pytest.mark.parametrize("fraction", [0.15, 0.6])
def test_every_plane_and_time_point_holds_the_share(fraction):
    mask = simulate(SampleSettings((3, 1, 5, 512, 512), fraction, seed=3)).mask
    shares = [(mask.read(index) > 0).mean() for index in mask.plane_indices()]
    np.testing.assert_allclose(shares, fraction, rtol=0.05)


@pytest.mark.parametrize(("side_px", "seed"), [(2048, 0), (2048, 1), (1024, 2), (720, 3)])
def test_clustered_cells_leave_most_of_the_plane_far_away(side_px, seed):
    mask = first(sample(side_px, side_px, fraction=0.05, layout="clustered", seed=seed).mask) > 0
    near = ndimage.distance_transform_edt(~mask[::2, ::2]) <= 50
    assert 0.05 < near.mean() <= 0.15


def test_scattered_cells_reach_most_of_the_plane():
    mask = first(sample(1024, 1024, fraction=0.05).mask) > 0
    assert (ndimage.distance_transform_edt(~mask) <= 100).mean() > 0.8


def test_clustered_cells_lie_in_few_groups():
    mask = first(sample(2048, 2048, fraction=0.2, layout="clustered").mask)[::4, ::4] > 0
    groups, count = ndimage.label(ndimage.binary_dilation(mask, iterations=6))
    assert 1 <= count <= 5
    assert mask[groups > 0].mean() > 0.7


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fraction_zero_holds_no_cell(layout):
    empty = simulate(SampleSettings((2, 1, 3, 300, 300), 0.0, layout))
    assert not np.asarray(empty.mask).any()
    truth = np.asarray(empty.truth)
    assert truth.min() >= 100 + 44
    assert truth.max() <= 100 + 66
    assert np.asarray(empty.stack).max() < 135  # 8 standard deviations of the noise


@pytest.mark.parametrize("fraction", [0.0, 0.15, 0.9])
@pytest.mark.parametrize("plane_shape", [(1, 1), (1, 700), (700, 1), (17, 1031), (256, 256), (257, 3)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_planes_of_any_size(plane_shape, layout, fraction):
    parts = sample(*plane_shape, fraction=fraction, layout=layout, depths=2)
    for name in PARTS:
        pixels = np.asarray(getattr(parts, name))
        assert pixels.shape == (1, 1, 2, *plane_shape)
    assert 80 < np.asarray(parts.stack).mean() < 260


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truth_differs_from_the_empty_field_exactly_in_the_mask(layout):
    cells, empty = (sample(600, 520, fraction=fraction, layout=layout, seed=4) for fraction in (0.4, 0.0))
    rise = first(cells.truth).astype(int) - first(empty.truth)
    mask = first(cells.mask)
    assert set(np.unique(mask)) == {0, 255}
    assert mask.dtype == np.uint8
    assert (rise[mask == 0] == 0).all()
    assert (rise[mask == 255] > 50).all()


@pytest.mark.parametrize(
    ("fraction", "depth", "blur_px"), [(0.0, 0, 1.5), (0.3, 1, 1.5), (0.3, 0, 1.5 * (1 + 0.8 * 4 / 9))]
)
def test_the_stack_is_the_truth_blurred_exposed_and_noisy(fraction, depth, blur_px):
    parts = sample(700, 700, fraction=fraction, seed=6, depths=1 if fraction == 0 else 3)
    stack, truth = (part.read((0, 0, depth)).astype(float) for part in (parts.stack, parts.truth))
    exposed = 0.09 * ndimage.gaussian_filter(truth - 100, blur_px)
    spread = np.sqrt(exposed / 0.6 + 2.5**2 + 1 / 12)  # photons, reading, rounding to counts
    noise = ((stack - 100 - exposed) / spread)[16:-16, 16:-16]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.01  # not smoothed
    bright = (exposed > 30)[16:-16, 16:-16]
    if fraction:
        assert abs(noise[bright].mean()) < 0.02
        assert abs(noise[bright].std() - 1) < 0.02


@pytest.mark.parametrize("block_px", [64, 113])
@pytest.mark.parametrize("part", ["truth", "mask"])
def test_the_borders_of_blocks_leave_no_trace(part, block_px, monkeypatch):
    def pixels() -> np.ndarray:
        forget()
        return first(getattr(sample(300, 420, fraction=0.5, seed=8), part)).astype(int)

    whole = pixels()
    monkeypatch.setattr(synthetic, "BLOCK_PX", block_px)
    assert np.abs(pixels() - whole).max() <= (1 if part == "truth" else 0)  # rounding to counts
    forget()


def test_cells_keep_their_place_over_time_depth_and_channels():
    parts = simulate(SampleSettings((2, 2, 2, 400, 400), 0.15, seed=9))
    mask = np.asarray(parts.mask) > 0
    np.testing.assert_array_equal(mask[:, 0], mask[:, 1])
    for one, other in ((mask[0, 0, 0], mask[1, 0, 0]), (mask[0, 0, 0], mask[0, 0, 1])):
        assert one.tolist() != other.tolist()
        assert (one & other).sum() > 0.6 * (one | other).sum()
    assert (parts.truth.read((0, 0, 0))[mask[0, 0, 0]] != parts.truth.read((0, 1, 0))[mask[0, 0, 0]]).mean() > 0.9


def test_cells_are_textured_and_differ_in_brightness_and_shape():
    parts = sample(512, 512, seed=10)
    truth = first(parts.truth).astype(float) - 100
    labels, count = ndimage.label(ndimage.binary_erosion(first(parts.mask) > 0, iterations=4))
    numbers = np.arange(1, count + 1)
    brightness = ndimage.median(truth, labels, numbers)
    texture = ndimage.standard_deviation(truth, labels, numbers) / brightness
    assert 0.2 < brightness.std() / brightness.mean() < 0.4
    assert 0.08 < np.median(texture) < 0.25


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fraction", [0.02, 0.15, 0.5])
def test_more_cells_not_larger_ones_cover_a_larger_share(fraction, layout):
    cells = place_cells((1024, 1024), cell_fraction=fraction, layout=layout, seed=0)
    scaled = cells_in_plane(cells, (1024, 1024), cell_fraction=fraction, time=0, depth=0.0)
    radius_px = np.sqrt(scaled["half_major"] * scaled["half_minor"])
    assert 13 < np.median(radius_px) < 17


def test_calibration_is_stated():
    parts = simulate(SampleSettings((3, 2, 4, 64, 64)))
    for stack in (parts.stack, parts.truth, parts.mask):
        assert stack.axes == "TCZYX"
        assert stack.pixel_size_um == {"Z": 3.0, "Y": 0.65, "X": 0.65}
        assert stack.channel_names == ("nuclei 1", "nuclei 2")
        assert stack.time_step_s == 600.0
    assert sample(8, 8).stack.time_step_s is None


def test_a_plane_of_two_gigabytes_is_read_in_bands_and_nothing_is_drawn_twice(monkeypatch):
    forget()
    drawn = []
    draw = synthetic._draw.__wrapped__
    monkeypatch.setattr(synthetic, "_draw", lambda *place: drawn.append(place) or draw(*place))
    stack = sample(32768, 32768, fraction=0.02).stack
    assert stack.plane_shape[0] * stack.plane_shape[1] * stack.dtype.itemsize == 2**31
    tracemalloc.start()
    for row in range(16000, 16512, 128):  # bands across the borders of blocks
        assert stack.read((0, 0, 0), slice(row, row + 128), slice(0, 2048)).shape == (128, 2048)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == len(set(drawn)) == 3 * 8
    assert peak_bytes < 200e6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_guide_finds_the_cells(layout):
    parts = sample(520, 696, layout=layout, seed=2)
    stack, mask = first(parts.stack), first(parts.mask) > 0
    found = saliency(stack, measure_range([stack])) > 0
    assert (found & mask).sum() / (found | mask).sum() > 0.75


def test_the_guide_finds_nothing_in_a_field_without_cells():
    stack = first(sample(520, 696, fraction=0.0).stack)
    assert saliency(stack, measure_range([stack])).mean() < 0.001


def test_resembles_the_low_exposure_nuclei(real_images):
    import tifffile

    folder = real_images / "nuclei_lowexp"
    real = []
    for path in sorted((folder / "train_S").glob("*.tif")):
        real.append((tifffile.imread(path), tifffile.imread(folder / "train_S_masks" / path.name) > 0))
    simulated = []
    for seed in range(16):
        parts = sample(256, 256, fraction=0.22, seed=seed)
        simulated.append((first(parts.stack), first(parts.mask) > 0))

    def describe(fields: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        figures = []
        for field, mask in fields:
            away = ~ndimage.binary_dilation(mask, iterations=5)
            area = ndimage.sum_labels(mask, *_inside(mask))
            figures.append((
                field[away].mean() - 100, field[away].std(), pixel_noise(field), field[mask].mean() - 100,
                np.median(area) if len(area) else np.nan, *np.percentile(field, [1, 25, 50, 95, 99]) - 90,
            ))  # fmt: skip
        return np.nanmedian(figures, axis=0)

    np.testing.assert_allclose(describe(simulated), describe(real), rtol=0.3)


def _inside(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label the objects that do not touch the border."""
    labels, count = ndimage.label(mask)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return labels, np.setdiff1d(np.arange(1, count + 1), border)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"shape": (1, 1, 64, 64)}, "T,C,Z,Y,X"),
        ({"shape": (1, 1, 1, 0, 64)}, "at least 1"),
        ({"shape": (1, 1, 1, 64.5, 64)}, "at least 1"),
        ({"cell_fraction": 0.91}, "0.91"),
        ({"cell_fraction": -0.1}, "-0.1"),
        ({"cell_fraction": float("nan")}, "nan"),
        ({"layout": "striped"}, "striped"),
        ({"seed": -1}, "-1"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(options, word):
    with pytest.raises(OptionError) as refusal:
        SampleSettings(**options)
    assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)

"""IntensityRange follow the scale of the counts, and nothing but the cells and the background sets them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from cellxlate.errors import InputError
from cellxlate.stacks.intensity import stack_range
from cellxlate.stacks.intensity.range import IntensityRange, measure_range, pixel_noise
from cellxlate.stacks.intensity.stack_range import sample_windows, stack_ranges
from cellxlate.stacks.stack import Stack


def field(seed: int = 0, noise: float = 4.0, shape: tuple[int, int] = (300, 320)) -> np.ndarray:
    """Bright discs of 400 counts on a background of 100, with noise: float64, cells on 8 % of the plane."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    counts = np.full(shape, 100.0)
    for row, column in random.uniform(0, shape, (14, 2)):
        counts[(rows - row) ** 2 + (columns - column) ** 2 < 14**2] = 500.0
    return ndimage.gaussian_filter(counts, 1.5) + random.normal(0, noise, shape)


def parts(intensity: IntensityRange) -> tuple[float, float, float]:
    return intensity.black, intensity.white, intensity.noise


# --- scale


@pytest.mark.parametrize("gain", [0.25, 8.0, 3.7])
@pytest.mark.parametrize("offset", [0.0, -5000.0, 1e4])
def test_levels_follow_gain_and_offset(gain: float, offset: float) -> None:
    counts = field()
    plain, scaled = measure_range([counts]), measure_range([gain * counts + offset])
    expected = (gain * plain.black + offset, gain * plain.white + offset, gain * plain.noise)
    assert parts(scaled) == pytest.approx(expected, rel=1e-9, abs=1e-6)
    np.testing.assert_allclose(scaled.to_unit(gain * counts + offset), plain.to_unit(counts), atol=1e-5)


def test_levels_lie_at_the_background_and_in_the_cells() -> None:
    intensity = measure_range([field()])
    assert intensity.black == pytest.approx(100, abs=2)
    assert intensity.white == pytest.approx(500, abs=25)
    assert intensity.noise == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_levels_are_the_same_in_any_dtype(dtype: str) -> None:
    counts = np.rint(field() / 2.5)
    assert parts(measure_range([counts.astype(dtype)])) == parts(measure_range([counts]))


def test_flips_and_the_order_of_planes_do_not_matter() -> None:
    first, second = field(1), field(2)
    plain = parts(measure_range([first, second]))
    assert parts(measure_range([second, first])) == pytest.approx(plain, rel=1e-12)
    turned = parts(measure_range([first[::-1, ::-1], second.T]))
    assert turned[:2] == pytest.approx(plain[:2], rel=1e-4)  # other rows count
    assert turned[2] == pytest.approx(plain[2], rel=0.02)  # and other tiles and patches


# --- what must not set them


@pytest.mark.parametrize("share", [1e-4, 1e-3, 3e-3])
def test_hot_pixels_do_not_set_the_levels(share: float) -> None:
    counts = field()
    hot = counts.copy()
    hot[np.random.default_rng(3).random(counts.shape) < share] = 65535.0
    plain, found = measure_range([counts]), measure_range([hot])
    assert found.black == pytest.approx(plain.black, abs=1)
    assert found.white == pytest.approx(plain.white, rel=0.05)
    assert found.noise == pytest.approx(plain.noise, rel=0.1)


def test_a_hot_pixel_in_the_corner_does_not_set_the_levels() -> None:
    counts = field(shape=(40, 40))
    hot = counts.copy()
    hot[0, 0], hot[-1, -1], hot[0, 20] = 65535.0, 60000.0, 50000.0
    assert measure_range([hot]).white == pytest.approx(measure_range([counts]).white, rel=0.02)


def test_planes_without_light_do_not_set_the_levels() -> None:
    counts = field()
    blank = np.zeros_like(counts)
    assert parts(measure_range([blank, counts, blank, blank])) == parts(measure_range([counts]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_do_not_set_the_levels(value: float) -> None:
    counts = field()
    holed = counts.copy()
    holed[np.random.default_rng(4).random(counts.shape) < 0.01] = value
    assert parts(measure_range([holed])) == pytest.approx(parts(measure_range([counts])), rel=0.02)
    assert parts(measure_range([np.full((8, 8), value)])) == (0.0, 1.0, 0.0)
    odd_rows = np.full((300, 300), value)
    odd_rows[1::2] = field(shape=(150, 300))
    assert parts(measure_range([odd_rows]))[:2] == pytest.approx((100, 300), rel=0.05)  # the rows between are dark


def test_a_large_part_without_values_does_not_count() -> None:
    """As where a mosaic has no tile."""
    counts = field()
    wide = np.full((counts.shape[0], 4 * counts.shape[1]), np.nan)
    wide[:, : counts.shape[1]] = counts
    assert parts(measure_range([wide])) == pytest.approx(parts(measure_range([counts])), rel=0.001)


def test_a_field_without_cells_is_not_stretched_into_noise() -> None:
    noise = 100 + np.random.default_rng(5).normal(0, 10, (300, 300))
    intensity = measure_range([noise])
    assert intensity.span == pytest.approx(60, rel=0.1)
    assert intensity.to_unit(noise).std() < 0.2


def test_saturation_keeps_white_at_the_top() -> None:
    counts = np.minimum(field(), 255).astype(np.uint8)
    assert measure_range([counts]).white == pytest.approx(255, abs=0.5)


# --- fields that say nothing


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 2), (60, 70)])
@pytest.mark.parametrize("value", [0, 7])
def test_constant_planes_of_any_size_become_zero(dtype: str, shape: tuple[int, int], value: int) -> None:
    plane = np.full(shape, value, dtype)
    intensity = measure_range([plane, plane])
    assert intensity.black == value
    assert intensity.span >= 1
    np.testing.assert_array_equal(intensity.to_unit(plane), np.zeros(shape, np.float32))


def test_a_large_constant_keeps_a_span_that_float32_can_tell_apart() -> None:
    intensity = measure_range([np.full((9, 9), 4e9)])
    assert np.float32(intensity.black) < np.float32(intensity.white)


def test_no_planes_give_the_unit_range() -> None:
    assert parts(measure_range([])) == (0.0, 1.0, 0.0)


# --- noise


@pytest.mark.parametrize("sigma", [0.5, 6.0])
def test_noise_is_measured_on_flat_sloped_and_dotted_fields(sigma: float) -> None:
    random = np.random.default_rng(6)
    rows, columns = np.indices((256, 256))
    for ground in (np.zeros((256, 256)), 0.3 * rows - 0.2 * columns):
        assert pixel_noise(ground + random.normal(0, sigma, ground.shape)) == pytest.approx(sigma, rel=0.05)
    assert pixel_noise(0.3 * rows - 0.2 * columns) == pytest.approx(0, abs=1e-9)
    assert pixel_noise(np.ones((2, 300))) == 0.0


# --- to_unit


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32"])
def test_integers_are_mapped_with_one_rounding(dtype: str) -> None:
    limits = np.iinfo(dtype)
    counts = np.unique(np.linspace(limits.min, limits.max, 257).astype(dtype))
    intensity = IntensityRange(100.0, 1123.0)
    exact = [float(Fraction(int(count) - 100, 1023)) for count in counts]
    unit = intensity.to_unit(counts)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit, np.array(exact).astype(np.float32))
    ends = np.array([100, 1123] if dtype != "uint8" else [100], dtype)
    np.testing.assert_array_equal(intensity.to_unit(ends), [0.0, 1.0][: len(ends)])


def test_the_order_of_counts_is_kept() -> None:
    counts = np.arange(65536, dtype=np.uint16)
    unit = IntensityRange(113.7, 4021.3).to_unit(counts)
    assert (np.diff(unit) > 0).all()


def test_pixels_that_are_not_finite_become_zero() -> None:
    counts = np.array([[np.nan, np.inf, -np.inf, 1e308, 2.0]])
    np.testing.assert_array_equal(IntensityRange(0.0, 1e-30).to_unit(counts)[0, :4], 0)
    np.testing.assert_array_equal(IntensityRange(0.0, 4.0).to_unit(counts)[0, [0, 1, 2, 4]], [0, 0, 0, 0.5])


# --- the sample of a stack


class Counted:
    """Planes that count how many of their pixels are read."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.read_px = shape, np.dtype(np.uint16), 0
        self.keys: list[tuple[Any, ...]] = []

    def __getitem__(self, key: Any) -> Any:
        sizes = [len(range(size)[part]) for size, part in zip(self.shape, key, strict=True) if isinstance(part, slice)]
        self.read_px += sizes[0] * sizes[1]
        self.keys.append(key)
        return np.arange(sizes[0] * sizes[1], dtype=np.uint16).reshape(sizes)


@pytest.mark.parametrize(
    "shape", [(32, 2048, 2048), (1, 60_000, 60_000), (5000, 256, 256), (1, 17, 10**7), (1, 10**7, 3), (6, 1040, 1392)]
)
def test_the_sample_is_bounded_and_spread(shape: tuple[int, int, int]) -> None:
    pixels = Counted(shape)
    windows = list(sample_windows(Stack(pixels, "ZYX"), 0))
    assert 2**20 <= pixels.read_px <= 2**22
    assert len(windows) == 32
    planes = {key[0] for key in pixels.keys}
    assert len(planes) == min(32, shape[0])
    free = np.array(shape[1:]) - windows[0].shape
    starts = np.array([[part.start for part in key[1:]] for key in pixels.keys])
    assert (starts >= 0).all()
    assert (starts <= free).all()
    quarters = {tuple(4 * start // (free + 1)) for start in starts}  # which of 4 x 4 parts of the plane
    assert len(quarters) == np.prod(np.where(free >= 4, 4, free + 1))


def test_a_small_stack_is_read_whole() -> None:
    pixels = Counted((2, 3, 1040, 500))
    windows = list(sample_windows(Stack(pixels, "TCYX"), 1))
    assert [window.shape for window in windows] == [(1040, 500)] * 2
    assert [key[:2] for key in pixels.keys] == [(0, 1), (1, 1)]


def test_levels_of_a_stack_are_those_of_each_channel() -> None:
    dim, bright = field(1), 10 * field(2)
    stack = Stack.from_array(np.stack([dim, bright]), "CYX")
    found = stack_ranges(stack, [1, 0])
    assert list(found) == [1, 0]
    assert (found[0], found[1]) == (measure_range([dim]), measure_range([bright]))
    with pytest.raises(InputError, match="channel 2 does not exist, the stack has 2"):
        stack_ranges(stack, [2])


def test_the_sample_of_a_large_stack_finds_the_levels_of_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    planes = np.stack([field(seed) for seed in range(12)]).astype(np.float32)
    whole = measure_range(planes)
    monkeypatch.setattr(stack_range, "SAMPLE_PX", planes.size // 3)
    sampled = stack_ranges(Stack.from_array(planes), [0])[0]
    assert sampled.black == pytest.approx(whole.black, abs=0.02 * whole.span)
    assert sampled.white == pytest.approx(whole.white, abs=0.05 * whole.span)
    assert parts(sampled) != parts(whole)


def test_real_fields_have_levels_around_their_nuclei(real_images: Path) -> None:
    images, masks = real_images / "nuclei_lowexp" / "train_S", real_images / "nuclei_lowexp" / "train_S_masks"
    for path in sorted(images.glob("*.tif"))[:5]:
        counts = tifffile.imread(path)
        intensity = measure_range([counts])
        assert np.percentile(counts, 1) <= intensity.black <= np.median(counts)
        mask = next(iter(masks.glob(f"{path.stem}*")), None)
        if mask is not None:
            assert 0.2 < np.median(intensity.to_unit(counts)[tifffile.imread(mask) > 0]) < 1.0


def test_noise_that_neighbours_share_counts_in_full() -> None:
    random = np.random.default_rng(8)
    noise = ndimage.gaussian_filter(random.normal(size=(300, 320)), 0.8, mode="wrap")
    noise *= 12 / noise.std()
    intensity = measure_range([field(noise=0) + noise])
    assert intensity.noise == pytest.approx(12, rel=0.08)
    left = ndimage.gaussian_filter(noise, 2.0, mode="wrap").std()
    assert intensity.smooth_noise == pytest.approx(left, rel=0.15)
    white = measure_range([field(noise=12)])
    assert white.smooth_noise == pytest.approx(12 / (2 * np.sqrt(np.pi) * 2), rel=0.15)
    assert IntensityRange(0.0, 1.0, 2.0).smooth_noise == pytest.approx(2 / (2 * np.sqrt(np.pi) * 2))

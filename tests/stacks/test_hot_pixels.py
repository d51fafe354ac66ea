"""Hot pixels and cosmic rays are found; spots, filaments, bright cells and counted photons are not."""

import numpy as np
import pytest
from scipy import ndimage

from cellxlate.stacks.intensity.hot_pixels import find_hot
from cellxlate.stacks.intensity.network_input import network_input
from cellxlate.stacks.intensity.range import IntensityRange, measure_range

SHAPES = {
    "one": [(0, 0)],
    "two": [(0, 0), (0, 1)],
    "corner": [(0, 0), (0, 1), (1, 0)],
    "square": [(0, 0), (0, 1), (1, 0), (1, 1)],
    "track": [(0, 0), (1, 1), (2, 2), (3, 3)],
}


def noisy(seed: int = 0, shape: tuple[int, int] = (120, 130)) -> np.ndarray:
    random = np.random.default_rng(seed)
    cells = ndimage.gaussian_filter((random.random(shape) < 0.001) * 1.0, 6)
    return np.asarray(100 + 60 * cells / cells.max() + random.normal(0, 3, shape))


@pytest.mark.parametrize("value", [4095, 65535])
@pytest.mark.parametrize(
    ("kind", "place"),
    [*((kind, place) for kind in SHAPES for place in ((60, 70), (112, 122))), ("one", (0, 0)), ("two", (0, 60))],
)
def test_cosmic_rays_are_seen_as_what_is_around_them(kind: str, value: int, place: tuple[int, int]) -> None:
    counts = noisy().round().astype(np.uint16)
    intensity = measure_range([counts])
    struck = counts.copy()
    pixels = tuple(np.array(SHAPES[kind]).T + np.array(place)[:, None])
    struck[pixels] = value
    seen, plain = network_input(struck, intensity), intensity.to_unit(counts)
    assert seen.kept is not None
    struck_px = np.zeros_like(seen.kept)
    struck_px[pixels] = True
    assert np.array_equal(seen.kept, struck_px)
    assert np.array_equal(seen.unit[~seen.kept], plain[~seen.kept])
    assert np.abs(seen.unit - plain).max() < 6 * intensity.noise / intensity.span


@pytest.mark.parametrize("share", [1e-4, 3e-3])
def test_cosmic_rays_do_not_set_the_levels(share: float) -> None:
    counts = noisy(1, (300, 300))
    struck = counts.copy()
    for row, column in np.argwhere(np.random.default_rng(3).random((299, 299)) < share / 3):
        struck[row, column] = struck[row, column + 1] = struck[row + 1, column] = 65535
    plain, found = measure_range([counts]), measure_range([struck])
    assert found.white == pytest.approx(plain.white, rel=0.05)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_spots_of_a_microscope_are_no_hot_pixels(sigma: float) -> None:
    random = np.random.default_rng(2)
    points = np.zeros((200, 200))
    points[tuple(random.integers(5, 195, (2, 30)))] = 1
    spots = ndimage.gaussian_filter(points, sigma)
    counts = 100 + 3000 * spots / spots.max() + random.normal(0, 3, points.shape)
    intensity = measure_range([counts])
    assert intensity.to_unit(counts).max() > intensity.hot_unit
    assert network_input(counts, intensity).kept is None


def test_filaments_of_one_pixel_are_no_hot_pixels() -> None:
    counts = noisy(4)
    counts[50], counts[:, 20] = 5000, 5000
    np.fill_diagonal(counts, 5000)
    assert len(find_hot(counts, 300, 100)[0]) == 0


def test_bright_cells_beyond_the_white_level_are_seen_as_they_are() -> None:
    counts = noisy(5)
    counts[40:52, 60:72] += 3000
    intensity = IntensityRange(100.0, 160.0, 3.0)
    seen = network_input(counts, intensity)
    assert seen.kept is None
    assert np.array_equal(seen.unit, intensity.to_unit(counts))
    assert seen.unit.max() > 40


def test_photons_that_are_counted_one_by_one_are_no_hot_pixels() -> None:
    """Two photons beside none are twice the light of the smoothed image, twenty times over."""
    random = np.random.default_rng(6)
    light = 0.02 + 0.3 * ndimage.gaussian_filter((random.random((400, 400)) < 0.0005) * 1.0, 8) * 400
    counts = random.poisson(light).astype(np.uint16)
    intensity = measure_range([counts])
    seen = network_input(counts, intensity)
    assert intensity.to_unit(counts).max() > 2
    assert seen.kept is None or seen.kept.sum() < 1e-4 * counts.size

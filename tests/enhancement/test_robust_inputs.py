"""Padding, missing tiles, NaN, hot pixels, drift: kept to the bit, and nothing beside them changes."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

import cellxlate
from cellxlate.enhancement.cluster.worker import OpenJob, _bands
from cellxlate.enhancement.plan import make_plan
from cellxlate.enhancement.plane import PlaneJob, enhance_plane
from cellxlate.enhancement.preview import attention_blocks
from cellxlate.enhancement.tiling import Tile, bands_of
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

MODEL = "nuclei-lowexp"


def nuclei(seed: int = 3, shape: tuple[int, int] = (320, 320)) -> npt.NDArray[np.uint16]:
    """Faint nuclei, 60 counts above a background of 104, with the noise of photons."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    cells = np.zeros(shape)
    for row, column in random.uniform(0, shape, (20, 2)):
        cells = np.maximum(cells, 1.0 * ((rows - row) ** 2 + (columns - column) ** 2 < 14**2))
    light = ndimage.gaussian_filter(cells, 2) * 60 + 104
    return np.rint(random.normal(light, np.sqrt(light) * 0.3)).astype(np.uint16)


def run(pixels: npt.NDArray[Any], **options: Any) -> Any:
    return cellxlate.enhance(pixels, MODEL, **options)


@pytest.fixture(scope="module")
def plain() -> Any:
    return run(nuclei())


# --- constant parts


@pytest.mark.parametrize("value", [0, 40, 65535])
def test_padding_is_kept_and_leaves_the_rest_as_it_is(plain: Any, value: int) -> None:
    """10 % zeros made 81 % of the recorded part change, and 20 % made 88 %."""
    pixels = nuclei()
    pixels[:64] = value
    result = run(pixels)
    assert not result.attention[:66].any()
    assert np.array_equal(result.image[:66], pixels[:66])
    here, there = result.attention[66:] > 0, plain.attention[66:] > 0
    assert here.mean() == pytest.approx(there.mean(), abs=0.01)
    far = slice(66 + 40, None)
    assert (here[40:] != there[40:]).mean() < 0.005
    assert np.abs(result.image[far].astype(int) - plain.image[far]).mean() < 0.2
    warnings = [line for line in result.report.warnings if "constant" in line]
    assert warnings == [
        f"20.0% of channel 0 is one constant value ({value}): left out of the intensity levels and kept."
    ]
    assert len(result.report.warnings) == len(plain.report.warnings) + 1


def test_the_border_of_padding_is_not_attended() -> None:
    """A background without cells, cut off by zeros at a slant and by a missing tile."""
    pixels = np.random.default_rng(1).normal(104, 3, (320, 320)).round().astype(np.uint16)
    pixels[np.add.outer(np.arange(320), 2 * np.arange(320)) < 200] = 0
    pixels[200:260, 150:230] = 0
    result = run(pixels)
    assert not result.attention.any()


def test_a_rotated_field_is_enhanced_as_it_was_before(plain: Any) -> None:
    turned = ndimage.rotate(nuclei(), 15, reshape=True, order=1)
    result = run(turned)
    inside = ndimage.rotate(np.ones((320, 320)), 15, reshape=True, order=0) > 0
    assert (result.attention > 0)[inside].mean() == pytest.approx((plain.attention > 0).mean(), abs=0.04)
    assert not result.attention[~inside].any()


def test_a_part_that_is_no_number_is_kept_and_leaves_the_rest_as_it_is(plain: Any) -> None:
    pixels = nuclei().astype(np.float32)
    pixels[:64] = np.nan
    result = run(pixels)
    assert not result.attention[:64].any()
    assert result.image[:64].tobytes() == pixels[:64].tobytes()
    assert ((result.attention[64:] > 0) != (plain.attention[64:] > 0)).mean() < 0.01
    assert "20.0% of channel 0 is no number: left out of the intensity levels and kept." in result.report.warnings


# --- hot pixels


@pytest.mark.parametrize(("count", "value"), [(1, 65535), (26, 65535), (26, 4095)])
def test_hot_pixels_change_no_neighbour(plain: Any, count: int, value: int) -> None:
    """26 of them made 519 pixels change by more than 100 counts, and 181 darker than 60."""
    pixels, random = nuclei(), np.random.default_rng(5)
    hot = tuple(random.integers(0, 320, (2, count)))
    pixels[hot] = value
    result = run(pixels)
    apart = np.abs(result.image.astype(int) - plain.image)
    assert (result.image[hot] == value).all()
    assert not result.attention[hot].any()
    apart[hot] = 0
    assert apart.max() < 25  # as much as their own noise did before
    assert apart.mean() < 0.05
    assert result.image.min() > 60
    assert len(result.report.warnings) == len(plain.report.warnings)


def test_cosmic_rays_of_four_pixels_change_no_neighbour(plain: Any) -> None:
    pixels, random = nuclei(), np.random.default_rng(6)
    struck = np.zeros(pixels.shape, np.bool_)
    for row, column in random.integers(0, 318, (12, 2)):
        struck[row : row + 2, column : column + 2] = True
    pixels[struck] = 20000
    result = run(pixels)
    apart = np.where(struck, 0, np.abs(result.image.astype(int) - plain.image))
    assert (result.image[struck] == 20000).all()
    assert apart.max() < 25


# --- tiling


@pytest.mark.parametrize("tile_px", [64, 200, 256])
def test_every_tiling_gives_the_same_pixels(tiny_model: Path, tile_px: int) -> None:
    random = np.random.default_rng(2)
    pixels = random.normal(np.linspace(80, 240, 90), 8, (1300, 90)).astype(np.float32)
    pixels[500:530] = 0
    pixels[1000:1100, 30:] = 0
    pixels[200:260, 10:50] = np.nan
    pixels[random.integers(0, 1300, 80), random.integers(0, 90, 80)] = 60000
    pixels[[510, 511, 512, 1023, 1024], [80, 81, 3, 10, 20]] = 60000
    intensity = measure_range([pixels])

    def enhanced(side: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        translator = make_plan(
            Stack.from_array(pixels), tiny_model, channels=None, settings=None, engine="torch", device="cpu"
        ).translator
        job = PlaneJob(translator, {0: intensity}, settings=EnhanceSettings(tile_px=side))
        plane = job.input(Stack.from_array(pixels, "YX"), ())
        bands = list(enhance_plane(plane, bands_of(pixels.shape, side), job))
        [(_, [steps])] = attention_blocks(plane, [Tile(512, 1024, 0, 90)], job)
        attention = np.concatenate([band.attention for band in bands])
        assert np.array_equal(steps > 102, attention[512:1024] > 0)  # the preview too
        return np.concatenate([band.enhanced for band in bands]), attention

    (whole, whole_attention), (after, attention) = enhanced(2048), enhanced(tile_px)
    assert 0.1 < (attention > 0).mean() < 0.9
    assert np.array_equal(attention, whole_attention)
    np.testing.assert_allclose(after, whole, atol=0.02)
    kept = attention == 0
    assert kept[498:532].all()
    assert after[kept].tobytes() == pixels[kept].tobytes()


# --- drift


def drifting() -> npt.NDArray[np.uint16]:
    still = nuclei(shape=(128, 128)).astype(int)
    return np.stack([still + offset for offset in (0, 20, 40, 80)]).astype(np.uint16)


def test_a_background_that_drifts_is_kept() -> None:
    """Of the last time point 97 % were selected, of the first hardly anything."""
    result = run(drifting(), axes="TYX")
    shares = (result.attention > 0).mean(axis=(1, 2))
    assert shares == pytest.approx(shares[0], abs=0.01)
    change = result.image.astype(int) - drifting()
    assert np.abs(change - change[0]).max() <= 4
    assert sum("drifts over time" in line for line in result.report.warnings) == 1
    assert len(result.report.provenance["levels_counts"]["0"]["drift"]) == 4


def test_files_workers_and_levels_of_an_earlier_run_follow_the_drift(tmp_path: Path) -> None:
    expected = run(drifting(), axes="TYX")
    path = tmp_path / "movie.ome.tif"
    write_stacks([(Stack(drifting(), "TYX"), path)])
    report = cellxlate.enhance_file(path, MODEL)
    again = cellxlate.enhance_file(
        path, MODEL, output=tmp_path / "again.ome.tif", levels_from=tmp_path / "movie_report.json"
    )
    for found in (report, again):
        with cellxlate.open_stack(found.outputs["enhanced"]) as written:
            assert np.array_equal(np.asarray(written).reshape(expected.image.shape), expected.image)
    resumed = cellxlate.enhance_file(path, MODEL, resume=True)
    assert "this run was finished before" in resumed.warnings[0]
    with cellxlate.open_stack(path) as stack:
        plan = make_plan(stack, MODEL, channels=None, settings=None, engine="auto", device="auto")
        opened = OpenJob(stack, plan.jobs, image=None, attention=None)  # type: ignore[arg-type]
        for index in stack.plane_indices():
            [area] = bands_of(stack.plane_shape, 512)
            band = _bands(opened, index, area, plan.work)[index]
            assert np.array_equal(band.enhanced, expected.image[stack.time_of(index)])

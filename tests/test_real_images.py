"""The shipped model on real microscope images: the promise, what it selects, and the same pixels on every tiling."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ome_types
import pytest
import tifffile
import yaozarrs
from scipy import ndimage

import cellxlate
from cellxlate.enhancement.job import EnhancedStack
from cellxlate.errors import InputError
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.samples.structures import draw_structure
from cellxlate.stacks.write.copy import write_stacks

MODEL = "nuclei-lowexp"
MARGIN_PX = 5


@pytest.fixture(scope="module")
def test_fields(real_images: Path) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_], EnhancedStack]]:
    """Each of the 17 test fields with the mask of its nuclei and its enhancement."""
    model = cellxlate.load_model(MODEL)
    fields = []
    for path in sorted((real_images / "nuclei_lowexp" / "test_S").glob("*.tif")):
        with cellxlate.open_stack(path) as stack:
            result = cellxlate.enhance(stack, model)
        nuclei = tifffile.imread(real_images / "nuclei_lowexp" / "test_masks" / path.name) > 0
        fields.append((tifffile.imread(path), nuclei, result))
    assert len(fields) == 17
    return fields


def test_nothing_outside_attention_changes(test_fields: Any) -> None:
    for raw, _, result in test_fields:
        kept = result.attention == 0
        assert result.image[kept].tobytes() == raw[kept].tobytes()
        assert result.image.dtype == raw.dtype


def test_nuclei_change_and_their_background_does_not(test_fields: Any) -> None:
    """At most 2 % of the pixels farther than 5 px from a nucleus change, and at least 60 % of those in nuclei."""
    outside, inside, overlap = [], [], []
    for raw, nuclei, result in test_fields:
        changed = result.image != raw
        outside.append(changed[~ndimage.binary_dilation(nuclei, iterations=MARGIN_PX)].mean())
        inside.append(changed[nuclei].mean())
        selected = result.attention >= 128
        overlap.append((selected & nuclei).sum() / (selected | nuclei).sum())
    assert np.mean(outside) <= 0.02
    assert np.mean(inside) >= 0.6
    assert np.mean(overlap) >= 0.8


def test_a_field_without_cells_comes_back_unchanged(real_images: Path) -> None:
    (path,) = (real_images / "nuclei_lowexp" / "no_cells_S").glob("*.tif")
    with cellxlate.open_stack(path) as stack:
        result = cellxlate.enhance(stack, MODEL)
    assert (result.image != tifffile.imread(path)).mean() <= 0.001


@pytest.mark.parametrize("tile_px", [128, 200, 256])
def test_tiles_equal_the_whole_field(real_images: Path, tile_px: int) -> None:
    path = sorted((real_images / "nuclei_lowexp" / "test_S").glob("*.tif"))[0]
    model = cellxlate.load_model(MODEL)
    with cellxlate.open_stack(path) as stack:
        whole = cellxlate.enhance(stack, model, settings=EnhanceSettings(tile_px=2048, dense=True))
        tiled = cellxlate.enhance(stack, model, settings=EnhanceSettings(tile_px=tile_px))
    apart = np.abs(tiled.image.astype(int) - whole.image)
    assert np.array_equal(tiled.attention, whole.attention)
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 0.005
    assert tiled.report.tiles_total > 5


def test_enhanced_nuclei_are_closer_to_the_truth(real_images: Path, test_fields: Any) -> None:
    """Better than a Gaussian with the best gain and offset, which reaches 27.6 dB on these fields."""
    from cellxlate.evaluation.measures import foreground

    scores = []
    truths = sorted((real_images / "nuclei_lowexp" / "test_S_truth").glob("*.tif"))
    for (_, nuclei, result), path in zip(test_fields, truths, strict=True):
        scores.append(foreground(result.image, tifffile.imread(path), nuclei))
    assert np.mean([score.psnr_affine for score in scores]) >= 28.0
    assert np.mean([score.ssim_affine for score in scores]) >= 0.82


REFUSED = {
    "miniswhite-1c-1b.tiff": "1 bit per pixel",
    "truncated.tif": "copy it again",
    "stardist_img3d_ZYX.tif": "axes='ZYX'",
    "stardist_mask3d_ZYX.tif": "axes='ZYX'",
}
"""Real files that cannot be enhanced as they are, and what the one line says; docs/reference/formats.md tells why."""


def real_stacks(folder: Path) -> list[Path]:
    """Every file and Zarr folder of the two sets of real and difficult stacks."""
    found = [path for name in ("stacks", "difficult", "difficult/synth") for path in (folder / name).iterdir()]
    zarrs = [*(folder / "stacks").glob("*.zarr"), *(folder / "difficult/zarr").glob("*/*.zarr")]
    return sorted([path for path in found if path.is_file()] + zarrs)


def test_nothing_selected_gives_pixels_and_metadata_back(real_images: Path, tmp_path: Path) -> None:
    """A threshold of 1 selects nothing: every file comes back as it was, or is refused in one line."""
    model, paths = cellxlate.load_model(MODEL), real_stacks(real_images)
    assert len(paths) >= 38
    for path in paths:
        if path.name in REFUSED:
            with pytest.raises(InputError, match=REFUSED[path.name]) as caught:
                cellxlate.enhance_file(path, model, output_dir=tmp_path, settings=EnhanceSettings(threshold=1.0))
            assert "\n" not in str(caught.value)
            continue
        with cellxlate.open_stack(path) as stack:
            if np.prod(stack.shape) > 2e6:  # the networks have nothing to do with it; write it as it is
                output = tmp_path / f"{stack.name}{'.ome.zarr' if path.is_dir() else '.ome.tif'}"
                write_stacks([(stack, output)])
            else:
                report = cellxlate.enhance_file(
                    path, model, output_dir=tmp_path, settings=EnhanceSettings(threshold=1.0), report=False
                )
                output = Path(report.outputs["enhanced"])
                assert report.changed_fraction == 0
            if path.is_dir():
                yaozarrs.validate_zarr_store(str(output))
            else:
                ome_types.from_tiff(output, validate=True)
            with cellxlate.open_stack(output) as found:
                assert np.asarray(found).tobytes() == np.asarray(stack).tobytes(), path
                for what in ("axes", "shape", "dtype", "pixel_size_um", "channel_names", "time_step_s", "metadata"):
                    assert getattr(found, what) == getattr(stack, what), (path, what)
                assert not any("\n" in line for line in stack.warnings)


# the generalist, on real pairs of low and high exposure: scored, never trained or tuned on

PAIRS = (
    "Confocal_BPAE_B",
    "Confocal_MICE",
    "TwoPhoton_BPAE_G",
    "TwoPhoton_BPAE_R",
    "WideField_BPAE_G",
    "WideField_BPAE_R",
)


@pytest.mark.parametrize("name", PAIRS)
def test_cells_is_chosen_for_real_recordings_and_brings_them_nearer_to_the_truth(real_images: Path, name: str) -> None:
    frame, truth = (tifffile.imread(real_images / "real_pairs" / name / f"{part}.tif") for part in ("frame_1", "truth"))
    cells = tifffile.imread(real_images / "real_pairs" / name / "mask.tif") > 0
    result = cellxlate.enhance(frame)
    kept = result.attention == 0
    assert result.report.model_name == "cells"
    assert result.image[kept].tobytes() == frame[kept].tobytes()
    assert (result.attention[cells] > 0).mean() > 0.9

    def left_dB(image: npt.NDArray[Any]) -> float:
        gain, offset = np.polyfit(image[cells].astype(float), truth[cells].astype(float), 1)
        return float(10 * np.log10(np.mean((gain * image[cells] + offset - truth[cells]) ** 2)))

    assert left_dB(result.image) < left_dB(frame) - 2.0
    assert left_dB(result.image) < left_dB(cellxlate.enhance(frame, "nuclei-lowexp").image) - 0.5


def test_cells_finds_a_large_cell_whole_and_leaves_noise_alone() -> None:
    rows, columns = np.mgrid[:512, :512]
    disc = np.hypot(rows - 250, columns - 260) < 150
    draw = np.random.default_rng(0)
    field = draw.poisson(5 + 20 * disc) * 20 + draw.normal(200, 20, disc.shape)
    selected = cellxlate.enhance(field.round().astype(np.uint16), "cells").attention > 0
    assert selected[ndimage.binary_erosion(disc, iterations=3)].all()
    assert (selected & ~ndimage.binary_dilation(disc, iterations=8)).mean() < 0.01
    noise = draw.poisson(np.linspace(3, 12, 512) * np.ones((512, 1))) * 20 + 200
    assert (cellxlate.enhance(noise.astype(np.uint16), "cells").attention > 0).mean() < 0.001


@pytest.mark.parametrize("tile_px", [200, 512])
def test_tiles_of_cells_equal_the_whole_field(tile_px: int) -> None:
    draw = np.random.default_rng(1)
    drawn = draw_structure("cells", (600, 700), draw, fraction=0.3).image
    field = (draw.poisson(5 + 30 * drawn) * 20 + 200).astype(np.uint16)
    whole = cellxlate.enhance(field, "cells", settings=EnhanceSettings(tile_px=2048, dense=True))
    tiled = cellxlate.enhance(field, "cells", settings=EnhanceSettings(tile_px=tile_px))
    assert 0.05 < (whole.attention > 0).mean() < 0.8
    assert np.array_equal(tiled.attention, whole.attention)
    apart = np.abs(tiled.image.astype(int) - whole.image)
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 0.005

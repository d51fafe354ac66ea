"""One stack, from file to files: same kind of file back, kept pixels bit for bit, interrupted runs continued."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate.enhancement import flow
from cellxlate.enhancement.flow import EnhanceProgress
from cellxlate.errors import InputError, OptionError, OutputError, PromiseError
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

NAMED = {"pixel_size_um": {"Z": 2.0, "Y": 0.5, "X": 0.25}, "channel_names": ("DAPI", "GFP"), "time_step_s": 30.0}


def pixels(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> Any:
    """A ramp along the columns with noise."""
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return (noise + np.linspace(80, 240, shape[-1])).clip(0).astype(dtype)


def stack_file(
    path: Path, shape: tuple[int, ...] = (2, 2, 3, 40, 50), axes: str = "TCZYX", dtype: str = "uint16"
) -> Path:
    stack = Stack(pixels(shape, dtype), axes, **NAMED)
    write_stacks([(stack, path)])
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, pixels((90, 130)))
    return path


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_the_result_is_the_same_kind_of_file(tmp_path: Path, tiny_model: Path, ending: str, dtype: str) -> None:
    path = stack_file(tmp_path / f"cells{ending}", dtype=dtype)
    report = cellxlate.enhance_file(path, tiny_model)
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(
        [
            f"cells{ending}",
            f"cells_enhanced{ending}",
            f"cells_attention{ending}",
            "cells_report.html",
            "cells_report.json",
        ]
    )
    with (
        cellxlate.open_stack(path) as before,
        cellxlate.open_stack(report.outputs["enhanced"]) as after,
        cellxlate.open_stack(report.outputs["attention"]) as attention,
    ):
        for written, expected in ((after, np.dtype(dtype)), (attention, np.dtype("uint8"))):
            assert (written.axes, written.shape, written.dtype) == (before.axes, before.shape, expected)
            assert written.pixel_size_um == pytest.approx(NAMED["pixel_size_um"])
            assert written.channel_names == NAMED["channel_names"]
            assert written.time_step_s == pytest.approx(30.0)
        raw, enhanced, selected = (np.asarray(one) for one in (before, after, attention))
    kept = selected == 0
    assert 0 < kept.mean() < 1
    assert enhanced[kept].tobytes() == raw[kept].tobytes()
    assert (enhanced != raw).any()
    assert report.kept_violations == 0
    assert report.changed_fraction == pytest.approx((enhanced != raw).mean())


def test_channels_that_are_not_chosen_are_copied(tmp_path: Path, tiny_model: Path) -> None:
    path = stack_file(tmp_path / "cells.ome.tif")
    report = cellxlate.enhance_file(path, tiny_model, channels=["GFP"])
    raw, enhanced, attention = (
        tifffile.imread(name) for name in (path, report.outputs["enhanced"], report.outputs["attention"])
    )
    assert np.array_equal(enhanced[:, 0], raw[:, 0])
    assert not attention[:, 0].any()
    assert (enhanced[:, 1] != raw[:, 1]).any()
    assert report.pixels == raw[:, 1].size


def test_memory_and_file_give_the_same_pixels(plain: Path, tiny_model: Path) -> None:
    report = cellxlate.enhance_file(plain, tiny_model, settings=EnhanceSettings(tile_px=32))
    result = cellxlate.enhance(tifffile.imread(plain), tiny_model)
    assert np.array_equal(tifffile.imread(report.outputs["enhanced"]), result.image)
    assert np.array_equal(tifffile.imread(report.outputs["attention"]), result.attention)
    assert result.report.changed_fraction == report.changed_fraction


def test_a_threshold_of_one_gives_the_input_back(plain: Path, tiny_model: Path) -> None:
    report = cellxlate.enhance_file(plain, tiny_model, settings=EnhanceSettings(threshold=1.0))
    assert tifffile.imread(report.outputs["enhanced"]).tobytes() == tifffile.imread(plain).tobytes()
    assert report.changed_fraction == 0
    assert any("selected nothing" in warning for warning in report.warnings)


class Stop(Exception):
    """Stands for whatever ends a run early."""


def stop_after(planes: float) -> Any:
    def stop(news: EnhanceProgress) -> None:
        if news.done >= planes:
            raise Stop

    return stop


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, tiny_model: Path, ending: str) -> None:
    path = stack_file(tmp_path / f"cells{ending}", (6, 1, 1, 600, 40))
    tiles = EnhanceSettings(tile_px=64)
    unbroken = cellxlate.enhance_file(path, tiny_model, output=tmp_path / f"whole{ending}", settings=tiles)
    with pytest.raises(Stop):
        cellxlate.enhance_file(path, tiny_model, settings=tiles, progress=stop_after(2.5))
    assert not (tmp_path / f"cells_enhanced{ending}").exists()
    with pytest.raises(OutputError, match="resume=True"):
        cellxlate.enhance_file(path, tiny_model)
    news: list[EnhanceProgress] = []
    resumed = cellxlate.enhance_file(path, tiny_model, resume=True, settings=tiles, progress=news.append)
    assert len(news) == 12 - 5  # bands of 512 rows
    for name in ("enhanced", "attention"):
        with cellxlate.open_stack(unbroken.outputs[name]) as one, cellxlate.open_stack(resumed.outputs[name]) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))
    assert resumed.changed_fraction == unbroken.changed_fraction
    assert not list(tmp_path.glob("*.partial"))


def test_a_partial_of_other_settings_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    path = stack_file(tmp_path / "cells.ome.tif", (4, 1, 1, 40, 40))
    with pytest.raises(Stop):
        cellxlate.enhance_file(path, tiny_model, progress=stop_after(2))
    with pytest.raises(OutputError, match="settings"):
        cellxlate.enhance_file(path, tiny_model, resume=True, settings=EnhanceSettings(threshold=0.5))
    cellxlate.enhance_file(path, tiny_model, overwrite=True, settings=EnhanceSettings(threshold=0.5))


def test_a_broken_promise_never_gets_its_name(plain: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = flow.enhance_plane

    def dishonest(*arguments: Any) -> Any:
        for band in honest(*arguments):
            row, column = np.argwhere(band.attention == 0)[0]
            band.enhanced[row, column] += 1
            yield band

    monkeypatch.setattr(flow, "enhance_plane", dishonest)
    with pytest.raises(PromiseError, match="1 kept pixels differ"):
        cellxlate.enhance_file(plain, tiny_model)
    assert not list(plain.parent.glob("*_enhanced.ome.tif"))
    assert not list(plain.parent.glob("*_report.*"))


def test_existing_results_are_kept_unless_told_otherwise(plain: Path, tiny_model: Path) -> None:
    report = cellxlate.enhance_file(plain, tiny_model)
    before = Path(report.outputs["enhanced"]).read_bytes()
    with pytest.raises(OutputError, match="overwrite=True"):
        cellxlate.enhance_file(plain, tiny_model, settings=EnhanceSettings(threshold=0.6))
    assert Path(report.outputs["enhanced"]).read_bytes() == before
    again = cellxlate.enhance_file(plain, tiny_model, settings=EnhanceSettings(threshold=0.6), overwrite=True)
    assert again.changed_fraction < report.changed_fraction


def test_the_input_is_never_replaced(plain: Path, tiny_model: Path) -> None:
    before = plain.read_bytes()
    with pytest.raises(OutputError):
        cellxlate.enhance_file(plain, tiny_model, output=plain, overwrite=True)
    assert plain.read_bytes() == before


def test_the_report_file_says_what_the_result_says(plain: Path, tiny_model: Path) -> None:
    report = cellxlate.enhance_file(plain, tiny_model)
    stored = json.loads((plain.parent / "plain_report.json").read_text())
    said = report.as_dict()
    took, took_then = said.pop("seconds"), stored["seconds"]  # it is written before the result is published
    for name in ("calibrate", "attention", "generator"):
        assert took[name] == took_then[name]
    assert took["total"] >= took_then["total"]
    assert took["total"] == pytest.approx(sum(took.values()) - took["total"], abs=0.01)
    for key, value in said.items():
        assert stored[key] == pytest.approx(value) if isinstance(value, float) else stored[key] == value
    assert stored["provenance"]["model_sha256"] == cellxlate.load_model(tiny_model).digest
    assert stored["pixels"] == 90 * 130
    assert set(stored["seconds"]) == {"calibrate", "attention", "generator", "io", "total"}


def test_outputs_that_are_not_wanted_are_not_written(plain: Path, tiny_model: Path) -> None:
    cellxlate.enhance_file(plain, tiny_model, attention=False, report=False)
    assert sorted(item.name for item in plain.parent.iterdir()) == ["plain.tif", "plain_enhanced.ome.tif"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": EnhanceSettings(threshold=1.5)}, "threshold=1.5"),
        ({"settings": EnhanceSettings(threshold=float("nan"))}, "threshold=nan"),
        ({"settings": EnhanceSettings(tile_px=0)}, "tile_px=0"),
        ({"channels": ["DAPI"]}, "no channel 'DAPI'"),
        ({"channels": [1]}, "no channel '1'"),
        ({"output": "out.png"}, "ends|ending"),
        ({"output": "out.ome.zarr", "format": "ome-tiff"}, "give one of them"),
        ({"output": "a.tif", "output_dir": "b"}, "give one of them"),
        ({"engine": "caffe"}, "engine='caffe'"),
    ],
)
def test_options_that_make_no_sense_leave_nothing_behind(
    plain: Path, tiny_model: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        cellxlate.enhance_file(plain, tiny_model, **options)
    assert "\n" not in str(caught.value)
    assert [item.name for item in plain.parent.iterdir()] == ["plain.tif"]


def test_a_missing_or_unclear_stack_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        cellxlate.enhance_file(tmp_path / "nothing.tif", tiny_model)
    unclear = tmp_path / "unclear.tif"
    tifffile.imwrite(unclear, pixels((5, 6, 30, 40)), photometric="minisblack")
    with pytest.raises(InputError, match="axes="):
        cellxlate.enhance_file(unclear, tiny_model)
    report = cellxlate.enhance_file(unclear, tiny_model, axes="TZYX")
    assert report.axes == "TZYX"


def test_target_intensity_moves_cells_alone(plain: Path, tiny_model: Path) -> None:
    source = cellxlate.enhance(tifffile.imread(plain), tiny_model)
    target = cellxlate.enhance(tifffile.imread(plain), tiny_model, settings=EnhanceSettings(intensity="target"))
    assert np.array_equal(source.attention, target.attention)
    kept = source.attention == 0
    assert np.array_equal(source.image[kept], target.image[kept])
    assert target.image[~kept].mean() > source.image[~kept].mean() + 20

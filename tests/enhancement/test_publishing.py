"""A verified result gets its name whatever becomes of its report; nothing foreign is replaced for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement import verify
from cellxlate.errors import OutputError, PromiseError
from cellxlate.quality import tally as tally_parts
from cellxlate.quality.report import account
from cellxlate.quality.report import report as report_page
from cellxlate.quality.report.report import RunReport


def noisy_ramp(shape: tuple[int, ...] = (90, 130)) -> Any:
    noise = np.random.default_rng(0).normal(0, 8, shape)
    return (noise + np.linspace(80, 240, shape[-1])).clip(0).astype(np.uint16)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, noisy_ramp())
    return path


def fail(*_: Any, **__: Any) -> Any:
    raise ValueError("of no use")


def require_promise(raw: Any, report: RunReport) -> None:
    with (
        cellxlate.open_stack(str(report.outputs["enhanced"])) as image,
        cellxlate.open_stack(str(report.outputs["attention"])) as selected,
    ):
        kept = np.asarray(selected) == 0
        assert 0 < kept.mean() < 1
        assert np.array_equal(np.asarray(image)[kept], raw[kept])


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ((account, "draw_planes"), "drawing the pictures"),
        ((account, "examine"), "judging whether the result should be believed"),
        ((account, "notices_of"), "gathering warnings"),
        ((verify, "input_notices"), "gathering remarks"),
        ((report_page, "report_page"), "writing the report"),
        ((report_page, "finite_json"), "writing the report's JSON"),
        ((tally_parts, "selected_segments"), "counting for the report"),
        ((tally_parts.Histogram, "add"), "counting for the report"),
        ((tally_parts.Seams, "add"), "counting for the report"),
    ],
)
def test_a_report_a_picture_or_a_check_that_fails_is_a_warning(
    plain: Path, tiny_model: Path, broken: tuple[Any, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(*broken, fail)
    assert main(["enhance", str(plain), "-m", str(tiny_model), "--engine", "torch", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    warnings = [line for line in answer["warnings"] if said in line]
    assert len(warnings) == 1
    assert "ValueError: of no use" in warnings[0]
    raw = tifffile.imread(plain)
    kept = tifffile.imread(answer["outputs"]["attention"]) == 0
    assert np.array_equal(tifffile.imread(answer["outputs"]["enhanced"])[kept], raw[kept])
    assert not list(plain.parent.glob("*.partial"))
    assert (answer["outputs"]["report"] is None) == (said == "writing the report")


def test_the_promise_is_never_a_warning(plain: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(stack: Any, image: Any, *rest: Any, **options: Any) -> Any:
        tally = verify.Tally(plane_axes=stack.plane_axes)
        tally.total.kept_violations = 1
        return tally

    monkeypatch.setattr(verify, "read_back", broken)
    monkeypatch.setattr(account, "draw_planes", fail)
    with pytest.raises(PromiseError, match="kept pixels differ"):
        cellxlate.enhance_file(plain, tiny_model)
    assert not (plain.parent / "plain_enhanced.ome.tif").exists()


def test_a_folder_under_the_name_of_a_report_is_a_warning(plain: Path, tiny_model: Path) -> None:
    report = cellxlate.enhance_file(plain, tiny_model, progress=lambda _: appear(plain.parent / "plain_report.html"))
    assert [line for line in report.warnings if "plain_report.html" in line]
    assert report.outputs["report"] is None
    assert (plain.parent / "plain_report.html/notes.txt").read_text() == "mine"
    require_promise(tifffile.imread(plain), report)


def in_zarr(folder: Path, pixels: Any, axes: str, order: str) -> Path:
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    array = group.create_array("0", shape=pixels.shape, dtype=pixels.dtype, chunks=pixels.shape, order=order)
    array[...] = pixels
    scale = [{"type": "scale", "scale": [1.0] * pixels.ndim}]
    group.attrs["multiscales"] = [{
        "version": "0.4", "axes": [{"name": axis.lower(), "type": "space"} for axis in axes],
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }]  # fmt: skip
    return folder


@pytest.mark.parametrize(("axes", "order"), [("ZYX", "F"), ("XYZ", "C"), ("XYZ", "F")])
def test_pixels_in_any_order_have_pictures(tmp_path: Path, tiny_model: Path, axes: str, order: str) -> None:
    pixels = noisy_ramp((2, 60, 90))
    stored = pixels if axes == "ZYX" else pixels.transpose(2, 1, 0).copy()
    path = in_zarr(tmp_path / "cells.ome.zarr", stored, axes, order)
    report = cellxlate.enhance_file(path, tiny_model)
    require_promise(stored, report)
    assert (tmp_path / "cells_report.html").read_text().count("<img") >= 3
    assert not [line for line in report.warnings if "failed" in line]


def appear(path: Path) -> None:
    """Stand for another program that writes under a name while a run goes on."""
    if path.exists():
        return
    if path.suffix == ".tif":
        path.write_bytes(b"mine")
    else:
        path.mkdir()
        (path / "notes.txt").write_text("mine")


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else (path / "notes.txt").read_bytes()


@pytest.mark.parametrize("name", ["enhanced", "attention"])
@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr", ".tif", ".zarr"])
def test_what_appears_under_the_name_meanwhile_stays(
    plain: Path, tiny_model: Path, tmp_path: Path, ending: str, name: str
) -> None:
    path = tmp_path / f"out_enhanced{ending}"
    foreign = path.with_name(f"out_{name}{ending}")
    with pytest.raises(OutputError, match="appeared meanwhile and is not replaced; move it elsewhere") as refused:
        cellxlate.enhance_file(plain, tiny_model, output=path, progress=lambda _: appear(foreign))
    assert str(foreign) in str(refused.value)
    assert content(foreign) == b"mine"
    assert not list(tmp_path.glob("out_report*"))
    with pytest.raises(OutputError, match="is not replaced"):
        cellxlate.enhance_file(plain, tiny_model, output=path, resume=True)
    assert content(foreign) == b"mine"
    foreign.rename(tmp_path / "elsewhere")
    news: list[Any] = []
    report = cellxlate.enhance_file(plain, tiny_model, output=path, resume=True, progress=news.append)
    assert not news  # all was done
    require_promise(tifffile.imread(plain), report)
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(
        ["plain.tif", "elsewhere", path.name, f"out_attention{ending}", "out_report.html", "out_report.json"]
    )


def test_a_link_that_leads_nowhere_is_something(plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    link = tmp_path / "plain_enhanced.ome.tif"
    with pytest.raises(OutputError, match="is not replaced"):
        cellxlate.enhance_file(
            plain, tiny_model, progress=lambda _: link.is_symlink() or link.symlink_to(tmp_path / "absent")
        )
    assert link.is_symlink()
    assert not (tmp_path / "absent").exists()


def test_a_users_folder_is_not_overwritten(plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.ome.zarr"
    with pytest.raises(OutputError, match="is not replaced"):
        cellxlate.enhance_file(plain, tiny_model, output=path, overwrite=True, progress=lambda _: appear(path))
    assert content(path) == b"mine"


def test_resuming_replaces_no_foreign_file(plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "plain_enhanced.ome.tif"
    tifffile.imwrite(foreign, noisy_ramp())
    before = foreign.read_bytes()
    with pytest.raises(OutputError, match="is not replaced"):
        cellxlate.enhance_file(plain, tiny_model, resume=True)
    assert foreign.read_bytes() == before


def test_resuming_goes_on_after_a_crash_between_the_names(plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    first = cellxlate.enhance_file(plain, tiny_model)
    enhanced = Path(str(first.outputs["enhanced"]))
    before = tifffile.imread(enhanced)
    enhanced.unlink()
    report = cellxlate.enhance_file(plain, tiny_model, resume=True)
    assert np.array_equal(tifffile.imread(enhanced), before)
    assert not [line for line in report.warnings if "failed" in line]


@pytest.mark.parametrize("name", ["plain_report.html", "plain_report.json"])
def test_a_report_that_appears_meanwhile_is_not_replaced(
    plain: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    foreign = tmp_path / name
    report = cellxlate.enhance_file(plain, tiny_model, progress=lambda _: foreign.write_text("mine"))
    assert foreign.read_text() == "mine"
    assert [line for line in report.warnings if str(foreign) in line]
    require_promise(tifffile.imread(plain), report)

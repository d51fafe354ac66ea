"""A plate in, a plate out: the same wells and fields, which appear together."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr

import cellxlate
from cellxlate.cli import main
from cellxlate.cli.lines.forecast import forecast_lines
from cellxlate.enhancement.outputs import plates
from cellxlate.enhancement.outputs.plates import Plate
from cellxlate.errors import InputError
from cellxlate.stacks.read.open import open_stack
from cellxlate.whole_file import rename_free

WELLS = {"A/1": (0, 0), "B/2": (1, 1)}
FIELDS = ("A/1/0", "A/1/1", "B/2/0", "B/2/1")
AXES = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]


def plate(path: Path, version: str = "0.5", wells: dict[str, tuple[int, int]] = WELLS, fields: int = 2) -> Path:
    """Random fields of 40 x 50 px; the plate states an acquisition and an attribute of its own."""
    random = np.random.default_rng(0)

    def state(group: zarr.Group, kind: str, stated: Any) -> None:
        if version == "0.5":
            group.update_attributes({"ome": {"version": version, kind: stated}})
        else:
            group.update_attributes({kind: [{**stated[0], "version": version}] if isinstance(stated, list)
                                     else {**stated, "version": version}})  # fmt: skip

    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    listed = [{"path": well, "rowIndex": row, "columnIndex": column} for well, (row, column) in wells.items()]
    state(group, "plate", {"name": "screen", "columns": [{"name": "1"}, {"name": "2"}], "acquisitions": [{"id": 0}],
                           "rows": [{"name": "A"}, {"name": "B"}], "wells": listed, "field_count": fields})  # fmt: skip
    group.update_attributes({"robot": "R2"})
    for well in wells:
        inner = group.require_group(well.split("/")[0]).require_group(well.split("/")[1])
        state(inner, "well", {"images": [{"path": str(field), "acquisition": 0} for field in range(fields)]})
        for field in range(fields):
            image = inner.create_group(str(field))
            image.create_array("0", data=random.integers(90, 400, (40, 50)).astype(np.uint16), chunks=(32, 32))
            datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}]
            state(image, "multiscales", [{"axes": AXES, "datasets": datasets, "name": field}])
    return path


def stated(path: Path, kind: str) -> Any:
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    found = dict(attributes.get("ome", attributes)[kind])
    found.pop("version", None)
    return found


def names(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir()}


def test_a_plate_is_one_task_of_a_cluster(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plate(tmp_path / "screen.ome.zarr")
    command = ["enhance", str(path), "-m", str(tiny_model), "--output-dir", str(tmp_path / "results"), "--json"]
    assert main([*command, "--slurm", str(tmp_path / "go.sh")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["tasks"], answer["stacks"]) == (1, [str(path)])
    assert "a task of 4 stacks" in (tmp_path / "go.sh").read_text()
    (tmp_path / "results" / "screen_enhanced.ome.zarr.unfinished").mkdir()
    assert main([*command, "--slurm", str(tmp_path / "go2.sh")]) == 2
    assert "left from an interrupted job" in capsys.readouterr().err
    assert not (tmp_path / "go2.sh").exists()


@pytest.mark.parametrize(("version", "format"), [("0.5", None), ("0.4", None), ("0.5", "ome-zarr-0.4")])
def test_a_plate_comes_out_as_a_plate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, format: str | None
) -> None:
    path = plate(tmp_path / "screen.ome.zarr", version)
    options = ["--format", format] if format else []
    assert main(["enhance", str(path), "--json", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    made = tmp_path / "screen_enhanced.ome.zarr"
    assert answer["plates"] == [{"enhanced": str(made), "attention": str(tmp_path / "screen_attention.ome.zarr"),
                                 "reports": str(tmp_path / "screen_reports"), "warnings": []}]  # fmt: skip
    assert [one["outputs"]["enhanced"] for one in answer["stacks"]] == [str(made / field) for field in FIELDS]
    assert names(tmp_path) == {path.name, made.name, "screen_attention.ome.zarr", "screen_reports"}
    for found in (made, tmp_path / "screen_attention.ome.zarr"):
        yaozarrs.validate_zarr_store(str(found))
        assert stated(found, "plate") == stated(path, "plate")
        assert zarr.open_group(found, mode="r").attrs["robot"] == "R2"
        assert stated(found / "B/2", "well") == stated(path / "B/2", "well")
        assert (found / "zarr.json").exists() == (format is None)
    for field in FIELDS:
        with (
            open_stack(path / field) as before,
            open_stack(made / field) as after,
            open_stack(tmp_path / "screen_attention.ome.zarr" / field) as attention,
        ):
            assert (after.axes, after.shape, after.dtype, after.pixel_size_um) == (
                before.axes, before.shape, before.dtype, before.pixel_size_um
            )  # fmt: skip
            kept = np.asarray(attention) == 0
            np.testing.assert_array_equal(np.asarray(after)[kept], np.asarray(before)[kept])
    reports = tmp_path / "screen_reports"
    report = json.loads((reports / "screen_A_1_0_report.json").read_text())
    assert report["outputs"]["report"] == str(reports / "screen_A_1_0_report.html")
    assert not any("unfinished" in file.read_text() for file in reports.iterdir())


def test_a_plate_from_python_appears_when_all_its_fields_are_done(tmp_path: Path, tiny_model: Path) -> None:
    path, made = plate(tmp_path / "screen.ome.zarr"), tmp_path / "screen_enhanced.ome.zarr"
    shutil.move(path / "B/2/0", tmp_path / "aside")
    outcome = cellxlate.enhance_files(path, tiny_model)
    assert [stack.path for stack in outcome.failed] == [path / "B/2/0"]
    assert [(one.plate.enhanced, one.failed, one.error) for one in outcome.plates] == [(made, 1, None)]
    assert not made.exists()
    shutil.move(tmp_path / "aside", path / "B/2/0")
    outcome = cellxlate.enhance_files(path, tiny_model, resume=True)
    assert (outcome.failed, [one.failed for one in outcome.plates]) == ([], [0])
    assert stated(made, "plate") == stated(path, "plate")


def test_what_lies_beside_the_wells_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plate(tmp_path / "screen.ome.zarr")
    group = zarr.open_group(path, mode="a")
    group.create_group("tables")
    group.create_group("OME")
    assert main(["enhance", str(path)]) == 0
    assert "warning    what lies beside the wells is not copied: OME, tables\n" in capsys.readouterr().out
    assert main(["enhance", str(path), "--overwrite", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["plates"][0]["warnings"] == ["what lies beside the wells is not copied: OME, tables"]


def test_a_plate_is_not_adapted_to_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enhance", str(plate(tmp_path / "screen.ome.zarr")), "--adapt"]) == 2
    assert "adapt to one field of the plate, then give its model with -m for all" in capsys.readouterr().err


def test_a_plate_with_a_broken_field_does_not_appear_until_it_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plate(tmp_path / "screen.ome.zarr")
    whole = plate(tmp_path / "whole.ome.zarr")
    assert main(["enhance", str(whole), "--quiet"]) == 0
    shutil.move(path / "B/2/0", tmp_path / "aside")
    assert main(["enhance", str(path), "--quiet"]) == 1
    assert (
        "1 of 4 fields failed, so no plate appears; mend what is said above, and give --resume"
        in capsys.readouterr().err
    )
    assert not {name for name in names(tmp_path) if name.startswith("screen_") and not name.endswith(".unfinished")}
    shutil.move(tmp_path / "aside", path / "B/2/0")
    assert main(["enhance", str(path), "--quiet"]) == 2
    assert "left from an interrupted job; give --resume" in capsys.readouterr().err
    assert main(["enhance", str(path), "--quiet", "--resume"]) == 0
    for field in FIELDS:
        made = [tmp_path / f"{name}_enhanced.ome.zarr" / field for name in ("screen", "whole")]
        with open_stack(made[0]) as one, open_stack(made[1]) as other:
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert not any(name.endswith(".unfinished") for name in names(tmp_path))


def test_options_that_suit_no_field_leave_nothing_of_a_plate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, results = plate(tmp_path / "screen.ome.zarr"), tmp_path / "results"
    asked = ["enhance", str(path), "--output-dir", str(results), "--quiet"]
    assert main([*asked, "-m", "cells", "--context", "z"]) == 1
    said = capsys.readouterr().err
    assert "screen.ome.zarr: all 4 fields failed, so no plate appears; nothing is left of it" in said
    assert "--resume" not in said
    assert names(results) == set()
    assert main([*asked, "--channel", "GFP"]) == 1
    assert names(results) == set()
    assert main(asked) == 0


def test_what_an_earlier_run_has_begun_of_a_plate_stays_if_all_fields_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, begun = plate(tmp_path / "screen.ome.zarr"), tmp_path / "screen_enhanced.ome.zarr.unfinished/A/1/0.partial"
    zarr.open_group(tmp_path / "screen_enhanced.ome.zarr.unfinished", mode="w")
    begun.mkdir(parents=True)
    (begun / "job.json").touch()
    assert main(["enhance", str(path), "--quiet", "--resume", "--channel", "GFP"]) == 1
    assert "all 4 fields failed, so no plate appears; mend what is said above, and give --resume" in (
        capsys.readouterr().err
    )
    assert (begun / "job.json").exists()


def test_a_finished_plate_is_verified_or_replaced_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, made = plate(tmp_path / "screen.ome.zarr"), tmp_path / "screen_enhanced.ome.zarr"
    assert main(["enhance", str(path), "--quiet"]) == 0
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    assert main(["enhance", str(path), "--quiet"]) == 2
    assert "exists already; give --overwrite" in capsys.readouterr().err
    assert main(["enhance", str(path), "--quiet", "--resume"]) == 0
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before
    (made / "old").touch()
    assert main(["enhance", str(path), "--quiet", "--overwrite"]) == 0
    assert not (made / "old").exists()
    assert names(tmp_path) == {path.name, made.name, "screen_attention.ome.zarr", "screen_reports"}


@pytest.mark.parametrize("named", ["screen_attention.ome.zarr", "screen_reports"])
def test_a_crash_while_plates_get_their_names_loses_no_field(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plate(tmp_path / "screen.ome.zarr")

    def crash(source: Path, target: Path) -> None:
        if source.name == "screen_enhanced.ome.zarr.unfinished":
            raise OSError("the machine stopped")
        rename_free(source, target)

    monkeypatch.setattr(plates, "rename_free", crash)
    assert main(["enhance", str(path)]) != 0
    monkeypatch.undo()
    assert (tmp_path / named).exists()
    assert not (tmp_path / "screen_enhanced.ome.zarr").exists()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / named).rglob("*") if "c" in file.parts}
    assert main(["enhance", str(path), "--resume"]) == 0
    assert names(tmp_path) == {
        "screen.ome.zarr", "screen_enhanced.ome.zarr", "screen_attention.ome.zarr", "screen_reports"
    }  # fmt: skip
    assert {file: file.stat().st_mtime_ns for file in before} == before  # no field was computed again


def test_a_plate_goes_where_it_is_told_and_only_what_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plate(tmp_path / "screen.ome.zarr", wells={"A/1": (0, 0)}, fields=1)
    out = tmp_path / "new" / "results"
    assert main(["enhance", str(path), "--output-dir", str(out), "--no-attention", "--no-report", "--quiet"]) == 0
    assert names(out) == {"screen_enhanced.ome.zarr"}
    assert main(["enhance", str(path), "-o", str(tmp_path / "mine.zarr"), "--quiet"]) == 0
    assert names(tmp_path) == {path.name, "new", "mine.zarr", "mine_attention.zarr", "mine_reports"}
    assert stated(tmp_path / "mine.zarr", "plate") == stated(path, "plate")
    assert main(["enhance", str(path), "-o", str(tmp_path / "no" / "mine.zarr"), "--quiet"]) == 2
    assert main(["enhance", str(path), "--confidence", "--quiet"]) == 2
    assert "one by one" in capsys.readouterr().err


def test_a_field_alone_and_fields_as_tiff_are_stacks(tmp_path: Path) -> None:
    path = plate(tmp_path / "screen.ome.zarr")
    assert main(["enhance", str(path / "A/1/0"), "--quiet", "--no-report", "--no-attention"]) == 0
    assert main(["enhance", str(path), "--format", "ome-tiff", "--quiet", "--no-report", "--no-attention"]) == 0
    assert names(tmp_path) == {path.name, "screen_A_1_0_enhanced.ome.zarr"} | {
        f"screen_{field.replace('/', '_')}_enhanced.ome.tif" for field in FIELDS
    }


def test_info_tells_the_wells_of_a_plate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plate(tmp_path / "screen.ome.zarr")
    assert main(["info", str(path)]) == 0
    assert "2 wells (A1, B2), 4 fields" in capsys.readouterr().out
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plate"] == {"wells": ["A1", "B2"], "fields": 4}


def test_a_table_of_forecasts_names_fields_with_their_plate_and_adds_up() -> None:
    expected = {"megapixels": 0.5, "cell_fraction": 0.1, "seconds": {"bands": 60.0, "read": 1.0},
                "file_bytes": {"enhanced": 1_000_000, "attention": 500_000}}  # fmt: skip
    one = {"expected": expected, "model": "cells", "warnings": ["look"]}
    lines = forecast_lines(["screen_A_1_0", "screen_A_1_1", "screen_A_1_2"], [one, {"input": "x", "error": "bad"}, one])
    assert [line.split()[0] for line in lines[1:4]] == ["screen_A_1_0", "screen_A_1_1", "screen_A_1_2"]
    assert "failed" in lines[2]
    assert "in all   2 stacks in 2 min 02 s, 3.0 MB written" in lines
    assert "warning  screen_A_1_2: look" in lines


def test_a_dry_run_of_a_plate_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plate(tmp_path / "screen.ome.zarr", wells={"A/1": (0, 0)}, fields=1)
    assert main(["enhance", str(path), "--dry-run", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["stacks"][0]["axes"] == "YX"
    assert names(tmp_path) == {path.name}


@pytest.mark.parametrize("name", ["screen_enhanced.ome.zarr", "screen_attention.ome.zarr", "screen_reports"])
def test_a_folder_that_appears_under_a_name_of_a_plate_stays(
    tmp_path: Path, tiny_model: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path, foreign = plate(tmp_path / "screen.ome.zarr", wells={"A/1": (0, 0)}, fields=1), tmp_path / name
    begin = Plate.start

    def start(self: Plate, **options: Any) -> None:
        begin(self, **options)
        foreign.mkdir()
        (foreign / "notes.txt").write_text("mine")

    command = ["enhance", str(path), "-m", str(tiny_model), "--engine", "torch", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(Plate, "start", start)
        assert main(command) == 2
    assert "is not replaced; move it elsewhere and run again with --resume" in capsys.readouterr().err
    assert (foreign / "notes.txt").read_text() == "mine"
    foreign.rename(tmp_path / "elsewhere")
    assert main([*command, "--resume"]) == 0
    assert names(tmp_path) == {"elsewhere", path.name, "screen_enhanced.ome.zarr", "screen_attention.ome.zarr",
                               "screen_reports"}  # fmt: skip


def test_a_plate_that_lists_a_well_which_is_not_there_names_it(tmp_path: Path) -> None:
    path = plate(tmp_path / "p.zarr")
    shutil.rmtree(path / "B")
    with pytest.raises(InputError, match="lists 2 wells, of which B/2 are not there"):
        open_stack(path)

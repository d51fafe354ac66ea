"""Many stacks in one command: a failure does not stop the rest, and a table says what became of each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate import cli
from cellxlate.cli.enhance import batch_lines
from cellxlate.errors import InputError, OptionError
from cellxlate.model.engines import engine as engines
from cellxlate.quality.report import account
from cellxlate.quality.report.notices import Notice
from cellxlate.settings import EnhanceSettings


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Three stacks, of which the second is damaged."""
    folder = tmp_path / "plate"
    folder.mkdir()
    for number in (1, 2, 3):
        pixels = np.random.default_rng(number).uniform(80, 240, (40, 50)).astype(np.uint16)
        tifffile.imwrite(folder / f"well{number}.tif", pixels)
    damaged = folder / "well2.tif"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return folder


def test_one_failure_does_not_stop_the_rest(plate: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    results = tmp_path / "results"
    assert cli.main(["enhance", str(plate), "-m", str(tiny_model), "--output-dir", str(results)]) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    table = lines[lines.index("stack      changed   took  warnings") :]
    assert [line.split()[0] for line in table[1:4]] == ["well1.tif", "well2.tif", "well3.tif"]
    assert ["failed" in line for line in table[1:4]] == [False, True, False]
    assert table[-1] == "2 of 3 stacks enhanced"
    assert said.err.count("\n") == 1
    assert sorted(item.name for item in results.glob("*_enhanced*")) == [
        "well1_enhanced.ome.tif",
        "well3_enhanced.ome.tif",
    ]


def test_a_damaged_zarr_folder_does_not_stop_the_rest_either(plate: Path, tiny_model: Path) -> None:
    damaged = plate / "well4.zarr"
    damaged.mkdir()
    (damaged / "zarr.json").write_text("{")
    for paths in (plate, [plate / "well1.tif", damaged]):
        outcome = cellxlate.enhance_files(paths, tiny_model, overwrite=True)
        assert outcome.failed[-1].path == damaged
        assert "well4.zarr is a damaged or unsupported Zarr" in str(outcome.failed[-1].error)
        assert outcome.stacks[0].report is not None


def test_a_pattern_and_the_exit_code_of_success(plate: Path, tiny_model: Path, capsys: Any) -> None:
    assert cli.main(["enhance", str(plate / "well[13].tif"), "-m", str(tiny_model), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [Path(one["outputs"]["enhanced"]).name for one in answer["stacks"]] == [
        "well1_enhanced.ome.tif", "well3_enhanced.ome.tif",
    ]  # fmt: skip


def test_what_nobody_expected_stops_one_stack_alone(
    plate: Path, tiny_model: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = engines.EngineTranslator.attention, []

    def fail_once(self: Any, images: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("a kernel failed")
        return honest(self, images)

    monkeypatch.setattr(engines.EngineTranslator, "attention", fail_once)
    assert cli.main(["enhance", str(plate / "well[13].tif"), "-m", str(tiny_model), "--engine", "torch"]) == 1
    said = capsys.readouterr()
    assert "1 of 2 stacks enhanced" in said.out
    assert "unexpected RuntimeError: a kernel failed" in said.err


def test_the_table_lines_up() -> None:
    done = {"changed_fraction": 0.1234, "seconds": {"total": 2.04}, "warnings": ["look"]}
    assert batch_lines(["a.tif", "long_name.tif"], [done, {"error": "damaged"}]) == [
        "",
        "stack          changed   took  warnings",
        "a.tif          12.34 %  2.0 s         1",
        "long_name.tif   failed",
        "",
        "failed  long_name.tif: damaged",
        "",
        "1 of 2 stacks enhanced",
    ]


def test_a_warning_of_several_stacks_is_said_once_for_all(
    plate: Path, tiny_model: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(*_: Any, **__: Any) -> list[Notice]:
        return [Notice("cells may be invented. Look.", "look", "doubt")]

    monkeypatch.setattr(account, "notices_of", warned)
    (plate / "well2.tif").unlink()
    words = ["enhance", str(plate), "-m", str(tiny_model), "--engine", "torch"]
    line = "2 stacks (well1.tif, well3.tif): cells may be invented. Look."
    assert cli.main([*words, "--no-report", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["warnings"] == [line]
    assert all(one["verdict"].endswith("; but look.") for one in answer["stacks"])
    assert cli.main([*words, "--no-report", "--overwrite"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [text for text in shown if text.startswith("warning")] == [f"warning  {line}"]
    assert sum(text.startswith("verdict") for text in shown) == 2
    assert cellxlate.enhance_files(plate, tiny_model, engine="torch", overwrite=True).warnings == [line]


def test_python_runs_the_batch_of_the_command(plate: Path, tiny_model: Path, tmp_path: Path) -> None:
    news: list[Any] = []
    options = {"settings": EnhanceSettings(tile_px=32), "engine": "torch"}
    (plate / "notes.txt").write_text("no stack")
    (plate / ".hidden.tif").write_bytes(b"")
    outcome = cellxlate.enhance_files(
        plate, tiny_model, output_dir=tmp_path / "new/python", progress=news.append, **options
    )
    assert [stack.path.name for stack in outcome.stacks] == ["well1.tif", "well2.tif", "well3.tif"]
    [failed] = outcome.failed
    assert (failed.path.name, failed.report, type(failed.error)) == ("well2.tif", None, InputError)
    assert {one.name for one in news} == {"well1", "well3"}
    assert {one.phase for one in news} >= {"levels", "enhancing", "writing", "verifying", "report", "publishing"}
    assert len(outcome.left_out) == 1
    words = ["enhance", str(plate), "-m", str(tiny_model), "--tile", "32", "--engine", "torch", "--quiet"]
    assert cli.main([*words, "--output-dir", str(tmp_path / "command")]) == 1
    made, expected = tmp_path / "new/python", tmp_path / "command"
    assert sorted(file.name for file in made.iterdir()) == sorted(file.name for file in expected.iterdir())
    for file in expected.glob("*.tif"):
        assert np.array_equal(tifffile.imread(made / file.name), tifffile.imread(file))
    for stack in (outcome.stacks[0], outcome.stacks[2]):
        assert stack.report is not None
        assert stack.report.kept_violations == 0
        assert Path(str(stack.report.outputs["enhanced"])).is_file()


def test_a_single_stack_that_fails_is_returned_from_python(plate: Path, tiny_model: Path) -> None:
    outcome = cellxlate.enhance_files([plate / "well2.tif"], tiny_model)
    assert [str(stack.error) for stack in outcome.failed] == [str(outcome.stacks[0].error)]
    assert isinstance(outcome.stacks[0].error, InputError)
    with pytest.raises(OptionError, match="no time to learn in"):  # would fail for every stack
        cellxlate.enhance_files([plate / "well1.tif"], tiny_model, adapt_s=0)


def test_two_stacks_of_one_name_are_refused_before_any_is_written(
    plate: Path, tiny_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "well1.tif").write_bytes((plate / "well1.tif").read_bytes())
    with pytest.raises(OptionError, match="would both be written to"):
        cellxlate.enhance_files([plate, other], tiny_model, output_dir=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_confidence_of_each_stack_from_python(plate: Path, tiny_model: Path) -> None:
    news: list[Any] = []
    outcome = cellxlate.enhance_files(
        plate / "well[13].tif", tiny_model, confidence=True, report=False, progress=news.append
    )
    assert not outcome.failed
    for stack in outcome.stacks:
        assert stack.report is not None
        confidence, attention = (
            tifffile.imread(str(path)) for path in (stack.confidence, stack.report.outputs["attention"])
        )
        assert np.array_equal(confidence == 0, attention == 0)
    assert [one.done for one in news if one.phase == "confidence"] == [1.0, 1.0]
    again = cellxlate.enhance_files(plate / "well[13].tif", tiny_model, confidence=True, report=False)
    assert len(again.failed) == 2


def test_a_batch_needs_no_package_of_clusters(plate: Path, tiny_model: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['distributed'] = sys.modules['dask'] = None\n"
        "from cellxlate.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [
        "enhance",
        str(plate / "well1.tif"),
        "-m",
        str(tiny_model),
        "--output-dir",
        str(tmp_path / "out"),
        "--quiet",
    ]
    for more, code in (["--dry-run"], 0), ([], 0), (["--dry-run", "--scheduler", "tcp://127.0.0.1:1"], 2):
        run = subprocess.run([sys.executable, "-c", script, *words, *more], capture_output=True, text=True, check=False)
        assert (run.returncode, "pip install" in run.stderr) == (code, code == 2), run.stderr

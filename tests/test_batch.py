"""Many stacks in one command: a failure does not stop the rest, and a table says what became of each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellxlate import cli
from cellxlate.cli.enhance import batch_lines
from cellxlate.model.engines import engine as engines


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
    table = said.out.splitlines()[-5:]
    assert table[0].split() == ["stack", "changed", "seconds", "warnings"]
    assert [line.split()[0] for line in table[1:4]] == ["well1.tif", "well2.tif", "well3.tif"]
    assert ["failed" in line for line in table[1:4]] == [False, True, False]
    assert table[4] == "2 of 3 stacks enhanced"
    assert said.err.count("\n") == 1
    assert sorted(item.name for item in results.glob("*_enhanced*")) == [
        "well1_enhanced.ome.tif",
        "well3_enhanced.ome.tif",
    ]


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
        "stack            changed   seconds  warnings",
        "a.tif            12.34 %       2.0  1",
        "long_name.tif     failed            damaged",
        "1 of 2 stacks enhanced",
    ]

"""What lies beside images and is none is left out and said; the same command may be given again."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.outputs.names import find_inputs
from cellxlate.stacks.read.open import find_images
from cellxlate.training.fields.files import open_domain

APPLE_DOUBLE = b"\0\5\x16\7" + bytes(99)


def noisy_ramp(seed: int = 0, shape: tuple[int, int] = (40, 60)) -> Any:
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return (noise + np.linspace(80, 240, shape[1])).clip(0).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images."""
    inside = tmp_path / "images"
    inside.mkdir()
    for number in range(2):
        tifffile.imwrite(inside / f"scan_{number}.tif", noisy_ramp(number))
    return inside


@pytest.fixture
def enhance(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; return its exit code, its answer and what it said."""

    def run(*arguments: Any) -> tuple[int, dict[str, Any], str]:
        code = main(["enhance", *map(str, arguments), "-m", str(tiny_model), "--engine", "torch", "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out or "{}"), said.err

    return run


def names(answer: dict[str, Any]) -> list[str]:
    return [Path(one["outputs"]["enhanced"]).name for one in answer["stacks"]]


RESULTS = ["scan_0_enhanced.ome.tif", "scan_1_enhanced.ome.tif"]


def test_hidden_files_are_no_images(folder: Path, enhance: Any) -> None:
    for name in ("._scan_0.tif", ".DS_Store.tif"):
        (folder / name).write_bytes(APPLE_DOUBLE)
    code, answer, said = enhance(folder)
    assert (code, names(answer)) == (0, RESULTS)
    assert said == ("cellxlate: left out 2 hidden files, whose names begin with a dot: .DS_Store.tif, ._scan_0.tif\n")
    code, answer, _ = enhance(folder / "*.tif", "--overwrite")
    assert (code, names(answer)) == (0, RESULTS)
    with cellxlate.open_stack(folder / "{Z}.tif") as stack:
        assert stack.shape == (2, 40, 60)


@pytest.mark.parametrize("given", ["folder", "pattern", "list"])
@pytest.mark.parametrize("again", ["--resume", "--overwrite"])
def test_the_same_command_may_be_given_again(folder: Path, enhance: Any, given: str, again: str) -> None:
    def stacks() -> list[Path]:
        patterns = {"folder": [folder], "pattern": [folder / "*"], "list": sorted(folder.glob("*.tif"))}
        return patterns[given]

    assert enhance(*stacks())[:1] == (0,)
    before = sorted(item.name for item in folder.iterdir())
    code, answer, said = enhance(*stacks(), again)
    assert (code, names(answer)) == (0, RESULTS)
    assert len(answer["left_out"]) == 1
    assert "results of earlier runs" in said
    assert said.count("\n") == 1
    assert sorted(item.name for item in folder.iterdir()) == before


def test_a_pattern_of_planes_may_be_given_again(folder: Path, enhance: Any, capsys: Any) -> None:
    pattern = folder / "scan_{Z}.tif"
    code, first, _ = enhance(pattern)
    assert code == 0
    tifffile.imwrite(folder / "scan_0_masks.tif", np.ones((40, 60), np.uint16))
    for again in ("--resume", "--overwrite"):
        code, answer, _ = enhance(pattern, again)
        assert code == 0
        assert answer["pixels"] == first["pixels"] == 2 * 40 * 60
        said = [line for line in answer["warnings"] if "left out" in line]
        assert [line.partition(": ")[2] for line in said] == [
            "scan_0_masks.tif", "scan_attention.ome.tif, scan_enhanced.ome.tif"
        ]  # fmt: skip
    assert main(["info", str(pattern), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [2, 40, 60]


def test_no_stack_is_no_success(folder: Path, enhance: Any) -> None:
    assert enhance(folder)[0] == 0
    for number in range(2):
        (folder / f"scan_{number}.tif").unlink()
    for given in (folder, folder / "*.tif"):
        code, answer, said = enhance(given, "--overwrite")
        assert (code, answer) == (2, {})
        assert "no image (left out 4 results of earlier runs" in said
        assert said.count("\n") == 1


def test_a_users_own_file_with_the_name_of_a_result_is_an_image(folder: Path, enhance: Any) -> None:
    tifffile.imwrite(folder / "mine_enhanced.tif", noisy_ramp(5))
    code, answer, said = enhance(folder)
    assert (code, said) == (0, "")
    assert names(answer) == ["mine_enhanced_enhanced.ome.tif", *RESULTS]


def test_one_result_that_is_named_may_be_enhanced_again(folder: Path, enhance: Any) -> None:
    assert enhance(folder / "scan_0.tif")[0] == 0
    code, answer, _ = enhance(folder / "scan_0_enhanced.ome.tif")
    assert code == 0
    assert "has been enhanced before" in " ".join(answer["warnings"])


@pytest.mark.parametrize("ending", ["_masks", "_labels", "_cp_masks"])
def test_label_images_beside_images_are_left_out_and_said(folder: Path, ending: str) -> None:
    tifffile.imwrite(folder / f"scan_0{ending}.tif", np.ones((40, 60), np.int32))
    tifffile.imwrite(folder / f"other{ending}.tif", noisy_ramp(3))  # beside no image of its name
    tifffile.imwrite(folder / f"scan_1{ending}.tif", noisy_ramp(3).astype(np.float32))  # holds no labels
    found, said = find_inputs([folder])
    assert [path.name for path in found] == sorted(
        [f"other{ending}.tif", "scan_0.tif", "scan_1.tif", f"scan_1{ending}.tif"]
    )
    assert len(said) == 1
    assert f"scan_0{ending}.tif" in said[0]


def test_what_runs_leave_is_no_image(folder: Path, tiny_model: Path) -> None:
    partial = folder / "scan_0_enhanced.ome.tif.partial"
    partial.mkdir()
    (partial / ".cellxlate-lock").touch()
    (partial / "scan_0_enhanced.ome.tif").touch()
    model = folder / "scan_model"
    model.mkdir()
    (model / "card.json").write_text("{}")
    (folder / "scan_0_report.html").write_text("<html>")
    found, said = find_inputs([folder / "*"])
    assert [path.name for path in found] == ["scan_0.tif", "scan_1.tif"]
    assert len(said) == 1
    assert all(name in said[0] for name in ("partial", "scan_model", "scan_0_report.html"))


def test_training_sees_images_alone(folder: Path, enhance: Any) -> None:
    (folder / "._scan_0.tif").write_bytes(APPLE_DOUBLE)
    assert enhance(folder)[0] == 0
    with pytest.warns(UserWarning, match="source images: left out") as heard:
        domain = open_domain([folder], number=0, patch_px=16, load_px=None)
    domain.close()
    assert len(domain) == 2
    assert [str(one.message).partition(" left out ")[2][:9] for one in heard] == ["1 hidden ", "4 results"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_images([folder / "scan_0.tif", folder / "scan_1.tif"], "source")[1] == []

"""The command that a report states repeats the run, here and on a copy elsewhere."""

import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.outputs.again import AGAIN, repeat
from cellxlate.enhancement.plan import make_plan
from cellxlate.model.cards import SHIPPED
from cellxlate.plugin.enhance.steps import plan_of_plane
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.stack import Stack

NAME = "it's 3 µm; $(no) *.tif"
DIGEST = "ab" * 32


def noisy(*shape: int, seed: int = 0) -> np.ndarray:
    ramp = np.linspace(80, 240, shape[-1])
    return (np.random.default_rng(seed).normal(0, 8, shape) + ramp).astype(np.uint16)


def test_it_is_quoted_runs_in_another_folder_and_gives_the_same_pixels(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    shutil.copytree(tiny_model, here / "my model")
    tifffile.imwrite(here / NAME, noisy(2, 3, 48, 64), photometric="minisblack")
    tifffile.imwrite(here / "other.tif", noisy(2, 3, 48, 64, seed=1) * 2, photometric="minisblack")
    plain = {"axes": "CZYX", "engine": "torch"}
    cellxlate.enhance_file(here / "other.tif", here / "my model", output_dir=here / "levels", **plain)
    report = cellxlate.enhance_file(
        here / NAME, here / "my model", channels=[1], settings=EnhanceSettings(threshold=0.25, tile_px=32),
        levels_from=here / "levels" / "other_report.json", output_dir=tmp_path / "out", **plain,
    )  # fmt: skip
    assert 0 < report.changed_fraction < 1
    assert str(tmp_path) not in report.command
    assert report.command_note == (
        f"To be given in the folder that holds {NAME}; the results go to a folder 'again' there. The model is the one "
        f"whose weights have the SHA-256 {report.model_digest}."
    )
    here.rename(there)
    monkeypatch.chdir(there)
    program, *words = shlex.split(report.command)
    assert (program, main(words)) == ("cellxlate", 0)
    again = there / AGAIN / Path(str(report.outputs["enhanced"])).name
    assert np.array_equal(tifffile.imread(again), tifffile.imread(report.outputs["enhanced"]))


def command_of(stack: Stack, **known: Any) -> list[str]:
    settings = {"model": SHIPPED / "nuclei-lowexp", "digest": DIGEST, "settings": EnhanceSettings(), "channels": [0]}
    return shlex.split(repeat(stack, **(settings | known)).command)


def on_disk(name: str, **known: Any) -> Stack:
    return Stack(noisy(2, 8, 8), "CYX", "a", Path(name), kind="tiff", **known)


def test_only_what_matters_is_said() -> None:
    stack = Stack(noisy(8, 8), "YX", "a", Path("data/a.tif"), kind="tiff")
    plain = ["cellxlate", "enhance", "a.tif", "-m", "nuclei-lowexp", "--threshold", "0.1", "--intensity", "source",
             "--output-dir", "again"]  # fmt: skip
    assert command_of(stack, settings=EnhanceSettings(tile_px=64, dense=True)) == plain
    more = command_of(on_disk("a.tif", image=2, incomplete=True), asked=("torch", "auto", "bfloat16"))
    assert more[9:-2] == [
        "--image",
        "2",
        "--incomplete",
        "--engine",
        "torch",
        "--precision",
        "bfloat16",
        "--channel",
        "0",
    ]


def test_names_that_could_be_taken_for_something_else(tmp_path: Path) -> None:
    assert command_of(on_disk("-x.tif"))[2] == "./-x.tif"
    assert command_of(on_disk("a.tif", channel_names=("1", "0")))[-3] == "1"
    assert command_of(on_disk(str(tmp_path / "a.tif")), model=tmp_path / "auto")[4] == "./auto"


def test_files_elsewhere_are_named_in_full_and_a_models_weights_by_their_hash(tmp_path: Path) -> None:
    stack = on_disk(str(tmp_path / "data" / "a.tif"))
    made = repeat(stack, model=tmp_path / "models" / "mine", digest=DIGEST, settings=EnhanceSettings(), channels=[0, 1])
    assert f"-m {tmp_path}/models/mine " in made.command
    assert DIGEST in made.note
    shipped = repeat(stack, model=SHIPPED / "cells", digest=DIGEST, settings=EnhanceSettings(), channels=[0, 1])
    assert " -m cells " in shipped.command
    assert DIGEST not in shipped.note


def test_what_was_never_a_file_or_is_kept_for_one_session_is_said(tiny_model: Path) -> None:
    result = cellxlate.enhance(noisy(48, 64), tiny_model, engine="torch")
    assert shlex.split(result.report.command)[2] == "STACK"
    assert result.report.command_note.startswith(
        "STACK stands for 'array', which was given as pixels in memory: save it as a file first. The model"
    )
    folder = Path(tempfile.gettempdir()).resolve() / "cellxlate-xyz" / "painted"
    made = repeat(on_disk("a.tif"), model=folder, digest=DIGEST, settings=EnhanceSettings(), channels=[0])
    assert " -m MODEL " in made.command
    assert f"MODEL stands for painted, made for one session; its weights have the SHA-256 {DIGEST}." in made.note


def test_a_plane_of_a_stack_says_where_its_levels_come_from(tiny_model: Path) -> None:
    plan = make_plan(
        Stack(noisy(3, 48, 64), "ZYX", "cells"), tiny_model, channels=None, settings=None, engine="torch", device="cpu"
    )
    assert "levels" not in plan.repeat.note
    assert "take them from the JSON of this report with --levels-from." in plan_of_plane(plan, (1,)).repeat.note


def test_windows_has_quotes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    made = repeat(
        on_disk("my cells.tif"), model=SHIPPED / "cells", digest=DIGEST, settings=EnhanceSettings(), channels=[0, 1]
    )
    assert made.command.startswith('cellxlate enhance "my cells.tif" -m cells ')

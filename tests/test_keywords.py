"""Every option of the command line is a plain keyword of Python, and a value of a wrong kind is refused in one line."""

import argparse
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cellxlate
from cellxlate.cli.parser import build_parser
from cellxlate.enhancement.batch import BatchOutcome
from cellxlate.errors import CellxlateError, OptionError
from cellxlate.settings import EnhanceSettings, TrainSettings
from cellxlate.settings_file import enhance_settings
from cellxlate.stacks.channel_names import choose_channels
from cellxlate.stacks.samples.drawn import StructureSettings
from cellxlate.stacks.samples.nuclei import SampleSettings

COUNTS = np.random.default_rng(0).poisson(100, (64, 64)).astype(np.uint16)
WHERE: list[Any] = [5, None, ["a"], True]
FLAG = ["no", 1, None, 0.0, []]
NUMBER = ["0.2", True, [0.2], math.nan, math.inf, -math.inf, -1]
WHOLE = ["5", True, [5], math.nan, math.inf, 1.5]
NAME = ["Torch", 5, True, ["auto"], b"auto"]
CALLED = ["print", True, 5]
TEXT = [5, True, ["a"]]

ENHANCE: dict[str, list[Any]] = {
    "model": [5, None, True, ["cells"], "cels", COUNTS], "axes": [*TEXT, "YZ"], "image": WHOLE[:-1], "incomplete": FLAG,
    "channels": [True, 1.5, ["DAPI"], "DAPI", [None], 7], "levels_from": [5, True, ["a"]],
    "beside": [True, 1.5, ["DAPI"], 0],
    "threshold": NUMBER, "intensity": NAME, "tile_px": [*WHOLE, 0, -1], "dense": ["no", 1, 0.0, []],
    "settings": [{"threshold": 0.2}, 0.2, EnhanceSettings(threshold="0.2"), EnhanceSettings(tile_px=[1])],
    "engine": [*NAME, None], "device": [*NAME, None, "cuda:0"], "precision": [*NAME, None, "float16"],
    "progress": CALLED, "phases": CALLED,
}  # fmt: skip
FILES = {
    "output_dir": [5, True, ["a"]], "format": ["tif", 5, ["tiff"]], "attention": FLAG, "report": FLAG,
    "overwrite": FLAG, "resume": FLAG,
}  # fmt: skip
TRAIN: dict[str, list[Any]] = {
    "source": [5, [5], True], "target": [5, [5], True], "output": WHERE, "preset": [*NAME, "Fast"],
    "settings": [5, {"batch": 4}, TrainSettings(batch="4"), TrainSettings(learning_rate=math.inf),
                 TrainSettings(guide="masks "), TrainSettings(networks=None)],
    "base": [5, True, "cels"], "guide": NAME, "masks": [5, [5]], "baseline": [*NAME, "Cyclegan", None],
    "epochs": [*WHOLE, 0], "steps": [*WHOLE, 0], "seed": [*WHOLE, -1], "restarts": [*WHOLE, -1, None],
    "channel": [True, 1.5, ["DAPI"]],
    "beside": [True, 1.5, ["DAPI"], [None]], "device": [*NAME, None], "resume": FLAG, "licence": [*TEXT, b"CC0"],
    "description": TEXT, "tensorboard": ["no", 1], "progress": CALLED, "after_step": CALLED,
}  # fmt: skip
ADAPT = {
    "seconds": [*NUMBER, None, 0.5], "steps": [*WHOLE, 0], "seed": [*WHOLE, -1, None], "output": [5, True, ["a"]],
    "overwrite": FLAG, "resume": FLAG, "progress": CALLED,
    **{name: ENHANCE[name] for name in ("model", "axes", "image", "incomplete", "channels", "levels_from", "threshold",
                                        "device")},
}  # fmt: skip
EVALUATE: dict[str, list[Any]] = {
    "model": [5, ["cells"], "cels"], "source": WHERE, "truth": [5, ["a"]], "masks": [5, ["a"]], "no_cells": [5, ["a"]],
    "enhanced": [5, ["a"]], "intensity": [*NAME, None], "output": [5, ["a"]], "progress": CALLED,
}  # fmt: skip


def each(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{number}")
        for name, values in table.items()
        for number, value in enumerate(values)
    ]


def refused(call: Callable[..., Any], name: str, value: Any, **others: Any) -> None:
    """A value must be refused in one line that names its keyword or shows it, as ValueError, and nothing be written."""
    with pytest.raises(CellxlateError) as caught:
        call(**{**others, name: value})
    line = str(caught.value)
    assert "\n" not in line
    assert "--" not in line
    shown = value if isinstance(value, str) else repr(value)
    assert (
        name in line or shown in line or name in ("settings", "channels", "channel", "beside", "output_dir", "model")
    ), line
    assert isinstance(caught.value, ValueError) or isinstance(value, str)


@pytest.mark.parametrize(("name", "value"), each(ENHANCE))
def test_enhance_refuses_what_it_cannot_take(name: str, value: Any, tiny_model: Path) -> None:
    refused(cellxlate.enhance, name, value, **({"model": tiny_model} if name != "model" else {}), stack=COUNTS)


@pytest.mark.parametrize(("name", "value"), each({**ENHANCE, **FILES, "output": [5, True, ["a"], "a.xyz"]}))
def test_enhance_file_refuses_what_it_cannot_take(
    name: str, value: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    others = {"output_dir": tmp_path} if name not in ("output", "output_dir") else {}
    refused(
        cellxlate.enhance_file, name, value, path=COUNTS, **others, **({"model": tiny_model} if name != "model" else {})
    )
    assert list(tmp_path.iterdir()) == []


BATCH = {**ENHANCE, **FILES, "adapt_s": [*NUMBER, 0.5], "confidence": FLAG}
LATE = ("axes", "channels", "beside", "levels_from", "format", "image")  # depend on what a stack is


@pytest.mark.parametrize(("name", "value"), each({key: value for key, value in BATCH.items() if key != "phases"}))
def test_enhance_files_refuses_before_the_first_stack(
    name: str, value: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cellxlate.open_writer  # noqa: B018  loaded before the clock of pytest counts it
    import tifffile

    tifffile.imwrite("a.tif", COUNTS)

    def call(**options: Any) -> BatchOutcome:
        outcome = cellxlate.enhance_files("a.tif", **options)
        if name in LATE and outcome.failed:
            error = outcome.failed[0].error
            assert error
            raise error
        return outcome

    refused(call, name, value, **({"model": tiny_model} if name != "model" else {}))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize(("name", "value"), each(ADAPT))
def test_adapt_refuses_what_it_cannot_take(name: str, value: Any, tiny_model: Path) -> None:
    refused(cellxlate.adapt, name, value, stack=COUNTS, **({"model": tiny_model} if name != "model" else {}))


@pytest.mark.parametrize(("name", "value"), each(TRAIN))
def test_train_refuses_what_it_cannot_take(
    name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tifffile

    monkeypatch.chdir(tmp_path)
    for folder in ("faint", "clear"):
        Path(folder).mkdir()
        for number in range(2):
            tifffile.imwrite(f"{folder}/{number}.tif", np.stack([COUNTS, COUNTS]), metadata={"axes": "CYX"}, ome=True)
    given: dict[str, Any] = {"source": "faint", "target": "clear", "output": "m", "settings": TrainSettings(
        preset="fast", backward="imaging", guide="saliency", patch_px=32, load_px=None)}  # fmt: skip
    if name in ("preset",):
        given.pop("settings")
    refused(cellxlate.train, name, value, **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clear", "faint"]


@pytest.mark.parametrize(("name", "value"), each(EVALUATE))
def test_evaluate_refuses_what_it_cannot_take(name: str, value: Any, tmp_path: Path) -> None:
    others = {"model": "cells"} if name not in ("model", "enhanced") else {}
    refused(cellxlate.evaluate, name, value, **({"source": tmp_path} if name != "source" else {}), **others)


TEACH: dict[str, list[Any]] = {
    "model": [5, "cels"], "output": [5, ["a"]], "steps": [*WHOLE, 0], "seed": [*WHOLE, -1], "after_step": CALLED,
}  # fmt: skip
SAMPLE = {
    "shape": [5, "1,1,1,64,64", (1, 1, 1, 64, "64"), (64, 64)], "cell_fraction": [*NUMBER, None],
    "layout": ["Scattered", 5, None], "seed": [*WHOLE, -1],
}  # fmt: skip
DRAWN = {"kind": ["Filaments", 5, None], "scale": [*NUMBER, None], "haze": [*NUMBER, None], "cell_fraction": NUMBER}


@pytest.mark.parametrize(("name", "value"), each(TEACH))
def test_teach_refuses_what_it_cannot_take(name: str, value: Any, tiny_model: Path) -> None:
    strokes = np.zeros(COUNTS.shape, np.uint8)
    strokes[:2], strokes[5:7] = 1, 2
    others = {"model": tiny_model} if name != "model" else {}
    refused(cellxlate.teach, name, value, image=COUNTS, strokes=strokes, **others)


@pytest.mark.parametrize(("name", "value"), each(SAMPLE))
def test_a_sample_refuses_what_it_cannot_be(name: str, value: Any) -> None:
    refused(SampleSettings, name, value)


@pytest.mark.parametrize(("name", "value"), each(DRAWN))
def test_a_drawing_refuses_what_it_cannot_be(name: str, value: Any) -> None:
    refused(StructureSettings, name, value, **({"kind": "blobs"} if name != "kind" else {}))


def test_a_value_is_shown_as_python_writes_it_and_never_at_length() -> None:
    for value, shown in ((5, "model=5 is"), ([1, 2], "model=[1, 2] is"), (np.zeros((50, 50)), "model=array([[0., 0.,")):
        with pytest.raises(OptionError) as caught:
            cellxlate.load_model(value)  # type: ignore[arg-type]
        assert str(caught.value).startswith(shown)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("what", [5, None, True, "5", b"a.tif", object()])
def test_what_is_no_stack_is_refused(what: Any, tiny_model: Path) -> None:
    for call in (cellxlate.enhance, cellxlate.enhance_file, cellxlate.adapt):
        with pytest.raises(CellxlateError) as caught:
            call(what, tiny_model)
        assert "\n" not in str(caught.value)


def test_keywords_change_the_settings_that_are_given(tiny_model: Path) -> None:
    settings = EnhanceSettings(threshold=0.3, tile_px=64)
    assert enhance_settings(settings, threshold=0.2, dense=True) == EnhanceSettings(0.2, tile_px=64, dense=True)
    assert enhance_settings(tile_px=np.int64(32), threshold=np.float32(0.5)) == EnhanceSettings(0.5, tile_px=32)
    assert type(enhance_settings(tile_px=np.int64(32)).tile_px) is int
    by_keyword = cellxlate.enhance(COUNTS, tiny_model, threshold=0.2, tile_px=32)
    by_settings = cellxlate.enhance(COUNTS, tiny_model, settings=EnhanceSettings(0.2, tile_px=32))
    assert np.array_equal(by_keyword.image, by_settings.image)
    assert by_keyword.report.settings["threshold"] == 0.2
    assert not cellxlate.enhance(COUNTS, tiny_model, threshold=1).attention.any()


def test_one_channel_may_be_given_by_itself() -> None:
    two = cellxlate.Stack(np.stack([COUNTS, COUNTS]), "CYX", "two", channel_names=("DAPI", "GFP"))
    for channels in ("gfp", 1, ["GFP"], (np.int64(1),)):
        assert choose_channels(two, channels) == (1,)
    assert choose_channels(two, []) == choose_channels(two, None) == (0, 1)


ELSEWHERE = {
    "enhance": {
        "json",
        "quiet",
        "debug",
        "workers",
        "scheduler",
        "slurm",
        "dry_run",
        "stacks",
        "output",
        "run_torchscript",
    },
    "train": {"json", "quiet", "debug"},
    "evaluate": {"json", "quiet", "debug", "to_card"},
}
"""What is another call in Python: `open_cluster`, the plan itself, `amend_card`, `load_foreign`; or how a command shows
things."""
CALLED_OTHERWISE = {
    "channel": "channels", "tile": "tile_px", "no_attention": "attention", "no_report": "report", "adapt": "adapt_s",
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "call"),
    [("enhance", cellxlate.enhance_files), ("train", cellxlate.train), ("evaluate", cellxlate.evaluate)],
)
def test_every_option_of_a_command_is_a_keyword(command: str, call: Callable[..., Any]) -> None:
    (commands,) = (one.choices for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    names = {action.dest for action in commands[command]._actions} - {"help"} - ELSEWHERE[command]
    keywords = set(inspect.signature(call).parameters)
    renamed = CALLED_OTHERWISE if command == "enhance" else {}
    assert {renamed.get(name, name) for name in names} - keywords == set()


@pytest.mark.parametrize("call", [cellxlate.enhance, cellxlate.enhance_file, cellxlate.enhance_files])
def test_all_ways_to_enhance_share_their_keywords(call: Callable[..., Any]) -> None:
    shared = set(ENHANCE) - {"phases"}
    assert shared - set(inspect.signature(call).parameters) == set()


def test_a_time_to_learn_in_as_text_is_refused_at_once() -> None:
    with pytest.raises(OptionError, match=r"^seconds='5' is text, expected a number of seconds$"):
        cellxlate.adapt(COUNTS, seconds="5")  # type: ignore[arg-type]

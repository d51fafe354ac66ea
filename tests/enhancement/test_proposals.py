"""A run in which something else proposes: told in reports, commands, forecasts, scripts; nothing ignored silently."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import cellxlate
from cellxlate.cli import main
from cellxlate.cli.slurm import task_options
from cellxlate.enhancement.outputs.rebuild import rebuild_report
from cellxlate.enhancement.plan import make_plan
from cellxlate.enhancement.proposals.filters import FILTERS
from cellxlate.enhancement.proposals.windows import Geometry, Needs
from cellxlate.errors import OptionError, OutputError
from cellxlate.quality.report.doubts import notices_of
from cellxlate.quality.tally import Tally
from cellxlate.quality.trust.examine import Trust
from cellxlate.quality.trust.likeness import Departure
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.luminance import luminance_of
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks


def spots(shape: tuple[int, ...] = (2, 90, 110), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    light = ndimage.gaussian_filter((rng.random(shape) > 0.995).astype(float), (*(0,) * (len(shape) - 2), 3, 3))
    return rng.poisson(20_000 * light + 100).astype(np.uint16)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "spots.ome.tif"
    write_stacks([(Stack(spots(), "ZYX"), path)])
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    path = tmp_path / "mask.ome.tif"
    cells = np.zeros((90, 110), np.uint8)
    cells[10:80, 20:100] = 1
    write_stacks([(Stack(cells, "YX"), path)])
    return path


def ran(capsys: Any, *words: object) -> tuple[int, dict[str, Any], str]:
    """Return exit code, JSON and standard error of a command."""
    try:
        code = main([*map(str, words), "--json"])
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {}, said.err


def test_a_report_says_what_proposes_and_whose_attention_gates(stack: Path, mask: Path, capsys: Any) -> None:
    code, answer, _ = ran(capsys, "enhance", stack, "-m", "median:5", "--attention-from", mask)
    assert code == 0
    assert answer["model"]["name"] == "median:5"
    assert answer["proposal"]["halo_px"] == 2
    assert "are equal" in answer["proposal"]["checked"]
    assert "10.1038" in answer["proposal"]["citation"]
    report = json.loads(stack.with_name("spots_report.json").read_text())
    assert "-m median:5" in report["command"]
    assert report["proposal"] == answer["proposal"]
    page = stack.with_name("spots_report.html").read_text()
    for words in (
        "median:5: median of a square, side of the square 5 px; sees 2 px",
        "BSD-3-Clause",
        "10.1038",
        "mask",
    ):
        assert words in page
    assert "the model was trained" not in report["verdict"]
    rebuilt = rebuild_report(stack.with_name("spots_enhanced.ome.tif"), source=stack)
    assert rebuilt.proposal == answer["proposal"]
    assert rebuilt.model_words == "median:5: median of a square, side of the square 5 px; sees 2 px around a pixel"


def test_the_command_of_a_report_makes_the_same_pixels(
    stack: Path, mask: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stack.parent)
    assert main(["enhance", stack.name, "-m", "tv", "--attention-from", mask.name, "--tile", "40", "--quiet"]) == 0
    command = json.loads(stack.with_name("spots_report.json").read_text())["command"].split()
    assert command[:2] == ["cellxlate", "enhance"]
    assert main([*command[1:], "--quiet"]) == 0
    first, second = (
        cellxlate.open_stack(stack.parent / f"{folder}spots_enhanced.ome.tif") for folder in ("", "again/")
    )
    with first, second:
        assert np.abs(np.asarray(first).astype(int) - np.asarray(second)).max() <= 1


def test_a_function_has_no_command_but_a_note(stack: Path, mask: Path) -> None:
    report = cellxlate.enhance_file(stack, lambda plane: plane + 5, halo_px=0, attention_from=mask)
    assert "-m MODEL" in report.command
    assert "MODEL stands for the function lambda" in report.command_note
    assert report.as_dict()["proposal"]["what"] == "a function in Python"


def test_another_proposer_does_not_resume_a_run(stack: Path, mask: Path) -> None:
    class Stop(Exception):
        pass

    def stop(_: Any) -> None:
        raise Stop

    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, "median:3", attention_from=mask, progress=stop)
    with pytest.raises(OutputError, match="model"):
        cellxlate.enhance_file(stack, "median:5", attention_from=mask, resume=True)
    assert cellxlate.enhance_file(stack, "median:3", attention_from=mask, resume=True).changed_fraction > 0.1
    with pytest.raises(OutputError, match="from other model"):
        cellxlate.enhance_file(stack, "median:5", attention_from=mask, resume=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--context", "z"], "--context z is for models that know neighbours, and gaussian:1 sees each plane alone"),
        (["--intensity", "target"], "--intensity target is the scale that a model was trained towards"),
        (["--adapt", "5"], "--adapt is for models of cellxlate, not gaussian:1"),
        (["--confidence"], "--confidence is for models of cellxlate, not gaussian:1"),
    ],
)
def test_what_makes_no_sense_with_a_filter_is_one_line(stack: Path, capsys: Any, words: list[str], says: str) -> None:
    code, _, error = ran(capsys, "enhance", stack, "-m", "gaussian", *words)
    assert code == 2
    assert says in error
    assert error.count("\n") == 1
    assert not stack.with_name("spots_enhanced.ome.tif").exists()


def test_dense_gives_the_same_pixels() -> None:
    counts = spots()
    cells = np.zeros(counts.shape, np.uint8)
    cells[:, 10:20, 30:50] = 1
    sparse, dense = (
        cellxlate.enhance(counts, "nlm", axes="ZYX", attention_from=cells, dense=dense, tile_px=32)
        for dense in (False, True)
    )
    assert np.array_equal(sparse.image, dense.image)
    assert sparse.report.tiles_skipped > dense.report.tiles_skipped == 0


def test_many_stacks_take_one_filter_or_function(stack: Path, mask: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ome.tif"
    write_stacks([(Stack(spots(seed=1), "ZYX"), other)])
    for model, halo_px, name in (("gaussian:1", None, "gaussian:1"), (lambda plane: plane + 1, 0, "lambda")):
        outcome = cellxlate.enhance_files(
            [stack, other], model, halo_px=halo_px, attention_from=mask, output_dir=tmp_path / name.replace(":", "")
        )
        assert not outcome.failed
        assert [one.report.model_name for one in outcome.stacks if one.report] == [name] * 2


@dataclass(frozen=True)
class Averages:
    """A kind of proposal that nothing else knows of: the mean of all channels together, and a gate of its own."""

    needs: Needs
    known: tuple[Any, ...] = ()
    name, asked, stated, warnings = "averages", "averages.bin", {"licence": "none"}, ()

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "other", "sha256": "0" * 64}

    def fitted(self, stack: Stack, channels: Sequence[int], **asked: Any) -> "Averages":
        return replace(self, known=(stack.shape, tuple(channels), asked["levels_from"], asked["device"]))

    def open(self, channels: Sequence[int]) -> "Averages":
        assert len(channels) == (2 if self.needs.together else 1)
        return self

    geometry = Geometry(0)

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        return np.broadcast_to(windows.mean(1, keepdims=True), windows.shape)

    def attention(self, windows: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.float32(windows > 200), windows.shape)


def test_another_kind_of_proposal_says_what_it_needs_and_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = spots((2, 90, 110))
    kind = Averages(Needs(together=True, gate=False, windows=Geometry(0, bytes_per_px=1e9), flags=("--so",)))
    made = cellxlate.enhance(counts, kind, axes="CYX")
    selected = counts > 200
    assert selected.any()
    assert np.array_equal(made.image[~selected], counts[~selected])
    expected = np.rint(np.broadcast_to(counts.mean(0), counts.shape))
    assert np.abs(made.image[selected] - expected[selected]).max() <= 1
    assert made.report.provenance["attention_source"]["kind"] == "proposal"
    monkeypatch.setattr("cellxlate.enhancement.tiling.thread_count", lambda: 4)
    heavy, light = (
        make_plan(
            Stack.from_array(counts, "CYX"), one, channels=None, settings=EnhanceSettings(), engine="auto",
            device="auto",
        )
        for one in (kind, Averages(Needs()))
    )  # fmt: skip
    assert isinstance(heavy.proposal, Averages)
    assert heavy.proposal.known == (counts.shape, (0, 1), None, "auto")
    assert heavy.streams < light.streams
    assert "-m averages.bin --so" in heavy.repeat.command
    assert [job.channels for job in light.jobs] == [(0,), (1,)]


def test_a_dry_run_says_what_would_propose(stack: Path, mask: Path, capsys: Any) -> None:
    code, answer, _ = ran(capsys, "enhance", stack, "-m", "gaussian:2", "--attention-from", mask, "--dry-run")
    assert (code, answer["model"], answer["proposal"]["halo_px"]) == (0, "gaussian:2", 8)
    main(["enhance", str(stack), "-m", "gaussian:2", "--attention-from", str(mask), "--dry-run"])
    assert "gaussian:2: Gaussian blur" in capsys.readouterr().out


def test_a_script_for_slurm_asks_for_the_filter_and_not_for_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gaussian", "own"):
        (tmp_path / name).mkdir()
        [words] = task_options(argparse.Namespace(model=name))
        assert words == ["-m", name if name == "gaussian" else str(tmp_path / name)]


def test_filters_are_listed_with_the_models(capsys: Any) -> None:
    code, answer, _ = ran(capsys, "models")
    assert code == 0
    assert [one["name"] for one in answer["filters"]] == list(FILTERS)
    assert {"parameter", "unit", "halo_px", "licence", "citation"} <= answer["filters"][0].keys()


def test_a_filter_is_scored_like_a_model(stack: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    stack.rename(tmp_path / "source" / stack.name)
    scores = cellxlate.evaluate("median:3", source=tmp_path / "source")
    assert scores["changed_percent"] > 0
    assert scores["kept_violations"] == 0
    with pytest.raises(OptionError, match="gaussian:1"):
        cellxlate.evaluate("gaussian", source=tmp_path / "source", intensity="target")


def test_colour_is_filtered_by_its_luminance_and_keeps_its_hue() -> None:
    light = spots((90, 110)).astype(float) - 100
    counts = np.stack([100 + 2 * light.clip(0), 100 + light.clip(0), 100 + 0 * light], -1).astype(np.uint16)
    ones = np.ones((90, 110), np.uint8)
    made = cellxlate.enhance(counts, "tv:0.2", axes="YXS", attention_from=ones)
    image = made.image.astype(float) - 100
    bright = counts[..., 0] > 300
    assert made.report.changed_fraction > 0.1
    assert np.abs(image[bright, 0] / image[bright, 1] - 2).max() < 0.15
    scales = make_plan(
        Stack.from_array(counts, "YXS"), "tv:0.2", channels=None, settings=EnhanceSettings(), engine="auto",
        device="auto", attention_from=ones,
    ).identity["proposal"]["scales_counts"]  # fmt: skip
    assert list(scales) == ["0"]
    assert scales["0"]["span"] == pytest.approx(np.ptp(ndimage.gaussian_filter(luminance_of(counts, 2), 2)), rel=0.4)


def test_doubts_speak_of_the_model_whose_attention_gates() -> None:
    tally = Tally.of(Stack.from_array(spots(), "ZYX"))
    tally.total.pixels = 100
    [of_model] = texts(tally, {"kind": "network"}, "unlike")
    [of_gate] = texts(tally, {"kind": "network", "model": "cells"}, "unlike")
    assert "the model was trained on" in of_model
    assert "images that cells, whose attention gates, was trained on" in of_gate
    assert "attention_from=" in of_gate
    assert "train" not in of_gate.partition("trained on")[2]


def texts(tally: Tally, source: dict[str, Any], kind: str) -> list[str]:
    far = Departure(3.0, {"contrast": 3.0}, {"contrast": 2.0}, {"contrast": 3.0}, windows=8)
    tally.trust = {0: Trust(far)}
    return [one.text for one in notices_of(tally, source=source) if kind in one.kind]

"""Still scenes taken several times: hand-made frames whose flicker is known, alone and through `evaluate`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from cellxlate.cli import main
from cellxlate.errors import InputError
from cellxlate.evaluation.evaluate import evaluate
from cellxlate.evaluation.still import Steadiness, steadiness, together

FRAMES = 4


def drawn() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Four frames; one pixel of two is selected every time, a third of the rest now and then."""
    draw = np.random.default_rng(3)
    raw = 1e6 + draw.normal(0, 8, (FRAMES, 12, 12))
    selected = np.zeros(raw.shape, bool)
    selected[:, :6] = True
    selected[1, 6:8] = True
    return raw, np.where(selected, (raw - 1e6) / 4 + 1e6, raw), selected


def test_flicker_is_the_share_of_ever_selected_pixels_that_are_not_selected_every_time() -> None:
    found = steadiness(zip(*drawn(), strict=True))
    assert (found.frames, found.ever, found.unsteady) == (4, 96, 24)
    assert found.percent == 25
    assert found.noise_left == pytest.approx(0.25)


def test_variance_is_that_of_numpy() -> None:
    raw, enhanced, selected = drawn()
    found = steadiness(zip(raw, enhanced, selected, strict=True))
    expected = [image[:, :6].var(axis=0, ddof=1).sum() for image in (raw, enhanced)]
    assert found.variances == pytest.approx(expected)


def test_integers_do_not_wrap_and_what_is_not_finite_is_left_out() -> None:
    raw = np.array([[[0, 250]], [[250, 0]]], np.uint8)
    always = np.ones(raw.shape, bool)
    assert steadiness(zip(raw, raw, always, strict=True)).variances == (2 * 31250, 2 * 31250)
    holed = raw.astype(np.float32)
    holed[0, 0, 0] = np.nan
    assert steadiness(zip(holed, holed, always, strict=True)).variances == (31250, 31250)


def test_nothing_selected_has_no_flicker() -> None:
    raw, enhanced, selected = drawn()
    found = steadiness(zip(raw, enhanced, selected & False, strict=True))
    assert np.isnan(found.percent)
    assert np.isnan(found.noise_left)


def test_scenes_together_count_every_pixel_alike() -> None:
    both = together([Steadiness(2, 100, 10, (4.0, 1.0)), Steadiness(3, 300, 0, (12.0, 3.0))])
    assert both == Steadiness(5, 400, 10, (16.0, 4.0))
    assert both.percent == 2.5
    assert both.noise_left == 0.5
    assert together([]) is None


def write(path: Path, pixels: npt.NDArray[Any], axes: str) -> None:
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": axes}, ome=True)


@pytest.fixture(params=["TYX", "ZYX", "TCYX"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Frames of one scene, alone or in two channels, what was made of them, and a truth of one frame."""
    raw, enhanced, selected = drawn()
    pair = np.rint(raw - 1e6 + 500).astype(np.uint16), np.rint(enhanced - 1e6 + 500).astype(np.uint16)
    truth = np.full((12, 12), 500, np.uint16)
    truth[:6] = 900
    made = dict(zip(("source/a", "out/a_enhanced", "out/a_attention"), (*pair, selected * np.uint8(255)), strict=True))
    for name, pixels in made.items():
        doubled = np.stack([pixels, pixels], axis=1) if request.param == "TCYX" else pixels
        write(tmp_path / f"{name}.ome.tif", doubled, request.param)
    write(tmp_path / "truth/a.ome.tif", np.stack([truth, truth]) if request.param == "TCYX" else truth,
          "CYX" if request.param == "TCYX" else "YX")  # fmt: skip
    return tmp_path


def test_evaluate_scores_still_scenes_against_a_truth_of_one_frame(folders: Path) -> None:
    asked = {name: folders / name for name in ("source", "truth")}
    scores = evaluate(enhanced=folders / "out", still=True, output=folders / "page.html", **asked)
    assert scores["flicker"]["percent"] == 25
    assert scores["flicker"]["noise_left"] == pytest.approx(0.25, abs=0.03)
    assert scores["images"][0]["flicker"] == scores["flicker"]
    assert "of the pixels selected in any frame" in (folders / "page.html").read_text()
    with pytest.raises(InputError, match="give images of one size"):
        evaluate(enhanced=folders / "out", **asked)


def test_without_attention_what_changed_is_what_was_selected(folders: Path) -> None:
    (folders / "out/a_attention.ome.tif").unlink()
    scores = evaluate(enhanced=folders / "out", source=folders / "source", still=True)
    assert scores["flicker"]["ever_selected"] > 0
    assert scores["kept_violations"] is None


def test_it_is_not_scored_where_nobody_says_that_the_scene_is_still(folders: Path) -> None:
    assert evaluate(enhanced=folders / "out", source=folders / "source")["flicker"] is None


def test_one_frame_is_refused_in_one_line(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folders.glob("*/a*.ome.tif"):
        write(path, tifffile.imread(path).reshape(-1, 12, 12)[0], "YX")
    asked = ["evaluate", "--enhanced", str(folders / "out"), "--source", str(folders / "source"), "--still"]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "one frame; expected several of one still scene along T or Z; leave out --still" in said
    assert said.count("\n") == 1


def test_the_command_says_it(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["evaluate", "--enhanced", str(folders / "out"), "--source", str(folders / "source"), "--still"]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flicker"]["percent"] == 25
    assert main(asked) == 0
    assert "selected in some frames only, %" in capsys.readouterr().out

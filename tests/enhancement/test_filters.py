"""Filters as proposals: known halos, tiles that equal the whole plane, values that make sense, what they know."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scipy import ndimage

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.proposals.filters import FILTERS, ChannelScale, FilterProposal, filter_of
from cellxlate.enhancement.proposals.source import loaded_model
from cellxlate.errors import MissingModelError, OptionError
from cellxlate.settings import FilterName
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

ASKED = ("gaussian:1.5", "median:5", "tv:0.1", "nlm", "richardson-lucy:0.7")
SCALE = ChannelScale(100.0, 200.0, 10.0)


def spots(shape: tuple[int, int] = (150, 170), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    light = ndimage.gaussian_filter((rng.random(shape) > 0.995).astype(float), 3) * 20_000
    return rng.poisson(light + 100).astype(np.uint16)


def proposed(asked: str) -> FilterProposal:
    found = filter_of(asked)
    assert found
    return found


@pytest.mark.parametrize("asked", ASKED)
def test_no_filter_sees_farther_than_its_halo(asked: str) -> None:
    proposal = proposed(asked)
    halo_px, (propose,) = proposal.halo_px, [proposal.filter.run]
    side = 2 * halo_px + 31
    plane = np.random.default_rng(1).poisson(200, (side, side)).astype(np.float32)
    other = plane.copy()
    middle = side // 2
    other[middle - 1 : middle + 2, middle - 1 : middle + 2] += 60
    value = 0.1 if proposal.value is None else proposal.value
    changed = propose(plane, value, SCALE) != propose(other, value, SCALE)
    assert changed[middle, middle]
    rows, columns = np.nonzero(changed)
    assert max(np.abs(rows - middle).max(), np.abs(columns - middle).max()) <= halo_px + 1


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", ["uint16", "uint8", "float32"])
def test_tiles_equal_the_whole_plane_and_kept_pixels_stay(asked: str, dtype: str) -> None:
    counts = spots().astype(dtype)
    mask = np.zeros(counts.shape, np.uint8)
    mask[20:140, 10:160] = 1
    whole, tiled = (
        cellxlate.enhance(counts, asked, axes="YX", attention_from=mask, tile_px=side) for side in (None, 33)
    )
    assert whole.report.engine == "no network"
    assert whole.image.dtype == counts.dtype
    assert np.array_equal(whole.image[mask == 0], counts[mask == 0])
    assert whole.report.changed_fraction > 0.1
    assert np.abs(whole.image.astype(float) - tiled.image).max() <= (1 if dtype != "float32" else 0.5)


def test_a_gaussian_is_that_of_scipy_on_the_whole_plane() -> None:
    counts = spots()
    made = cellxlate.enhance(counts, "gaussian:2", axes="YX", attention_from=np.ones(counts.shape, np.uint8))
    expected = np.rint(ndimage.gaussian_filter(counts.astype(np.float32), 2))
    assert np.abs(made.image - expected).max() <= 1


@pytest.mark.parametrize("asked", ASKED)
def test_a_constant_plane_stays_constant(asked: str) -> None:
    proposal = proposed(asked)
    plane = np.full((40, 50), 150.0, np.float32)
    value = 0.1 if proposal.value is None else proposal.value
    assert proposal.filter.run(plane, value, SCALE) == pytest.approx(plane, abs=1e-3)


def test_negative_counts_and_missing_pixels_pass() -> None:
    counts = spots().astype(np.float32) - 120
    counts[40, 50] = np.nan
    for asked in ASKED:
        made = cellxlate.enhance(counts, asked, axes="YX", attention_from=np.ones(counts.shape, np.uint8))
        assert np.isnan(made.image[40, 50])
        assert np.isnan(made.image).sum() == 1


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("gaussian:", "is no number"), ("gaussian:wide", "'wide' is no number"), ("gaussian:-1", "within 0.1 to 50"),
        ("gaussian:nan", "within"), ("median:4", "no odd whole number"), ("median:3.5", "no odd whole number"),
        ("richardson-lucy", "has no value"), ("tv:0", "within"), ("nlm:inf", "within"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_one_line_with_the_unit(asked: str, says: str) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        filter_of(asked)
    used = FILTERS[asked.partition(":")[0]]
    assert used.unit in str(caught.value)
    assert used.example in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_filter_is_told_from_a_model(tmp_path: Path) -> None:
    for given, meant in (("gausian:2", "gaussian:2"), ("Median", "median"), ("richardsonlucy:1", "richardson-lucy:1")):
        with pytest.raises(MissingModelError, match=meant):
            loaded_model(given)
    with pytest.raises(MissingModelError, match="gaussian, median, tv"):
        loaded_model("unheard-of")
    with pytest.raises(MissingModelError, match="did you mean 'cells'"):
        loaded_model("cels")


def test_a_folder_that_is_called_like_a_filter_is_given_as_a_path(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gaussian").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    assert isinstance(loaded_model("gaussian"), FilterProposal)
    for folder in ("./gaussian", Path("gaussian")):
        assert not isinstance(loaded_model(folder), FilterProposal)


def test_what_a_filter_knows_is_of_the_channel_and_not_of_the_tile() -> None:
    counts = np.stack([spots(), 10 * spots(seed=1)])
    fitted = proposed("tv").fitted(Stack.from_array(counts, "CYX"), (0, 1))
    faint, bright = fitted.scales[0], fitted.scales[1]
    assert 5 < bright.span / faint.span < 20
    assert fitted.open((1,)).known[0][1] == bright
    assert fitted.identity["scales_counts"]["1"]["span"] == bright.span


def test_a_filter_goes_by_the_levels_of_an_earlier_run(tmp_path: Path) -> None:
    first, second = tmp_path / "first.ome.tif", tmp_path / "second.ome.tif"
    write_stacks([(Stack.from_array(spots(), "YX"), first), (Stack.from_array(3 * spots(seed=2), "YX"), second)])
    mask = np.ones((150, 170), np.uint8)
    one = cellxlate.enhance_file(first, "tv:0.1", attention_from=mask)
    levels = first.with_name("first_report.json")
    other = cellxlate.enhance_file(second, "tv:0.1", attention_from=mask, levels_from=levels)
    spans = [run.provenance["proposal"]["scales_counts"]["0"]["span"] for run in (one, other)]
    assert spans[0] == pytest.approx(spans[1])


def test_the_command_line_says_what_is_wrong_in_one_line(capsys: Any, tmp_path: Path) -> None:
    stack = tmp_path / "stack.npy"
    for words, says in ((["gausian"], "'gaussian'"), (["median:2"], "median")):
        with pytest.raises(SystemExit) as left:
            raise SystemExit(main(["enhance", str(stack), "-m", *words]))
        assert left.value.code == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "info gaussian:1.5", "info median", "describe gaussian:1.5 --source a",
        "export gaussian:1.5 --format onnx -o x.onnx", "train --source a --from gaussian:1.5 -o m",
        "evaluate gaussian:1.5 --source a --to-card",
    ],
)  # fmt: skip
def test_where_models_alone_are_taken_a_filter_is_said_to_be_one(
    words: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "is a filter" in said.err
    assert "enhance and evaluate take filters" in said.err
    assert list(tmp_path.iterdir()) == []


def test_python_says_so_too_and_a_folder_of_that_name_is_a_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingModelError, match=r"^gaussian:1\.5 is a filter, .* shipped models: cells"):
        cellxlate.load_model("gaussian:1.5")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gaussian").symlink_to(tiny_model)
    assert cellxlate.load_model("gaussian").path == tiny_model.resolve()
    with pytest.raises(MissingModelError, match="there is no model 'median'"):
        cellxlate.load_model(Path("median"))


def test_the_names_of_filters_are_those_of_the_table() -> None:
    assert list(FILTERS) == list(get_args(FilterName))

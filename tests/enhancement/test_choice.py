"""Laws of `-m auto`: what is chosen, why, and that neither gain nor data type have a say in it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

import cellxlate
from cellxlate.choice import choose, choose_model, looks_of, nearest, suitability
from cellxlate.cli import main
from cellxlate.errors import ModelError, speaking
from cellxlate.model import cards
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.stack import Stack

Plane = npt.NDArray[Any]
SPECIALIST, GENERALIST = "nuclei-lowexp", "broad"
OTHER_SCALES: dict[str, Callable[[Plane], Plane]] = {
    "gain": lambda plane: 7 * plane,
    "offset": lambda plane: plane + 1200,
    "float": lambda plane: plane.astype(np.float32) / plane.max(),
    "8 bits": lambda plane: np.rint(255 * (plane / plane.max())).astype(np.uint8),
}


def nuclei(seed: int = 3, size: int = 300) -> Plane:
    """A field like those that the specialist was trained on, with two spare bits for a gain of 7."""
    sample = simulate(SampleSettings(shape=(1, 1, 1, size, size), cell_fraction=0.2, seed=seed))
    return np.asarray(sample.stack)[0, 0, 0]


def something_else(seed: int = 3) -> Plane:
    """The same field dark on bright."""
    plane = nuclei(seed).astype(int)
    return (plane.max() + plane.min() - plane).astype(np.uint16)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shipped models: the specialist, and the same with the card of a generalist and a domain ten times as wide."""
    folder = tmp_path / "shipped"
    for name in (SPECIALIST, GENERALIST):
        shutil.copytree(cards.SHIPPED / SPECIALIST, folder / name)
    card = json.loads((folder / GENERALIST / "card.json").read_text())
    domain = card["domain"]
    for numbers in (*domain["quantities"].values(), domain["structure"], domain["together"]):
        numbers["limit"] *= 10
    (folder / GENERALIST / "card.json").write_text(json.dumps({**card, "name": GENERALIST, "generalist": True}))
    monkeypatch.setattr(cards, "SHIPPED", folder)
    return folder


@pytest.mark.parametrize(
    ("distances", "taken", "why"),
    [
        ({"a": 0.9, "b": 0.8, "wide": 0.1}, "b", "specialist"),
        ({"a": 1.0, "b": 1.2, "wide": 0.1}, "a", "specialist"),
        ({"a": 1.1, "b": 1.2, "wide": 0.9}, "wide", "generalist"),
        ({"a": 1.1, "b": 1.2, "wide": 1.3}, "a", "no shipped model fits"),
        ({"a": 9.0, "b": 8.0, "wide": 2.0}, "wide", "no shipped model fits"),
        ({"a": 1.1, "b": None, "wide": None}, "wide", "generalist"),
        ({"a": None, "b": None, "wide": None}, "wide", "nothing to choose by"),
        ({"b": None, "a": None}, "a", "nothing to choose by"),
        ({"a": 0.5, "b": 0.5}, "a", "specialist"),
        ({"b": 7.0}, "b", "no shipped model fits"),
    ],
)
def test_a_specialist_first_then_the_generalist_then_the_nearest(
    distances: dict[str, float | None], taken: str, why: str
) -> None:
    for order in (distances, dict(reversed(distances.items()))):
        name, reason = nearest(order, {"wide"})
        assert name == taken
        assert why in reason


@pytest.mark.usefixtures("shipped")
def test_the_specialist_for_its_own_images_and_the_generalist_for_others() -> None:
    for plane, expected in ((nuclei(), SPECIALIST), (something_else(), GENERALIST)):
        bundle, choice = choose_model(Stack.from_array(plane), [0])
        assert bundle.name == choice.name == expected
        assert set(choice.considered) == {SPECIALIST, GENERALIST}
        assert choice.distance == choice.considered[expected]


def test_where_neighbours_are_asked_for_only_models_that_can_see_them_are_considered(shipped: Path) -> None:
    card = json.loads((shipped / GENERALIST / "card.json").read_text())
    (shipped / GENERALIST / "card.json").write_text(json.dumps(card | {"context": {"planes": 2}}))
    stack = Stack(np.stack([nuclei()] * 2), "ZYX", "nuclei")
    for context in ("z", "t"):
        choice = choose(stack, [0], context=context)
        assert set(choice.considered) == {choice.name} == {GENERALIST}
        assert choice.reason == "it alone can see neighbours"
    assert choose(stack, [0], context="none").name == choose(stack, [0]).name == SPECIALIST


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("scale", OTHER_SCALES)
def test_another_scale_leads_to_the_same_choice_share_and_verdict(scale: str) -> None:
    for plane in (nuclei(), something_else()):
        before, after = cellxlate.enhance(plane), cellxlate.enhance(OTHER_SCALES[scale](plane))
        assert after.report.model_name == before.report.model_name
        assert bool(after.report.warnings) == bool(before.report.warnings)
        shares = [result.report.as_dict()["selected_fraction"] for result in (before, after)]
        assert shares[1] == pytest.approx(shares[0], rel=0.02)  # of the changed, rounding to counts hides some
        assert after.report.changed_fraction <= shares[1]


@pytest.mark.usefixtures("shipped")
def test_one_model_serves_all_channels_so_the_farthest_decides() -> None:
    stack = Stack.from_array(np.stack([nuclei(), something_else()]), "CYX")
    both, first = choose(stack, [0, 1]), choose(stack, [0])
    assert (first.name, both.name) == (SPECIALIST, GENERALIST)
    assert both.considered == choose(stack, [1]).considered


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("plane", [np.zeros((300, 300)), np.zeros((20, 20)), np.full((300, 300), np.nan)])
def test_a_stack_that_shows_nothing_gets_the_generalist(plane: Plane) -> None:
    choice = choose(Stack.from_array(plane), [0])
    assert (choice.name, choice.distance) == (GENERALIST, None)
    assert "nothing to choose by" in choice.reason


def test_a_few_cells_in_a_large_empty_stack_are_found_by_a_bounded_sample() -> None:
    draw, reads = np.random.default_rng(0), []
    pixels = draw.normal(104, 4, (8, 768, 768)).round().astype(np.uint16)
    cells = nuclei(5, 512)
    for plane in pixels[::2]:
        plane[:512, 256:] = cells
    stack = Stack.from_array(pixels, "ZYX")

    class Counted:
        shape, dtype = pixels.shape, pixels.dtype

        def __getitem__(self, key: Any) -> Plane:
            reads.append(key)
            return pixels[key]

    counted = Stack(Counted(), "ZYX", stack.name)
    found = list(looks_of(counted, 0))
    assert 2 <= len(found) <= 8
    assert len(reads) <= 48
    assert choose(stack, [0]).distance == choose(counted, [0]).distance < 1  # type: ignore[operator]
    assert list(looks_of(Stack.from_array(pixels[1:2]), 0)) == []


def test_a_card_without_a_domain_is_considered_and_not_preferred(shipped: Path) -> None:
    for name, expected in ((GENERALIST, GENERALIST), (SPECIALIST, GENERALIST)):
        card = json.loads((shipped / name / "card.json").read_text())
        (shipped / name / "card.json").write_text(json.dumps({**card, "domain": None}))
        assert choose(Stack.from_array(something_else()), [0]).name == expected


def test_without_a_shipped_model_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "SHIPPED", tmp_path / "none")
    with pytest.raises(ModelError, match="install cellxlate again"):
        cellxlate.enhance(nuclei())


def test_auto_is_no_model(tmp_path: Path) -> None:
    shutil.copytree(cards.SHIPPED / SPECIALIST, tmp_path / "auto")
    with pytest.raises(ModelError, match="chooses one for a stack"):
        cellxlate.load_model("auto")
    assert not cards.is_model("auto")
    assert cellxlate.load_model(tmp_path / "auto").name == "auto"


@pytest.mark.usefixtures("shipped")
def test_the_run_says_what_was_chosen_repeats_it_and_resumes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, something_else())
    assert main(["enhance", str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    considered = answer["model"]["considered"]
    assert answer["model"]["name"] == GENERALIST
    assert answer["model"]["distance"] == considered[GENERALIST]
    assert set(considered) == {SPECIALIST, GENERALIST}
    report = json.loads((tmp_path / "field_report.json").read_text())
    assert report["provenance"]["model"] == GENERALIST
    assert report["provenance"]["model_considered"] == considered
    assert report["model"]["reason"] == "no specialist fits, the generalist does"
    assert f" -m {GENERALIST} " in report["command"]
    assert report["model"]["reason"] in (tmp_path / "field_report.html").read_text()
    for again in (["--resume"], ["--resume", "-m", GENERALIST]):
        assert main(["enhance", str(path), *again]) == 0
        assert f"{GENERALIST}" in capsys.readouterr().out
    assert main(["enhance", str(path), "--resume", "-m", SPECIALIST]) == 2
    assert "from other model" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "field_enhanced.ome.tif"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == answer["model"]


@pytest.mark.usefixtures("shipped")
def test_several_stacks_get_each_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, plane in (("a", nuclei()), ("b", something_else())):
        tifffile.imwrite(tmp_path / f"{name}.tif", plane)
    assert main(["enhance", str(tmp_path), "--output-dir", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert f"the model was chosen for each stack: {GENERALIST} for 1, {SPECIALIST} for 1; to compare" in shown
    assert main(["enhance", str(tmp_path / "b.tif"), "-o", str(tmp_path / "c.ome.tif"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == GENERALIST


@pytest.mark.parametrize("model", ["auto", SPECIALIST])
def test_a_stack_that_no_model_fits_is_warned_of_with_the_next_step(model: str) -> None:
    with speaking("command"):
        report = cellxlate.enhance(something_else(), model).report
    warning = next(one for one in report.warnings if "does not look like the images" in one)
    assert "\n" not in warning
    for step in ("measure on the input", "look at attention", "cellxlate train --source", "cellxlate.train"):
        assert step in warning
    assert ("no other shipped model is nearer" in warning) == (model == "auto")
    assert ("leave the model out" in warning) == (model != "auto")
    assert bool(report.model_considered) == (model == "auto")
    assert report.as_dict()["model"]["distance"] > 1


@pytest.mark.usefixtures("shipped")
def test_the_choice_on_real_fields(real_images: Path) -> None:
    """The specialist for its own kind of fields, the generalist for another's, whatever the scale."""
    for folder, expected in (("nuclei_lowexp/test_S", SPECIALIST), ("natural_dsb/train_S", GENERALIST)):
        paths = sorted((real_images / folder).glob("*.tif"))[:17:2]
        for number, path in enumerate(paths):
            plane = tifffile.imread(path)
            scales = [lambda same: same, *OTHER_SCALES.values()]
            same = scales[number % len(scales)](plane.astype(np.uint32))
            assert choose(Stack.from_array(same), [0]).name == expected, (path.name, number)


def test_how_well_a_model_suits_is_told_as_auto_and_the_warning_tell_it() -> None:
    stack = Stack(nuclei(), "YX", "nuclei")
    choice = choose(stack, [0])
    for model, name in (("auto", choice.name), *((name, name) for name in choice.considered)):
        found = suitability(stack, [0], model)
        assert (found.model, found.distance) == (name, choice.considered[name])
        assert found.is_outside == bool(found.differences) == (found.distance > 1)


def test_what_is_different_is_said_for_the_channel_that_is_farthest() -> None:
    both = Stack(np.stack([nuclei(), something_else()]), "CYX", "both")
    near, far = (suitability(both, [channel], SPECIALIST) for channel in (0, 1))
    assert not near.is_outside
    assert far.is_outside
    assert far.differences
    together = suitability(both, [0, 1], SPECIALIST)
    assert (together.distance, together.differences) == (far.distance, far.differences)
    assert together.windows == near.windows + far.windows


def test_of_what_shows_nothing_and_of_a_card_without_a_domain_nothing_is_said(tiny_model: Path, tmp_path: Path) -> None:
    blank = Stack(np.full((300, 300), 7, np.uint16), "YX", "blank")
    assert suitability(blank, [0], SPECIALIST).windows == 0
    assert suitability(blank, [0], "auto").distance is None
    unknown = suitability(Stack(nuclei(), "YX", "nuclei"), [0], str(tiny_model))
    assert (unknown.model, unknown.distance, unknown.is_outside) == ("tiny", None, False)
    assert unknown.windows > 0
    card = json.loads((tiny_model / "card.json").read_text())
    adapted = shutil.copytree(tiny_model, tmp_path / "adapted")
    (adapted / "card.json").write_text(json.dumps({**card, "adaptation": {"base": "cells"}}))
    assert suitability(blank, [0], str(adapted)).adapted_from == "cells"
    with pytest.raises(ModelError, match="there is no model"):
        suitability(blank, [0], "no-such")

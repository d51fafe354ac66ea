"""Laws of what images look like: order does not matter, what was trained on is near, what was not is far."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from scipy import ndimage

import cellxlate
from cellxlate.model.cards import read_card
from cellxlate.quality.trust.likeness import (
    Departure,
    WindowFeatures,
    departure,
    departure_words,
    describe,
    describe_planes,
    look,
    windows_of,
)
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.stack import Stack

CARD = Path(cellxlate.__file__).parent / "models" / "nuclei-lowexp"


def faint(seed: int, cell_fraction: float = 0.2) -> npt.NDArray[np.uint16]:
    sample = simulate(SampleSettings(shape=(1, 1, 1, 256, 256), cell_fraction=cell_fraction, seed=seed))
    return np.asarray(sample.stack)[0, 0, 0]


@pytest.fixture(scope="module")
def domain() -> dict[str, Any]:
    looks = [look(faint(seed)) for seed in range(16)]
    found = describe([one for one in looks if one])
    assert found is not None
    return found


def distance(window: npt.NDArray[Any], domain: dict[str, Any]) -> float:
    return found_in(window, domain).distance


def found_in(window: npt.NDArray[Any], domain: dict[str, Any]) -> Departure:
    one = look(window)
    assert one is not None
    found = departure([one], domain)
    assert found is not None
    return found


def test_images_of_the_same_kind_are_near(domain: dict[str, Any]) -> None:
    for seed in (100, 101, 102):
        found = found_in(faint(seed), domain)
        assert found.distance < 1
        assert departure_words(found) == []


def test_other_images_are_far_and_the_difference_is_named(domain: dict[str, Any]) -> None:
    plane = faint(100).astype(float)
    noisier = plane + np.random.default_rng(0).normal(0, 15, plane.shape)
    named = departure_words(found_in(noisier, domain))
    assert any(words.startswith("cells stand out from the noise") and words.endswith("times less") for words in named)
    assert "bright parts are hardly noisier than the background" in named
    halved = plane.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    assert distance(halved, domain) > 1
    assert distance(ndimage.zoom(plane, 2, order=1), domain) > 1
    assert "bright cells on a dark background" in " ".join(departure_words(found_in(500 - plane, domain)))
    empty = np.random.default_rng(1).normal(150, 4, plane.shape)
    assert departure_words(found_in(empty, domain)) == ["nothing stands out from the noise"]


def test_a_flip_a_turn_and_whole_number_types_change_nothing(domain: dict[str, Any]) -> None:
    plane = faint(100)
    for same in (plane[::-1], plane.T, plane.astype(np.float64), plane.astype(np.int32), plane.astype(">u2")):
        assert distance(same, domain) == pytest.approx(distance(plane, domain), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda plane: 7 * plane, 1e-9),
        (lambda plane: plane + 1200, 1e-9),
        (lambda plane: plane.astype(np.float32) / 65535, 1e-4),
        (lambda plane: np.rint(255 * (plane / plane.max())).astype(np.uint8), 0.25),
        (lambda plane: 1e-6 * plane.astype(float) - 3, 1e-4),
    ],
    ids=["gain", "offset", "float", "8 bits", "negative"],
)
def test_another_scale_changes_nothing(
    domain: dict[str, Any], change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], within: float
) -> None:
    for plane in (faint(100), faint(101, 0.05)):
        before, after = found_in(plane, domain), found_in(change(plane), domain)
        assert after.parts == pytest.approx(before.parts, abs=within)
        assert (after.distance > 1) == (before.distance > 1)


def test_quantities_in_counts_of_an_earlier_card_are_passed_over(domain: dict[str, Any]) -> None:
    in_counts = {name: {"middle": 4.65, "spread": 0.25, "limit": 3.0} for name in ("black", "range", "noise")}
    new = {"rise", "together"}
    kept = {name: numbers for name, numbers in domain["quantities"].items() if name != "rise"}
    earlier = {"quantities": {**in_counts, **kept}, "structure": domain["structure"]}
    for plane in (faint(100), 7 * faint(100) + 1200, 500 - faint(100).astype(int)):
        found, now = found_in(plane, earlier), found_in(plane, domain)
        assert found.parts == {name: distance for name, distance in now.parts.items() if name not in new}
        assert "nan" not in " ".join(departure_words(found))


def test_windows_in_any_order_describe_the_same(domain: dict[str, Any]) -> None:
    looks = [one for seed in range(16) if (one := look(faint(seed)))]
    assert describe(looks[::-1]) == domain
    assert json.loads(json.dumps(domain)) == domain


def test_what_holds_nothing_has_no_look() -> None:
    assert look(np.zeros((256, 256))) is None
    assert look(np.full((256, 256), np.nan)) is None
    assert look(np.random.default_rng(0).normal(size=(63, 256))) is None
    holed = faint(3).astype(float)
    holed[5, 5] = np.nan
    assert look(holed) is not None


def test_too_few_images_or_a_damaged_card_say_nothing(domain: dict[str, Any]) -> None:
    one = look(faint(1))
    assert isinstance(one, WindowFeatures)
    assert describe([one] * 7) is None
    assert departure([], domain) is None
    for damaged in (None, {}, {"quantities": 3}, {"quantities": {}, "structure": {"middle": "x"}}):
        assert departure([one], damaged) is None


def test_blank_training_windows_do_not_count() -> None:
    fields = [Stack.from_array(faint(seed)) for seed in range(10)]
    blank = [
        Stack.from_array(np.random.default_rng(seed).normal(150, 4, (256, 256)).round().astype(np.uint16))
        for seed in range(10)
    ]
    described = describe_planes([(stack, ()) for stack in fields])
    assert described is not None
    assert described["windows"] == 10
    assert describe_planes([(stack, ()) for stack in [*fields, *blank]]) == described


@pytest.mark.parametrize("shape", [(100, 90), (256, 256), (520, 696), (4000, 300)])
def test_windows_lie_in_the_plane(shape: tuple[int, int]) -> None:
    windows = windows_of(shape)
    assert 1 <= len(windows) <= 8
    for rows, columns in windows:
        assert 0 <= rows.start < shape[0]
        assert np.zeros(shape, np.uint8)[rows, columns].shape == tuple(min(size, 256) for size in shape)
        assert columns.start >= 0


def test_the_shipped_model_knows_its_domain(real_images: Path) -> None:
    """At most 5 % false alarms and at least 95 % of wrong stacks, on images that nothing was measured on before."""
    domain = read_card(CARD)["domain"]

    def alarms(planes: list[npt.NDArray[Any]]) -> float:
        found = [
            departure(
                [one for rows, columns in windows_of(plane.shape, 2) if (one := look(plane[rows, columns]))], domain
            )
            for plane in planes
        ]
        return float(np.mean([one is not None and one.distance > 1 for one in found]))

    def read(folder: str) -> list[npt.NDArray[Any]]:
        return [tifffile.imread(path) for path in sorted((real_images / folder).glob("*.tif"))]

    fields = read("nuclei_lowexp/test_S")
    assert len(fields) == 17
    assert alarms(fields) <= 0.05
    draw = np.random.default_rng(0)
    wrong = {
        "natural_dsb": read("natural_dsb/train_S")[1::4],
        "holo2bright": read("holo2bright/train_S")[1::8],
        "inverted": [int(plane.max()) + int(plane.min()) - plane.astype(int) for plane in fields],
        "twice as large": [ndimage.zoom(plane[:200, :200].astype(float), 2, order=1) for plane in fields],
        "half as large": [plane.reshape(260, 2, 348, 2).mean(axis=(1, 3)) for plane in fields],
        "noisier": [plane + draw.normal(0, 15.5, plane.shape) for plane in fields],
        "empty": [draw.normal(104, 4, plane.shape) for plane in fields[:3]],
    }
    assert {name: share for name, planes in wrong.items() if (share := alarms(planes)) < 0.95} == {}

"""A sure model is sure, an unsure one is not, and what is kept has no confidence to speak of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.confidence import file as confidence
from cellxlate.enhancement.confidence.file import write_confidence
from cellxlate.enhancement.confidence.views import (
    FULL_DEVIATION,
    Output,
    Unit,
    View,
    confidence_map,
    deviation,
    views_of,
)
from cellxlate.enhancement.flow import follow
from cellxlate.enhancement.job import steps_in_memory
from cellxlate.enhancement.outputs.names import find_inputs
from cellxlate.enhancement.plan import make_plan
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks


def plane(seed: int = 0) -> Unit:
    return np.random.default_rng(seed).random((24, 40)).astype(np.float32)


def test_every_view_comes_back_to_its_place_and_levels() -> None:
    unit = plane()
    assert len({(one.turns, one.flip) for one in views_of(8)}) == 8
    for one in views_of(20):
        assert one.back(one.of(unit, 0.0)) == pytest.approx(unit, abs=1e-6)


def test_what_it_takes_is_predicted(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", (1000 * plane()).astype(np.uint16))
    command = ["enhance", str(tmp_path / "a.tif"), "-m", str(tiny_model), "--confidence", "--dry-run", "--json"]
    assert main(command) == 0
    expected = json.loads(capsys.readouterr().out)["expected"]
    seconds = expected["seconds"]
    assert seconds["confidence"] == pytest.approx(8 * seconds["bands"], abs=0.45)
    assert expected["hours"] == pytest.approx(sum(seconds.values()) / 3600, abs=2e-4)


def test_a_function_that_treats_all_views_alike_is_sure() -> None:
    assert deviation(plane(), lambda images: images, noise=0.0).max() < 1e-6
    assert deviation(plane(), lambda images: 3 * images, noise=0.0).max() < 0.4
    noisy = deviation(np.zeros((200, 200), np.float32), lambda images: images, noise=0.1)
    assert noisy.mean() == pytest.approx(0.07 * np.sqrt(7 / 8), rel=0.1)


def test_a_function_that_looks_at_the_direction_is_not_sure() -> None:
    def slanted(images: Unit) -> Unit:
        return (images + np.linspace(0, 1, images.shape[-1], dtype=np.float32)).astype(np.float32)

    assert deviation(plane(), slanted, noise=0.0)[:, 0].mean() > 0.3


def test_the_seed_decides_the_noise() -> None:
    def square(images: Unit) -> Unit:
        return np.square(images)

    first = deviation(plane(), square, noise=0.1)
    assert np.array_equal(first, deviation(plane(), square, noise=0.1))
    assert not np.array_equal(first, deviation(plane(), square, noise=0.1, seed=9))
    assert View(0, False, 0.0, 1.0, 3).of(plane(), 0.0).tobytes() == plane().tobytes()


def test_the_stored_map_is_0_where_kept_and_falls_with_deviation() -> None:
    deviations = np.array([[0.0, FULL_DEVIATION / 2, FULL_DEVIATION, 9.0]], np.float32)
    assert confidence_map(deviations, np.array([[True, True, True, True]])).tolist() == [[255, 128, 1, 1]]
    assert confidence_map(deviations, np.zeros((1, 4), bool)).tolist() == [[0, 0, 0, 0]]


def test_a_file_says_0_exactly_where_attention_does(tmp_path: Path, tiny_model: Path) -> None:
    sample = simulate(SampleSettings(shape=(1, 1, 2, 150, 170), seed=2))
    write_stacks([(sample.stack, tmp_path / "cells.ome.tif")])
    cellxlate.enhance_file(tmp_path / "cells.ome.tif", tiny_model, report=False, engine="torch")
    with cellxlate.open_stack(tmp_path / "cells.ome.tif") as stack:
        plan = make_plan(stack, tiny_model, channels=None, settings=None, engine="torch", device="cpu")
        news: list[float] = []
        write_confidence(
            plan, tmp_path / "cells_attention.ome.tif", tmp_path / "cells_confidence.ome.tif", views=3,
            progress=lambda done, total: news.append(done / total),
        )  # fmt: skip
    confidence, attention = (
        tifffile.imread(tmp_path / f"cells_{part}.ome.tif") for part in ("confidence", "attention")
    )
    assert confidence.dtype == np.uint8
    assert np.array_equal(confidence == 0, attention == 0)
    assert 0 < (attention == 0).mean() < 1
    assert len(np.unique(confidence)) > 10
    assert news[-1] == 1


def test_the_option_writes_it_beside_attention(tmp_path: Path, tiny_model: Path) -> None:
    sample = simulate(SampleSettings(shape=(1, 1, 1, 100, 120), seed=2))
    write_stacks([(sample.stack, tmp_path / "cells.ome.tif")])
    words = ["enhance", str(tmp_path / "cells.ome.tif"), "-m", str(tiny_model), "--confidence", "--quiet"]
    assert main(words) == 0
    assert (tmp_path / "cells_confidence.ome.tif").is_file()
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 0
    assert main([*words, "--overwrite", "--no-attention"]) == 2
    assert [path.name for path in find_inputs([tmp_path])[0]] == ["cells.ome.tif"]


@pytest.mark.parametrize("context", ["none", "z"])
def test_the_output_that_is_asked_for_is_that_of_the_run(
    models_in_context: dict[str, Path], context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gate too: where planes are seen beside, attention of these has a say."""
    raw = np.random.default_rng(3).normal(120, 40, (5, 90, 80)).clip(0).astype(np.uint16)
    stack = Stack.from_array(raw, "ZYX")
    settings = EnhanceSettings(context=context)
    plan = make_plan(stack, models_in_context["seeing"], channels=None, settings=settings, engine="torch", device="cpu")
    run = follow(steps_in_memory(plan))
    asked: list[Unit] = []

    def ask(unit: Unit, output: Output, **_: Any) -> Unit:
        asked.append(output(unit[None])[0])
        return np.zeros_like(asked[-1])

    monkeypatch.setattr(confidence, "deviation", ask)
    for _ in confidence.confidence_bands(plan, Stack.from_array(run.attention, "ZYX"), [(2,)]):
        pass
    (made,) = asked
    edge = (made.shape[-1] - 80) // 2 // plan.translator.stride * plan.translator.stride
    levels = plan.intensities[0]
    counts = levels.black + levels.span * made[0, edge : edge + 90, edge : edge + 80]
    assert (run.image[2] != raw[2]).mean() > 0.1
    assert np.abs(counts.clip(0) - run.image[2]).max() < 0.6

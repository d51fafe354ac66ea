"""A generalist's images: clear and drawn fields, recordings of them, windows of any size."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate.settings import PRESETS, AttentionSettings, GeneralistSettings, GeneratorSettings, TrainSettings
from cellxlate.training.fields.generalist import drawn_fields, generalist_domains


@pytest.fixture
def tiny_general() -> TrainSettings:
    general = PRESETS["general"]
    return replace(
        general,
        networks=replace(
            general.networks,
            generator=GeneratorSettings("unet", 4, 1, "none", levels=2),
            attention=AttentionSettings(width=4, blocks=1, normalisation="none", architecture="pyramid", levels=3),
        ),
        generalist=GeneralistSettings(drawn_fields=4, magnification=(0.5, 2.0), generator_px=32, source_fields=3),
        steps=3,
        batch=2,
        patch_px=64,
    )


def test_drawn_fields_are_functions_of_the_seed() -> None:
    first, again, other = (drawn_fields(3, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.stack.pixels, b.stack.pixels) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].stack.pixels, other[0].stack.pixels)
    assert all(one.mask is not None and set(np.unique(one.mask.read())) <= {0, 1} for one in first)


def test_targets_are_found_and_drawn_and_recordings_stand_for_the_source(
    tmp_path: Path, tiny_general: TrainSettings
) -> None:
    (tmp_path / "clear").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        image = rng.poisson(5, (80, 90)).astype(np.uint16)
        image[20:40, 30:60] += 400
        tifffile.imwrite(tmp_path / "clear" / f"field{number}.tif", image)
    mask = np.zeros((80, 90), np.uint8)
    mask[20:40, 30:60] = 7
    tifffile.imwrite(tmp_path / "masks" / "field1.tif", mask)
    with ExitStack() as files:
        source, target = generalist_domains([tmp_path / "clear"], [tmp_path / "masks"], tiny_general, None, files)
        assert len(source) == 3
        assert len(target) == 6
        assert [one.mask is not None for one in target.fields] == [False, True, True, True, True, True]
        assert [target._turns.count(place) for place in range(6)] == [1, 3, 1, 1, 1, 1]  # a mask found, not one drawn
        assert source.fields[0].stack.dtype == np.uint16
        whole = target.draw(0, 6, patch_px=64, load_px=None, guided=True, seed=0, magnification=(0.5, 2.0))
        assert whole.images.shape == whole.guides.shape == (6, 1, 64, 64)
        assert set(np.unique(whole.guides)) <= {0, 1}


def test_a_small_field_is_continued_by_its_mirror_image_in_a_reduced_window(tiny_general: TrainSettings) -> None:
    with ExitStack() as files:
        _, target = generalist_domains([], [], tiny_general, None, files)
        halves = target.draw(0, 3, patch_px=256, load_px=None, guided=True, seed=0, magnification=(0.4999, 0.5))
    for image, guide in zip(halves.images[:, 0], halves.guides[:, 0], strict=True):
        assert any(np.allclose(image, mirrored, atol=0.05) for mirrored in (image[::-1], image[:, ::-1]))
        assert guide.max() <= 1


def test_a_generalist_trains_from_drawings_alone_and_says_what_it_is(
    tmp_path: Path, tiny_general: TrainSettings
) -> None:
    bundle = cellxlate.train(output=tmp_path / "model", settings=tiny_general)
    assert bundle.card["generalist"] is True
    assert bundle.card["training"]["source"] == bundle.card["training"]["target"] == []
    assert bundle.card["training"]["target_planes"] == 4
    image = np.random.default_rng(0).poisson(20, (70, 90)).astype(np.uint16)
    result = cellxlate.enhance(image, bundle)
    assert result.report.kept_violations == 0
    assert np.array_equal(result.image[result.attention == 0], image[result.attention == 0])


def test_an_interrupted_generalist_goes_on_to_the_same_weights(tmp_path: Path, tiny_general: TrainSettings) -> None:
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    whole = cellxlate.train(output=tmp_path / "whole", settings=tiny_general)
    with pytest.raises(KeyboardInterrupt):
        cellxlate.train(output=tmp_path / "parts", settings=tiny_general, after_step=stop)
    parts = cellxlate.train(output=tmp_path / "parts", settings=tiny_general, resume=True)
    for name, weight in whole.translator.state_dict().items():
        assert np.array_equal(weight, parts.translator.state_dict()[name]), name


def test_a_weight_on_texture_teaches_a_generalist_too(tmp_path: Path, tiny_general: TrainSettings) -> None:
    seen = []
    wanted = replace(tiny_general, imaging=replace(tiny_general.imaging, texture=30.0))
    models = [
        cellxlate.train(output=tmp_path / f"{number}", settings=one, progress=lambda row: seen.append(row.terms))
        for number, one in enumerate((tiny_general, wanted))
    ]
    without, with_texture = (
        next(row for row in rows if row) for rows in (seen[: len(seen) // 2], seen[len(seen) // 2 :])
    )
    assert "texture" not in without
    assert with_texture["texture"] > 0
    parts = (with_texture[name] * weight for name, weight in (("cycle_target", 1.0), ("guide", wanted.lambda_guide)))
    assert with_texture["total"] == pytest.approx(sum(parts) + 30.0 * with_texture["texture"], rel=1e-3)
    first, second = (one.translator.generator.state_dict() for one in models)
    assert any(not np.array_equal(first[name], second[name]) for name in first)

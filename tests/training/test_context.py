"""Networks that see neighbours: begun from those that do not, taught on volumes and movies, kept beside them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cellxlate
from cellxlate.errors import OptionError
from cellxlate.model.bundle import load_model
from cellxlate.model.networks import TranslatorNetworks, seeing_neighbours
from cellxlate.settings import (
    PRESETS,
    AttentionSettings,
    GeneralistSettings,
    GeneratorSettings,
    NetworkSettings,
    TrainSettings,
)
from cellxlate.stacks.stack import Stack
from cellxlate.training.fields.generalist import drawn_in_depth, field_of
from cellxlate.training.fields.movies import as_movie, moved
from cellxlate.training.fields.patches import Domain
from cellxlate.training.imaging.cameras import by_any_camera, without_cells
from cellxlate.training.steps import at_the_ends

NETWORKS = NetworkSettings(
    GeneratorSettings("unet", 4, 1, "none", levels=2),
    AttentionSettings(width=4, blocks=1, normalisation="none", architecture="pyramid", levels=3),
    PRESETS["general"].networks.discriminator,
)
ALONE = replace(
    PRESETS["general"],
    networks=NETWORKS,
    generalist=GeneralistSettings(drawn_fields=3, generator_px=32, source_fields=2, drawn_volumes=2),
    steps=2,
    batch=2,
    patch_px=64,
)
SEEING = replace(ALONE, preset="context", networks=replace(NETWORKS, context=2))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "alone"
    cellxlate.train(output=folder, settings=ALONE)
    return folder


@pytest.mark.parametrize("architecture", ["unet", "compact", "resnet"])
def test_networks_begin_by_making_nothing_of_neighbours(architecture: str) -> None:
    torch.manual_seed(0)
    generator = GeneratorSettings(architecture, 4, 1, "none", levels=2)  # type: ignore[arg-type]
    alone = TranslatorNetworks(replace(NETWORKS, generator=generator)).eval()
    for weights in alone.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    wider = seeing_neighbours(alone, 2)
    planes = torch.rand(2, 5, 64, 64)
    for name in ("generator", "attention"):
        made, expected = getattr(wider, name)(planes), getattr(alone, name)(planes[:, 2:3])
        assert made.shape == expected.shape
        torch.testing.assert_close(made, expected)
        assert not torch.equal(made, getattr(wider, name)(planes[:, [0, 1, 0, 3, 4]]))  # the own plane does count


def test_a_movie_has_the_image_in_its_middle_and_some_stand_still() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((48, 48)).astype(np.float32)
    guide = (image > 0.5).astype(np.float32)
    still = 0
    for _ in range(60):
        frames, seen = as_movie(image, guide, 2, rng)
        assert frames.shape == (5, 48, 48)
        assert frames.dtype == np.float32
        if np.array_equal(seen, guide):  # else something moves over the rest
            np.testing.assert_allclose(frames[2], image, atol=1e-5)
        still += np.ptp(frames, axis=0).max() == 0
    assert 0 < still < 40


def test_a_moved_image_lies_where_its_way_leads() -> None:
    image = np.zeros((32, 32), np.float32)
    image[10:14, 10:14] = 1
    (frame,) = moved(image, np.array([[3.0, -2.0]], np.float32)[..., None, None])
    np.testing.assert_allclose(frame[13:17, 8:12], 1, atol=1e-4)
    assert frame.sum() == pytest.approx(16, rel=1e-3)


def test_planes_of_a_stack_are_drawn_amid_their_neighbours_and_movies_of_others() -> None:
    counts = np.arange(7, dtype=np.uint16)[:, None, None] * 100 + np.zeros((64, 64), np.uint16)
    counts[:, :8] += 50
    field = replace(field_of(counts, np.ones((64, 64), bool), name="steps"), index=(1,))
    flat = field_of(np.random.default_rng(0).random((64, 64)).astype(np.float32), np.ones((64, 64), bool), name="flat")
    domain = Domain([field, flat], 1, context=2)
    patches = domain.draw(0, 4, patch_px=64, load_px=None, guided=True, seed=0)
    assert patches.images.shape == (4, 5, 64, 64)
    assert patches.guides.shape == (4, 1, 64, 64)
    planes = field.unit_in_context(0, 2, slice(0, 64), slice(0, 64))
    expected = field.intensity.to_unit(counts[[0, 0, 1, 2, 3]])  # mirrored at the first plane
    np.testing.assert_array_equal(planes, expected)
    assert any(np.allclose(np.sort(one.mean((1, 2))), np.sort(expected.mean((1, 2)))) for one in patches.images)


def test_volumes_are_drawn_once_for_a_seed_with_their_own_masks() -> None:
    first, again = drawn_in_depth(1, 3), drawn_in_depth(1, 3)
    assert first
    assert np.array_equal(first[0].stack.pixels, again[0].stack.pixels)
    assert first[0].neighbour_axis == 0
    assert all(one.mask is not None and one.mask.index == one.index for one in first)
    assert Stack.from_array(np.zeros((8, 8)), "YX").size("Z") == 1


def test_planes_are_recorded_by_one_camera_each_with_noise_of_its_own() -> None:
    rng = torch.Generator().manual_seed(0)
    clear = torch.rand(3, 1, 64, 64).expand(3, 5, 64, 64)
    faint, light = by_any_camera(clear, rng)
    assert faint.shape == light.shape == (3, 5, 64, 64)
    noise = (faint - light).flatten(2)
    strengths = noise.std(dim=2)
    assert (strengths.amax(1) < 1.5 * strengths.amin(1)).all()
    assert all(abs(float(torch.corrcoef(one)[0, 1])) < 0.2 for one in noise)
    assert without_cells(torch.Size((2, 5, 64, 64)), rng).shape == (2, 5, 64, 64)


def test_at_the_ends_of_a_stack_planes_are_their_own_neighbours() -> None:
    planes = torch.arange(5.0)[None, :, None, None].expand(200, 5, 1, 1)
    made = at_the_ends(planes, torch.Generator().manual_seed(0))
    kinds = {tuple(one.flatten().tolist()) for one in made}
    assert (0, 1, 2, 3, 4) in kinds
    assert (2, 2, 2, 2, 2) in kinds  # a single plane
    assert (3, 2, 2, 3, 4) in kinds  # the first of a stack
    assert all(one[2] == 2 for one in kinds)
    alone = torch.rand(3, 1, 4, 4)
    assert at_the_ends(alone, torch.Generator()) is alone


def test_a_trained_pair_stands_beside_the_networks_that_it_began_from(base: Path, tmp_path: Path) -> None:
    made = cellxlate.train(output=tmp_path / "seeing", base=base, settings=SEEING)
    alone = load_model(base)
    assert made.in_context is not None
    assert made.in_context.networks.inputs == 5
    assert made.in_context.in_context is None
    for name, weights in alone.translator.state_dict().items():
        assert torch.equal(made.translator.state_dict()[name], weights)
    assert made.card["training"] == alone.card["training"]
    assert made.card["context"]["planes"] == 2
    assert made.card["context"]["training"]["steps"] == 2
    again = cellxlate.train(output=tmp_path / "further", base=made, settings=replace(SEEING, lambda_cycle=0.0))
    assert again.in_context is not None
    first, further = (one.in_context.translator.generator.state_dict() for one in (made, again))  # type: ignore[union-attr]
    assert all(torch.equal(first[name], further[name]) for name in first)  # without a weight it does not learn


def test_networks_that_see_neighbours_need_a_model_to_stand_beside(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="stand beside those of a model"):
        cellxlate.train(output=tmp_path / "seeing", settings=SEEING)
    with pytest.raises(OptionError, match="context"):
        cellxlate.train(
            ["a"], ["b"], output=tmp_path / "fast", settings=TrainSettings(networks=replace(NETWORKS, context=2))
        )

"""Drawn structures: pure functions of their random numbers, light where the mask says, planes that fit together."""

import json

import numpy as np
import pytest
from scipy import ndimage

from cellxlate.cli import main
from cellxlate.errors import OptionError
from cellxlate.stacks.samples import drawn as drawn_sample
from cellxlate.stacks.samples.drawn import StructureSettings, simulate_structures
from cellxlate.stacks.samples.structures import CELL_STRUCTURES, STRUCTURES, DrawnField, draw_structure, draw_volume

ALL = (*STRUCTURES, "mixed")
DRAWS = 6


def draw(kind: str, seed: int, size: int = 160, **choice: float) -> DrawnField:
    return draw_structure(kind, (size, size), np.random.default_rng([seed, 11]), **choice)


def holes(mask: np.ndarray) -> int:
    """Return how many pixels lie in holes of up to 10 px that the border does not cut."""
    outside, count = ndimage.label(np.pad(~mask, 1, constant_values=True))
    areas = np.bincount(outside.ravel(), minlength=count + 1)[1:]
    return int(areas[areas <= 10].sum())


@pytest.mark.parametrize("kind", ALL)
def test_the_same_random_numbers_give_the_same_field(kind):
    first, again, other = (draw(kind, seed, haze=0.5) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_light_is_finite_not_negative_and_about_1_at_most(kind, scale):
    for seed in range(DRAWS):
        field = draw_structure(kind, (70, 110), np.random.default_rng(seed), scale=scale)
        assert (field.image.shape, field.image.dtype) == ((70, 110), np.float32)
        assert (field.mask.shape, field.mask.dtype) == ((70, 110), np.bool_)
        assert np.isfinite(field.image).all()
        assert field.image.min() >= 0
        assert field.image.max() <= 2.0
        assert field.image[field.mask].max(initial=1.0) > 0.5


@pytest.mark.parametrize("kind", STRUCTURES)
def test_most_light_lies_in_the_mask_and_the_rest_is_dim(kind):
    for seed in range(DRAWS):
        field = draw(kind, seed)
        assert field.image[field.mask].sum() > 0.8 * field.image.sum()
        if field.mask.any() and not field.mask.all():
            assert np.median(field.image[field.mask]) > 5 * np.median(field.image[~field.mask])


@pytest.mark.parametrize("kind", ["filaments", "puncta", "nuclei"])
def test_haze_adds_light_outside_the_mask_and_leaves_the_mask(kind):
    clear, hazy = draw(kind, 3), draw(kind, 3, haze=1.0)
    assert np.array_equal(clear.mask, hazy.mask)
    assert (hazy.image >= clear.image).all()
    assert (hazy.image - clear.image).max() <= 1.0 + 1e-6
    assert hazy.image[~hazy.mask].mean() > clear.image[~clear.mask].mean() + 0.02


@pytest.mark.parametrize("kind", CELL_STRUCTURES)
def test_masks_of_cells_have_no_holes(kind):
    assert sum(holes(draw(kind, seed).mask) for seed in range(3 * DRAWS)) == 0


@pytest.mark.parametrize("kind", STRUCTURES)
def test_twice_the_scale_makes_structures_about_twice_as_wide(kind):
    def width(scale: float) -> float:
        depths = [
            ndimage.distance_transform_edt(field.mask)[field.mask].mean()
            for field in (draw(kind, seed, scale=scale) for seed in range(2 * DRAWS))
            if field.mask.any() and not field.mask.all()
        ]
        return float(np.exp(np.mean(np.log(depths))))

    assert 1.35 < width(1.6) / width(0.8) < 2.6


@pytest.mark.parametrize("kind", CELL_STRUCTURES)
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.8])
def test_cells_cover_the_share_that_is_asked_for(kind, fraction):
    covered = [draw(kind, seed, 200, fraction=fraction).mask.mean() for seed in range(3)]
    assert np.allclose(covered, fraction, rtol=0.2)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_kinds_vary_in_how_much_they_cover(kind):
    covered = [draw(kind, seed).mask.mean() for seed in range(2 * DRAWS)]
    assert max(covered) > 3 * min(covered)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_borders_look_like_the_middle(kind):
    light = sum(draw(kind, seed, 96).image > 0.05 for seed in range(8 * DRAWS))
    border = np.ones_like(light, dtype=bool)
    border[8:-8, 8:-8] = False
    assert 0.5 < light[border].mean() / light[~border].mean() < 1.5


@pytest.mark.parametrize("kind", ALL)
def test_planes_of_a_volume_fit_together(kind):
    near, far = [], []
    for seed in range(4):
        volume = draw_volume(kind, (9, 80, 96), np.random.default_rng([seed, 5]), spacing_z=1.5)
        assert (volume.image.shape, volume.image.dtype) == ((9, 80, 96), np.float32)
        assert (volume.mask.shape, volume.mask.dtype) == ((9, 80, 96), np.bool_)
        assert np.isfinite(volume.image).all()
        assert volume.image.min() >= 0
        if min(volume.image[plane].std() for plane in (0, 4, 5, 8)) > 0:
            near.append(np.corrcoef(volume.image[4].ravel(), volume.image[5].ravel())[0, 1])
            far.append(np.corrcoef(volume.image[0].ravel(), volume.image[8].ravel())[0, 1])
    assert np.mean(near) > 0.85
    assert np.mean(near) > np.mean(far)


def test_a_volume_depends_on_its_random_numbers_alone():
    first, again = (draw_volume("cells", (3, 40, 50), np.random.default_rng(4), haze=0.3) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)


@pytest.mark.parametrize(
    ("kind", "choice", "part"),
    [
        ("dogs", {}, "dogs"),
        ("blobs", {"scale": 0.0}, "scale"),
        ("blobs", {"haze": -1.0}, "haze"),
        ("blobs", {"haze": float("nan")}, "haze"),
        ("blobs", {"fraction": 0.0}, "cell fraction"),
        ("puncta", {"fraction": 0.2}, "no meaning"),
    ],
)
def test_what_cannot_be_drawn_is_refused(kind, choice, part):
    with pytest.raises(OptionError, match=part):
        draw(kind, 0, **choice)
    with pytest.raises(OptionError, match=part):
        draw_volume(kind, (2, 20, 20), np.random.default_rng(0), **choice)


def test_a_sample_has_the_stated_noise_and_its_mask():
    sample = simulate_structures(StructureSettings("nuclei", (1, 1, 1, 300, 400), cell_fraction=0.2, seed=2))
    stack, truth, mask = (part.read((0, 0, 0)) for part in (sample.stack, sample.truth, sample.mask))
    assert (stack.dtype, truth.dtype, mask.dtype) == (np.uint16, np.uint16, np.uint8)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).mean() == pytest.approx(0.2, rel=0.1)
    signal = 0.09 * (truth.astype(float) - 100)
    noise = stack.astype(float) - 100 - signal
    dark = mask == 0
    assert noise[dark].mean() == pytest.approx(0, abs=0.1)
    assert noise[dark].var() == pytest.approx(signal[dark].mean() / 0.6 + 2.5**2 + 1 / 12, rel=0.05)


def test_any_window_of_a_sample_holds_the_same_bits_as_the_whole():
    sample = simulate_structures(StructureSettings("filaments", (2, 2, 2, 270, 300), seed=1))
    for part in (sample.stack, sample.truth, sample.mask):
        whole = np.asarray(part.pixels[1, 0])
        for kept in (drawn_sample._block, drawn_sample._drawing):
            kept.cache_clear()
        assert np.array_equal(part.pixels[1, 0, 1, 250:260, 200:290], whole[1, 250:260, 200:290])


def test_a_sample_drifts_over_time_and_its_channels_differ():
    sample = simulate_structures(StructureSettings("puncta", (11, 2, 1, 80, 90), seed=3))
    truth = np.asarray(sample.truth.pixels[:])[:, :, 0]
    assert not np.array_equal(truth[0, 0], truth[0, 1])
    assert not np.array_equal(truth[0, 0], truth[10, 0])
    moved = [
        np.array_equal(truth[0, 0, 12:-12, 12:-12], truth[10, 0, 12 + down : 68 + down, 12 + over : 78 + over])
        for down in range(-12, 13)
        for over in range(-12, 13)
    ]
    assert sum(moved) == 1


def test_the_command_draws_what_it_is_asked_for(tmp_path, capsys):
    stack, mask = (str(tmp_path / f"{name}.ome.tif") for name in ("stack", "mask"))
    options = ("--structure", "cells", "--shape", "1,1,1,64,80", "--cell-fraction", "0.3", "--mask", mask, "--json")
    assert main(["sample", stack, *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["structure"], told["cell_fraction"], told["shape"]) == ("cells", 0.3, [1, 1, 1, 64, 80])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("--structure dogs", "dogs"),
        ("--structure puncta --cell-fraction 0.2", "no meaning"),
        ("--structure cells --layout clustered", "--layout"),
        ("--scale 2", "--structure"),
        ("--haze 1", "--structure"),
    ],
)
def test_the_command_refuses_what_makes_no_sense_in_one_line(tmp_path, capsys, options, part):
    assert main(["sample", str(tmp_path / "a.ome.tif"), *options.split()]) == 2
    line = capsys.readouterr().err
    assert part in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())

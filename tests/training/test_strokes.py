"""Attention from a few strokes: it depends on these alone, finds what looks alike, and refuses what says too little."""

import numpy as np
import pytest
import torch

import cellxlate
from cellxlate.errors import InputError, OptionError, OutputError
from cellxlate.model.engines.engine import open_engine
from cellxlate.training.fields.files import open_domain
from cellxlate.training.fields.masks import attach_masks
from cellxlate.training.fields.spread import Painted, spread, windows_of
from cellxlate.training.strokes import learn_strokes

SIDE = 96
CORNERS = [(8, 8), (8, 60), (40, 34), (68, 8), (66, 64)]


def field(seed=0):
    """Dark squares with a rough surface on a bright background: brightness alone would select the background."""
    rng = np.random.default_rng(seed)
    inside = np.zeros((SIDE, SIDE), bool)
    for row, column in CORNERS:
        inside[row : row + 20, column : column + 20] = True
    image = 1000 - 300 * inside + rng.normal(0, 20, inside.shape) + 60 * inside * rng.normal(0, 1, inside.shape)
    return image.clip(0).astype(np.uint16), inside


@pytest.fixture(scope="module")
def painted():
    """A field, its cells, and strokes in two of the five cells and two places of the background."""
    image, inside = field()
    strokes = np.zeros(image.shape, np.int32)
    strokes[16:19, 10:26] = 2
    strokes[48:51, 36:52] = 7  # any other cell
    strokes[32:35, 4:60] = 1
    strokes[4:40, 44:47] = 1
    assert not (strokes == 1)[inside].any()
    return image, inside, strokes


def weights_of(model):
    return {name: value.clone() for name, value in model.translator.state_dict().items()}


def attention_of(model, image):
    return cellxlate.enhance(image, model, engine="torch").attention


def test_strokes_find_the_cells_that_nobody_painted(painted):
    image, inside, strokes = painted
    before = attention_of(cellxlate.load_model("cells"), image) > 0
    after = attention_of(cellxlate.teach(image, strokes), image) > 0

    def overlap(found):
        return (found & inside).sum() / (found | inside).sum()

    assert overlap(before) < 0.3
    assert overlap(after) > 0.75
    assert (after & ~inside).sum() < 0.01 * (~inside).sum()


def test_the_same_strokes_and_seed_give_the_same_model_and_another_seed_another(painted):
    image, _, strokes = painted
    first, again, other = (cellxlate.teach(image, strokes, steps=3, seed=seed) for seed in (1, 1, 2))
    assert first.digest == again.digest != other.digest
    assert all(torch.equal(value, weights_of(again)[name]) for name, value in weights_of(first).items())


def test_what_was_taken_back_was_never_painted(painted):
    image, _, strokes = painted
    more = strokes.copy()
    more[80:84, 40:60] = 2
    cellxlate.teach(image, more, steps=3)
    assert cellxlate.teach(image, strokes, steps=3).digest == cellxlate.teach(image, strokes.copy(), steps=3).digest


def test_only_attention_learns_and_the_model_it_began_from_stays(painted):
    image, _, strokes = painted
    base = cellxlate.load_model("cells")
    before = weights_of(base)
    taught = cellxlate.teach(image, strokes, base, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(base).items())
    for name, value in weights_of(taught).items():
        assert torch.equal(value, before[name]) == name.startswith("generator.")
    assert taught.card["training"]["start"]["weights_sha256"] == base.digest
    assert taught.card["training"]["strokes"]["cell_px"] == 96


def test_a_taught_model_is_saved_and_loaded_like_any_other(painted, tmp_path):
    image, _, strokes = painted
    saved = cellxlate.teach(image, strokes, steps=2, output=tmp_path / "taught")
    loaded = cellxlate.load_model(tmp_path / "taught")
    assert loaded.digest == saved.digest == cellxlate.teach(image, strokes, steps=2).digest
    assert np.array_equal(attention_of(loaded, image), attention_of(saved, image))
    assert open_engine(loaded).stride == open_engine(cellxlate.load_model("cells")).stride
    with pytest.raises(OutputError, match="exists already"):
        cellxlate.teach(image, strokes, steps=2, output=tmp_path / "taught")


def test_gain_and_offset_of_a_camera_do_not_matter(painted):
    image, _, strokes = painted
    brighter = (image.astype(np.float32) * 4 + 512).astype(np.float32)
    first, second = (attention_of(cellxlate.teach(one, strokes, steps=20), one) > 0 for one in (image, brighter))
    assert (first != second).mean() < 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda strokes: np.zeros_like(strokes), "nothing is painted"),
        (lambda strokes: np.where(strokes == 1, 0, strokes), "only cells are painted"),
        (lambda strokes: np.where(strokes == 1, 1, 0), "only background is painted"),
        (lambda strokes: strokes[:-1], "they must agree"),
        (lambda strokes: strokes.astype(np.float32), "whole numbers"),
    ],
)
def test_strokes_that_say_too_little_are_refused_in_one_line(painted, change, words):
    image, _, strokes = painted
    with pytest.raises(InputError, match=words) as caught:
        cellxlate.teach(image, change(strokes))
    assert "\n" not in str(caught.value)


def test_no_steps_are_refused(painted):
    image, _, strokes = painted
    with pytest.raises(OptionError, match="steps=0"):
        cellxlate.teach(image, strokes, steps=0)


def test_what_a_caller_raises_ends_the_learning(painted):
    image, _, strokes = painted

    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cellxlate.teach(image, strokes, after_step=stop)


def test_of_a_stack_the_planes_with_strokes_teach(painted):
    image, _, strokes = painted
    stack = np.stack([field(1)[0], image])
    labels = np.stack([np.zeros_like(strokes), strokes])
    taught = cellxlate.teach(stack, labels, steps=2)
    assert taught.card["training"]["strokes"]["planes"] == 1


def test_background_and_cells_may_lie_on_different_planes(painted):
    image, _, strokes = painted
    planes, parts = [image, image], [np.where(strokes == 1, 1, 0), np.where(strokes > 1, 2, 0)]
    learned = learn_strokes(cellxlate.load_model("cells"), planes, parts, steps=2)
    assert learned.card["training"]["strokes"]["planes"] == 2


def test_a_large_plane_is_learned_around_its_strokes():
    unit = np.zeros((700, 900), np.float32)
    strokes = np.zeros(unit.shape, np.uint8)
    strokes[20:24, 20:60], strokes[600:604, 800:840] = 1, 2
    windows = list(windows_of(unit, strokes))
    assert [one.unit.shape for one in windows] == [(256, 256)] * 2
    assert sum(int((one.strokes > 0).sum()) for one in windows) == (strokes > 0).sum()


def test_a_small_plane_can_teach():
    rng = np.random.default_rng(0)
    image = rng.poisson(50, (20, 24)).astype(np.uint16)
    image[:, :10] += 200
    strokes = np.zeros(image.shape, np.uint8)
    strokes[5:15, 2:6], strokes[5:15, 16:20] = 2, 1
    assert cellxlate.teach(image, strokes, steps=1).name == "cells with strokes"


def test_strokes_spread_to_what_looks_alike(painted):
    image, inside, strokes = painted
    unit = (image / 1000).astype(np.float32)
    (likely,) = spread([Painted(unit, np.clip(strokes, 0, 2).astype(np.uint8))])
    found = likely > 0.5
    assert (found & inside).sum() / (found | inside).sum() > 0.75


def test_a_mask_named_strokes_is_completed_and_any_other_is_taken_as_it_is(painted, tmp_path):
    import tifffile

    image, inside, strokes = painted
    for folder in ("source", "target", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "source" / f"{name}.tif", image)
        tifffile.imwrite(tmp_path / "target" / f"clear-{name}.tif", image)
    tifffile.imwrite(tmp_path / "masks" / "a_strokes.tif", strokes.astype(np.uint8))
    tifffile.imwrite(tmp_path / "masks" / "b_labels.tif", strokes.astype(np.uint8))
    domains = [
        open_domain([tmp_path / name], number=number, patch_px=32, load_px=None, guide="masks")
        for number, name in enumerate(("source", "target"))
    ]
    source, _ = attach_masks(domains, [tmp_path / "masks"])
    first, second = (one.mask.read() > 0 for one in source.fields)
    assert (first & inside).sum() / (first | inside).sum() > 0.75
    assert np.array_equal(second, strokes > 0)


def test_strokes_of_one_kind_are_refused_by_the_name_of_their_file(images, tmp_path):
    import tifffile

    domains = [
        open_domain([folder], number=number, patch_px=32, load_px=None, guide="masks")
        for number, folder in enumerate((images.source, images.target))
    ]
    shape = domains[0].fields[0].shape
    tifffile.imwrite(tmp_path / "faint0_strokes.tif", np.full(shape, 2, np.uint8))
    with pytest.raises(InputError, match=r"faint0_strokes\.tif: only cells are painted"):
        attach_masks(domains, [tmp_path])

"""The comparison of unpaired methods: its losses, and runs that go on to the bit where they were killed."""

import importlib
import math
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage

from cellxlate.settings import (
    AttentionSettings,
    DiscriminatorSettings,
    GeneratorSettings,
    NetworkSettings,
    TrainSettings,
)
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.stacks.samples.structures import draw_structure

BENCH = Path(__file__).parent / "bench"
TINY = NetworkSettings(
    GeneratorSettings(width=2, blocks=2), AttentionSettings(width=2, last_width=2), DiscriminatorSettings(width=2)
)


@pytest.fixture(scope="module")
def paper() -> Any:
    """The modules of tests/bench/paper by name."""
    sys.path.insert(0, str(BENCH))
    yield lambda name: importlib.import_module(f"paper.{name}")
    sys.path.remove(str(BENCH))
    for name in [name for name in sys.modules if name == "paper" or name.startswith("paper.")]:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder whose nuclei are laid out already: three drawn fields of each domain, and one to validate on."""
    folder = tmp_path_factory.mktemp("work")
    root = folder / "data" / "nuclei"
    rng = np.random.default_rng(0)
    names = ("source", "target", "validation/source", "validation/truth", "validation/masks")
    for name in names:
        (root / name).mkdir(parents=True)
    for number in range(4):
        drawn = draw_structure("blobs", (64, 64), rng)
        clear = np.rint(100 + 900 * drawn.image / drawn.image.max()).astype(np.uint16)
        faint = np.rint(100 + 60 * drawn.image / drawn.image.max() + rng.normal(0, 3, (64, 64))).astype(np.uint16)
        if number == 3:
            for name, image in zip(names[2:], (faint, clear, drawn.mask.astype(np.uint8)), strict=True):
                tifffile.imwrite(root / name / "field.tif", image)
            continue
        tifffile.imwrite(root / "source" / f"{number}.tif", faint)
        tifffile.imwrite(root / "target" / f"{number}.tif", clear)
    return folder


@pytest.fixture
def tiny(paper: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a planned run of tiny networks for six steps, looked at and saved every other step."""
    train, methods = paper("train"), paper("methods")
    for name, every in {"LOG_EVERY": 1, "SAVE_EVERY": 2, "VALIDATE_EVERY": 2, "PRECISION": "float32"}.items():
        monkeypatch.setattr(train, name, every)
    monkeypatch.setattr(train, "has_collapsed", lambda run, judge: False)

    @dataclass(frozen=True)
    class Tiny(methods.Planned):  # type: ignore[misc, name-defined]
        @property
        def settings(self) -> TrainSettings:
            smaller = {"networks": TINY, "steps": 6, "patch_px": 32, "pool": 2, "mixed_precision": False}
            return replace(super().settings, **smaller)

    return Tiny


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "last.safetensors")


@pytest.mark.parametrize("method", ["saliency", "hinge", "smoothed", "utom", "cut"])
def test_a_killed_run_ends_as_an_unbroken_one(paper: Any, tiny: Any, work: Path, tmp_path: Path, method: str) -> None:
    train = paper("train").train
    shutil.copytree(work / "data", tmp_path / "data")
    unbroken = train(tiny(method, 0), tmp_path, tmp_path)
    shutil.move(tmp_path / "runs", tmp_path / "unbroken")
    train(tiny(method, 0), tmp_path, tmp_path, steps=3)  # killed after the third step, saved after the second
    resumed = train(tiny(method, 0), tmp_path, tmp_path)
    one, other = (weights(tmp_path / name / f"nuclei-{method}-0") for name in ("unbroken", "runs"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["total"] for row in unbroken["log"]] == [row["total"] for row in resumed["log"]]
    assert [row["step"] for row in resumed["validation"]] == [2, 4, 6]


def test_two_workers_never_train_the_same_run(paper: Any, tmp_path: Path) -> None:
    claimed = paper("train").claimed
    with claimed(tmp_path / "run") as ours, claimed(tmp_path / "run") as theirs:
        assert (ours, theirs) == (True, False)
    with claimed(tmp_path / "run") as later:
        assert later


def test_a_run_that_fails_three_times_makes_room_for_the_next(
    paper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = paper("run")
    trained: list[str] = []

    def train(planned: Any, shared: Path, work: Path) -> None:
        trained.append(planned.name)
        if len(set(trained)) == 1:
            raise ValueError("no")
        (work / "runs" / planned.name / "outcome.json").write_text("{}")

    monkeypatch.setattr(run, "train", train)
    codes = [run.take_next(tmp_path, tmp_path) for _ in range(5)]
    assert codes == [1, 1, 1, 0, 0]
    first, second, third = (planned.name for planned in run.QUEUE[:3])
    assert trained == [first, first, first, second, third]


def test_the_saliency_constraint_is_0_for_the_same_mask_at_any_brightness(paper: Any) -> None:
    utom = paper("utom")
    image = torch.zeros(1, 1, 8, 8)
    image[..., 2:6, 2:6] = 0.8
    brighter = image * 0.5 + 0.05
    assert utom.saliency_constraint(image, brighter, (0.4, 0.25)) == pytest.approx(0, abs=1e-5)
    assert utom.saliency_constraint(image, 0.8 - image, (0.4, 0.4)) == pytest.approx(1, abs=1e-5)
    assert utom.saliency_constraint(image, image * 0, (0.4, 0.4)) == pytest.approx(0.25, abs=1e-5)


def test_the_weight_of_the_saliency_constraint_dies_away(paper: Any) -> None:
    utom = paper("utom")
    assert utom.weight_after(0) == 10
    assert utom.weight_after(utom.STEPS_PER_DECAY) == pytest.approx(10 * math.exp(-2))


def test_contrast_is_small_where_each_place_is_like_its_own_key_and_teaches_queries_alone(paper: Any) -> None:
    contrast = paper("cut").contrast
    keys = torch.eye(6, requires_grad=True)
    queries = torch.eye(6, requires_grad=True)
    assert contrast(queries, keys).item() < 1e-4
    assert contrast(queries.flip(0), keys).item() > 10
    assert contrast(torch.ones(6, 6) / 6**0.5, keys).item() == pytest.approx(math.log(6))
    contrast(queries, keys).backward()
    assert queries.grad is not None
    assert keys.grad is None


def test_features_are_those_that_the_generator_computes(paper: Any) -> None:
    from cellxlate.model.networks import Generator

    cut = paper("cut")
    generator = Generator(GeneratorSettings(width=4, blocks=2)).eval()
    images = torch.rand(1, 1, 32, 32)
    taken = cut.features(generator, images, (cut.INPUT, 3, 6, 9, 10), mixed=False)
    assert [one.shape[1] for one in taken] == [1, 8, 16, 16, 16]
    after = generator.layers[11:](taken[-1])
    torch.testing.assert_close((after + 1) / 2, generator(images))


def test_validation_fields_are_no_targets_and_their_sources_are_faint(paper: Any, tmp_path: Path) -> None:
    data = paper("data")
    rng = np.random.default_rng(0)
    for folder in ("train_S", "train_T", "train_S_masks", "train_T_masks"):
        (tmp_path / "shared" / "nuclei_lowexp" / folder).mkdir(parents=True)
        for field in range(11):
            for crop in range(2):
                image = np.full((32, 32), 150 + rng.integers(9), np.uint16)
                image[8:20, 8:20] = 1000
                path = tmp_path / "shared" / "nuclei_lowexp" / folder / f"f{field:02}_s1_y0_x{crop}.tif"
                tifffile.imwrite(path, image)
    folders = data.prepared("nuclei", tmp_path / "shared", tmp_path)
    held = {path.name for path in (folders.validation / "truth").iterdir()}
    assert held == {f"f{field:02}_s1_y0_x{crop}.tif" for field in (0, 10) for crop in range(2)}
    kept = {path.name for path in folders.target.iterdir()}
    assert len(kept) == 18
    assert not {name.split("_")[0] for name in kept} & {name.split("_")[0] for name in held}
    assert {path.name for path in (folders.masks / "target").iterdir()} == kept
    faint = tifffile.imread(next((folders.validation / "source").iterdir()))
    assert 100 < faint[:4].mean() < 115
    assert 130 < faint[12:16, 12:16].mean() < 240


def test_only_selected_pixels_change(paper: Any) -> None:
    from cellxlate.model.networks import TranslatorNetworks

    torch.manual_seed(0)
    translator = TranslatorNetworks(TINY).eval()
    plane = np.random.default_rng(0).integers(90, 400, (35, 42)).astype(np.uint16)
    result = paper("translate").translated(translator, plane, measure_range([plane]))
    assert result.image.dtype == plane.dtype
    assert result.image.shape == plane.shape
    assert np.array_equal(result.image[result.gate == 0], plane[result.gate == 0])
    assert (result.image != plane).any()


def test_drawn_pairs_share_one_geometry_and_debris_carries_no_label(paper: Any) -> None:
    pair = paper("drawn").drawn_pair(np.random.default_rng(3), 96)
    again = paper("drawn").drawn_pair(np.random.default_rng(3), 96)
    assert np.array_equal(pair.phase, again.phase)
    assert not (pair.nuclei & ~pair.bodies).any()
    light = pair.fluorescence.astype(float)
    assert light[pair.nuclei].mean() > 5 * light[~pair.bodies].mean()
    assert pair.phase[pair.bodies].mean() < pair.phase[~pair.bodies].mean()


def test_a_label_is_scored_where_the_gate_opens(paper: Any) -> None:
    translate = paper("translate")
    truth = np.full((64, 64), 100, np.uint16)
    truth[20:40, 20:40] = np.linspace(400, 900, 20)[:, None]
    cells = np.zeros((64, 64), bool)
    cells[16:44, 16:44] = True
    plane = np.random.default_rng(0).integers(90, 110, (64, 64)).astype(np.uint16)
    proposal = ((truth - 100.0) / 800).astype(np.float32)
    known = [translate.Example("one", plane, truth, cells)]
    everywhere = translate.Translated(plane, np.ones((64, 64), np.float32), proposal)
    perfect = translate.label_scores(known, [everywhere])
    assert perfect["psnr_affine"] > 100
    assert (perfect["added"], perfect["lost"]) == (0, 0)
    assert perfect["outside_selected_percent"] == 100
    nowhere = translate.Translated(plane, np.zeros((64, 64), np.float32), proposal + 5)
    missing = translate.label_scores(known, [nowhere])
    assert missing["lost"] == 1
    assert missing["outside_label"] == missing["outside_selected_percent"] == 0
    elsewhere = translate.Translated(plane, np.ones((64, 64), np.float32), np.roll(proposal, 22, axis=1))
    moved = translate.label_scores(known, [elsewhere])
    assert (moved["added"], moved["lost"]) == (1, 1)
    assert moved["outside_label"] > 0.1


def test_the_best_weights_are_those_of_the_highest_psnr_or_the_lowest_distance(paper: Any) -> None:
    merit = paper("translate").merit
    assert merit({"psnr_affine": 25.0, "patch_distance": 1.0}) > merit({"psnr_affine": 24.0, "patch_distance": 0.1})
    assert merit({"patch_distance": 0.1}) > merit({"patch_distance": 0.2}) > merit({"patch_distance": math.nan})


def test_noise_around_the_background_stays_within_the_range_of_a_generator(paper: Any) -> None:
    translate = paper("translate")
    drawn = draw_structure("nuclei", (128, 128), np.random.default_rng(1))
    plane = np.rint(100 + 80 * drawn.image + np.random.default_rng(2).normal(0, 4, (128, 128))).astype(np.uint16)
    unit = translate.levels_of("nuclei", plane).to_unit(plane)
    assert (unit < 0).mean() < 0.001
    assert (measure_range([plane]).to_unit(plane) < 0).mean() > 0.1


def test_smoothed_discriminators_see_a_gaussian_and_masked_images_as_they_are(paper: Any) -> None:
    part = paper("smoothed")
    images = torch.rand(2, 1, 40, 36, generator=torch.Generator().manual_seed(0))
    expected = [
        ndimage.gaussian_filter(image, part.SIGMA_PX, mode="mirror", radius=part.REACH_PX)
        for image in images[:, 0].numpy()
    ]
    assert np.allclose(part.smoothed(images)[:, 0].numpy(), expected, atol=1e-6)
    seen = part.smoothing(lambda shown, normalised: shown)
    assert torch.equal(seen(images, normalised=False), images)
    assert torch.equal(seen(images, normalised=True), part.smoothed(images))


def test_the_area_hinge_lets_attention_alone_between_its_limits(paper: Any) -> None:
    hinge = paper("hinge")
    for level, expected in ((0.0, hinge.LEAST), (0.2, 0.0), (1.0, 1 - hinge.MOST)):
        assert hinge.area_hinge(torch.full((2, 1, 4, 4), level)).item() == pytest.approx(expected)

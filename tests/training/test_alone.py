"""Learning from a source alone: its windows, its noise, its own estimate, and runs that are continued to the bit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn

from cellxlate import cli
from cellxlate.errors import InputError, OptionError
from cellxlate.model.bundle import load_model
from cellxlate.settings import PRESETS, AloneSettings, TrainSettings
from cellxlate.settings_file import check_settings
from cellxlate.stacks.intensity.contrast import CANDIDATES
from cellxlate.stacks.intensity.stack_range import SAMPLE_PX, stack_ranges
from cellxlate.stacks.stack import Stack
from cellxlate.training.alone import step as alone_step
from cellxlate.training.alone.domain import NothingToLearnError, sampled_domain
from cellxlate.training.alone.step import RECORRUPTED, AloneStep, UnitNoise, same_as, wanted_gate
from cellxlate.training.checkpoint import CHECKPOINT
from cellxlate.training.domains import nearest_model
from cellxlate.training.fields.patches import Domain
from cellxlate.training.loop import loop, train
from cellxlate.training.options import starting_from
from cellxlate.training.run import NO_IMAGES, begin, continue_from

CPU = torch.device("cpu")
SETTINGS = replace(
    PRESETS["alone"],
    batch=2,
    patch_px=32,
    steps=12,
    alone=AloneSettings(4, 64, round_steps=5, round_windows=2, turns=8),
)


def truth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return blobs of a few px, in [0, 1]."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0, *[5] * (len(shape) - 1)))
    return np.clip(smooth / smooth.std() - 1, 0, 2) / 2


def noisy(shape: tuple[int, ...] = (3, 128, 128), *, noise: float = 20.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (200 + 500 * truth(shape, seed) + rng.normal(0, noise, shape)).round().clip(0).astype(np.uint16)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.tif"
    tifffile.imwrite(path, noisy(), imagej=True, metadata={"axes": "ZYX"})
    return path


@pytest.fixture
def domain() -> Domain:
    return domain_of(noisy())


def domain_of(pixels: np.ndarray, axes: str = "ZYX", settings: AloneSettings = SETTINGS.alone) -> Domain:
    stack = Stack(pixels, axes)
    return sampled_domain(stack, stack_ranges(stack, range(stack.channel_count)), settings)


def begun(tiny_model: Path, domain: Domain, settings: TrainSettings = SETTINGS):
    start = load_model(tiny_model)
    return begin(starting_from(start, settings), (domain, domain), CPU, "float32", start)


# the sample


def beside(stack: Stack, index: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Two planes on either side, mirrored at the ends."""
    count = stack.size("Z")
    return [
        ((at if at >= 0 else -1 - at) if at < count else 2 * count - 1 - at,)
        for at in range(index[0] - 2, index[0] + 3)
    ]


def test_windows_are_taken_with_the_planes_beside_them():
    stack = Stack(noisy((5, 64, 64)), "ZYX")
    domain = sampled_domain(stack, stack_ranges(stack, [0]), SETTINGS.alone, beside)
    assert domain.context == 2
    for field in domain.fields:
        own = int(field.stack.name.split("plane (")[1].split(",")[0])
        expected = np.stack([np.asarray(stack)[at] for at in beside(stack, (own,))])
        assert np.array_equal(np.asarray(field.stack), expected)
        assert np.array_equal(field.stack.read(field.index), np.asarray(stack)[own])


def test_planes_of_a_background_that_drifts_are_taken_on_the_levels_of_their_own():
    counts = noisy((6, 64, 64)).astype(np.float64) + 300 * np.arange(6)[:, None, None]
    stack = Stack(counts.round().astype(np.uint16), "TYX")
    ranges = stack_ranges(stack, [0])
    assert ranges[0].drift
    around = lambda _, index: [(max(index[0] - 1, 0),), index, (min(index[0] + 1, 5),)]  # noqa: E731
    for field in sampled_domain(stack, ranges, SETTINGS.alone, around).fields:
        grounds = np.median(np.asarray(field.stack), axis=(1, 2))
        assert np.ptp(grounds) < 20
        assert grounds[1] == np.median(field.stack.read(field.index))


def test_a_plane_that_stands_in_twice_is_found():
    planes = torch.randn(3, 4, 4)
    assert same_as(planes[[1, 0, 0, 1, 2]]) == [0, 1, 1, 0, 4]


def test_windows_are_spread_over_planes_and_lie_where_there_is_contrast():
    pixels = noisy((8, 256, 256))
    pixels[:, :, 64:] = np.random.default_rng(1).normal(200, 20, (8, 256, 192)).round()
    found = domain_of(pixels, settings=AloneSettings(windows=8, window_px=64)).fields
    planes = {one.stack.name.split("plane ")[1].split(",")[0] for one in found}
    assert len(found) == 8
    assert len(planes) >= 6
    assert sum(one.stack.name.endswith(", 0") for one in found) >= 6
    assert all(one.shape == (64, 64) and one.intensity == found[0].intensity for one in found)


def test_the_sample_is_bounded_and_read_window_by_window():
    class Counted:
        shape, dtype, read_px = (40, 1024, 1024), np.dtype(np.uint16), 0

        def __getitem__(self, key):
            part = noisy(np.zeros(self.shape[1:], np.uint8)[key[-2:]].shape)
            self.read_px += part.size
            return part

    pixels = Counted()
    intensity = stack_ranges(Stack(noisy(), "ZYX"), [0])
    found = sampled_domain(Stack(pixels, "ZYX"), intensity, AloneSettings(windows=16, window_px=128))
    assert len(found) == 16
    assert pixels.read_px <= 16 * CANDIDATES * 128**2 + SAMPLE_PX


def test_each_channel_has_its_own_noise():
    pixels = np.stack([noisy((2, 128, 128), noise=10), noisy((2, 128, 128), noise=40)])
    found = domain_of(pixels, "CZYX")
    sds = sorted({round(noise.sd_counts) for noise in found.noises})
    assert len(found.noises) == len(found.fields) == 4
    assert sds == pytest.approx([10, 40], rel=0.15)


def test_windows_with_pixels_that_are_not_finite_are_left_out():
    pixels = noisy((4, 64, 64)).astype(np.float32)
    pixels[1, 5, 5] = np.nan
    found = domain_of(pixels)
    assert len(found) == 3
    assert all(np.isfinite(np.asarray(one.stack.pixels)).all() for one in found.fields)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.full((2, 80, 80), 7, np.uint16), "or one value alone"),
        (np.random.default_rng(0).normal(200, 9, (2, 128, 128)).round().astype(np.uint16), "nothing stands out"),
        (noisy((2, 63, 200)), "63 x 200 px is too small"),
        (np.full((2, 80, 80), np.nan, np.float32), "not finite"),
    ],
    ids=["constant", "noise", "small", "nan"],
)
def test_what_nothing_can_be_learned_from_is_refused_in_one_line(pixels, words):
    with pytest.raises(NothingToLearnError, match=words) as caught:
        domain_of(pixels)
    assert "\n" not in str(caught.value)


# a step


def test_a_turn_is_undone():
    images = torch.rand(2, 1, 8, 12)
    turned = [alone_step._turned(images, turn) for turn in range(8)]
    assert all(torch.equal(alone_step._turned_back(one, turn), images) for turn, one in enumerate(turned))
    assert len({tuple(one.flatten().tolist()) for one in turned}) == 8


def test_the_estimate_is_the_image_where_the_teacher_changes_nothing(tiny_model, domain):
    step = begun(tiny_model, domain).step_function
    step.teacher.generator = nn.Identity()
    for image in step.images:
        assert torch.allclose(step._lesson(image).shown, image, atol=1e-6)


def test_turned_and_reflected_images_teach_the_same(tiny_model, domain):
    step = begun(tiny_model, domain).step_function
    image = step.images[0]
    lesson = step._lesson(image)
    for turn in range(8):
        turned = step._lesson(alone_step._turned(image, turn))
        assert torch.allclose(alone_step._turned_back(turned.shown, turn), lesson.shown, atol=1e-5)


def test_the_wanted_gate_reaches_two_pixels_further_and_stays_closed_at_specks():
    attention = np.zeros((40, 40), np.float32)
    attention[10:20, 10:20] = 0.9
    attention[30, 30] = 0.4  # nowhere sure
    gate = wanted_gate(attention, 0.1)
    assert gate[8, 15] == gate[15, 21] == gate.max() == pytest.approx(0.8 / 0.9)
    assert gate[7, 15] == gate[15, 22] == 0
    assert gate[28:33, 28:33].max() == 0


def test_every_window_takes_its_turn(tiny_model, domain):
    step = begun(tiny_model, domain).step_function
    taken = [window for number in range(len(step.images)) for window in step.windows_of(number)]
    assert all(taken.count(window) == 2 for window in range(len(step.images)))


def test_a_window_is_estimated_when_its_turn_comes_and_once(tiny_model, domain):
    step, seen = begun(tiny_model, domain).step_function, []
    plain = step._lesson
    step._lesson = lambda image: seen.append(int(step.count_of_steps.steps)) or plain(image)
    for number in range(16):
        step.run(NO_IMAGES, NO_IMAGES, switched=True, rng=torch.Generator().manual_seed(number))
    assert seen == [0, 0, 5, 5]


def test_a_step_moves_generator_and_attention_and_not_who_teaches(tiny_model, domain):
    step = begun(tiny_model, domain).step_function
    before, teacher = (
        {key: value.clone() for key, value in one.state_dict().items()} for one in (step.translator, step.teacher)
    )
    terms = step.run(NO_IMAGES, NO_IMAGES, switched=True, rng=torch.Generator().manual_seed(0))
    after = step.translator.state_dict()
    assert {"cycle_target", "guide", "total", "attention_area"} == set(terms)
    assert all(torch.equal(value, step.teacher.state_dict()[key]) for key, value in teacher.items())
    for part in ("generator", "attention"):
        assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith(part))


def test_the_noise_that_is_drawn_is_that_of_the_camera():
    rng = np.random.default_rng(0)
    light = np.zeros((2, 256, 256))
    light[:, :, 128:] = 400.0  # a bright half: 100 + 1.5 per count
    light = ndimage.gaussian_filter(light, (0, 3, 3))
    white = rng.normal(0, 1, light.shape)
    pixels = 300 + light + np.sqrt(100 + 1.5 * light) * white
    found = domain_of(pixels.round().astype(np.uint16), settings=AloneSettings(8, 256))
    intensity = found.fields[0].intensity
    clear = torch.tensor([(300 - intensity.black) / intensity.span, (700 - intensity.black) / intensity.span])
    images = clear[:, None, None, None].expand(2, 1, 200, 200)
    added = UnitNoise(found, CPU).drawn(images, [0, 0], torch.Generator().manual_seed(0))
    sds = [float(one.std()) * intensity.span for one in added]
    assert sds[0] == pytest.approx(10.0, rel=0.1)
    assert sds[1] == pytest.approx(np.sqrt(100 + 1.5 * 400), rel=0.15)


def test_noise_that_neighbours_share_is_shared():
    rng = np.random.default_rng(0)
    shared = ndimage.gaussian_filter(rng.normal(0, 1, (4, 256, 256)), (0, 0.8, 0.8))
    pixels = 400 + 3000 * truth((4, 256, 256)) ** 2 + 30 * shared / shared.std()
    found = domain_of(pixels.round().clip(0).astype(np.uint16), settings=AloneSettings(8, 256))
    expected = found.noises[0].neighbour_correlation
    added = UnitNoise(found, CPU).drawn(torch.zeros(1, 1, 300, 300), [0], torch.Generator().manual_seed(0))[0, 0]
    rows = float(np.corrcoef(added[:, 1:].flatten(), added[:, :-1].flatten())[0, 1])
    assert expected > 0.4
    assert rows == pytest.approx(expected, abs=0.05)


# runs


def test_noise_that_neighbours_share_is_taken_away_without_an_image_without_it(tiny_model):
    rng = np.random.default_rng(1)
    clear = 200 + 500 * truth((2, 256, 256))
    shared = ndimage.gaussian_filter(rng.normal(size=clear.shape), (0, 0.6, 0.6))
    many = replace(SETTINGS.alone, windows=16)
    found = domain_of((clear + 60 * shared / shared.std()).round().clip(0).astype(np.uint16), settings=many)
    run = begun(tiny_model, found, replace(SETTINGS, batch=6, steps=120, learning_rate=8e-3, alone=many))
    step = run.step_function
    with torch.no_grad():
        for one in (step.translator, step.teacher):
            last = [layer for layer in one.generator.modules() if isinstance(layer, nn.Conv2d)][-1]
            last.weight.zero_()
            last.bias.zero_()  # the network is the identity
    assert all(step.noise.shared)

    def error(of) -> float:
        parts = []
        for field, image in zip(found.fields, step.images, strict=True):
            plane = int(field.stack.name.split("plane (")[1].split(",")[0].rstrip(")"))
            top, left = (int(one) for one in field.stack.name.split("from ")[1].split(", "))
            side = image.shape[-1]
            wanted = field.intensity.to_unit(clear[plane, top : top + side, left : left + side])
            parts.append(float(((of(image)[0, 0].detach().numpy() - wanted) ** 2).mean()))
        return float(np.mean(parts))

    for number in range(120):
        step.run(NO_IMAGES, NO_IMAGES, switched=True, rng=torch.Generator().manual_seed(number))
    assert error(step.translator.generator) < 0.8 * error(lambda image: image)


def test_noise_of_a_few_pixels_teaches_nothing(domain):
    domain.noises = [replace(noise, covariance=np.full((9, 9), 0.5)) for noise in domain.noises]
    assert not any(UnitNoise(domain, CPU).shared)


def test_what_is_recorrupted_has_independent_noise(domain):
    noise = UnitNoise(domain, CPU)
    clear, rng = torch.full((1, 1, 600, 600), 0.5), torch.Generator().manual_seed(0)
    recorded, again = (noise.drawn(clear, [0], rng) for _ in range(2))
    one, other = recorded + RECORRUPTED * again, recorded - again / RECORRUPTED
    assert abs(float(np.corrcoef(one.flatten(), other.flatten())[0, 1])) < 0.01


def test_a_continued_run_equals_an_unbroken_one_to_the_bit(tiny_model, domain, tmp_path):
    domains = domain, domain

    def loops(run, folder, **options):
        (tmp_path / folder).mkdir(exist_ok=True)
        loop(run, domains, CPU, tmp_path / folder, board=None, progress=None, **options)

    loops(begun(tiny_model, domain), "unbroken")

    def stop(done):
        if done == 7:  # in the middle of a round
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loops(begun(tiny_model, domain), "broken", after_step=stop)
    again = begun(tiny_model, domain)
    continue_from(tmp_path / "broken", again, domains)
    assert again.done == 7
    loops(again, "broken")
    one, other = (load_file(tmp_path / folder / CHECKPOINT) for folder in ("unbroken", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_train_without_a_target_learns_from_the_source_alone(source, tiny_model, tmp_path, capsys):
    settings = tmp_path / "small.toml"
    settings.write_text('preset = "alone"\npatch_px = 32\nbatch = 2\n[alone]\nwindow_px = 64\nwindows = 4\n')
    arguments = ["train", "--source", str(source), "--from", str(tiny_model), "--steps", "12", "--json"]
    assert cli.main([*arguments, "-o", str(tmp_path / "model"), "--settings", str(settings)]) == 0
    answer = json.loads(capsys.readouterr().out)
    card = load_model(tmp_path / "model").card
    training = card["training"]
    assert (answer["preset"], answer["steps"], card["preset"], card["generalist"]) == ("alone", 12, "alone", False)
    assert training["start"]["weights_sha256"] == load_model(tiny_model).digest
    assert training["noise"][0]["sd_counts"] == pytest.approx(20, rel=0.15)
    assert (training["source"], training["target"], training["target_planes"]) == (["source.tif"], [], 0)
    assert training["command"].startswith("cellxlate train --source source.tif --from tiny --preset alone")
    assert card["intensity"]["target"] == load_model(tiny_model).card["intensity"]["target"]
    more = ["train", "--source", str(source), "--from", str(tmp_path / "model"), "--steps", "5", "--settings"]
    assert cli.main([*more, str(settings), "-o", str(tmp_path / "more"), "--quiet"]) == 0
    assert load_model(tmp_path / "more").card["training"]["start"]["steps"] == 12


def test_without_a_model_it_begins_with_the_shipped_one_that_is_nearest(source):
    assert nearest_model([source], None).name in ("cells", "nuclei-lowexp")


def test_the_same_seed_gives_the_same_model(source, tiny_model, tmp_path):
    models = [
        train(source, output=tmp_path / name, settings=SETTINGS, base=tiny_model, seed=seed).digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert models[0] == models[1] != models[2]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"preset": "fast"}, InputError, "no target image is given; name a folder of images, or leave out preset="),
        ({"preset": "alone", "target": "clear"}, InputError, "given as target, but the preset alone"),
        ({"baseline": "cyclegan"}, OptionError, "baseline='cyclegan' needs images to learn towards"),
        ({"masks": "masks"}, OptionError, "leave out guide= and masks="),
        ({"guide": "saliency"}, OptionError, "leave out guide= and masks="),
        ({"preset": "alone", "source": None}, InputError, "no source image is given"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(source, tmp_path, options, kind, words):
    with pytest.raises(kind, match=words) as caught:
        train(**{"source": source, "output": tmp_path / "model", **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.partial").exists()


@pytest.mark.parametrize(
    "change", [{"windows": 0}, {"window_px": 32}, {"round_steps": 0}, {"round_windows": 0}, {"turns": 9}]
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(OptionError, match=f"alone.{next(iter(change))} is"):
        check_settings(replace(PRESETS["alone"], alone=replace(PRESETS["alone"].alone, **change)))


def test_the_step_is_that_of_the_preset(tiny_model, domain):
    assert isinstance(begun(tiny_model, domain).step_function, AloneStep)

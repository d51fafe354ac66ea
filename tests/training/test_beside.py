"""Networks that see other channels beside the one they change: what is drawn, recorded, taught, and said of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import cellxlate
from cellxlate.cli import main
from cellxlate.errors import CellxlateError, InputError, OptionError
from cellxlate.model.bundle import load_model
from cellxlate.model.networks import TranslatorNetworks, seeing_neighbours
from cellxlate.settings import PRESETS, ImagingSettings, TrainSettings
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.training import loop as loop_module
from cellxlate.training import run as run_module
from cellxlate.training.fields.files import open_domain
from cellxlate.training.imaging.channels import ChannelProcesses
from cellxlate.training.imaging.process import ImagingProcess
from cellxlate.training.options import resolve
from cellxlate.training.steps import Draw, ImagingStep, LearnedStep

NAMES = ("DAPI", "GFP")
SIDE = 64


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of two channels collapse easily; that is no matter here."""
    monkeypatch.setattr(loop_module, "require_no_collapse", lambda history, step: None)


@pytest.fixture(scope="module")
def stains(tmp_path_factory: pytest.TempPathFactory, make_cells: Callable[..., Any]) -> SimpleNamespace:
    """Folders of stacks of two stains, 64 x 64 px: faint and clear; and clear ones of GFP alone."""
    folder, rng = tmp_path_factory.mktemp("stains"), np.random.default_rng(0)
    folders = {name: folder / name for name in ("source", "target", "single")}
    for path in folders.values():
        path.mkdir()
    for number in range(3):
        light = np.stack([make_cells(number, SIDE)[0], make_cells(50 + number, SIDE)[0]])
        faint = 100 + np.array([400, 120])[:, None, None] * ndimage.gaussian_filter(light, (0, 1.5, 1.5))
        for name, pixels in (("source", faint + rng.normal(0, 6, faint.shape)), ("target", 100 + 900 * light)):
            stack = Stack(np.rint(pixels).astype(np.uint16), "CYX", channel_names=NAMES)
            write_stacks([(stack, folders[name] / f"{name}{number}.ome.tif")])
        alone = Stack(np.rint(100 + 900 * light[1]).astype(np.uint16), "YX")
        write_stacks([(alone, folders["single"] / f"single{number}.ome.tif")])
    return SimpleNamespace(**folders)


@pytest.fixture(params=["fast", "paper"])
def tiny(request: pytest.FixtureRequest, tiny_fast: TrainSettings, tiny_paper: TrainSettings) -> TrainSettings:
    return replace({"fast": tiny_fast, "paper": tiny_paper}[request.param], steps=3)


def domain_of(folder: Path, **asked: Any) -> Any:
    return open_domain([folder], number=0, patch_px=32, load_px=None, **{"channel": "GFP", "beside": ["DAPI"], **asked})


# --- what is drawn


def test_patches_hold_both_channels_of_one_place_each_on_its_own_levels(stains: SimpleNamespace) -> None:
    domain = domain_of(stains.source)
    drawn = domain.draw(0, 6, patch_px=32, load_px=None, guided=True, seed=0)
    assert (drawn.images.shape, drawn.guides.shape) == ((6, 2, 32, 32), (6, 1, 32, 32))
    alone = domain_of(stains.source, beside=[]).draw(0, 6, patch_px=32, load_px=None, guided=True, seed=0)
    assert np.array_equal(drawn.images[:, :1], alone.images)  # the same places, turned alike
    assert np.array_equal(drawn.guides, alone.guides)
    field = domain.fields[0]
    (beside,) = field.beside
    assert (field.index, beside.index) == ((1,), (0,))
    expected = beside.intensity.to_unit(field.stack.read((0,)))
    places = np.lib.stride_tricks.sliding_window_view(expected, (32, 32)).reshape(-1, 32, 32)
    turned = [np.rot90(one[:, ::flip], turns) for one in drawn.images[:, 1] for flip in (1, -1) for turns in range(4)]
    assert any(np.abs(places - one).max(axis=(1, 2)).min() < 1e-6 for one in turned)


@pytest.mark.parametrize(
    ("folder", "asked", "words"),
    [
        ("single", {"channel": None}, "has one channel, and 'DAPI' is to be seen beside it: sources and targets need"),
        ("source", {"beside": ["Hoechst"]}, "has no channel 'Hoechst'"),
        ("source", {"beside": ["GFP"]}, "'GFP' is the channel to learn; leave it out of beside="),
        ("source", {"beside": ["DAPI", 0]}, "0' is named twice"),
    ],
)
def test_channels_that_cannot_be_seen_beside_are_said(
    stains: SimpleNamespace, folder: str, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError) as fault:
        domain_of(getattr(stains, folder), **asked)
    assert words in str(fault.value)


def test_a_channel_beside_that_shows_nothing_is_said(tmp_path: Path, stains: SimpleNamespace) -> None:
    for number in range(2):
        with cellxlate.open_stack(stains.source / f"source{number}.ome.tif") as stack:
            pixels = np.asarray(stack).copy()
        pixels[0] = np.random.default_rng(number).normal(100, 6, pixels[0].shape)
        write_stacks([(Stack(pixels, "CYX", channel_names=NAMES), tmp_path / f"empty{number}.ome.tif")])
    with pytest.raises(
        InputError, match=r"none of the source images has contrast .* in the channel 'DAPI', to be seen"
    ):
        domain_of(tmp_path)


# --- what is recorded


def process(blur_px: float, variance: float) -> ImagingProcess:
    return ImagingProcess(ImagingSettings((blur_px, blur_px), exposure_jitter=1), np.array([[variance, 0.0]]))


def test_each_channel_has_an_imaging_process_of_its_own() -> None:
    clear = torch.zeros(3, 2, 96, 96)
    clear[:, :, 30:60, 30:60] = 1
    both = ChannelProcesses([process(0.0, 0.01), process(3.0, 1e-6)])
    made = both(clear, torch.Generator().manual_seed(0))
    assert made.shape == clear.shape
    noisy, smooth = made[:, :, :20, :20].std(dim=(0, 2, 3))
    assert noisy > 20 * smooth
    assert made[:, 1, 45, 27:33].diff().abs().max() < 0.25  # its edges are blurred, those of the other are not
    alone = process(0.0, 0.01)(clear[:, :1], torch.Generator().manual_seed(0))
    assert torch.equal(made[:, :1], alone)


def test_fields_without_cells_keep_what_is_beside_half_of_the_time() -> None:
    both, recorded = ChannelProcesses([process(0.0, 0.01)] * 2), torch.rand(1, 2, 32, 32) + 5
    rng = torch.Generator().manual_seed(0)
    made = [both.without_cells(recorded, rng) for _ in range(200)]
    assert all(one.shape == recorded.shape and float(one[:, 0].mean()) < 2 for one in made)
    kept = sum(torch.equal(one[:, 1:], recorded[:, 1:]) for one in made)
    assert 80 < kept < 120
    assert sum(float(one[:, 1].mean()) < 2 for one in made) == 200 - kept


# --- what is taught


def test_a_step_moves_what_looks_at_the_channel_beside(tiny: TrainSettings) -> None:
    settings = replace(tiny, networks=replace(tiny.networks, beside=1))
    torch.manual_seed(0)
    step: Any = (
        ImagingStep(settings, ChannelProcesses([process(1.0, 0.01)] * 2), torch.device("cpu"))
        if settings.backward == "imaging"
        else LearnedStep(settings, torch.device("cpu"))
    )
    networks = (step.translator.generator, step.translator.attention)
    with torch.no_grad():  # a new residual generator is the identity, and moves its last layer alone
        for parameter in step.translator.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    firsts = [next(network.parameters()) for network in networks]
    before = [first.detach().clone() for first in firsts]
    draw = Draw(torch.rand(2, 2, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float())
    source, target = step.prepare(draw, draw, torch.Generator().manual_seed(0))
    terms = step.run(source, target, switched=False, rng=torch.Generator().manual_seed(0))
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    for first, old in zip(firsts, before, strict=True):
        of_beside = slice(first.shape[1] // 2, None)
        assert not torch.equal(first[:, of_beside], old[:, of_beside])


@pytest.mark.parametrize("architecture", ["unet", "compact", "resnet"])
def test_networks_return_the_own_channel_and_begin_by_making_nothing_of_the_other(architecture: Any) -> None:
    torch.manual_seed(0)
    networks = PRESETS["fast"].networks
    generator = replace(networks.generator, architecture=architecture, width=4, blocks=1, levels=2)
    alone = TranslatorNetworks(replace(networks, generator=generator)).eval()
    for weights in alone.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    wider, images = seeing_neighbours(alone, 0, beside=2), torch.rand(2, 3, 64, 64)
    assert (wider.inputs, wider.own) == (3, slice(0, -2, 1))
    for name in ("generator", "attention"):
        made, expected = getattr(wider, name)(images), getattr(alone, name)(images[:, :1])
        assert made.shape == expected.shape
        torch.testing.assert_close(made, expected)


def test_a_model_is_trained_resumed_and_names_its_channels(
    stains: SimpleNamespace, tiny: TrainSettings, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"channel": "gfp", "beside": "DAPI", "settings": tiny, "device": "cpu"}
    model = cellxlate.train(stains.source, stains.target, output=tmp_path / "whole", **asked)
    assert model.card["channels"] == {"own": "GFP", "beside": ["DAPI"]}
    assert model.card["networks"]["beside"] == model.networks.settings.beside == 1
    assert "--channel GFP --beside DAPI" in model.card["training"]["command"]
    assert (tmp_path / "whole" / "preview.png").stat().st_size > 1000
    assert model.networks.inputs == 2

    def stop(done: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cellxlate.train(stains.source, stains.target, output=tmp_path / "again", **asked, after_step=stop)
    again = cellxlate.train(stains.source, stains.target, output=tmp_path / "again", **asked, resume=True)
    assert again.digest == model.digest
    stack = Stack(np.zeros((2, 80, 80), np.uint16) + np.arange(80, dtype=np.uint16), "CYX", channel_names=NAMES)
    made = cellxlate.enhance(stack, model)
    assert np.array_equal(made.image[0], np.asarray(stack)[0])
    assert made.report.kept_violations == 0


def test_a_run_that_was_begun_by_a_version_that_knew_fewer_settings_goes_on(
    stains: SimpleNamespace, tiny_fast: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    def begun_earlier(partial: Path) -> dict[str, Any]:
        notes = run_notes(partial)
        del notes["settings"]["networks"]["beside"], notes["settings"]["networks"]["generator"]["room"]
        del notes["settings"]["guide_in_loop"]
        return notes

    asked: dict[str, Any] = {"channel": 1, "settings": replace(tiny_fast, steps=2), "output": tmp_path / "model"}
    with pytest.raises(KeyboardInterrupt):
        cellxlate.train(stains.source, stains.target, **asked, after_step=stop)
    run_notes = run_module.run_notes
    monkeypatch.setattr(run_module, "run_notes", begun_earlier)
    assert cellxlate.train(stains.source, stains.target, **asked, resume=True).networks.inputs == 1


def test_a_model_of_one_channel_learns_to_see_another(
    stains: SimpleNamespace, tiny_fast: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(tiny_fast, steps=2)
    base = cellxlate.train(stains.source, stains.target, output=tmp_path / "one", channel=1, settings=settings)
    assert "channels" not in base.card
    two = cellxlate.train(
        stains.source, stains.target, output=tmp_path / "two", channel=1, beside=[0], settings=settings, base=base
    )
    assert two.networks.settings.beside == 1
    assert two.card["training"]["start"]["name"] == "one"
    with pytest.raises(OptionError, match="two sees DAPI beside the channel that it changes, and 0 channels are named"):
        cellxlate.train(stains.source, stains.target, output=tmp_path / "x", channel=1, settings=settings, base=two)
    with pytest.raises(OptionError, match="without clear images a model learns from one channel alone"):
        cellxlate.train(stains.source, output=tmp_path / "x", channel=1, base=two)


@pytest.mark.parametrize("preset", ["general", "context", "alone"])
def test_what_learns_from_one_channel_says_so(preset: Any) -> None:
    asked: dict[str, Any] = {"guide": None, "masks": False, "baseline": "none", "epochs": None, "steps": None}
    with pytest.raises(OptionError, match="sees one channel, and 2 more are named; leave out beside="):
        resolve(None, preset=preset, seed=None, restarts=0, beside=2, **asked)


@pytest.mark.parametrize(
    ("networks", "words"),
    [({"beside": 2}, "the settings say networks.beside = 2, and 1 channel is named"),
     ({"channels": 2}, "networks.channels is 2, expected 1: one channel is changed; others that are to be seen too")],
)  # fmt: skip
def test_settings_that_count_other_channels_are_refused(networks: dict[str, int], words: str) -> None:
    settings = replace(PRESETS["fast"], networks=replace(PRESETS["fast"].networks, **networks))
    with pytest.raises(CellxlateError) as fault:
        resolve(settings, preset="fast", guide=None, masks=False, baseline="none", epochs=None, steps=None, seed=None,
                restarts=0, beside=1)  # fmt: skip
    assert words in str(fault.value)


def test_the_command_line_passes_them_on(
    stains: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--source", str(stains.source), "--target", str(stains.single), "-o", str(tmp_path / "model")]
    toml = tmp_path / "small.toml"
    toml.write_text("patch_px = 32\n")
    words += ["--settings", str(toml)]
    assert main([*words, "--channel", "GFP", "--beside", "DAPI"]) == 2
    said = capsys.readouterr().err
    assert "has no channel 'GFP'" in said or "sources and targets need both" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "model.partial").exists()
    assert load_model("nuclei-lowexp").networks.settings.beside == 0

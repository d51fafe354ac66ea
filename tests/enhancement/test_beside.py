"""Laws of channels that are seen beside those that change, through a whole run: found, read, noted, never changed."""

import importlib
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch

import cellxlate
from cellxlate.choice import choose
from cellxlate.cli import main
from cellxlate.enhancement.adaptation.adapt import adapt
from cellxlate.enhancement.cluster import worker as worker_room
from cellxlate.enhancement.flow import planes_to_do, read_ahead
from cellxlate.enhancement.job import Executor
from cellxlate.enhancement.neighbours.channels import choose_sight
from cellxlate.enhancement.outputs.rebuild import rebuild_report
from cellxlate.enhancement.plan import make_plan
from cellxlate.enhancement.plane import PlaneJob, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.errors import InputError, OptionError
from cellxlate.evaluation.evaluate import evaluate
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.model.cards import card_channels
from cellxlate.model.engines.engine import open_engine
from cellxlate.model.export.bioimage import export_package, translator_onnx
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.training.strokes import learn_strokes

TORCH: dict[str, Any] = {"engine": "torch", "device": "cpu"}
LEVELS = IntensityRange(100.0, 220.0), IntensityRange(90.0, 260.0)
Counts = npt.NDArray[np.uint16]


def counts(*shape: int, seed: int = 0) -> Counts:
    """A noisy ramp, whose bright half is selected."""
    noise = np.random.default_rng(seed).normal(0, 12, shape)
    return (noise + np.linspace(80, 240, shape[-1])).astype(np.uint16)


def two_stains(rows: int = 60, names: tuple[str, ...] = ("DAPI", "GFP"), planes: int = 2) -> Stack:
    return Stack(counts(planes, len(names), rows, 40), "TCYX", "cells", channel_names=names)


@pytest.fixture
def seeing(models_beside: dict[str, Path]) -> Path:
    return models_beside["seeing"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cells.ome.tif"
    write_stacks([(two_stains(600), path)])
    return path


def enhanced(file: Path, model: Path, folder: str, **asked: Any) -> Any:
    return cellxlate.enhance_file(file, model, output_dir=file.parent / folder, tile_px=64, **asked, **TORCH)


def pixels_of(report: Any) -> list[Counts]:
    found = []
    for name in ("enhanced", "attention"):
        with cellxlate.open_stack(report.outputs[name]) as opened:
            found.append(np.asarray(opened).copy())
    return found


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(pixels_of(one), pixels_of(other), strict=True))


# --- what is seen, and that it is only seen


def test_the_channel_beside_is_seen_at_the_same_place_on_its_own_levels(seeing: Path) -> None:
    """Laid into a window by hand, own channel first, both make the bits of the run."""
    raw, translator = counts(2, 60, 40), open_engine(load_model(seeing), **TORCH)
    job = PlaneJob(translator, {1: LEVELS[1]}, beside={0: LEVELS[0]})
    plane = job.input(Stack(raw, "CYX"), (1,))
    assert plane.own == slice(0, -1, 1)
    assert plane.seen == ((1,), (0,))
    (area,) = bands_of((60, 40), 512)
    rows = plane.rows(area, job.margin_px)
    expected = np.stack([LEVELS[1].to_unit(raw[1]), LEVELS[0].to_unit(raw[0])])
    np.testing.assert_allclose(rows.window(area), expected, atol=1e-6)
    (band,) = enhance_plane(plane, [area], job)
    assert 0.1 < (band.attention > 0).mean() < 0.9
    assert [index for index, _ in band.beside] == [(0,)]
    other = raw.copy()
    other[0, 20:40] += 40
    (changed,) = enhance_plane(job.input(Stack(other, "CYX"), (1,)), [area], job)
    assert not np.array_equal(changed.enhanced, band.enhanced)
    assert np.array_equal(changed.raw, band.raw)


def test_networks_that_make_nothing_of_it_give_the_pixels_of_those_without(
    tiny_model: Path, models_beside: dict[str, Path]
) -> None:
    stack = two_stains()
    alone = cellxlate.enhance(stack, tiny_model, channels="GFP", **TORCH)
    blind, seen = (cellxlate.enhance(stack, models_beside[name], **TORCH) for name in ("blind", "seeing"))
    assert np.array_equal(alone.image, blind.image)
    assert np.array_equal(alone.attention, blind.attention)
    assert (seen.image != alone.image).mean() > 0.05
    for made in (blind, seen):
        assert np.array_equal(made.image[:, 0], np.asarray(stack)[:, 0])  # DAPI
        assert not made.attention[:, 0].any()
        assert made.report.kept_violations == 0


@pytest.mark.parametrize("model", ["blind", "seeing"])
def test_engines_agree_on_what_they_see(models_beside: dict[str, Path], model: str) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    windows = np.random.default_rng(0).random((2, 2, 96, 96)).astype(np.float32)
    bundle = load_model(models_beside[model])
    made = {}
    for engine in ("torch", "openvino", "onnxruntime"):
        opened = open_engine(bundle, engine=engine, device="cpu")  # type: ignore[arg-type]
        made[engine] = opened.attention(windows), opened.proposal(windows)
        assert made[engine][1].shape[1] == 1
    for engine in ("openvino", "onnxruntime"):
        for ours, theirs in zip(made["torch"], made[engine], strict=True):
            np.testing.assert_allclose(theirs, ours, atol=2e-5)


def test_what_is_read_ahead_holds_what_is_seen(seeing: Path) -> None:
    plan = make_plan(two_stains(), load_model(seeing), channels=None, settings=None, streams=1, **TORCH)
    for plane, open_plane in read_ahead(plan, planes_to_do(plan, lambda *_: False)):
        job = plan.job_of(plane.indices[0])
        seen = job.planes_seen(plan.stack, plane.indices[0]) if job else plane.indices
        assert len(seen) == (2 if job else 1)
        for index in seen:
            assert np.array_equal(open_plane(index)(slice(0, 60)), plan.stack.read(index))


# --- which channels


def sight(stack: Stack, model: Path | Bundle | None, channels: Any = None, beside: Any = None) -> Any:
    return choose_sight(stack, load_model(model) if isinstance(model, Path) else model, channels, beside)


def test_channels_are_found_by_the_names_of_the_card(seeing: Path) -> None:
    assert sight(two_stains(), seeing) == ((1,), (0,))
    assert sight(two_stains(names=("gfp ", "Dapi")), seeing) == ((0,), (1,))
    assert sight(two_stains(names=("DAPI", "mCherry")), seeing) == ((1,), (0,))  # the only one left
    three = two_stains(names=("RFP", "DAPI", "GFP"))
    assert sight(three, seeing) == ((2,), (1,))
    assert sight(three, seeing, channels=["RFP", "GFP"]) == ((0, 2), (1,))
    assert sight(three, seeing, beside="RFP") == ((2,), (0,))
    unnamed = Stack(counts(2, 30, 30), "CYX", "plain")
    assert sight(unnamed, seeing, beside=0) == ((1,), (0,))
    assert sight(unnamed, seeing, channels=[0], beside=["1"]) == ((0,), (1,))


def test_several_are_taken_in_the_order_of_the_card_or_of_the_words(seeing: Path) -> None:
    bundle = load_model(seeing)
    networks = replace(bundle.networks, settings=replace(bundle.networks.settings, beside=2))
    card = {**bundle.card, "channels": {"own": "GFP", "beside": ["DAPI", "RFP"]}}
    two = replace(bundle, networks=networks, card=card)
    stack = two_stains(names=("RFP", "GFP", "DAPI"))
    assert sight(stack, two) == ((1,), (2, 0))
    assert sight(stack, two, beside=["RFP", "DAPI"]) == ((1,), (0, 2))
    with pytest.raises(OptionError, match="sees DAPI, RFP beside the channel that it changes, and 1 channel is named"):
        sight(stack, two, beside=["RFP"])
    with pytest.raises(OptionError, match="named twice"):
        sight(stack, two, beside=["RFP", 0])


@pytest.mark.parametrize(
    ("stack", "asked", "words"),
    [
        (two_stains(names=("Hoechst", "GFP")), {}, "sees DAPI beside the channel that it changes, and cells has 0 Hoech"
         "st, 1 GFP; name what it shall see with beside="),
        (Stack(counts(30, 30), "YX", "grey"), {}, "and grey has 1 channel without a name; name what"),
        (Stack(counts(2, 30, 30), "CYX", "plain"), {}, "and plain has 2 channels without names; name what"),
        (two_stains(names=("A", "DAPI", "B")), {}, "changes GFP alone, and cells has 2 that it could be; choose with"),
        (two_stains(names=("A", "DAPI")), {"channels": "DAPI"}, "DAPI is seen beside by seeing, and stays as it is"),
        (two_stains(names=("A", "DAPI")), {"beside": "X"}, "cells has no channel 'X'"),
        (two_stains(), {"attention_channel": "DAPI"}, "looks for what may change with DAPI in view; leave out"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(seeing: Path, stack: Stack, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as fault:
        cellxlate.enhance(stack, seeing, **asked, **TORCH)
    assert words in str(fault.value)


def test_models_of_one_channel_see_none_beside(tiny_model: Path, seeing: Path) -> None:
    with pytest.raises(OptionError, match="beside= names 1 channel, and tiny sees none beside the one that it changes"):
        cellxlate.enhance(two_stains(), tiny_model, beside="DAPI", **TORCH)
    with pytest.raises(OptionError, match="what enhances here sees none beside"):
        cellxlate.enhance(two_stains(), beside="DAPI", **TORCH)
    with pytest.raises(OptionError, match="was not trained to see the planes beside one"):
        cellxlate.enhance(two_stains(), seeing, context="t", **TORCH)


def test_what_learns_from_one_channel_refuses_such_a_model(seeing: Path) -> None:
    with pytest.raises(OptionError, match=r"seeing sees DAPI beside .* without clear images a model learns from one"):
        adapt(two_stains(96), seeing, steps=1)
    with pytest.raises(OptionError, match="seeing looks for cells with DAPI in view, and strokes teach on one channel"):
        learn_strokes(load_model(seeing), [counts(64, 64)], [np.ones((64, 64), int)])


# --- files, workers, and runs that go on


def by_workers(plan: Any, image: Any, attention: Any, _started: float) -> Any:
    """Write every band as workers of a cluster would, in an order of their own."""
    worker_room.keep_model(plan.bundle, 1)
    own = worker_room.band_job(plan, "beside", image=image.pyramid, attention=attention.pyramid, origins=image.origins)
    parts = [(plane.indices[0], area) for plane in planes_to_do(plan, lambda *_: False) for area in plane.wanted]
    worker_room.enhance_bands(own, parts[::-1])
    worker_room.forget_job("beside")
    yield from ()


class StopError(Exception):
    """What interrupts a run."""


def stopped(file: Path, model: Path, folder: str, *, after: int, **asked: Any) -> None:
    told = []

    def stop(news: Any) -> None:
        told.append(news)
        if len(told) == after:
            raise StopError

    with pytest.raises(StopError):
        enhanced(file, model, folder, progress=stop, **asked)


def test_workers_tiles_and_resumed_runs_give_the_same_pixels(file: Path, seeing: Path) -> None:
    whole = enhanced(file, seeing, "whole")
    assert same(whole, enhanced(file, seeing, "workers", where=Executor(by_workers)))
    stopped(file, seeing, "stopped", after=3)
    assert same(whole, enhanced(file, seeing, "stopped", resume=True))
    assert "nothing was written" in enhanced(file, seeing, "stopped", resume=True).warnings[0]


def test_a_channel_beside_that_changed_meanwhile_is_noticed(
    tmp_path: Path, seeing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first plane of GFP is done when DAPI beside it changes; its own band has only been copied."""
    identity = importlib.import_module("cellxlate.enhancement.outputs.identity")
    monkeypatch.setattr(identity, "SAMPLED_BYTES", 256)  # as blind as that of a large file
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, np.asarray(two_stains(600, ("GFP", "DAPI"))), photometric="minisblack")
    asked: dict[str, Any] = {"axes": "TCYX", "beside": 1}
    asked["levels_from"] = enhanced(path, seeing, "before", **asked).outputs["enhanced"]
    stopped(path, seeing, "after", after=2, **asked)
    before, pixels = path.stat(), tifffile.memmap(path, mode="r+")
    pixels[0, 1, 300, 30] += np.uint16(9)
    pixels.flush()
    del pixels
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="changed after the run began"):
        enhanced(path, seeing, "after", resume=True, **asked)


def test_the_command_line_names_it_in_report_record_and_command(
    file: Path, seeing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = file.parent / "results"
    words = ["enhance", str(file), "-m", str(seeing), "--engine", "torch", "--output-dir", str(folder)]
    assert main([*words, "--confidence"]) == 0
    assert "seen beside DAPI, which stays as it is" in " ".join(capsys.readouterr().out.split())
    stated = json.loads((folder / "cells_report.json").read_text())
    assert stated["beside"] == stated["provenance"]["beside_names"] == ["DAPI"]
    assert stated["provenance"]["beside"] == [0]
    assert list(stated["provenance"]["levels_counts"]) == ["1"]
    assert "--channel 1 --beside 0" in stated["command"]
    assert "DAPI, which stays as it is" in (folder / "cells_report.html").read_text()
    assert rebuild_report(folder / "cells_enhanced.ome.tif", source=file).as_dict()["beside"] == ["DAPI"]
    again = enhanced(file, seeing, "again", levels_from=folder / "cells_report.json")
    assert np.array_equal(pixels_of(again)[0], pixels_of(enhanced(file, seeing, "measured"))[0])
    assert main([*words, "--overwrite", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["beside"] == ["DAPI"]


def test_the_command_line_refuses_in_one_line(tmp_path: Path, seeing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cells.ome.tif"
    write_stacks([(two_stains(names=("Hoechst", "GFP")), path)])
    for further in ([], ["--dry-run"], ["--slurm", str(tmp_path / "job.sh")]):
        assert main(["enhance", str(path), "-m", str(seeing), *further]) == 2
        said = capsys.readouterr().err
        assert "and cells has 0 Hoechst, 1 GFP; name what it shall see with --beside" in said
        assert said.count("\n") == 1
    assert not list(tmp_path.glob("*_enhanced*"))
    assert main(["enhance", str(path), "-m", str(seeing), "--beside", "Hoechst", "--engine", "torch"]) == 0


def test_auto_takes_no_model_that_wants_to_see_more(
    seeing: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    for folder in (seeing, tiny_model):
        shutil.copytree(folder, shipped / folder.name)
    monkeypatch.setattr("cellxlate.model.cards.SHIPPED", shipped)
    assert list(choose(two_stains(), (0, 1)).considered) == ["tiny"]


def test_an_exported_graph_answers_for_the_own_channel(seeing: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    bundle, images = load_model(seeing), np.random.default_rng(0).random((1, 2, 64, 64)).astype(np.float32)
    session = runtime.InferenceSession(translator_onnx(bundle.translator).SerializeToString())
    enhanced, attention, proposal = session.run(None, {"images": images})
    assert enhanced.shape == attention.shape == proposal.shape == (1, 1, 64, 64)
    gate = np.clip((attention - 0.1) / 0.9, 0, 1)
    np.testing.assert_allclose(enhanced, images[:, :1] + gate * (proposal - images[:, :1]), atol=1e-6)
    with torch.inference_mode():
        expected = bundle.translator.generator(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(proposal, expected, atol=2e-5)


def test_a_package_names_its_channels(seeing: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with zipfile.ZipFile(export_package(load_model(seeing), tmp_path / "m.zip", authors=["A"])) as package:
        stated, note = json.loads(package.read("rdf.yaml")), package.read("README.md").decode()
    (given,), answers = stated["inputs"], stated["outputs"]
    assert given["axes"][1]["channel_names"] == ["GFP", "DAPI"]
    assert [one["axes"][1]["channel_names"] for one in answers] == [["GFP"], ["attention"], ["GFP"]]
    assert "DAPI: seen beside the channel that is changed, which comes first." in note


def test_names_of_a_card_that_no_message_can_hold_are_none() -> None:
    card = {"channels": {"own": "G\nFP", "beside": ["DA\x1bPI", 7, None, "RFP"]}}
    assert card_channels(card) == (None, (7, "RFP"))


def test_info_says_what_a_model_wants_to_see(seeing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(seeing)]) == 0
    assert "changes GFP, and sees DAPI beside it" in " ".join(capsys.readouterr().out.split())


def test_the_channel_that_changes_alone_is_scored(tmp_path: Path, seeing: Path) -> None:
    for folder in ("source", "truth"):
        (tmp_path / folder).mkdir()
        write_stacks([(two_stains(96, planes=1), tmp_path / folder / "cells.ome.tif")])
    scores = evaluate(seeing, source=tmp_path / "source", truth=tmp_path / "truth")
    with cellxlate.open_stack(tmp_path / "source" / "cells.ome.tif") as stack:
        made = cellxlate.enhance(stack, seeing)
        changed = 100 * float((made.image[:, 1] != np.asarray(stack)[:, 1]).mean())
    assert scores["images"][0]["changed_percent"] == pytest.approx(changed)
    assert changed > 5


def test_the_settings_of_a_sample_are_those_of_the_run(file: Path, seeing: Path) -> None:
    settings = EnhanceSettings(tile_px=64)
    with cellxlate.open_stack(file) as stack:
        plan = make_plan(stack, load_model(seeing), channels=None, settings=settings, **TORCH)
        assert (plan.channels, list(plan.beside), plan.beside_named) == ([1], [0], ("DAPI",))
        assert plan.jobs[0].planes_seen(stack, (1, 1)) == [(1, 1), (1, 0)]

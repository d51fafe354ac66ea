"""Laws of neighbours through a whole run: what is seen, read once, the same however it is cut, and gone on with."""

import importlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement import flow
from cellxlate.enhancement import input as input_room
from cellxlate.enhancement.batch import enhance_files
from cellxlate.enhancement.cluster import worker as worker_room
from cellxlate.enhancement.flow import EnhanceProgress, enhanced_bands, planes_to_do
from cellxlate.enhancement.input import Context
from cellxlate.enhancement.job import Executor
from cellxlate.enhancement.outputs.rebuild import rebuild_report
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.plane import OwnAttention, PlaneJob, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.errors import InputError, OptionError, OutputError
from cellxlate.model.bundle import load_model
from cellxlate.model.engines.engine import open_engine
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

BESIDE = Context.beside("Z", 2)
RANGE = IntensityRange(100.0, 220.0)
TORCH: dict[str, Any] = {"engine": "torch", "device": "cpu"}


def planes(*shape: int, seed: int = 0) -> npt.NDArray[np.uint16]:
    """A noisy ramp, whose bright half is selected."""
    noise = np.random.default_rng(seed).normal(0, 12, shape)
    return (noise + np.linspace(80, 240, shape[-1])).astype(np.uint16)


def changed(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return float((one != other).mean())


# --- what is seen


@pytest.mark.parametrize(
    ("size", "at", "seen"),
    [(5, 0, [1, 0, 0, 1, 2]), (5, 4, [2, 3, 4, 4, 3]), (5, 2, [0, 1, 2, 3, 4]), (2, 0, [1, 0, 0, 1, 1]),
     (2, 1, [0, 0, 1, 1, 0]), (1, 0, [0, 0, 0, 0, 0])],
)  # fmt: skip
def test_a_plane_is_made_from_those_around_it_mirrored_at_the_ends(
    models_in_context: dict[str, Path], size: int, at: int, seen: list[int]
) -> None:
    """The planes that are seen, laid beside each other by hand, make the same bits."""
    bundle = load_model(models_in_context["seeing"]).seeing(2)
    job = PlaneJob(open_engine(bundle, **TORCH), {0: RANGE}, context=BESIDE)
    raw = planes(size, 60, 50)

    def made(stack: Stack, index: int) -> tuple[bytes, float]:
        [band] = enhance_plane(job.input(stack, (index,)), bands_of(stack.plane_shape, 512), job)
        assert 0.1 < (band.attention > 0).mean() < 0.9
        return band.enhanced.tobytes() + band.attention.tobytes(), changed(band.enhanced, band.raw)

    own, share = made(Stack(raw, "ZYX"), at)
    assert share > 0.1
    assert own == made(Stack(raw[seen], "ZYX"), 2)[0]
    if size > 1:
        others = [one if one == at else (one + 1) % size for one in seen]
        assert own != made(Stack(raw[others], "ZYX"), 2)[0]


@pytest.mark.parametrize("axis", ["z", "t"])
def test_networks_that_make_nothing_of_neighbours_give_the_same_pixels_as_without(
    models_in_context: dict[str, Path], axis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellxlate.enhancement.gates.source.SteadyAttention", OwnAttention)  # whatever is beside
    stack = Stack(planes(3, 4, 70, 60), "TZYX")
    alone, beside = (
        cellxlate.enhance(stack, models_in_context["blind"], context=context, **TORCH) for context in ("none", axis)
    )
    assert np.array_equal(alone.image, beside.image)
    assert np.array_equal(alone.attention, beside.attention)
    assert changed(alone.image, np.asarray(stack)) > 0.1
    seen = cellxlate.enhance(stack, models_in_context["seeing"], context=axis, **TORCH)
    assert changed(alone.image, seen.image) > 0.1


def test_channels_see_their_own_neighbours_and_opacity_is_copied(models_in_context: dict[str, Path]) -> None:
    raw = np.stack([planes(3, 40, 50, seed=seed) for seed in range(4)], axis=-1)
    after = cellxlate.enhance(Stack(raw, "ZYXS"), models_in_context["seeing"], context="z", color="separate", **TORCH)
    assert after.image[..., 3].tobytes() == raw[..., 3].tobytes()
    assert not after.attention[..., 3].any()
    first = Stack(raw[..., 0], "ZYX")
    alone = cellxlate.enhance(first, models_in_context["seeing"], context="z", **TORCH)
    assert np.array_equal(after.image[..., 0], alone.image)


# --- each plane is read once, in whatever order the axes are


class CountedPixels:
    """Pixels in memory that count what is read."""

    def __init__(self, pixels: npt.NDArray[Any]) -> None:
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype
        self.read: Counter[str] = Counter()

    def __getitem__(self, key: Any) -> Any:
        self.read[str(key)] += 1
        return self.pixels[key]


def plan_of(stack: Stack, model: Path, axis: Any, *, tile_px: int = 64, streams: int = 1) -> Plan:
    settings = EnhanceSettings(tile_px=tile_px, context=axis)
    return make_plan(stack, model, channels=None, settings=settings, streams=streams, **TORCH)


def written(plan: Plan) -> npt.NDArray[Any]:
    """Image and attention, (2, planes, Y, X) in the order of the stack, from bands that come in any order."""
    stack = plan.stack
    made = np.zeros((2, *(stack.size(axis) for axis in stack.plane_axes), *stack.plane_shape), stack.dtype)
    done = []
    for index, band, news in enhanced_bands(plan, started=0.0):
        rows = slice(band.first_row, band.first_row + len(band.raw))
        made[(slice(None), *index, rows)] = band.enhanced, band.attention
        done.append(news.done)
    assert done == sorted(done)
    assert done[-1] == pytest.approx(stack.plane_count)
    assert len(done) == stack.plane_count * len(list(bands_of(stack.plane_shape, plan.tile_px)))
    return made


@pytest.mark.parametrize(("axes", "axis"), [("TCZYX", "z"), ("TCZYX", "t"), ("TZCYX", "z"), ("ZTYXC", "t")])
@pytest.mark.parametrize("streams", [1, 3])
def test_each_plane_is_read_and_looked_at_once(
    models_in_context: dict[str, Path], axes: str, axis: Any, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"T": 7, "C": 2, "Z": 6, "Y": 24, "X": 40}
    raw = planes(7, 2, 6, 24, 40).transpose(["TCZYX".index(letter) for letter in axes])
    assert raw.shape == tuple(sizes[letter] for letter in axes)
    counted = CountedPixels(raw)
    plan = plan_of(Stack(counted, axes), models_in_context["seeing"], axis, streams=streams)
    counted.read.clear()
    looked: list[int] = []
    look = input_room.network_input
    monkeypatch.setattr(input_room, "network_input", lambda *both: looked.append(1) or look(*both))
    whole = written(plan)
    assert set(counted.read.values()) == {1}
    assert len(counted.read) == 7 * 2 * 6
    assert len(looked) == 84 if streams == 1 else 84 <= len(looked) < 2 * 84  # one of several may come late
    monkeypatch.undo()
    alone = written(plan_of(Stack(raw, axes), models_in_context["seeing"], "none"))
    assert changed(whole[0], alone[0]) > 0.1


@pytest.mark.parametrize("axes", ["TZYX", "ZTYX"])
def test_large_planes_are_read_once_too_band_by_band(
    models_in_context: dict[str, Path], axes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = planes(2, 6, 1100, 30)
    raw = raw if axes == "TZYX" else raw.swapaxes(0, 1)
    whole = written(plan_of(Stack(raw, axes), models_in_context["seeing"], "z"))
    counted = CountedPixels(raw)
    plan = plan_of(Stack(counted, axes), models_in_context["seeing"], "z")
    counted.read.clear()
    monkeypatch.setattr(flow, "HELD_BYTES", 0)
    assert np.array_equal(written(plan), whole)
    assert set(counted.read.values()) == {1}
    assert len(counted.read) == 2 * 6 * 3


@pytest.mark.parametrize("held_bytes", [flow.HELD_BYTES, 0])
def test_the_same_pixels_for_any_tile_and_number_of_bands_at_once(
    models_in_context: dict[str, Path], held_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "HELD_BYTES", held_bytes)
    raw = planes(4, 600, 50)
    raw[1, 200:300] = 80  # nothing is selected there
    stack, model = Stack(raw, "ZYX"), models_in_context["seeing"]
    whole = written(plan_of(stack, model, "z", tile_px=2048))
    for tile_px, streams in ((64, 3), (100, 1), (512, 2)):
        made = written(plan_of(stack, model, "z", tile_px=tile_px, streams=streams))
        assert np.array_equal(made[1], whole[1])
        assert np.abs(made[0].astype(int) - whole[0]).max() <= 1
        assert changed(made[0], whole[0]) < 1e-4


def test_nothing_is_kept_longer_than_it_is_seen(models_in_context: dict[str, Path]) -> None:
    plan = plan_of(Stack(planes(40, 24, 40), "ZYX"), models_in_context["seeing"], "z")
    see = flow.seen_planes(plan)
    for z in range(40):
        plan.jobs[0].input(plan.stack, (z,), see=see).rows(next(bands_of((24, 40), 64)), 8)
    assert len(see._kept) == 7  # type: ignore[attr-defined]


def test_what_cannot_be_read_is_said_to_all_who_wait_and_read_again(models_in_context: dict[str, Path]) -> None:
    plan = plan_of(Stack(planes(3, 24, 40), "ZYX"), models_in_context["seeing"], "z")
    see, area = flow.seen_planes(plan), next(bands_of((24, 40), 64))

    def damaged(_rows: slice) -> Any:
        raise InputError("damaged")

    for _ in range(2):
        with pytest.raises(InputError, match="damaged"):
            plan.jobs[0].input(plan.stack, (1,), lambda _index: damaged, see).rows(area, 8)
    assert plan.jobs[0].input(plan.stack, (1,), see=see).rows(area, 8).counts.shape == (1, 24, 40)


# --- files, workers, and runs that go on


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "cells.ome.tif"
    write_stacks([(Stack(planes(5, 600, 40), "ZYX"), path)])
    return path


def enhanced(stack: Path, model: Path, folder: str, **asked: Any) -> Any:
    return cellxlate.enhance_file(
        stack, model, output_dir=stack.parent / folder, tile_px=64, **{"context": "z", **asked}, **TORCH
    )


def pixels_of(report: Any) -> list[Any]:
    found = []
    for name in ("enhanced", "attention"):
        with cellxlate.open_stack(report.outputs[name]) as opened:
            found.append(np.asarray(opened).copy())
    return found


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(pixels_of(one), pixels_of(other), strict=True))


class StopError(Exception):
    """What interrupts a run."""


def stopped(stack: Path, model: Path, folder: str, *, after: int = 3, **asked: Any) -> None:
    """Stop a run after so many bands."""
    told: list[EnhanceProgress] = []

    def stop(news: EnhanceProgress) -> None:
        told.append(news)
        if len(told) == after:
            raise StopError

    with pytest.raises(StopError):
        enhanced(stack, model, folder, progress=stop, **asked)


def by_workers(plan: Plan, image: Any, attention: Any, started: float) -> Iterator[EnhanceProgress]:
    """Write every band as workers of a cluster would, in an order of their own."""
    worker_room.keep_model(plan.bundle, 1)
    own = worker_room.band_job(plan, "context", image=image.pyramid, attention=attention.pyramid, origins=image.origins)
    parts = [(plane.indices[0], area) for plane in planes_to_do(plan, lambda *_: False) for area in plane.wanted]
    for number in (0, 1):
        worker_room.enhance_bands(own, parts[number::2])
    worker_room.forget_job("context")
    yield from ()


def test_workers_give_the_pixels_of_one_process(stack: Path, models_in_context: dict[str, Path]) -> None:
    model = models_in_context["seeing"]
    alone = enhanced(stack, model, "alone")
    assert same(alone, enhanced(stack, model, "workers", where=Executor(by_workers)))
    assert alone.kept_violations == 0
    assert not same(alone, enhanced(stack, model, "none", context="none"))


def test_a_run_that_was_stopped_goes_on_and_sees_what_it_saw(stack: Path, models_in_context: dict[str, Path]) -> None:
    model = models_in_context["seeing"]
    whole = enhanced(stack, model, "whole")
    stopped(stack, model, "stopped")
    with pytest.raises(OutputError, match="begun with other settings"):
        enhanced(stack, model, "stopped", context="none", resume=True)
    went_on = enhanced(stack, model, "stopped", context="auto", resume=True)
    assert same(whole, went_on)
    stated = {"axis": "z", "planes": 2, "reason": "as it was chosen when the run began"}
    assert went_on.as_dict()["context"] == stated
    with pytest.raises(OutputError, match="finished, but from other settings"):
        enhanced(stack, model, "stopped", context="none", resume=True)
    again = enhanced(stack, model, "stopped", context="auto", resume=True)
    assert any("nothing was written" in warning for warning in again.warnings)
    assert again.as_dict()["context"] == stated


def test_a_run_that_saw_none_goes_on_with_none(stack: Path, models_in_context: dict[str, Path]) -> None:
    model = models_in_context["seeing"]
    stopped(stack, model, "stopped", context="none")
    with pytest.raises(OutputError, match="begun with other settings"):
        enhanced(stack, model, "stopped", context="z", resume=True)
    assert enhanced(stack, model, "stopped", context="auto", resume=True).as_dict()["context"]["axis"] is None


@pytest.mark.parametrize(("plane", "row", "matters"), [(2, 300, True), (4, 590, True), (5, 300, False)])
def test_a_neighbour_that_changed_meanwhile_is_noticed(
    tmp_path: Path, models_in_context: dict[str, Path], plane: int, row: int, matters: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two planes are done: the second, and its gate, saw up to the fifth; only pixels tell of the change."""
    identity = importlib.import_module("cellxlate.enhancement.outputs.identity")
    monkeypatch.setattr(identity, "SAMPLED_BYTES", 256)  # as blind as that of a large file
    path, raw = tmp_path / "cells.tif", planes(6, 600, 40)
    tifffile.imwrite(path, raw, photometric="minisblack")
    levels = enhanced(path, models_in_context["seeing"], "before", axes="ZYX")
    asked = {"axes": "ZYX", "levels_from": levels.outputs["enhanced"]}
    stopped(path, models_in_context["seeing"], "after", after=4, **asked)
    before = path.stat()
    pixels = tifffile.memmap(path, mode="r+")
    pixels[plane, row, 30] += np.uint16(9)
    pixels.flush()
    del pixels
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    if matters:
        with pytest.raises(InputError, match=r"changed after the run began \(Z=\d from row"):
            enhanced(path, models_in_context["seeing"], "after", resume=True, **asked)
        return
    went_on = enhanced(path, models_in_context["seeing"], "after", resume=True, **asked)
    assert same(went_on, enhanced(path, models_in_context["seeing"], "fresh", **asked))


# --- what is asked for


def test_what_stack_or_model_do_not_have_is_refused(tiny_model: Path, models_in_context: dict[str, Path]) -> None:
    depth, flat = Stack(planes(3, 24, 40), "ZYX", "depth"), Stack(planes(1, 24, 40), "ZYX", "flat")
    with pytest.raises(OptionError, match="depth has no planes beside one along time, it has 3 along Z"):
        cellxlate.enhance(depth, models_in_context["blind"], context="t")
    with pytest.raises(OptionError, match="flat has no planes beside one along z, it has 1 along Z"):
        cellxlate.enhance(flat, models_in_context["blind"], context="z")
    with pytest.raises(OptionError, match="tiny was not trained to see the planes beside one"):
        cellxlate.enhance(depth, tiny_model, context="z")
    with pytest.raises(OptionError, match="context='y' is not known"):
        cellxlate.enhance(depth, models_in_context["blind"], context="y")  # type: ignore[arg-type]
    for stack, model in ((depth, tiny_model), (flat, models_in_context["blind"])):
        report = cellxlate.enhance(stack, model, **TORCH).report
        assert report.as_dict()["context"]["axis"] is None
        assert report.as_dict()["context"]["reason"]


def test_the_command_line_says_it_in_one_line(
    stack: Path, tiny_model: Path, models_in_context: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for model, axis, words in (
        (tiny_model, "z", "--context z: tiny was not trained to see the planes beside one; choose another -m"),
        (models_in_context["blind"], "t", "--context t: cells has no planes beside one along time"),
    ):
        for further in ([], ["--dry-run"], ["--slurm", str(stack.with_name("job.sh"))]):
            assert main(["enhance", str(stack), "-m", str(model), "--context", axis, *further]) == 2
            said = capsys.readouterr().err
            assert words in said
            assert said.count("\n") == 1
    assert not list(stack.parent.glob("*_enhanced*"))


def test_reports_state_what_was_seen_and_the_command_says_it_again(
    stack: Path, models_in_context: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stack.parent / "results"
    words = ["enhance", str(stack), "-m", str(models_in_context["seeing"]), "--engine", "torch", "--output-dir"]
    assert main([*words, str(folder), "--context", "z", "--confidence"]) == 0
    assert "neighbours 2 planes on either side along z: as asked for" in " ".join(capsys.readouterr().out.split())
    stated = json.loads((folder / "cells_report.json").read_text())
    expected = {"axis": "z", "planes": 2, "reason": "as asked for"}
    assert stated["context"] == stated["provenance"]["context"] == expected
    assert stated["provenance"]["settings"]["context"] == "z"
    assert "--context z" in stated["command"]
    assert "2 planes on either side along z" in (folder / "cells_report.html").read_text()
    assert rebuild_report(folder / "cells_enhanced.ome.tif", source=stack).as_dict()["context"] == expected
    assert main([*words, str(folder), "--context", "z", "--overwrite", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["context"] == expected


def test_many_stacks_of_which_one_has_no_neighbours(stack: Path, models_in_context: dict[str, Path]) -> None:
    flat = stack.with_name("flat.ome.tif")
    write_stacks([(Stack(planes(24, 40), "YX"), flat)])
    outcome = enhance_files(
        [stack, flat], models_in_context["blind"], context="z", output_dir=stack.parent / "many", **TORCH
    )
    assert [one.path.name for one in outcome.failed] == ["flat.ome.tif"]
    assert outcome.stacks[0].report.as_dict()["context"]["axis"] == "z"  # type: ignore[union-attr]


def test_a_card_that_sees_fewer_planes_is_not_asked_for_more(models_in_context: dict[str, Path]) -> None:
    bundle = load_model(models_in_context["blind"])
    assert bundle.seeing(0) is bundle
    assert bundle.seeing(2).networks.inputs == 5
    with pytest.raises(cellxlate.ModelError, match="no networks that see 1 planes"):
        bundle.seeing(1)
    assert replace(bundle, neighbours=None).in_context is None

"""Laws of gates that are not the networks' own: of another channel, of a mask, of the automatic guide."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.cluster import worker as worker_room
from cellxlate.enhancement.confidence.file import proposed_output, through, write_confidence
from cellxlate.enhancement.confidence.views import deviation
from cellxlate.enhancement.estimate import predict
from cellxlate.enhancement.flow import EnhanceProgress, planes_to_do
from cellxlate.enhancement.gates import saliency as guided
from cellxlate.enhancement.gates.channel import ChannelAttention
from cellxlate.enhancement.gates.mask import MaskAttention
from cellxlate.enhancement.gates.saliency import SaliencyAttention, strips_of
from cellxlate.enhancement.gates.steady import SteadyAttention
from cellxlate.enhancement.input import Context, Floats
from cellxlate.enhancement.job import Executor
from cellxlate.enhancement.outputs.names import name_outputs
from cellxlate.enhancement.outputs.rebuild import rebuild_report
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.plane import GateSource, OwnAttention, PlaneJob, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.errors import CellxlateError, InputError, OutputError
from cellxlate.plugin.enhance.steps import plan_of_plane
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.masks.fit import fitted_mask
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.training.fields.guides import saliency

LEVELS = {0: IntensityRange(100.0, 200.0), 1: IntensityRange(300.0, 700.0)}
SHAPE = (2, 600, 90)


@dataclass(frozen=True)
class Counting:
    """Attention is the plane itself, the proposal its double; both count the windows they are asked for."""

    attention_halo_px: int = 2
    generator_halo_px: int = 6
    stride: int = 4
    activation_bytes_per_px: float = 8.0
    asked: list[str] = field(default_factory=list)

    def attention(self, images: Floats) -> Floats:
        self.asked.append("attention")
        return np.clip(images[:, :1], 0, 1)

    def proposal(self, images: Floats) -> Floats:
        self.asked.append("proposal")
        return images[:, :1] * 2 + np.float32(0.25)


def two_channels(dtype: str = "uint16") -> npt.NDArray[Any]:
    """Noise in both channels (C, Y, X), none of it in the other."""
    random = np.random.default_rng(4)
    return np.stack([random.uniform(80, 220, SHAPE[1:]), random.uniform(200, 800, SHAPE[1:])]).astype(dtype)


def disc(shape: tuple[int, int], row: int, column: int, radius: int) -> npt.NDArray[np.bool_]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    inside: npt.NDArray[np.bool_] = (y - row) ** 2 + (x - column) ** 2 <= radius**2
    return inside


def made(
    stack: Stack, channel: int, gates: GateSource, translator: Any = None, **settings: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8], PlaneJob]:
    """A channel and its attention, (Y, X), from bands in turn; and the job that has counted its work."""
    job = PlaneJob(
        translator or Counting(), {channel: LEVELS[channel]}, settings=EnhanceSettings(**settings), gates=gates
    )
    bands = list(
        enhance_plane(job.input(stack, (channel,)), list(bands_of(stack.plane_shape, job.tile_px))[::-1], job)
    )[::-1]
    return np.concatenate([one.enhanced for one in bands]), np.concatenate([one.attention for one in bands]), job


# --- a channel


@pytest.mark.parametrize("tile_px", [64, 100, 2048])
def test_attention_of_one_channel_gates_another_whatever_the_tile(tile_px: int) -> None:
    planes = two_channels("float32")
    planes[0, 100:140, 20:60], planes[1, 300:310, 50:] = np.nan, np.nan
    stack = Stack(planes, "CYX")
    gates = ChannelAttention(0, LEVELS[0])
    _, own, _ = made(stack, 0, OwnAttention())
    after, attention, _ = made(stack, 1, gates, tile_px=tile_px)
    recorded = np.isfinite(planes[1])
    assert recorded.mean() < 1
    assert np.array_equal(attention[:280], own[:280])
    assert np.array_equal(attention[330:], own[330:])
    assert not attention[~recorded].any()
    assert not attention[np.isnan(planes[0])].any()
    kept = attention == 0
    assert 0.1 < kept.mean() < 0.9
    assert after[kept].tobytes() == planes[1][kept].tobytes()
    assert (after[~kept] != planes[1][~kept]).mean() > 0.99
    assert after.tobytes() == made(stack, 1, gates, dense=True)[0].tobytes()
    same, shown, _ = made(stack, 0, gates, tile_px=tile_px)  # a channel that gates itself
    assert (same.tobytes(), shown.tobytes()) == tuple(one.tobytes() for one in made(stack, 0, OwnAttention())[:2])


def test_a_band_notes_the_rows_of_the_channel_that_gates_it() -> None:
    stack = Stack(two_channels(), "CYX")
    job = PlaneJob(Counting(), {1: LEVELS[1]}, gates=ChannelAttention(0, LEVELS[0]))
    [first, *_] = enhance_plane(job.input(stack, (1,)), bands_of(SHAPE[1:], job.tile_px), job)
    [(beside, held)] = first.origin((1,)).beside
    assert (beside, held.first, held.last) == ((0,), first.read.first, first.read.last)
    assert held.digest != first.read.digest


@pytest.mark.parametrize("tile_px", [64, 2048])
def test_a_channel_that_gates_does_so_steadily_where_neighbours_are_seen(tile_px: int) -> None:
    """What gates another channel is what the gating channel would be gated by itself, planes beside included."""
    random = np.random.default_rng(5)
    planes = np.stack([random.uniform(80, 220, (4, 520, 70)), random.uniform(200, 800, (4, 520, 70))])
    planes = planes.astype(np.float32)
    planes[0, 1, 30:60, 20:50] = np.nan
    stack, context = Stack(planes, "CZYX"), Context("Z", (-1, 0, 1))

    def attention(channel: int, gates: GateSource) -> npt.NDArray[Any]:
        job = PlaneJob(Counting(), {channel: LEVELS[channel]}, settings=EnhanceSettings(tile_px=tile_px),
                       context=context, gates=gates)  # fmt: skip
        bands = enhance_plane(job.input(stack, (channel, 1)), bands_of(stack.plane_shape, job.tile_px), job)
        found = [(band.attention, {index for index, _ in band.beside}) for band in bands]
        beside = {(0, z) for z in range(4)} if channel else {(0, 0), (0, 2), (0, 3)}
        assert all(beside <= seen for _, seen in found)
        return np.concatenate([shown for shown, _ in found])

    own, other = attention(0, SteadyAttention()), attention(1, ChannelAttention(0, LEVELS[0]))
    assert np.array_equal(own, attention(0, ChannelAttention(0, LEVELS[0])))
    assert np.array_equal(own, other)
    assert not other[30:60, 20:50].any()
    assert 0.1 < (own > 0).mean() < 0.9


# --- a mask


def test_a_mask_gates_without_a_network_and_without_a_ramp() -> None:
    planes, translator = two_channels(), Counting()
    labels = 7 * disc(SHAPE[1:], 90, 40, 25).astype(np.uint16)
    stack = Stack(planes, "CYX")
    gates = MaskAttention(fitted_mask(Stack(labels, "YX"), stack, "labels"))
    after, attention, job = made(stack, 1, gates, translator, tile_px=64)
    assert np.array_equal(attention, np.where(labels > 0, 255, 0))
    assert after[labels == 0].tobytes() == planes[1][labels == 0].tobytes()
    assert (after[labels > 0] != planes[1][labels > 0]).mean() > 0.99
    assert set(translator.asked) == {"proposal"}
    assert job.work.tiles_skipped > job.work.tiles_total / 2
    assert job.work.generator_px < 0.3 * planes[1].size
    for side in (100, 2048):
        assert made(stack, 1, gates, tile_px=side)[0].tobytes() == after.tobytes()


def test_pixels_that_were_never_recorded_stay_inside_a_mask_too() -> None:
    planes = two_channels("float32")
    planes[0, 100:140, 20:60] = np.nan
    stack = Stack(planes, "CYX")
    gates = MaskAttention(fitted_mask(Stack(np.ones(SHAPE[1:], bool), "YX"), stack, "ones"))
    after, attention, _ = made(stack, 0, gates)
    assert not attention[np.isnan(planes[0])].any()
    assert after[attention == 0].tobytes() == planes[0][attention == 0].tobytes()
    assert (attention[300:] == 255).all()


@pytest.mark.parametrize(
    ("axes", "shape", "image", "expected"),
    [
        ("YX", (), "TCZYX", (2, 1, 2)),
        ("ZYX", (3,), "TCZYX", (2, 1, 2)),
        ("TCZYX", (4, 2, 3), "TCZYX", (2, 1, 2)),
        ("TCZYX", (1, 1, 3), "TCZYX", (2, 1, 2)),
        ("ZTYX", (3, 4), "TCZYX", (2, 1, 2)),
        ("ZYX", (4,), "TYX", (2,)),  # as ImageJ calls any series
        ("CYX", (4,), "TYX", (2,)),
        ("YX", (), "YXS", (1,)),
    ],
)
def test_a_mask_lies_on_the_planes_it_can_only_belong_to(
    axes: str, shape: tuple[int, ...], image: str, expected: tuple[int, ...]
) -> None:
    sizes = {"T": 4, "C": 2, "Z": 3, "Y": 5, "X": 6, "S": 3}
    like = Stack(np.zeros([sizes[axis] for axis in image], np.uint8), image)
    planes = np.random.default_rng(0).integers(0, 2, (*shape, 5, 6)).astype(np.uint8)
    mask = Stack(planes, axes)
    positions = dict(zip(like.plane_axes, expected, strict=True))
    following = [("T" if image == "TYX" else axis) for axis in axes if axis not in "YX"]
    wanted = planes[tuple(positions[axis] if size > 1 else 0 for axis, size in zip(following, shape, strict=True))]
    fitted = fitted_mask(mask, like, "mask")
    assert np.array_equal(fitted.read(expected, slice(1, 4)), wanted[1:4] > 0)


@pytest.mark.parametrize(
    ("axes", "shape", "image", "line"),
    [
        ("YX", (5, 7), "ZYX", "the mask is 5 x 7 px, stack is 5 x 6 px (rows x columns); they must agree"),
        ("ZYX", (2, 5, 6), "ZYX", "the mask has the axes ZYX 2 x 5 x 6, stack ZYX 3 x 5 x 6: which plane"),
        ("QYX".replace("Q", "C"), (3, 5, 6), "TZYX", "which plane belongs to which is not clear"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(axes: str, shape: tuple[int, ...], image: str, line: str) -> None:
    sizes = {"T": 3, "Z": 3, "Y": 5, "X": 6}
    like = Stack(np.zeros([sizes[axis] for axis in image], np.uint8), image)
    with pytest.raises(InputError) as refused:
        fitted_mask(Stack(np.zeros(shape, np.uint8), axes), like, "the mask")
    assert line in str(refused.value)


def test_numbers_of_labels_do_not_decide_what_a_mask_is() -> None:
    labels = disc((40, 30), 20, 15, 8).astype(np.uint16)
    like = Stack(np.zeros((2, 40, 30), np.uint8), "ZYX")
    digests = [fitted_mask(Stack(one, "YX"), like, "mask").digest for one in (labels, 9 * labels, labels.astype(float))]
    assert len(set(digests)) == 1
    labels[0, 0] = 1
    assert fitted_mask(Stack(labels, "YX"), like, "mask").digest != digests[0]


# --- the automatic guide


@pytest.fixture(scope="module")
def nuclei() -> Stack:
    return simulate(SampleSettings(shape=(1, 1, 1, 600, 300), cell_fraction=0.2, seed=1)).stack


def test_the_guide_of_training_gates_whatever_the_tile(nuclei: Stack) -> None:
    [index] = nuclei.plane_indices()
    levels = stack_ranges(nuclei, [0])
    guide = saliency(nuclei.read(index), levels[0])
    images, translator = [], Counting()
    for side in (64, 512, 2048):
        job = PlaneJob(translator, levels, settings=EnhanceSettings(tile_px=side), gates=SaliencyAttention())
        bands = list(enhance_plane(job.input(nuclei, index), bands_of(nuclei.plane_shape, job.tile_px), job))
        attention = np.concatenate([band.attention for band in bands])
        assert np.array_equal(attention > 0, guide > 0)
        assert all((index, 0, 600) in [(of, held.first, held.last) for of, held in band.beside] for band in bands)
        images.append(np.concatenate([band.enhanced for band in bands]))
    assert 0.05 < guide.mean() < 0.5
    assert images[0].tobytes() == images[1].tobytes() == images[2].tobytes()
    assert set(translator.asked) == {"proposal"}


def test_the_guide_of_a_large_plane_is_found_on_fixed_squares(nuclei: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided, "WHOLE_PX", 256)
    monkeypatch.setattr(guided, "SQUARE_PX", 320)
    monkeypatch.setattr(guided, "REACH_PX", 32)
    [index] = nuclei.plane_indices()
    levels, found = stack_ranges(nuclei, [0]), []
    honest = guided.saliency
    monkeypatch.setattr(guided, "saliency", lambda *given: found.append(given[0].shape) or honest(*given))
    images = []
    for side in (512, 1024):
        job = PlaneJob(Counting(), levels, settings=EnhanceSettings(tile_px=side), gates=SaliencyAttention())
        bands = list(enhance_plane(job.input(nuclei, index), bands_of(nuclei.plane_shape, job.tile_px), job))
        images.append(np.concatenate([band.attention for band in bands]))
    assert np.array_equal(*images)
    assert found == [(352, 300), (312, 300)] * 2  # each once, though two bands lie on the first
    whole = saliency(nuclei.read(index), levels[0]) > 0
    assert 0.8 < ((images[0] > 0) & whole).sum() / whole.sum() <= 1


def test_squares_beside_each_other_are_cut_from_the_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guide that is a plain threshold has no borders, wherever the squares end."""
    monkeypatch.setattr(guided, "WHOLE_PX", 64)
    monkeypatch.setattr(guided, "SQUARE_PX", 80)
    monkeypatch.setattr(guided, "REACH_PX", 16)
    monkeypatch.setattr(guided, "saliency", lambda counts, _: (counts > 150).astype(np.float32))
    planes = two_channels()
    _, attention, _ = made(Stack(planes, "CYX"), 0, SaliencyAttention())
    assert np.array_equal(attention > 0, planes[0] > 150)
    assert len(strips_of(SHAPE[1:])) == 8


# --- files


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """Two planes of two bands, in two channels with names; the second is the ramp turned round."""
    noise = np.random.default_rng(0).normal(0, 8, (2, 2, 600, 40))
    pixels = noise + np.linspace(80, 240, 40)
    pixels[:, 1] = pixels[:, 1, :, ::-1]
    path = tmp_path / "cells.ome.tif"
    named = Stack(pixels.clip(0).astype(np.uint16), "TCYX", channel_names=("DAPI", "MitoTracker"))
    write_stacks([(named, path)])
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.tif"
    inside = disc((600, 40), 300, 20, 15)
    write_stacks([(Stack(np.where(inside, 3, 0).astype(np.uint16), "YX"), path)])
    return path


TILES = EnhanceSettings(tile_px=64)
GATES: dict[str, dict[str, Any]] = {
    "channel": {"attention_channel": "dapi"}, "file": {"attention_from": "labels.tif"},
    "saliency": {"attention_from": "saliency"},
}  # fmt: skip


@pytest.fixture(params=list(GATES))
def gate(request: pytest.FixtureRequest, labels: Path) -> dict[str, Any]:
    asked = GATES[request.param]
    return {"attention_from": labels} if request.param == "file" else asked


def read(path: Any) -> npt.NDArray[Any]:
    with cellxlate.open_stack(path) as written:
        return np.asarray(written).copy()


def by_workers(plan: Plan, image: Any, attention: Any, started: float) -> Iterator[EnhanceProgress]:
    """Write every band as a worker of a cluster would."""
    worker_room.keep_model(plan.bundle, 1)
    places = {"image": image.pyramid, "attention": attention.pyramid, "origins": image.origins}
    job = worker_room.band_job(plan, "gates", **places)
    for plane in planes_to_do(plan, lambda _index, _area: False):
        worker_room.enhance_bands(job, [(plane.indices[0], area) for area in plane.wanted])
    worker_room.forget_job("gates")
    yield from ()


class Stop(Exception):
    """The user presses Ctrl-C."""


def stop(news: EnhanceProgress) -> None:
    if news.done >= 2:
        raise Stop


def test_a_run_is_the_same_resumed_by_workers_and_in_memory(
    stack: Path, tiny_model: Path, gate: dict[str, Any], tmp_path: Path
) -> None:
    raw, run = read(stack), partial(cellxlate.enhance_file, stack, tiny_model, settings=TILES, **gate)
    whole = cellxlate.enhance(stack, tiny_model, settings=TILES, **gate)
    kept = whole.attention == 0
    assert 0 < kept.mean() < 1
    assert whole.image[kept].tobytes() == raw[kept].tobytes()
    assert (whole.image != raw).any()
    shared = run(output=tmp_path / "shared.ome.tif", report=False, where=Executor(by_workers))
    with pytest.raises(Stop):
        run(progress=stop)
    with pytest.raises(OutputError, match="was begun with other attention_source"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, resume=True)
    for report in (shared, run(resume=True)):
        assert np.array_equal(read(report.outputs["enhanced"]), whole.image)
        assert np.array_equal(read(report.outputs["attention"]), whole.attention)
    with pytest.raises(OutputError, match="finished, but from other attention_source"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, resume=True)
    assert any("finished before" in line for line in run(resume=True).warnings)


def test_the_gate_is_said_wherever_the_run_is_described(
    stack: Path, tiny_model: Path, gate: dict[str, Any], labels: Path
) -> None:
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, **gate)
    written = json.loads((stack.parent / "cells_report.json").read_text())
    source = written["attention_source"]
    page = (stack.parent / "cells_report.html").read_text()
    if "attention_channel" in gate:
        assert (source["kind"], source["channel"], source["name"]) == ("channel", 0, "DAPI")
        assert "attention of channel 0 (DAPI), for all channels" in page
        assert "--attention-channel 0" in report.command
    elif gate["attention_from"] == "saliency":
        assert source == {"kind": "saliency"}
        assert "the automatic guide (saliency), without a network" in page
        assert "--attention-from saliency" in report.command
    else:
        assert (source["kind"], source["path"]) == ("file", str(labels))
        assert "--attention-from labels.tif" in report.command
    assert written["provenance"]["attention_source"] == source
    assert read(stack.parent / "cells_attention.ome.tif").any()
    again = rebuild_report(stack.parent / "cells_enhanced.ome.tif", model=tiny_model)
    assert again.as_dict()["attention_source"] == source
    assert again.command == report.command


def test_a_run_without_a_gate_of_its_own_says_so(stack: Path, tiny_model: Path) -> None:
    report = cellxlate.enhance_file(stack, tiny_model)
    assert report.as_dict()["attention_source"] == {"kind": "network"}
    assert "--attention" not in report.command


def test_a_channel_that_is_not_enhanced_may_gate(stack: Path, tiny_model: Path) -> None:
    both = cellxlate.enhance(stack, tiny_model, attention_channel=0)
    one = cellxlate.enhance(stack, tiny_model, channels=["MitoTracker"], attention_channel="DAPI")
    assert np.array_equal(one.attention[:, 1], both.attention[:, 0])
    assert np.array_equal(one.image[:, 1], both.image[:, 1])
    assert not one.attention[:, 0].any()
    assert np.array_equal(one.image[:, 0], read(stack)[:, 0])
    own = cellxlate.enhance(stack, tiny_model, channels=[1])
    assert not np.array_equal(own.attention[:, 1], one.attention[:, 1])


def test_levels_of_the_channel_that_gates_are_taken_from_an_earlier_run(stack: Path, tiny_model: Path) -> None:
    first = cellxlate.enhance_file(stack, tiny_model, channels=[1], attention_channel=0)
    report = stack.parent / "cells_report.json"
    again = cellxlate.enhance(stack, tiny_model, channels=[1], attention_channel=0, levels_from=report)
    assert np.array_equal(again.image, read(first.outputs["enhanced"]))


def test_a_mask_in_memory_gates_and_has_no_place_on_a_cluster(stack: Path, tiny_model: Path, labels: Path) -> None:
    mask = read(labels)
    made = cellxlate.enhance(stack, tiny_model, attention_from=mask)
    assert np.array_equal(made.attention > 0, np.broadcast_to(mask > 0, made.attention.shape))
    assert "--attention-from MASK" in made.report.command
    assert "MASK stands for the mask" in made.report.command_note
    with pytest.raises(InputError, match="the mask mask lies in memory, workers read from files"):
        cellxlate.enhance_file(stack, tiny_model, attention_from=mask, where=Executor(by_workers))


def test_a_folder_gives_each_stack_its_mask(stack: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ome.tif"
    other.write_bytes(stack.read_bytes())
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, row in (("cells_cp_masks", 100), ("other_mask", 500)):
        write_stacks([(Stack(disc((600, 40), row, 20, 9).astype(np.uint8), "YX"), masks / f"{name}.tif")])
    outcome = cellxlate.enhance_files([stack, other], tiny_model, attention_from=masks, output_dir=tmp_path / "made")
    assert not outcome.failed
    rows = [np.nonzero(read(one.report.outputs["attention"])[0, 0])[0].mean() for one in outcome.stacks]
    assert rows == pytest.approx([100, 500])


# --- what changes meanwhile


def test_a_gating_channel_that_changed_is_refused_on_resume(stack: Path, tiny_model: Path) -> None:
    """Its own bands need not be done: the band that it gated knows."""
    pixels = read(stack)
    turned = np.ascontiguousarray(pixels[:, ::-1])  # what gates comes last
    write_stacks([(Stack(turned, "TCYX"), stack)], overwrite=True)

    def stop_at_once(news: EnhanceProgress) -> None:
        raise Stop

    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, attention_channel=1, progress=stop_at_once)
    turned[0, 1, 100, 7] += 1
    write_stacks([(Stack(turned, "TCYX"), stack)], overwrite=True)
    with cellxlate.open_stack(stack) as opened:
        plan = make_plan(opened, tiny_model, channels=None, settings=TILES, engine="auto", device="auto",
                         attention_channel=1)  # fmt: skip
        identity = plan.identity
    for note in stack.parent.glob("cells_*.partial/job.json"):  # as where name, size and levels had stayed
        note.write_text(json.dumps(json.loads(note.read_text()) | {"fingerprint": identity}))
    with pytest.raises(InputError, match=r"was changed after the run began \(T=0 C=0 from row 0\)"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, attention_channel=1, resume=True)


def test_a_mask_that_is_painted_on_meanwhile_is_refused(stack: Path, tiny_model: Path, labels: Path) -> None:
    def paint(news: EnhanceProgress) -> None:
        if news.done == news.total:
            write_stacks([(Stack(np.ones((600, 40), np.uint16), "YX"), labels)], overwrite=True)

    with pytest.raises(InputError, match=r"the mask .*labels.tif was changed during the run"):
        cellxlate.enhance_file(stack, tiny_model, attention_from=labels, progress=paint)
    assert not list(stack.parent.glob("cells_enhanced*"))


# --- what else looks at attention


def test_one_plane_in_a_panel_is_that_of_the_whole(stack: Path, tiny_model: Path, gate: dict[str, Any]) -> None:
    whole = cellxlate.enhance(stack, tiny_model, **gate)
    with cellxlate.open_stack(stack) as opened:
        plan = make_plan(opened, tiny_model, channels=[1], settings=None, engine="auto", device="auto", **gate)
        narrowed = plan_of_plane(plan, (1, 1))
        [job] = narrowed.jobs
        areas = bands_of(narrowed.stack.plane_shape, job.tile_px)
        bands = list(enhance_plane(job.input(narrowed.stack, ()), areas, job))
    assert np.array_equal(np.concatenate([band.attention for band in bands]), whole.attention[1, 1])
    assert np.array_equal(np.concatenate([band.enhanced for band in bands]), whole.image[1, 1])


@pytest.mark.parametrize("axes", ["TCYX", "CTYX", "STYX"])
def test_a_plane_on_its_own_has_the_levels_of_its_time_and_so_has_its_gate(tiny_model: Path, axes: str) -> None:
    """The background rises by 300 counts over the movie."""
    noise = np.random.default_rng(0).normal(0, 8, (5, 2, 90, 80))
    raw = noise + np.linspace(80, 240, 80) + 75 * np.arange(5)[:, None, None, None]
    raw = raw.clip(0).astype(np.uint16) if axes[0] == "T" else raw.clip(0).astype(np.uint16).swapaxes(0, 1)
    stack, settings = Stack(raw, axes), EnhanceSettings(tile_px=64, color="separate")
    stack = replace(stack, alpha=()) if axes[0] == "S" else stack
    plan = make_plan(stack, tiny_model, channels=[0], settings=settings, engine="torch", device="cpu",
                     attention_channel=1)  # fmt: skip
    plane = (4,) if axes[0] == "S" else (4, 0) if axes[0] == "T" else (0, 4)
    [job] = plan_of_plane(plan, plane).jobs
    (whole,) = plan.jobs
    assert whole.intensities[0].drift
    assert job.intensities[0] == whole.intensities[0].at(4)
    assert job.gates.intensity == whole.gates.intensity.at(4)  # type: ignore[attr-defined]
    assert job.gates.intensity.black > whole.gates.intensity.at(0).black + 200  # type: ignore[attr-defined]


@pytest.mark.parametrize("gate", ["channel", "file"], indirect=True)
def test_a_forecast_knows_the_gate(stack: Path, tiny_model: Path, gate: dict[str, Any]) -> None:
    with cellxlate.open_stack(stack) as opened:
        plan = make_plan(opened, tiny_model, channels=None, settings=TILES, engine="auto", device="auto", **gate)
        prediction = predict(plan, name_outputs(stack, is_zarr=False), plan_s=0.0)
    selected = (cellxlate.enhance(stack, tiny_model, settings=TILES, **gate).attention > 0).mean()
    assert prediction.cell_fraction == pytest.approx(selected, abs=1e-3)


# --- the command line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--attention-channel", "0", "--attention-from", "labels.tif"],
         "--attention-channel and --attention-from are both given; give one of them"),
        (["--attention-channel", "GFP"], "has no channel 'GFP'; there are: 0 DAPI, 1 MitoTracker"),
        (["--attention-from", "nowhere.tif"], "--attention-from nowhere.tif does not exist; give a mask, a folder"),
        (["--attention-from", "small.tif"], "the mask small.tif is 5 x 6 px, cells is 600 x 40 px (rows x columns)"),
        (["--attention-from", "empty"], "empty holds no mask of an image such as cells"),
        (["--attention-from", "text.tif"], "text.tif"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_one_line(
    stack: Path, labels: Path, tiny_model: Path, words: list[str], line: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(stack.parent)
    write_stacks([(Stack(np.zeros((5, 6), np.uint8), "YX"), Path("small.tif"))])
    Path("empty").mkdir()
    Path("text.tif").write_text("no image")
    assert main(["enhance", "cells.ome.tif", "-m", str(tiny_model), *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in said
    assert not list(Path().glob("cells_*"))


def test_a_stack_of_one_channel_has_no_other_to_gate_it(labels: Path, tiny_model: Path) -> None:
    with pytest.raises(CellxlateError, match="has one channel, so no other can gate it; leave out attention_channel="):
        cellxlate.enhance(np.zeros((40, 50), np.uint16), tiny_model, attention_channel=0)


@pytest.mark.parametrize("gate", ["channel"], indirect=True)
def test_confidence_keeps_the_gate(stack: Path, tiny_model: Path, gate: dict[str, Any], tmp_path: Path) -> None:
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, **gate)
    with cellxlate.open_stack(stack) as opened:
        plan = make_plan(opened, tiny_model, channels=None, settings=TILES, engine="auto", device="auto", **gate)
        write_confidence(plan, report.outputs["attention"], tmp_path / "sure.ome.tif", views=2)
    sure, attention = read(tmp_path / "sure.ome.tif"), read(report.outputs["attention"])
    assert np.array_equal(sure == 0, attention == 0)


def test_confidence_of_a_given_gate_is_that_of_the_proposal_inside_and_of_the_input_outside() -> None:
    unit = np.random.default_rng(1).uniform(0, 1, (1, 64, 64)).astype(np.float32)
    translator, noise = Counting(), np.full((1, 1, 1), 0.2)
    output = proposed_output(translator, slice(None))
    for gate, alone in ((1.0, translator.proposal), (0.0, lambda images: images)):
        gated = partial(through, np.full(unit.shape, gate, np.float32))
        spread = deviation(unit, output, noise=noise, gated=gated)
        assert np.abs(spread - deviation(unit, alone, noise=noise)).max() < 1e-5
        assert spread.min() > 0.05


def test_a_mask_that_selects_nothing_or_everything_is_named(stack: Path, tiny_model: Path) -> None:
    empty = cellxlate.enhance(stack, tiny_model, attention_from=np.zeros((600, 40), bool)).report
    assert any(line.startswith("the mask selected nothing, so the output equals the input.") for line in empty.warnings)
    full = cellxlate.enhance(stack, tiny_model, attention_from=np.ones((600, 40), bool)).report
    assert any(line.startswith("the mask selected 100% of all pixels") for line in full.warnings)
    assert not any("threshold" in line for line in (*empty.warnings, *full.warnings))

"""Laws of groups and neighbours: two channels and three planes go through plane, tiling, flow, worker and preview."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

import cellxlate
from cellxlate.enhancement import flow
from cellxlate.enhancement.cluster import worker as worker_room
from cellxlate.enhancement.confidence.file import write_confidence
from cellxlate.enhancement.flow import EnhanceProgress, enhanced_bands, planes_to_do, read_ahead
from cellxlate.enhancement.input import ALONE, Context, Floats, PlaneInput, planes_of_channels
from cellxlate.enhancement.job import Executor, steps_in_memory, steps_to_files
from cellxlate.enhancement.outputs.names import name_outputs
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.plane import OwnAttention, PlaneJob, Translator, enhance_plane
from cellxlate.enhancement.preview import attention_blocks
from cellxlate.enhancement.tiling import bands_of, tiles_of
from cellxlate.model.bundle import Bundle
from cellxlate.plugin.preview.cache import PreviewRequest
from cellxlate.plugin.preview.steps import _blocks
from cellxlate.plugin.requests import StopRequest
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import Stack, plane_reader
from cellxlate.stacks.write.copy import write_stacks

RANGES = {0: IntensityRange(100.0, 200.0), 1: IntensityRange(300.0, 700.0)}
BESIDE = Context("Z", (-1, 0, 1))
SHAPE = (2, 3, 560, 150)
SIDES_PX = (64, 100, 256)
PAD_PX = 16


@dataclass(frozen=True)
class Functions:
    """A translator of two plain functions."""

    attention: Callable[[Floats], Floats]
    proposal: Callable[[Floats], Floats]
    attention_halo_px: int = 2
    generator_halo_px: int = 6
    stride: int = 4
    activation_bytes_per_px: float = 8.0
    name: str = "functions"
    identity: str = "torch cpu float32"
    warnings: list[str] = field(default_factory=list)


def box(images: Floats, reach_px: int) -> Floats:
    """Means over squares, each summed in the same order wherever it lies: equal surroundings give equal bits."""
    weights = np.full(2 * reach_px + 1, 1 / (2 * reach_px + 1))
    for axis in (2, 3):
        images = ndimage.correlate1d(images, weights, axis, mode="constant")
    return images


def mixed(images: Floats, weights: Any) -> Floats:
    """Sums of the six planes (B, 6, Y, X), one for each row of weights."""
    return np.stack([sum(w * images[:, at] for at, w in enumerate(row)) for row in np.float32(weights)], axis=1)


OWN_GATES = [[0.1, 0.8, 0.2, 0.0, 0.3, 0.0], [0.0, 0.2, 0.0, 0.5, 0.6, 0.1]]
PROPOSALS = [[0.2, 0.5, 0.4, -0.1, 0.2, 0.0], [0.0, 0.1, 0.3, 0.4, 0.5, 0.2]]
TRANSLATORS: dict[str, Translator] = {
    f"{len(gates)} gates": Functions(
        lambda images, gates=gates: np.clip((mixed(box(images, 2), gates) - 0.7) * 6 + 0.1, 0, 1),
        lambda images: mixed(box(images, 6), PROPOSALS) + np.float32(0.25),
    )
    for gates in (OWN_GATES, OWN_GATES[:1])
}


def pixels(dtype: str = "uint16") -> npt.NDArray[Any]:
    """Two channels of three planes (C, Z, Y, X), each of its own noise."""
    random = np.random.default_rng(3)
    planes = random.uniform(80, 220, SHAPE)
    planes[1] = 220 + 4 * (random.uniform(80, 220, SHAPE[1:]) - 80)
    return planes.astype(dtype)


def holed() -> npt.NDArray[Any]:
    """The same in float32, with pixels that were never recorded and struck ones, elsewhere in each channel."""
    planes = pixels("float32")
    planes[0, 1, 30:60, 20:70] = np.nan
    planes[1, 1, 500:530, 90:] = np.nan
    planes[0, :, 5, 5], planes[1, 2, 511, 40] = np.inf, 90_000
    planes.view(np.uint32)[0, 1, 40, 40] = 0x7FC0BEEF
    return planes


@pytest.fixture(params=list(TRANSLATORS))
def translator(request: pytest.FixtureRequest) -> Translator:
    return TRANSLATORS[request.param]


def job(translator: Translator, **settings: Any) -> PlaneJob:
    return PlaneJob(translator, RANGES, settings=EnhanceSettings(**settings), context=BESIDE)


def enhanced(stack: Stack, job: PlaneJob, z: int, order: int = 1) -> npt.NDArray[Any]:
    """Both channels of a plane and their attention (2, C, Y, X), from bands that are made in some order."""
    made = np.zeros((2, 2, *stack.plane_shape), stack.dtype)
    areas = list(bands_of(stack.plane_shape, job.tile_px))[::order]
    bands = list(enhance_plane(job.input(stack, (0, z)), areas, job))
    assert len(bands) == 2 * len(areas)
    for number, band in enumerate(bands):
        assert band.first_row == areas[number // 2].top
        rows = slice(band.first_row, band.first_row + len(band.raw))
        assert band.raw.tobytes() == stack.read((number % 2, z), rows).tobytes()
        made[:, number % 2, rows] = band.enhanced, band.attention
    return made


def expected(planes: npt.NDArray[Any], translator: Translator, z: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Both channels of a plane and their gates, (C, Y, X), calculated at once and otherwise: eq. 1 with the gate."""
    beside = [planes[:, at] for at in ([0, 0, 1], [0, 1, 2], [1, 2, 2])[z]]  # continued by the mirror image
    unit = [(plane[own].astype(np.float64) - one.black) / one.span for own, one in RANGES.items() for plane in beside]
    whole = np.pad(np.stack(unit), ((0, 0), (PAD_PX,) * 2, (PAD_PX,) * 2), mode="symmetric").astype(np.float32)
    inner = (0, ..., slice(PAD_PX, -PAD_PX), slice(PAD_PX, -PAD_PX))
    attention = np.rint(translator.attention(whole[None])[inner] * 1024) / 1024
    gates = np.broadcast_to(np.clip((attention - 0.1) / 0.9, 0, 1), (2, *SHAPE[2:]))
    spans = np.array([one.span for one in RANGES.values()])[:, None, None]
    change = gates * (translator.proposal(whole[None])[inner] - whole[[1, 4]][:, PAD_PX:-PAD_PX, PAD_PX:-PAD_PX])
    return planes[:, z] + spans * change, gates


@pytest.mark.parametrize("z", [0, 1, 2])
def test_networks_see_three_planes_of_two_channels_and_both_are_changed(translator: Translator, z: int) -> None:
    """At both ends of z the stack is continued by its mirror image: the plane before the first is the first."""
    planes = pixels()
    after, attention = enhanced(Stack(planes, "CZYX"), job(translator), z)
    wanted, gates = expected(planes, translator, z)
    assert np.abs(after - wanted).max() <= 0.51
    assert np.array_equal(attention > 0, gates > 0)
    assert all(0.1 < (own > 0).mean() < 0.9 for own in gates)
    assert np.array_equal(gates[0], gates[1]) == (translator is TRANSLATORS["1 gates"])
    assert all((own != raw).mean() > 0.05 for own, raw in zip(after, planes[:, z], strict=True))


@pytest.mark.parametrize("tile_px", SIDES_PX)
@pytest.mark.parametrize("planes", [pixels("float32"), holed()], ids=["whole", "holed"])
def test_every_tiling_and_order_gives_the_same_bits(
    planes: npt.NDArray[Any], translator: Translator, tile_px: int
) -> None:
    stack = Stack(planes, "CZYX")
    for z in range(3):
        whole = enhanced(stack, job(translator, tile_px=2048, dense=True), z)
        for order in (1, -1):
            assert enhanced(stack, job(translator, tile_px=tile_px), z, order).tobytes() == whole.tobytes()


def test_a_halo_that_is_too_small_shows() -> None:
    stack, honest = Stack(pixels(), "CZYX"), TRANSLATORS["2 gates"]
    blind: Any = replace(honest, generator_halo_px=0)  # type: ignore[type-var]
    whole = enhanced(stack, job(honest, tile_px=2048), 1)
    assert not np.array_equal(enhanced(stack, job(blind, tile_px=64), 1), whole)


def test_kept_pixels_keep_their_bits_in_each_channel(translator: Translator) -> None:
    planes = holed()
    stack = Stack(planes, "CZYX")
    for z in range(3):
        after, attention = enhanced(stack, job(translator, tile_px=100), z)
        for own, raw, gate in zip(after, planes[:, z], attention, strict=True):
            assert own[gate == 0].tobytes() == raw[gate == 0].tobytes()
            assert (gate[~np.isfinite(raw)] == 0).all()
            assert (own[gate > 0] != raw[gate > 0]).mean() > 0.5
        if z == 1:  # what was not recorded in one channel is kept there alone
            assert attention[1, 30:60, 20:70].any()
            assert attention[0, 500:530, 90:].any()


def test_the_order_of_axes_does_not_matter(translator: Translator) -> None:
    planes, own = pixels(), job(translator)
    turned = Stack(np.ascontiguousarray(planes.transpose(1, 2, 3, 0)), "ZYXC")
    bands = enhance_plane(own.input(turned, (1, 0)), bands_of(turned.plane_shape, own.tile_px), own)
    whole = enhanced(Stack(planes, "CZYX"), own, 1)[0]
    for number, band in enumerate(bands):
        assert np.array_equal(band.enhanced, whole[number % 2, band.first_row : band.first_row + len(band.raw)])


# --- which planes are seen


def test_planes_beyond_the_ends_are_mirrored_and_a_plane_without_neighbours_is_its_own() -> None:
    stack = Stack(np.zeros((4, 2, 3, 8, 8), np.uint8), "TCZYX")
    assert planes_of_channels(stack, (3, 1, 2), (0, 1)) == ((3, 0, 2), (3, 1, 2))
    assert Context("Z", (-2, -1, 0, 1)).around(stack, (3, 1, 0)) == ((3, 1, 1), (3, 1, 0), (3, 1, 0), (3, 1, 1))
    assert Context("T", (0, 1, 2)).around(stack, (2, 1, 0)) == ((2, 1, 0), (3, 1, 0), (3, 1, 0))
    assert ALONE.around(stack, (2, 1, 0)) == ((2, 1, 0),)
    flat = Stack(np.zeros((8, 8), np.uint8), "YX")
    assert BESIDE.around(flat, ()) == ((), (), ())
    assert planes_of_channels(flat, (), (0,)) == ((),)


def test_a_neighbour_in_time_has_the_levels_of_its_own_time() -> None:
    still = pixels()[0, :1]
    movie = Stack(np.concatenate([still + drift for drift in (0, 20, 40)]).astype(np.uint16), "TYX")
    drifting = replace(RANGES[0], drift=((0, 0.0), (1, 20.0), (2, 40.0)))
    plane = PlaneInput.of(movie, (1,), {0: drifting}, context=Context("T", (-1, 0, 1)))
    area = next(tiles_of(next(bands_of(movie.plane_shape, 512)), 100))
    window = plane.rows(area, 0).window(area)
    assert window.shape == (3, 100, 100)
    assert np.abs(window - window[1]).max() < 1e-6


class CountedPixels:
    """Pixels in memory that count the planes that are read."""

    def __init__(self, planes: npt.NDArray[Any]) -> None:
        self.planes, self.shape, self.dtype = planes, planes.shape, planes.dtype
        self.read: list[tuple[int, ...]] = []

    def __getitem__(self, key: Any) -> Any:
        self.read.append(key[:2])
        return self.planes[key]


# --- plans


@pytest.fixture
def plan(tiny_model: Path) -> Callable[..., Plan]:
    """Makes a plan with one job for both channels of a stack."""

    def planned(stack: Stack, own: PlaneJob, *, streams: int = 1) -> Plan:
        made = make_plan(stack, tiny_model, channels=None, settings=own.settings, engine="torch", device="cpu")
        functions: Any = own.translator
        return replace(made, jobs=(own,), translator=functions, streams=streams)

    return planned


@pytest.fixture
def whole(translator: Translator) -> npt.NDArray[Any]:
    """What all of it is to become, and its attention: (2, C, Z, Y, X)."""
    stack = Stack(pixels(), "CZYX")
    return np.stack([enhanced(stack, job(translator, tile_px=64), z) for z in range(3)], axis=2)


@pytest.mark.parametrize("streams", [1, 3])
def test_the_flow_yields_every_channel_and_reads_each_plane_once(
    translator: Translator, plan: Any, whole: npt.NDArray[Any], streams: int
) -> None:
    counted = CountedPixels(pixels())
    grouped = plan(Stack(counted, "CZYX"), job(translator, tile_px=64), streams=streams)
    counted.read.clear()
    done, seen = [], set()
    for index, band, news in enhanced_bands(grouped, started=0.0):
        rows = slice(band.first_row, band.first_row + len(band.raw))
        assert np.array_equal(band.enhanced, whole[0][(*index, rows)])
        assert np.array_equal(band.attention, whole[1][(*index, rows)])
        seen.add((index, band.first_row))
        done.append(news.done)
    assert len(seen) == 2 * 3 * 2
    assert sorted(counted.read) == [(channel, z) for channel in range(2) for z in range(3)]
    assert done == sorted(done)
    assert done[-1] == 6
    assert grouped.work.tiles_total == 3 * len(list(tiles_of(next(bands_of((512, 150), 64)), 64))) + 3 * 3


def test_planes_too_large_to_keep_are_read_by_their_rows(
    translator: Translator, plan: Any, whole: npt.NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "PLANE_KEPT_PX", 0)
    monkeypatch.setattr(flow, "plane_reader", partial(plane_reader, most_px=0))
    grouped = plan(Stack(pixels(), "CZYX"), job(translator, tile_px=64))
    for index, band, _ in enhanced_bands(grouped, started=0.0):
        assert np.array_equal(band.enhanced, whole[0][(*index, slice(band.first_row, band.first_row + len(band.raw)))])


def test_a_group_is_made_again_where_a_band_of_either_channel_is_missing(translator: Translator, plan: Any) -> None:
    grouped = plan(Stack(pixels(), "CZYX"), job(translator, tile_px=64))
    assert list(grouped.groups()) == [(2 * z, ((0, z), (1, z))) for z in range(3)]
    assert (grouped.channels, grouped.intensities) == ([0, 1], RANGES)
    [plane] = planes_to_do(grouped, lambda index, area: (index, area.top) != ((1, 2), 512))
    assert (plane.number, plane.indices, [area.top for area in plane.wanted]) == (4, ((0, 2), (1, 2)), [512])
    [(_, open_plane)] = read_ahead(grouped, iter([plane]))
    assert np.array_equal(open_plane((0, 1))(slice(3, 5)), pixels()[0, 1, 3:5])


def test_a_channel_that_was_not_chosen_is_copied_beside_a_group(translator: Translator, plan: Any) -> None:
    planes = np.concatenate([pixels(), pixels()[:1]])
    grouped = plan(Stack(planes, "CZYX"), job(translator, tile_px=64))
    assert [indices for _, indices in grouped.groups()][3:] == [((2, z),) for z in range(3)]
    made = ended(steps_in_memory(grouped))
    assert made.image[2].tobytes() == planes[2].tobytes()
    assert not made.attention[2].any()
    assert made.attention[:2].any()


def ended(steps: Any) -> Any:
    """Go through steps and return what they lead to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


# --- files, workers, preview, confidence


def by_workers(functions: Any, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """Write every band as workers of a cluster would."""
    monkeypatch.setattr(worker_room, "open_engine", lambda *_, **__: functions)
    monkeypatch.setattr(Bundle, "seeing", lambda bundle, _planes: bundle)
    monkeypatch.setattr("cellxlate.enhancement.gates.source.SteadyAttention", OwnAttention)  # as the jobs here

    def work(plan: Plan, image: Any, attention: Any, started: float) -> Iterator[EnhanceProgress]:
        worker_room.keep_model(plan.bundle, 1)
        own = worker_room.band_job(
            plan, "groups", image=image.pyramid, attention=attention.pyramid, origins=image.origins
        )
        for plane in planes_to_do(plan, lambda _index, _area: False):
            for done in worker_room.enhance_bands(own, [(plane.indices[0], area) for area in plane.wanted]):
                assert done.pixels in (2 * 512 * 150, 2 * 48 * 150)
        worker_room.forget_job("groups")
        yield from ()

    return Executor(work)


@pytest.mark.parametrize("by", ["this process", "workers"])
def test_both_channels_are_written_and_the_promise_is_read_back(
    translator: Translator, plan: Any, whole: npt.NDArray[Any], tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cells.ome.tif"
    write_stacks([(Stack(pixels(), "CZYX"), path)])
    outputs = name_outputs(path, is_zarr=False)
    with cellxlate.open_stack(path) as stack:
        assert stack.axes == "CZYX"
        grouped = plan(stack, job(translator, tile_px=64))
        where = {"where": by_workers(translator, monkeypatch)} if by == "workers" else {}
        report = ended(steps_to_files(grouped, outputs, **where))
        write_confidence(grouped, outputs.attention, tmp_path / "sure.ome.tif", views=2)
    assert list(report.provenance["levels_counts"]) == ["0", "1"]
    assert report.kept_violations == 0
    for made, file in zip(whole, (outputs.enhanced, outputs.attention), strict=True):
        with cellxlate.open_stack(file) as written:
            assert np.array_equal(np.asarray(written), made)
    with cellxlate.open_stack(tmp_path / "sure.ome.tif") as sure:
        assert np.array_equal(np.asarray(sure) == 0, whole[1] == 0)


def test_the_preview_shows_the_channel_that_is_looked_at(translator: Translator, whole: npt.NDArray[Any]) -> None:
    stack, own = Stack(pixels(), "CZYX"), job(translator, tile_px=64)
    blocks = tuple(tiles_of(next(bands_of(stack.plane_shape, 1024)), 512))
    assert len(blocks) == 2
    for channel in (0, 1):
        request = PreviewRequest(stack, (channel, 2), "tiny", "cpu", "torch", blocks, StopRequest())
        for (block, steps), (same, both) in zip(
            _blocks(request, blocks, [own]), attention_blocks(own.input(stack, (channel, 2)), blocks, own),
            strict=True,
        ):  # fmt: skip
            assert block == same
            assert np.array_equal(steps, both[channel])
            assert np.array_equal(steps > 102, whole[1, channel, 2][block.slices()] > 0)

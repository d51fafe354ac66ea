"""Laws of colour: networks see a luminance, one attention gates, red, green and blue change by one factor or not."""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from imagecodecs import png_decode

import cellxlate
from cellxlate.choice import choose
from cellxlate.cli.lines.forecast import one_forecast
from cellxlate.enhancement.cluster import worker as worker_room
from cellxlate.enhancement.confidence.file import write_confidence
from cellxlate.enhancement.estimate import Forecast, predict
from cellxlate.enhancement.flow import EnhanceProgress, planes_to_do
from cellxlate.enhancement.gates.saliency import SaliencyAttention
from cellxlate.enhancement.gates.steady import SteadyAttention
from cellxlate.enhancement.input import Context, Floats
from cellxlate.enhancement.job import Executor, enhance, enhance_file
from cellxlate.enhancement.neighbours.held import HeldPlanes
from cellxlate.enhancement.outputs.names import name_outputs
from cellxlate.enhancement.outputs.rebuild import rebuild_report
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.plane import PlaneJob, enhance_plane
from cellxlate.enhancement.tiling import bands_of, tiles_of
from cellxlate.errors import OptionError
from cellxlate.plugin.enhance.one_plane import plan_of_plane
from cellxlate.plugin.preview.cache import PreviewRequest
from cellxlate.plugin.preview.steps import _blocks
from cellxlate.plugin.requests import StopRequest
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.luminance import (
    change_in_color,
    is_in_color,
    luminance_of,
    luminance_stack,
    what_is_seen,
)
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.stacks.write.origins import row_sums

BLACKS = np.array([10.0, 20.0, 5.0])
RANGES = {sample: IntensityRange(black, black + 100) for sample, black in enumerate(BLACKS)}
LIGHT = IntensityRange(12.0, 92.0, noise=0.5)
SHAPE = (540, 90)


@dataclass
class Doubled:
    """A translator that selects what is bright, proposes more of it, and notes what it was shown."""

    factor: float = 1.5
    attention_halo_px: int = 2
    generator_halo_px: int = 4
    stride: int = 4
    activation_bytes_per_px: float = 8.0
    name: str = "doubled"
    identity: str = "torch cpu float32"
    warnings: list[str] = field(default_factory=list)
    shown: set[int] = field(default_factory=set)

    def attention(self, images: Floats) -> Floats:
        self.shown.add(images.shape[1])
        middle = images.shape[1] // 2
        return np.clip((images[:, middle : middle + 1] - 0.3) * 4, 0, 1)

    def proposal(self, images: Floats) -> Floats:
        self.shown.add(images.shape[1])
        middle = images.shape[1] // 2
        return np.float32(self.factor) * images[:, middle : middle + 1]


def pixels(dtype: str = "uint8", shape: tuple[int, ...] = SHAPE) -> npt.NDArray[Any]:
    """Red, green and blue (3, Y, X): spots of three colours on a noisy ground."""
    random = np.random.default_rng(0)
    rows, columns = np.indices(shape[-2:])
    light = 90 * np.sin(rows / 9.0) ** 2 * np.sin(columns / 7.0) ** 2
    colors = np.array([[1.0, 0.2, 0.1], [0.1, 1.0, 0.3], [0.3, 0.2, 1.0]])[(rows // 40 + columns // 30) % 3]
    counts = BLACKS[:, None, None] + light * np.moveaxis(colors, -1, 0) + random.normal(0, 1.0, (3, *shape[-2:]))
    return np.clip(np.rint(counts) if dtype[0] == "u" else counts, 0, None).astype(dtype)


def in_color(translator: Any = None, **settings: Any) -> PlaneJob:
    return PlaneJob(translator or Doubled(), RANGES, settings=EnhanceSettings(**settings), luminance=LIGHT)


def enhanced(planes: npt.NDArray[Any], job: PlaneJob, axes: str = "SYX", order: int = 1) -> npt.NDArray[Any]:
    """All samples after, and their attention: (2, 3, Y, X)."""
    stack = Stack(planes, axes)
    made = np.zeros((2, 3, *stack.plane_shape), stack.dtype)
    areas = list(bands_of(stack.plane_shape, job.tile_px))[::order]
    bands = list(enhance_plane(job.input(stack, (0,)), areas, job))
    for number, band in enumerate(bands):
        rows = slice(band.first_row, band.first_row + len(band.raw))
        assert band.raw.tobytes() == stack.read((number % 3,), rows).tobytes()
        made[:, number % 3, rows] = band.enhanced, band.attention
    return made


def light_of(samples: npt.NDArray[Any], blacks: Any = BLACKS) -> npt.NDArray[np.float64]:
    return np.maximum(samples.astype(np.float64) - np.reshape(blacks, (3, 1, 1)), 0)


def hue_deg(samples: npt.NDArray[Any], blacks: Any = BLACKS) -> npt.NDArray[np.float64]:
    red, green, blue = light_of(samples, blacks)
    return np.degrees(np.arctan2(np.sqrt(3) / 2 * (green - blue), red - (green + blue) / 2))


def turned_deg(before: npt.NDArray[Any], after: npt.NDArray[Any], blacks: Any = BLACKS) -> npt.NDArray[np.float64]:
    return np.abs((hue_deg(after, blacks) - hue_deg(before, blacks) + 180) % 360 - 180)


# --- one plane


def test_networks_see_one_luminance_and_it_changes_as_they_propose() -> None:
    planes, translator = pixels("float32"), Doubled()
    after, attention = enhanced(planes, in_color(translator))
    assert translator.shown == {1}
    unit = (planes.mean(axis=0, dtype=np.float32) - np.float32(12)) / np.float32(80)
    gates = np.clip((np.rint(np.clip((unit - 0.3) * 4, 0, 1) * 1024) / 1024 - 0.1) / 0.9, 0, 1)
    wanted = 80 * gates * 0.5 * unit
    assert np.array_equal(attention[0] > 0, gates > 0)
    assert np.abs((after - planes).mean(axis=0) - wanted).max() < 1e-3
    assert 0.1 < (gates > 0).mean() < 0.9


@pytest.mark.parametrize(("dtype", "most_deg"), [("float32", 1e-3), ("float64", 1e-9), ("uint16", 3.5), ("uint8", 3.5)])
def test_changed_pixels_keep_their_hue_and_kept_pixels_their_bits(dtype: str, most_deg: float) -> None:
    """Integers turn by what rounding does to them, at 20 counts of light and more."""
    planes = pixels(dtype)
    after, attention = enhanced(planes, in_color())
    assert all(np.array_equal(one, attention[0]) for one in attention)
    assert after[attention == 0].tobytes() == planes[attention == 0].tobytes()
    selected = attention[0] > 0
    assert (after != planes).any(axis=0)[selected].mean() > 0.9
    assert turned_deg(planes, after)[selected].max() < most_deg
    assert turned_deg(planes, after)[selected].mean() < most_deg / 3


@pytest.mark.parametrize("tile_px", [64, 200])
def test_every_tiling_and_order_gives_the_same_bits(tile_px: int) -> None:
    planes = pixels("float32")
    planes[1, 30:60, 20:40], planes[2, 5, 5], planes[0, 510, 40] = np.nan, np.inf, 90_000
    whole = enhanced(planes, in_color(tile_px=2048, dense=True))
    for order in (1, -1):
        assert enhanced(planes, in_color(tile_px=tile_px), order=order).tobytes() == whole.tobytes()


def test_a_pixel_that_no_sample_may_change_in_is_kept_in_all() -> None:
    planes = pixels("float32")
    planes[1, 100:120, 20:40], planes[2, 5, 5], planes[0, 250, 60] = np.nan, -np.inf, 90_000
    after, attention = enhanced(planes, in_color())
    for rows, columns in ((slice(100, 120), slice(20, 40)), (5, 5), (250, 60)):
        assert not attention[:, rows, columns].any()
        assert after[:, rows, columns].tobytes() == planes[:, rows, columns].tobytes()


def test_a_sample_without_light_hinders_nothing_and_stays() -> None:
    """Two dyes in RGB leave the third sample at 0 everywhere."""
    planes = pixels()
    planes[0] = 0
    after, attention = enhanced(planes, in_color())
    assert attention.any()
    assert not after[0].any()
    assert (after[1:] != planes[1:]).any()


def test_the_planes_beside_are_seen_as_luminances_each_with_the_levels_of_its_time() -> None:
    still = pixels("float32")
    movie = np.stack([still + drift for drift in (0, 20, 40)])  # (T, S, Y, X)
    drift = ((0, 0.0), (1, 20.0), (2, 40.0))
    job = replace(
        in_color(), intensities={one: replace(own, drift=drift) for one, own in RANGES.items()},
        luminance=replace(LIGHT, drift=drift), context=Context("T", (-1, 0, 1)),
    )  # fmt: skip
    plane = job.input(Stack(movie, "TSYX"), (1, 0))
    area = next(tiles_of(next(bands_of(SHAPE, 512)), 64))
    window = plane.rows(area, 0).window(area)
    assert window.shape == (3, 64, 64)
    assert np.abs(window - window[1]).max() < 1e-6
    assert plane.noise.shape == (3, 1, 1)


def test_towards_the_scale_of_the_target_the_luminance_moves_and_the_hue_stays() -> None:
    planes = pixels("float64")
    job = replace(in_color(), target=IntensityRange(500.0, 1500.0))
    after, _ = enhanced(planes, job)
    unit = (planes.mean(axis=0) - 12) / 80
    full = unit > 0.56  # where the gate is 1
    assert full.any()
    assert np.abs(after.mean(axis=0) - (500 + 1000 * 1.5 * unit))[full].max() < 0.05
    assert turned_deg(planes, after)[full].max() < 1e-6


def test_an_origin_tells_of_all_three_samples_and_of_their_neighbours() -> None:
    movie = np.stack([pixels("float32")] * 3)
    job = replace(in_color(), context=Context("T", (-1, 0, 1)))
    stack, area = Stack(movie, "TSYX"), next(bands_of(SHAPE, 64))
    bands = list(enhance_plane(job.input(stack, (1, 0)), [area], job))
    assert len(bands) == 3
    every = {(time, sample) for time in range(3) for sample in range(3)}
    for sample, band in enumerate(bands):
        assert {index for index, _ in band.beside} == every - {(1, sample)}
        assert band.read.agrees(row_sums(movie[1, sample]))
        assert all(held.agrees(row_sums(movie[index])) for index, held in band.beside)
    assert set(job.planes_seen(stack, (1, 0))) == every


def test_planes_that_are_held_for_their_neighbours_give_the_same_colours() -> None:
    movie = np.stack([pixels("float32") * factor for factor in (0.9, 1.0, 1.1)])
    job = replace(in_color(tile_px=64), context=Context("T", (-1, 0, 1)))
    stack, areas = Stack(movie, "TSYX"), list(bands_of(SHAPE, 64))
    for are_whole in (True, False):
        held = HeldPlanes(9, are_whole=are_whole)
        for time in range(3):
            anew, kept = (
                enhance_plane(one, areas, job)
                for one in (job.input(stack, (time, 0)), job.input(stack, (time, 0), see=held))
            )
            for one, other in zip(anew, kept, strict=True):
                assert one.enhanced.tobytes() == other.enhanced.tobytes()
                assert (one.read, one.beside) == (other.read, other.beside)


def test_colours_are_steadied_by_the_luminance_of_the_planes_beside() -> None:
    """Where the planes beside select a pixel, and its own attention is doubtful, all three samples are selected."""
    movie = np.stack([pixels("float32") * factor for factor in (1.3, 1.0, 1.3)])
    stack, areas = Stack(movie, "TSYX"), list(bands_of(SHAPE, 64))
    alone = replace(in_color(tile_px=64), context=Context("T", (-1, 0, 1)))
    attention = [
        [band.attention for band in enhance_plane(job.input(stack, (1, 0)), areas, job)]
        for job in (alone, replace(alone, gates=SteadyAttention()))
    ]
    own, steady = (np.concatenate(bands[::3]) for bands in attention)
    assert (steady >= own).all()
    assert (steady > own).any()
    assert all(np.array_equal(np.concatenate(attention[1][sample::3]), steady) for sample in (1, 2))


def test_the_guide_and_a_mask_gate_all_three_samples_alike(tiny_model: Path) -> None:
    planes = pixels(shape=(130, 90))
    after, attention = enhanced(planes, replace(in_color(), gates=SaliencyAttention()))
    assert 0.05 < (attention[0] > 0).mean() < 0.9
    assert all(np.array_equal(one, attention[0]) for one in attention)
    assert after[attention == 0].tobytes() == planes[attention == 0].tobytes()
    inside = np.zeros(planes.shape[1:], np.uint8)
    inside[30:60, 20:50] = 1
    result = enhance(planes, tiny_model, axes="SYX", attention_from=inside, engine="torch")
    assert np.array_equal(result.attention > 0, np.broadcast_to(inside > 0, planes.shape))
    assert result.report.tally.in_color


def test_a_sample_whose_attention_gates_is_a_channel_and_so_are_the_others(tiny_model: Path) -> None:
    planes = pixels(shape=(130, 90))
    named = enhance(planes, tiny_model, axes="SYX", attention_channel=1, engine="torch")
    channels = enhance(planes, tiny_model, axes="CYX", attention_channel=1, engine="torch")
    assert np.array_equal(named.image, channels.image)
    assert not named.report.tally.in_color


# --- the change of one pixel


def colors(change: float, samples: list[float], dtype: str = "uint8", known: float = 1.0) -> Any:
    counts = np.array(samples, dtype).reshape(3, 1, 1)
    return change_in_color(np.array([[[change]]]), counts, BLACKS.reshape(3, 1, 1), known).ravel()


def test_a_light_changes_by_one_factor_and_their_mean_as_asked() -> None:
    changes = colors(20, [70, 50, 5])  # lights of 60, 30 and 0
    assert changes == pytest.approx([40, 20, 0])
    assert changes.mean() == pytest.approx(20)


def test_no_sample_is_clipped_alone() -> None:
    changes = colors(200, [210, 120, 35], "uint8")  # lights of 200, 100 and 30: red has room for 45
    assert changes == pytest.approx([45, 22.5, 6.75])
    assert not colors(50, [255, 120, 35], "uint8").any()
    assert colors(200, [210, 120, 35], "uint16") == pytest.approx([363.6, 181.8, 54.5], abs=0.1)


def test_darker_than_black_is_black() -> None:
    """A light is never taken below 0, where its colour would turn into the opposite; what is below black stays."""
    assert colors(-1000, [70, 50, 3]) == pytest.approx([-60, -30, 0])
    assert not colors(-1000, [10, 20, 5]).any()


def test_what_has_no_light_becomes_grey_and_what_is_nearly_black_nearly_so() -> None:
    assert colors(9, [10, 20, 5]) == pytest.approx([9, 9, 9])
    half = colors(9, [11.5, 20, 5], "float64", known=1.0)
    assert half == pytest.approx([9 * 1.5 + 4.5, 4.5, 4.5])
    assert half.mean() == pytest.approx(9)


# --- stacks


@pytest.mark.parametrize(
    ("shape", "axes", "alpha", "is_color"),
    [((9, 9, 3), "YXS", None, True), ((4, 9, 9), "SYX", None, True), ((2, 9, 9), "SYX", None, False),
     ((5, 9, 9), "SYX", None, False), ((5, 9, 9), "SYX", (3, 4), True), ((3, 9, 9), "CYX", None, False),
     ((2, 9, 9, 3), "CYXS", None, True), ((2, 9, 9, 3), "TYXS", None, True)],
)  # fmt: skip
def test_what_colour_is(shape: tuple[int, ...], axes: str, alpha: Any, is_color: bool) -> None:
    stack = Stack(np.zeros(shape, np.uint8), axes, alpha=alpha)
    assert is_in_color(stack, stack.light_channels) == is_color
    assert not is_in_color(stack, stack.light_channels, "separate")
    if is_color and "C" not in axes:
        assert not is_in_color(stack, (0, 1))


@pytest.mark.parametrize(("axes", "order"), [("YXS", (1, 2, 0)), ("SYX", (0, 1, 2)), ("XYS", (2, 1, 0))])
def test_a_luminance_is_read_where_colours_are(axes: str, order: tuple[int, ...]) -> None:
    planes = pixels("uint16")
    stack = Stack(np.ascontiguousarray(planes.transpose(order)).astype(">u2"), axes)
    light = luminance_stack(stack)
    assert (light.size("S"), light.dtype, light.channel_count) == (1, np.dtype(np.float32), 1)
    for sample in (0, 2):
        assert np.array_equal(light.read((sample,), slice(3, 50), slice(7, 9)), luminance_of(planes)[3:50, 7:9])
    assert np.asarray(light).shape == light.shape


def tagged(planes: npt.NDArray[Any], path: Path, config: Any) -> Path:
    data = planes if config == "separate" else np.moveaxis(planes, 0, -1)
    extra = ["unassalpha"] if len(planes) == 4 else None
    tifffile.imwrite(path, data, photometric="rgb", planarconfig=config, extrasamples=extra)
    return path


@pytest.mark.parametrize(("config", "count"), [("separate", 3), ("contig", 4)])
def test_files_planar_and_contiguous_keep_hue_and_opacity(
    tiny_model: Path, tmp_path: Path, config: str, count: int
) -> None:
    planes = pixels(shape=(130, 90))
    planes = np.concatenate([planes, np.full_like(planes[:1], 77)])[:count]
    path = tagged(planes, tmp_path / "a.tif", config)
    report = enhance_file(path, tiny_model, threshold=0.3, engine="torch")
    with cellxlate.open_stack(report.outputs["enhanced"]) as made, cellxlate.open_stack(
        report.outputs["attention"]
    ) as selected:  # fmt: skip
        assert made.axes == ("SYX" if config == "separate" else "YXS")
        axis = made.axes.index("S")
        after, attention = (np.moveaxis(np.asarray(one), axis, 0) for one in (made, selected))
    assert (after[3:] == 77).all()
    assert not attention[3:].any()
    assert np.array_equal(attention[0], attention[1])
    assert np.array_equal(attention[0], attention[2])
    blacks = [report.provenance["levels_counts"][str(sample)]["black"] for sample in range(3)]
    bright = (light_of(planes[:3], blacks).mean(axis=0) > 25) & (after[:3] != planes[:3]).any(axis=0)
    assert bright.any()
    assert turned_deg(planes[:3], after[:3], blacks)[bright].mean() < 1.5
    assert report.kept_violations == 0
    assert list(report.provenance["luminance_counts"]) == ["0"]
    assert "--color luminance" in report.command
    assert not any("one model" in line for line in report.warnings)
    assert sorted(report.tally.trust) == [0]
    again = rebuild_report(report.outputs["enhanced"], source=path)
    assert again.tally.in_color
    assert sorted(again.tally.trust) == [0]


def pictures_in(html: str) -> list[npt.NDArray[Any]]:
    return [png_decode(b64decode(one)) for one in re.findall(r"base64,([^\"]{40,})\"", html)]


@pytest.mark.parametrize(("axes", "shown"), [("SYX", 1), ("ZYXS", 4)])  # the plane; two of depth, and two sections
def test_the_report_shows_colours_and_speaks_of_them(tiny_model: Path, tmp_path: Path, axes: str, shown: int) -> None:
    planes = pixels(shape=(130, 90))
    raw = planes if axes == "SYX" else np.stack([planes, planes]).transpose(0, 2, 3, 1)
    report = enhance_file(Stack(raw, axes, "a"), tiny_model, output_dir=tmp_path, threshold=0.3, engine="torch")
    html = Path(report.outputs["report"]).read_text()
    data = json.loads(Path(report.outputs["report"]).with_suffix(".json").read_text())
    before, attention, after = pictures_in(html)[:3]
    assert before.shape == after.shape == (130, 90, 3)
    assert attention.shape == (130, 90, 4)
    assert len(pictures_in(html)) == 3 * shown
    assert np.corrcoef(before[..., 0].ravel(), planes[0].ravel())[0, 1] > 0.95
    assert "the hue of each pixel is kept" in html
    assert "% of red" in report.verdict
    assert all(words not in html for words in ("channel 0", "S=1", "channel 1"))
    assert data["color"] == "luminance"
    assert [one["name"] for one in data["changes"]["channels"]] == ["red", "green", "blue"]


def test_each_colour_that_is_enhanced_by_itself_has_its_name(tiny_model: Path, tmp_path: Path) -> None:
    stack = Stack(pixels(shape=(130, 90)), "SYX", "a")
    report = enhance_file(
        stack, tiny_model, output_dir=tmp_path, channels=["red", "blue"], engine="torch", threshold=0.3
    )
    html = Path(report.outputs["report"]).read_text()
    assert sorted(report.tally.channels) == [0, 2]
    assert "% of red" in report.verdict
    assert "each of red, green and blue by itself" in html
    assert [one.ndim for one in pictures_in(html)] == [2, 3, 2] * 2


def test_separate_enhances_each_sample_as_a_channel_of_its_own(tiny_model: Path) -> None:
    planes = pixels(shape=(130, 90))
    apart = enhance(planes, tiny_model, axes="SYX", color="separate", engine="torch")
    channels = enhance(planes, tiny_model, axes="CYX", engine="torch")
    assert np.array_equal(apart.image, channels.image)
    assert np.array_equal(apart.attention, channels.attention)
    assert "color" not in apart.report.provenance["settings"]
    assert "luminance_counts" not in apart.report.provenance
    assert "--color separate" in apart.report.command
    assert "--color" not in channels.report.command
    assert apart.report.settings["color"] == "separate"
    assert "color" not in channels.report.settings
    chosen = enhance(planes, tiny_model, axes="SYX", channels=[1], engine="torch")
    assert np.array_equal(chosen.image[1], channels.image[1])
    assert np.array_equal(chosen.image[0], planes[0])


def test_colour_beside_channels_is_enhanced_by_the_luminance_of_each(tiny_model: Path) -> None:
    planes = pixels(shape=(130, 90))
    both = np.stack([planes, planes[::-1]])
    result = enhance(both, tiny_model, axes="CSYX", threshold=0.3, engine="torch")
    for channel in (0, 1):
        assert np.array_equal(result.attention[channel, 0], result.attention[channel, 2])
        assert result.attention[channel].any()
    assert list(result.report.provenance["luminance_counts"]) == ["0", "1"]
    only = enhance(both, tiny_model, axes="CSYX", channels=[1], threshold=0.3, engine="torch")
    assert np.array_equal(only.image[0], both[0])
    assert np.array_equal(only.image[1], result.image[1])


def test_levels_of_an_earlier_run_give_the_same_pixels(tiny_model: Path, tmp_path: Path) -> None:
    path = tagged(pixels(shape=(80, 90)), tmp_path / "a.tif", "contig")
    first = enhance_file(path, tiny_model, engine="torch")
    known = Path(first.outputs["report"]).with_suffix(".json")
    second = enhance_file(path, tiny_model, output_dir=tmp_path / "b", levels_from=known, engine="torch")
    assert second.provenance["luminance_counts"] == first.provenance["luminance_counts"]
    with cellxlate.open_stack(first.outputs["enhanced"]) as one, cellxlate.open_stack(
        second.outputs["enhanced"]
    ) as other:  # fmt: skip
        assert np.array_equal(np.asarray(one), np.asarray(other))
    apart = enhance_file(path, tiny_model, output_dir=tmp_path / "c", color="separate", engine="torch")
    known = Path(apart.outputs["report"]).with_suffix(".json")
    with pytest.raises(OptionError, match="no levels of a luminance; give color='separate'"):
        enhance_file(path, tiny_model, output_dir=tmp_path / "d", levels_from=known, engine="torch")


def test_a_colour_that_is_not_known_is_refused() -> None:
    with pytest.raises(OptionError, match="color='luminence' is not known; did you mean 'luminance'"):
        enhance(pixels(), axes="SYX", color="luminence")  # type: ignore[arg-type]


def by_workers(functions: Any, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """Write every band as workers of a cluster would."""
    monkeypatch.setattr(worker_room, "open_engine", lambda *_, **__: functions)

    def work(plan: Plan, image: Any, attention: Any, started: float) -> Iterator[EnhanceProgress]:
        worker_room.keep_model(plan.bundle, 1)
        own = worker_room.band_job(
            plan, "colors", image=image.pyramid, attention=attention.pyramid, origins=image.origins
        )
        for plane in planes_to_do(plan, lambda _index, _area: False):
            worker_room.enhance_bands(own, [(plane.indices[0], area) for area in plane.wanted])
        worker_room.forget_job("colors")
        yield from ()

    return Executor(work)


def test_workers_confidence_forecast_and_preview_are_those_of_the_luminance(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ome.tif"
    write_stacks([(Stack(np.moveaxis(pixels(shape=(130, 90)), 0, -1), "YXS"), path)])
    here = enhance_file(path, tiny_model, threshold=0.3, engine="torch")
    bundle = cellxlate.load_model(tiny_model)
    with cellxlate.open_stack(path) as stack:
        plan = make_plan(
            stack, bundle, channels=None, settings=EnhanceSettings(0.3), engine="torch", device="cpu"
        )  # fmt: skip
        assert [job.channels for job in plan.jobs] == [(0, 1, 2)]
        there = enhance_file(
            path, bundle, output_dir=tmp_path / "there", threshold=0.3, engine="torch",
            where=by_workers(plan.translator, monkeypatch),
        )  # fmt: skip
        write_confidence(plan, here.outputs["attention"], tmp_path / "sure.ome.tif", views=2)
        outputs = name_outputs(path, is_zarr=False, output_dir=tmp_path / "none")
        forecast = Forecast(path, plan, outputs, predict(plan, outputs, plan_s=0.0))
        assert forecast.prediction.cell_fraction > 0
        assert forecast.tiles == here.tiles_total
        assert any("by their luminance" in line for line in one_forecast(forecast.as_dict()))
        blocks = tuple(tiles_of(next(bands_of(stack.plane_shape, 512)), 512))
        request = PreviewRequest(stack, (), str(tiny_model), "cpu", "torch", blocks, StopRequest())
        [(_, steps)] = _blocks(request, blocks, plan.jobs)
        visible = plan_of_plane(plan, ())
    assert [job.luminance for job in visible.jobs] == [job.luminance for job in plan.jobs]
    found = {}
    for name, place in (
        ("here", here.outputs["enhanced"]), ("there", there.outputs["enhanced"]),
        ("attention", here.outputs["attention"]), ("sure", tmp_path / "sure.ome.tif"),
    ):  # fmt: skip
        with cellxlate.open_stack(place) as one:
            found[name] = np.asarray(one)
    assert np.array_equal(found["here"], found["there"])
    assert np.array_equal(found["sure"] == 0, found["attention"] == 0)
    assert np.array_equal(steps > 0.3 * 1024, found["attention"][..., 0] > 0)


def test_a_model_is_chosen_by_the_luminance() -> None:
    """A sample of nothing but noise says nothing of the image."""
    planes = pixels(shape=(260, 260))
    planes[2] = np.random.default_rng(1).poisson(4, planes[2].shape)
    seen, channels = what_is_seen(Stack(planes, "SYX"), (0, 1, 2))
    grey = Stack(luminance_of(planes), "YX")
    assert choose(seen, channels).considered == choose(grey, (0,)).considered

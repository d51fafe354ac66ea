"""What is written comes back to the bit, or nothing appears under the final name."""

import errno
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import ome_types
import pytest
import tifffile
import yaozarrs
import zarr

from cellxlate.errors import OptionError, OutputError
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.read.resolutions import open_resolutions
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write import pyramid
from cellxlate.stacks.write import writer as writing
from cellxlate.stacks.write.bands import BAND_PX, Bands
from cellxlate.stacks.write.pyramid import Reduction, halve, resolution_count
from cellxlate.stacks.write.writer import Writer, open_writer

DTYPES = ("uint8", "uint16", "int16", "uint32", "int8", "int32", "float32", "float64")
ENDINGS = (".ome.tif", ".ome.zarr")
BITS = {4: np.dtype(np.uint32), 8: np.dtype(np.uint64)}


def random_pixels(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return random.normal(100, 30, shape).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


def stack_of(pixels: np.ndarray, axes: str) -> Stack:
    """A stack that states all it can."""
    return replace(
        Stack.from_array(pixels, axes),
        pixel_size_um={axis: size for axis, size in (("Z", 1.5), ("Y", 0.325), ("X", 0.3251)) if axis in axes},
        channel_names=tuple(f"<{n}> & µ" for n in range(pixels.shape[axes.index("C")])) if "C" in axes else (),
        time_step_s=12.5 if "T" in axes else None,
    )


def write_all(writer: Writer, source: Stack) -> None:
    for index, first_row in product(source.plane_indices(), range(0, source.size("Y"), BAND_PX)):
        if not writer.is_done(index, first_row // BAND_PX):
            writer.write(index, first_row, source.read(index, slice(first_row, first_row + BAND_PX)))


def written(path: Path, source: Stack, **options: Any) -> Path:
    with open_writer(path, like=source, **options) as writer:
        write_all(writer, source)
        writer.finish()
        return writer.publish()


# --- what comes back


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_to_the_bit(tmp_path: Path, dtype: str, ending: str) -> None:
    pixels = random_pixels((2, 2, 530, 270), dtype)
    source = stack_of(pixels, "CZYX")
    with open_stack(written(tmp_path / f"a{ending}", source)) as found:
        assert found.dtype == pixels.dtype
        assert np.asarray(found).tobytes() == pixels.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_payloads_and_signed_zeros_survive(tmp_path: Path, dtype: str, ending: str) -> None:
    size = np.dtype(dtype).itemsize
    bits = random_pixels((70, 90), f"uint{8 * size}" if size == 4 else "uint32").astype(BITS[size])
    bits[0, :4] = {
        4: [0x7FC12345, 0xFFC00001, 0x7F800001, 0x80000000],
        8: [0x7FF8000012345678, 0xFFF8000000000001, 0x7FF0000000000001, 0x8000000000000000],
    }[size]
    pixels = bits.view(dtype)
    with open_stack(written(tmp_path / f"a{ending}", stack_of(pixels, "YX"))) as found:
        np.testing.assert_array_equal(np.asarray(found).view(BITS[size]), bits)


SHAPES = [
    ("YX", (1, 1)), ("YX", (17, 1031)), ("YX", (1031, 17)), ("ZYX", (3, 512, 256)), ("ZYX", (1, 40, 50)),
    ("CYX", (2, 513, 257)), ("TYX", (3, 20, 30)), ("TCZYX", (2, 2, 2, 40, 50)), ("TCZYX", (1, 1, 1, 40, 50)),
    ("TCZYX", (2, 1, 3, 40, 50)), ("TZYX", (1, 2, 40, 50)), ("CZYX", (1, 1, 20, 30)),
]  # fmt: skip
TIFF_SHAPES = [
    ("TZCYX", (2, 3, 2, 30, 40)), ("ZTCYX", (2, 3, 1, 30, 40)), ("YXS", (600, 70, 3)), ("SYX", (3, 600, 70)),
    ("YXS", (30, 40, 4)), ("ZYXS", (2, 30, 40, 3)), ("TSYX", (2, 3, 30, 40)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "shape", "ending"),
    [(*case, ending) for case in SHAPES for ending in ENDINGS] + [(*case, ".ome.tif") for case in TIFF_SHAPES],
)
def test_shape_axes_and_calibration_come_back(tmp_path: Path, axes: str, shape: tuple[int, ...], ending: str) -> None:
    source = stack_of(random_pixels(shape), axes)
    with open_stack(written(tmp_path / f"a{ending}", source)) as found:
        for name in ("axes", "shape", "dtype", "pixel_size_um", "channel_names", "time_step_s"):
            assert getattr(found, name) == getattr(source, name), name
        np.testing.assert_array_equal(np.asarray(found), np.asarray(source))
        for index in source.plane_indices():
            np.testing.assert_array_equal(found.read(index), source.read(index))


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_stated_where_the_source_states_nothing(tmp_path: Path, ending: str) -> None:
    with open_stack(written(tmp_path / f"a{ending}", Stack.from_array(random_pixels((2, 30, 40)), "CYX"))) as found:
        assert dict(found.pixel_size_um) == {}
        assert found.channel_names == ()
        assert found.time_step_s is None


def test_the_dtype_may_differ_from_the_source(tmp_path: Path) -> None:
    source = stack_of(random_pixels((30, 40)), "YX")
    with open_writer(tmp_path / "a.ome.tif", like=source, dtype=np.uint8) as writer:
        writer.write((), 0, np.full((30, 40), 7, np.uint8))
        writer.finish()
        with open_stack(writer.publish()) as found:
            assert found.dtype == np.uint8
            assert (np.asarray(found) == 7).all()


@pytest.mark.parametrize("ending", ENDINGS)
def test_empty_bands_are_written_too(tmp_path: Path, ending: str) -> None:
    source = stack_of(np.zeros((2, 600, 300), np.uint16), "ZYX")
    with open_writer(tmp_path / f"a{ending}", like=source) as writer:
        write_all(writer, source)
        assert all(writer.is_done((z,), band) for z in (0, 1) for band in (0, 1))
        writer.finish()
        with open_stack(writer.publish()) as found:
            assert not np.asarray(found).any()


def test_rows_may_be_the_last_axis(tmp_path: Path) -> None:
    """Columns before rows: no format of ours, but the bands keep to the stack's own order."""
    folder = tmp_path / "0"
    pixels = random_pixels((300, 2, 700))
    bands = Bands(folder, "XCY", pixels.shape, pixels.dtype)
    bands.create()
    for channel in (0, 1):
        bands.write((channel,), 0, pixels[:, channel].T)
    assert bands.missing() == 0
    np.testing.assert_array_equal(bands.read((1,), slice(500, 530)), pixels[:, 1, 500:530].T)
    np.testing.assert_array_equal(zarr.open_array(folder)[:], pixels)


# --- other programs


def test_plain_tifffile_reads_the_same_pixels(tmp_path: Path) -> None:
    pixels = random_pixels((2, 3, 600, 300))
    path = written(tmp_path / "a.ome.tif", stack_of(pixels, "CZYX"))
    np.testing.assert_array_equal(tifffile.imread(path), pixels)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        assert page.is_tiled
        assert page.compression == tifffile.COMPRESSION.ZSTD
        assert not file.is_bigtiff


def test_ome_xml_is_valid_and_complete(tmp_path: Path) -> None:
    source = stack_of(random_pixels((2, 2, 1, 30, 40)), "TCZYX")
    provenance = {"model": "nuclei <1> & \x00more", "settings": {"threshold": 0.1}, "axes": "not mine"}
    image = ome_types.from_tiff(written(tmp_path / "a.ome.tif", source, provenance=provenance), validate=True)
    pixels = image.images[0].pixels
    assert (pixels.physical_size_x, pixels.physical_size_y, pixels.physical_size_z) == (0.3251, 0.325, 1.5)
    assert pixels.physical_size_x_unit.value == "µm"
    assert pixels.time_increment == 12.5
    assert [channel.name for channel in pixels.channels] == ["<0> & µ", "<1> & µ"]
    stated = {entry.k: entry.value for entry in image.structured_annotations.map_annotations[0].value.ms}
    stored = json.loads(stated.pop("metadata"))
    assert stated == {"model": "nuclei <1> & more", "settings": '{"threshold": 0.1}', "axes": "TCZYX"}
    assert stored == {"tiff": {}, "zarr": {}, "colours": [], "ranges": [], "own_xml": True}


def test_ome_zarr_is_valid_and_carries_provenance(tmp_path: Path) -> None:
    pixels = random_pixels((2, 2, 3, 30, 40))
    path = written(tmp_path / "a.ome.zarr", stack_of(pixels, "TCZYX"), provenance={"threshold": 0.1})
    yaozarrs.validate_zarr_store(str(path))
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["0"][:], pixels)
    provenance = dict(group.attrs["cellxlate"])
    assert provenance.pop("metadata")["own_attributes"]
    assert provenance == {"threshold": 0.1}
    channels = group.attrs["ome"]["omero"]["channels"]
    assert [channel["label"] for channel in channels] == ["<0> & µ", "<1> & µ"]
    middle = pixels.reshape(2, 2, 3, -1)[1, 0, 0]
    assert channels[0]["window"]["start"] == middle.min()
    assert channels[0]["window"]["end"] == middle.max()


def test_a_file_near_the_limit_of_classic_tiff_becomes_big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellxlate.stacks.write.tiff.CLASSIC_BYTES", 2000)
    with tifffile.TiffFile(written(tmp_path / "a.ome.tif", stack_of(random_pixels((30, 40)), "YX"))) as file:
        assert file.is_bigtiff


# --- pyramids


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
def test_a_constant_plane_stays_constant_when_halved(dtype: str, reduction: Reduction) -> None:
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else np.finfo(dtype).max
    for value in (0, 1, top):
        smaller = halve(np.full((5, 8), value, dtype), reduction)
        assert smaller.dtype == dtype
        assert smaller.shape == (3, 4)
        assert (smaller == value).all()


def test_halving_takes_the_mean_rounded_or_the_largest() -> None:
    pixels = np.array([[0, 1, 10], [1, 0, 20], [7, 8, 255]], np.uint8)
    np.testing.assert_array_equal(halve(pixels, "mean"), [[1, 15], [8, 255]])
    np.testing.assert_array_equal(halve(pixels, "max"), [[1, 20], [8, 255]])
    np.testing.assert_array_equal(halve(np.array([[-5, -4], [-5, -5]], np.int16), "mean"), [[-5]])
    assert np.isnan(halve(np.array([[1, np.nan], [2, 3]], np.float32), "mean"))[0, 0]


@pytest.mark.parametrize(("plane", "count"), [((1024, 5000), 1), ((1025, 5000), 2), ((2050, 2050), 3), ((1, 1), 1)])
def test_levels_are_halved_until_the_shorter_side_fits(plane: tuple[int, int], count: int) -> None:
    assert resolution_count(plane) == count


@pytest.fixture
def small_pyramids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "PYRAMID_PX", 200)


@pytest.mark.usefixtures("small_pyramids")
@pytest.mark.parametrize("axes", ["CYX", "YXS"])
def test_tiff_levels_follow_from_the_full_resolution(tmp_path: Path, axes: str) -> None:
    pixels = random_pixels((2, 1301, 703) if axes == "CYX" else (1301, 703, 3))
    path = written(tmp_path / "a.ome.tif", stack_of(pixels, axes))
    with tifffile.TiffFile(path) as file:
        levels = [level.asarray() for level in file.series[0].levels]
        assert len(file.series) == 1
    assert len(levels) == 3
    np.testing.assert_array_equal(levels[0], pixels)
    channels_first = [np.moveaxis(level, -1, 0) if axes == "YXS" else level for level in levels]
    for above, below in pairwise(channels_first):
        for channel in range(len(above)):
            np.testing.assert_array_equal(below[channel], halve(above[channel], "mean"))
    with open_stack(path) as found:
        assert found.resolutions == 3


@pytest.mark.usefixtures("small_pyramids")
def test_zarr_levels_lie_where_their_pixels_do(tmp_path: Path) -> None:
    pixels = np.where(random_pixels((2, 1301, 703), "uint8") < 2, 9, 0).astype(np.uint8)
    path = written(tmp_path / "a.ome.zarr", stack_of(pixels, "ZYX"), reduction="max")
    yaozarrs.validate_zarr_store(str(path))
    group = zarr.open_group(path, mode="r")
    multiscale = group.attrs["ome"]["multiscales"][0]
    datasets = multiscale["datasets"]
    assert [dataset["path"] for dataset in datasets] == ["0", "1", "2"]
    assert multiscale["type"] == "max"
    for number, dataset in enumerate(datasets):
        level, factor = group[dataset["path"]][:], 2**number
        padded = np.pad(pixels, ((0, 0), (0, -1301 % factor), (0, -703 % factor)))
        blocks = padded.reshape(2, level.shape[1], factor, level.shape[2], factor)
        np.testing.assert_array_equal(level, blocks.max(axis=(2, 4)))  # 0 is 0 everywhere beneath, and only then
        scale = dataset["coordinateTransformations"][0]["scale"]
        assert scale == [1.5, 0.325 * factor, 0.3251 * factor]
        if number:  # the centre of the first pixel is the mean of the centres beneath it
            shift = dataset["coordinateTransformations"][1]["translation"]
            centre = np.arange(factor).mean()
            assert shift == pytest.approx([0.0, 0.325 * centre, 0.3251 * centre])


@pytest.mark.usefixtures("small_pyramids")
@pytest.mark.parametrize("rows", [512, 1024, 1536, 2300])
@pytest.mark.parametrize("ending", ENDINGS)
def test_levels_are_the_same_however_many_rows_come_at_once(tmp_path: Path, rows: int, ending: str) -> None:
    source = stack_of(random_pixels((2, 2300, 270)), "ZYX")
    with open_writer(tmp_path / f"a{ending}", like=source) as writer:
        for index, first in product(source.plane_indices(), range(0, 2300, rows)):
            writer.write(index, first, source.read(index, slice(first, first + rows)))
        halved = writer.pyramid.all_resolutions[1]
        made = [halved.is_done((0,), band) for band in range(halved.per_plane)]
        writer.finish()
        path = writer.publish()
    assert made == {512: [False, False, True], 1024: [True] * 3, 1536: [False] * 3, 2300: [True] * 3}[rows]
    levels = open_resolutions(path)
    assert [level.shape[1] for level in levels] == [2300, 1150]
    for above, below in pairwise(map(np.asarray, levels)):
        np.testing.assert_array_equal(below, [halve(plane, "mean") for plane in above])
    levels[0].close()


@pytest.mark.usefixtures("small_pyramids")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_band_of_a_level_is_made_again(tmp_path: Path, ending: str) -> None:
    source = stack_of(random_pixels((2, 1100, 270)), "ZYX")
    path = tmp_path / f"a{ending}"
    with open_writer(path, like=source) as writer:
        for index in source.plane_indices():
            writer.write(index, 0, source.read(index))
        halved = writer.pyramid.all_resolutions[1]
        halved.file((0,), 0).write_bytes(b"cut short")
    with open_writer(path, like=source, resume=True) as writer:
        assert [halved.is_done((plane,), 0) for plane in (0, 1)] == [False, True]
        writer.finish()
        writer.publish()
    levels = open_resolutions(path)
    np.testing.assert_array_equal(np.asarray(levels[1]), [halve(plane, "mean") for plane in np.asarray(source)])
    levels[0].close()


# --- resume


class InterruptionError(Exception):
    """What stops a job half-way."""


def interrupted(path: Path, source: Stack, after: int, **options: Any) -> None:
    def write_some() -> None:
        with open_writer(path, like=source, **options) as writer:
            for number, (index, band) in enumerate(product(source.plane_indices(), range(writer.bands.per_plane))):
                if number == after:
                    raise InterruptionError
                rows = writer.bands.rows(band)
                writer.write(index, rows.start, source.read(index, rows))

    with pytest.raises(InterruptionError):
        write_some()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, ending: str) -> None:
    source = stack_of(random_pixels((2, 1100, 270)), "CYX")
    unbroken = written(tmp_path / f"unbroken{ending}", source, fingerprint={"threshold": 0.1})
    path = tmp_path / f"resumed{ending}"
    interrupted(path, source, 4, fingerprint={"threshold": 0.1})
    assert not path.exists()
    with open_writer(path, like=source, fingerprint={"threshold": 0.1}, resume=True) as writer:
        done = [(index, band) for index in [(0,), (1,)] for band in range(3) if writer.is_done(index, band)]
        assert done == [((0,), 0), ((0,), 1), ((0,), 2), ((1,), 0)]
        np.testing.assert_array_equal(writer.read((0,), slice(500, 600)), source.read((0,), slice(500, 600)))
        write_all(writer, source)
        writer.finish()
        writer.publish()
    with open_stack(unbroken) as first, open_stack(path) as second:
        assert np.asarray(first).tobytes() == np.asarray(second).tobytes() == np.asarray(source).tobytes()
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([f"resumed{ending}", f"unbroken{ending}"])


def test_resume_starts_afresh_where_nothing_is_there(tmp_path: Path) -> None:
    source = stack_of(random_pixels((30, 40)), "YX")
    with open_stack(written(tmp_path / "a.ome.tif", source, resume=True)) as found:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(source))


def test_resume_refuses_another_job_and_names_what_differs(tmp_path: Path) -> None:
    source = stack_of(random_pixels((2, 600, 40)), "ZYX")
    path = tmp_path / "a.ome.tif"
    interrupted(path, source, 1, fingerprint={"threshold": 0.1, "model": "a", "tile": [1, 2]})
    other = stack_of(random_pixels((3, 600, 40)), "ZYX")
    with pytest.raises(OutputError, match=r"other model, shape, threshold; .*overwrite=True"):
        open_writer(path, like=other, fingerprint={"threshold": 0.2, "tile": (1, 2)}, resume=True)
    with pytest.raises(OutputError, match=r"other dtype;"):
        open_writer(path, like=source, dtype=np.uint8, resume=True,
                    fingerprint={"threshold": 0.1, "model": "a", "tile": (1, 2)})  # fmt: skip
    with open_writer(path, like=source, fingerprint={"threshold": 0.1, "model": "a", "tile": (1, 2)}, resume=True) as w:
        assert w.is_done((0,), 0)


def test_a_partial_needs_a_decision(tmp_path: Path) -> None:
    source = stack_of(random_pixels((2, 600, 40)), "ZYX")
    path = tmp_path / "a.ome.tif"
    interrupted(path, source, 1)
    with pytest.raises(OutputError, match=r"interrupted job; give resume=True to go on, or overwrite=True"):
        open_writer(path, like=source)
    with open_writer(path, like=source, overwrite=True) as writer:
        assert not writer.is_done((0,), 0)


def test_an_interruption_before_the_first_band_leaves_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "a.ome.tif", stack_of(random_pixels((30, 40)), "YX"), 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_a_band_cut_short_by_a_crash_is_done_again(tmp_path: Path, keep: float) -> None:
    source = stack_of(random_pixels((2, 600, 300)), "ZYX")
    path = tmp_path / "a.ome.zarr"
    interrupted(path, source, 3)
    with open_writer(path, like=source, resume=True) as writer:
        file = writer.bands.file((0,), 1)
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    (file.parent / f"{file.name}.0123abcd.partial").write_bytes(b"half a band")
    with open_writer(path, like=source, resume=True) as writer:
        assert [writer.is_done((0,), 0), writer.is_done((0,), 1), writer.is_done((1,), 0)] == [True, False, True]
        write_all(writer, source)
        writer.finish()
        writer.publish()
    with open_stack(path) as found:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(source))
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("place", [0.1, 0.5])
def test_a_flipped_bit_is_found_and_the_band_done_again(tmp_path: Path, place: float, ending: str) -> None:
    source = stack_of(random_pixels((2, 600, 300)), "ZYX")
    path = tmp_path / f"a{ending}"
    with open_writer(path, like=source) as writer:
        write_all(writer, source)
        file = writer.bands.file((1,), 0)
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 1
        file.write_bytes(content)
        with pytest.raises(OutputError, match=r"band 0 of plane \(1,\) was damaged .* run again with resume=True"):
            writer.read((1,), slice(0, 512))
        assert not writer.is_done((1,), 0)
        with pytest.raises(OutputError, match="1 of 4 bands are not written"):
            writer.finish()
    assert not path.exists()
    assert written(path, source, resume=True) == path


@pytest.mark.parametrize("damage", ["chunk", "index", "short", "empty"])
def test_tiles_that_are_damaged_are_not_copied_into_a_file(tmp_path: Path, damage: str) -> None:
    source = stack_of(random_pixels((2, 600, 300)), "ZYX")
    path = tmp_path / "a.ome.tif"
    with open_writer(path, like=source) as writer:
        write_all(writer, source)
        file = writer.bands.file((1,), 0)
        content = bytearray(file.read_bytes())
        content[{"chunk": 1000, "index": -20}.get(damage, 0)] ^= 1
        file.write_bytes({"short": content[:30], "empty": b""}.get(damage, content))
        with pytest.raises(OutputError, match=r"band 0 of plane \(1,\) was damaged|1 of 4 bands are not written"):
            writer.finish()
        assert not writer.is_done((1,), 0)
        write_all(writer, source)
        writer.finish()
        writer.publish()
    with open_stack(path) as found:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(source))


@pytest.mark.parametrize("side", [(1, 1), (16, 40), (250, 257), (511, 513), (520, 700)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_hold_what_was_written_at_any_size(tmp_path: Path, side: tuple[int, int], dtype: str) -> None:
    pixels = random_pixels(side, dtype)
    path = written(tmp_path / "a.ome.tif", stack_of(pixels, "YX"))
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        assert (page.tilelength, page.tilewidth) == tuple(min(-(-size // 16) * 16, 256) for size in side)
        np.testing.assert_array_equal(page.asarray(), pixels)


def test_reading_what_is_not_written_is_an_error_not_zeros(tmp_path: Path) -> None:
    source = stack_of(random_pixels((700, 40)), "YX")
    with open_writer(tmp_path / "a.ome.tif", like=source) as writer:
        writer.write((), 0, source.read((), slice(0, 512)))
        with pytest.raises(OutputError, match="band 1 of plane"):
            writer.read((), slice(500, 520))
        with pytest.raises(OutputError, match="1 of 2 bands are not written; give resume=True"):
            writer.finish()


def test_an_empty_file_is_no_band(tmp_path: Path) -> None:
    """A crash leaves files of 0 bytes, which zarr reads as zeros."""
    source = stack_of(random_pixels((512, 256)), "YX")
    with open_writer(tmp_path / "a.ome.tif", like=source) as writer:
        write_all(writer, source)
        writer.bands.file((), 0).write_bytes(b"")
        assert not writer.is_done((), 0)
        with pytest.raises(OutputError, match="has not been written"):
            writer.read((), slice(0, 512))
        with pytest.raises(OutputError, match="1 of 1 bands are not written"):
            writer.finish()


# --- when it appears


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_final_name_appears_with_publish_and_not_before(tmp_path: Path, ending: str) -> None:
    source = stack_of(random_pixels((30, 40)), "YX")
    path = tmp_path / f"a{ending}"
    with open_writer(path, like=source) as writer:
        write_all(writer, source)
        with pytest.raises(OutputError, match="not finished"):
            writer.publish()
        finished = writer.finish()
        assert not path.exists()
        with open_stack(finished) as found:  # can be checked before it is published
            assert found.name == "a"
            np.testing.assert_array_equal(np.asarray(found), np.asarray(source))
        assert writer.publish() == path
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_existing_output_stays_until_the_new_one_replaces_it(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    old, new = (stack_of(random_pixels((30, 40), seed=seed), "YX") for seed in (1, 2))
    written(path, old)
    with pytest.raises(OutputError, match=r"exists; give overwrite=True to replace it, or resume=True"):
        open_writer(path, like=new)
    with open_writer(path, like=new, overwrite=True) as writer:
        write_all(writer, new)
        writer.finish()
        with open_stack(path) as found:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(old))
        writer.publish()
    with open_stack(path) as found:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(new))
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    source = stack_of(random_pixels((30, 40)), "YX")
    with open_writer(tmp_path / "a.ome.tif", like=source) as writer:
        write_all(writer, source)
        writer.finish()
        writer.discard()
    assert list(tmp_path.iterdir()) == []


# --- one at a time


def test_two_writers_of_one_output_exclude_each_other(tmp_path: Path) -> None:
    source = stack_of(random_pixels((30, 40)), "YX")
    path = tmp_path / "a.ome.tif"
    with open_writer(path, like=source) as writer:
        for options in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(OutputError, match="being written by another job"):
                open_writer(path, like=source, **options)
        write_all(writer, source)
    with open_writer(path, like=source, resume=True) as writer:
        assert writer.is_done((), 0)


KILLED = """
import sys, time
import numpy as np
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.writer import open_writer
source = Stack.from_array(np.full((2, 600, 300), 7, np.uint16), "ZYX")
writer = open_writer(sys.argv[1], like=source)
writer.write((0,), 0, source.read((0,)))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a POSIX signal")
def test_a_killed_job_leaves_its_lock_open_and_its_bands_usable(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    source = Stack.from_array(np.full((2, 600, 300), 7, np.uint16), "ZYX")
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        with pytest.raises(OutputError, match="being written by another job"):
            open_writer(path, like=source, overwrite=True)
        job.kill()
        job.wait()
    with open_writer(path, like=source, resume=True) as writer:
        assert [writer.is_done((z,), band) for z in (0, 1) for band in (0, 1)] == [True, True, False, False]


def test_bands_may_be_written_by_threads_and_by_other_processes(tmp_path: Path) -> None:
    source = stack_of(random_pixels((6, 1100, 270)), "ZYX")
    with open_writer(tmp_path / "a.ome.zarr", like=source) as writer:
        elsewhere: Bands = pickle.loads(pickle.dumps(writer.bands))
        jobs = list(product(source.plane_indices(), range(3)))

        def write(job: tuple[tuple[int, ...], int]) -> None:
            rows = elsewhere.rows(job[1])
            elsewhere.write(job[0], rows.start, source.read(job[0], rows))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, jobs))
        assert all(writer.is_done(*job) for job in jobs)
        writer.finish()
        with open_stack(writer.publish()) as found:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(source))


# --- what is refused


REFUSED: list[tuple[str, str, tuple[int, ...], str, str]] = [
    ("a.ome.tif", "YX", (8, 8), "float16", "cannot hold float16 pixels; choose format='tiff' or ome-zarr"),
    ("a.ome.tif", "YXC", (8, 8, 3), "uint8", "cannot hold the axes YXC"),
    ("a.ome.tif", "XY", (8, 8), "uint8", "cannot hold the axes XY"),
    ("a.ome.tif", "SZYX", (3, 2, 8, 8), "uint8", "cannot hold the axes SZYX"),
    ("a.ome.tif", "YXS", (8, 8, 2), "uint8", "holds 3 or 4 colour samples, the stack has 2"),
    ("a.ome.zarr", "YXS", (8, 8, 3), "uint8", "the stack has YXS; choose format='zarr'"),
    ("a.ome.zarr", "CSYX", (2, 3, 8, 8), "uint8", "the stack has CSYX; choose format='zarr'"),
    ("a.ome.zarr", "ZCYX", (2, 2, 8, 8), "uint8", "time first.*the stack has ZCYX; choose format='zarr'"),
]


@pytest.mark.parametrize(("name", "axes", "shape", "dtype", "message"), REFUSED)
def test_what_a_format_cannot_hold_is_refused_before_any_work(
    tmp_path: Path, name: str, axes: str, shape: tuple[int, ...], dtype: str, message: str
) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        open_writer(tmp_path / name, like=Stack.from_array(np.zeros(shape, dtype), axes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_zarr_holds_float16(tmp_path: Path) -> None:
    pixels = random_pixels((30, 40), "float16")
    with open_stack(written(tmp_path / "a.zarr", stack_of(pixels, "YX"))) as found:
        assert np.asarray(found).tobytes() == pixels.tobytes()


@pytest.mark.parametrize("name", ["a.png", "a", "a.ome", "tif"])
def test_an_unknown_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"name it \.ome\.tif or \.ome\.zarr"):
        open_writer(tmp_path / name, like=stack_of(random_pixels((8, 8)), "YX"))


@pytest.mark.parametrize("kind", ["ome-tiff", "tiff"])
def test_a_file_does_not_take_the_place_of_an_image_in_a_folder(tmp_path: Path, kind: str) -> None:
    source = stack_of(random_pixels((8, 8)), "YX")
    folder = written(tmp_path / "a.ome.zarr", source).rename(tmp_path / "a.tif")
    with pytest.raises(OutputError, match="is a folder and no OME-Zarr image"):
        open_writer(folder, like=source, format=kind, overwrite=True)
    assert (folder / "zarr.json").is_file()


def test_places_that_must_not_be_written_are_refused(tmp_path: Path) -> None:
    source = stack_of(random_pixels((8, 8)), "YX")
    with pytest.raises(OutputError, match="does not exist; make it first"):
        open_writer(tmp_path / "absent" / "a.ome.tif", like=source)
    path = written(tmp_path / "a.ome.tif", source)
    with open_stack(path) as itself, pytest.raises(OutputError, match="is the input itself"):
        open_writer(tmp_path / "." / "a.ome.tif", like=itself, overwrite=True)
    for name in ("folder.ome.tif", "folder.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
        with pytest.raises(OutputError, match="is a folder and no OME-Zarr image"):
            open_writer(tmp_path / name, like=source, overwrite=True)
        assert (tmp_path / name / "precious").exists()
    (tmp_path / "b.ome.tif.partial").mkdir()
    (tmp_path / "b.ome.tif.partial" / "precious").touch()
    with pytest.raises(OutputError, match="is in the way and no partial"):
        open_writer(tmp_path / "b.ome.tif", like=source, overwrite=True)
    assert (tmp_path / "b.ome.tif.partial" / "precious").exists()


@pytest.mark.parametrize(
    ("first_row", "pixels", "message"),
    [
        (0, np.zeros((500, 40), np.uint16), "whole bands"),
        (100, np.zeros((600, 40), np.uint16), "whole bands"),
        (0, np.zeros((700, 41), np.uint16), "whole bands"),
        (512, np.zeros((188 + 512, 40), np.uint16), "whole bands"),
        (0, np.zeros((0, 40), np.uint16), "whole bands"),
        (0, np.zeros((700, 40), np.int16), "int16, the output is uint16"),
    ],
)
def test_pixels_that_are_no_whole_bands_are_refused(
    tmp_path: Path, first_row: int, pixels: np.ndarray, message: str
) -> None:
    with open_writer(tmp_path / "a.ome.tif", like=stack_of(random_pixels((700, 40)), "YX")) as writer:
        with pytest.raises(OptionError, match=message):
            writer.write((), first_row, pixels)
        assert writer.bands.missing() == 2


def test_too_little_disk_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stack_of(random_pixels((2, 1000, 1000)), "ZYX")  # 4 MB
    usage = writing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _folder: usage._replace(free=1_900_000))
    with pytest.raises(OutputError, match=r"0\.0 GB free, the output needs at least 0\.0 GB"):
        open_writer(tmp_path / "a.ome.tif", like=source)
    assert list(tmp_path.iterdir()) == []
    with open_writer(tmp_path / "a.ome.zarr", like=source) as writer:  # needs no second copy
        assert writer.bands.missing() == 4


def test_a_full_disk_is_reported_and_the_bands_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stack_of(random_pixels((2, 600, 40)), "ZYX")

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.ome.tif"
    with open_writer(path, like=source) as writer:
        write_all(writer, source)
        with monkeypatch.context() as patch:
            patch.setattr(writing, "write_tiff", full)
            with pytest.raises(OutputError, match=r"the disk is full; .* resume=True"):
                writer.finish()
    assert not path.exists()
    with open_writer(path, like=source, resume=True) as writer:
        assert writer.bands.missing() == 0


def test_a_fingerprint_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="fingerprint"):
        open_writer(tmp_path / "a.ome.tif", like=stack_of(random_pixels((8, 8)), "YX"), fingerprint={"a": object()})


@pytest.mark.parametrize("axes", ["YX", "TYX", "XTY", "YXC"])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_bands_are_what_zarr_reads(tmp_path, axes, flat, dtype):
    """Shards are made without zarr: it has to find every pixel in them, at the borders of chunks too."""
    shape = tuple({"Y": 700, "X": 513}.get(axis, 2) for axis in axes)
    made = Bands(tmp_path / "bands", axes, shape, np.dtype(dtype), flat, flat)
    made.create()
    pixels = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    wrapped = Stack.from_array(pixels, axes)
    for index in made.plane_indices():
        for band in range(made.per_plane):
            made.write(index, made.rows(band).start, wrapped.read(index, made.rows(band)))
    assert made.missing() == made.drop_damaged() == 0
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "bands", mode="r")[...], pixels)
    assert any(item.is_dir() for item in (tmp_path / "bands").iterdir()) != flat


def test_a_partial_of_another_version_is_named(tmp_path):
    like = Stack.from_array(np.ones((3, 20, 20), np.uint16))
    with open_writer(tmp_path / "out.ome.tif", like=like) as writer:
        writer.write((0,), 0, np.ones((20, 20), np.uint16))
    record = tmp_path / "out.ome.tif.partial" / "job.json"
    record.write_text(record.read_text().replace('"cellxlate_partial": 4', '"cellxlate_partial": 3'))
    with pytest.raises(OutputError, match=r"another version of cellxlate .* number 3, .* is 4.* overwrite=True"):
        open_writer(tmp_path / "out.ome.tif", like=like, resume=True)
    with open_writer(tmp_path / "out.ome.tif", like=like, overwrite=True) as writer:
        assert not writer.is_done((0,), 0)

"""Files open with the axes, calibration and pixels they state, or are refused in one line."""

import itertools
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.errors import InputError
from cellxlate.stacks.read.open import find_stacks, open_stack, stack_name
from cellxlate.stacks.read.pixels import Expanded, FilePixels
from cellxlate.stacks.read.tiff import PagePixels
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks


def random_pixels(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def refusal(path: Path, axes: str | None = None) -> str:
    """The one line with which a file is refused, when it is opened or when it is read."""

    def open_and_read() -> None:
        with open_stack(path, axes) as stack:
            for index in stack.plane_indices():
                stack.read(index)

    with pytest.raises(InputError) as caught:
        open_and_read()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


# --- TIFF: containers


class NoWindows:
    """Pixels of which no window may be read."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError(f"{key} was read as a window")


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(("axes", "shape"), [("ZYX", (3, 70, 90)), ("YX", (70, 90)), ("TZYX", (2, 3, 70, 90))])
def test_a_whole_plane_is_decoded_as_one_page(tmp_path: Path, axes: str, shape: Any, byteorder: Any) -> None:
    path, pixels = tmp_path / "cells.tif", random_pixels(shape)
    tifffile.imwrite(path, pixels, metadata={"axes": axes}, tile=(32, 48), compression="zlib", byteorder=byteorder,
                     photometric="minisblack")  # fmt: skip
    with open_stack(path, axes) as stack:
        assert isinstance(stack.pixels, PagePixels)
        whole = PagePixels(NoWindows(stack.pixels.shape, stack.dtype), stack.pixels.series)
        for place in np.ndindex(shape[:-2]):
            found = whole[(*place, slice(None), slice(0, 90))]
            np.testing.assert_array_equal(found, pixels[place])
            assert found.dtype == stack.dtype
            np.testing.assert_array_equal(
                whole[(*(slice(one, one + 1) for one in place), ...)].squeeze(), pixels[place]
            )
            np.testing.assert_array_equal(stack.read(place, slice(5, 40), slice(50, 90)), pixels[place][5:40, 50:90])
        np.testing.assert_array_equal(stack.pixels[..., 3, :], pixels[..., 3, :])
        np.testing.assert_array_equal(stack.pixels[...], pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate", "photometric": "rgb"},
        {"photometric": "minisblack", "volumetric": True, "tile": (16, 32, 48)},
    ],
)
def test_planes_that_are_no_pages_of_their_own_are_read_as_windows(tmp_path: Path, options: dict[str, Any]) -> None:
    path, pixels = tmp_path / "cells.tif", random_pixels((3, 70, 90))
    tifffile.imwrite(path, pixels, compression="zlib", **options)
    with open_stack(path, "ZYX") as stack:
        assert not isinstance(stack.pixels, PagePixels)
        np.testing.assert_array_equal(stack.read((1,)), pixels[1])


CONTAINERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "big": ({"bigtiff": True}, {}),
    "big-endian": ({"byteorder": ">"}, {}),
    "imagej": ({"imagej": True}, {}),
    "ome": ({"ome": True}, {}),
    "strips": ({}, {"rowsperstrip": 16}),
    "tiles": ({}, {"tile": (32, 48)}),
    "big-endian lzw": ({"byteorder": ">"}, {"compression": "lzw"}),
    "zstd": ({"ome": True}, {"compression": "zstd", "predictor": 2}),
    "deflate": ({}, {"compression": "zlib"}),
    "packbits": ({}, {"compression": "packbits"}),
}


def container(path: Path, kind: str, pixels: np.ndarray, axes: str) -> Path:
    file_options, write_options = CONTAINERS[kind]
    tifffile.imwrite(path, pixels, metadata={"axes": axes}, photometric="minisblack", **file_options, **write_options)
    return path


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("axes", ["YX", "TZCYX"])
def test_every_tiff_container_gives_its_pixels(tmp_path: Path, kind: str, axes: str) -> None:
    pixels = random_pixels((2, 3, 2, 70, 90)[-len(axes) :])
    with open_stack(container(tmp_path / "a.tif", kind, pixels, axes)) as stack:
        assert (stack.axes, stack.shape, stack.dtype) == (axes, pixels.shape, np.uint16)
        assert stack.dtype.isnative
        np.testing.assert_array_equal(np.asarray(stack), pixels)
        for index in stack.plane_indices():
            window = stack.read(index, slice(11, 60), slice(40, 41))
            assert window.dtype == np.uint16
            np.testing.assert_array_equal(window, pixels[index][11:60, 40:41])


@pytest.mark.parametrize("kind", ["plain", "strips", "zstd"])
def test_planes_may_be_read_by_many_threads(tmp_path: Path, kind: str) -> None:
    pixels = random_pixels((12, 200, 150))
    with open_stack(container(tmp_path / "a.tif", kind, pixels, "ZYX")) as stack, ThreadPoolExecutor(8) as pool:
        jobs = [(index, slice(start, start + 40)) for index in stack.plane_indices() for start in (0, 80, 160)] * 4
        for (index, rows), window in zip(jobs, pool.map(lambda job: stack.read(*job), jobs), strict=True):
            np.testing.assert_array_equal(window, pixels[index][rows])


def test_reading_rows_of_a_plain_file_reads_only_these(tmp_path: Path) -> None:
    """A plane of a large mosaic is one strip; reading a band of it must not take the memory of all."""
    path = tmp_path / "a.tif"
    pixels = random_pixels((1000, 300))
    tifffile.imwrite(path, pixels, photometric="minisblack")
    with open_stack(path) as stack:
        assert isinstance(stack.pixels, FilePixels)
        with path.open("r+b") as file:  # cut the file behind the rows that are read
            file.truncate(stack.pixels.offset + 600 * 300 * 2)
        np.testing.assert_array_equal(stack.read((), slice(100, 600)), pixels[100:600])
        with pytest.raises(InputError, match=r"is damaged .the file ends before them"):
            stack.read((), slice(590, 601))


def test_a_relative_path_still_reads_after_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_pixels((7, 9))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    monkeypatch.chdir(tmp_path)
    with open_stack("a.tif") as stack:
        os.chdir(tmp_path.parent)
        np.testing.assert_array_equal(stack.read(()), pixels)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_samples_are_an_axis(tmp_path: Path, planar: str) -> None:
    pixels = random_pixels((40, 50, 3) if planar == "contig" else (3, 40, 50), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig=planar)
    with open_stack(tmp_path / "a.tif") as stack:
        assert stack.axes == ("YXS" if planar == "contig" else "SYX")
        assert stack.channel_count == 3
        np.testing.assert_array_equal(stack.read((1,)), pixels[..., 1] if planar == "contig" else pixels[1])


def test_a_pyramid_counts_its_levels_and_gives_the_first(tmp_path: Path) -> None:
    pixels = random_pixels((128, 160))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels, subifds=2, tile=(32, 32), photometric="minisblack")
        for step in (2, 4):
            file.write(pixels[::step, ::step], subfiletype=1, tile=(32, 32), photometric="minisblack")
    with open_stack(tmp_path / "a.tif") as stack:
        assert stack.resolutions == 3
        np.testing.assert_array_equal(np.asarray(stack), pixels)


# --- TIFF: axes and calibration


def test_unknown_axes_are_refused_with_the_shape_and_an_example(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pixels((5, 30, 40)), photometric="minisblack", metadata=None)
    message = refusal(path)
    assert "(5, 30, 40)" in message
    assert "axes='ZYX'" in message
    with open_stack(path, "tyx") as stack:
        assert stack.axes == "TYX"


@pytest.mark.parametrize("axes", ["YX", "ZZYX", "ZCX", "QYX", "TZYX", ""])
def test_axes_that_do_not_fit_are_refused(tmp_path: Path, axes: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pixels((5, 30, 40)), photometric="minisblack")
    assert "axes=" in refusal(path, axes)


def test_imagej_calibration(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, random_pixels((2, 3, 2, 20, 30)), imagej=True, resolution=(1 / 0.25, 1 / 0.5),
        metadata={"axes": "TZCYX", "unit": "\\u00B5m", "spacing": 2.0, "finterval": 90.0},
    )  # fmt: skip
    with open_stack(path) as stack:
        assert stack.pixel_size_um == {"Z": 2.0, "Y": 0.5, "X": 0.25}
        assert stack.time_step_s == 90.0


@pytest.mark.parametrize(
    ("unit", "pixels_per_unit", "size_um"),
    [("CENTIMETER", 20000, 0.5), ("CENTIMETER", 0.01, None), ("CENTIMETER", 1e8, None), ("INCH", 300, None)],
)
def test_resolution_tags_are_believed_where_they_are_plausible(
    tmp_path: Path, unit: str, pixels_per_unit: float, size_um: float | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pixels((20, 30)), resolution=(pixels_per_unit,) * 2, resolutionunit=unit)
    with open_stack(path) as stack:
        assert dict(stack.pixel_size_um) == ({} if size_um is None else {"Y": size_um, "X": size_um})


def test_ome_calibration_in_other_units(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "TCZYX", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5,
        "PhysicalSizeZ": 3.0, "PhysicalSizeZUnit": "pixel", "TimeIncrement": 2.0, "TimeIncrementUnit": "min",
        "Channel": {"Name": ["DAPI", "GFP"]},
    }  # fmt: skip
    tifffile.imwrite(path, random_pixels((2, 2, 2, 20, 30)), ome=True, photometric="minisblack", metadata=metadata)
    with open_stack(path) as stack:
        assert stack.pixel_size_um == {"X": 0.25, "Y": 0.5}
        assert stack.time_step_s == 120.0
        assert stack.channel_names == ("DAPI", "GFP")


OME = (
    '<?xml version="1.0"?>{doctype}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="20" SizeZ="1" SizeC="1" SizeT="{t}" '
    'PhysicalSizeX="{size}"><Channel ID="Channel:0:0" Name="a" SamplesPerPixel="1"/><TiffData/></Pixels></Image></OME>'
)


@pytest.mark.parametrize("size", ["nan", "-1", "0", "inf", "wide", ""])
def test_ome_sizes_that_make_no_sense_state_nothing(tmp_path: Path, size: str) -> None:
    path = tmp_path / "a.ome.tif"
    text = OME.format(doctype="", t=1, size=size)
    tifffile.imwrite(path, random_pixels((20, 30)), description=text, metadata=None)
    with open_stack(path) as stack:
        assert (stack.axes, dict(stack.pixel_size_um)) == ("YX", {})


def test_entities_in_ome_xml_are_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    doctype = '<!DOCTYPE OME [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    text = OME.format(doctype=doctype, t=1, size="0.5")
    tifffile.imwrite(path, random_pixels((20, 30)), description=text, metadata=None)
    with open_stack(path) as stack:
        assert dict(stack.pixel_size_um) == {}


def test_axes_of_our_own_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    for axes in ("XYC", "YX", "CYX", "TZ", ""):
        metadata = {"axes": "CYX", "MapAnnotation": {"Namespace": "cellxlate", "Value": {"axes": axes}}}
        tifffile.imwrite(path, random_pixels((2, 20, 30)), ome=True, photometric="minisblack", metadata=metadata)
        with open_stack(path) as stack:
            assert stack.axes == "CYX"


# --- TIFF: damage


@pytest.mark.parametrize("quarter", [1, 2, 3])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_file_cut_short_is_refused(
    tmp_path: Path, kind: str, quarter: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = container(tmp_path / "a.tif", kind, random_pixels((4, 200, 300)), "ZYX")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * quarter // 4])
    refusal(path)
    assert capfd.readouterr() == ("", "")  # nor does a library talk to the terminal


@pytest.mark.parametrize("kind", ["plain", "big", "big-endian", "imagej", "ome", "strips"])
def test_an_uncompressed_file_that_ends_early_is_refused_before_it_is_read(tmp_path: Path, kind: str) -> None:
    path = container(tmp_path / "a.tif", kind, random_pixels((300, 400)), "YX")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100_000)
    with pytest.raises(InputError, match="cut short"):
        open_stack(path)


@pytest.mark.parametrize("kind", ["big-endian", "imagej", "ome", "tiles", "zstd"])
def test_bytes_changed_at_random_never_escape_as_another_error(tmp_path: Path, kind: str) -> None:
    content = container(tmp_path / "a.tif", kind, random_pixels((4, 60, 70)), "ZYX").read_bytes()
    random = np.random.default_rng(0)
    tags = int.from_bytes(content[4:8], "big" if content[:2] == b"MM" else "little")
    path = tmp_path / "changed.tif"
    outcomes = set()
    for _ in range(60):
        changed = bytearray(content)
        for place in random.choice([4, tags, tags, len(content) // 2]) + random.integers(0, 240, 2):
            changed[place % len(changed)] = random.choice([0, 255, random.integers(256)])
        path.write_bytes(changed)
        try:
            with open_stack(path) as stack:
                for index in itertools.islice(stack.plane_indices(), 4):
                    stack.read(index, slice(0, 64), slice(0, 64))
            outcomes.add("read")
        except InputError as fault:
            outcomes.add("refused" if "\n" not in str(fault) else "many lines")
    assert outcomes == {"read", "refused"}


def test_planes_missing_from_a_set_of_files_are_refused(tmp_path: Path) -> None:
    text = OME.format(doctype="", t=3, size="0.5")
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{n}" for n in range(3)]
    entries = "".join(
        f'<TiffData FirstT="{n}" IFD="0" PlaneCount="1"><UUID FileName="t{n}.ome.tif">{uuid}</UUID></TiffData>'
        for n, uuid in enumerate(uuids)
    )
    pixels = random_pixels((3, 20, 30))
    for number, uuid in enumerate(uuids):
        description = text.replace("<TiffData/>", entries).replace("<OME ", f'<OME UUID="{uuid}" ')
        tifffile.imwrite(tmp_path / f"t{number}.ome.tif", pixels[number], description=description, metadata=None)
    with open_stack(tmp_path / "t0.ome.tif") as stack:
        assert stack.axes == "TYX"
        np.testing.assert_array_equal(np.asarray(stack), pixels)
    (tmp_path / "t2.ome.tif").unlink()
    assert "1 of 3 planes" in refusal(tmp_path / "t0.ome.tif")


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    assert "is empty" in refusal(tmp_path / "empty.tif")
    assert "does not exist" in refusal(tmp_path / "absent.tif")
    (tmp_path / "text.tif").write_text("hello\nworld\n" * 100)
    assert "not a TIFF" in refusal(tmp_path / "text.tif")
    (tmp_path / "folder").mkdir()
    assert "no Zarr image" in refusal(tmp_path / "folder")
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((8, 8), np.complex64))
    assert "complex64" in refusal(tmp_path / "complex.tif")


def test_the_listener_for_damage_is_removed(tmp_path: Path) -> None:
    before = list(logging.getLogger("tifffile").handlers)
    (tmp_path / "text.tif").write_text("hello")
    refusal(tmp_path / "text.tif")
    assert logging.getLogger("tifffile").handlers == before


# --- Zarr


def zarr_image(path: Path, pixels: np.ndarray, axes: list[Any], version: str = "0.5", **image: Any) -> Path:
    multiscale: dict[str, Any] = {"datasets": [{"path": "s0"}], **({"axes": axes} if axes else {}), **image}
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("s0", data=pixels, chunks=tuple(min(size, 16) for size in pixels.shape))
    attributes: Mapping[str, Any] = {"multiscales": [multiscale]}
    group.update_attributes({"ome": attributes} if version == "0.5" else dict(attributes))
    return path


SPACE = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_both_versions(tmp_path: Path, version: str) -> None:
    pixels = random_pixels((2, 3, 20, 30), "float32")
    axes = [{"name": "t", "type": "time", "unit": "minute"}, *SPACE]
    scale = [{"type": "scale", "scale": [2.0, 1500.0, 250.0, 125.0]}]
    own = [{"type": "scale", "scale": [1.0, 2.0, 2.0, 2.0]}]
    datasets = [{"path": "s0", "coordinateTransformations": scale}]
    path = zarr_image(tmp_path / "a.zarr", pixels, axes, version, datasets=datasets, coordinateTransformations=own)
    with open_stack(path) as stack:
        assert (stack.axes, stack.kind, stack.resolutions, stack.time_step_s) == ("TZYX", "ome-zarr", 1, 120.0)
        assert stack.pixel_size_um == {"Z": 3.0, "Y": 0.5, "X": 0.25}
        np.testing.assert_array_equal(np.asarray(stack), pixels)
        np.testing.assert_array_equal(stack.read((1, 2), slice(3, 9)), pixels[1, 2, 3:9])


@pytest.mark.parametrize("unit", [None, "furlong", "pixel"])
def test_zarr_scales_of_unknown_unit_state_nothing(tmp_path: Path, unit: str | None) -> None:
    axes = [{"name": axis, "type": "space", "unit": unit} for axis in "yx"]
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    datasets = [{"path": "s0", "coordinateTransformations": scale}]
    with open_stack(zarr_image(tmp_path / "a.zarr", random_pixels((20, 30)), axes, datasets=datasets)) as stack:
        assert dict(stack.pixel_size_um) == {}


def test_the_first_image_of_a_bioformats2raw_folder_opens(tmp_path: Path) -> None:
    pixels = random_pixels((1, 2, 1, 20, 30))
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2, attributes={"bioformats2raw.layout": 1})
    zarr_image(tmp_path / "a.zarr" / "0", pixels, [], "0.4")  # version 0.1 states no axes: they are always TCZYX
    with open_stack(tmp_path / "a.zarr") as stack:
        assert (stack.axes, stack.name) == ("TCZYX", "a")
        np.testing.assert_array_equal(np.asarray(stack), pixels)


def test_a_plain_zarr_array_needs_axes(tmp_path: Path) -> None:
    pixels = random_pixels((3, 20, 30))
    zarr.create_array(tmp_path / "a.zarr", data=pixels)
    assert "axes=" in refusal(tmp_path / "a.zarr")
    with open_stack(tmp_path / "a.zarr", "CYX") as stack:
        np.testing.assert_array_equal(stack.read((2,)), pixels[2])


def test_damaged_zarr_images_are_refused(tmp_path: Path) -> None:
    axes = SPACE[1:]
    pixels = random_pixels((20, 30))
    cases = {
        "empty list": {"multiscales": []},
        "no datasets": {"multiscales": [{"axes": axes}]},
        "no array": {"multiscales": [{"axes": axes, "datasets": [{"path": "s9"}]}]},
        "no axes": {"multiscales": [{"datasets": [{"path": "s0"}]}]},
        "axes too many": {"multiscales": [{"axes": SPACE, "datasets": [{"path": "s0"}]}]},
        "axes of a kind": {"multiscales": [{"axes": [1, 2], "datasets": [{"path": "s0"}]}]},
        "no scale": {"multiscales": [{"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": [
            {"type": "scale", "scale": [1.0]}]}]}]},
        "a table": {"labels": []},
    }  # fmt: skip
    for number, attributes in enumerate(cases.values()):
        path = zarr_image(tmp_path / f"{number}.zarr", pixels, axes)
        zarr.open_group(path, mode="a").attrs["ome"] = attributes
        refusal(path)
    path = zarr_image(tmp_path / "json.zarr", pixels, axes)
    (path / "zarr.json").write_text("{")
    refusal(path)
    path = zarr_image(tmp_path / "chunk.zarr", pixels, axes)
    chunk = next(item for item in (path / "s0" / "c").rglob("*") if item.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3])
    assert "is damaged" in refusal(path)


def test_absurd_dimensions_do_not_allocate(tmp_path: Path) -> None:
    """100 TB on paper; opening it and reading a corner costs nothing."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    array = group.create_array("s0", shape=(10**4, 10**5, 10**5), dtype="uint8", chunks=(1, 256, 256))
    array[5, 0, 0] = 1  # an array without any chunk is refused
    group.attrs["ome"] = {"multiscales": [{"axes": SPACE, "datasets": [{"path": "s0"}]}]}
    with open_stack(tmp_path / "a.zarr") as stack:
        assert stack.plane_count == 10**4
        assert not stack.read((9999,), slice(99_999, 100_000), slice(0, 300)).any()


# --- pixels that are not an array yet


KEYS: list[Any] = [
    ..., (0, 1), (1, slice(2, 9)), (slice(None), 0, slice(3, 50, 7), slice(1, 5)), (slice(1, 2), slice(0, 1), 5, 6),
    (0, 0, slice(9, 2, -2), slice(None, None, -3)), (..., slice(2, 4), 0), (1, ..., 3),
    (slice(2, 2), 0, 1, 1), (-1, -1, -1, -1), (0, 1, slice(-4, None), slice(-2, None)),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_lazy_pixels_are_indexed_like_an_array(tmp_path: Path, key: Any) -> None:
    pixels = random_pixels((2, 3, 60, 9))
    (tmp_path / "a.raw").write_bytes(b"header!" + pixels.astype(">u2").tobytes())
    lazy = FilePixels(tmp_path / "a.raw", 7, pixels.shape, np.dtype(">u2"), 2)
    np.testing.assert_array_equal(lazy[key], pixels[key])
    assert np.shape(lazy[key]) == pixels[key].shape
    expanded, full = Expanded(lazy, "CZYX", "CTZYXS"), pixels[:, None, ..., None]
    if isinstance(key, tuple) and Ellipsis not in key:
        for extra in (0, -1, slice(None), slice(1, 1)):
            longer = (key[0], extra, *key[1:])
            np.testing.assert_array_equal(expanded[longer], full[longer])
            assert np.shape(expanded[longer]) == full[longer].shape
    assert expanded.shape == full.shape
    np.testing.assert_array_equal(expanded[...], full)


def test_lazy_pixels_refuse_what_an_array_refuses(tmp_path: Path) -> None:
    lazy = Expanded(random_pixels((4, 5)), "YX", "ZYX")
    for key in ((1,), (0, 4), (0, 0, 0, 0)):
        with pytest.raises(IndexError):
            lazy[key]


# --- folders and names


@pytest.mark.parametrize(
    ("file", "name"),
    [("a.ome.tif", "a"), ("a.b.TIFF", "a.b"), ("a.ome.zarr", "a"), ("a.lsm", "a"), (".tif", ".tif"), ("a", "a")],
)
def test_outputs_are_named_after_the_file(file: str, name: str) -> None:
    assert stack_name(Path(file)) == name


def test_stacks_are_found_in_folders(tmp_path: Path) -> None:
    for name in ("b.tif", "a.TIF", "notes.txt"):
        tifffile.imwrite(tmp_path / name, random_pixels((8, 8)))
    zarr_image(tmp_path / "c.zarr", random_pixels((8, 8)), SPACE[1:])
    assert [path.name for path in find_stacks([tmp_path], "source")] == ["a.TIF", "b.tif", "c.zarr"]
    assert find_stacks([tmp_path / "b.tif"], "source") == [tmp_path / "b.tif"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no TIFF or OME-Zarr"):
        find_stacks([tmp_path / "none"], "source")
    with pytest.raises(InputError, match="does not exist"):
        find_stacks([tmp_path / "absent"], "source")


# --- real files


REAL: dict[str, tuple[str, tuple[int, ...], str]] = {
    "stacks/drosophila_gfp_seq1_TYX.tif": ("TYX", (21, 264, 542), "uint8"),
    "stacks/nuclei_TZYX.tif": ("TZYX", (2, 3, 1040, 1392), "uint16"),
    "stacks/nuclei_v04.ome.zarr": ("TCZYX", (1, 1, 2, 1040, 1392), "uint16"),
    "stacks/nuclei_v05.ome.zarr": ("TCZYX", (1, 1, 2, 1040, 1392), "uint16"),
    "difficult/12bit.cropped.tiff": ("YX", (64, 64), "uint16"),
    "difficult/BigTIFF.tif": ("YXS", (64, 64, 3), "uint8"),
    "difficult/bigendian_uint16_baseline.tif": ("YX", (1000, 1200), "uint16"),
    "difficult/imagej_rgb_bigendian.tif": ("YXS", (264, 542, 3), "uint8"),
    "difficult/metamorph_stk_a.tif": ("YX", (520, 696), "uint16"),
    "difficult/ome_int8_deflate_CYX.ome.tif": ("CYX", (3, 167, 439), "int8"),
    "difficult/palette_uint8_fly.TIF": ("YX", (1006, 1000), "uint8"),
    "difficult/planar-rgb-u8.tif": ("SYX", (3, 499, 374), "uint8"),
    "difficult/quad-tile.jpg.tiff": ("YXS", (384, 512, 3), "uint8"),
    "difficult/tiled-oversize-gray-i8.tif": ("YX", (374, 499), "int8"),
    "difficult/xyc_16bit__cell_dna_mts_actin.tif": ("CYX", (3, 350, 350), "uint16"),
    "difficult/xyt_calibrated_16bit__golgi_bfa_sum_projection.tif": ("TYX", (30, 137, 147), "float32"),
    "difficult/xyzc_16bit__spots.tif": ("ZCYX", (17, 2, 88, 89), "uint16"),
    "difficult/synth/imagej_TZCYX.tif": ("TZCYX", (2, 3, 2, 128, 160), "uint16"),
    "difficult/synth/one_pixel.tif": ("YX", (1, 1), "uint16"),
    "difficult/synth/odd_17x1031.tif": ("YX", (17, 1031), "uint16"),
    "difficult/zarr/bioformats-zarr/data.zarr": ("TCZYX", (1, 3, 1, 167, 439), "int8"),
    "difficult/zarr/ome-zarr/blobs_image_v04.ome.zarr": ("CYX", (3, 12, 12), "float64"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_open_with_their_axes(real_images: Path, name: str) -> None:
    with open_stack(real_images / name) as stack:
        assert (stack.axes, stack.shape, stack.dtype.name) == REAL[name]


def test_real_calibrations(real_images: Path) -> None:
    with open_stack(real_images / "difficult/xyzc_16bit__spots.tif") as stack:
        assert stack.pixel_size_um == pytest.approx({"Z": 0.4, "Y": 0.09413445, "X": 0.09413445})
    with open_stack(real_images / "difficult/xyt_calibrated_16bit__golgi_bfa_sum_projection.tif") as stack:
        assert stack.time_step_s == pytest.approx(59.86)
    with open_stack(real_images / "difficult/bigendian_uint16_baseline.tif") as stack:
        assert dict(stack.pixel_size_um) == {}  # its tags say 1 m per pixel
    with open_stack(real_images / "stacks/nuclei_v05.ome.zarr") as stack:
        assert (stack.pixel_size_um, stack.resolutions) == ({"Z": 1.0, "Y": 0.65, "X": 0.65}, 3)


def test_every_real_file_gives_what_tifffile_gives_or_one_line(real_images: Path) -> None:
    refused = ["truncated.tif", "stardist_img3d_ZYX.tif", "stardist_mask3d_ZYX.tif"]
    paths = sorted([*(real_images / "stacks").glob("*.tif"), *(real_images / "difficult").rglob("*.*if*")])
    assert len(paths) > 30
    for path in paths:
        if path.name in refused:
            refusal(path)
            continue
        with open_stack(path) as stack:
            pixels = np.asarray(stack)
        expected = tifffile.imread(path)
        assert pixels.shape == expected.shape, path
        assert pixels.tobytes() == expected.astype(pixels.dtype).tobytes(), path


def test_stacks_hold_no_file_open_after_closing(tmp_path: Path) -> None:
    path = container(tmp_path / "a.tif", "zstd", random_pixels((20, 30)), "YX")
    open_stack(path).close()
    links = Path("/proc/self/fd")
    if links.is_dir():
        assert not any(link.resolve() == path for link in links.iterdir() if link.exists())


def test_one_bit_per_pixel_opens_for_masks_and_is_not_enhanced(tmp_path: Path) -> None:
    from cellxlate.enhancement.job import enhance

    mask = random_pixels((20, 30)) > 100
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
    with open_stack(tmp_path / "a.tif") as stack:
        assert stack.dtype == np.bool_
        np.testing.assert_array_equal(stack.read(()), mask)
        with pytest.raises(InputError, match="1 bit per pixel"):
            enhance(stack)


def test_axes_may_be_given_as_the_file_states_them_with_those_of_length_one(tmp_path):
    path = tmp_path / "one.ome.tif"
    write_stacks([(Stack(np.zeros((1, 1, 1, 20, 30), np.uint16), "TCZYX", "one"), path)])
    with open_stack(path) as stack, open_stack(path, stack.axes) as again:
        assert again.axes == stack.axes == "TCZYX"
        assert again.shape == stack.shape == (1, 1, 1, 20, 30)

"""Axes in any order and half floats: the OME formats where they can hold them, else plain files of the same kind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr

from cellxlate.enhancement.job import enhance_file
from cellxlate.enhancement.outputs.names import format_of
from cellxlate.errors import OutputError
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.carried import Metadata
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.bands import BAND_PX
from cellxlate.stacks.write.writer import open_writer

SIZES = {"T": 2, "C": 2, "Z": 3, "Y": 530, "X": 37, "S": 3}
ORDERS = ("YXC", "XY", "XYC", "XYZ", "ZXY", "CTYX", "TYXC", "YXTC", "YXZ", "SXY", "XYS", "CYXS", "TYXSZ", "ZTCXY")


def random_stack(axes: str, dtype: str = "uint16") -> Stack:
    """A stack that states all it can."""
    shape = tuple(SIZES[axis] for axis in axes)
    pixels = np.random.default_rng(0).integers(0, 60_000, shape).astype(dtype)
    return replace(
        Stack.from_array(pixels, axes),
        pixel_size_um={axis: size for axis, size in (("Z", 1.5), ("Y", 0.325), ("X", 0.3251)) if axis in axes},
        channel_names=("DAPI", "<GFP> µ") if "C" in axes else (), time_step_s=1 / 3 if "T" in axes else None,
        metadata=Metadata(ome_xml="<OME/>", tiff={"text": {"Artist": "É"}, "resolution": [[3, 1], [3, 1], 3]},
                          zarr={"array": {"a": [1]}}, earlier=({"model": "old"},)),
    )  # fmt: skip


def written(path: Path, source: Stack, **options: Any) -> Path:
    with open_writer(path, like=source, **options) as writer:
        for index in source.plane_indices():
            for top in range(0, source.size("Y"), BAND_PX):
                writer.write(index, top, source.read(index, slice(top, top + BAND_PX)))
        writer.finish()
        return writer.publish()


def assert_equal(found: Stack, source: Stack) -> None:
    for name in ("axes", "shape", "dtype", "pixel_size_um", "channel_names", "time_step_s"):
        assert getattr(found, name) == getattr(source, name), name
    np.testing.assert_array_equal(np.asarray(found), np.asarray(source))
    for index in source.plane_indices():
        np.testing.assert_array_equal(found.read(index, slice(500, 520)), source.read(index, slice(500, 520)))


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("ending", [".tif", ".zarr"])
def test_any_order_of_axes_comes_back_with_all_that_was_stated(tmp_path: Path, axes: str, ending: str) -> None:
    source = random_stack(axes)
    path = written(
        tmp_path / f"a{ending}", source, provenance={"model": "new"}, format=ending[1:].replace("tif", "tiff")
    )
    with open_stack(path) as found:
        assert_equal(found, source)
        assert found.metadata == source.metadata
        assert [note["model"] for note in found.metadata.earlier] == ["old", "new"]
        assert found.kind == ending[1:].replace("tif", "tiff")


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("ending", [".tif", ".zarr"])
def test_a_name_without_ome_takes_the_format_that_holds_the_axes(tmp_path: Path, axes: str, ending: str) -> None:
    source = random_stack(axes)
    with open_stack(written(tmp_path / f"a{ending}", source)) as found:
        assert_equal(found, source)
        held = {".tif": ("CTYX", "CYXS"), ".zarr": ("XY", "XYZ", "ZXY", "YXZ", "SXY")}[ending]
        assert found.kind.startswith("ome-") == (axes in held)


def test_other_programs_read_a_plain_file_as_it_is(tmp_path: Path) -> None:
    source = random_stack("YXC")
    path = written(tmp_path / "a.tif", source)
    np.testing.assert_array_equal(tifffile.imread(path), np.asarray(source))
    with tifffile.TiffFile(path) as file:
        assert file.series[0].axes == "YXC"
        assert len(file.pages) == 1  # channels are samples of a pixel, not a page for each row
        assert file.pages.first.tags["XResolution"].value == (3, 1)
    np.testing.assert_array_equal(zarr.open_array(written(tmp_path / "a.zarr", source))[:], np.asarray(source))


@pytest.mark.parametrize("axes", ["SYX", "TSZYX", "XY", "TCXYZ"])
def test_what_the_specification_of_ome_zarr_allows_is_written_as_such(tmp_path: Path, axes: str) -> None:
    """0.4 and 0.5: time first, then one axis of channels (samples are), then two or three of space in any order."""
    source = random_stack(axes)
    for version in ("ome-zarr", "ome-zarr-0.4"):
        path = written(tmp_path / f"{version}.ome.zarr", source, format=version)
        yaozarrs.validate_zarr_store(str(path))
        with open_stack(path) as found:
            assert_equal(found, source)
            assert found.metadata.ome_xml == "<OME/>"
        if "S" in axes:
            attributes = zarr.open_group(path, mode="r").attrs.asdict()
            shown = attributes.get("ome", attributes)["omero"]["channels"]
            assert [channel["color"] for channel in shown] == ["FF0000", "00FF00", "0000FF"]


@pytest.mark.parametrize(("axes", "ending"), [("YXS", ".ome.zarr"), ("CTYX", ".ome.zarr"), ("XY", ".ome.tif")])
def test_a_name_that_says_ome_is_refused_with_what_helps(tmp_path: Path, axes: str, ending: str) -> None:
    with pytest.raises(OutputError, match=f"the stack has {axes}; choose format='zarr'|the axes {axes}.*format='tiff'"):
        open_writer(tmp_path / f"a{ending}", like=random_stack(axes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("axes", ["ZYX", "YXS"])
def test_half_floats_stay_half_floats_in_a_tiff(tmp_path: Path, axes: str) -> None:
    source = random_stack(axes, "float16")
    np.asarray(source.pixels)[:2] = np.nan
    with open_stack(written(tmp_path / "a.tif", source)) as found:
        assert found.dtype == np.float16
        assert np.asarray(found).tobytes() == np.asarray(source).tobytes()


def test_a_run_writes_the_kind_that_it_reads(tmp_path: Path) -> None:
    """Half floats and channels last, from TIFF and Zarr: named without .ome, nothing selected, all the same."""
    half = np.random.default_rng(0).normal(100, 20, (2, 40, 50)).astype(np.float16)
    tifffile.imwrite(tmp_path / "half.tif", half, photometric="minisblack", metadata={"axes": "ZYX", "stain": "DAPI"})
    zarr.create_array(tmp_path / "last.zarr", data=np.full((40, 50, 2), 9, np.uint16), dimension_names=["y", "x", "c"])
    for name, ending in (("half.tif", ".tif"), ("last.zarr", ".zarr")):
        report = enhance_file(tmp_path / name, settings=EnhanceSettings(threshold=1.0))
        path = tmp_path / name.replace(".", "_enhanced.")
        assert str(path) == report.as_dict()["outputs"]["enhanced"]
        assert path.suffix == ending
        with open_stack(tmp_path / name) as source, open_stack(path) as found:
            assert_equal_small(found, source)
        again = enhance_file(tmp_path / name, settings=EnhanceSettings(threshold=1.0), resume=True)
        assert again.as_dict()["outputs"]["enhanced"] == str(path)


def assert_equal_small(found: Stack, source: Stack) -> None:
    assert (found.axes, found.dtype, found.metadata) == (source.axes, source.dtype, source.metadata)
    assert np.asarray(found).tobytes() == np.asarray(source).tobytes()


def test_what_a_description_says_beside_shape_and_axes_is_carried(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 9), np.uint8), metadata={"stain": "DAPI"})
    with open_stack(tmp_path / "a.tif") as found:
        assert '"stain": "DAPI"' in found.metadata.tiff["description"]
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((8, 9), np.uint8))
    with open_stack(tmp_path / "b.tif") as found:
        assert "description" not in found.metadata.tiff


@pytest.mark.parametrize("stated", ['{"axes": "YX", "shape": [8, 9]}', '{"shape": [8, 9], "axes": "YX"}'])
def test_a_description_of_any_tifffile_says_no_more_than_shape_and_axes(tmp_path: Path, stated: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 9), np.uint8), description=stated, metadata=None)
    with open_stack(tmp_path / "a.tif") as found:
        assert "description" not in found.metadata.tiff


@pytest.mark.parametrize(
    ("axes", "dtype", "is_zarr", "named"),
    [("YX", "uint8", False, None), ("YX", "float16", False, "tiff"), ("YX", "float16", True, None),
     ("YXC", "uint8", True, "zarr"), ("YXC", "uint8", False, "tiff"), ("SYX", "uint8", True, None)],
)  # fmt: skip
def test_outputs_are_named_plain_only_where_they_must_be(axes: str, dtype: str, is_zarr: bool, named: str) -> None:
    assert format_of(random_stack(axes, dtype), is_zarr=is_zarr) == named
    assert format_of(random_stack(axes, dtype), is_zarr=is_zarr, asked="ome-tiff") == "ome-tiff"


def test_a_note_that_lies_states_nothing(tmp_path: Path) -> None:
    lies = {"axes": 5, "pixel_size_um": {"Y": -1, "Q": 3, "X": "nan"}, "time_step_s": "x", "channel_names": {"a": 1},
            "metadata": {"tiff": 4, "colours": ["red"], "ranges": [[1]]}, "earlier": [3]}  # fmt: skip
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 9), np.uint8), metadata={"cellxlate": lies})
    with open_stack(tmp_path / "a.tif") as found:
        assert (dict(found.pixel_size_um), found.channel_names, found.time_step_s) == ({}, (), None)
        assert (found.metadata.colours, found.metadata.earlier) == ((), ())


def test_a_plain_tiff_states_its_pixel_size_in_tags_that_others_read(tmp_path: Path) -> None:
    source = replace(random_stack("YXC"), metadata=Metadata())
    with tifffile.TiffFile(written(tmp_path / "a.tif", source)) as file:
        tags = file.pages.first.tags
        assert tags["ResolutionUnit"].value == 3
        for tag, axis in (("XResolution", "X"), ("YResolution", "Y")):
            pixels, centimetres = tags[tag].value
            assert 1e4 * centimetres / pixels == pytest.approx(source.pixel_size_um[axis], rel=1e-5)

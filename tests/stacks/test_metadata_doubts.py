"""Metadata that other programs read wrongly or drop: carried, or named in one line, never taken for something else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ome_types
import pytest
import tifffile
import yaozarrs
import zarr

from cellxlate.errors import InputError, OptionError
from cellxlate.stacks.channel_names import choose_channels
from cellxlate.stacks.metadata.calibration import Calibration
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

PIXELS = np.random.default_rng(0).integers(0, 200, (3, 20, 30)).astype(np.uint16)

OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
    'DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" SizeZ="{z}" SizeC="{c}" SizeT="1" {sizes}>{channels}'
    '<TiffData IFD="0" PlaneCount="3"/></Pixels></Image></OME>'
)


def ome_file(path: Path, *, sizes: str = "", channels: Sequence[str] = (), z: int = 1, c: int = 3) -> Path:
    described = "".join(f'<Channel ID="Channel:0:{at}" SamplesPerPixel="1" {one}/>' for at, one in enumerate(channels))
    text = OME.format(sizes=sizes, channels=described, z=z, c=c)
    tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata=None, description=text.encode())
    return path


def imagej_file(path: Path, *, lines: Mapping[str, str], resolution: tuple[float, float] = (2.0, 0.004)) -> Path:
    """Two pixels per unit along X, 0.004 along Y."""
    text = "".join(f"{key}={value}\n" for key, value in {"ImageJ": "1.54f", "images": "3", "slices": "3"}.items())
    text += "".join(f"{key}={value}\n" for key, value in lines.items())
    tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata=None, description=text, resolution=resolution)
    return path


def zarr_image(
    path: Path, axes: Sequence[Any] | None, *, version: str = "0.5", pixels: Any = PIXELS,
    transformations: Sequence[Any] | None = None, overall: Sequence[Any] | None = None, labels: Sequence[Any] = (),
) -> Path:  # fmt: skip
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("s0", data=pixels, chunks=(1,) * (pixels.ndim - 2) + pixels.shape[-2:])
    scale = [{"type": "scale", "scale": [1.0] * pixels.ndim}]
    image: dict[str, Any] = {"datasets": [{"path": "s0", "coordinateTransformations": transformations or scale}]}
    image |= {"axes": axes} if axes is not None else {}
    image |= {"coordinateTransformations": overall} if overall else {}
    stated: dict[str, Any] = {"version": version, "multiscales": [image]}
    if labels:
        window = {"min": 0.0, "max": 9.0, "start": 0.0, "end": 9.0}
        channels = [{"color": "FF0000", "window": window} | ({"label": one} if one else {}) for one in labels]
        stated["omero"] = {"channels": channels}
    group.update_attributes({"ome": stated})
    return path


def space(*names: str, unit: str = "micrometer") -> list[dict[str, str]]:
    return [{"name": name, "type": "space", "unit": unit} for name in names]


CHANNEL = {"name": "c", "type": "channel"}


def copied(source: Path, target: Path, **changes: Any) -> Stack:
    """What a run that selects nothing writes, opened again."""
    with open_stack(source) as stack:
        write_stacks([(replace(stack, **changes), target)])
    return open_stack(target)


# --- sizes


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ({"unit": "micron", "spacing": "1.5"}, {"Z": 1.5, "Y": 250.0, "X": 0.5}),
        ({"unit": "micron", "zunit": "nm", "spacing": "1.5"}, {"Z": 0.0015, "Y": 250.0, "X": 0.5}),
        ({"unit": "micron", "yunit": "nm", "spacing": "1.5"}, {"Z": 1.5, "Y": 0.25, "X": 0.5}),
        ({"unit": "micron", "yunit": "nm", "zunit": "mm", "spacing": "1.5"}, {"Z": 1500.0, "Y": 0.25, "X": 0.5}),
        ({"unit": "\\u00B5m", "spacing": "1.5"}, {"Z": 1.5, "Y": 250.0, "X": 0.5}),
        ({"unit": "pixel", "spacing": "1.5", "zunit": "um"}, {"Z": 1.5}),
    ],
)
def test_each_axis_of_imagej_has_its_own_unit(
    tmp_path: Path, lines: dict[str, str], expected: dict[str, float]
) -> None:
    with open_stack(imagej_file(tmp_path / "a.tif", lines=lines)) as stack:
        assert stack.pixel_size_um == pytest.approx(expected)
        assert stack.warnings == ()


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ({"unit": "furlong"}, "furlong"),
        ({"unit": "um", "spacing": "-1.5"}, "pixel size along Z is negative"),
        ({"unit": "um", "finterval": "2", "tunit": "fortnight"}, "fortnight"),
        ({"unit": "um", "cf": "0", "c0": "-32768.0", "c1": "1.0", "vunit": "Gray Value"}, "cf=0, c0=-32768.0, c1=1.0"),
    ],
)
def test_what_imagej_states_and_cannot_be_taken_is_one_line(tmp_path: Path, lines: dict[str, str], named: str) -> None:
    with open_stack(imagej_file(tmp_path / "a.tif", lines=lines)) as stack:
        (line,) = stack.warnings
        assert named in line
        assert stack.pixel_size_um.get("Z", 1.5) == 1.5
        assert all(f"{key}={value}" in stack.metadata.tiff["description"] for key, value in lines.items())


@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [
        (2, (25400.0, 50800.0), {"Y": 0.5, "X": 1.0}),
        (3, (10000.0, 20000.0), {"Y": 0.5, "X": 1.0}),
        (2, (72.0, 72.0), {}),
        (2, (1200.0, 1200.0), {}),
        (1, (25400.0, 50800.0), {}),
    ],
)
def test_resolutions_in_inches_are_sizes_where_no_printer_has_them(
    tmp_path: Path, unit: int, resolution: tuple[float, float], expected: dict[str, float]
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[0], resolution=resolution, resolutionunit=unit, metadata=None)
    with copied(path, tmp_path / "b.ome.tif") as stack:
        assert stack.pixel_size_um == pytest.approx(expected)
        assert stack.warnings == ()
        assert stack.metadata.tiff["resolution"][-1] == unit


def test_negative_sizes_are_stated_by_their_amount(tmp_path: Path) -> None:
    path = ome_file(tmp_path / "a.ome.tif", sizes='PhysicalSizeZ="-0.5" PhysicalSizeX="200" PhysicalSizeXUnit="nm"')
    with open_stack(path) as stack:
        assert stack.pixel_size_um == {"Z": 0.5, "X": 0.2}
        assert stack.warnings == ("the pixel size along Z is negative (-0.5 µm), its amount is stated",)
    with copied(path, tmp_path / "b.ome.tif") as stack:
        assert (stack.pixel_size_um, stack.warnings) == ({"Z": 0.5, "X": 0.2}, ())
    assert ome_types.from_tiff(tmp_path / "b.ome.tif", validate=True).images[0].pixels.physical_size_z == 0.5


def test_a_size_of_minus_one_is_none(tmp_path: Path) -> None:
    path = ome_file(tmp_path / "a.ome.tif", sizes='PhysicalSizeZ="-1"')
    with open_stack(path) as stack:
        assert (stack.pixel_size_um, len(stack.warnings)) == ({}, 1)
    with copied(path, tmp_path / "b.ome.tif") as stack:
        assert (stack.pixel_size_um, stack.warnings) == ({}, ())


def test_a_negative_scale_stays_negative_in_zarr(tmp_path: Path) -> None:
    scale = [{"type": "scale", "scale": [-2.0, 0.5, 0.25]}, {"type": "translation", "translation": [9.0, 0.0, 1.0]}]
    path = zarr_image(tmp_path / "a.ome.zarr", space("z", "y", "x"), transformations=scale)
    for target in (tmp_path / "b.ome.zarr", tmp_path / "b.ome.tif"):
        with copied(path, target) as stack:
            assert stack.pixel_size_um == {"Z": 2.0, "Y": 0.5, "X": 0.25}
            assert bool(stack.warnings) is (target.suffix == ".zarr")
            assert stack.metadata.zarr["transformations"] == scale
    assert written(tmp_path / "b.ome.zarr")["datasets"][0]["coordinateTransformations"] == scale


def written(path: Path) -> dict[str, Any]:
    yaozarrs.validate_zarr_store(str(path))
    attributes: Any = zarr.open_group(path, mode="r").attrs["ome"]
    image: dict[str, Any] = attributes["multiscales"][0]
    return image


def test_axes_that_the_user_names_otherwise_do_not_keep_units_of_other_axes(tmp_path: Path) -> None:
    scale = [{"type": "scale", "scale": [1.0, 650.0, 325.0]}]
    path = zarr_image(tmp_path / "a.ome.zarr", [CHANNEL, *space("y", "x", unit="nanometer")], transformations=scale)
    with open_stack(path, "ZYX") as stack:
        write_stacks([(stack, tmp_path / "b.ome.zarr")])
    with open_stack(tmp_path / "b.ome.zarr") as stack:
        assert (stack.axes, stack.pixel_size_um) == ("ZYX", {"Y": 0.65, "X": 0.325})
    assert [axis.get("unit") for axis in written(tmp_path / "b.ome.zarr")["axes"]] == [None, "micrometer", "micrometer"]


def test_a_scale_of_all_levels_is_not_applied_twice(tmp_path: Path) -> None:
    path = zarr_image(
        tmp_path / "a.ome.zarr", space("z", "y", "x"), overall=[{"type": "scale", "scale": [1.0, 2.0, 2.0]}]
    )
    with copied(path, tmp_path / "b.ome.zarr", pixel_size_um={"Y": 5.0, "X": 5.0}) as stack:
        assert stack.pixel_size_um == {"Y": 5.0, "X": 5.0}
    with copied(path, tmp_path / "c.ome.zarr") as stack:
        assert stack.pixel_size_um == {"Z": 1.0, "Y": 2.0, "X": 2.0}


# --- OME-Zarr: axes, versions, transformations


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ([{"name": "channel", "type": "channel"}, *space("row", "col")], "CYX"),
        ([{"name": "time", "type": "time"}, *space("height", "width")], "TYX"),
        ([{"name": "wavelength", "type": "channel"}, *space("y", "x")], "CYX"),
        (space("depth", "y", "x"), "ZYX"),
        (space("Z", "Y", "X"), "ZYX"),
        (space("dim_0", "dim_1", "dim_2"), "ZYX"),
        ([{"name": "t", "type": "channel"}, *space("y", "x")], "CYX"),
        ([{"name": "z", "type": "time"}, *space("y", "x")], "TYX"),
        ([{"name": "time"}, {"name": "y"}, {"name": "x"}], "TYX"),
        (["t", "y", "x"], "TYX"),
        (space("x", "y", "z"), "XYZ"),
    ],
)
def test_axes_are_what_their_type_says(tmp_path: Path, axes: list[Any], expected: str) -> None:
    with open_stack(zarr_image(tmp_path / "a.ome.zarr", axes)) as stack:
        assert stack.axes == expected
        assert len(stack.warnings) <= 1
        stated = stack.metadata.zarr["axes"]
    with copied(tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr") as stack:
        assert stack.axes == expected
        assert stack.metadata.zarr["axes"] == stated


@pytest.mark.parametrize("name", ["t", "z"])
def test_a_type_that_belies_the_name_is_said(tmp_path: Path, name: str) -> None:
    path = zarr_image(tmp_path / "a.ome.zarr", [{"name": name, "type": "channel"}, *space("y", "x")])
    with open_stack(path) as stack:
        assert stack.warnings == (f"the axis '{name}' of type channel is read as C",)


def test_dimensions_that_the_array_names_otherwise_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr_image(path, [CHANNEL, *space("y", "x")])
    (array,) = (one for one in path.glob("*/zarr.json") if json.loads(one.read_bytes())["node_type"] == "array")
    for names, said in ((["c", "y", "x"], False), (["y", "c", "x"], True), ([None, "y", "x"], False)):
        array.write_text(json.dumps(json.loads(array.read_bytes()) | {"dimension_names": names}), encoding="utf-8")
        with open_stack(path) as stack:
            assert stack.axes == "CYX"
            assert any("names its dimensions y, c, x" in line for line in stack.warnings) == said


def test_axes_of_unknown_types_are_refused_and_can_be_named(tmp_path: Path) -> None:
    axes = [{"name": "angle", "type": "angle"}, *space("y", "x")]
    path = zarr_image(tmp_path / "a.ome.zarr", axes)
    with pytest.raises(InputError, match=r"its axis 'angle' of type 'angle' and length 3 .* axes='CYX'"):
        open_stack(path)
    with open_stack(path, "CYX") as stack:
        write_stacks([(stack, tmp_path / "b.ome.zarr")])
        assert stack.pixel_size_um == {"Y": 1.0, "X": 1.0}
    with open_stack(tmp_path / "b.ome.zarr") as stack:
        assert stack.axes == "CYX"
        assert stack.metadata.zarr["axes"] == axes
        np.testing.assert_array_equal(np.asarray(stack), PIXELS)
    one = zarr_image(tmp_path / "c.ome.zarr", axes, pixels=PIXELS[:1])
    with open_stack(one) as stack:
        assert stack.axes == "CYX"
        assert "'angle'" in stack.warnings[0]


def test_unknown_versions_are_said_or_refused(tmp_path: Path) -> None:
    five = PIXELS[None, :, None]
    systems = zarr_image(tmp_path / "a.ome.zarr", None, version="0.6", pixels=five)
    with pytest.raises(InputError, match=r"0\.6, which is not known .* name them, for example axes='TCZYX'"):
        open_stack(systems)
    with open_stack(systems, "TZCYX") as stack:
        assert stack.axes == "TZCYX"
        assert "version 0.6 is not known" in stack.warnings[0]
    stated = zarr_image(tmp_path / "b.ome.zarr", space("z", "y", "x"), version="0.6.dev1")
    with open_stack(stated) as stack:
        assert (stack.axes, len(stack.warnings)) == ("ZYX", 1)
        assert "version 0.6.dev1 is not known" in stack.warnings[0]
    with pytest.raises(InputError, match=r"OME-Zarr 0\.5 that states no axes"):
        open_stack(zarr_image(tmp_path / "c.ome.zarr", None, pixels=five))
    with open_stack(zarr_image(tmp_path / "d.ome.zarr", None, version="0.1", pixels=five)) as stack:
        assert (stack.axes, stack.warnings) == ("TCZYX", ())


@pytest.mark.parametrize("overall", [False, True])
def test_transformations_that_are_not_applied_are_named_and_kept(tmp_path: Path, overall: bool) -> None:
    affine = [{"type": "affine", "affine": [[1, 0, 0, 0], [0, 0.8, 0.6, 0], [0, -0.6, 0.8, 0]]},
              {"type": "rotation", "rotation": [[1, 0, 0], [0, 0, 1], [0, 1, 0]]}]  # fmt: skip
    scale = [{"type": "scale", "scale": [1.0, 2.0, 4.0]}]
    stated: dict[str, Any] = {"transformations": scale} if overall else {"transformations": scale + affine}
    stated |= {"overall": [{"type": "scale", "scale": [1.0, 1.0, 2.0]}, *affine]} if overall else {}
    path = zarr_image(tmp_path / "a.ome.zarr", space("z", "y", "x"), **stated)
    sizes_um = {"Z": 1.0, "Y": 2.0, "X": 8.0 if overall else 4.0}
    with open_stack(path) as stack:
        assert stack.pixel_size_um == sizes_um
        assert stack.warnings == ("the transformations affine, rotation are not applied, but kept as text",)
        before = stack.metadata
    with copied(path, tmp_path / "b.ome.zarr") as stack:
        assert stack.pixel_size_um == sizes_um
        assert stack.metadata == before
    written(tmp_path / "b.ome.zarr")
    with copied(tmp_path / "b.ome.zarr", tmp_path / "c.ome.tif") as stack:
        assert (stack.pixel_size_um, stack.metadata) == (sizes_um, before)


# --- channels


def test_one_unnamed_channel_takes_no_names_away(tmp_path: Path) -> None:
    path = ome_file(tmp_path / "a.ome.tif", channels=['Name="DAPI" Color="65535"', "", 'Name="GFP" Color="16711935"'])
    zarr_path = zarr_image(tmp_path / "a.ome.zarr", [CHANNEL, *space("y", "x")], labels=["DAPI", "", "GFP"])
    for number, source in enumerate((path, zarr_path)):
        with open_stack(source) as stack:
            assert stack.channel_names == ("DAPI", "channel 1", "GFP")
            assert choose_channels(stack, ["GFP", "channel 1"]) == (1, 2)
        for target in (tmp_path / f"{number}.ome.tif", tmp_path / f"{number}.ome.zarr"):
            with copied(source, target) as stack:
                assert stack.channel_names == ("DAPI", "channel 1", "GFP")
    with open_stack(path) as stack:
        assert stack.metadata.colours == ("0000FF", "FFFFFF", "00FF00")
    channels = ome_types.from_tiff(tmp_path / "0.ome.tif", validate=True).images[0].pixels.channels
    assert [channel.name for channel in channels] == ["DAPI", None, "GFP"]
    shown: Any = zarr.open_group(tmp_path / "1.ome.zarr", mode="r").attrs["ome"]
    assert [channel.get("label") for channel in shown["omero"]["channels"]] == ["DAPI", None, "GFP"]


def test_a_channel_without_an_element_takes_nothing_from_the_others(tmp_path: Path) -> None:
    path = ome_file(tmp_path / "a.ome.tif", channels=['Name="DAPI" EmissionWavelength="461"', 'Name="GFP"'])
    with copied(path, tmp_path / "b.ome.tif") as stack:
        assert stack.channel_names == ("DAPI", "GFP", "channel 2")
    channels = ome_types.from_tiff(tmp_path / "b.ome.tif", validate=True).images[0].pixels.channels
    assert [channel.emission_wavelength for channel in channels] == [461, None, None]


def test_channels_that_are_not_those_of_the_file_are_named(tmp_path: Path) -> None:
    path = ome_file(tmp_path / "a.ome.tif", channels=['Name="DAPI"', 'Name="GFP"', 'Name="Cy5"'])
    with open_stack(path, "ZYX") as stack:
        assert stack.channel_names == ()
        (line,) = stack.warnings
        assert "describes 3 channels, not the 1" in line


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_a_name_of_two_channels_is_refused(tmp_path: Path, ending: str) -> None:
    path = ome_file(tmp_path / "a.ome.tif", channels=['Name="DAPI"', 'Name="GFP"', 'Name="DAPI"'])
    with copied(path, tmp_path / f"b{ending}") as stack:
        with pytest.raises(OptionError, match="2 channels that are called 'DAPI', numbers 0, 2; give the number"):
            choose_channels(stack, ["DAPI"])
        assert choose_channels(stack, ["GFP", "2"]) == choose_channels(stack, [1, 2]) == (1, 2)


def test_numbers_are_numbers_and_text_is_a_name_first(tmp_path: Path) -> None:
    with open_stack(ome_file(tmp_path / "a.ome.tif", channels=['Name="2"', 'Name="1"', 'Name="0"'])) as stack:
        assert choose_channels(stack, ["0"]) == (2,)
        assert choose_channels(stack, [0]) == (0,)


# --- values and orientation


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_significant_bits_of_ome_xml_are_in_the_output(tmp_path: Path, ending: str) -> None:
    path = ome_file(tmp_path / "a.ome.tif", sizes='SignificantBits="12"')
    copied(path, tmp_path / f"b{ending}").close()
    with copied(tmp_path / f"b{ending}", tmp_path / "c.ome.tif") as stack:
        assert stack.metadata.tiff["bits"] == 12
    assert ome_types.from_tiff(tmp_path / "c.ome.tif", validate=True).images[0].pixels.significant_bits == 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_said_and_is_a_tag_again(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[0], extratags=[(274, 3, 1, orientation, False)], metadata=None)
    with open_stack(path) as stack:
        assert [line for line in stack.warnings if "Orientation" in line] == list(stack.warnings)
        assert len(stack.warnings) == (orientation > 1)
    with copied(path, tmp_path / "b.ome.tif") as stack:
        np.testing.assert_array_equal(np.asarray(stack), PIXELS[0])
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as file:
        tags = file.pages.first.tags
        assert (tags[274].value if 274 in tags else 1) == orientation
    with copied(path, tmp_path / "c.ome.zarr") as stack:
        assert stack.metadata.tiff.get("orientation", 1) == orientation


def test_colours_that_are_not_rgb_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS.astype(np.uint8).transpose(1, 2, 0), photometric="cielab", metadata=None)
    with open_stack(path) as stack:
        assert [line for line in stack.warnings if "CIELAB" in line]


# --- kinds beside these


def test_a_single_lookup_table_of_imagej_is_read(tmp_path: Path) -> None:
    """tifffile gives one table as an array, not as a list."""
    table = np.stack([np.zeros(256, np.uint8), np.arange(256, dtype=np.uint8), np.zeros(256, np.uint8)])
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[0], imagej=True, metadata={"LUTs": [table], "mode": "composite"})
    with copied(path, tmp_path / "b.ome.tif") as stack:
        assert stack.metadata.colours == ("00FF00",)
        np.testing.assert_array_equal(np.asarray(stack), PIXELS[0])


def test_files_of_channels_of_which_one_has_no_name(tmp_path: Path) -> None:
    for number, channel in enumerate(['Name="DAPI" Color="65535"', "", 'Name="GFP"']):
        text = OME.format(sizes="", channels=f'<Channel ID="C:0" {channel}/>', z=1, c=1).replace(
            'Count="3"', 'Count="1"'
        )
        path = tmp_path / f"image_{number}.ome.tif"
        tifffile.imwrite(path, PIXELS[number], metadata=None, description=text.encode())
    with open_stack(tmp_path / "image_{C}.ome.tif") as stack:
        assert stack.channel_names == ("DAPI", "channel 1", "GFP")
        assert stack.metadata.colours == ("0000FF", "FFFFFF", "FFFFFF")


def test_ome_xml_of_a_bioformats2raw_set_is_that_of_its_image(tmp_path: Path) -> None:
    raw = tmp_path / "set.zarr"
    group = zarr.open_group(raw, mode="w", zarr_format=3)
    group.update_attributes({"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    images = ""
    for number, names in enumerate((["DAPI", "GFP", "Cy5"], ["one", "two", "three"])):
        zarr_image(raw / str(number), [CHANNEL, *space("y", "x")])
        described = "".join(f'<Channel ID="Channel:{number}:{at}" Name="{name}"/>' for at, name in enumerate(names))
        image = OME.format(sizes='SignificantBits="12" PhysicalSizeX="9"', channels=described, z=1, c=3)
        images += image.partition('06">')[2].removesuffix("</OME>").replace('<TiffData IFD="0" PlaneCount="3"/>', "")
    group.create_group("OME").update_attributes({"ome": {"version": "0.5", "series": ["0", "1"]}})
    (raw / "OME" / "METADATA.ome.xml").write_text(f"{OME.partition('<Image')[0]}{images}</OME>", encoding="utf-8")
    for place, number, names in ((raw, 1, "one"), (raw / "1", 0, "one"), (raw / "0", 0, "DAPI")):
        with open_stack(place, image=number) as stack:
            assert stack.channel_names[0] == names
            assert stack.pixel_size_um == {"Y": 1.0, "X": 1.0}  # as the image itself says
            assert stack.metadata.tiff == {"bits": 12}
            write_stacks([(stack, tmp_path / "b.ome.tif")], overwrite=True)
        pixels = ome_types.from_tiff(tmp_path / "b.ome.tif", validate=True).images[0].pixels
        assert (pixels.channels[0].name, pixels.significant_bits, pixels.physical_size_x) == (names, 12, 1.0)


def test_ome_xml_of_a_set_without_a_list_is_that_of_the_number(tmp_path: Path) -> None:
    """Group 1 was not copied: what lies second is still the image 2 of the OME-XML."""
    raw = tmp_path / "set.zarr"
    zarr.open_group(raw, mode="w", zarr_format=3).update_attributes(
        {"ome": {"version": "0.5", "bioformats2raw.layout": 3}}
    )
    images = ""
    for number in range(3):
        described = "".join(f'<Channel ID="Channel:{number}:{at}" Name="dye {number}-{at}"/>' for at in range(3))
        image = OME.format(sizes="", channels=described, z=1, c=3)
        images += image.partition('06">')[2].removesuffix("</OME>").replace('<TiffData IFD="0" PlaneCount="3"/>', "")
        if number != 1:
            zarr_image(raw / str(number), [CHANNEL, *space("y", "x")])
    (raw / "OME").mkdir()
    (raw / "OME" / "METADATA.ome.xml").write_text(f"{OME.partition('<Image')[0]}{images}</OME>", encoding="utf-8")
    for place, number in ((raw, 1), (raw / "2", 0)):
        with open_stack(place, image=number) as stack:
            assert stack.channel_names == ("dye 2-0", "dye 2-1", "dye 2-2")


def test_ome_xml_that_declares_entities_is_named_and_not_parsed(tmp_path: Path) -> None:
    text = '<!DOCTYPE OME [<!ENTITY a "b">]>' + OME.format(sizes='PhysicalSizeX="9"', channels="", z=1, c=1)
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS[0], metadata=None, description=text.encode())
    with open_stack(tmp_path / "a.ome.tif") as stack:
        assert stack.pixel_size_um == {}
        (line,) = stack.warnings
        assert "declares entities" in line


@pytest.mark.parametrize(
    ("unit", "axis", "size"),
    [("micrometer", "X", 1.0), ("nanometre", "X", 1e-3), ("hectometer", "Z", 1e8), ("Å", "Z", 1e-4),
     ("angstrom", "Y", 1e-4),

     ("foot", "X", 304800.0), ("Micron", "X", 1.0), ("millisecond", "T", 1e-3),
     ("hour", "T", 3600.0), ("MIN", "T", 60.0),
     ("ks", "T", 1e3), ("pixel", "X", None), ("frame", "T", None)],
)  # fmt: skip
def test_units(unit: str, axis: str, size: float | None) -> None:
    found = Calibration()
    found.add_size(axis, 2.0, unit)
    assert (found.time_step_s if axis == "T" else found.pixel_size_um.get(axis)) == (size and pytest.approx(2 * size))
    assert found.lost == ()


@pytest.mark.parametrize("size", [None, "", "wide", float("nan"), float("inf"), 0, "0.0", "1e999"])
def test_sizes_that_are_no_numbers_are_not_taken_and_named(size: Any) -> None:
    found = Calibration()
    found.add_size("X", size, "nm")
    assert (found.pixel_size_um, found.time_step_s) == ({}, None)
    named = [f"the pixel size along X is {str(size)!r}, which is none, and not stated"]
    assert found.doubts == ([] if size in (None, "") else named)


def test_a_time_step_of_zero_is_what_single_images_have() -> None:
    found = Calibration()
    found.add_size("T", 0, "s")
    assert found == Calibration()


def test_angles_of_ome_xml_are_no_depth(tmp_path: Path) -> None:
    """Modulo annotations split an axis into two; OMERO and tifffile read them."""
    modulo = (
        '<StructuredAnnotations><XMLAnnotation ID="Annotation:3" Namespace="openmicroscopy.org/omero/dimension/modulo">'
        '<Value><Modulo namespace="http://www.openmicroscopy.org/Schemas/Additions/2011-09"><ModuloAlongZ Type="angle" '
        'Unit="degree" Start="0" End="2"/></Modulo></Value></XMLAnnotation></StructuredAnnotations></OME>'
    )
    text = OME.format(sizes="", channels="", z=3, c=1).replace("</OME>", modulo)
    text = text.replace("</Pixels>", '</Pixels><AnnotationRef ID="Annotation:3"/>')
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, photometric="minisblack", metadata=None, description=text.encode())
    with pytest.raises(InputError, match="AYX, of which angle can be none of T, C, Z"):
        open_stack(tmp_path / "a.ome.tif")
    with open_stack(tmp_path / "a.ome.tif", "CYX") as stack:
        assert stack.shape == (3, 20, 30)


def test_scales_that_are_text_do_not_end_the_writing(tmp_path: Path) -> None:
    scale = [{"type": "scale", "scale": ["1.5", 2, "0.5"]}]
    path = zarr_image(tmp_path / "a.ome.zarr", space("z", "y", "x"), transformations=scale)
    with copied(path, tmp_path / "b.ome.zarr") as stack:
        assert stack.pixel_size_um == {"Z": 1.5, "Y": 2.0, "X": 0.5}
    assert written(tmp_path / "b.ome.zarr")["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.5, 2.0, 0.5]


def test_names_are_as_they_are_stated(tmp_path: Path) -> None:
    path = ome_file(tmp_path / "a.ome.tif", channels=['Name="DAPI "', 'Name="DAPI"', 'Name=" "'])
    with copied(path, tmp_path / "b.ome.tif") as stack:
        assert stack.channel_names == ("DAPI ", "DAPI", "channel 2")

"""What a file states beside its pixels is in the output too, or named in a warning."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ome_types
import pytest
import tifffile
import yaozarrs
import zarr

from cellxlate.stacks.carried import Metadata, as_json, from_json
from cellxlate.stacks.metadata.ome_xml import read_ome
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.write.bands import BAND_PX
from cellxlate.stacks.write.writer import open_writer

ENDINGS = (".ome.tif", ".ome.zarr")
PIXELS = np.random.default_rng(0).integers(0, 200, (2, 20, 30)).astype(np.uint16)

OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd"
 Creator="the microscope">
 <Experimenter ID="Experimenter:0" LastName="Müller"/>
 <Instrument ID="Instrument:0"><Microscope Manufacturer="Zeiss" Model="Axio"/>
  <Laser ID="LightSource:0" Power="5" PowerUnit="mW" Wavelength="488"/>
  <Detector ID="Detector:0" Gain="2"/><Objective ID="Objective:0" LensNA="1.4" Immersion="Oil"/></Instrument>
 <Image ID="Image:0" Name="field 1"><AcquisitionDate>2024-05-06T07:08:09</AcquisitionDate>
  <ExperimenterRef ID="Experimenter:0"/><Description>two channels</Description>
  <InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0" RefractiveIndex="1.51"/>
  <Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" SizeZ="1" SizeC="2" SizeT="1"
   PhysicalSizeX="650" PhysicalSizeXUnit="nm" PhysicalSizeY="0.65" SignificantBits="12">
   <Channel ID="Channel:0:0" Name="DAPI" Color="65535" EmissionWavelength="461" SamplesPerPixel="1">
    <LightSourceSettings ID="LightSource:0" Attenuation="0.5"/><DetectorSettings ID="Detector:0" Gain="3"/></Channel>
   <Channel ID="Channel:0:1" Name="GFP" Color="16711935" EmissionWavelength="509" SamplesPerPixel="1"/>
   <TiffData IFD="0" PlaneCount="2"/>
   <Plane TheZ="0" TheC="0" TheT="0" ExposureTime="0.1" PositionX="12.5"/>
   <Plane TheZ="0" TheC="1" TheT="0" ExposureTime="0.2" PositionX="12.5"/>
  </Pixels><ROIRef ID="ROI:0"/><AnnotationRef ID="Annotation:7"/></Image>
 <StructuredAnnotations><CommentAnnotation ID="Annotation:7"><Value>fixed cells</Value></CommentAnnotation>
 </StructuredAnnotations>
 <ROI ID="ROI:0"><Union><Rectangle ID="Shape:0" X="1" Y="2" Width="3" Height="4"/></Union></ROI>
</OME>"""


def ome_file(path: Path) -> Path:
    tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata=None, description=OME.encode())
    return path


def copied(source: Path, target: Path, axes: str | None = None, **options: Any) -> Path:
    """What a run with nothing selected writes."""
    with open_stack(source, axes) as stack, open_writer(target, like=stack, **options) as writer:
        dtype = writer.bands.dtype
        for index in stack.plane_indices():
            for top in range(0, stack.size("Y"), BAND_PX):
                writer.write(index, top, stack.read(index, slice(top, top + BAND_PX)).astype(dtype))
        writer.finish()
        return writer.publish()


def metadata_of(path: Path, axes: str | None = None) -> Metadata:
    with open_stack(path, axes) as stack:
        return stack.metadata


# --- OME-XML


def test_instrument_acquisition_and_annotations_are_in_the_output(tmp_path: Path) -> None:
    path = copied(ome_file(tmp_path / "a.ome.tif"), tmp_path / "b.ome.tif", provenance={"model": "m"})
    found = ome_types.from_tiff(path, validate=True)
    image = found.images[0]
    assert (image.name, image.description, str(image.acquisition_date)) == (
        "field 1", "two channels", "2024-05-06 07:08:09"
    )  # fmt: skip
    assert found.experimenters[0].last_name == "Müller"
    assert found.instruments[0].microscope.model == "Axio"
    assert found.instruments[0].objectives[0].lens_na == 1.4
    assert image.objective_settings.refractive_index == 1.51
    pixels = image.pixels
    assert (pixels.physical_size_x, pixels.physical_size_x_unit.value, pixels.physical_size_y) == (650, "nm", 0.65)
    assert [channel.emission_wavelength for channel in pixels.channels] == [461, 509]
    assert [channel.color.as_hex(format="long").upper()[:7] for channel in pixels.channels] == ["#0000FF", "#00FF00"]
    assert pixels.channels[0].light_source_settings.attenuation == 0.5
    assert [plane.exposure_time for plane in pixels.planes] == [0.1, 0.2]
    assert found.rois[0].union[0].width == 3
    assert found.structured_annotations.comment_annotations[0].value == "fixed cells"
    assert {entry.k for entry in found.structured_annotations.map_annotations[0].value.ms} >= {"model", "axes"}
    with tifffile.TiffFile(path) as file:
        assert file.series[0].axes == "CYX"


@pytest.mark.parametrize("ending", ENDINGS)
def test_carried_twice_is_carried_once(tmp_path: Path, ending: str) -> None:
    """Through one format and another, and again: the same, with the provenance of both runs."""
    first = ome_file(tmp_path / "a.ome.tif")
    second = copied(first, tmp_path / f"b{ending}", provenance={"model": "one"})
    third = copied(second, tmp_path / "c.ome.tif", provenance={"model": "two"})
    before, after = metadata_of(first), metadata_of(third)
    assert before.ome_xml is not None
    assert "SignificantBits" not in before.ome_xml
    assert after == before
    assert before.colours == ("0000FF", "00FF00")
    assert [note["model"] for note in after.earlier] == ["one", "two"]


def test_an_image_of_other_values_does_not_claim_the_bits_of_the_input(tmp_path: Path) -> None:
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, PIXELS, photometric="minisblack", metadata={"axes": "ZYX"})
    with open_stack(source) as stack:
        stack = replace(stack, metadata=Metadata(tiff={"bits": 12}))
        for name, dtype in (("same", None), ("other", np.uint8)):
            with open_writer(tmp_path / f"{name}.ome.tif", like=stack, dtype=dtype) as writer:
                for index in stack.plane_indices():
                    writer.write(index, 0, stack.read(index).astype(dtype or np.uint16))
                writer.finish()
                writer.publish()
    same = ome_types.from_tiff(tmp_path / "same.ome.tif").images[0].pixels
    other = ome_types.from_tiff(tmp_path / "other.ome.tif").images[0].pixels
    assert (same.significant_bits, other.significant_bits) == (12, None)


def test_old_and_unreadable_ome_xml_is_named_in_a_warning(tmp_path: Path) -> None:
    old = OME.replace("OME/2016-06", "OME/2012-06")
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, photometric="minisblack", metadata=None, description=old.encode())
    with open_stack(tmp_path / "a.ome.tif") as stack:
        assert stack.channel_names == ("DAPI", "GFP")
        assert any("older than 2015" in line for line in stack.warnings)
    assert read_ome("<OME").lost
    assert read_ome('<!DOCTYPE OME [<!ENTITY a "b">]><OME/>').lost


def test_names_and_sizes_of_the_stack_win_over_its_ome_xml(tmp_path: Path) -> None:
    with open_stack(ome_file(tmp_path / "a.ome.tif")) as stack:
        other = replace(stack, channel_names=("x", "y"), pixel_size_um={"Y": 2.0, "X": 0.65})
        with open_writer(tmp_path / "b.ome.tif", like=other) as writer:
            for index in stack.plane_indices():
                writer.write(index, 0, stack.read(index))
            writer.finish()
            pixels = ome_types.from_tiff(writer.publish()).images[0].pixels
    assert [channel.name for channel in pixels.channels] == ["x", "y"]
    assert (pixels.physical_size_x, pixels.physical_size_x_unit.value) == (650, "nm")  # as it was
    assert (pixels.physical_size_y, pixels.physical_size_y_unit.value) == (2.0, "µm")


def test_planes_that_axes_of_the_user_move_outside_are_not_stated(tmp_path: Path) -> None:
    path = copied(ome_file(tmp_path / "a.ome.tif"), tmp_path / "b.ome.tif", axes="ZYX")
    pixels = ome_types.from_tiff(path, validate=True).images[0].pixels
    assert (pixels.size_z, pixels.size_c, len(pixels.channels)) == (2, 1, 1)
    assert [plane.the_c for plane in pixels.planes] == [0]


def test_one_of_several_images_is_chosen_and_the_others_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        for number in range(3):
            pixels = np.full((20 + number, 30), number, np.uint16)
            file.write(pixels, photometric="minisblack", metadata={"axes": "YX", "Name": f"field {number}"})
    with open_stack(path) as stack:
        assert stack.shape == (20, 30)
        assert stack.warnings[0].startswith("the file holds 3 images, this is number 0; choose with image=")
        assert "field 2 (22, 30)" in stack.warnings[0]
    with open_stack(path, image=2) as stack:
        assert (stack.shape, stack.image) == ((22, 30), 2)
        assert (np.asarray(stack) == 2).all()
        xml = stack.metadata.ome_xml
    assert xml is not None
    assert "field 2" in xml
    assert "field 0" not in xml


# --- tags


def test_tags_are_tags_again(tmp_path: Path) -> None:
    source = tmp_path / "a.tif"
    tifffile.imwrite(
        source, PIXELS, photometric="miniswhite", description="µ from the camera".encode(), metadata=None,
        software="camera 1", datetime="2024:05:06 07:08:09", resolution=((300, 1), (150, 1)), resolutionunit=2,
        extratags=[(315, 2, None, "A. Uthor", True), (271, 2, None, "Maker", True), (65000, 4, 1, 7, True)],
    )  # fmt: skip
    with open_stack(source, "ZYX") as stack:
        assert [line for line in stack.warnings if "65000" in line or "not carried" in line]
    path = copied(source, tmp_path / "b.ome.tif", axes="ZYX")
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        assert [tags[code].value for code in (305, 306, 315, 271)] == [
            "camera 1", "2024:05:06 07:08:09", "A. Uthor", "Maker"
        ]  # fmt: skip
        assert (tags[282].value, tags[283].value, tags[296].value) == ((300, 1), (150, 1), 2)
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    assert ome_types.from_tiff(path).images[0].description == "µ from the camera"
    assert metadata_of(path) == metadata_of(source, "ZYX")


def test_a_palette_stays_on_the_image_and_not_on_other_values(tmp_path: Path) -> None:
    palette = np.random.default_rng(1).integers(0, 65535, (3, 256)).astype(np.uint16)
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, PIXELS[0].astype(np.uint8), photometric="palette", colormap=palette)
    with tifffile.TiffFile(copied(source, tmp_path / "b.ome.tif")) as file:
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.PALETTE
        np.testing.assert_array_equal(file.pages.first.colormap, palette)
    with tifffile.TiffFile(copied(source, tmp_path / "c.ome.tif", dtype=np.uint8)) as file:
        assert file.pages.first.colormap is None
    assert metadata_of(tmp_path / "b.ome.tif") == metadata_of(source)


def test_imagej_tables_become_tags_and_colours(tmp_path: Path) -> None:
    source, ramp = tmp_path / "a.tif", np.arange(256, dtype=np.uint8)
    tables = [np.stack([ramp, 0 * ramp, 0 * ramp]), np.stack([0 * ramp, ramp, ramp])]
    metadata = {"axes": "CYX", "Ranges": (1.0, 150.0, 2.0, 180.0), "LUTs": tables, "Labels": ["one", "two"],
                "Info": "Gain = 2"}  # fmt: skip
    tifffile.imwrite(source, PIXELS, imagej=True, metadata=metadata)
    path = copied(source, tmp_path / "b.ome.tif")
    with tifffile.TiffFile(path) as file:
        found = file.pages.first.tags["IJMetadata"].value
    assert (found["Ranges"], found["Labels"], found["Info"]) == ((1.0, 150.0, 2.0, 180.0), ["one", "two"], "Gain = 2")
    np.testing.assert_array_equal(found["LUTs"], tables)
    channels = ome_types.from_tiff(path, validate=True).images[0].pixels.channels
    assert [channel.color.as_hex(format="long").upper()[:7] for channel in channels] == ["#FF0000", "#00FFFF"]
    zarr_path = copied(source, tmp_path / "b.ome.zarr")
    shown = zarr.open_group(zarr_path, mode="r").attrs["ome"]["omero"]["channels"]
    assert [channel["color"] for channel in shown] == ["FF0000", "00FFFF"]
    assert [(channel["window"]["start"], channel["window"]["end"]) for channel in shown] == [(1, 150), (2, 180)]
    assert metadata_of(path) == metadata_of(source) == metadata_of(copied(zarr_path, tmp_path / "c.ome.tif"))


# --- Zarr


def zarr_file(path: Path, version: str = "0.5") -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    array = group.create_array("s0", data=PIXELS, chunks=(1, 16, 16))
    array.update_attributes({"of the array": [1, 2]})
    image = {
        "name": "well A1", "type": "gaussian", "metadata": {"method": "scipy"},
        "axes": [{"name": "c", "type": "channel"}, {"name": "y", "type": "space", "unit": "nanometer"},
                 {"name": "x", "type": "space", "unit": "nanometer"}],
        "datasets": [{"path": "s0", "coordinateTransformations": [
            {"type": "scale", "scale": [1.0, 650.0, 325.0]},
            {"type": "translation", "translation": [0.0, 10.0, 20.0]}]}],
        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 2.0]}],
    }  # fmt: skip
    window = {"min": 0.0, "max": 65535.0, "start": 3.0, "end": 99.0}
    channels = [{"label": name, "color": colour, "active": True, "window": window, "family": "linear"}
                for name, colour in (("DAPI", "0000FF"), ("GFP", "00FF00"))]  # fmt: skip
    attributes = {"multiscales": [image], "omero": {"channels": channels, "rdefs": {"model": "color"}}}
    group.update_attributes({"ome": {"version": "0.5", **attributes}} if version == "0.5" else attributes)
    group.update_attributes({"lab": {"notebook": 12}})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("format", ["ome-zarr", "ome-zarr-0.4"])
def test_zarr_attributes_survive(tmp_path: Path, version: str, format: Any) -> None:
    source = zarr_file(tmp_path / "a.ome.zarr", version)
    path = copied(source, tmp_path / "b.ome.zarr", format=format)
    yaozarrs.validate_zarr_store(str(path))
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == (3 if format == "ome-zarr" else 2)
    attributes: Any = group.attrs["ome"] if format == "ome-zarr" else group.attrs
    image = attributes["multiscales"][0]
    assert (image["name"], image["metadata"]["method"], image["type"]) == ("well A1", "scipy", "mean")
    assert [axis.get("unit") for axis in image["axes"]] == [None, "nanometer", "nanometer"]
    assert image["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 650.0, 325.0]}, {"type": "translation", "translation": [0.0, 10.0, 20.0]}
    ]  # fmt: skip
    assert image["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 1.0, 2.0]}]
    assert attributes["omero"]["rdefs"] == {"model": "color"}
    assert attributes["omero"]["channels"][0]["window"]["start"] == 3.0
    assert group.attrs["lab"] == {"notebook": 12}
    assert group["0"].attrs["of the array"] == [1, 2]
    np.testing.assert_array_equal(group["0"][:], PIXELS)
    with open_stack(source) as before, open_stack(path) as after:
        assert after.metadata == before.metadata
        assert after.pixel_size_um == before.pixel_size_um == {"Y": 0.65, "X": 0.65}
        assert after.channel_names == ("DAPI", "GFP")
    tiff = copied(path, tmp_path / "c.ome.tif")
    channels = ome_types.from_tiff(tiff, validate=True).images[0].pixels.channels
    assert [channel.color.as_hex(format="long").upper()[:7] for channel in channels] == ["#0000FF", "#00FF00"]
    assert metadata_of(copied(tiff, tmp_path / "d.ome.zarr")) == metadata_of(source)


@pytest.mark.parametrize(
    ("channel", "colour"),
    [({"label": 0}, "FFFFFF"), ({"label": "a", "color": "no colour"}, None), ({"color": 7, "window": "x"}, None)],
)
def test_omero_that_the_format_does_not_allow_is_made_valid_and_kept(
    tmp_path: Path, channel: dict[str, Any], colour: str | None
) -> None:
    source = zarr_file(tmp_path / "a.ome.zarr")
    group = zarr.open_group(source, mode="a")
    stated: Any = group.attrs["ome"]
    group.update_attributes({"ome": stated | {"omero": {"channels": [channel, {"label": "b"}]}}})
    path = copied(source, tmp_path / "b.ome.zarr")
    yaozarrs.validate_zarr_store(str(path))
    assert metadata_of(path).zarr["omero"] == {"channels": [channel, {"label": "b"}]}
    if colour:
        assert zarr.open_group(path, mode="r").attrs["ome"]["omero"]["channels"][0]["color"] == colour


def test_labels_and_further_images_beside_an_image_are_named_as_lost(tmp_path: Path) -> None:
    path = zarr_file(tmp_path / "a.ome.zarr")
    zarr.open_group(path, mode="a").create_group("labels")
    with open_stack(path) as stack:
        assert stack.warnings == ("what lies beside the image is not copied: labels",)


def test_display_ranges_are_those_of_other_values_where_values_differ(tmp_path: Path) -> None:
    path = copied(zarr_file(tmp_path / "a.ome.zarr"), tmp_path / "b.ome.zarr", dtype=np.uint8)
    window = zarr.open_group(path, mode="r").attrs["ome"]["omero"]["channels"][0]["window"]
    assert (window["max"], window["start"]) == (255, PIXELS[0].min())


# --- values


@pytest.mark.parametrize(
    "value", [b"\x00\xff", [1, 2.5, None, "a"], {"a": {"b": b"c"}}, np.arange(6, dtype=np.uint16).reshape(2, 3)]
)
def test_values_come_back_from_json(value: Any) -> None:
    found = from_json(json.loads(json.dumps(as_json(value))))
    if isinstance(value, np.ndarray):
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
    else:
        assert found == value


def test_what_json_cannot_hold_becomes_text() -> None:
    assert as_json({1: float("nan"), "f": Path("a"), "n": np.float32(2)}) == {"1": "nan", "f": "a", "n": 2.0}


# --- pages that state something else


def pages(path: Path, count: int, **of_page: Any) -> Path:
    """A stack whose pages are written one by one, each with tags of its own."""
    with tifffile.TiffWriter(path) as file:
        for number in range(count):
            stated = {name: value(number) for name, value in of_page.items()}
            file.write(PIXELS[0], metadata=None, contiguous=False, software="scope", photometric="minisblack", **stated)
    return path


def test_tags_that_differ_from_page_to_page_are_named(tmp_path: Path) -> None:
    path = pages(
        tmp_path / "a.tif", 40, datetime=lambda number: f"2024:01:01 00:00:{number:02}",
        description=lambda number: f"plane {number}",
        extratags=lambda number: [(65000, 2, None, "same", True), (271, 2, None, "m" if number < 39 else "n", True)],
    )  # fmt: skip
    with open_stack(path, "TYX") as stack:
        named = [line for line in stack.warnings if "differ from page to page" in line]
        assert named == [
            "the TIFF tags ImageDescription, DateTime, Make differ from page to page; of those that are carried, only "
            "the first page's are (17 of 40 pages were looked at)"
        ]
        assert stack.metadata.tiff["text"]["DateTime"] == "2024:01:01 00:00:00"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pages_that_state_the_same_or_less_are_not_mentioned(tmp_path: Path, count: int) -> None:
    path = pages(tmp_path / "a.tif", count, description=lambda number: "" if number else "all of it")
    with open_stack(path, "TYX" if count > 1 else None) as stack:
        assert stack.warnings == ()


def test_many_pages_are_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pages(tmp_path / "a.tif", 300, description=lambda number: f"plane {number}")
    read: list[int] = []
    as_page = tifffile.TiffFrame.aspage
    monkeypatch.setattr(tifffile.TiffFrame, "aspage", lambda frame: read.append(frame.index) or as_page(frame))
    with open_stack(path, "TYX") as stack:
        assert "17 of 300 pages were looked at" in stack.warnings[-1]
    assert len(read) == 15  # tifffile has read the first two already
    assert read[-1] == 299

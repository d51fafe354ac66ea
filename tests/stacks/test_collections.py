"""Plates, sets and planes in several files: which stacks they are, and what these are called."""

import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.enhancement.outputs.names import find_inputs, name_outputs
from cellxlate.errors import InputError
from cellxlate.stacks.naming import stack_name
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.read.zarr import zarr_images
from cellxlate.stacks.write.writer import open_writer

AXES = [{"name": "y", "type": "space", "unit": "micrometer"}, {"name": "x", "type": "space", "unit": "micrometer"}]


def image(group: zarr.Group, value: int, version: str) -> None:
    pixels = np.full((20, 30), value, np.uint16)
    group.create_array("0", data=pixels, chunks=(16, 16), config={"write_empty_chunks": True})
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}]
    attributes: dict[str, Any] = {"multiscales": [{"axes": AXES, "datasets": datasets}]}
    group.update_attributes({"ome": attributes} if version == "0.5" else attributes)


def plate(path: Path, version: str) -> Path:
    """Wells A/1 and B/2 of two fields each; field n of all holds the value n."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    stated: dict[str, Any] = {"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}], "rows": [], "columns": []}}
    group.update_attributes({"ome": stated} if version == "0.5" else stated)
    for number, well in enumerate(("A/1", "B/2")):
        inner = group.create_group(well)
        fields: dict[str, Any] = {"well": {"images": [{"path": "0"}, {"path": "1"}]}}
        inner.update_attributes({"ome": fields} if version == "0.5" else fields)
        for field in (0, 1):
            image(inner.create_group(str(field)), 2 * number + field, version)
    return path


def converted_set(path: Path) -> Path:
    """What bioformats2raw makes of a file with three images."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.update_attributes({"bioformats2raw.layout": 3})
    for number in range(3):
        image(group.create_group(str(number)), number, "0.4")
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_every_field_of_a_plate_is_a_stack(tmp_path: Path, version: str) -> None:
    path = plate(tmp_path / "screen.ome.zarr", version)
    places = ["A/1/0", "A/1/1", "B/2/0", "B/2/1"]
    assert zarr_images(path) == places
    assert find_inputs([path])[0] == [path / place for place in places]
    for number, place in enumerate(places):
        for found in (open_stack(path / place), open_stack(path, image=number)):
            with found as stack:
                assert (np.asarray(stack) == number).all()
                assert stack.pixel_size_um == {"Y": 0.5, "X": 0.5}
    with open_stack(path, image=2) as stack:
        assert stack.warnings[0].startswith("the folder holds 4 images, this is number 2 (B/2/0)")
    assert zarr_images(path / "B/2") == ["0", "1"]


def test_outputs_of_a_field_lie_beside_its_plate(tmp_path: Path) -> None:
    path = plate(tmp_path / "screen.ome.zarr", "0.5") / "B/2/1"
    assert stack_name(path) == "screen_B_2_1"
    assert name_outputs(path, is_zarr=True).enhanced == tmp_path / "screen_B_2_1_enhanced.ome.zarr"


def test_every_image_of_a_converted_set_is_a_stack(tmp_path: Path) -> None:
    path = converted_set(tmp_path / "a.zarr")
    assert find_inputs([path])[0] == [path / "0", path / "1", path / "2"]
    assert find_inputs([path], each_image=False)[0] == [path]
    with open_stack(path, image=1) as stack:
        assert (np.asarray(stack) == 1).all()
    with pytest.raises(InputError, match="there is no image 3, the folder holds 3"):
        open_stack(path, image=3)


def test_a_plate_without_its_wells_is_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.update_attributes({"ome": {"plate": {"wells": [{"path": "A/1"}]}}})
    with pytest.raises(InputError, match="A/1"):
        open_stack(tmp_path / "a.zarr")


# --- planes in several files


def planes(folder: Path) -> np.ndarray:
    """Files img_t{T}_z{Z}_{C}.tif: two times, three depths (1, 2, 10), channels DAPI and GFP."""
    pixels = np.random.default_rng(0).integers(0, 200, (2, 2, 3, 20, 30)).astype(np.uint16)
    for t, c, z in np.ndindex(2, 2, 3):
        name = f"img_t{t}_z{(1, 2, 10)[z]}_{('DAPI', 'GFP')[c]}.tif"
        tifffile.imwrite(
            folder / name, pixels[t, c, z], photometric="minisblack", resolution=(2e4, 2e4), resolutionunit=3
        )
    return pixels


def test_planes_in_files_are_one_stack(tmp_path: Path) -> None:
    pixels = planes(tmp_path)
    path = tmp_path / "img_t{T}_z{Z}_{C}.tif"
    assert find_inputs([path])[0] == [path]
    with open_stack(path) as stack:
        assert (stack.axes, stack.shape, stack.name) == ("TCZYX", pixels.shape, "img")
        assert stack.channel_names == ("DAPI", "GFP")
        assert stack.pixel_size_um == {"Y": 0.5, "X": 0.5}
        assert len(stack.files) == 12
        np.testing.assert_array_equal(np.asarray(stack), pixels)
        for index in stack.plane_indices():
            np.testing.assert_array_equal(
                stack.read(index, slice(3, 9), slice(2, 5)), pixels[(*index, slice(3, 9), slice(2, 5))]
            )


def test_a_star_and_fewer_axes_choose_among_the_files(tmp_path: Path) -> None:
    pixels = planes(tmp_path)
    with open_stack(tmp_path / "*_t1_z{Z}_GFP.tif") as stack:
        assert stack.axes == "ZYX"
        np.testing.assert_array_equal(np.asarray(stack), pixels[1, 1])
    with pytest.raises(InputError, match="both fit one position"):
        open_stack(tmp_path / "img_t*_z{Z}_GFP.tif")


def test_files_that_hold_stacks_have_the_axes_of_the_names_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (2, 3, 20, 30)).astype(np.uint16)
    for t in (0, 1):
        tifffile.imwrite(tmp_path / f"{t}.tif", pixels[t], photometric="minisblack", metadata={"axes": "ZYX"})
    with open_stack(tmp_path / "{T}.tif") as stack:
        assert stack.axes == "TZYX"
        np.testing.assert_array_equal(np.asarray(stack), pixels)


def test_files_that_do_not_make_a_stack_are_refused(tmp_path: Path) -> None:
    planes(tmp_path)
    with pytest.raises(InputError, match="names an axis twice"):
        open_stack(tmp_path / "img_{T}_{T}.tif")
    with pytest.raises(InputError, match="fits no file"):
        open_stack(tmp_path / "other_{T}.tif")
    with pytest.raises(InputError, match="must begin with TCZ"):
        open_stack(tmp_path / "img_t{T}_z{Z}_{C}.tif", "ZYX")
    (tmp_path / "img_t1_z2_GFP.tif").unlink()
    with pytest.raises(InputError, match="1 of 12 files are missing, the first at T=1, C=GFP, Z=2"):
        open_stack(tmp_path / "img_t{T}_z{Z}_{C}.tif")
    tifffile.imwrite(tmp_path / "img_t1_z2_GFP.tif", np.zeros((20, 31), np.uint16), photometric="minisblack")
    with pytest.raises(InputError, match="must be alike"):
        open_stack(tmp_path / "img_t{T}_z{Z}_{C}.tif")


def test_a_number_that_is_skipped_is_named_and_one_that_is_there_twice_refused(tmp_path: Path) -> None:
    for number in (0, 2, 4, 6, 7, 10):
        tifffile.imwrite(tmp_path / f"t{number}.tif", np.full((8, 8), number, np.uint16))
    with open_stack(tmp_path / "t{T}.tif") as stack:
        assert np.asarray(stack)[:, 0, 0].tolist() == [0, 2, 4, 6, 7, 10]
        assert any("there is no T=1;" in line for line in stack.warnings)
    (tmp_path / "t7.tif").unlink()
    with open_stack(tmp_path / "t{T}.tif") as stack:
        assert any("there is no T=8;" in line for line in stack.warnings)
    (tmp_path / "t10.tif").unlink()
    with open_stack(tmp_path / "t{T}.tif") as stack:
        assert stack.warnings == ()
    tifffile.imwrite(tmp_path / "t04.tif", np.zeros((8, 8), np.uint16))
    with pytest.raises(InputError, match="T=04 and T=4 are one number"):
        open_stack(tmp_path / "t{T}.tif")


def counted(folder: Path, states: dict[str, dict[str, Any]]) -> Path:
    """Files {C}_{Z}.tif as OME-TIFF, each of which states what it is given."""
    for name, metadata in states.items():
        stated = dict(metadata)
        options = {"datetime": stated.pop("datetime", None), "software": "scope"}
        tifffile.imwrite(folder / f"{name}.ome.tif", np.zeros((8, 9), np.uint16), photometric="minisblack",
                         metadata={"axes": "YX", **stated}, **options)  # fmt: skip
    return folder / "{C}_{Z}.ome.tif"


def test_what_all_files_state_is_carried_without_a_word(tmp_path: Path) -> None:
    """Names and colours of the channels from the files where the file names only count them."""
    size = {"PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3, "PhysicalSizeZ": 2.0, "datetime": "2024:01:01 00:00:00"}
    path = counted(tmp_path, {
        f"{c}_{z}": {**size, "Channel": {"Name": [name], "Color": [colour]}}
        for c, name, colour in ((1, "DAPI", 65535), (2, "GFP", 16711935)) for z in (0, 1)
    })  # fmt: skip
    with open_stack(path) as stack:
        assert stack.pixel_size_um == {"Z": 2.0, "Y": 0.3, "X": 0.3}
        assert stack.channel_names == ("DAPI", "GFP")
        assert stack.metadata.colours == ("0000FF", "00FF00")
        assert stack.metadata.tiff["text"]["DateTime"] == "2024:01:01 00:00:00"
        assert [line for line in stack.warnings if "files" in line] == ["the files differ in OME-XML; what the first, "
                                                                        "1_0.ome.tif, states is carried"]  # fmt: skip


def test_pixel_sizes_that_differ_are_not_stated_and_named(tmp_path: Path) -> None:
    path = counted(tmp_path, {
        "a_0": {"PhysicalSizeX": 0.3, "PhysicalSizeY": 0.25, "TimeIncrement": 1.0, "datetime": "2024:01:01 00:00:00"},
        "a_1": {"PhysicalSizeX": 0.6, "TimeIncrement": 2.0, "datetime": "2024:01:01 00:00:01"},
    })  # fmt: skip
    with open_stack(path) as stack:
        assert (stack.pixel_size_um, stack.time_step_s) == ({"Y": 0.25}, None)
        assert "the files differ in pixel size along X and time step, so none is stated for the stack" in stack.warnings
        assert "the files differ in OME-XML, DateTime; what the first, a_0.ome.tif, states is carried" in stack.warnings
        assert "PhysicalSizeX" not in stack.metadata.ome_xml
        assert "TimeIncrement" not in stack.metadata.ome_xml
        assert 'PhysicalSizeY="0.25"' in stack.metadata.ome_xml
        with open_writer(tmp_path / "out.ome.tif", like=stack) as writer:
            for index in stack.plane_indices():
                writer.write(index, 0, stack.read(index))
            writer.finish()
            with open_stack(writer.publish()) as found:
                assert found.pixel_size_um == {"Y": 0.25}


def test_plain_planes_with_another_resolution_lose_it(tmp_path: Path) -> None:
    for number, per_cm in enumerate((2e4, 2e4, 4e4)):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros((8, 9), np.uint8), resolution=(per_cm, per_cm),
                         resolutionunit=3, metadata=None)  # fmt: skip
    with open_stack(tmp_path / "{Z}.tif") as stack:
        assert dict(stack.pixel_size_um) == {}
        assert "resolution" not in stack.metadata.tiff
    (tmp_path / "2.tif").unlink()
    with open_stack(tmp_path / "{Z}.tif") as stack:
        assert stack.pixel_size_um == {"Y": 0.5, "X": 0.5}
        assert stack.warnings == ()


# --- vendor files


@pytest.mark.parametrize(("ending", "package"), [("czi", "pylibCZIrw"), ("nd2", "nd2"), ("lif", "liffile")])
def test_a_vendor_file_is_refused_with_what_helps(tmp_path: Path, ending: str, package: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"not really")
    with pytest.raises(InputError, match="is damaged" if find_spec(package) else r"cellxlate\[vendor\]") as caught:
        open_stack(path)
    assert "OME-TIFF" in str(caught.value)
    assert "\n" not in str(caught.value)


CZI_XML = """<ImageDocument><Metadata><Information><Image><Dimensions><Channels><Channel Name="DAPI"/>
<Channel Name="GFP"/></Channels><T><Positions><Interval><Increment>2.5</Increment></Interval></Positions></T>
</Dimensions></Image></Information><Scaling><Items><Distance Id="X"><Value>1e-07</Value></Distance>
<Distance Id="Z"><Value>5e-07</Value></Distance></Items></Scaling></Metadata></ImageDocument>"""


class FakeCzi:
    """Two scenes 100 px apart on one canvas, as Zeiss's reader answers for them."""

    def __init__(self, name: str) -> None:
        self.canvas = np.random.default_rng(0).integers(0, 200, (2, 2, 3, 20, 130, 3)).astype(np.uint8)
        self.scenes_bounding_rectangle = {0: (0, 0, 30, 20), 1: (100, 0, 30, 20)}
        self.total_bounding_box = {"T": (0, 2), "C": (0, 2), "Z": (0, 3), "X": (0, 130), "Y": (0, 20)}
        self.raw_metadata, self.types, self.closed = CZI_XML, ["Bgr24", "Bgr24"], False

    def get_channel_pixel_type(self, channel: int) -> str:
        return self.types[channel]

    def read(self, roi: tuple[int, int, int, int], plane: dict[str, int], scene: int) -> np.ndarray:
        left, top, width, height = roi
        assert left // 100 == scene
        return self.canvas[plane["T"], plane["C"], plane["Z"], top : top + height, left : left + width]

    def close(self) -> None:
        self.closed = True


def fake_czi(monkeypatch: pytest.MonkeyPatch, **stated: Any) -> FakeCzi:
    file = FakeCzi("")
    for name, value in stated.items():
        setattr(file, name, value)
    monkeypatch.setitem(sys.modules, "pylibCZIrw", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pylibCZIrw.czi", SimpleNamespace(CziReader=lambda name: file))
    return file


def test_a_scene_of_a_czi_file_is_read_window_by_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reader in the place of Zeiss's; docs/reference/formats.md says which real files were read."""
    file, path = fake_czi(monkeypatch), tmp_path / "a.czi"
    path.write_bytes(b"czi")
    expected = file.canvas[:, :, :, :, 100:, ::-1]  # stored as blue, green, red
    with open_stack(path, image=1) as stack:
        assert (stack.axes, stack.kind, stack.channel_names, stack.time_step_s) == (
            "TCZYXS", "czi", ("DAPI", "GFP"), 2.5
        )  # fmt: skip
        assert stack.pixel_size_um == {"X": 0.1, "Z": 0.5}
        np.testing.assert_array_equal(np.asarray(stack), expected)
        for sample in range(3):
            window = stack.read((1, 0, 2, sample), slice(3, 7), slice(5, 30, 2))
            np.testing.assert_array_equal(window, expected[1, 0, 2, 3:7, 5:30:2, sample])
        assert "the file holds 2 images, this is number 1" in stack.warnings[0]
        assert not file.closed
    assert file.closed
    with pytest.raises(InputError, match="there is no image 2"):
        open_stack(path, image=2)


def test_what_a_czi_file_must_not_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.czi"
    path.write_bytes(b"czi")
    box = {"T": (0, 1), "C": (0, 2), "Z": (0, 1), "H": (0, 3)}
    for stated, message in (
        ({"types": ["Gray8", "Gray16"]}, "channels are Gray16, Gray8, expected one type"),
        ({"types": ["Gray64Complex"] * 2}, "Gray64Complex"),
        ({"total_bounding_box": box}, "the dimensions H"),
    ):
        file = fake_czi(monkeypatch, **stated)
        with pytest.raises(InputError, match=message):
            open_stack(path)
        assert file.closed


class FakeLif:
    """One image: ten wavelengths, or two channels of an XZ scan."""

    def __init__(self, dims: str) -> None:
        sizes = dict(zip(dims, (2, 10, 20, 30)[-len(dims) :], strict=True))
        self.data = np.random.default_rng(0).integers(0, 200, tuple(sizes.values())).astype(np.uint8)
        frames = SimpleNamespace(frame_sizes={axis: sizes[axis] for axis in dims[-2:]})
        coords = {axis: np.arange(size) * 2e-7 for axis, size in sizes.items()}
        names = [SimpleNamespace(get=lambda key: "Green")]
        image = SimpleNamespace(
            dims=tuple(dims), shape=self.data.shape, dtype=self.data.dtype, frames=frames, coords=coords,
            xml_element=SimpleNamespace(iterfind=lambda way: names),
            frame=lambda **place: self.data[tuple(place[axis] for axis in dims[:-2])],
        )  # fmt: skip
        self.images = [image]

    def __enter__(self) -> "FakeLif":
        return self

    def __exit__(self, *fault: object) -> None:
        pass


@pytest.mark.parametrize(
    ("dims", "asked", "axes"), [("TλYX", None, "TCYX"), ("TZYX", None, "TZYX"), ("TCZX", "TCYX", "TCYX")]
)
def test_images_of_a_lif_file_have_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dims: str, asked: str | None, axes: str
) -> None:
    file = FakeLif(dims)
    monkeypatch.setitem(sys.modules, "liffile", SimpleNamespace(LifFile=lambda path: file))
    (tmp_path / "a.lif").write_bytes(b"lif")
    with open_stack(tmp_path / "a.lif", asked) as stack:
        assert (stack.axes, stack.time_step_s) == (axes, 2e-7)
        assert {stack.pixel_size_um[axis] for axis in "YX"} == {0.2}
        np.testing.assert_array_equal(np.asarray(stack), file.data)
        np.testing.assert_array_equal(stack.read((1, 7), slice(3, 9)), file.data[1, 7, 3:9])
    if asked:
        with pytest.raises(InputError, match="axes TCZX of shape"):
            open_stack(tmp_path / "a.lif")


def test_a_position_of_an_nd2_file_is_a_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask.array

    pixels = np.random.default_rng(0).integers(0, 200, (2, 3, 2, 20, 30)).astype(np.uint16)
    loop = SimpleNamespace(type="TimeLoop", parameters=SimpleNamespace(periodMs=500.0))
    names = [SimpleNamespace(channel=SimpleNamespace(name=name)) for name in ("DAPI", "GFP")]
    file = SimpleNamespace(
        sizes={"T": 2, "P": 3, "C": 2, "Y": 20, "X": 30}, experiment=[loop], metadata=SimpleNamespace(channels=names),
        to_dask=lambda: dask.array.from_array(pixels, (1, 1, 2, 20, 30)),
        voxel_size=lambda: SimpleNamespace(x=0.25, y=0.5, z=0.0), ome_metadata=None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "nd2", SimpleNamespace(ND2File=lambda path: nullcontext(file)))
    (tmp_path / "a.nd2").write_bytes(b"nd2")
    with open_stack(tmp_path / "a.nd2", image=2) as stack:
        assert (stack.axes, stack.channel_names, stack.time_step_s) == ("TCYX", ("DAPI", "GFP"), 0.5)
        assert stack.pixel_size_um == {"Y": 0.5, "X": 0.25}
        np.testing.assert_array_equal(np.asarray(stack), pixels[:, 2])
    with pytest.raises(InputError, match="there is no image 3"):
        open_stack(tmp_path / "a.nd2", image=3)


def test_a_vendor_file_that_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*window: Any, **place: Any) -> None:
        raise RuntimeError("no such\nchunk")

    file = fake_czi(monkeypatch, read=fail)
    (tmp_path / "a.czi").write_bytes(b"czi")
    with pytest.raises(InputError, match=r"its reader cannot read \(no such chunk\).*Fiji") as caught:
        open_stack(tmp_path / "a.czi")
    assert "\n" not in str(caught.value)
    assert file.closed

"""Stacks become lazy, calibrated layers, and layers become files with the same calibration."""

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Image

import cellxlate
from cellxlate.errors import OutputError
from cellxlate.plugin.drawing import OURS
from cellxlate.plugin.files.read import read_layers, reader
from cellxlate.plugin.files.write import write_image, write_images
from cellxlate.stacks.read.resolutions import open_resolutions
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks


def written(folder, name, shape, axes, **options):
    pixels = np.random.default_rng(0).integers(90, 400, shape).astype(np.uint16)
    path = folder / name
    write_stacks([(Stack(pixels, axes, "cells", **options), path)])
    return path, pixels


def opened(path):
    """The layers that napari makes of a path, without a viewer."""
    return [Image(data, **options) for data, options, _ in reader(str(path))(str(path))]


def ome_zarr(path, axes, transformations, **attributes):
    """An OME-Zarr 0.5 image of two channels in which everything is stated."""
    group = zarr.open_group(path, mode="w")
    shape = tuple(range(2, 2 + len(axes)))
    group.create_array("0", data=np.arange(np.prod(shape), dtype=np.uint16).reshape(shape))
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transformations}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image], **attributes}
    return path


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_channels_become_layers_with_names_scale_and_units(tmp_path, ending):
    path, pixels = written(
        tmp_path, f"cells{ending}", (2, 2, 3, 40, 50), "TCZYX",
        pixel_size_um={"Z": 2.0, "Y": 0.5, "X": 0.25}, channel_names=("DNA", "actin"), time_step_s=30.0,
    )  # fmt: skip
    layers = opened(path)
    assert [layer.name for layer in layers] == ["cells DNA", "cells actin"]
    for channel, layer in enumerate(layers):
        assert isinstance(layer.data, dask.array.Array)
        np.testing.assert_allclose(layer.scale, (30.0, 2.0, 0.5, 0.25))
        assert [f"{unit:~}" for unit in layer.units] == ["s", "µm", "µm", "µm"]
        assert layer.axis_labels == ("t", "z", "y", "x")
        assert np.array_equal(np.asarray(layer.data), pixels[:, channel])
        low, high = layer.contrast_limits
        assert 90 <= low < 100
        assert 390 < high < 401


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_a_pyramid_is_read_level_by_level(tmp_path, ending):
    path, pixels = written(tmp_path, f"large{ending}", (2, 1100, 1300), "ZYX", pixel_size_um={"Y": 0.5, "X": 0.5})
    levels = open_resolutions(path)
    assert len(levels) > 1
    assert np.array_equal(np.asarray(levels[0]), pixels)
    assert levels[1].plane_shape == (550, 650)
    assert levels[1].pixel_size_um == pytest.approx({"Y": 1.0, "X": 1.0})
    mean = pixels[1, :64, :64].reshape(32, 2, 32, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(levels[1].read((1,), slice(0, 32), slice(0, 32)), mean, atol=1)
    levels[0].close()
    ((data, options, kind),) = read_layers(str(path))
    layer = Image(data, **options)
    assert kind == "image"
    assert layer.multiscale
    assert np.array_equal(np.asarray(layer.data[0]), pixels)
    assert np.asarray(layer.data[1][1, :32, :32]) == pytest.approx(mean, abs=1)


@pytest.mark.parametrize(
    ("dtype", "samples", "options"),
    [
        *((name, 0, {}) for name in ("bool", "uint8", "uint32", "int8", "int32", "float16", "float32", "float64")),
        ("uint16", 0, {"byteorder": ">"}), ("uint8", 0, {"photometric": "miniswhite"}),
        *(("uint8", count, {"planarconfig": plan}) for count in (2, 3, 4, 5) for plan in ("contig", "separate")),
        *((kind, count, {"planarconfig": "contig"}) for kind in ("uint16", "float32") for count in (2, 3, 4, 5)),
        ("uint8", 4, {"planarconfig": "contig", "photometric": "separated"}),
    ],
)  # fmt: skip
def test_a_tiff_of_any_kind_is_shown_with_the_values_it_has(tmp_path, dtype, samples, options):
    shape = (
        (20, 30) if samples == 0 else (20, 30, samples) if options["planarconfig"] == "contig" else (samples, 20, 30)
    )
    pixels = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    if samples:
        options = {"photometric": "rgb" if samples > 2 else "minisblack", **options}
    tifffile.imwrite(tmp_path / "any.tif", pixels, **options)
    layers = opened(tmp_path / "any.tif")
    if samples and pixels.shape[0] == samples:
        pixels = np.moveaxis(pixels, 0, -1)
    if dtype == "uint8" and samples in (3, 4) and options["photometric"] == "rgb":
        (layer,) = layers
        assert layer.rgb
        assert np.array_equal(np.asarray(layer.data), pixels)
        return
    values = [pixels[..., sample] for sample in range(samples)] if samples else [pixels]
    assert len(layers) == len(values)
    for layer, wanted in zip(layers, values, strict=True):
        assert layer.dtype == pixels.dtype
        assert np.array_equal(np.asarray(layer.data), wanted)
        assert layer.contrast_limits[0] < layer.contrast_limits[1] <= max(1.0, wanted.max())
    opacity = samples == 4 and options["photometric"] == "rgb"
    assert [layer.visible for layer in layers] == [not (opacity and number == 3) for number in range(len(layers))]


def test_colours_of_indices_and_of_white_zeros_are_those_of_the_file(tmp_path):
    indices = np.arange(200, dtype=np.uint8).reshape(10, 20)
    table = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "palette.tif", indices, photometric="palette", colormap=table)
    tifffile.imwrite(tmp_path / "white.tif", indices, photometric="miniswhite")
    (palette,), (white,) = opened(tmp_path / "palette.tif"), opened(tmp_path / "white.tif")
    shown = palette.colormap.map(indices.ravel() / 255)[:, :3]
    np.testing.assert_allclose(shown, table[:, indices.ravel()].T / 65535, atol=1e-3)
    assert palette.contrast_limits == [0, 255]
    assert white.colormap.name == "gray_r"
    assert np.array_equal(np.asarray(white.data), indices)


def test_axes_in_any_order_are_turned_to_rows_and_columns(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 7)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "depth.tif", pixels, metadata={"axes": "YXZ"}, photometric="minisblack")
    (layer,) = opened(tmp_path / "depth.tif")
    assert np.array_equal(np.asarray(layer.data), np.moveaxis(pixels, 2, 0))
    colour = np.random.default_rng(0).integers(0, 255, (2, 2, 20, 30, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "colour.tif", colour, metadata={"axes": "TCYXS"}, photometric="rgb")
    layers = opened(tmp_path / "colour.tif")
    assert [layer.rgb for layer in layers] == [True, True]
    assert np.array_equal(np.asarray(layers[1].data), colour[:, 1])


def test_axes_that_nobody_names_are_shown_and_not_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 20, 30, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "colour.tif", pixels, photometric="rgb")
    tifffile.imwrite(tmp_path / "grey.tif", pixels[..., 0])
    (colour,), (grey,) = opened(tmp_path / "colour.tif"), opened(tmp_path / "grey.tif")
    assert colour.rgb
    assert np.array_equal(np.asarray(colour.data), pixels)
    assert np.array_equal(np.asarray(grey.data), pixels[..., 0])
    assert [label.removeprefix("axis ") for label in grey.axis_labels] == ["-3", "-2", "-1"]  # so napari calls them


def test_what_cannot_be_shown_is_left_to_napari_and_said_in_one_line(tmp_path):
    for name, pixels in (("long", np.zeros((8, 9), np.int64)), ("complex", np.zeros((8, 9), np.complex64))):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    whole = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "cut.tif", whole, compression="zlib")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "cut.tif").read_bytes()[:-900])
    for name in ("long", "complex", "broken", "cut", "missing"):
        with pytest.warns(UserWarning, match="leaves this file to other readers") as said:
            assert reader(str(tmp_path / f"{name}.tif")) is None
        assert "\n" not in str(said[0].message)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "picture.png", "https://host/stack.ome.zarr"):
        assert reader(str(path)) is None
    assert reader([str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]) is None


def test_a_spectrum_stays_one_layer_with_a_slider(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 900, (40, 8, 9)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "spectrum.ome.tif", pixels, metadata={"axes": "CYX"})
    (layer,) = opened(tmp_path / "spectrum.ome.tif")
    assert layer.axis_labels == ("c", "y", "x")
    assert np.array_equal(np.asarray(layer.data), pixels)
    tifffile.imwrite(tmp_path / "samples.tif", pixels, photometric="minisblack", planarconfig="separate")
    with pytest.warns(UserWarning, match="40 samples in each pixel"):
        assert reader(str(tmp_path / "samples.tif")) is None


def test_of_several_images_the_first_is_shown_and_the_others_are_said(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((8, 9), np.uint8))
        file.write(np.zeros((9, 9), np.uint8))
    with pytest.warns(UserWarning, match="holds 2 images"):
        assert len(opened(tmp_path / "two.tif")) == 1


def test_ome_zarr_says_where_it_lies_and_how_its_channels_look(tmp_path):
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space", "unit": "nanometer"},
            {"name": "x", "type": "space"}]  # fmt: skip
    moves = [{"type": "scale", "scale": [1.0, 500.0, 0.25]}, {"type": "translation", "translation": [0.0, 2000.0, -3]}]
    windows = [{"start": 1, "end": 9, "min": 0, "max": 99}, {"start": 5, "end": 5, "min": 0, "max": 99}]
    colours = ["FF0000", "FF8000"]
    channels = [
        {"label": f"stain {number}", "color": colours[number], "active": number == 1, "window": windows[number]}
        for number in range(2)
    ]
    first, second = opened(ome_zarr(tmp_path / "said.ome.zarr", axes, moves, omero={"channels": channels}))
    for layer in (first, second):
        np.testing.assert_allclose(layer.scale, (0.5, 0.25))
        np.testing.assert_allclose(layer.translate, (2.0, -3.0))
        assert [str(unit) for unit in layer.units] == ["micrometer", "pixel"]
    assert (first.name, second.name) == ("said stain 0", "said stain 1")
    assert (first.visible, second.visible) == (False, True)
    assert (first.colormap.name, second.colormap.name) == ("red", "#ff8000")
    assert first.contrast_limits == [1, 9]
    assert second.contrast_limits[0] < second.contrast_limits[1]  # an empty window is none


def test_hidden_channels_are_shown_where_all_are_hidden_and_equal_colours_are_none(tmp_path):
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    channels = [{"color": "FFFFFF", "active": False, "window": {"start": 0, "end": 9, "min": 0, "max": 9}}] * 2
    scale = [{"type": "scale", "scale": [1.0, 0.0, float("inf")]}]
    layers = opened(ome_zarr(tmp_path / "hidden.zarr", axes, scale, omero={"channels": channels}))
    assert [layer.visible for layer in layers] == [True, True]
    assert [layer.colormap.name for layer in layers] == ["gray", "green"]
    np.testing.assert_allclose(layers[0].scale, (1.0, 1.0))


def test_ome_xml_and_imagej_say_where_they_lie_and_in_which_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 20, 30)).astype(np.uint8)
    planes = {"PositionX": [70.0] * 6, "PositionY": [-8.0] * 6, "PositionXUnit": ["µm"] * 6}
    planes |= {"PositionYUnit": ["mm"] * 6, "PositionZ": [9.0, 11, 13] * 2, "PositionZUnit": ["µm"] * 6}
    tifffile.imwrite(
        tmp_path / "stage.ome.tif", pixels,
        metadata={
            "axes": "CZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0, "Plane": planes,
            "Channel": {"Name": ["DNA", "actin"], "Color": [-16776961, 16711935]},
        },
    )  # fmt: skip
    first, second = opened(tmp_path / "stage.ome.tif")
    np.testing.assert_allclose(first.translate, (9.0, -8000.0, 70.0))
    assert (first.name, second.name) == ("stage DNA", "stage actin")
    assert (first.colormap.name, second.colormap.name) == ("red", "green")
    table = np.stack([np.arange(256)[::-1]] * 3).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "ij.tif", pixels[:1, 0], imagej=True, resolution=(2, 2),
        metadata={"axes": "CYX", "unit": "um", "xorigin": 4, "yorigin": -6, "LUTs": [table], "Ranges": [3.0, 90.0]},
    )  # fmt: skip
    (inverted,) = opened(tmp_path / "ij.tif")
    np.testing.assert_allclose(inverted.translate[-2:], (3.0, -2.0))
    np.testing.assert_allclose(inverted.colormap.colors[[0, -1], :3], [[1, 1, 1], [0, 0, 0]])
    assert inverted.contrast_limits == [3, 90]


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_a_layer_is_written_with_axes_and_pixel_size_and_comes_back(tmp_path, ending):
    pixels = np.random.default_rng(1).integers(0, 9, (4, 30, 40)).astype(np.int16)
    layer = Image(pixels, scale=(5.0, 400, 0.3), units=("um", "nm", "um"), axis_labels=("z", "y", "x"))
    data, attributes, _ = layer.as_layer_data_tuple()
    path = str(tmp_path / f"out{ending}")
    assert write_image(path, data, attributes) == [path]
    with cellxlate.open_stack(path) as stack:
        assert (stack.axes, stack.dtype) == ("ZYX", np.int16)
        assert stack.pixel_size_um == pytest.approx({"Z": 5.0, "Y": 0.4, "X": 0.3})
        assert np.array_equal(np.asarray(stack), pixels)
    assert write_image(str(tmp_path / "out.png"), data, attributes) == []


PLACED = {"scale": (2.0, 0.5, 0.25), "translate": (10.0, -5.0, 3.5), "units": ("um", "um", "um"),
          "axis_labels": ("z", "y", "x")}  # fmt: skip


def same(one, other):
    """Whether two layers look alike and lie in one place."""
    np.testing.assert_allclose(other.scale, one.scale)
    np.testing.assert_allclose(other.translate, one.translate)
    names = ["name", "units", "rgb", "opacity", "gamma", "blending", "visible"]
    names += [] if one.rgb else ["contrast_limits"]
    assert {name: getattr(other, name) for name in names} == {name: getattr(one, name) for name in names}
    assert other.colormap.name == one.colormap.name
    assert np.array_equal(np.asarray(other.data), np.asarray(one.data))


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize(
    "look",
    [
        {"name": "my cells", "colormap": "viridis", "opacity": 0.4, "gamma": 0.7, "blending": "additive",
         "contrast_limits": (3, 700), **PLACED},
        {"colormap": "#ff8000", "contrast_limits": (0, 9), "axis_labels": ("t", "y", "x"),
         "scale": (30.0, 0.5, 0.5), "units": ("s", "um", "um"), "translate": (60.0, 0.0, 1.0)},
        {"scale": (2.0, -0.5, 0.25), "translate": (1, 2, 3), "axis_labels": ("z", "y", "x")},
    ],
)  # fmt: skip
def test_a_layer_comes_back_as_it_was(tmp_path, ending, look):
    layer = Image(np.random.default_rng(0).integers(0, 900, (3, 20, 30)).astype(np.uint16), **look)
    data, attributes, _ = layer.as_layer_data_tuple()
    (path,) = write_image(str(tmp_path / f"out{ending}"), data, attributes)
    (again,) = opened(path)
    same(layer, again)
    assert again.axis_labels == layer.axis_labels


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_a_layer_in_colour_comes_back_as_it_was(tmp_path, ending):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 4)).astype(np.uint8)
    layer = Image(pixels, rgb=True, name="stain", scale=(0.5, 0.5), translate=(7, 8), units=("um", "um"))
    data, attributes, _ = layer.as_layer_data_tuple()
    (again,) = opened(*write_image(str(tmp_path / f"out{ending}"), data, attributes))
    same(layer, again)


def test_affine_steps_are_taken_along_and_turns_are_said_to_be_lost(tmp_path):
    pixels = np.zeros((20, 30), np.uint8)
    moved = Image(pixels, affine=np.array([[2, 0, 5], [0, 3, 7], [0, 0, 1.0]]), scale=(0.5, 0.5), translate=(1, 1))
    data, attributes, _ = moved.as_layer_data_tuple()
    (again,) = opened(*write_image(str(tmp_path / "moved.ome.tif"), data, attributes))
    np.testing.assert_allclose(again.scale, (1.0, 1.5))
    np.testing.assert_allclose(again.translate, (7.0, 10.0))
    data, attributes, _ = Image(pixels, rotate=30, name="turned").as_layer_data_tuple()
    with pytest.warns(UserWarning, match="turned is rotated or sheared"):
        write_image(str(tmp_path / "turned.ome.tif"), data, attributes)


def test_layers_of_one_kind_become_channels_and_come_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 900, (2, 3, 20, 30)).astype(np.uint16)
    looks = [{"name": "DNA", "colormap": "red", "contrast_limits": (2, 800)},
             {"name": "actin", "colormap": "magma", "contrast_limits": (1, 9), "visible": False}]  # fmt: skip
    layers = [Image(data, **look, **PLACED) for data, look in zip(pixels, looks, strict=True)]
    path = str(tmp_path / "both.ome.tif")
    assert write_images(path, [layer.as_layer_data_tuple() for layer in layers]) == [path]
    for layer, again in zip(layers, opened(path), strict=True):
        same(layer, again)
    with cellxlate.open_stack(path) as stack:
        assert (stack.axes, stack.channel_names) == ("CZYX", ("DNA", "actin"))
    (tmp_path / "renamed.ome.tif").write_bytes((tmp_path / "both.ome.tif").read_bytes())
    assert [layer.name for layer in opened(tmp_path / "renamed.ome.tif")] == ["renamed DNA", "renamed actin"]


def test_layers_that_no_file_can_hold_are_refused_in_one_line(tmp_path, viewer):
    pixels = np.zeros((20, 30), np.uint8)
    first, path = Image(pixels, name="one"), str(tmp_path / "no.ome.tif")
    others = {
        "differ in shape": Image(pixels[:9], name="two"),
        "differ in type": Image(pixels.astype(np.float32), name="two"),
        "lie in different places": Image(pixels, name="two", translate=(0, 1)),
        "is in colour": Image(np.zeros((20, 30, 3), np.uint8), name="two", rgb=True),
    }
    for words, other in others.items():
        with pytest.raises(OutputError, match=words) as caught:
            write_images(path, [first.as_layer_data_tuple(), other.as_layer_data_tuple()])
        assert "\n" not in str(caught.value)
    for dtype, words in (("bool", "save it as .ome.zarr"), ("int64", "pixels are int64")):
        data, attributes, _ = Image(pixels.astype(dtype)).as_layer_data_tuple()
        with pytest.raises(OutputError, match=words):
            write_image(path, data, attributes)
    assert list(tmp_path.iterdir()) == []


def test_napari_finds_reader_and_writers(tmp_path, viewer):
    from napari.plugins import _initialize_plugins

    _initialize_plugins()
    path, pixels = written(tmp_path, "cells.ome.tif", (3, 40, 50), "ZYX", pixel_size_um={"Z": 2.0, "Y": 0.5, "X": 0.5})
    (layer,) = viewer.open(str(path), plugin="cellxlate")
    assert np.array_equal(np.asarray(layer.data), pixels)
    saved = layer.save(str(tmp_path / "again.ome.tif"), plugin="cellxlate")
    assert saved == [str(tmp_path / "again.ome.tif")]
    with cellxlate.open_stack(saved[0]) as stack:
        assert stack.pixel_size_um == pytest.approx({"Z": 2.0, "Y": 0.5, "X": 0.5})
        assert np.array_equal(np.asarray(stack), pixels)
    viewer.add_image(pixels[::-1], name="other", scale=layer.scale, units=layer.units, axis_labels=layer.axis_labels)
    assert viewer.layers.save(str(tmp_path / "both.ome.tiff"), plugin="cellxlate") == [str(tmp_path / "both.ome.tiff")]
    assert len(viewer.open(str(tmp_path / "both.ome.tiff"), plugin="cellxlate")) == 2
    viewer.layers[-1].data = viewer.layers[-1].data[:2]
    with pytest.raises(OutputError, match="differ in shape"):  # napari passes it on, where it hides a ValueError
        viewer.layers[-2:].save(str(tmp_path / "no.ome.tif"), plugin="cellxlate")


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_attention_of_a_result_that_is_in_view_is_hidden_and_else_it_is_shown(tmp_path, viewer, monkeypatch, ending):
    monkeypatch.setattr("napari.current_viewer", lambda: viewer)
    made, attention = tmp_path / f"cells_enhanced{ending}", tmp_path / f"cells_attention{ending}"
    pixels = np.arange(1200, dtype=np.uint8).reshape(30, 40)
    write_stacks([(Stack(pixels, "YX", "cells"), path) for path in (made, attention)])
    alone, image = opened(attention)[0], opened(made)[0]
    assert alone.visible
    assert alone.colormap.name == "attention viridis"
    assert list(alone.contrast_limits) == [0, 255]
    assert "viridis" not in image.colormap.name
    viewer._add_layer_from_data(*reader(str(made))(str(made))[0])
    viewer.layers[0]._source = type(viewer.layers[0].source)(path=str(made))
    beside = opened(attention)[0]
    assert not beside.visible
    assert OURS in beside.metadata
    viewer.layers[0].visible = False
    assert opened(attention)[0].visible

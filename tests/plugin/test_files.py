"""Stacks become lazy, calibrated layers, and layers become files with the same calibration."""

import dask.array
import numpy as np
import pytest
import tifffile
from napari.layers import Image

import cellxlate
from cellxlate.plugin.files import read_layers, reader, write_image
from cellxlate.stacks.read.resolutions import open_resolutions
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks


def written(folder, name, shape, axes, **options):
    pixels = np.random.default_rng(0).integers(90, 400, shape).astype(np.uint16)
    path = folder / name
    write_stacks([(Stack(pixels, axes, "cells", **options), path)])
    return path, pixels


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_channels_become_layers_with_names_scale_and_units(tmp_path, ending):
    path, pixels = written(
        tmp_path, f"cells{ending}", (2, 2, 3, 40, 50), "TCZYX",
        pixel_size_um={"Z": 2.0, "Y": 0.5, "X": 0.25}, channel_names=("DNA", "actin"), time_step_s=30.0,
    )  # fmt: skip
    assert reader(str(path)) is read_layers
    layers = [Image(data, **options) for data, options, _ in read_layers(str(path))]
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


def test_what_napari_reads_well_is_left_to_it(tmp_path):
    plain = tmp_path / "plain.tif"
    tifffile.imwrite(plain, np.zeros((8, 9), np.uint8))
    (tmp_path / "folder").mkdir()
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0nothing")
    for path in (plain, tmp_path / "folder", broken, tmp_path / "missing.tif", tmp_path / "picture.png"):
        assert reader(str(path)) is None
    assert reader([str(plain), str(plain)]) is None


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


def test_napari_finds_reader_and_writer(tmp_path, viewer):
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

"""From layers to stacks: axes, pixel size, lazy pixels; and where results lie."""

import dask.array
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from cellxlate.errors import InputError
from cellxlate.plugin.layers import appearance, layer_axes, layer_stack, plane_stack, visible_plane


@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((8, 9), {}, "YX"),
        ((3, 8, 9), {}, "ZYX"),
        ((2, 3, 8, 9), {}, "TZYX"),
        ((2, 2, 3, 8, 9), {}, "TCZYX"),
        ((8, 9, 3), {"rgb": True}, "YXS"),
        ((3, 8, 9), {"axis_labels": ("t", "y", "x")}, "TYX"),
        ((3, 8, 9), {"axis_labels": ("channel", "row", "column")}, "CYX"),
        ((8, 9, 3), {"axis_labels": ("y", "x", "z"), "rgb": False}, "YXZ"),
        ((3, 8, 9), {"axis_labels": ("left", "y", "x")}, "ZYX"),
        ((3, 8, 9), {"axis_labels": ("y", "y", "x")}, "ZYX"),
    ],
)
def test_axes_are_those_of_the_labels_or_the_usual_ones(shape, options, axes):
    layer = Image(np.zeros(shape, np.uint8), **options)
    assert layer_axes(layer) == axes
    assert layer_stack(layer).axes == axes


def test_six_dimensions_need_axes_from_the_user():
    layer = Image(np.zeros((1, 1, 1, 1, 8, 9), np.uint8), name="odd")
    with pytest.raises(InputError, match="odd has 6 dimensions"):
        layer_stack(layer)


def test_units_become_micrometres_and_pixels_do_not():
    layer = Image(np.zeros((4, 8, 9), np.uint8), scale=(2, 400, 0.5), units=("um", "nm", "um"))
    assert layer_stack(layer).pixel_size_um == pytest.approx({"Z": 2.0, "Y": 0.4, "X": 0.5})
    assert layer_stack(Image(np.zeros((8, 9), np.uint8), scale=(2, 2))).pixel_size_um == {}


def test_lazy_pixels_are_read_plane_by_plane():
    read = []

    def block(block_info=None):
        read.append(block_info[None]["chunk-location"][0])
        return np.full((1, 8, 9), block_info[None]["chunk-location"][0], np.uint16)

    lazy = dask.array.map_blocks(block, chunks=((1,) * 50, 8, 9), dtype=np.uint16)
    stack = layer_stack(Image(lazy, contrast_limits=(0, 50)))
    read.clear()
    assert (stack.read((7,)) == 7).all()
    assert read == [7]


def test_a_multiscale_layer_is_taken_at_full_resolution():
    pyramid = [np.arange(64 * 64, dtype=np.uint16).reshape(64, 64), np.zeros((32, 32), np.uint16)]
    assert np.array_equal(layer_stack(Image(pyramid, multiscale=True)).read(()), pyramid[0])


def test_pixels_are_not_read_after_a_stop():
    def check():
        raise KeyError("stopped")

    stack = layer_stack(Image(np.zeros((8, 9), np.uint8)), check=check)
    with pytest.raises(KeyError):
        stack.pixels[0:1]


def test_the_visible_plane_follows_scale_and_translation_and_ends_at_the_stack():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((5, 4, 8, 9), np.uint8), scale=(3, 2, 1, 1), translate=(30, 0, 0, 0))
    stack = layer_stack(layer)
    assert visible_plane(layer, stack, (36, 4, 0, 0)) == (2, 2)
    assert visible_plane(layer, stack, (0, 999, 0, 0)) == (0, 3)
    assert visible_plane(layer, stack, (7, 36, 4, 0, 0)) == (2, 2)  # a viewer with one more dimension


def test_a_plane_lies_where_it_lay_in_the_stack():
    layer = Image(
        np.zeros((5, 8, 9), np.uint8), scale=(3, 0.5, 0.5), translate=(10, 20, 30), affine=np.diag([1, 2, 2, 1])
    )
    of_plane = Image(np.zeros((1, 8, 9), np.uint8), **appearance(layer, "ZYX", (4,)).placement)
    for corner in ((0, 0), (7, 8)):
        assert of_plane.data_to_world((0, *corner)) == pytest.approx(layer.data_to_world((4, *corner)))


def test_a_plane_of_a_colour_stack_keeps_its_samples():
    data = np.arange(3 * 8 * 9 * 3, dtype=np.uint8).reshape(3, 8, 9, 3)
    plane = plane_stack(layer_stack(Image(data, rgb=True)), (1,))
    assert plane.axes == "YXS"
    assert np.array_equal(np.asarray(plane), data[1])

"""Input against result: blink, swipe, difference, report."""

import json
from pathlib import Path

import dask.array
import numpy as np
import pytest

from cellxlate.plugin.compare import comparison as comparing
from cellxlate.plugin.compare import volume
from cellxlate.plugin.compare import widget as compare_widget
from cellxlate.plugin.compare.comparison import difference_steps, subtract
from cellxlate.plugin.compare.volume import VolumeView
from cellxlate.plugin.enhance.choices import THIS_PLANE, TO_A_FILE

from .conftest import ramp

PLACE = {"scale": (2.0, 0.5, 0.25), "translate": (1.0, 20.0, 30.0), "units": ("um",) * 3}


@pytest.fixture
def enhanced(viewer, panel, spin):
    """A stack and its result."""
    layer = viewer.add_image(ramp((3, 70, 90)), name="cells", **PLACE)
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    assert len(viewer.layers) == 3, panel.state.value
    viewer.dims.set_current_step(0, 1)
    return layer, viewer.layers[1]


def test_blink_shows_input_and_result_in_turns_and_puts_both_back(viewer, panel, enhanced, spin, monkeypatch):
    monkeypatch.setattr(comparing, "BLINK_MS", 20)
    before, after = enhanced
    seen = set()
    panel.compare.mode.value = "blink"
    spin(lambda: seen.add((before.visible, after.visible, panel.compare.state.value)) or len(seen) > 1)
    assert seen == {(True, False, "Now: the input."), (False, True, "Now: the result.")}
    panel.compare.mode.value = "off"
    assert before.visible
    assert after.visible
    assert panel.compare.state.value == ""


@pytest.mark.parametrize("lazy", [False, True])
def test_swipe_covers_the_result_with_the_input_left_of_the_line(viewer, panel, enhanced, spin, lazy):
    before, _ = enhanced
    pixels = before.data
    if lazy:
        before.data = dask.array.from_array(pixels, chunks=(1, 70, 90))
    panel.compare.mode.value = "swipe"
    compare = panel.compare.comparison
    spin(lambda: compare.is_settled and len(viewer.layers) == 4)
    cover = viewer.layers[-1]
    assert cover.data.shape == (70, 45)
    assert np.array_equal(cover.data[:, :-1], pixels[1, :, :44])  # the last column is the line
    assert cover.data_to_world((3, 4)) == pytest.approx(before.data_to_world((1, 3, 4))[1:])
    assert list(cover.contrast_limits) == list(before.contrast_limits)
    panel.compare.position.value = 0.8
    assert cover.data.shape == (70, 72)
    panel.compare.position.value = 0.0
    assert not cover.visible
    panel.compare.position.value = 0.5
    viewer.dims.set_current_step(0, 2)
    spin(lambda: compare.is_settled and np.array_equal(cover.data[:, :-1], pixels[2, :, :44]))
    assert before in panel.image_layer.choices
    assert cover not in panel.image_layer.choices
    panel.compare.mode.value = "off"
    assert cover not in viewer.layers


def test_comparing_ends_when_a_layer_is_removed_and_does_not_begin_without_a_result(viewer, panel, enhanced, spin):
    panel.compare.mode.value = "swipe"
    spin(lambda: len(viewer.layers) == 4)
    viewer.layers.remove(enhanced[1])
    assert panel.compare.mode.value == "off"
    assert [layer.name for layer in viewer.layers] == ["cells", "cells attention"]
    panel.compare.mode.value = "blink"
    assert panel.compare.mode.value == "off"
    assert "Enhance something first" in panel.compare.state.value


def seen(viewer):
    """What the viewer shows, and how."""
    camera = getattr(viewer, "scene", viewer).camera
    looks = [(layer.visible, layer.blending, layer.opacity, layer.rendering) for layer in viewer.layers]
    return (
        viewer.dims.ndisplay, viewer.dims.order, viewer.dims.current_step, looks, camera.zoom,
        *np.round((*camera.center, *camera.angles), 9),
    )  # fmt: skip


def test_the_result_and_its_attention_are_seen_in_3d_and_nothing_else_and_all_is_put_back(viewer, panel, enhanced):
    before, after = enhanced
    other = viewer.add_image(ramp((3, 70, 90)), name="another", **PLACE)
    attention = viewer.layers[2]
    was = seen(viewer)
    for leave in (lambda: setattr(panel.compare.mode, "value", "off"), lambda: setattr(viewer.dims, "ndisplay", 2)):
        panel.compare.mode.value = "3-D"
        assert viewer.dims.ndisplay == 3
        assert [layer for layer in viewer.layers if layer.visible] == [after, attention]
        assert (after.rendering, attention.rendering, attention.blending) == ("mip", "mip", "additive")
        assert attention.opacity < 0.5
        assert np.array_equal(after.scale, PLACE["scale"])
        assert np.array_equal(attention.scale, PLACE["scale"])
        assert "its attention, brightest along the view" in panel.compare.state.value
        assert "not to scale" not in panel.compare.state.value
        leave()
        assert seen(viewer) == was
        assert panel.compare.mode.value == "off"
        assert panel.compare.state.value == ""
    assert before.visible
    assert other.visible


def test_3d_ends_with_its_layers_and_shows_what_is_left(viewer, panel, enhanced):
    viewer.layers.remove(viewer.layers[2])
    panel.compare.mode.value = "3-D"
    assert panel.compare.state.value.startswith("The result, brightest along the view")
    viewer.layers.remove(enhanced[1])
    assert (panel.compare.mode.value, viewer.dims.ndisplay) == ("off", 2)
    assert enhanced[0].visible


def test_3d_wants_depth_and_says_so_where_there_is_none(viewer, panel, spin):
    viewer.add_image(ramp((3, 70, 90)), name="cells")
    panel.scope.value = THIS_PLANE
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    panel.compare.mode.value = "3-D"
    assert (panel.compare.mode.value, viewer.dims.ndisplay) == ("off", 2)
    assert "3-D needs planes in depth" in panel.compare.state.value


def test_depth_that_does_not_lie_before_rows_and_columns_is_shown_as_depth(viewer):
    pixels = ramp((4, 2, 70, 90))
    layer = viewer.add_image(pixels, name="cells", axis_labels=("z", "c", "y", "x"))
    shown = VolumeView(viewer, lambda: None)
    assert "Depth is not to scale" in shown.enter(layer, None, "ZCYX")
    assert viewer.dims.order == (1, 0, 2, 3)
    shown.leave()
    assert viewer.dims.order == (0, 1, 2, 3)


def test_no_more_is_loaded_for_3d_than_memory_allows(viewer, monkeypatch):
    reads = []

    def lazy(shape):
        return dask.array.zeros(shape, chunks=(1, *shape[1:]), dtype="uint16").map_blocks(
            lambda block: reads.append(block.shape) or block, dtype="uint16", meta=np.empty(0, "uint16")
        )

    whole = [viewer.add_image(lazy((64, 4096, 4096)), contrast_limits=(0, 1), visible=False)]
    reads.clear()
    assert "In 3-D this would take 2.1 GB, at most 0.3 GB are shown." in volume.why_no_volume(whole, "ZYX")
    levels = [lazy((64, side, side)) for side in (4096, 2048, 1024)]
    pyramid = viewer.add_image(levels, multiscale=True, contrast_limits=(0, 1), visible=False)
    reads.clear()
    assert volume.volume_shape(pyramid, "ZYX") == (64, 1024, 1024)
    assert volume.why_no_volume([pyramid], "ZYX") == ""
    assert reads == []
    assert "the coarsest resolution: each pixel stands for 4 x 4 of the image" in volume._words(pyramid, None, "ZYX")
    monkeypatch.setattr(volume, "MOST_BYTES", 1000)
    assert "written to a file" in volume.why_no_volume([viewer.add_image(ramp((3, 70, 90)))], "ZYX")
    assert "Split RGB" in volume.why_no_volume([viewer.add_image(ramp((3, 70, 90, 3), "uint8"), rgb=True)], "ZYXS")


def test_the_difference_is_what_the_result_adds(viewer, panel, enhanced, spin):
    before, after = enhanced
    panel.compare.difference_button.click()
    spin(lambda: len(viewer.layers) == 4)
    layer = viewer.layers[-1]
    assert np.array_equal(layer.data, after.data.astype(float) - before.data.astype(float))
    assert (layer.data[viewer.layers[2].data == 0] == 0).all()
    assert layer.contrast_limits[0] == -layer.contrast_limits[1]
    np.testing.assert_array_equal(layer.scale, before.scale)
    clear = layer.colormap.map(np.array([0.0, 0.5, 1.0]))
    assert clear[1, 3] == 0
    assert (clear[[0, 2], 3] == 1).all()


def test_the_difference_of_one_plane_lies_on_that_plane(viewer, panel, enhanced, spin):
    before, _ = enhanced
    panel.scope.value = THIS_PLANE
    panel.image_layer.value = before
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    panel.compare.difference_button.click()
    spin(lambda: len(viewer.layers) == 6)
    layer, plane = viewer.layers[-1], viewer.layers[3]
    assert np.array_equal(layer.data[0], plane.data[0].astype(float) - before.data[1].astype(float))
    assert layer.data_to_world((0, 3, 4)) == pytest.approx(before.data_to_world((1, 3, 4)))


def test_large_differences_are_lazy_and_the_same(monkeypatch):
    before, after = ramp((3, 70, 90)), ramp((3, 70, 90), seed=4)
    now = subtract(before, after, "ZYX")
    monkeypatch.setattr(comparing, "DIFFERENCE_NOW_PX", 100)
    lazy = subtract(before, after, "ZYX")
    assert isinstance(lazy, dask.array.Array)
    assert np.array_equal(np.asarray(lazy), now)
    assert now.max() > 0 > now.min()
    colour = subtract(ramp((70, 90, 3), "uint8"), ramp((70, 90, 3), "uint8", seed=1), "YXS")
    assert np.asarray(colour).shape == (70, 90)
    (found,) = difference_steps((before, after, "ZYX", (2,)))
    assert 0 < found.limit <= np.abs(now[2]).max()


@pytest.mark.parametrize("to_a_file", [False, True])
def test_the_report_opens_from_the_panel(viewer, panel, spin, tmp_path, monkeypatch, to_a_file):
    opened = []
    monkeypatch.setattr(
        compare_widget.QDesktopServices, "openUrl", lambda url: opened.append(Path(url.toLocalFile())) or True
    )
    viewer.add_image(ramp((2, 70, 90)), name="cells")
    assert not panel.compare.report_button.enabled
    if to_a_file:
        panel.destination.value, panel.file.value = TO_A_FILE, tmp_path / "out.ome.tif"
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    panel.compare.report_button.click()
    spin(lambda: opened)
    (page,) = opened
    assert "cells" in page.read_text(encoding="utf-8")
    if to_a_file:
        assert page == tmp_path / "out_report.html"
    else:
        assert json.loads(page.with_suffix(".json").read_text())["kept_violations"] == 0


def test_a_written_pyramid_arrives_as_lazy_multiscale_layers(viewer, panel, spin, tmp_path):
    viewer.add_image(ramp((1100, 1300)), name="large")
    panel.destination.value, panel.file.value = TO_A_FILE, tmp_path / "out.ome.zarr"
    panel.enhance_button.click()
    spin(lambda: not panel.is_running, 60)
    assert len(viewer.layers) == 3, panel.state.value
    for layer in viewer.layers[1:]:
        assert layer.multiscale
        assert isinstance(layer.data[0], dask.array.Array)
        assert [level.shape for level in layer.data][:2] == [(1100, 1300), (550, 650)]
    panel.compare.mode.value = "swipe"
    spin(lambda: panel.compare.comparison.is_settled)
    panel.compare.mode.value = "off"

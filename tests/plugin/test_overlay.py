"""The live preview of attention: what would be written, computed once, at the visible plane alone."""

import threading

import numpy as np
import pytest

import cellxlate
from cellxlate.model.engines.engine import EngineTranslator
from cellxlate.plugin import drawing
from cellxlate.plugin.drawing import outline_of, with_contour
from cellxlate.plugin.preview import cache as previewing
from cellxlate.plugin.preview import steps as attending
from cellxlate.plugin.preview.cache import AttentionCache
from cellxlate.settings import EnhanceSettings

from .conftest import ramp

PLACE = {
    "scale": (2.0, 0.5, 0.25),
    "translate": (1.0, 20.0, 30.0),
    "units": ("um",) * 3,
    "axis_labels": ("z", "y", "x"),
}


@pytest.fixture
def runs(monkeypatch):
    """Notes every run of a network: its thread, and whether it is the generator."""
    noted = []
    quick = EngineTranslator._run

    def run(self, network, images):
        noted.append((threading.current_thread(), network is self._generator))
        return quick(self, network, images)

    monkeypatch.setattr(EngineTranslator, "_run", run)
    return noted


def settle(panel, spin):
    preview = panel.attention
    spin(lambda: not (preview._update_timer.isActive() or preview.is_running or preview._draw_timer.isActive()))


@pytest.fixture
def shown(viewer, panel, spin, runs):
    """A stack with the preview on."""
    viewer.add_image(ramp((3, 70, 90)), name="cells", **PLACE)
    panel.preview.value = True
    settle(panel, spin)
    yield viewer.layers[1]
    panel.preview.value = False


def written(layer, tiny_model, threshold=0.1):
    return cellxlate.enhance(
        layer.data, tiny_model, axes="ZYX", settings=EnhanceSettings(threshold=threshold), engine="torch"
    ).attention


def at(viewer, layer, plane):
    viewer.dims.set_point(0, layer.data_to_world((plane, 0, 0))[0])


def test_shows_what_an_enhancement_would_write(viewer, panel, shown, spin, tiny_model):
    layer = viewer.layers[0]
    expected = written(layer, tiny_model)
    for plane in (0, 2, 1):
        at(viewer, layer, plane)
        settle(panel, spin)
        assert np.array_equal(shown.data, with_contour(expected[plane]))
        assert np.array_equal(shown.data > 0, expected[plane] > 0)
        assert shown.data_to_world((5, 6)) == pytest.approx(layer.data_to_world((plane, 5, 6))[1:])
        share = (expected[plane] > 0).mean()
        assert f"{share:.1%} of this plane, {share * 70 * 90 * 0.125:,.0f} µm²" in panel.selected.value
    assert 0 < share < 1


def test_the_threshold_is_applied_without_running_attention_again(viewer, panel, shown, spin, runs, tiny_model):
    ran = len(runs)
    for threshold in (0.5, 0.9, 0.0):
        panel.threshold.value = threshold
        share = float(panel.selected.value.split("%")[0]) / 100  # at once
        settle(panel, spin)
        expected = written(viewer.layers[0], tiny_model, threshold)[1]
        assert np.array_equal(shown.data, with_contour(expected))
        assert share == pytest.approx((expected > 0).mean(), abs=0.0006)
        del runs[ran:]  # those of `written`
        panel.threshold.value = 0.33
        settle(panel, spin)
        assert len(runs) == ran


def test_runs_attention_alone_once_per_plane_and_off_the_main_thread(viewer, panel, shown, spin, runs):
    for plane in (2, 0, 2, 0, 1):
        at(viewer, viewer.layers[0], plane)
        settle(panel, spin)
    assert len(runs) == 3
    assert not any(is_generator for _, is_generator in runs)
    assert threading.main_thread() not in [thread for thread, _ in runs]


def test_the_contour_lies_inside_what_is_selected():
    square = np.zeros((6, 7), np.uint8)
    square[1:5, 1:6] = 255
    expected = square.copy()
    expected[2:4, 2:5] = 254
    assert np.array_equal(with_contour(square), expected)
    assert outline_of(square > 0).sum() == 14


def test_scrolling_on_while_levels_are_measured_measures_them_once(viewer, panel, spin, runs, monkeypatch, tiny_model):
    made, waiting = [], threading.Event()
    plan = attending.make_plan

    def slow_plan(*arguments, **options):
        made.append(arguments)
        assert waiting.wait(20)
        return plan(*arguments, **options)

    monkeypatch.setattr(attending, "make_plan", slow_plan)
    layer = viewer.add_image(ramp((3, 70, 90)), name="cells", **PLACE)
    panel.preview.value = True
    spin(lambda: made)
    at(viewer, layer, 2)
    spin(lambda: not panel.attention._update_timer.isActive())
    waiting.set()
    settle(panel, spin)
    assert len(made) == 1
    assert len(runs) <= 2  # the plane that is visible now, and at most one block of the one it began with
    del runs[:]
    assert np.array_equal(viewer.layers[1].data, with_contour(written(layer, tiny_model)[2]))
    panel.preview.value = False


def test_new_pixels_are_computed_afresh(viewer, panel, shown, spin, tiny_model):
    layer = viewer.layers[0]
    layer.data = ramp((3, 70, 90), seed=8)[..., ::-1].copy()
    settle(panel, spin)
    assert np.array_equal(viewer.layers[1].data, with_contour(written(layer, tiny_model)[1]))


def test_is_no_image_to_enhance_and_leaves_the_selection(viewer, panel, shown):
    assert panel.image_layer.choices == (viewer.layers[0],)
    assert viewer.layers.selection.active is viewer.layers[0]


def test_switching_off_and_removing_its_layers_ends_it(viewer, panel, shown, spin):
    panel.preview.value = False
    assert [layer.name for layer in viewer.layers] == ["cells"]
    assert panel.selected.value == ""
    panel.preview.value = True
    settle(panel, spin)
    assert len(viewer.layers) == 2
    viewer.layers.remove(viewer.layers[1])
    assert panel.preview.value is False
    assert [layer.name for layer in viewer.layers] == ["cells"]
    panel.preview.value = True
    viewer.layers.clear()
    settle(panel, spin)
    assert len(viewer.layers) == 0


def test_two_blocks_meet_without_a_seam_and_large_planes_are_drawn_coarser(
    viewer, panel, spin, monkeypatch, tiny_model
):
    monkeypatch.setattr(previewing, "SHOWN_PX", 100_000)
    layer = viewer.add_image(ramp((600, 700)), name="large", scale=(2, 3), translate=(5, 7))
    panel.preview.value = True
    settle(panel, spin)
    drawn = viewer.layers[1]
    expected = cellxlate.enhance(layer.data, tiny_model, engine="torch").attention[::3, ::3]
    assert np.array_equal(drawn.data, with_contour(expected))
    assert drawn.data_to_world((10, 10)) == pytest.approx(layer.data_to_world((31, 31)))
    panel.preview.value = False


def test_only_the_blocks_that_are_visible_are_computed(viewer, panel, spin, runs):
    layer = viewer.add_image(ramp((1500, 600)), name="tall")
    layer.corner_pixels = np.array([[0, 0], [400, 400]])
    panel.preview.value = True
    settle(panel, spin)
    assert len(runs) == 1
    assert "seen so far" in panel.selected.value
    layer.corner_pixels = np.array([[0, 0], [1499, 599]])
    panel.attention.update()
    settle(panel, spin)
    assert len(runs) == 6
    assert "of this plane" in panel.selected.value
    panel.preview.value = False


def test_colour_images_show_the_largest_of_their_samples(viewer, panel, spin, tiny_model):
    data = np.stack([ramp((70, 90), "uint8", seed) for seed in range(3)], -1)
    viewer.add_image(data, name="colour")
    panel.preview.value = True
    settle(panel, spin)
    expected = cellxlate.enhance(data, tiny_model, axes="YXS", engine="torch").attention.max(-1)
    assert np.array_equal(viewer.layers[1].data, with_contour(expected))
    panel.preview.value = False


def test_the_cursor_reads_attention(viewer, panel, shown, tiny_model):
    from types import SimpleNamespace

    layer = viewer.layers[0]
    view = panel.attention._view
    (callback,) = [one for one in viewer.mouse_move_callbacks if getattr(one, "__self__", None) is panel.attention]
    callback(viewer, SimpleNamespace(position=layer.data_to_world((1, 20, 80))))
    assert f"under the cursor {view.attention.steps[20, 80] / 1024:.2f}" in panel.selected.value
    callback(viewer, SimpleNamespace(position=layer.data_to_world((1, -20, 80))))
    assert "cursor" not in panel.selected.value


def test_the_cache_forgets_what_was_not_seen_for_longest(monkeypatch):
    monkeypatch.setattr(previewing, "CACHE_BYTES", 250)
    cache = AttentionCache()
    first, second = cache.plane("a", (10, 5)), cache.plane("b", (10, 5))  # 100 bytes each
    assert cache.plane("a", (10, 5)) is first
    cache.plane("c", (10, 5))
    assert cache.plane("a", (10, 5)) is first
    assert cache.plane("b", (10, 5)) is not second


def test_attention_is_drawn_in_viridis_with_kept_pixels_clear_and_the_contour_in_pink():
    from napari.utils.colormaps import AVAILABLE_COLORMAPS

    ours, viridis = drawing.attention_colormap(), AVAILABLE_COLORMAPS["viridis"]
    grey = np.linspace(0, 1, 256)
    np.testing.assert_allclose(ours.map(grey)[1:], viridis.map(grey)[1:], atol=1e-6)
    over = drawing.overlay_colormap().map(np.arange(256) / 255)
    np.testing.assert_allclose(over[255], (*drawing.CONTOUR_RGB, 1.0), atol=1e-6)
    np.testing.assert_allclose(over[254, :3], viridis.map(np.array([1.0]))[0, :3], atol=1e-6)
    assert ours.map(np.array([0.0]))[0, 3] == over[0, 3] == 0
    assert 0 < over[1, 3] < 1


def test_estimates_come_first_on_large_stacks_and_give_way_to_the_attention_of_the_run(
    viewer, panel, spin, monkeypatch, tiny_model
):
    monkeypatch.setattr(attending, "ESTIMATE_FROM_PX", 100)
    waiting = threading.Event()
    plan = attending.make_plan

    def slow_plan(*arguments, **options):
        assert waiting.wait(20)
        return plan(*arguments, **options)

    monkeypatch.setattr(attending, "make_plan", slow_plan)
    data = np.concatenate([ramp((1, 70, 90)), 9 * ramp((2, 70, 90))])  # its levels are not those of one plane
    layer = viewer.add_image(data, name="cells", **PLACE)
    panel.preview.value = True
    spin(lambda: "a first estimate" in panel.selected.value and len(viewer.layers) == 2)
    estimated = viewer.layers[1].data.copy()
    waiting.set()
    settle(panel, spin)
    assert "estimate" not in panel.selected.value
    plane = round(layer.world_to_data(viewer.dims.point)[0])
    expected = with_contour(written(layer, tiny_model)[plane])
    assert np.array_equal(viewer.layers[1].data, expected)
    assert not np.array_equal(estimated, expected)
    assert panel.selected.value.startswith(f"{(expected > 0).mean():.1%} of this plane")
    panel.preview.value = False


def test_the_panel_module_does_not_load_torch():
    import subprocess
    import sys

    code = "import sys, cellxlate.plugin.enhance.widget; print('torch' in sys.modules, 'zarr' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False False"

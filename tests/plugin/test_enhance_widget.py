"""The `Enhance cells` panel, driven as a macro would drive it, on the model of a viewer without a window."""

import re
import shutil
import sys
import threading
import time
from pathlib import Path

import dask.array
import numpy as np
import pytest
from qtpy.compat import isalive
from qtpy.QtCore import QEvent

import cellxlate
from cellxlate.model import cards
from cellxlate.model.engines.engine import EngineTranslator
from cellxlate.plugin.enhance.choices import IN_MEMORY, THIS_PLANE, TO_A_FILE
from cellxlate.plugin.enhance.widget import EnhanceWidget
from cellxlate.plugin.models import SHELF

from .conftest import ramp

PLACE = {
    "scale": (2.0, 0.5, 0.25),
    "translate": (1.0, 20.0, 30.0),
    "units": ("um",) * 3,
    "axis_labels": ("z", "y", "x"),
}
SHOWN = {"contrast_limits": (70.0, 250.0), "colormap": "magenta", "gamma": 0.8}


def add_stack(viewer, shape=(3, 70, 90), **options):
    return viewer.add_image(ramp(shape), **{"name": "cells", **PLACE, **SHOWN, **options})


def run(panel, spin):
    panel.enhance_button.click()
    assert panel.is_running, panel.state.value
    spin(lambda: not panel.is_running)


@pytest.fixture
def slow(monkeypatch):
    """Networks that take 50 ms a call more than they do."""
    quick = EngineTranslator._run

    def slowly(self, network, images):
        time.sleep(0.05)
        return quick(self, network, images)

    monkeypatch.setattr(EngineTranslator, "_run", slowly)


def test_two_layers_arrive_that_lie_and_look_like_the_input(viewer, panel, spin):
    layer = add_stack(viewer)
    run(panel, spin)
    assert [one.name for one in viewer.layers] == ["cells", "cells enhanced", "cells attention"]
    _, enhanced, attention = viewer.layers
    for made in (enhanced, attention):
        np.testing.assert_array_equal(made.scale, layer.scale)
        np.testing.assert_array_equal(made.translate, layer.translate)
        assert made.units == layer.units
        assert made.axis_labels == layer.axis_labels
    assert list(enhanced.contrast_limits) == list(layer.contrast_limits)
    assert enhanced.colormap.name == "magenta"
    assert enhanced.gamma == 0.8
    assert enhanced.visible
    assert not attention.visible  # what is seen first is the image
    assert viewer.layers.selection.active is enhanced
    assert attention not in panel.image_layer.choices
    assert "viridis" in attention.colormap.name
    assert (attention.data.dtype, enhanced.data.dtype) == (np.uint8, layer.data.dtype)
    assert panel.state.value.startswith("Done in")


def test_the_pixels_are_those_of_the_library_and_kept_ones_are_the_inputs_own(viewer, panel, spin, tiny_model):
    layer = add_stack(viewer)
    panel.threshold.value = 0.3
    run(panel, spin)
    enhanced, attention = viewer.layers[1].data, viewer.layers[2].data
    settings = cellxlate.settings.EnhanceSettings(threshold=0.3)
    expected = cellxlate.enhance(layer.data, tiny_model, axes="ZYX", settings=settings, engine="torch")
    assert np.array_equal(enhanced, expected.image)
    assert np.array_equal(attention, expected.attention)
    kept = attention == 0
    assert 0 < kept.mean() < 1
    assert enhanced[kept].tobytes() == layer.data[kept].tobytes()


def test_one_plane_is_that_plane_of_the_whole_stack(viewer, panel, spin):
    layer = add_stack(viewer)
    run(panel, spin)
    whole = viewer.layers[1].data
    viewer.dims.set_point(0, layer.data_to_world((2, 0, 0))[0])
    panel.scope.value = THIS_PLANE
    panel.image_layer.value = layer
    run(panel, spin)
    plane = viewer.layers[3]
    assert plane.data.shape == (1, 70, 90)
    assert np.array_equal(plane.data[0], whole[2])
    assert plane.data_to_world((0, 3, 4)) == pytest.approx(layer.data_to_world((2, 3, 4)))


def test_one_plane_of_a_drifting_movie_has_the_levels_of_its_own_time(viewer, panel, spin):
    movie = ramp((5, 128, 160)) + 90 * np.arange(5, dtype=np.uint16)[:, None, None]
    viewer.add_image(movie, name="cells", axis_labels=("t", "y", "x"))
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    whole = viewer.layers[1].data
    assert any("drifts over time" in text for text in viewer.layers[1].metadata["cellxlate"]["warnings"])
    panel.scope.value = THIS_PLANE
    viewer.dims.set_current_step(0, 3)
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    assert np.array_equal(viewer.layers[3].data[0], whole[3])
    assert not np.array_equal(whole[3], movie[3])


def test_one_plane_of_one_channel_takes_the_levels_of_that_channel(viewer, panel, spin):
    data = np.stack([ramp((70, 90)), 10 * ramp((70, 90), seed=1)])
    layer = viewer.add_image(data, name="cells", axis_labels=("c", "y", "x"))
    run(panel, spin)
    whole = viewer.layers[1].data
    viewer.dims.set_point(0, 1)
    panel.scope.value, panel.image_layer.value = THIS_PLANE, layer
    run(panel, spin)
    assert np.array_equal(viewer.layers[3].data[0], whole[1])
    assert not np.array_equal(whole[1], data[1])


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_a_file_is_written_and_opened_lazily(viewer, panel, spin, tmp_path, ending):
    layer = add_stack(viewer)
    panel.destination.value = TO_A_FILE
    panel.file.value = tmp_path / f"out{ending}"
    run(panel, spin)
    enhanced, attention = viewer.layers[1:]
    assert isinstance(enhanced.data, dask.array.Array)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"out{ending}", f"out_attention{ending}", "out_report.html", "out_report.json"]
    )
    kept = np.asarray(attention.data) == 0
    assert np.array_equal(np.asarray(enhanced.data)[kept], layer.data[kept])
    with cellxlate.open_stack(tmp_path / f"out{ending}") as written:
        assert written.pixel_size_um == pytest.approx({"Z": 2.0, "Y": 0.5, "X": 0.25})
    panel.image_layer.value = layer
    run(panel, spin)
    assert "exists already" in panel.state.value
    assert "Replace existing files" in panel.state.value
    assert "--" not in panel.state.value
    assert len(viewer.layers) == 3
    panel.overwrite.value = True
    run(panel, spin)
    assert len(viewer.layers) == 5


@pytest.mark.parametrize("destination", [IN_MEMORY, TO_A_FILE])
def test_cancel_in_the_middle_leaves_no_layer_and_no_file(viewer, panel, spin, tmp_path, slow, destination):
    add_stack(viewer, (40, 70, 90))
    panel.destination.value = destination
    panel.file.value = tmp_path / "out.ome.tif"
    panel.enhance_button.click()
    spin(lambda: panel.progress.value > 0)
    if destination == TO_A_FILE:
        assert list(tmp_path.iterdir())
    pressed = time.monotonic()
    panel.cancel_button.click()
    spin(lambda: not panel.is_running)
    assert time.monotonic() - pressed < 1.0
    assert panel.state.value.startswith("Cancelled")
    assert panel.enhance_button.enabled
    assert len(viewer.layers) == 1
    assert list(tmp_path.iterdir()) == []


def test_cancel_ends_within_a_layer_of_a_network(viewer, panel, spin, monkeypatch):
    from torch import nn

    def slow_layer(self, images):
        time.sleep(0.2)
        return convolve(self, images)

    convolve = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", slow_layer)
    add_stack(viewer, (1, 70, 90))
    panel.enhance_button.click()
    spin(lambda: "levels" not in panel.state.value or time.sleep(0.3) is None)
    pressed = time.monotonic()
    panel.cancel_button.click()
    spin(lambda: not panel.is_running)
    assert time.monotonic() - pressed < 1.0  # all layers together take longer
    assert panel.state.value.startswith("Cancelled")


def test_an_old_file_survives_a_cancelled_replacement(viewer, panel, spin, tmp_path, slow):
    add_stack(viewer, (40, 70, 90))
    old = tmp_path / "out.ome.tif"
    old.write_bytes(b"old")
    panel.destination.value, panel.file.value, panel.overwrite.value = TO_A_FILE, old, True
    panel.enhance_button.click()
    spin(lambda: panel.progress.value > 0)
    panel.cancel_button.click()
    spin(lambda: not panel.is_running)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ome.tif"]
    assert old.read_bytes() == b"old"


def test_removing_the_layer_during_a_run_does_no_harm(viewer, panel, spin, slow):
    add_stack(viewer, (6, 70, 90))
    panel.enhance_button.click()
    spin(lambda: panel.progress.value > 0)
    viewer.layers.clear()
    spin(lambda: not panel.is_running)
    assert [layer.name for layer in viewer.layers] == ["cells enhanced", "cells attention"]
    np.testing.assert_array_equal(viewer.layers[0].scale, PLACE["scale"])


def test_layers_are_added_on_the_main_thread_while_the_networks_run_on_another(viewer, panel, spin, monkeypatch):
    added, computed = [], []
    run_networks = EngineTranslator._run

    def noted(self, network, images):
        computed.append(threading.current_thread())
        return run_networks(self, network, images)

    monkeypatch.setattr(EngineTranslator, "_run", noted)
    viewer.layers.events.inserted.connect(lambda _: added.append(threading.current_thread()))
    add_stack(viewer)
    run(panel, spin)
    assert added == [threading.main_thread()] * 3
    assert computed
    assert threading.main_thread() not in computed


def test_provenance_and_warnings_travel_with_the_layers(viewer, panel, spin):
    add_stack(viewer)
    panel.threshold.value = 1.0
    run(panel, spin)
    assert "attention selected nothing" in panel.notes.value
    assert "--threshold" not in panel.notes.value
    for layer in viewer.layers[1:]:
        record = layer.metadata["cellxlate"]
        assert record["model"]["name"] == "tiny"
        assert record["provenance"]["settings"]["threshold"] == 1.0
        assert record["warnings"]
    assert np.array_equal(viewer.layers[1].data, viewer.layers[0].data)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (np.zeros((8, 9), np.int64), {}, "int64"),
        (np.zeros((1, 1, 1, 1, 8, 9), np.uint8), {}, "6 dimensions"),
    ],
)
def test_what_cannot_be_enhanced_is_said_in_the_panel(viewer, panel, data, options, said):
    viewer.add_image(data, **options)
    panel.enhance_button.click()
    assert not panel.is_running
    assert said in panel.state.value
    assert "\n" not in panel.state.value


def test_axes_can_be_written_into_the_panel(viewer, panel, spin):
    viewer.add_image(ramp((2, 70, 90)), name="cells")
    panel.axes.value = "cyx"
    assert list(panel.channel.choices) == [-1, 0, 1]
    panel.channel.value = 1
    run(panel, spin)
    enhanced, attention = viewer.layers[1].data, viewer.layers[2].data
    assert not attention[0].any()
    assert attention[1].any()
    assert np.array_equal(enhanced[0], viewer.layers[0].data[0])
    panel.axes.value = "zz"
    panel.enhance_button.click()
    assert "axes" in panel.state.value.lower()


def test_a_damaged_model_is_said_in_the_panel(viewer, panel, spin, tiny_model, tmp_path):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    (broken / "weights.safetensors").write_bytes(b"")
    add_stack(viewer)
    panel.model_choice.value = broken
    run(panel, spin)
    assert "weights.safetensors" in panel.state.value
    assert len(viewer.layers) == 1


def test_a_failure_of_torch_is_said_in_the_panel(viewer, panel, spin, monkeypatch):
    def fail(self, network, images):
        raise RuntimeError("CUDA out of\nmemory")

    monkeypatch.setattr(EngineTranslator, "_run", fail)
    add_stack(viewer)
    run(panel, spin)
    assert "CUDA out of memory" in panel.state.value
    panel.preview.value = True
    spin(lambda: "CUDA out of memory" in panel.selected.value)
    assert len(viewer.layers) == 1


def test_colour_images_come_back_in_colour(viewer, panel, spin):
    data = np.stack([ramp((70, 90), "uint8", seed) for seed in range(3)], -1)
    layer = viewer.add_image(data, name="colour", scale=(2, 3))
    run(panel, spin)
    enhanced, attention = viewer.layers[1:]
    assert enhanced.rgb
    assert enhanced.data.shape == data.shape
    assert attention.data.shape == data.shape[:2]
    np.testing.assert_array_equal(attention.scale, layer.scale)
    kept = attention.data == 0
    assert kept.any()
    assert np.array_equal(enhanced.data[kept], data[kept])


def test_lazy_and_multiscale_layers_give_the_same_pixels(viewer, panel, spin):
    data = ramp((2, 70, 90))
    results = []
    for made in (data, dask.array.from_array(data, chunks=(1, 70, 90)), [data, data[:, ::2, ::2]]):
        viewer.layers.clear()
        viewer.add_image(made, multiscale=isinstance(made, list))
        run(panel, spin)
        results.append(np.asarray(viewer.layers[1].data))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_says_what_is_missing(viewer, tiny_model):
    panel = EnhanceWidget(viewer)
    assert "Open an image" in panel.state.value
    assert not panel.enhance_button.enabled
    add_stack(viewer)
    if panel.model_choice.value is None:
        assert "model" in panel.state.value
    panel.model_choice.value = tiny_model
    assert panel.state.value == ""
    assert panel.enhance_button.enabled
    panel.close()


def test_a_model_of_this_session_is_offered_in_every_panel(viewer, panel, tiny_model, tmp_path):
    other = EnhanceWidget(viewer)
    folder = shutil.copytree(tiny_model, tmp_path / "fresh")
    SHELF.add(folder)
    for one in (panel, other):
        assert str(folder) in one.model_choice.choices
        assert "fresh" in [one.model_choice.native.itemText(place) for place in range(len(one.model_choice))]
    assert panel.model_choice.value == str(tiny_model)
    panel.model_folder.value = tmp_path
    assert "no model folder" in panel.state.value
    other.close()


def test_the_choice_of_layer_survives_renaming_and_others_coming_and_going(viewer, panel):
    first = add_stack(viewer)
    chosen = viewer.add_image(ramp((70, 90)), name="chosen")
    panel.image_layer.value = chosen
    panel.axes.value = "yx"
    chosen.name = "renamed"
    viewer.layers.remove(first)
    viewer.add_labels(np.zeros((8, 9), np.uint8))
    assert panel.image_layer.value is chosen
    assert panel.axes.value == "yx"
    assert panel.image_layer.choices == (chosen,)


def test_panels_of_two_viewers_do_not_meet(viewer, panel, spin, tiny_model):
    from napari.components import ViewerModel

    second = ViewerModel()
    other = EnhanceWidget(second)
    other.model_choice.value, other.engine.value = tiny_model, "torch"
    layers = [add_stack(one, (2, 70, 90), name=name) for one, name in ((viewer, "first"), (second, "second"))]
    assert [one.image_layer.choices for one in (panel, other)] == [(layers[0],), (layers[1],)]
    panel.enhance_button.click()
    other.enhance_button.click()
    spin(lambda: not panel.is_running and not other.is_running)
    assert [layer.name for layer in viewer.layers] == ["first", "first enhanced", "first attention"]
    assert [layer.name for layer in second.layers] == ["second", "second enhanced", "second attention"]
    assert np.array_equal(viewer.layers[1].data, second.layers[1].data)
    other.close()


def test_rows_that_do_not_apply_are_not_shown(panel):
    assert not panel.file.visible
    assert not panel.notes.visible
    panel.destination.value = TO_A_FILE
    assert panel.file.native.isVisibleTo(panel.native)
    assert not panel.engine.native.isVisibleTo(panel.native)
    panel.more.value = True
    assert panel.engine.native.isVisibleTo(panel.native)


def test_a_closed_panel_ends_its_run_and_listens_no_more(application, viewer, tiny_model, spin, slow):
    panel = EnhanceWidget(viewer)
    panel.model_choice.value = tiny_model
    add_stack(viewer, (40, 70, 90))
    panel.enhance_button.click()
    worker = panel.runs.worker
    panel.native.deleteLater()
    application.sendPostedEvents(panel.native, QEvent.Type.DeferredDelete)
    closed = time.monotonic()
    spin(lambda: not worker.is_running)
    assert time.monotonic() - closed < 1.0
    assert not panel.is_running
    viewer.layers.clear()
    add_stack(viewer)
    assert len(viewer.layers) == 1


def test_a_panel_that_was_closed_at_once_does_not_get_ready(application, viewer, tiny_model):
    panel = EnhanceWidget(viewer)
    assert panel._warm_timer.isActive()
    panel.native.deleteLater()
    application.sendPostedEvents(panel.native, QEvent.Type.DeferredDelete)
    assert not isalive(panel._warm_timer)
    panel._warm_up()  # had its timer been due already
    assert panel._warming is None


@pytest.mark.display
def test_in_a_window_the_sample_is_enhanced_by_one_press(application, spin, tiny_model):
    import napari

    shown = napari.Viewer(show=True)
    try:
        (layer,) = shown.open_sample("cellxlate", "nuclei")
        _, panel = shown.window.add_plugin_dock_widget("cellxlate", "Enhance cells")
        panel.model_choice.value = tiny_model
        run(panel, spin)
        _, enhanced, attention = shown.layers
        for made in (enhanced, attention):
            np.testing.assert_array_equal(made.scale, layer.scale)
            assert made.units == layer.units
        spin(lambda: shown.screenshot(canvas_only=True, flash=False)[..., :3].std() > 5)
    finally:
        shown.close()


@pytest.mark.display
def test_the_menus_open_the_panel_and_the_preview(application, spin, tiny_model):
    import napari
    from napari._app_model import get_app_model
    from packaging.version import Version

    if Version(napari.__version__) < Version("0.7"):
        pytest.skip("older napari names the commands of plugins otherwise")
    SHELF.add(tiny_model)
    shown = napari.Viewer(show=True)
    try:
        app = get_app_model()
        for menu, command in (
            ("napari/layers/filter", "cellxlate.enhance_widget"),
            ("napari/layers/visualize", "cellxlate.preview_attention"),
        ):
            assert command in [item.command.id for item in app.menus.get_menu(menu) if hasattr(item, "command")]
        app.commands.execute_command("cellxlate.enhance_widget")
        assert list(shown.window.dock_widgets) == ["Enhance cells (cellxlate)"]
        shown.add_image(ramp((70, 90)), name="first")
        chosen = shown.add_image(ramp((70, 90)), name="chosen")
        shown.add_image(ramp((70, 90)), name="last")
        shown.layers.selection.active = chosen
        app.commands.execute_command("cellxlate.preview_attention")
        spin(lambda: len(shown.layers) == 4)
        assert shown.window.dock_widgets["Enhance cells (cellxlate)"].image_layer.value == chosen
    finally:
        shown.close()


@pytest.mark.display
def test_the_python_of_the_page_runs(application, spin, tiny_model, tmp_path, monkeypatch):
    import napari

    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "napari.md"
    found, script, _ = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    shutil.copytree(tiny_model, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    names = {}
    try:
        exec(compile(script, str(page), "exec"), names)
        spin(lambda: not names["panel"].is_running)
        warnings = eval(found.strip(), {"viewer": names["viewer"]})
    finally:
        napari.Viewer.close_all()
    assert warnings
    assert all(isinstance(text, str) for text in warnings)


@pytest.mark.display
def test_closing_the_window_ends_what_runs(application, spin, tiny_model, slow):
    import napari

    shown = napari.Viewer(show=True)
    add_stack(shown, (40, 70, 90))
    _, panel = shown.window.add_plugin_dock_widget("cellxlate", "Enhance cells")
    panel.model_choice.value = tiny_model
    panel.preview.value = True
    spin(lambda: panel.attention.is_running)
    panel.enhance_button.click()
    spin(lambda: panel.progress.value > 0)
    workers = panel.runs.worker, panel.attention._worker
    shown.close()
    application.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert not panel.is_running
    assert not any(worker.is_running for worker in workers)


def test_auto_is_offered_first_and_names_the_model_it_takes(viewer, spin, tmp_path, monkeypatch):
    shutil.copytree(cards.SHIPPED / "nuclei-lowexp", tmp_path / "nuclei-lowexp")
    monkeypatch.setattr(cards, "SHIPPED", tmp_path)  # the only one
    panel = EnhanceWidget(viewer)
    assert panel.model_choice.choices[0] == panel.model_choice.value == "auto"
    panel.engine.value = "torch"
    add_stack(viewer, (1, 128, 128))
    panel.preview.value = True
    spin(lambda: "; model nuclei-lowexp" in panel.selected.value)
    run(panel, spin)
    assert "Model nuclei-lowexp: no shipped model fits, this one is nearest (distance " in panel.state.tooltip
    assert "no other shipped model is nearer" in panel.notes.value
    assert "press 'Adapt to this image', or train on your own images with the panel 'Train" in panel.notes.value
    assert "--" not in panel.notes.value
    viewer.layers.selection.active = None
    report = viewer.layers["cells enhanced"].metadata["cellxlate"]
    assert report["model"]["considered"] == {"nuclei-lowexp": report["model"]["distance"]}
    panel.model_choice.value = "nuclei-lowexp"
    panel.image_layer.value = viewer.layers["cells"]
    run(panel, spin)
    assert "Model 'auto' takes the nearest." in panel.notes.value
    panel.close()


def test_a_model_is_chosen_for_the_channels_that_are_enhanced(viewer, spin, monkeypatch):
    from cellxlate.plugin.enhance import steps as enhancing
    from cellxlate.plugin.preview import steps as attending

    asked = []

    def note(module, name):
        chosen = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda stack, channels, **more: asked.append([*channels]) or chosen(stack, channels, **more)
        )

    note(attending, "choose")
    note(enhancing, "choose_model")
    panel = EnhanceWidget(viewer)
    panel.engine.value = "torch"
    layer = viewer.add_image(np.stack([ramp((70, 90)), ramp((70, 90), seed=1)]), axis_labels=("c", "y", "x"))
    for scope, channel, expected in (("whole stack", -1, [0, 1]), ("whole stack", 0, [0]), (THIS_PLANE, -1, [1])):
        panel.image_layer.value = layer
        panel.scope.value, panel.channel.value = scope, channel
        viewer.dims.set_point(0, 1)
        asked.clear()
        panel.preview.value = True
        spin(lambda: "; model" in panel.selected.value)
        panel.preview.value = False
        run(panel, spin)
        assert asked == [expected] * 2
    panel.close()


def test_a_refusal_names_the_controls_of_the_panel(viewer, panel, spin, monkeypatch):
    import torch

    add_stack(viewer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    panel.engine.value, panel.device.value = "openvino", "cuda"
    run(panel, spin)
    assert panel.state.value == "Engine 'openvino' runs on the CPU, not on cuda; set Device to 'auto'"


def test_an_engine_that_is_not_installed_is_named_as_the_panel_names_it(viewer, panel, spin, monkeypatch):
    add_stack(viewer)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    panel.engine.value = "onnxruntime"
    run(panel, spin)
    assert panel.state.value == "Engine 'onnxruntime' is not installed; pip install \"cellxlate[onnx]\""


def test_doubts_are_said_in_the_words_of_the_panel(viewer, panel, spin):
    add_stack(viewer)
    panel.threshold.value = 1.0
    run(panel, spin)
    assert "lower Threshold, or use a model" in panel.notes.value
    assert not re.search(r"--[a-z]|threshold=", panel.notes.value)

"""What panels say, offer and hide belongs to what is there now: layers go, others are chosen, panels are closed."""

from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QWidget

from cellxlate.plugin.compare import widget as compare_widget
from cellxlate.plugin.controls import PanelText
from cellxlate.plugin.drawing import OURS
from cellxlate.plugin.enhance.choices import TO_A_FILE
from cellxlate.plugin.enhance.widget import EnhanceWidget

from .conftest import ramp


@pytest.fixture
def enhanced(viewer, panel, spin):
    """An image, its result and its attention."""
    viewer.add_image(ramp((40, 50)), name="cells")
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    assert len(viewer.layers) == 3, panel.state.value
    return list(viewer.layers)


def over_everything(viewer, enhanced):
    """Layers that would hide or colour what is compared, shown; and two that would not."""
    enhanced[2].visible = True
    strokes = viewer.add_labels(np.ones((40, 50), np.uint8), name="strokes", metadata={OURS: True})
    other = viewer.add_image(ramp((40, 50)), name="another image")
    viewer.add_image(ramp((40, 50)), name="another channel", blending="additive")
    viewer.add_points([[3, 4]], name="spots")
    return enhanced[2], strokes, other


@pytest.mark.parametrize("mode", ["blink", "swipe"])
@pytest.mark.parametrize("end", ["off", "result removed", "panel hidden", "image chosen", "preview"])
def test_comparing_hides_what_lies_over_it_and_puts_everything_back(viewer, panel, enhanced, spin, mode, end):
    covering = over_everything(viewer, enhanced)
    enhanced[0].visible = False
    before = {layer.name: layer.visible for layer in viewer.layers}
    panel.compare.mode.value = mode
    spin(lambda: panel.compare.comparison.is_settled)
    assert [layer.visible for layer in covering] == [False] * 3
    assert viewer.layers["another channel"].visible
    assert viewer.layers["spots"].visible
    viewer.layers["spots"].visible = before["spots"] = False  # by the user, who is right
    late = viewer.add_image(ramp((40, 50)), name="late", metadata={OURS: True})
    opened = viewer.add_image(ramp((40, 50)), name="opened meanwhile")
    assert (late.visible, opened.visible) == (False, True)
    if end == "off":
        panel.compare.mode.value = "off"
    elif end == "result removed":
        viewer.layers.remove(enhanced[1])
        del before["cells enhanced"]
    elif end == "panel hidden":
        QApplication.sendEvent(panel.native, QEvent(QEvent.Type.Hide))
    elif end == "image chosen":
        panel.image_layer.value = opened
    else:
        panel.preview.value = True
    assert panel.compare.mode.value == "off"
    shown = {layer.name: layer.visible for layer in viewer.layers if layer.name != "attention preview"}
    assert shown == before | {"late": True, "opened meanwhile": True}


def test_removing_an_overlay_or_an_image_meanwhile_leaves_the_rest_as_it_was(viewer, panel, enhanced, spin):
    attention, strokes, other = over_everything(viewer, enhanced)
    panel.compare.mode.value = "swipe"
    spin(lambda: panel.compare.comparison.is_settled)
    viewer.layers.remove(strokes)
    viewer.layers.remove(other)
    assert panel.compare.mode.value == "swipe"
    assert not attention.visible
    panel.compare.mode.value = "off"
    assert attention.visible
    assert enhanced[0].visible


def test_an_input_above_its_result_does_not_hide_it(viewer, panel, enhanced, spin):
    before, after, _ = enhanced
    viewer.layers.move(0, 2)
    assert viewer.layers.index(before) > viewer.layers.index(after)
    panel.compare.mode.value = "swipe"
    spin(lambda: panel.compare.comparison.is_settled)
    assert (before.visible, after.visible) == (False, True)
    panel.compare.mode.value = "off"
    assert before.visible


def test_a_swipe_shows_the_pixels_that_the_input_has_now(viewer, panel, enhanced, spin):
    panel.compare.mode.value = "swipe"
    spin(lambda: panel.compare.comparison.is_settled)
    enhanced[0].data = ramp((40, 50), seed=5)
    spin(lambda: np.array_equal(viewer.layers[-1].data[:, :10], enhanced[0].data[:, :10]))


def test_buttons_follow_the_layers_that_are_there(viewer, panel, enhanced):
    compare = panel.compare
    controls = compare.mode, compare.difference_button, compare.report_button
    assert all(one.enabled for one in controls)
    assert panel.state.value.startswith("Done in")
    viewer.layers.remove(enhanced[1])
    assert not any(one.enabled for one in controls)
    assert panel.state.value == panel.notes.value == ""
    assert panel.progress.value == 0
    assert panel.results.reported() is None  # nor are its pixels kept


def test_the_report_is_that_of_the_image_that_is_chosen(viewer, panel, enhanced, spin):
    second = viewer.add_image(ramp((30, 36)), name="others")
    panel.image_layer.value = second
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    assert panel.results.reported()[1].appearance.name == "others"
    panel.image_layer.value = enhanced[0]
    assert panel.results.reported()[1].appearance.name == "cells"


def test_another_shape_is_no_input_of_the_result_any_more(viewer, panel, enhanced):
    enhanced[0].data = ramp((20, 25))
    panel.compare.difference_button.click()
    assert "another shape now" in panel.compare.state.value


def test_what_was_done_is_said_for_a_while(viewer, panel, enhanced, spin, monkeypatch):
    monkeypatch.setattr(compare_widget, "BRIEFLY_MS", 30)
    panel.compare.difference_button.click()
    spin(lambda: panel.compare.state.value.startswith("Orange"))
    spin(lambda: panel.compare.state.value == "")


def test_what_was_wrong_is_said_until_something_else_is_asked(viewer, panel):
    viewer.add_image(ramp((40, 50)), name="cells")
    panel.axes.value = "QX"
    panel.enhance_button.click()
    assert "axes" in panel.state.value.lower()
    panel.axes.value = ""
    assert panel.state.value == ""


def test_a_result_is_told_until_another_image_is_chosen(viewer, panel, enhanced):
    panel.threshold.value = 0.3
    assert panel.state.value.startswith("Done in")
    panel.image_layer.value = viewer.add_image(ramp((30, 36)), name="others")
    assert panel.state.value == ""
    assert panel.progress.value == 0


def test_the_area_that_was_selected_goes_with_its_image(viewer, panel, spin):
    viewer.add_image(ramp((40, 50)), name="cells")
    panel.preview.value = True
    spin(lambda: "of this plane" in panel.selected.value)
    viewer.layers.remove("cells")
    spin(lambda: panel.selected.value == "")
    panel.preview.value = False


def test_the_preview_ends_where_the_result_would_cover_it(viewer, panel, spin):
    viewer.add_image(ramp((40, 50)), name="cells")
    panel.preview.value = True
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    assert not panel.preview.value
    assert [layer.name for layer in viewer.layers] == ["cells", "cells enhanced", "cells attention"]


def test_an_empty_field_is_not_the_current_folder(viewer, panel, tiny_model, monkeypatch):
    monkeypatch.chdir(tiny_model)
    chosen = panel.model_choice.value
    panel.model_folder.value = Path("/nowhere")
    panel.model_folder.line_edit.value = ""
    assert panel.model_choice.value == chosen
    assert "no model folder" not in panel.state.value
    viewer.add_image(ramp((40, 50)), name="cells")
    panel.destination.value = TO_A_FILE
    panel.enhance_button.click()
    assert not panel.is_running
    assert "no File is chosen" in panel.state.value


def test_the_field_of_a_folder_is_emptied_where_another_model_is_chosen(panel, tiny_model):
    panel.model_choice.value = "auto"
    panel.model_folder.value = tiny_model
    assert panel.model_choice.value == str(tiny_model)
    panel.model_choice.value = "auto"
    assert panel.model_folder.line_edit.value == ""


def test_a_sample_is_offered_where_there_is_no_image(viewer, panel):
    assert "or a sample" in panel.state.value
    assert not panel.sample_button._explicitly_hidden
    panel.sample_button.click()
    assert panel.image_layer.value is viewer.layers["faint nuclei"]
    assert panel.sample_button._explicitly_hidden
    assert panel.state.value == ""


def test_channels_are_offered_where_there_are_several(viewer, panel):
    assert panel.channel._explicitly_hidden
    viewer.add_image(ramp((2, 40, 50)), name="two", axis_labels=("c", "y", "x"))
    assert not panel.channel._explicitly_hidden


def test_a_panel_whose_x_was_pressed_puts_everything_back_and_ends(viewer, tiny_model, spin, application):
    made, dock = EnhanceWidget(viewer), QWidget()
    made.native.setParent(dock)
    made.model_choice.value, made.engine.value = tiny_model, "torch"
    viewer.add_image(ramp((40, 50)), name="cells")
    made.enhance_button.click()
    spin(lambda: not made.is_running)
    made.preview.value = True
    spin(lambda: not made.attention.is_running and "attention preview" in viewer.layers)
    made.compare.mode.value = "blink"
    destroyed = []
    made.native.destroyed.connect(lambda: destroyed.append(True))
    made.enhance_button.click()
    made.native.setParent(None)  # what napari does

    def gone():
        application.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        return bool(destroyed)

    spin(gone)
    assert [(layer.name, layer.visible) for layer in viewer.layers] == [
        ("cells", True), ("cells enhanced", True), ("cells attention", False),
        ("cells enhanced [1]", True), ("cells attention [1]", False),  # the run that went on was not lost
    ]  # fmt: skip
    viewer.layers.clear()  # nobody listens


def test_a_panel_that_is_shown_elsewhere_at_once_goes_on(viewer, panel, spin):
    first, second = QWidget(), QWidget()
    panel.native.setParent(first)
    panel.native.setParent(None)
    panel.native.setParent(second)
    spin(lambda: not panel._leaving._timer.isActive())
    assert panel.image_layer.value is None
    panel.native.setParent(None)
    panel._leaving._timer.stop()


def test_words_take_no_room_where_there_is_nothing_to_say_and_break_paths(application):
    parent, words = QWidget(), PanelText()
    words.native.setParent(parent)
    words.say("no such folder: /a/very/long_path/without/spaces", "more")
    assert words.value == "no such folder: /a/very/long_path/without/spaces"
    assert words.tooltip == "more"
    assert not words.native.isHidden()
    assert words.native.minimumSizeHint().width() < words.native.fontMetrics().horizontalAdvance("/a/very/long_path/")
    words.say("")
    assert words.native.isHidden()

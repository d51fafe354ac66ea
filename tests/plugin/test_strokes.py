"""Strokes in the panel: the preview follows them, as they stand and not as they came about."""

import numpy as np
import pytest

import cellxlate
from cellxlate.plugin.strokes import controls as stroke_controls
from cellxlate.plugin.strokes import steps as strokes
from cellxlate.training import strokes as learning
from cellxlate.training.fields import spread

from .conftest import ramp


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(learning, "STEPS", 4)
    monkeypatch.setattr(spread, "FITS", 4)
    monkeypatch.setattr(strokes, "FIRST_STEPS", 2)
    monkeypatch.setattr(stroke_controls, "PAUSE_MS", 0)


@pytest.fixture
def painting(viewer, panel, spin):
    """The panel with strokes switched on over an image, and the layer to paint on."""
    viewer.add_image(ramp((64, 96)), name="cells", scale=(0.5, 0.5), units=("um", "um"))
    panel.strokes.switch.value = True
    labels = viewer.layers["strokes on cells"]
    settle(panel, spin)
    yield labels
    panel.strokes.switch.value = panel.preview.value = False


def settle(panel, spin):
    preview, controls = panel.attention, panel.strokes
    spin(
        lambda: (
            not (controls._timer.isActive() or controls.is_running)
            and not (preview._update_timer.isActive() or preview.is_running or preview._draw_timer.isActive())
        )
    )


def paint(labels, label, row):
    labels.selected_label = label
    for column in range(20, 70, 4):
        labels.paint((row, column), label)


def learn(panel, spin, labels):
    paint(labels, 2, 12)
    paint(labels, 1, 50)
    spin(lambda: panel.strokes.model is not None)
    settle(panel, spin)
    return panel.strokes.model


def test_switching_on_gives_a_layer_that_lies_on_the_image_and_the_preview(viewer, panel, painting):
    image = viewer.layers["cells"]
    assert painting.data.shape == image.data.shape
    assert painting.data_to_world((5, 7)) == pytest.approx(image.data_to_world((5, 7)))
    assert painting.mode == "paint"
    assert painting.selected_label == 2
    assert panel.preview.value
    assert painting not in panel.image_layer.layers
    panel.strokes.brush.value = 1
    assert painting.selected_label == 1
    panel.strokes.brush.value = 0
    assert painting.mode == "erase"


def test_strokes_of_one_kind_teach_nothing_and_the_panel_says_what_is_missing(panel, painting, spin):
    paint(painting, 2, 12)
    spin(lambda: "some background" in panel.strokes.state.value)
    assert panel.strokes.model is None
    assert not panel.strokes.save_button.enabled


def test_the_preview_and_the_run_follow_the_strokes(viewer, panel, painting, spin):
    before = panel._previewed().model
    model = learn(panel, spin, painting)
    assert panel._previewed().model == panel._request().model == model != before
    panel.engine.value = "auto"
    assert panel._previewed().engine == "torch"  # no other is compiled after each stroke
    expected = cellxlate.enhance(viewer.layers["cells"].data, model, engine="torch").attention
    assert np.array_equal(viewer.layers["attention preview"].data > 0, expected > 0)
    panel.strokes.switch.value = False
    assert panel._previewed().model == before


def test_undo_equals_never_painted(panel, painting, spin):
    first = learn(panel, spin, painting)
    digest = cellxlate.load_model(first).digest
    paint(painting, 2, 30)
    spin(lambda: panel.strokes.model != first)
    settle(panel, spin)
    while (painting.data[28:33] > 0).any():
        painting.undo()
    spin(lambda: panel.strokes.model == first)
    settle(panel, spin)
    assert cellxlate.load_model(panel.strokes.model).digest == digest
    while painting.data.any():
        painting.undo()
    spin(lambda: panel.strokes.model is None)


def test_a_saved_model_is_offered_and_is_the_one_that_was_seen(panel, painting, spin, tmp_path):
    digest = cellxlate.load_model(learn(panel, spin, painting)).digest
    panel.strokes.save_as.value = tmp_path / "mine"
    panel.strokes.save_button.click()
    saved = cellxlate.load_model(tmp_path / "mine")
    assert saved.digest == digest
    assert saved.card["name"] == "mine"
    assert str(tmp_path / "mine") in panel.model_choice.choices
    panel.strokes.save_button.click()
    assert "exists already" in panel.strokes.state.value


def test_learning_can_be_stopped_and_the_next_stroke_goes_on(monkeypatch, panel, painting, spin):
    monkeypatch.setattr(strokes, "FIRST_STEPS", 100_000)
    paint(painting, 2, 12)
    paint(painting, 1, 50)
    spin(lambda: panel.strokes.is_running)
    assert panel.strokes.cancel_button.enabled
    panel.strokes.cancel_button.click()
    assert not panel.strokes.is_running
    assert panel.strokes.model is None
    monkeypatch.setattr(strokes, "FIRST_STEPS", 2)
    paint(painting, 1, 56)
    spin(lambda: panel.strokes.model is not None)


def test_a_colour_image_is_refused_in_one_line(viewer, panel, spin):
    viewer.add_image(np.zeros((32, 32, 3), np.uint8), name="colour", rgb=True)
    panel.strokes.switch.value = True
    assert "in colour" in panel.strokes.state.value
    panel.strokes.switch.value = panel.preview.value = False


def test_strokes_on_one_channel_of_a_stack(viewer, panel, spin):
    viewer.add_image(ramp((2, 2, 48, 64)), name="cells", axis_labels=("z", "c", "y", "x"))
    panel.strokes.switch.value = True
    assert viewer.layers["strokes on cells"].data.shape == (2, 48, 64)
    panel.strokes.switch.value = panel.preview.value = False


def test_a_stack_too_large_to_be_looked_through_at_each_stroke_is_refused(monkeypatch, viewer, panel):
    monkeypatch.setattr(stroke_controls, "MOST_PX", 1000)
    viewer.add_image(ramp((3, 32, 64)), name="large")
    panel.strokes.switch.value = True
    assert "6144 px" in panel.strokes.state.value
    assert "strokes on large" not in viewer.layers
    panel.strokes.switch.value = panel.preview.value = False


def test_removing_the_strokes_ends_teaching(viewer, panel, spin, painting):
    learn(panel, spin, painting)
    viewer.layers.remove(painting)
    assert not panel.strokes.switch.value
    assert panel.strokes.model is None
    assert not panel.strokes.save_button.enabled
    assert panel.strokes.state.value == ""


def test_strokes_are_found_again_when_their_image_is_chosen_again(viewer, panel, spin, painting):
    taught = learn(panel, spin, painting)
    image = panel.image_layer.value
    panel.image_layer.value = viewer.add_image(ramp((64, 96), seed=4), name="others")
    settle(panel, spin)
    assert panel.strokes.model is None
    others = viewer.layers["strokes on others"]
    others.data = painting.data.copy()  # the same strokes teach another image something else
    panel.strokes.look_again()
    spin(lambda: panel.strokes.model is not None)
    settle(panel, spin)
    assert panel.strokes.model != taught
    panel.image_layer.value = image
    settle(panel, spin)
    assert panel.strokes.model == taught
    assert [layer.name for layer in viewer.layers if layer.name.startswith("strokes")] == [
        "strokes on cells", "strokes on others",
    ]  # fmt: skip


def test_new_pixels_are_learned_anew(viewer, panel, spin, painting):
    taught = learn(panel, spin, painting)
    viewer.layers["cells"].data = ramp((64, 96), seed=9)
    spin(lambda: panel.strokes.model not in (None, taught))
    settle(panel, spin)


def test_an_empty_field_saves_nothing(panel, spin, painting):
    learn(panel, spin, painting)
    panel.strokes.save_as.line_edit.value = ""
    panel.strokes.save_button.click()
    assert "no folder is chosen" in panel.strokes.state.value

"""Whether a model suits the chosen image, told before a run, and adapting it to the image; driven as by a macro."""

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QScrollArea

from cellxlate.enhancement.flow import EnhanceProgress
from cellxlate.model import cards
from cellxlate.plugin.enhance import adapt_steps as adaptation
from cellxlate.plugin.enhance import suitability as looking
from cellxlate.plugin.enhance.widget import EnhanceWidget
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate

from .conftest import ramp


def nuclei(seed=3, size=300):
    """A field like those that `nuclei-lowexp` was trained on."""
    return np.asarray(
        simulate(SampleSettings(shape=(1, 1, 1, size, size), cell_fraction=0.2, seed=seed)).stack
    ).squeeze()


def something_else():
    plane = nuclei().astype(int)
    return (plane.max() + plane.min() - plane).astype(np.uint16)


@pytest.fixture
def looked(panel, spin):
    """Wait until the panel has an answer."""

    def wait():
        spin(lambda: panel.adapting.domain.suitability is not None)
        return panel.adapting.domain.suitability

    return wait


class FakeAdaptation:
    """Stands for `adapt_stack`: a model that is a copy of the first one, after some news."""

    def __init__(self, kept=True, steps=3, step_s=0.01):
        self.kept, self.steps, self.step_s = kept, steps, step_s
        self.asked: list[Any] = []
        self.threads: list[threading.Thread] = []
        self.done = 0

    def __call__(self, stack, model, *, output, progress, **options):
        self.asked.append({"stack": stack, "model": model, "output": output, **options})
        self.threads.append(threading.current_thread())
        for step in range(self.steps):
            time.sleep(self.step_s)
            self.done += 1
            progress(EnhanceProgress("cells", step, 90, step, "adapting"))
        if self.kept:
            shutil.copytree(cards.locate(model), output)
        reason = "the judge finds it 0.6 ± 0.1 dB better" if self.kept else "the judge finds it 0.1 ± 0.1 dB worse"
        return SimpleNamespace(kept=self.kept, reason=reason)


@pytest.fixture
def fake(monkeypatch):
    def install(**options):
        made = FakeAdaptation(**options)
        monkeypatch.setattr(adaptation, "adapt_stack", made)
        return made

    return install


def adapt(panel, spin):
    panel.adapt_button.click()
    assert panel.is_running, panel.state.value
    spin(lambda: not panel.is_running)


# Whether the model suits the image


def test_a_warning_comes_with_the_choice_of_layer_and_model_and_goes_with_it(viewer, panel, looked):
    panel.model_choice.value = "nuclei-lowexp"
    viewer.add_image(nuclei(), name="near")
    assert not looked().is_outside
    assert panel.adapting.domain.text.value.startswith("Like what nuclei-lowexp was trained on")
    panel.image_layer.value = viewer.add_image(something_else(), name="far")
    assert panel.adapting.domain.text.value == ""  # what was said of the other image is gone at once
    assert looked().is_outside
    line = panel.adapting.domain.text
    assert line.value.startswith("Unlike what nuclei-lowexp was trained on: distance ")
    assert looked().differences[0] in line.tooltip
    panel.image_layer.value = viewer.layers["near"]
    assert not looked().is_outside


def test_auto_is_judged_by_the_model_that_it_takes(viewer, panel, looked):
    panel.model_choice.value = "auto"
    viewer.add_image(nuclei(), name="near")
    assert looked().model in panel.adapting.domain.text.value
    assert looked().model in [folder.name for folder in cards.model_folders(cards.SHIPPED)]


def test_the_channel_that_is_to_be_enhanced_is_judged(viewer, panel, looked):
    panel.model_choice.value = "nuclei-lowexp"
    both = np.stack([nuclei(), something_else()])
    viewer.add_image(both, name="both", axis_labels=("c", "y", "x"))
    assert looked().is_outside
    panel.channel.value = 0
    assert not looked().is_outside
    panel.channel.value = 1
    assert looked().is_outside


def test_new_pixels_are_looked_at(viewer, panel, looked):
    panel.model_choice.value = "nuclei-lowexp"
    layer = viewer.add_image(nuclei(), name="live")
    assert not looked().is_outside
    layer.data = something_else()
    assert looked().is_outside


def test_looking_leaves_the_window_awake_and_a_new_choice_ends_it(viewer, panel, spin, looked, monkeypatch):
    begun, ended, release = [], [], threading.Event()
    look = looking.suitability

    def slowly(stack, channels, model):
        begun.append(threading.current_thread())
        try:
            if stack.name == "slow":
                release.wait(10)
                stack.read(())  # asks whether it is to end
            return look(stack, channels, model)
        finally:
            ended.append(stack.name)

    monkeypatch.setattr(looking, "suitability", slowly)
    panel.model_choice.value = "nuclei-lowexp"
    viewer.add_image(something_else(), name="slow")
    spin(lambda: begun)
    assert threading.main_thread() not in begun
    panel.image_layer.value = viewer.add_image(nuclei(), name="quick")
    assert not looked().is_outside
    release.set()
    spin(lambda: "slow" in ended)
    spin(lambda: not panel.adapting.domain.is_looking)
    assert not looked().is_outside  # the late answer about the other is dropped
    assert panel.adapting.domain.text.value.startswith("Like ")


def test_what_cannot_be_judged_is_no_warning(viewer, panel, spin, looked):
    viewer.add_image(ramp((128, 128)), name="unknown")  # the tiny model tells no domain
    assert not looked().is_outside
    assert panel.adapting.domain.text.value == "What tiny was trained on is not known."
    panel.model_choice.value = "nuclei-lowexp"
    panel.image_layer.value = viewer.add_image(np.full((128, 128), 9, np.uint16), name="blank")
    assert looked().windows == 0
    assert "Nothing stands out" in panel.adapting.domain.text.value


def test_a_panel_that_is_closed_while_it_looks_does_no_harm(application, viewer, tiny_model, spin):
    panel = EnhanceWidget(viewer)
    panel.model_choice.value = tiny_model
    viewer.add_image(ramp((128, 128)))
    spin(lambda: panel.adapting.domain.is_looking)
    worker = panel.adapting.domain._worker
    panel.native.deleteLater()
    application.sendPostedEvents(panel.native, QEvent.Type.DeferredDelete)
    spin(lambda: not worker.is_running)
    viewer.layers.clear()


# Adapting to the image


def test_a_model_that_is_judged_to_be_better_is_kept_chosen_and_shown(viewer, panel, spin, fake, tiny_model):
    made = fake()
    viewer.add_image(ramp((70, 90)), name="cells", scale=(0.5, 0.5), translate=(3, 4))
    panel.adapting.seconds.value = 40
    adapt(panel, spin)
    (asked,) = made.asked
    assert (asked["model"], asked["seconds"], asked["channels"]) == (str(tiny_model), 40.0, (0,))
    assert threading.main_thread() not in made.threads
    folder = Path.cwd() / "cells_model"
    assert panel.model_choice.value == str(folder)
    assert panel.state.value == "Adapted: cells_model is chosen now."
    assert panel.state.tooltip == str(folder)
    assert "0.6 ± 0.1 dB better" in panel.notes.value
    assert panel.adapt_button.enabled
    assert panel.enhance_button.enabled
    assert panel.image_layer.value is viewer.layers["cells"]
    assert [path.name for path in Path.cwd().iterdir()] == ["cells_model"]
    before, after = viewer.layers["cells before adapting"], viewer.layers["cells adapted"]
    for layer in (before, after):  # the same model twice, and the part of the plane is all of it
        np.testing.assert_array_equal(layer.scale, (0.5, 0.5))
        np.testing.assert_array_equal(layer.translate, (3, 4))
    assert panel.compare.mode.value == "swipe"
    spin(lambda: panel.compare.comparison.is_settled)
    assert panel.compare.state.value == "Left of the line: before adapting. Right: the adapted model."
    panel.compare.mode.value = "off"
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)
    np.testing.assert_array_equal(viewer.layers["cells enhanced"].data, after.data)
    np.testing.assert_array_equal(viewer.layers["cells enhanced"].data, before.data)


def test_what_is_not_better_is_said_and_changes_nothing(viewer, panel, spin, fake, tiny_model):
    fake(kept=False)
    viewer.add_image(ramp((70, 90)), name="cells")
    adapt(panel, spin)
    assert panel.state.value == "Not kept; nothing has changed."
    assert panel.notes.value == "The judge finds it 0.1 ± 0.1 dB worse."
    assert panel.model_choice.value == str(tiny_model)
    assert len(viewer.layers) == 1
    assert list(Path.cwd().iterdir()) == []


def test_time_left_is_told_and_cancel_leaves_nothing(viewer, panel, spin, fake, tiny_model):
    made = fake(steps=500)
    viewer.add_image(ramp((70, 90)), name="cells")
    panel.adapt_button.click()
    assert not panel.adapt_button.enabled
    assert not panel.enhance_button.enabled
    spin(lambda: panel.state.value == "Adapting to this image: about 90 s left")
    panel.cancel_button.click()
    pressed = time.monotonic()
    spin(lambda: not panel.is_running)
    assert time.monotonic() - pressed < 1.0
    assert made.done < 500
    assert panel.state.value == "Cancelled. The model is what it was."
    assert panel.model_choice.value == str(tiny_model)
    assert len(viewer.layers) == 1
    assert list(Path.cwd().iterdir()) == []
    assert panel.adapt_button.enabled


def test_the_model_lies_beside_the_image_and_replaces_no_other(viewer, panel, spin, fake, tmp_path):
    fake()
    file = tmp_path / "stack.tif"
    file.write_bytes(b"")
    layer = viewer.add_image(ramp((70, 90)), name="a: b/c")
    layer._source = type(layer._source)(path=str(file))
    for name in ("a b c_model", "a b c_model_2"):
        panel.image_layer.value = layer
        adapt(panel, spin)
        assert panel.model_choice.value == str(tmp_path / name), panel.state.value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b c_model", "a b c_model_2", "stack.tif"]


def test_of_a_large_plane_the_middle_of_what_is_visible_is_shown(viewer, panel, spin, fake, monkeypatch):
    from cellxlate.plugin.enhance import widget as enhance_widget

    monkeypatch.setattr(enhance_widget, "SHOWN_BEFORE_AFTER_PX", 64)
    fake()
    data = np.stack([ramp((128, 160), seed=seed) for seed in range(3)])
    layer = viewer.add_image(data, name="cells", scale=(2, 0.5, 0.5), axis_labels=("z", "y", "x"))
    viewer.dims.set_point(0, 4)
    adapt(panel, spin)
    after = viewer.layers["cells adapted"]
    assert after.data.shape == (1, 64, 64)
    np.testing.assert_allclose(after.data_to_world((0, 0, 0)), layer.data_to_world((2, 32, 48)))
    kept = after.data[0] == data[2, 32:96, 48:112]
    assert 0 < kept.mean() < 1  # the very pixels of that part, where attention keeps them


def test_only_the_chosen_channel_is_learned_from(viewer, panel, spin, fake):
    made = fake(kept=False)
    viewer.add_image(np.stack([ramp((70, 90)), ramp((70, 90), seed=1)]), axis_labels=("c", "y", "x"))
    adapt(panel, spin)
    panel.channel.value = 1
    adapt(panel, spin)
    assert [asked["channels"] for asked in made.asked] == [(0, 1), (1,)]


def test_why_it_cannot_be_adapted_is_said(viewer, panel, spin, monkeypatch):
    from cellxlate.errors import InputError
    from cellxlate.options import CHANNELS

    def refuse(*_arguments, **_options):
        raise InputError("the noise cannot be measured", remedy=("choose ", CHANNELS))

    monkeypatch.setattr(adaptation, "adapt_stack", refuse)
    viewer.add_image(ramp((70, 90)), name="cells")
    adapt(panel, spin)
    assert panel.state.value == "the noise cannot be measured; choose Channel"
    panel.axes.value = "zz"
    panel.adapt_button.click()
    assert not panel.is_running
    assert "axes" in panel.state.value.lower()


def test_without_an_image_nothing_can_be_adapted(viewer, tiny_model):
    panel = EnhanceWidget(viewer)
    assert not panel.adapt_button.enabled
    viewer.add_image(ramp((70, 90)))
    panel.model_choice.value = tiny_model
    assert panel.adapt_button.enabled
    panel.close()


@pytest.mark.display
def test_in_a_small_window_every_text_is_whole_and_enhance_and_compare_are_seen_at_once(application, spin):
    import napari

    shown = napari.Viewer(show=True)
    try:
        shown.window._qt_window.resize(1280, 720)
        shown.add_image(something_else(), name="far")
        _, panel = shown.window.add_plugin_dock_widget("cellxlate", "Enhance cells")
        panel.model_choice.value = "nuclei-lowexp"
        spin(lambda: panel.adapting.domain.suitability is not None)
        text, button = panel.adapting.domain.text.native, panel.adapt_button.native
        assert "Unlike" in text.text()
        panel.engine.value = "torch"
        panel.enhance_button.click()
        spin(lambda: not panel.is_running)
        area = panel.native.findChild(QScrollArea)
        for seen in (panel.enhance_button, panel.compare.mode, panel.compare.report_button):
            corner = seen.native.mapTo(area.viewport(), seen.native.rect().bottomRight())
            spin(lambda corner=corner: area.viewport().rect().contains(corner))
        assert area.verticalScrollBar().value() == 0
        panel.more.value = True
        assert len(panel.notes.value) > 300
        assert panel.state.native.height() < 2 * panel.state.native.fontMetrics().height()  # one line
        for label in (text, panel.state.native, panel.notes.native):
            spin(lambda label=label: label.height() >= label.heightForWidth(label.width()))

        def gap_px():
            return button.mapTo(area, button.rect().topLeft()).y() - text.mapTo(area, text.rect().bottomLeft()).y()

        spin(lambda: 0 <= gap_px() < 20)  # the button is right below the warning
        assert panel.native.width() <= 420
        assert shown.window._qt_window.height() <= 720  # it scrolls, and makes the window no higher
    finally:
        shown.close()

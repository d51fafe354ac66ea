"""The `Train translator` panel on the model of a viewer without a window, and what painting amounts to."""

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from cellxlate.errors import InputError
from cellxlate.plugin.models import SHELF
from cellxlate.plugin.train.curves import curves_svg
from cellxlate.plugin.train.requests import StopRequest, Trained, TrainingSnapshot, TrainRequest, cut, painted_regions
from cellxlate.plugin.train.widget import FOLDER, TrainWidget
from cellxlate.settings import PRESETS, AttentionSettings, GeneratorSettings
from cellxlate.stacks.stack import Stack


def field(seed, clear):
    """Round cells of 96 x 96 px, faint and noisy or clear."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:96, :96]
    light = np.zeros((96, 96))
    for _ in range(9):
        row, column = rng.uniform(8, 88, 2)
        light = np.maximum(light, rng.uniform(0.5, 1) * np.clip(7 - np.hypot(rows - row, columns - column), 0, 1))
    if clear:
        return (100 + 900 * light + rng.normal(0, 2, light.shape)).clip(0).astype(np.uint16)
    return (100 + 120 * ndimage.gaussian_filter(light, 1.5) + rng.normal(0, 6, light.shape)).clip(0).astype(np.uint16)


@pytest.fixture
def small(monkeypatch):
    """A preset that takes a few milliseconds per step."""
    fast = PRESETS["fast"]
    networks = replace(
        fast.networks,
        generator=GeneratorSettings(architecture="compact", width=6, blocks=1, normalisation="none"),
        attention=AttentionSettings(
            width=4, stem_kernel_px=5, blocks=1, last_width=4, last_kernel_px=3, normalisation="none"
        ),
    )
    monkeypatch.setitem(PRESETS, "fast", replace(fast, networks=networks, patch_px=32, batch=2, steps=30))


@pytest.fixture
def panel(viewer, small, spin, tmp_path):
    made = TrainWidget(viewer)
    viewer.add_image(np.stack([field(number, False) for number in range(4)]), name="faint: 1/2", scale=(2, 0.5, 0.5))
    viewer.add_image(np.stack([field(number + 9, True) for number in range(4)]), name="clear")
    made.source.value, made.target.value = viewer.layers
    made.output.value = tmp_path / "mine"
    yield made
    made.stop_button.click()
    spin(lambda: not made.is_running)
    made.close()


def test_a_run_from_layers_ends_in_a_model_that_the_enhance_panel_offers(viewer, panel, spin, tmp_path):
    from cellxlate.plugin.enhance.widget import EnhanceWidget

    other = EnhanceWidget(viewer)
    panel.train_button.click()
    spin(lambda: not panel.is_running)
    assert panel.state.value.startswith("Done: 30 steps"), panel.state.value
    assert "mine is now in Enhance cells" in panel.state.value
    assert str(tmp_path / "mine") in other.model_choice.choices
    assert panel.progress.value == panel.progress.max == 30
    assert [look.step for look in panel._looks] == [10, 20, 30]
    assert panel._looks[-1].picture.startswith(b"\x89PNG")
    assert not panel.picture.pixmap().isNull()
    assert {"total", "attention_area", "attention_agreement"} <= set(panel._looks[0].values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    other.close()


def test_stop_saves_and_resume_ends_in_the_model_of_an_unbroken_run(viewer, panel, spin, tmp_path):
    from cellxlate.model.bundle import load_model

    panel.steps.value = 40
    panel.train_button.click()
    spin(lambda: panel.progress.value >= 10 or not panel.is_running)
    pressed = time.monotonic()
    panel.stop_button.click()
    spin(lambda: not panel.is_running)
    assert time.monotonic() - pressed < 5.0  # of a run that would take longer
    assert "Resume goes on from here" in panel.state.value
    assert (tmp_path / "mine.partial").is_dir()
    assert panel.resume_button.enabled
    panel.train_button.click()  # by mistake: nothing is lost
    spin(lambda: not panel.is_running)
    assert "Resume" in panel.state.value
    assert "--" not in panel.state.value
    panel.resume_button.click()
    spin(lambda: not panel.is_running)
    assert panel.state.value.startswith("Done"), panel.state.value
    panel.output.value = tmp_path / "unbroken"
    panel.train_button.click()
    spin(lambda: not panel.is_running)
    assert load_model(tmp_path / "mine").digest == load_model(tmp_path / "unbroken").digest


def test_layers_may_go_while_a_run_learns_from_them(viewer, panel, spin):
    panel.train_button.click()
    spin(lambda: panel.progress.value > 0 or not panel.is_running)
    viewer.layers.clear()
    assert panel.source.value == FOLDER
    spin(lambda: not panel.is_running)
    assert panel.state.value.startswith("Done"), panel.state.value


def test_painted_cells_guide_a_run(viewer, panel, spin, tmp_path):
    import json

    panel.guide.value = "masks"
    panel.paint_button.click()
    labels = viewer.layers[-1]
    assert labels.data.shape == (4, 96, 96)
    np.testing.assert_allclose(labels.scale, (2, 0.5, 0.5))
    assert labels.mode == "paint"
    panel.train_button.click()
    spin(lambda: not panel.is_running)
    assert "no cell is painted" in panel.state.value
    labels.data[1, 20:30, 20:30] = 3
    panel.train_button.click()
    spin(lambda: not panel.is_running)
    assert panel.state.value.startswith("Done"), panel.state.value
    card = json.loads((tmp_path / "mine" / "card.json").read_text())
    assert card["training"]["settings"]["guide"] == "masks"
    assert card["training"]["masks"] == [1, 0]
    assert card["training"]["source_planes"] == 5  # the stack, and the painted region of one plane


def test_what_is_wrong_is_said_in_the_panel(viewer, panel, spin, tmp_path):
    panel.target.value = panel.source.value
    viewer.add_image(field(1, False), name="single")
    for choose, said in (
        (lambda: setattr(panel.source, "value", viewer.layers["single"]), "at least 2"),
        (lambda: setattr(panel.source, "value", FOLDER) or setattr(panel.source_folder, "value", tmp_path), "no TIFF"),
    ):
        choose()
        panel.train_button.click()
        spin(lambda: not panel.is_running)
        assert said in panel.state.value
        assert "\n" not in panel.state.value
    assert panel.train_button.enabled
    assert not panel.stop_button.enabled


def test_collapse_is_told_with_its_remedy_before_training_stops(panel):
    stop = StopRequest()
    request = TrainRequest(FOLDER, FOLDER, FOLDER, "fast", "saliency", stop)
    panel._stop = stop
    panel._news(request, TrainingSnapshot(10, 30, 5.0, {"total": 1.0}, leaning="zeros"))
    assert "collapsing (attention selects nothing)" in panel.state.value
    assert "painted cells" in panel.state.value
    panel._news(request, TrainingSnapshot(20, 30, 9.0, {"total": 0.5}))
    assert panel.state.value.startswith("Learning: step 20 of 30")
    panel._stop = None


def test_a_model_of_the_session_is_on_the_shelf_once(panel, viewer, tiny_model):
    stop = StopRequest()
    request = TrainRequest(FOLDER, FOLDER, tiny_model, "fast", "saliency", stop)
    for _ in range(2):
        panel._stop = stop
        panel._ended(request, Trained(tiny_model, 5, 100.0))
    assert [path for _, path in SHELF.choices()].count(str(tiny_model)) == 1


def painted(*places, shape=(2, 200, 300)):
    marked = np.zeros(shape, np.uint8)
    for place in places:
        marked[place] = 1
    return Stack(marked, "ZYX", "cells")


def test_neighbours_share_a_region_and_distant_cells_do_not():
    near = (0, slice(20, 30), slice(20, 30)), (0, slice(40, 52), slice(60, 70))
    far = (0, slice(150, 160), slice(250, 260)), (1, slice(0, 5), slice(0, 5))
    regions = painted_regions(painted(*near, *far), 64)
    assert [region.index for region in regions] == [(0,), (0,), (1,)]
    first, second, third = (region.area for region in regions)
    assert (first.top, first.bottom, first.left, first.right) == (4, 68, 4, 86)
    assert second.shape == (64, 64)
    assert (third.top, third.left) == (0, 0)
    for region, (index, rows, columns) in zip(regions, (near[0], *far), strict=True):
        inside = cut(painted(near[0], *far), region, "one")
        assert np.asarray(inside).sum() == (rows.stop - rows.start) * (columns.stop - columns.start), index


def test_paint_at_the_border_stays_inside_the_plane_and_nothing_painted_is_refused():
    (region,) = painted_regions(painted((0, slice(195, 200), slice(295, 300))), 128)
    assert (region.area.bottom, region.area.right, region.area.shape) == (200, 300, (128, 128))
    with pytest.raises(InputError, match="no cell is painted"):
        painted_regions(painted(), 64)
    with pytest.raises(InputError, match="smaller than a patch"):
        painted_regions(painted(shape=(1, 50, 300)), 64)


def test_curves_are_drawn_where_their_values_are():
    from xml.etree import ElementTree

    values = {"total": [1.0, 0.1], "attention_area": [1.0, None], "attention_agreement": [None, 0.5]}
    root = ElementTree.fromstring(curves_svg([0, 50], values, last_step=100))
    lines = [one.get("points") for one in root if one.tag.endswith("polyline")]
    assert lines[2] == "38.0,8.0 142.0,74.0"  # falls from the top of its pane to the bottom, half way along
    assert lines[3] == "38.0,98.0"
    assert lines[4] == "142.0,131.0"
    words = [one.text for one in root if one.tag.endswith("text")]
    assert {"objective", "selected", "as guided", "step 100"} <= set(words)
    ElementTree.fromstring(curves_svg([], {}, last_step=10))


# What is refused before anything runs, and what is said no more


def test_images_are_not_learned_to_become_themselves(viewer, panel, tmp_path):
    panel.target.value = panel.source.value
    panel.train_button.click()
    assert not panel.is_running
    assert panel.state.value.startswith("Source and Target are both the layer faint: 1/2; choose as Target images as ")
    panel.source.value = panel.target.value = FOLDER
    panel.source_folder.value, panel.target_folder.value = tmp_path, tmp_path / "."
    panel.train_button.click()
    assert not panel.is_running
    assert panel.state.value.startswith(f"Source and Target are both the folder {tmp_path};")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("source_folder", "no folder of Source images is chosen"),
        ("target_folder", "no folder of Target images is chosen"),
        ("output", "no folder is chosen for the model"),
    ],
)
def test_an_empty_field_is_not_the_current_folder(panel, tmp_path, field, said):
    if field != "output":
        panel.source.value = panel.target.value = FOLDER
        panel.source_folder.value, panel.target_folder.value = tmp_path / "a", tmp_path / "b"
    getattr(panel, field).line_edit.value = ""
    panel.train_button.click()
    assert not panel.is_running
    assert said in panel.state.value
    getattr(panel, field).value = tmp_path / "c"
    assert panel.state.value == ""


def test_what_is_missing_to_paint_is_said_until_it_is_there(viewer, panel, spin):
    panel.guide.value = "masks"
    spin(lambda: panel.paint_state.value.startswith("Press Paint"))
    panel.paint_button.click()
    spin(lambda: "no cell is painted" in panel.paint_state.value)
    panel.train_button.click()
    spin(lambda: not panel.is_running)
    assert "no cell is painted" in panel.state.value
    assert panel.progress.value == 0
    labels = viewer.layers[-1]
    labels.selected_label = 1
    labels.paint((1, 40, 40), 1)
    assert panel.state.value == ""
    spin(lambda: "Learns from 1 painted region" in panel.paint_state.value)
    labels.undo()
    spin(lambda: "no cell is painted" in panel.paint_state.value)
    panel.source.value = FOLDER
    spin(lambda: panel.paint_state.value == "Choose an image layer as Source to paint its cells.")
    panel.guide.value = "none"
    assert panel.paint_state.value == ""


def test_a_run_that_ended_leaves_no_half_filled_bar_and_no_curves_of_another(panel, spin):
    panel.steps.value = 400
    panel.train_button.click()
    spin(lambda: panel.progress.value >= 10 and len(panel._looks) > 0)
    panel.stop_button.click()
    spin(lambda: not panel.is_running)
    assert "Stopped after step " in panel.state.value
    assert panel.progress.value == 0
    panel.train_button.click()
    assert panel.curves.isHidden()
    spin(lambda: not panel.is_running)
    panel.steps.value = 30
    assert panel.state.value == ""

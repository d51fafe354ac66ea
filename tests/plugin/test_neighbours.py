"""Which planes beside each are looked at: offered where there are any, and the same in preview and runs."""

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate.enhancement.input import Context
from cellxlate.enhancement.neighbours import context
from cellxlate.enhancement.neighbours.choice import ContextChoice
from cellxlate.errors import OptionError, said
from cellxlate.plugin.batch.steps import _planned as planned
from cellxlate.plugin.batch.widget import BatchWidget
from cellxlate.plugin.drawing import with_contour
from cellxlate.plugin.enhance.choices import THIS_PLANE, TO_A_FILE

from .conftest import ramp
from .test_overlay import settle

NOT_THIS_MODEL = "This model was not trained to see neighbours; it sees each plane alone."


def offered(panel):
    return list(panel.neighbours.choices) if panel.neighbours.enabled else panel.neighbours.tooltip


@pytest.mark.parametrize(
    ("shape", "axes", "choices"),
    [
        ((3, 40, 50), "ZYX", ["auto", "none", "z"]),
        ((3, 40, 50), "TYX", ["auto", "none", "t"]),
        ((2, 1, 3, 40, 50), "TCZYX", ["auto", "none", "z", "t"]),
        ((2, 40, 50), "CYX", "This image has neither depth nor time."),
        ((1, 40, 50), "ZYX", "This image has neither depth nor time."),
        ((40, 50), "", "This image has neither depth nor time."),
    ],
)
def test_the_neighbours_of_the_image_are_offered_or_why_there_are_none(
    viewer, panel, neighbour_model, shape, axes, choices
):
    assert offered(panel) == "Choose an image and a model first."
    viewer.add_image(ramp(shape), name="cells")
    assert offered(panel) in (NOT_THIS_MODEL, "This image has neither depth nor time.")
    panel.model_choice.value = neighbour_model
    panel.axes.value = axes
    assert offered(panel) == choices
    assert panel.neighbours.value == ("none" if isinstance(choices, str) else "auto")


def test_a_choice_holds_while_other_images_and_models_come_and_go(viewer, panel, neighbour_model, tiny_model):
    panel.model_choice.value = neighbour_model
    deep = viewer.add_image(ramp((3, 40, 50)), name="deep")
    flat = viewer.add_image(ramp((40, 50)), name="flat")
    panel.image_layer.value = deep
    panel.neighbours.value = "z"
    for choice, other, back in (
        (panel.image_layer, flat, deep), (panel.model_choice, tiny_model, neighbour_model), (panel.axes, "TYX", "ZYX"),
    ):  # fmt: skip
        choice.value = other
        assert panel.neighbours.value == ("auto" if choice is panel.axes else "none")
        assert panel._request().settings.context == panel.neighbours.value == panel._previewed().context
        choice.value = back
        assert panel.neighbours.value == "z"
        assert panel._request().settings.context == panel._previewed().context == "z"


def test_a_model_without_neighbours_is_asked_for_none(viewer, panel):
    """Also one that strokes have taught, whatever is chosen for the model that it began from."""
    viewer.add_image(ramp((3, 40, 50)), name="cells")
    assert offered(panel) == NOT_THIS_MODEL
    assert panel._request().settings.context == "none"


def run(panel, spin):
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)


@pytest.fixture
def movie(viewer, panel, neighbour_model):
    """Two channels of a movie in depth whose background drifts, with the middle plane of the second time in view."""
    panel.model_choice.value = neighbour_model
    pixels = ramp((3, 2, 4, 70, 90)) + 60 * np.arange(3, dtype=np.uint16)[:, None, None, None, None]
    layer = viewer.add_image(pixels, name="cells")
    viewer.dims.current_step = (1, 1, 2, 0, 0)
    return layer


@pytest.mark.parametrize("along", ["z", "t"])
def test_a_plane_its_preview_and_its_file_are_those_of_the_whole_stack(
    viewer, panel, movie, spin, neighbour_model, tmp_path, along
):
    whole, alone = (
        cellxlate.enhance(movie.data, neighbour_model, axes="TCZYX", engine="torch", context=seen)
        for seen in (along, "none")
    )
    panel.neighbours.value = along
    panel.scope.value = THIS_PLANE
    run(panel, spin)
    enhanced, attention = (viewer.layers[number].data[0, 0, 0] for number in (1, 2))
    assert np.array_equal(enhanced, whole.image[1, 1, 2])
    assert np.array_equal(attention, whole.attention[1, 1, 2])
    assert not np.array_equal(attention, alone.attention[1, 1, 2])
    assert viewer.layers[1].metadata["cellxlate"]["context"]["axis"] == along
    words = {"z": "z", "t": "time"}[along]
    assert f"Neighbours: 2 planes on either side along {words}: as asked for." in panel.state.tooltip
    panel.destination.value, panel.file.value = TO_A_FILE, tmp_path / "plane.ome.tif"
    run(panel, spin)
    with cellxlate.open_stack(tmp_path / "plane.ome.tif") as written:
        assert np.array_equal(np.asarray(written), whole.image[1, 1, 2])
    for layer in list(viewer.layers)[1:]:
        viewer.layers.remove(layer)
    panel.preview.value = True
    settle(panel, spin)
    for seen, result in ((along, whole), ("none", alone), (along, whole)):
        panel.neighbours.value = seen
        settle(panel, spin)
        assert np.array_equal(viewer.layers[1].data, with_contour(result.attention[1, 1, 2]))
    panel.preview.value = False


def test_auto_shows_each_plane_alone_first_and_then_what_the_run_will_see(
    viewer, panel, movie, spin, neighbour_model, monkeypatch
):
    chosen = []

    def choose(stack, jobs, bundle, **_options):
        chosen.append(stack.shape)
        return ContextChoice(Context.beside("Z", 2), "it helps")

    monkeypatch.setattr(context, "choose_context", choose)
    told = []
    panel.attention._say = lambda text: told.append(text)
    panel.preview.value = True
    settle(panel, spin)
    whole = cellxlate.enhance(movie.data, neighbour_model, axes="TCZYX", engine="torch", context="z")
    assert chosen == [movie.data.shape]
    assert np.array_equal(viewer.layers[1].data, with_contour(whole.attention[1, 1, 2]))
    assert any("a first estimate" in text for text in told)
    assert "a first estimate" not in told[-1]
    assert told[-1].endswith("; neighbours in depth (z)")
    panel.preview.value = False


def test_many_files_are_enhanced_with_the_neighbours_that_are_chosen(viewer, tmp_path, neighbour_model, tiny_model):
    panel = BatchWidget(viewer)
    assert list(panel.neighbours.choices) == ["auto", "none", "z", "t"]
    tifffile.imwrite(tmp_path / "a.tif", ramp((5, 40, 50)), photometric="minisblack", metadata={"axes": "TYX"})
    panel.files.value = [tmp_path / "a.tif"]
    for model in (neighbour_model, tiny_model):
        panel.model_choice.value = model
        panel.neighbours.value = "t"
        request = panel._request()
        if model is neighbour_model:
            assert planned(request)[0].settings.settings.context == "t"
            continue
        with pytest.raises(OptionError) as refused:
            planned(request)
        assert said(refused.value, by="panel").startswith("Neighbours 'in time (t)': tiny was not trained")
    panel.close()

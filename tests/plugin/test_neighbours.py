"""Which planes beside each are looked at: offered where there are any, and the same in preview and runs."""

import pytest

from .conftest import ramp

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
        assert panel._request().context == panel.neighbours.value == panel._previewed().context
        choice.value = back
        assert panel.neighbours.value == "z"
        assert panel._request().context == panel._previewed().context == "z"


def test_a_model_without_neighbours_is_asked_for_none(viewer, panel):
    """Also one that strokes have taught, whatever is chosen for the model that it began from."""
    viewer.add_image(ramp((3, 40, 50)), name="cells")
    assert offered(panel) == NOT_THIS_MODEL
    assert panel._request().context == "none"

"""Colour in the panel: what becomes of red, green and blue is offered where an image has them, and is asked for."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from .conftest import ramp
from .test_gate_choice import made
from .test_overlay import settle


@pytest.fixture
def colours(panel: Any, viewer: Any) -> Any:
    """The panel with an image in colour."""
    red, green, blue = (ramp((70, 90), "uint8", seed) for seed in (1, 2, 3))
    pixels = np.stack([red, green[::-1], blue[:, ::-1]], axis=-1)
    panel.image_layer.value = viewer.add_image(pixels, name="colours")
    return panel


def test_what_becomes_of_colour_is_asked_where_there_is_any(colours: Any, viewer: Any) -> None:
    native = colours.color.native
    assert not native.isHidden()
    assert [colours.channel.native.itemText(one) for one in range(4)] == ["all", "red", "green", "blue"]
    assert colours.gate.native.itemText(1) == "channel red"
    colours.color.value = "separate"
    assert colours._request().settings.color == colours._previewed().color == "separate"
    colours.image_layer.value = viewer.add_image(ramp((3, 70, 90)), name="grey")
    assert native.isHidden()
    assert colours._request().settings.color == colours._previewed().color == "luminance"


@pytest.mark.parametrize("color", ["luminance", "separate"])
def test_the_preview_is_that_of_the_run(colours: Any, spin: Any, color: str) -> None:
    colours.color.value = color
    colours.preview.value = True
    settle(colours, spin)
    previewed = colours.attention._view.attention.selected_px(float(colours.threshold.value))
    outcome = made(colours._request())
    assert outcome.report.tally.in_color is (color == "luminance")
    assert previewed == np.count_nonzero(outcome.attention.max(axis=-1))
    assert (np.ptp(outcome.attention, axis=-1) > 0).any() == (color == "separate")


def test_all_fields_begin_in_one_column_whatever_the_font_of_a_style(colours: Any, spin: Any) -> None:
    window = colours.native
    window.show()
    window.setStyleSheet("* { font-size: 19px }")
    labelled = [row._labeled_widget() for row in colours._rows if not row.native.isHidden()]
    fields = [one._inner_widget.native for one in labelled if one is not None and one._label_widget.visible]
    assert len(fields) > 5
    spin(lambda: len({field.mapTo(window, field.rect().topLeft()).x() for field in fields}) == 1, 5.0)
    window.hide()

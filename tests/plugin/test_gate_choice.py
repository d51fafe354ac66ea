"""The panels' choice of what gates: offered as layers and channels come and go, previewed, and carried into runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from cellxlate.plugin.batch.paths import gating_channel, gating_mask
from cellxlate.plugin.enhance.steps import enhance_steps
from cellxlate.plugin.layers import mask_stack
from cellxlate.stacks.stack import Stack


def pixels(shape: tuple[int, ...]) -> Any:
    noise = np.random.default_rng(0).normal(0, 8, shape)
    ramp = np.broadcast_to(np.linspace(80, 240, shape[-1]), shape).copy()
    ramp[1::2] = ramp[1::2, :, ::-1]
    return (noise + ramp).clip(0).astype(np.uint16)


@pytest.fixture
def two(panel: Any, viewer: Any) -> Any:
    """The panel with an image of two channels, and a labels layer of one plane."""
    image = viewer.add_image(pixels((2, 70, 90)), name="cells")
    labels = np.zeros((70, 90), np.int32)
    labels[20:50, 30:60] = 5
    viewer.add_labels(labels, name="nuclei")
    panel.image_layer.value = image
    panel.axes.value = "CYX"
    return panel


def made(request: Any) -> Any:
    steps = enhance_steps(request)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_channels_and_labels_are_offered(two: Any, viewer: Any) -> None:
    named = [choice if isinstance(choice, int | str) else choice.name for choice in two.gate.choices]
    assert named == ["own", 0, 1, "saliency", "nuclei"]
    two.gate.value = viewer.layers["nuclei"]
    viewer.layers["nuclei"].name = "cells I drew"
    assert two.gate.value.name == "cells I drew"
    viewer.layers.remove("cells I drew")
    assert two.gate.value == "own"
    two.axes.value = "ZYX"
    assert list(two.gate.choices) == ["own", "saliency"]


def test_the_gate_that_is_chosen_is_that_of_the_run(two: Any, viewer: Any) -> None:
    labels = viewer.layers["nuclei"]
    two.gate.value = labels
    request = two._request()
    labels.data[:] = 0  # painting goes on
    outcome = made(request)
    assert np.array_equal(outcome.attention[1] > 0, outcome.attention[0] > 0)
    assert outcome.attention[0].any()
    assert not outcome.attention[:, :20].any()
    assert outcome.report.as_dict()["attention_source"]["name"] == "nuclei"
    two.gate.value = 0
    by_channel = made(two._request())
    assert np.array_equal(by_channel.attention[0], by_channel.attention[1])
    two.gate.value = "own"
    own = made(two._request())
    assert own.report.as_dict()["attention_source"] == {"kind": "network"}
    assert not np.array_equal(own.attention[0], own.attention[1])


def test_the_preview_shows_the_gate_and_what_is_painted_into_it(two: Any, viewer: Any, spin: Any) -> None:
    labels = viewer.layers["nuclei"]
    two.gate.value = labels
    two.preview.value = True
    spin(
        lambda: (
            two.attention._view is not None and not two.attention.is_running and two.attention._view.attention.known_px
        )
    )
    assert np.array_equal(two.attention._view.attention.steps > 0, labels.data > 0)
    labels.data[60:, :] = 1
    labels.events.paint(value=[])
    spin(lambda: bool(two.attention._view and two.attention._view.attention.steps[65].all()))
    two.gate.value = 1

    def shows_attention() -> bool:
        view = two.attention._view
        return bool(view and view.attention.known_px and not set(np.unique(view.attention.steps)) <= {0, 1024})

    spin(shows_attention)


def test_labels_that_do_not_fit_are_said_in_one_line(two: Any, viewer: Any) -> None:
    viewer.add_labels(np.zeros((30, 30), np.int32), name="small")
    two.gate.value = viewer.layers["small"]
    with pytest.raises(ValueError, match="the mask small is 30 x 30 px, cells is 70 x 90 px"):
        made(two._request())


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("TCZYX", (2, 3, 4, 9, 9), "TCZYX"),
        ("TCZYX", (2, 4, 9, 9), "TZYX"),
        ("ZYXS", (4, 9, 9), "ZYX"),
        ("CYX", (9, 9), "YX"),
    ],
)
def test_labels_have_the_axes_of_the_image_they_lie_on(
    viewer: Any, axes: str, shape: tuple[int, ...], expected: str
) -> None:
    sizes = {"T": 2, "C": 3, "Z": 4, "Y": 9, "X": 9, "S": 3}
    like = Stack(np.zeros([sizes[axis] for axis in axes], np.uint8), axes)
    assert mask_stack(viewer.add_labels(np.ones(shape, np.int32)), like).axes == expected


def test_the_field_of_many_files_takes_a_channel_a_mask_or_the_guide(tmp_path: Path) -> None:
    asked = {
        text: (gating_mask(text), gating_channel(text)) for text in ("", " DAPI ", "Cy3.5", "saliency", "a_seg.npy")
    }
    assert asked == {
        "": (None, None), " DAPI ": (None, "DAPI"), "Cy3.5": (None, "Cy3.5"), "saliency": ("saliency", None),
        "a_seg.npy": (Path("a_seg.npy"), None),
    }  # fmt: skip
    assert gating_mask(str(tmp_path)) == tmp_path


def test_the_panel_of_many_files_asks_for_the_gate(viewer: Any, tmp_path: Path) -> None:
    from cellxlate.plugin.batch.widget import BatchWidget

    panel = BatchWidget(viewer)
    panel.gate.value = "DAPI"
    assert (panel._request().attention_channel, panel._request().attention_from) == ("DAPI", None)
    panel.gate.value = str(tmp_path)
    assert (panel._request().attention_channel, panel._request().attention_from) == (None, tmp_path)
    panel.close()

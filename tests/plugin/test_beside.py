"""Layers that a model sees beside the one it changes: found by name, the same in preview, plane, stack and file."""

import numpy as np
import pytest

import cellxlate
from cellxlate.errors import InputError
from cellxlate.plugin.beside import place_together, seen_together
from cellxlate.plugin.enhance.choices import THIS_PLANE, TO_A_FILE
from cellxlate.plugin.layers import layer_stack
from cellxlate.stacks.stack import Stack

from .conftest import ramp
from .test_overlay import settle


@pytest.fixture
def stains(viewer, panel, models_beside):
    """GFP, which is chosen, and DAPI of a movie in depth."""
    panel.model_choice.value = models_beside["seeing"]
    dapi = viewer.add_image(ramp((2, 3, 70, 90), seed=1), name="cells DAPI")
    gfp = viewer.add_image(ramp((2, 3, 70, 90), seed=2), name="cells GFP")
    panel.axes.value = ""
    panel.image_layer.value = gfp
    viewer.dims.current_step = (1, 2, 0, 0)
    return gfp, dapi


def expected(gfp, dapi, model):
    """What the command line makes of both in one file."""
    both = Stack(np.stack([gfp.data, dapi.data], axis=1), "TCZYX", "cells", channel_names=("GFP", "DAPI"))
    return cellxlate.enhance(both, model, engine="torch", device="cpu")


def run(panel, spin):
    panel.enhance_button.click()
    spin(lambda: not panel.is_running)


def test_the_layer_of_the_name_is_found_whatever_lies_around(viewer, stains, models_beside):
    gfp, dapi = stains
    model = str(models_beside["seeing"])
    viewer.add_image(ramp((70, 90)), name="DAPI")  # of another shape
    viewer.add_image(dapi.data.astype(np.float32), name="other DAPI")  # of another type
    viewer.add_labels(np.zeros((2, 3, 70, 90), int), name="masks of DAPI")
    stack = layer_stack(gfp)
    together = seen_together(gfp, stack, viewer.layers, model)
    assert (together.axes, together.shape) == ("TCZYX", (2, 2, 3, 70, 90))
    assert together.channel_names == ("GFP", "DAPI")
    assert np.array_equal(np.asarray(together), np.stack([gfp.data, dapi.data], axis=1))
    assert np.array_equal(together.read((1, 1, 2), slice(3, 9)), dapi.data[1, 2, 3:9])
    assert place_together(together, (1, 2)) == (1, 0, 2)
    assert seen_together(gfp, stack, viewer.layers, "cells") is None
    gfp.name = "other GFP"  # whose DAPI is of another type: the only one that fits is taken
    assert seen_together(gfp, stack, viewer.layers, model) is not None
    second = viewer.add_image(dapi.data + 1, name="cells DAPI")  # which napari calls cells DAPI [1]
    gfp.name = "cells GFP [1]"
    assert np.array_equal(seen_together(gfp, stack, viewer.layers, model).read((0, 1, 0)), second.data[0, 0])
    gfp.name = "cells GFP"
    viewer.layers.remove(second)
    dapi.name = "nuclei"
    with pytest.raises(
        InputError, match="seeing sees DAPI beside cells GFP, and no other image of this shape and type"
    ):
        seen_together(gfp, stack, viewer.layers, model)
    for name in ("DAPI", "b dapi"):
        viewer.add_image(dapi.data, name=name)
    with pytest.raises(InputError, match="2 layers are called so; rename those that it shall not"):
        seen_together(gfp, stack, viewer.layers, model)


def test_a_stack_and_a_plane_are_those_of_the_command_line(viewer, panel, stains, models_beside, spin):
    gfp, dapi = stains
    whole = expected(gfp, dapi, models_beside["seeing"])
    run(panel, spin)
    assert np.array_equal(viewer.layers["cells GFP enhanced"].data, whole.image[:, 0])
    assert np.array_equal(viewer.layers["cells GFP attention"].data, whole.attention[:, 0])
    assert (whole.image[:, 0] != gfp.data).mean() > 0.05
    told = viewer.layers["cells GFP enhanced"].metadata["cellxlate"]
    assert told["beside"] == ["DAPI"]
    viewer.layers.remove("cells GFP enhanced")
    panel.image_layer.value = gfp
    panel.scope.value = THIS_PLANE
    run(panel, spin)
    assert np.array_equal(np.squeeze(viewer.layers["cells GFP enhanced"].data), whole.image[1, 0, 2])


def test_a_file_holds_both_and_the_layer_what_changed(viewer, panel, stains, models_beside, tmp_path, spin):
    gfp, dapi = stains
    panel.destination.value, panel.file.value = TO_A_FILE, tmp_path / "made.ome.tif"
    run(panel, spin)
    whole = expected(gfp, dapi, models_beside["seeing"])
    with cellxlate.open_stack(tmp_path / "made.ome.tif") as stack:
        assert (stack.axes, stack.channel_names) == ("TCZYX", ("GFP", "DAPI"))
        assert np.array_equal(np.asarray(stack), whole.image)
    assert np.array_equal(np.asarray(viewer.layers["cells GFP enhanced"].data), whole.image[:, 0])


def test_the_preview_sees_it_too_or_says_why_not(viewer, panel, stains, models_beside, spin):
    gfp, dapi = stains
    panel.preview.value = True
    settle(panel, spin)
    shown = panel.attention._view.attention.image(float(panel.threshold.value))
    assert np.array_equal(shown, expected(gfp, dapi, models_beside["seeing"]).attention[1, 0, 2])
    dapi.name = "nuclei"
    panel.threshold.value = 0.2
    panel.attention.update()
    spin(lambda: "sees DAPI beside cells GFP" in panel.selected.value)
    run(panel, spin)
    assert "no other image of this shape and type is called so" in panel.state.value
    assert "cells GFP enhanced" not in viewer.layers
    panel.preview.value = False

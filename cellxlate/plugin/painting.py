"""Labels layers to paint on, which lie exactly over an image layer."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cellxlate.plugin.layers import layer_stack

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from cellxlate.stacks.stack import Stack


def add_labels_over(
    viewer: "Viewer", layer: "Image", stack: "Stack", name: str, *, axes: str | None = None, **shown: Any
) -> "Labels":
    """Add an empty Labels layer over an image layer, with the brush in hand.

    Parameters
    ----------
    viewer : Viewer
        Of the layer.
    layer : Image
        What is painted on.
    stack : Stack
        One channel of the layer, whose shape the labels get.
    name : str
        Of the new layer.
    axes : str, optional
        Of the image layer, where it does not say them itself.
    **shown
        Passed on to `add_labels`: colours, metadata.
    """
    letters = layer_stack(layer, axes).axes.replace("S", "")
    kept = [dimension for dimension, axis in enumerate(letters) if axis != "C"]
    placed = {
        key: [getattr(layer, key)[dimension] for dimension in kept]
        for key in ("scale", "translate", "units", "axis_labels")
    }
    labels = viewer.add_labels(np.zeros(stack.shape, np.uint8), name=name, **placed, **shown)
    labels.mode = "paint"
    return labels

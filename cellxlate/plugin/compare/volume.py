"""A result and its attention in three dimensions: entered in one step, and left as it was found."""

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from cellxlate.model.engines.memory import ask_for_memory
from cellxlate.plugin.layers import layer_stack

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

MOST_BYTES, MOST_READ_BYTES = 1 << 30, 256 << 20
"""Of volumes in memory, and of those that are read first, while napari waits."""
COPIES = 1.5
"""A volume is sliced, and handed to the card: `ask_for_memory` doubles what it is asked for."""
DOWN, ASIDE = 0.7, 0.35
"""How far the view is turned from that of the planes, down the rows and along the columns: depth is seen at once."""
OVER_RESULT = {"rendering": "mip", "blending": "additive", "opacity": 0.35}
"""Attention is mostly all or nothing: where it lay over the result as in a plane, nothing would be seen through it."""
RESULT = {"rendering": "mip", "depiction": "volume"}


def volume_shape(layer: "Image", axes: str) -> tuple[int, int, int]:
    """Return planes, rows and columns that napari loads of an image in 3-D: of a pyramid the coarsest resolution."""
    shape = dict(zip(axes, (layer.data[-1] if layer.multiscale else layer.data).shape, strict=False))
    return shape.get("Z", 1), shape["Y"], shape["X"]


def why_no_volume(layers: "list[Image]", axes: str) -> str:
    """Return why images cannot be shown in 3-D, in one line, or nothing where they can."""
    planes = volume_shape(layers[0], axes)[0]
    if "S" in axes:
        return "Colour images are not shown in 3-D; split their channels first (Layers > Split RGB)."
    if planes < 2:
        return "3-D needs planes in depth, and this result has one; enhance the whole stack, or set its Axes."
    size_bytes = sum(prod(volume_shape(layer, axes)) * layer.dtype.itemsize for layer in layers)
    is_read = any(hasattr(layer.data, "dask") and not layer.multiscale for layer in layers)
    most_bytes = MOST_READ_BYTES if is_read else MOST_BYTES
    if size_bytes > most_bytes:
        advice = "" if is_read else "; a result that is written to a file has a coarser image for that"
        return f"In 3-D this would take {size_bytes / 1e9:.1f} GB, at most {most_bytes / 1e9:.1f} GB are shown{advice}."
    try:
        ask_for_memory(size_bytes, COPIES)
    except MemoryError as fault:
        return f"There is not enough memory to show this in 3-D ({fault})."
    return ""


class VolumeView:
    """Shows a result in 3-D until it is left; turning napari's own switch leaves it too.

    Parameters
    ----------
    viewer : Viewer
        Where it is shown.
    left : callable
        Called where somebody else has switched back to planes.
    """

    def __init__(self, viewer: "Viewer", left: Callable[[], None]) -> None:
        self._viewer, self._left = viewer, left
        self._was: dict[str, Any] = {}
        self._looks: list[tuple[Image, dict[str, Any]]] = []

    @property
    def _camera(self) -> Any:
        return getattr(self._viewer, "scene", self._viewer).camera  # before napari 0.9 the viewer's own

    def enter(self, result: "Image", attention: "Image | None", axes: str) -> str:
        """Show both, of which nothing else is visible, and return what is seen, in words."""
        dims, camera = self._viewer.dims, self._camera
        first = dims.ndim - len(axes)
        depth = first + axes.index("Z")
        plane = [axis for axis in dims.order if axis in (first + axes.index("Y"), first + axes.index("X"))]
        self._was = {
            "order": dims.order, "depth": (depth, dims.current_step[depth]),
            "camera": {name: getattr(camera, name) for name in ("center", "zoom", "angles")},
        }  # fmt: skip
        for layer, look in ((result, RESULT), (attention, OVER_RESULT)):
            if layer is not None:
                self._looks.append((layer, {name: getattr(layer, name) for name in look}))
                _put(layer, look)
        dims.order = (*(axis for axis in dims.order if axis not in (depth, *plane)), depth, *plane)
        dims.ndisplay = 3
        self._viewer.reset_view()
        along = float(np.sign(camera.view_direction[0]))
        camera.set_view_direction((along, DOWN, along * ASIDE), camera.up_direction)
        dims.events.ndisplay.connect(self._switched)
        return _words(result, attention, axes)

    def leave(self) -> None:
        """Go back to the plane, and to the looks, of before."""
        dims = self._viewer.dims
        dims.events.ndisplay.disconnect(self._switched)
        dims.ndisplay = 2
        if len(self._was["order"]) == dims.ndim:
            dims.order = self._was["order"]
            dims.set_current_step(*self._was["depth"])
        for layer, look in self._looks:
            _put(layer, look)
        _put(self._camera, self._was["camera"])
        self._looks, self._was = [], {}

    def _switched(self, _: Any = None) -> None:
        self._left()


def _put(thing: Any, look: dict[str, Any]) -> None:
    for name, value in look.items():
        setattr(thing, name, value)


def _words(result: "Image", attention: "Image | None", axes: str) -> str:
    """Return what is seen, and what is not to be read off it."""
    words = f"The result{' and, coloured, its attention' if attention else ''}, brightest along the view; drag to turn."
    if result.multiscale and len(result.data) > 1:
        finest, coarsest = result.data[0].shape[axes.index("X")], volume_shape(result, axes)[2]
        step = round(finest / coarsest)
        words += f" In 3-D napari loads the coarsest resolution: each pixel stands for {step} x {step} of the image."
    if "Z" not in layer_stack(result, axes).pixel_size_um:
        words += " Depth is not to scale: the image does not state how far its planes are apart."
    return words

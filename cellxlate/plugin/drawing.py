"""What is drawn over an image: colours, the contour, and where a part of a plane lies."""

from collections.abc import Sequence
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.tiling import Tile
from cellxlate.plugin.layers import in_layer_shape
from cellxlate.stacks.stack import PlaneIndex, Stack

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.utils import Colormap
    from napari.viewer import Viewer

OURS = "cellxlate_overlay"
"""Marks layers in their metadata that only show something, so that panels do not offer them as images."""
CONTOUR = 255
CONTOUR_RGB = (1.0, 0.37, 0.64)
OVERLAY_OPACITY = 0.5


def lies_over(layer: Any, layers: Sequence[Any], image: Any) -> bool:
    """Whether a layer would hide or colour an image: it only shows something, or is an opaque image above it."""
    if OURS in layer.metadata:
        return True
    is_opaque = layer._type_string == "image" and layer.blending not in ("additive", "minimum")
    return is_opaque and image in layers and layers.index(layer) > layers.index(image)


def attention_look() -> dict[str, Any]:
    """Return how attention of 0 to 255 is drawn over its image, wherever it comes from."""
    return {
        "colormap": attention_colormap(), "contrast_limits": (0, 255), "blending": "translucent", "opacity": 0.6,
    }  # fmt: skip


def as_attention() -> dict[str, Any]:
    """Return how a layer of attention is added: hidden, so that what is seen first is the enhanced image."""
    return {**attention_look(), "visible": False, "metadata": {OURS: True}}


@cache
def attention_colormap() -> "Colormap":
    """Return viridis, which is perceptually uniform and safe for colour-blind readers, with 0 (kept) transparent."""
    from napari.utils import Colormap
    from napari.utils.colormaps import ensure_colormap

    colours = np.array(ensure_colormap("viridis").map(np.linspace(0, 1, 256)))  # (256, 4)
    colours[0, 3] = 0.0
    return Colormap(colours, name="attention viridis", display_name="attention viridis")


@cache
def overlay_colormap() -> "Colormap":
    """Return the colours of `with_contour`: nothing, viridis half through which the image is seen, and a pink line."""
    from napari.utils import Colormap

    colours = np.array(attention_colormap().map(np.linspace(0, 1, CONTOUR)))  # (255, 4)
    colours[1:, 3] = OVERLAY_OPACITY
    colours = np.vstack([colours, (*CONTOUR_RGB, 1.0)])
    name = "outlined"  # short: the list of colours in the layer controls is as wide as the longest name
    return Colormap(colours, name=name, display_name=name, interpolation="zero", controls=np.linspace(0, 1, 257))


@cache
def difference_colormap() -> "Colormap":
    """Return blue for less, nothing for no change, orange for more; safe for colour-blind readers."""
    from napari.utils import Colormap

    colours = [(0.20, 0.60, 1.0, 1.0), (0.20, 0.60, 1.0, 0.0), (1.0, 0.60, 0.10, 0.0), (1.0, 0.60, 0.10, 1.0)]
    return Colormap(colours, name="difference", controls=[0.0, 0.5, 0.5, 1.0])


def with_contour(attention: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return an attention image (Y, X) with 255 on the contour of what is selected, and at most 254 elsewhere."""
    shown = np.minimum(attention, CONTOUR - 1)
    shown[outline_of(attention > 0)] = CONTOUR
    return shown


def outline_of(selected: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the selected pixels (Y, X) that have a neighbour, in a row or a column, which is not selected."""
    inner = selected.copy()
    inner[1:] &= selected[:-1]
    inner[:-1] &= selected[1:]
    inner[:, 1:] &= selected[:, :-1]
    inner[:, :-1] &= selected[:, 1:]
    return selected & ~inner


def visible_part(layer: "Image", stack: Stack, ndisplay: int) -> Tile:
    """Return the part of the plane that the canvas shows; all of it in 3-D, or where there is no canvas."""
    rows, columns = stack.plane_shape
    corners = np.asarray(layer.corner_pixels, dtype=float)
    if layer.multiscale:
        corners = corners * layer.downsample_factors[layer.data_level]
    axes = stack.axes.replace("S", "")
    (top, left), (bottom, right) = corners[:, [axes.index("Y"), axes.index("X")]]
    if ndisplay != 2 or bottom - top < 1 or right - left < 1:
        return Tile(0, rows, 0, columns)
    return Tile(max(int(top), 0), min(ceil(bottom) + 1, rows), max(int(left), 0), min(ceil(right) + 1, columns))


def middle_of(part: Tile, most_px: int) -> Tile:
    """Return the middle of a part of a plane, at most so many pixels on a side.

    Examples
    --------
    >>> middle_of(Tile(0, 100, 50, 2050), 512)
    Tile(top=0, bottom=100, left=794, right=1306)
    """
    rows, columns = (min(size, most_px) for size in part.shape)
    top, left = part.top + (part.shape[0] - rows) // 2, part.left + (part.shape[1] - columns) // 2
    return Tile(top, top + rows, left, left + columns)


def flat_axes(axes: str) -> str:
    """Return the axes of a layer that lies over every plane: without those before rows and columns.

    Examples
    --------
    >>> flat_axes("TCZYX"), flat_axes("YXS"), flat_axes("YXZ")
    ('YX', 'YX', 'YXZ')
    """
    axes = axes.replace("S", "")
    return axes[min(axes.index("Y"), axes.index("X")) :]


def flat_pixels(plane: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """Return a plane (Y, X), or (Y, X, S) in colour, with the axes of `flat_axes`."""
    kept = flat_axes(axes)
    if plane.ndim == 3:
        return in_layer_shape(plane, f"{kept}S")
    return in_layer_shape(plane.T if kept.index("X") < kept.index("Y") else plane, kept)


def flat_place(layer: "Image", axes: str, plane: PlaneIndex, part: Tile, every_px: int = 1) -> dict[str, Any]:
    """Return where a part of a plane lies, drawn every so many pixels, as `add_image` takes it.

    Notes
    -----
    A layer with an axis for the planes would be out of the slice while others are shown; napari 0.9 crashes when such
    a layer is removed and the plane then changes.
    """
    axes = axes.replace("S", "")
    kept = flat_axes(axes)
    first = {"Y": part.top + (every_px - 1) / 2, "X": part.left + (every_px - 1) / 2}
    first |= dict(zip((axis for axis in axes if axis in "TCZ"), map(float, plane), strict=True))

    def world(at: dict[str, float]) -> npt.NDArray[np.float64]:
        return np.asarray(layer.data_to_world([at[axis] for axis in axes]))[-len(kept) :]

    matrix = np.eye(len(kept) + 1)
    matrix[:-1, -1] = world(first)
    for column, axis in enumerate(kept):
        step = every_px if axis in "YX" else 1
        matrix[:-1, column] = world(first | {axis: first[axis] + step}) - matrix[:-1, -1]
    return {"affine": matrix, "units": layer.units[-len(kept) :], "axis_labels": layer.axis_labels[-len(kept) :]}


def lay_over(viewer: "Viewer", layer: "Image | None", pixels: Any, placement: dict[str, Any], **shown: Any) -> "Image":
    """Show pixels in a layer over an image, which is made where it is missing, and return it.

    Parameters
    ----------
    viewer : Viewer
        Whose active layer stays so.
    layer : Image or None
        As it was returned before.
    pixels : ndarray
        As `flat_pixels` gives them.
    placement : dict
        As `flat_place` gives it.
    **shown
        Of a new layer: name, colours.
    """
    if layer is None:
        active = viewer.layers.selection.active
        made = viewer.add_image(pixels, metadata={OURS: True}, **shown, **placement)
        viewer.layers.selection.active = active
        return made
    if layer.data.shape == pixels.shape:
        layer.data[...] = pixels
        layer.refresh(extent=False, highlight=False, thumbnail=False)  # a third of the time of a new array
    else:
        layer.data = pixels
    if not np.allclose(layer.affine.affine_matrix, placement["affine"]):
        layer.affine = placement["affine"]
    return layer


def moves(viewer: "Viewer") -> list[Any]:
    """Return the events that tell that another plane, or another part of it, has become visible."""
    camera = getattr(viewer, "scene", viewer).camera  # before napari 0.9 the viewer's own
    return [viewer.dims.events.current_step, camera.events.zoom, camera.events.center]

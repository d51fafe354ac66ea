"""From a napari layer to a stack, and from results to layers that lie exactly on it. No Qt; layers are only read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pint

from cellxlate.enhancement.tiling import Tile
from cellxlate.errors import InputError
from cellxlate.stacks.metadata.placement import Unit
from cellxlate.stacks.stack import AXES, PlaneIndex, Stack

if TYPE_CHECKING:
    from napari.layers import Image, Labels

AXIS_WORDS = {"time": "T", "channel": "C", "depth": "Z", "height": "Y", "width": "X", "row": "Y", "column": "X"}
DEFAULT_AXES = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}
PLACED = ("rotate", "shear", "units", "axis_labels")
SHOWN = ("contrast_limits", "gamma", "colormap", "interpolation2d", "interpolation3d")


@dataclass(frozen=True)
class Appearance:
    """How an image layer lies in the world and how it is shown, taken down while the layer was there.

    Attributes
    ----------
    name : str
        Of the layer.
    axes : str
        One letter of "TCZYXS" per dimension of its data.
    placement : mapping
        Scale, translate, rotate, shear, affine, units and axis labels, as `add_image` takes them.
    shown : mapping
        Contrast limits, gamma, colormap, interpolation; `rgb` for colour images.
    """

    name: str
    axes: str
    placement: Mapping[str, Any]
    shown: Mapping[str, Any]


class LayerPixels:
    """Pixels of a layer, numpy or lazy, of which only what is asked for is read."""

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike, read: Callable[[Any], Any]) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.dtype = np.dtype(dtype)
        self._read = read

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        return np.asarray(self._read(key))


def layer_axes(layer: "Image") -> str:
    """Return the axes of a layer's data: from its axis labels where they say it, else the usual ones for its number.

    Raises
    ------
    InputError
        The labels do not say it, and there are more than five dimensions.
    """
    letters = "".join(AXIS_WORDS.get(label.lower(), label.upper()) for label in layer.axis_labels)
    known = set(letters) <= set(AXES) - {"S"} and len(set(letters)) == len(layer.axis_labels) == len(letters)
    if not (known and {"Y", "X"} <= set(letters)):
        if layer.ndim not in DEFAULT_AXES:
            raise InputError(f"{layer.name} has {layer.ndim} dimensions; write its axes into the panel, such as TCZYX")
        letters = DEFAULT_AXES[layer.ndim]
    return letters + ("S" if layer.rgb else "")


def layer_stack(layer: "Image", axes: str | None = None, *, check: Callable[[], None] = lambda: None) -> Stack:
    """Return the pixels of an image layer, at full resolution and unread, as a stack with its pixel size.

    Parameters
    ----------
    layer : Image
        Any of numpy, dask, Zarr or multiscale.
    axes : str, optional
        Letters of "TCZYXS"; as `layer_axes` finds them by default.
    check : callable
        Called before pixels are read.

    Raises
    ------
    InputError
        The axes do not fit, or the pixels are of an unsupported type.
    """
    pixels = layer.data[0] if layer.multiscale else layer.data
    axes = axes.upper() if axes else layer_axes(layer)
    sizes_um = {
        axis: size
        for axis, size in zip(axes.replace("S", ""), map(_micrometres, layer.scale, layer.units), strict=False)
        if size and axis in "ZYX"
    }

    def read(key: Any) -> Any:
        check()
        return pixels[key]

    own = LayerPixels(pixels.shape, pixels.dtype, read)
    return Stack(own, axes, str(layer.name), pixel_size_um=sizes_um)


def one_channel(stack: Stack, channel: int) -> Stack:
    """Return one channel of a stack; a stack without channels as it is.

    Raises
    ------
    InputError
        It is in colour.
    """
    if "S" in stack.axes:
        raise InputError(f"{stack.name} is in colour; split its channels first (Layers > Split RGB)")
    if "C" not in stack.axes:
        return stack
    axis = stack.axes.index("C")

    def read(key: Any) -> Any:
        parts = list(key) if isinstance(key, tuple) else [key]
        return stack.pixels[(*parts[:axis], channel, *parts[axis:])]

    pixels = LayerPixels(stack.shape[:axis] + stack.shape[axis + 1 :], stack.dtype, read)
    return replace(stack, pixels=pixels, axes=stack.axes.replace("C", ""), channel_names=())


def shown_channel(
    layer: "Image", world: Sequence[float], axes: str | None = None, *, check: Callable[[], None] = lambda: None
) -> Stack:
    """Return the channel of an image layer that lies at a point of the world, as `layer_stack` and `one_channel` do."""
    stack = layer_stack(layer, axes, check=check)
    return one_channel(stack, channel_of_plane(stack.axes, visible_plane(layer, stack, world)))


def painted_stack(labels: "Labels", like: Stack) -> Stack:
    """Return a labels layer as a stack, 1 where something is painted.

    Raises
    ------
    InputError
        It has another shape than the stack it belongs to.
    """
    pixels = labels.data[0] if labels.multiscale else labels.data
    if tuple(pixels.shape) != like.shape:
        own, wanted = (" x ".join(map(str, shape)) for shape in (pixels.shape, like.shape))
        raise InputError(f"{labels.name} is {own} px, {like.name} is {wanted}; press Paint for a layer that fits")
    marked = LayerPixels(pixels.shape, np.uint8, lambda key: (np.asarray(pixels[key]) > 0).astype(np.uint8))
    return Stack(marked, like.axes, str(labels.name))


def mask_stack(labels: "Labels", like: Stack) -> Stack:
    """Return a labels layer as a mask of a stack, 1 inside: all its planes, or one for all; as it is now.

    Which of its planes belongs to which of the stack is for `stacks.masks.fit` to say.
    """
    pixels = labels.data[0] if labels.multiscale else labels.data
    without_colour = like.axes.replace("S", "")
    planes = "".join(axis for axis in without_colour if axis in "TZ") + "YX"
    known = {len(without_colour): without_colour, len(planes): planes, 2: "YX"}
    axes = known.get(len(pixels.shape), DEFAULT_AXES.get(len(pixels.shape)))
    if axes is None:
        raise InputError(f"{labels.name} has {len(pixels.shape)} dimensions, {like.name} {len(like.shape)}")
    if isinstance(pixels, np.ndarray):
        return Stack((pixels > 0).astype(np.uint8), axes, str(labels.name))  # painting goes on meanwhile
    marked = LayerPixels(pixels.shape, np.uint8, lambda key: (np.asarray(pixels[key]) > 0).astype(np.uint8))
    return Stack(marked, axes, str(labels.name))


def visible_plane(layer: "Image", stack: Stack, world: Sequence[float]) -> PlaneIndex:
    """Return which plane of a layer's stack lies at a point of the world, as positions along all axes but Y, X and S.

    Parameters
    ----------
    layer : Image
        The layer.
    stack : Stack
        Made from it.
    world : sequence of float
        `viewer.dims.point`.
    """
    at = np.atleast_1d(layer.world_to_data(tuple(world)))
    positions = zip(stack.axes.replace("S", ""), at, strict=True)
    return tuple(
        int(np.clip(round(float(position)), 0, stack.size(axis) - 1)) for axis, position in positions if axis in "TCZ"
    )


def channel_of_plane(axes: str, plane: PlaneIndex) -> int:
    """Return the channel of a plane, 0 where there is no channel axis.

    Examples
    --------
    >>> channel_of_plane("TCZYX", (0, 2, 5))
    2
    """
    kept = [axis for axis in axes if axis in "TCZ"]
    return plane[kept.index("C")] if "C" in kept else 0


def plane_stack(stack: Stack, plane: PlaneIndex, part: Tile | None = None) -> Stack:
    """Return one plane, or a part of it (all samples of a colour image), read into memory, as (Y, X) or (Y, X, S)."""
    axes = "".join(axis for axis in stack.axes if axis not in "TCZ")
    return Stack(
        np.asarray(stack.pixels[_key(stack.axes, plane, part)]), axes, stack.name, pixel_size_um=stack.pixel_size_um
    )


def read_part(stack: Stack, plane: PlaneIndex, part: Tile, every_px: int = 1) -> npt.NDArray[Any]:
    """Read a part of a plane, every so many pixels, as (Y, X), or (Y, X, S) in colour."""
    pixels = np.asarray(stack.pixels[_key(stack.axes, plane, part, every_px)])
    return pixels.T if pixels.ndim == 2 and stack.axes.index("X") < stack.axes.index("Y") else pixels


def _key(axes: str, plane: PlaneIndex, part: Tile | None, every_px: int = 1) -> tuple[int | slice, ...]:
    """Return the key that picks a part of a plane, or all of it, with all samples of a colour image."""
    positions = iter(plane)
    ranges = {"Y": slice(part.top, part.bottom, every_px), "X": slice(part.left, part.right, every_px)} if part else {}
    return tuple(next(positions) if axis in "TCZ" else ranges.get(axis, slice(None)) for axis in axes)


def appearance(layer: "Image", axes: str, plane: PlaneIndex | None = None, part: Tile | None = None) -> Appearance:
    """Take down how a layer looks, and where it lies, or where one of its planes does.

    Parameters
    ----------
    layer : Image
        The layer.
    axes : str
        Of its data.
    plane : tuple of int, optional
        Results of one plane keep the layer's dimensions, with size 1 along all axes but Y and X.
    part : Tile, optional
        Of that plane.
    """
    placement = {name: getattr(layer, name) for name in PLACED}
    placement |= {"scale": tuple(layer.scale), "affine": np.array(layer.affine.affine_matrix)}
    positions = iter(plane or (0,) * len(axes))
    corner = {"Y": part.top, "X": part.left} if part else {}
    offset = [next(positions) if axis in "TCZ" else corner.get(axis, 0) for axis in axes if axis != "S"]
    placement["translate"] = tuple(layer.affine.inverse(layer.data_to_world(offset)))
    if plane is None:
        placement["translate"] = tuple(layer.translate)
    shown: dict[str, Any] = {"rgb": True} if layer.rgb else {name: getattr(layer, name) for name in SHOWN}
    return Appearance(str(layer.name), axes, placement, shown)


def in_layer_shape(plane: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """Return a plane (Y, X) or (Y, X, S) with an axis of size 1 for every other axis of its layer."""
    sizes = iter(plane.shape)
    return plane.reshape([1 if axis in "TCZ" else next(sizes) for axis in axes])


def without_samples(attention: Any, axes: str) -> Any:
    """Return the attention of a colour image as one value per pixel, the largest of its samples."""
    return attention.max(axis=axes.index("S")) if "S" in axes else attention


def amount_and_unit(axis: str, unit: Any) -> tuple[float, Unit]:
    """Return a unit of an axis in micrometres or seconds, and which; 1 and "pixel" where it is neither."""
    wanted, name = ("second", "s") if axis == "T" else ("micrometer", "um")
    try:
        return float((1.0 * unit).to(wanted).magnitude), "s" if name == "s" else "um"
    except (pint.PintError, TypeError, AttributeError):
        return 1.0, "pixel"


def _micrometres(step: float, unit: Any) -> float | None:
    """Return a step along an axis in micrometres, or None where its unit is no length."""
    try:
        return float((float(step) * unit).to("micrometer").magnitude)
    except (pint.PintError, TypeError, AttributeError):
        return None

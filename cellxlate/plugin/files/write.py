"""Writer: image layers as `.ome.tif` or `.ome.zarr`, with axes, pixel size, position, names, colours and windows."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellxlate.errors import CellxlateError, InputError, OutputError, said, speaking
from cellxlate.plugin.files.shown import NOTE
from cellxlate.plugin.layers import amount_and_unit, layer_stack
from cellxlate.stacks.metadata.placement import AxisPlace, placed
from cellxlate.stacks.naming import stack_name
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.stacks.write.tiff import DTYPES

if TYPE_CHECKING:
    from napari.layers import Image

ENDINGS = (".ome.tif", ".ome.tiff", ".ome.zarr")
KEYS = ("name", "scale", "translate", "rotate", "shear", "affine", "units", "axis_labels", "rgb", "multiscale",
        "contrast_limits", "colormap", "gamma", "opacity", "blending", "visible", "metadata")  # fmt: skip
"""What is taken of the attributes of a layer."""


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as `.ome.tif` or `.ome.zarr`, plane by plane, in its dtype.

    What the reader makes of the file is the same layer: its pixels, scale, translation, units (in µm and s), name,
    colours, contrast limits, visibility. Of a multiscale layer the finest level is written, with a pyramid of its own.

    Returns
    -------
    list of str
        The path that was written; empty where it has another ending.

    Raises
    ------
    OutputError
        The layer cannot be written so; the message says why.

    Warns
    -----
    UserWarning
        The layer is rotated or sheared, for which files have no place.
    """
    return write_images(path, [(data, attributes, "image")])


def write_images(path: str, layers: Sequence[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write image layers of one shape, dtype and place as the channels of one file; see `write_image`."""
    from napari.layers import Image

    if not path.lower().endswith(ENDINGS):
        return []
    with speaking("panel"):
        try:
            images = [
                Image(data, **{key: value for key, value in attributes.items() if key in KEYS})
                for data, attributes, _ in layers
            ]
            stacks = [layer_stack(image) for image in images]
            places = [_places(image, stack.axes) for image, stack in zip(images, stacks, strict=True)]
            stack = stacks[0] if len(stacks) == 1 else _as_channels(stacks, places)
            if path.lower().endswith((".tif", ".tiff")) and stack.dtype.name not in DTYPES:
                raise OutputError(f"{path}: OME-TIFF cannot hold {stack.dtype} pixels", remedy="save it as .ome.zarr")
            stack = _in_order(stack, "TSCZYX" if path.lower().endswith(".zarr") else "TCZYXS")
            note = {NOTE: {"file": stack_name(Path(path)), "layers": [_look(image) for image in images]}}
            omero = {} if images[0].rgb or "C" in stacks[0].axes else {"channels": [_channel(one) for one in images]}
            stack = replace(stack, name=str(images[0].name) if len(images) == 1 else stack_name(Path(path)))
            write_stacks([(placed(stack, places[0], omero=omero, note=note), Path(path))], overwrite=True)
        except CellxlateError as fault:
            raise OutputError(said(fault)) from None  # a ValueError, as most are, napari takes for "no such writer"
    return [path]


def _places(layer: "Image", axes: str) -> dict[str, AxisPlace]:
    """Return where the pixels of a layer lie, all its transformations taken together."""
    axes = axes.replace("S", "")
    start = np.asarray(layer.data_to_world((0.0,) * layer.ndim))
    matrix = np.stack([np.asarray(layer.data_to_world(tuple(row))) - start for row in np.eye(layer.ndim)])
    steps = np.diag(matrix).copy()
    if np.abs(matrix - np.diag(steps)).max() > 1e-6 * np.abs(matrix).max():
        warnings.warn(f"{layer.name} is rotated or sheared, for which the file has no place", stacklevel=4)
        steps, start = np.asarray(layer.scale), np.asarray(layer.translate)
    places = {}
    for axis, step, first, unit in zip(axes, steps, start, layer.units, strict=True):
        factor, name = amount_and_unit(axis, unit)
        places[axis] = AxisPlace(float(step) * factor, float(first) * factor, name)
    return places


def _as_channels(stacks: Sequence[Stack], places: Sequence[Mapping[str, AxisPlace]]) -> Stack:
    """Return stacks of one kind as the channels of one.

    Raises
    ------
    InputError
        They differ in shape, dtype or place, are in colour, or have channels already.
    """
    import dask.array

    first = stacks[0]
    for stack, place in zip(stacks, places, strict=True):
        if set(stack.axes) & {"C", "S"}:
            what = "in colour" if "S" in stack.axes else "of several channels"
            raise InputError(f"{stack.name} is {what} and cannot be one channel of a file; save it alone")
        for what, own, wanted in (
            ("axes", stack.axes, first.axes), ("shape", stack.shape, first.shape), ("type", stack.dtype, first.dtype)
        ):  # fmt: skip
            if own != wanted:
                raise InputError(
                    f"{first.name} and {stack.name} differ in {what} ({wanted} and {own}), so they cannot be the "
                    "channels of one file; save them one by one"
                )
        if any(not _alike(place[axis], places[0][axis]) for axis in first.axes):
            raise InputError(
                f"{first.name} and {stack.name} lie in different places (scale, translate or units), so they cannot be "
                "the channels of one file; save them one by one"
            )
    at = 1 if "T" in first.axes else 0
    ordered = [_in_order(stack, "TZYX") for stack in stacks]
    pixels = dask.array.stack([stack.to_dask() for stack in ordered], axis=at)
    axes = ordered[0].axes
    return Stack(pixels, f"{axes[:at]}C{axes[at:]}", first.name)


def _alike(one: AxisPlace, other: AxisPlace) -> bool:
    return one.unit == other.unit and bool(np.allclose((one.step, one.start), (other.step, other.start)))


def _in_order(stack: Stack, order: str) -> Stack:
    """Return a stack with its axes in another order, unread."""
    axes = "".join(axis for axis in order if axis in stack.axes)
    if axes == stack.axes:
        return stack
    return replace(stack, pixels=stack.to_dask().transpose([stack.axes.index(axis) for axis in axes]), axes=axes)


def _channel(layer: "Image") -> dict[str, Any]:
    """Return how a layer is shown, as OME-Zarr says it."""
    low, high = (float(limit) for limit in layer.contrast_limits)
    dtype = np.dtype(layer.dtype)
    least, most = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "ui" else (low, high)
    red, green, blue = (round(float(sample) * 255) for sample in layer.colormap.colors[-1][:3])
    return {
        "label": str(layer.name), "color": f"{red:02X}{green:02X}{blue:02X}", "active": bool(layer.visible),
        "window": {"min": float(least), "max": float(most), "start": low, "end": high},
    }  # fmt: skip


def _look(layer: "Image") -> dict[str, Any]:
    """Return what neither format has a place for."""
    return {
        "name": str(layer.name), "colormap": str(layer.colormap.name), "blending": str(layer.blending),
        "opacity": float(layer.opacity), "gamma": float(layer.gamma),
    }  # fmt: skip

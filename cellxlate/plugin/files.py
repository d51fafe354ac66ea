"""Reader and writer: OME-Zarr and TIFF as lazy, calibrated layers; layers as files that keep axes and pixel size."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellxlate.errors import CellxlateError
from cellxlate.stacks.naming import TIFF_SUFFIXES

if TYPE_CHECKING:
    from napari.types import LayerData

    from cellxlate.stacks.stack import Stack

SMALL_BYTES = 64_000_000
"""Smaller TIFF files that state no pixel size are left to napari's own reader, which reads them at once."""
SAMPLE_PX = 512
COLOURS = ("gray", "green", "magenta", "cyan", "yellow", "red", "blue")

Read = Callable[[str | list[str]], "list[LayerData]"]


def reader(path: str | list[str]) -> Read | None:
    """Return what opens a path as lazy layers, or None where napari's own reader does as well.

    Parameters
    ----------
    path : str or list of str
        One OME-Zarr folder, or one TIFF that is large or states its pixel size.
    """
    if not isinstance(path, str):
        return None
    file = Path(path)
    try:
        if file.is_dir():
            from cellxlate.stacks.read.open import is_zarr

            return read_layers if is_zarr(file) else None
        if file.suffix.lower() in TIFF_SUFFIXES and (file.stat().st_size > SMALL_BYTES or _is_calibrated(file)):
            return read_layers
    except (CellxlateError, OSError):
        return None
    return None


def read_layers(path: str | list[str]) -> "list[LayerData]":
    """Open a stack without reading it: one image layer per channel, with the levels of its pyramid.

    Raises
    ------
    InputError
        It cannot be read; the message says why.
    """
    from cellxlate.plugin.lazy import lazy_resolutions

    stack, resolutions = lazy_resolutions(Path(path if isinstance(path, str) else path[0]))
    placement = _place(stack)
    if "C" not in stack.axes:
        shown = {} if "S" in stack.axes else {"contrast_limits": _limits(stack, 0), "colormap": "gray"}
        options = {"name": stack.name, "rgb": "S" in stack.axes, "metadata": _facts(stack), **placement, **shown}
        return [_image_layer(resolutions, options)]
    axis = stack.axes.index("C")
    kept = [number for number in range(len(placement["scale"])) if number != axis]
    layers: list[LayerData] = []
    for channel in range(stack.size("C")):
        name = stack.channel_names[channel] if stack.channel_names else f"channel {channel}"
        own = [level[(slice(None),) * axis + (channel,)] for level in resolutions]
        options = {key: tuple(values[number] for number in kept) for key, values in placement.items()}
        options |= {
            "name": f"{stack.name} {name}", "metadata": _facts(stack), "rgb": False,
            "contrast_limits": _limits(stack, channel), "colormap": COLOURS[channel % len(COLOURS)],
            "blending": "additive" if channel else "translucent_no_depth",
        }  # fmt: skip
        layers.append(_image_layer(own, options))
    return layers


def _image_layer(levels: list[Any], options: dict[str, Any]) -> "LayerData":
    is_pyramid = len(levels) > 1
    return levels if is_pyramid else levels[0], {**options, "multiscale": is_pyramid}, "image"


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as `.ome.tif` or `.ome.zarr`, with axes, pixel size and dtype, plane by plane.

    Returns
    -------
    list of str
        The path that was written; empty where it has another ending.

    Raises
    ------
    CellxlateError
        The layer cannot be written so; the message says why.
    """
    from napari.layers import Image

    from cellxlate.plugin.layers import layer_stack
    from cellxlate.stacks.write.copy import write_stacks

    if not path.lower().endswith((".ome.tif", ".ome.tiff", ".ome.zarr")):
        return []
    known = {"name", "scale", "units", "axis_labels", "rgb", "multiscale", "contrast_limits"}
    layer = Image(data, **{key: value for key, value in attributes.items() if key in known})
    write_stacks([(layer_stack(layer), Path(path))], overwrite=True)  # napari has asked before
    return [path]


def _is_calibrated(path: Path) -> bool:
    from cellxlate.stacks.read.open import open_stack

    with open_stack(path) as stack:
        return bool(stack.pixel_size_um)


def _place(stack: "Stack") -> dict[str, tuple[Any, ...]]:
    """Return scale, units and axis labels; steps that are not known are 1 pixel."""
    steps: dict[str, float | None] = {**stack.pixel_size_um, "T": stack.time_step_s}
    axes = stack.axes.replace("S", "")
    return {
        "scale": tuple(steps.get(axis) or 1.0 for axis in axes),
        "units": tuple(("s" if axis == "T" else "um") if steps.get(axis) else "pixel" for axis in axes),
        "axis_labels": tuple(axes.lower()),
    }


def _limits(stack: "Stack", channel: int) -> tuple[float, float]:
    """Return contrast limits from the middle of the middle plane of a channel."""
    planes: Sequence[Any] = [index for index in stack.plane_indices() if stack.channel_of(index) == channel]
    rows, columns = (slice(max((size - SAMPLE_PX) // 2, 0), (size + SAMPLE_PX) // 2) for size in stack.plane_shape)
    sample = stack.read(planes[len(planes) // 2], rows, columns)
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, [0.5, 99.9]) if finite.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0


def _facts(stack: "Stack") -> dict[str, Any]:
    return {"cellxlate_stack": {"axes": stack.axes, "pixel_size_um": dict(stack.pixel_size_um), "kind": stack.kind}}

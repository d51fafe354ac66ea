"""Reader: OME-Zarr and TIFF as lazy layers with scale, position, names, colours and windows as the file states them."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.errors import CellxlateError, InputError, said, speaking
from cellxlate.options import AXES_OPTION
from cellxlate.plugin.files.results import as_part_of_result
from cellxlate.plugin.files.shown import shown
from cellxlate.plugin.lazy import lazy_resolutions
from cellxlate.stacks.metadata.placement import AxisPlace, axis_places
from cellxlate.stacks.naming import TIFF_SUFFIXES, ZIPPED_ENDINGS, is_zarr
from cellxlate.stacks.stack import AXES, Stack

if TYPE_CHECKING:
    from napari.types import LayerData

UNKNOWN_AXES = ("ZYXS", "TZYXS", "ZYX", "TZYX")
"""What axes that nobody names are tried as, as many as there are; napari does not ask for their names."""

Read = Callable[[str | list[str]], "list[LayerData]"]


def reader(path: str | list[str]) -> Read | None:
    """Return what gives the layers of a path, or None where they cannot be shown as they are; napari goes on then.

    Parameters
    ----------
    path : str or list of str
        One OME-Zarr folder or zip file, or one file of the TIFF family. Several files are left to napari.

    Warns
    -----
    UserWarning
        It is such a file and cannot be shown; the line says why.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if len(paths) != 1 or "://" in paths[0]:
        return None
    file = Path(paths[0])
    if not (is_zarr(file) if file.is_dir() else file.name.lower().endswith((*TIFF_SUFFIXES, *ZIPPED_ENDINGS))):
        return None
    with speaking("panel"):
        try:
            layers = [as_part_of_result(file, layer) for layer in read_layers(file)]
        except (CellxlateError, OSError) as fault:
            why = said(fault) if isinstance(fault, CellxlateError) else str(fault)
            warnings.warn(f"cellxlate leaves this file to other readers: {why}", stacklevel=2)
            return None
    return lambda _path: layers


def read_layers(path: str | Path) -> "list[LayerData]":
    """Open a stack without reading it: one image layer per channel, with the levels of its pyramid.

    Colour of 8 bits becomes one RGB layer. Other samples become layers of their own: their windows can be moved.

    Raises
    ------
    InputError
        It cannot be read, or not be shown as it is; the message says why.

    Warns
    -----
    UserWarning
        The file holds further images, which are not shown.
    """
    stack, levels, labelled = _opened(Path(path))
    if stack.metadata.tiff.get("photometric") == "palette" and stack.dtype != "uint8":
        raise InputError(f"{path} has a palette of more than 256 colours; convert it to RGB")
    for line in stack.warnings:
        if " images, this is number " in line:
            warnings.warn(f"{path}: {line}", stacklevel=2)
    axes = "".join(axis for axis in AXES if axis in stack.axes)
    order = [stack.axes.index(axis) for axis in axes]
    levels = [level.transpose(order) for level in levels]
    places = axis_places(stack)
    layers: list[LayerData] = []
    for one in shown(stack):
        pixels, own = levels, axes
        for axis, number in (("S", one.sample), ("C", one.channel)):
            if axis in own and number is not None:
                pixels = [level[(slice(None),) * own.index(axis) + (number,)] for level in pixels]
                own = own.replace(axis, "")
        options = _placement(own.replace("S", ""), places, labelled=labelled)
        options |= {"name": one.name, "rgb": "S" in own, "multiscale": len(pixels) > 1, **one.options}
        layers.append((pixels if len(pixels) > 1 else pixels[0], options, "image"))
    return layers


def _opened(path: Path) -> tuple[Stack, list[Any], bool]:
    """Return a stack, its levels, and whether its axes are known; else they are the usual ones for their number."""
    try:
        return *lazy_resolutions(path), True
    except InputError as fault:
        if AXES_OPTION not in fault.options:
            raise
        for axes in UNKNOWN_AXES:
            with suppress(InputError):
                stack, levels = lazy_resolutions(path, axes)
                if "S" not in axes or stack.size("S") in (3, 4):
                    return stack, levels, False
        raise


def _placement(axes: str, places: Mapping[str, AxisPlace], *, labelled: bool) -> dict[str, Any]:
    """Return scale, position and units as napari takes them; axis labels where the axes are known."""
    along = [places[axis] for axis in axes]
    return {
        "scale": tuple(place.step for place in along), "translate": tuple(place.start for place in along),
        "units": tuple(place.unit for place in along), **({"axis_labels": tuple(axes.lower())} if labelled else {}),
    }  # fmt: skip

"""The resolution levels of a pyramid, each as a stack."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import zarr

from cellxlate.errors import InputError, unless_denied
from cellxlate.locations import Location, RemotePath
from cellxlate.stacks.limits.image_streams import guard_decoders
from cellxlate.stacks.read.open import one_line, open_stack
from cellxlate.stacks.read.pixels import Expanded
from cellxlate.stacks.read.sets.acquisition import images_of
from cellxlate.stacks.read.tiff import open_file
from cellxlate.stacks.read.zarr import image_array, open_node, zarr_images
from cellxlate.stacks.read.zarr_chunks import found_chunks
from cellxlate.stacks.read.zarr_metadata import ome_attributes
from cellxlate.stacks.stack import READ_FAULTS, Pixels, Stack


def open_resolutions(path: str | Location, axes: str | None = None, *, image: int | None = None) -> tuple[Stack, ...]:
    """Open every resolution level of a stack, as `open_stack` opens the first, without reading pixels.

    The finest comes first; closing it releases all. The others have its axes, and their own pixel size.

    Raises
    ------
    InputError
        As for `open_stack`, or a level is damaged.
    """
    first = open_stack(path, axes, image=image)
    if first.resolutions == 1 or first.path is None:
        return (first,)
    with ExitStack() as opened:
        opened.callback(first.release)
        try:
            if first.kind == "ome-zarr" or isinstance(first.path, RemotePath):
                arrays = _zarr_arrays(first.path, first.image)
            else:
                arrays = _tiff_arrays(first.path, first.image, opened)
            coarser = [_coarser(first, array) for array in arrays[1:]]
        except InputError:
            raise
        except READ_FAULTS as fault:
            damaged = InputError(f"{path}: its pyramid is damaged ({one_line(fault)}); convert it again")
            raise unless_denied(damaged, path, fault) from fault
        return (replace(first, release=opened.pop_all().close), *coarser)


def _zarr_arrays(path: Location, image: int) -> list[Any]:
    group_path = zarr_images(path)[image]  # plates and sets keep their images in groups
    node = open_node(path)
    group = node[group_path] if group_path and isinstance(node, zarr.Group) else node
    if not isinstance(group, zarr.Group):
        raise InputError(f"{path} is an array, not an image")
    datasets = ome_attributes(group)["multiscales"][0]["datasets"]
    arrays = [image_array(path, group, dataset["path"]) for dataset in datasets]
    for array in arrays:
        found_chunks(path, array)
    return arrays


def _tiff_arrays(path: Path, image: int, opened: ExitStack) -> list[Any]:
    series = images_of(open_file(path, opened).file)[image]
    guard_decoders(page for level in series.levels for page in level)
    store = series.aszarr()
    opened.callback(store.close)
    group: Any = zarr.open(store, mode="r")
    return [group[key] for key in sorted(group.array_keys(), key=int)]


def _coarser(first: Stack, array: Pixels) -> Stack:
    """Return a level as a stack; axes of length 1 that the file forgot are given back."""
    axes, shape = first.axes, array.shape
    if len(shape) < len(axes):
        stored = "".join(axis for axis, size in zip(axes, first.shape, strict=True) if size > 1 or axis in "YX")
        array = Expanded(array, stored, axes)
    sizes_um = {
        axis: size * first.size(axis) / array.shape[axes.index(axis)] for axis, size in first.pixel_size_um.items()
    }
    return replace(first, pixels=array, pixel_size_um=sizes_um, resolutions=1, release=lambda: None)

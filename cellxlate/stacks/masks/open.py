"""Masks as stacks: label images, pictures, what Cellpose saves, regions of ImageJ."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from imagecodecs import PngError, png_decode

from cellxlate.errors import InputError, unless_denied
from cellxlate.options import AXES_OPTION
from cellxlate.regular_files import open_regular
from cellxlate.stacks.masks.cellpose import read_cellpose
from cellxlate.stacks.masks.names import is_cellpose, is_rois
from cellxlate.stacks.masks.rois import open_rois
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack

LARGEST_KEPT_PX = 4_000_000
"""Larger masks are read when they are asked for."""


def open_mask(path: Path, like: Stack, *, labels: bool = False, numbers: bool = False) -> Stack:
    """Open a mask of an image as a stack that is above 0 in cells; colours count as cells, transparency does not.

    Parameters
    ----------
    path : Path
        The mask.
    like : Stack
        The image; its axes are those of a mask that names none, and of regions.
    labels : bool
        Keep the numbers of a picture as they are, and refuse colours.
    numbers : bool
        Keep the numbers of a grey picture, and take colours as cells.

    Raises
    ------
    InputError
        It cannot be read.
    """
    if is_cellpose(path) or is_rois(path):
        if labels:
            raise InputError(f"{path} cannot hold strokes; save them as TIFF or PNG")
        return _in_memory(open_rois(path, like)) if is_rois(path) else _with_axes(read_cellpose(path), path, like)
    if path.suffix.lower() == ".png":
        return _open_png(path, labels=labels, numbers=numbers)
    stack = _open_named(path, like)
    if "S" not in stack.axes:
        return _in_memory(stack)
    if labels:
        raise InputError(f"{path} is in colour; strokes are whole numbers: 1 background, 2 and more cells")
    stack = replace(stack, pixels=np.asarray(stack))
    marked: npt.NDArray[np.uint8] = (np.asarray(stack).max(axis=stack.axes.index("S")) > 0).astype(np.uint8)
    stack.close()
    return Stack.from_array(marked, stack.axes.replace("S", ""), name=stack.name)


def _open_named(path: Path, like: Stack) -> Stack:
    """Open an image, with the axes of another where it names none."""
    try:
        return open_stack(path)
    except InputError as fault:
        for axes in (_plane_axes(like), like.axes) if AXES_OPTION in fault.options else ():
            with suppress(InputError):
                return open_stack(path, axes)
        raise


def _plane_axes(like: Stack) -> str:
    """Return the axes of a mask for all channels of an image."""
    return "".join(axis for axis in like.axes if axis in "TZ") + "YX"


def _with_axes(pixels: npt.NDArray[Any], path: Path, like: Stack) -> Stack:
    axes = _plane_axes(like)
    return Stack.from_array(pixels, axes if len(axes) == pixels.ndim else None, name=path.stem)


def _in_memory(stack: Stack) -> Stack:
    """Return a small mask with its pixels read, and its file released."""
    if np.prod(stack.shape, dtype=np.int64) > LARGEST_KEPT_PX:
        return stack
    pixels = np.asarray(stack)
    stack.close()
    return replace(stack, pixels=pixels, release=lambda: None)


def _open_png(path: Path, *, labels: bool, numbers: bool) -> Stack:
    try:
        pixels = np.asarray(png_decode(_stored(path)))
    except InputError:
        raise
    except (OSError, PngError, ValueError) as fault:
        damaged = InputError(f"{path} is not a PNG file that can be read ({fault}); convert it to TIFF")
        raise unless_denied(damaged, path, fault) from fault
    if (labels or numbers) and pixels.ndim == 2:
        return Stack.from_array(pixels, "YX", name=path.stem)
    if labels:
        raise InputError(f"{path} is in colour; strokes are whole numbers: 1 background, 2 and more cells")
    if pixels.ndim == 3:
        colours = pixels.shape[2] - 1 if pixels.shape[2] in (2, 4) else pixels.shape[2]
        pixels = np.asarray(pixels[..., :colours].max(axis=2))
    return Stack.from_array((pixels > 0).astype(np.uint8), "YX", name=path.stem)


def _stored(path: Path) -> bytes:
    """Return the content of a file that somebody gave, which may be a link."""
    target = path.resolve()
    with open_regular(target.parent, target.name) as file:
        return file.read()

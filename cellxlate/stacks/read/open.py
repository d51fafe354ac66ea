"""open_stack: any file, folder or pattern of planes, lazily."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellxlate.errors import CellxlateError, InputError, unless_denied
from cellxlate.locations import Location, RemotePath, located
from cellxlate.option_values import require_flags, require_kind, whole
from cellxlate.options import IMAGE
from cellxlate.stacks.naming import (
    TIFF_SUFFIXES,
    VENDOR_SUFFIXES,
    AnyLocation,
    find_stacks,
    is_image_name,
    is_picture_name,
    is_zarr,
    missing,
    one_line,
    stack_name,
)
from cellxlate.stacks.read.not_images import images_among, is_hidden, is_result, left_out_words
from cellxlate.stacks.read.pictures import open_picture
from cellxlate.stacks.read.sets.planes import is_pattern, open_planes
from cellxlate.stacks.read.tiff import open_tiff
from cellxlate.stacks.read.vendor import open_vendor
from cellxlate.stacks.read.zarr import open_zarr
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.stores.zip import is_zipped_zarr

__all__ = ["TIFF_SUFFIXES", "find_images", "find_stacks", "is_zarr", "one_line", "open_stack", "stack_name"]


def find_images(paths: Sequence[Path], what: str) -> tuple[list[Path], list[str]]:
    """Return the images among some paths and directly inside some folders, and a line for each kind of the rest.

    In folders, results of earlier runs and label images beside images are left out; among paths that are given, results
    are where other images are given too.

    Raises
    ------
    InputError
        A path does not exist, or there is no image.
    """
    given, said = without_results(paths)
    all_images: list[Path] = []
    for path in given:
        if isinstance(path, Path) and path.is_dir() and not is_zarr(path):
            items = sorted(path.iterdir())
            images = [item for item in items if is_image_name(item) or is_picture_name(item) or item.suffix == ".zarr"]
            hidden = [item.name for item in images if is_hidden(item)]
            if hidden:
                said.append(left_out_words("hidden files, whose names begin with a dot", hidden))
            taken = find_stacks([path], what)
            pictures = [item.name for item in images if is_picture_name(item) and not is_hidden(item)]
            if pictures and not any(is_picture_name(item) for item in taken):
                said.append(left_out_words("pictures beside images (name them to use them as images)", pictures))
            images, rest = images_among(taken, open_stack)
            all_images, said = all_images + images, said + rest
        else:
            all_images += find_stacks([path], what)
    if not all_images:
        raise InputError(f"the {what} folder {paths[0]} holds no image ({'; '.join(said)}); give a folder of images")
    return all_images, said


def without_results(paths: Sequence[AnyLocation]) -> tuple[list[AnyLocation], list[str]]:
    """Leave results of earlier runs out of paths that are given, where others are given too; say so in one line.

    A shell makes such a list of a pattern that fits inputs and results alike.
    """
    results = [
        path
        for path in (paths if len(paths) > 1 else ())
        if isinstance(path, Path)
        and path.exists()
        and (path.is_file() or is_zarr(path))
        and is_result(path, open_stack)
    ]
    if not results or len(results) == len(paths):
        return list(paths), []
    said = left_out_words("results of earlier runs", [path.name for path in results])
    return [path for path in paths if path not in results], [f"{said}; give them alone to enhance them again"]


def open_stack(
    path: str | Location, axes: str | None = None, *, image: int | None = None, incomplete: bool = False
) -> Stack:
    """Open a stack without reading its pixels.

    Parameters
    ----------
    path : str or Path
        A file of the TIFF family, or the `.companion.ome` of a set of them; the folder of an OME-Zarr image (0.1 to
        0.5), of a bioformats2raw set, of a plate, or of a plain Zarr array; a pattern such as `img_t{T}_z{Z}_c{C}.tif`,
        whose files together are one stack; an OME-Zarr image in a zip file (`.zarr.zip`, `.ozx`); a PNG or JPEG file;
        with the extra `vendor`, a CZI, ND2, LIF or Imaris (IMS) file. With the extra `remote`,
        the address of a Zarr image in a bucket (`s3://bucket/stack.ome.zarr`) or on the web
        (`https://host/stack.ome.zarr`).
    axes : str, optional
        Letters of "TCZYXS", one per dimension, where the file does not say or says it wrongly.
    image : int, optional
        Which image of a file that holds several; of a plate, its fields in the order of its wells. By default the
        first; of a set of OME-TIFF or Micro-Manager files, the first with a plane in the file that is given.
    incomplete : bool
        Open the complete time points (depths, where there is no time) of an acquisition that was stopped, whose missing
        planes are an error otherwise: of OME-TIFF, Micro-Manager and NDTiff sets, and of patterns of planes.

    Returns
    -------
    Stack
        Close it, or use it in a `with` statement, to release the file. Its `warnings` say what is not read.

    Raises
    ------
    InputError
        The file is missing, damaged, of another kind, or its axes are not known.
    OptionError
        A keyword is of another type.

    Examples
    --------
    >>> import cellxlate
    >>> stack = cellxlate.open_stack("stack.tif")  # doctest: +SKIP
    """
    path = located(path)
    require_opening(axes, image, incomplete)
    try:
        stack = _opened(path, None if axes is None else axes.upper(), image, incomplete=incomplete)
    except CellxlateError:
        raise
    except PermissionError as fault:
        raise unless_denied(InputError(f"{path} cannot be read"), path, fault) from fault
    return replace(stack, axes_given=axes is not None)


def require_opening(axes: str | None, image: int | None, incomplete: bool) -> None:
    """Raise OptionError where one of what says how a stack is opened is of another type."""
    require_kind("axes", axes, str, "letters, for example 'TCZYX'")
    require_flags(incomplete=incomplete)
    if image is not None:
        whole(IMAGE, image)


def _opened(path: Location, axes: str | None, image: int | None, *, incomplete: bool) -> Stack:
    """Open a stack by what its path says it is."""
    if isinstance(path, RemotePath):
        return open_zarr(path, axes, image or 0)
    if is_pattern(path):
        return open_planes(path, axes, open_file=open_stack, incomplete=incomplete)
    if not path.exists():
        raise missing(str(path), path)
    if path.is_dir():
        return open_zarr(path, axes, image or 0)
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; copy it again")
    if path.suffix.lower() in VENDOR_SUFFIXES:
        return open_vendor(path, axes, image or 0)
    if is_picture_name(path):
        return open_picture(path, axes, image or 0)
    if is_zipped_zarr(path):
        return open_zarr(path, axes, image or 0)
    return open_tiff(path, axes, image, incomplete=incomplete)

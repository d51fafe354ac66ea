"""Plain TIFF and plain Zarr: any axes in any order, any pixel type, where OME-TIFF and OME-Zarr cannot hold them."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
import zarr

from cellxlate.errors import OutputError
from cellxlate.locations import Location
from cellxlate.stacks.carried import ANNOTATION, from_json
from cellxlate.stacks.metadata.calibration import CENTIMETRE_UM
from cellxlate.stacks.metadata.plain_note import compose_note
from cellxlate.stacks.metadata.tiff_tags import tag_options
from cellxlate.stacks.naming import Format
from cellxlate.stacks.stack import Stack, plane_key
from cellxlate.stacks.write.bands import Bands, Tell, no_news
from cellxlate.stacks.write.tiff import CLASSIC_BYTES, check_tiff
from cellxlate.stacks.write.zarr import check_zarr


def check_format(kind: Format, path: Location, like: Stack, dtype: np.dtype[Any]) -> None:
    """Raise OutputError unless a format can hold a stack. The plain formats hold any."""
    if kind == "ome-tiff":
        check_tiff(path, like.axes, like.shape, dtype)
    elif kind in ("ome-zarr", "ome-zarr-0.4"):
        check_zarr(path, like.axes)


def natural_format(plain: Literal["tiff", "zarr"], like: Stack, dtype: np.dtype[Any]) -> Format:
    """Return the format that a stack goes into by itself: the OME one of its kind, else the plain one."""
    ome: Format = "ome-tiff" if plain == "tiff" else "ome-zarr"
    try:
        check_format(ome, Path(like.name), like, dtype)
    except OutputError:
        return plain
    return ome


def write_plain_tiff(
    path: Path, full: Bands, *, like: Stack, provenance: Mapping[str, Any] | None, same_values: bool = True,
    tell: Tell = no_news,
) -> None:  # fmt: skip
    """Assemble an uncompressed TIFF from complete bands, with its axes in the JSON description that tifffile reads.

    As `write_tiff`. Pixels lie in the file as in the array; a last axis C or S becomes samples of a pixel.

    Notes
    -----
    Memory holds one band at a time. There is no pyramid: where rows and columns are not the last axes, no page is one.
    """
    samples = full.axes[-1] in "CS"
    colour = full.axes[-1] == "S" and full.size("S") in (3, 4)
    options = tag_options(like.metadata.tiff, full.dtype, colour=colour, same_values=same_values)
    if "resolution" not in options and {"Y", "X"} <= set(like.pixel_size_um):
        per_cm = tuple(CENTIMETRE_UM / like.pixel_size_um[axis] for axis in "XY")
        options |= {"resolution": per_cm, "resolutionunit": 3}
    if options["photometric"] == "palette" and (samples or not full.axes.endswith("YX")):
        options = {key: value for key, value in options.items() if key != "colormap"} | {"photometric": "minisblack"}
    tifffile.memmap(
        path, shape=full.shape, dtype=full.dtype, byteorder="<", bigtiff=prod(full.shape) * full.dtype.itemsize
        > CLASSIC_BYTES, planarconfig="contig" if samples else None,
        metadata={"axes": full.axes, ANNOTATION: compose_note(like, provenance)}, **options,
    )  # fmt: skip
    turned = full.axes.index("X") < full.axes.index("Y")
    for number, index in enumerate(full.plane_indices(), 1):
        pixels: Any = tifffile.memmap(path, mode="r+")  # anew for each plane, so that none stays in memory
        for band in range(full.per_plane):
            rows = full.rows(band)
            window = full.read(index, rows)
            pixels.reshape(full.shape)[plane_key(full.axes, index, rows, slice(None))] = window.T if turned else window
        pixels.flush()
        del pixels
        tell(number)


def write_plain_attributes(folder: Path, *, like: Stack, provenance: Mapping[str, Any] | None) -> None:
    """Write the attributes of a Zarr array that is complete: those of the input, and our note."""
    array = zarr.open_array(folder, mode="r+")
    array.update_attributes(from_json(dict(like.metadata.zarr.get("array", {}))))
    array.update_attributes({ANNOTATION: compose_note(like, provenance)})

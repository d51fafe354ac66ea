"""OME-TIFF from bands: tiled, zstd, with SubIFD pyramids and OME-XML, streamed."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from cellxlate.errors import OutputError
from cellxlate.locations import Location
from cellxlate.stacks.ahead import ahead
from cellxlate.stacks.bands import BAND_PX, Bands
from cellxlate.stacks.ome_xml import compose_ome
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.tiff_tags import tag_options

TILE_PX = 256
CLASSIC_BYTES = 3_900_000_000
"""Classic TIFF holds 4 GiB; above this the file becomes a BigTIFF."""

COMPRESS_BUFFER_BYTES = 2**24
COMPRESS_THREADS = 2

DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")


def check_tiff(path: Location, axes: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise OutputError unless an OME-TIFF can hold such a stack."""
    if dtype.name not in DTYPES:
        raise OutputError(f"{path}: OME-TIFF cannot hold {dtype.name} pixels; choose --format tiff or ome-zarr")
    if not axes.endswith(("YX", "YXS")) or "S" in axes[:-3]:
        raise OutputError(
            f"{path}: OME-TIFF cannot hold the axes {axes}, rows and columns come last (or YXS, SYX for colour); "
            "choose --format tiff, a plain file that holds any axes"
        )
    if "S" in axes and shape[axes.index("S")] not in (3, 4):
        raise OutputError(
            f"{path}: OME-TIFF holds 3 or 4 colour samples, the stack has {shape[axes.index('S')]}; "
            "choose --format tiff, or name them channels with --axes"
        )


def write_tiff(
    path: Path,
    levels: Sequence[Bands],
    *,
    like: Stack,
    provenance: Mapping[str, Any] | None,
    same_values: bool = True,
) -> None:
    """Assemble an OME-TIFF from complete bands.

    Parameters
    ----------
    path : Path
        Written from the start, in place of what is there.
    levels : sequence of Bands
        The pyramid, full resolution first; same axes and dtype.
    like : Stack
        States calibration, channel names and what metadata is carried.
    provenance : mapping or None
        Becomes an OME MapAnnotation; values that are not text are written as JSON.
    same_values : bool
        Whether the values mean what those of `like` mean; its palette and display tables are written then.

    Notes
    -----
    Memory holds one band at a time, and at most 16 MiB of tiles that are being compressed.
    """
    full = levels[0]
    pixel_bytes = sum(prod(level.shape) * full.dtype.itemsize for level in levels)
    separate = "S" in full.axes and not full.axes.endswith("S")
    first = tag_options(like.metadata.tiff, full.dtype, colour="S" in full.axes, same_values=same_values)
    first["description"] = compose_ome(like, full.dtype, name=path.name, provenance=provenance, same_values=same_values)
    with tifffile.TiffWriter(path, bigtiff=pixel_bytes > CLASSIC_BYTES, byteorder="<") as file:
        for number, level in enumerate(levels):
            side = [min(TILE_PX, -(-level.size(axis) // 16) * 16) for axis in "YX"]
            if number:
                first = {key: first[key] for key in ("photometric", "colormap", "software") if key in first}
            file.write(
                _tiles(level, (side[0], side[1])),
                shape=level.shape,
                dtype=level.dtype,
                tile=tuple(side),
                planarconfig=("separate" if separate else "contig") if "S" in full.axes else None,
                extrasamples=["unassalpha"] if "S" in full.axes and full.size("S") == 4 else None,
                compression="zstd",
                predictor=2 if full.dtype.kind in "ui" else None,
                subifds=len(levels) - 1 if number == 0 else None,
                subfiletype=0 if number == 0 else 1,
                metadata=None,
                maxworkers=COMPRESS_THREADS,
                buffersize=COMPRESS_BUFFER_BYTES,
                **first,
            )


def _tiles(level: Bands, tile: tuple[int, int]) -> Iterator[npt.NDArray[Any]]:
    """Yield tiles in the order of the file; those at the right and lower border are cut short."""
    for rows in _tile_rows(level):
        for top in range(0, rows.shape[0], tile[0]):
            for left in range(0, rows.shape[1], tile[1]):
                yield np.ascontiguousarray(rows[top : top + tile[0], left : left + tile[1]])


def _tile_rows(level: Bands) -> Iterator[npt.NDArray[Any]]:
    """Return the bands in the order of the file: (rows, X), or (rows, X, S) where samples are interleaved."""
    interleaved = level.axes.endswith("S")
    planes: list[PlaneIndex] = level.plane_indices()
    samples = level.size("S") if interleaved else 1

    def read(place: tuple[int, int]) -> npt.NDArray[Any]:
        first, start = place
        bands = [level.read(index, slice(start, start + BAND_PX)) for index in planes[first : first + samples]]
        return np.stack(bands, axis=-1) if interleaved else bands[0]

    return ahead(read, product(range(0, len(planes), samples), range(0, level.size("Y"), BAND_PX)))

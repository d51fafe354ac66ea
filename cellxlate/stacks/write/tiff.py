"""OME-TIFF from bands: tiled, zstd, with SubIFD pyramids and OME-XML, streamed."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from cellxlate.errors import OutputError
from cellxlate.locations import Location
from cellxlate.options import AXES_OPTION, FORMAT
from cellxlate.prefetch import ahead
from cellxlate.stacks.metadata.ome_xml import compose_ome
from cellxlate.stacks.metadata.tiff_tags import tag_options
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.bands import Bands, Tell, no_news

CLASSIC_BYTES = 3_900_000_000
"""Classic TIFF holds 4 GiB; above this the file becomes a BigTIFF."""

COMPRESS_BUFFER_BYTES = 2**24

DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")


def check_tiff(path: Location, axes: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise OutputError unless an OME-TIFF can hold such a stack."""
    if dtype.name not in DTYPES:
        raise OutputError(
            f"{path}: OME-TIFF cannot hold {dtype.name} pixels", remedy=("choose ", FORMAT.of("tiff"), " or ome-zarr")
        )
    if not axes.endswith(("YX", "YXS")) or "S" in axes[:-3]:
        raise OutputError(
            f"{path}: OME-TIFF cannot hold the axes {axes}, rows and columns come last (or YXS, SYX for colour)",
            remedy=("choose ", FORMAT.of("tiff"), ", a plain file that holds any axes"),
        )
    if "S" in axes and shape[axes.index("S")] not in (3, 4):
        raise OutputError(
            f"{path}: OME-TIFF holds 3 or 4 colour samples, the stack has {shape[axes.index('S')]}",
            remedy=("choose ", FORMAT.of("tiff"), ", or name them channels with ", AXES_OPTION),
        )


def write_tiff(
    path: Path,
    resolutions: Sequence[Bands],
    *,
    like: Stack,
    provenance: Mapping[str, Any] | None,
    same_values: bool = True,
    tell: Tell = no_news,
) -> None:
    """Assemble an OME-TIFF from complete bands, in place of what is there.

    Parameters
    ----------
    resolutions : sequence of Bands
        The pyramid, full resolution first; same axes and dtype.
    like, provenance, same_values
        As of `compose_ome`; palette and display tables are carried where values mean the same.
    path, tell
        The file; what is told how many planes have been put together.

    Notes
    -----
    Tiles are the chunks of the bands, copied as they are compressed, once their checksums are right. Interleaved
    samples lie in different bands: their pixels are put together and compressed, at most 16 MiB at a time.
    """
    full = resolutions[0]
    pixel_bytes = sum(prod(level.shape) * full.dtype.itemsize for level in resolutions)
    separate = "S" in full.axes and not full.axes.endswith("S")
    first = tag_options(like.metadata.tiff, full.dtype, colour="S" in full.axes, same_values=same_values)
    first["description"] = compose_ome(like, full.dtype, name=path.name, provenance=provenance, same_values=same_values)
    with tifffile.TiffWriter(path, bigtiff=pixel_bytes > CLASSIC_BYTES, byteorder="<") as file:
        for number, level in enumerate(resolutions):
            if number:
                first = {key: first[key] for key in ("photometric", "colormap", "software") if key in first}
            file.write(
                _tiles(level, no_news if number else tell),
                shape=level.shape,
                dtype=level.dtype,
                tile=level.chunk_shape,
                planarconfig=("separate" if separate else "contig") if "S" in full.axes else None,
                extrasamples=[like.metadata.tiff.get("alpha", "unassalpha")]
                if "S" in full.axes and full.size("S") == 4
                else None,
                compression="zstd",
                subifds=len(resolutions) - 1 if number == 0 else None,
                subfiletype=0 if number == 0 else 1,
                metadata=None,
                buffersize=COMPRESS_BUFFER_BYTES,
                **first,
            )


def _tiles(level: Bands, tell: Tell) -> Iterator[Any]:
    """Yield tiles in the order of the file: compressed bytes, or pixels (rows, X, S) where samples are interleaved."""
    planes, bands = level.plane_indices(), range(level.per_plane)
    if not level.axes.endswith("S"):
        for number, tiles in enumerate(ahead(lambda key: level.packed(*key), product(planes, bands)), 1):
            tell(number / level.per_plane)  # who takes the tiles may not ask again after the last
            yield from tiles
        return
    samples, (rows, columns) = level.size("S"), level.chunk_shape
    for first, band in product(range(0, len(planes), samples), bands):
        tell(first + samples * (band + 1) / level.per_plane)
        pixels = np.stack([level.read(index, level.rows(band)) for index in planes[first : first + samples]], axis=-1)
        for top, left in product(range(0, pixels.shape[0], rows), range(0, pixels.shape[1], columns)):
            yield np.ascontiguousarray(pixels[top : top + rows, left : left + columns])

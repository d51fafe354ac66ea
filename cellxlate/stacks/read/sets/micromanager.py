"""Stacks of Micro-Manager, whose index says in which file each plane lies.

tifffile's own search takes any TIFF beside them for a part, such as a result of ours.
"""

import glob
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from cellxlate.errors import InputError

INDEX_COLUMNS = {"C": 0, "Z": 1, "T": 2, "R": 3}
PLANE_HEADER_BYTES = 162
"""From the directory of a page to its pixels; the first page may have more tags, and is read as a TIFF page."""

NDTIFF_INDEX = "NDTiff.index"
MOST_INDEXED = 10_000_000


def series_of(file: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    """Return the series of a file; of Micro-Manager's the image that its index, and those of further files, describe.

    Raises
    ------
    InputError
        The index of an NDTiff set names a file outside its folder.
    """
    kept: dict[str, list[tifffile.TiffPageSeries]] = vars(file)  # they belong together; looked for once
    if "own_series" not in kept:
        kept["own_series"] = _by_own_index(file) or list(file.series)
    return kept["own_series"]


def _by_own_index(file: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    if file.is_ndtiff:
        _check_inside(Path(file.filehandle.dirname) / NDTIFF_INDEX)
    if not file.is_mmstack:
        return []
    described = file.micromanager_metadata or {}
    summary, index = described.get("Summary"), described.get("IndexMap")
    if not isinstance(summary, dict) or index is None or not len(index):
        return []
    if "MicroManagerVersion" not in summary or "Frames" not in summary:
        return []
    return [_image(file, summary, _with_further_files(file, summary, index))]


Indexed = list[tuple[tifffile.TiffFile, npt.NDArray[Any]]]
"""Files with their index: (plane, C Z T position offset)."""


def _image(file: tifffile.TiffFile, summary: dict[str, Any], indexed: Indexed) -> tifffile.TiffPageSeries:
    axes = ("TR" if summary.get("TimeFirst", True) else "RT") + ("ZC" if summary.get("SlicesFirst", True) else "CZ")
    columns = [INDEX_COLUMNS[axis] for axis in axes]
    places = np.concatenate([index[:, columns] for _, index in indexed]).astype(np.int64)
    first, shape = places.min(axis=0), tuple(int(size) for size in np.ptp(places, axis=0) + 1)
    if prod(shape) > MOST_INDEXED:
        raise ValueError(f"its index names planes up to {shape} ({axes})")
    pages: list[Any] = [None] * prod(shape)
    for holder, index in indexed:
        numbers = np.ravel_multi_index((index[:, columns].astype(np.int64) - first).T, shape)
        for number, page in zip(numbers, _pages(holder, numbers, index[:, 4]), strict=True):
            pages[number] = page
    keyframe = file.pages.first
    return tifffile.TiffPageSeries(
        pages, shape + keyframe.shape, keyframe.dtype, axes + keyframe.axes, parent=file, kind="mmstack",
        multifile=len(indexed) > 1,
    )  # fmt: skip


def _pages(
    file: tifffile.TiffFile, numbers: npt.NDArray[Any], offsets: npt.NDArray[Any]
) -> Iterable[tifffile.TiffPage | tifffile.TiffFrame]:
    """Return the pages at some offsets; those behind the end of the file hold no bytes."""
    keyframe = file.pages.first
    last = file.filehandle.size - keyframe.databytecounts[0] - PLANE_HEADER_BYTES
    for number, offset in zip(numbers.tolist(), offsets.tolist(), strict=True):
        if offset == keyframe.offset:
            yield keyframe
            continue
        is_there = 0 < offset <= last
        yield tifffile.TiffFrame(
            file, index=number, offset=offset if is_there else 0,
            dataoffsets=(offset + PLANE_HEADER_BYTES,) if is_there else (0,),
            databytecounts=keyframe.databytecounts if is_there else (0,), keyframe=keyframe,
        )  # fmt: skip


def _with_further_files(file: tifffile.TiffFile, summary: dict[str, Any], index: npt.NDArray[Any]) -> Indexed:
    """Return a file and the others of the same acquisition beside it, which state the same prefix and start."""
    indexed: Indexed = [(file, index)]
    name, (prefix, mark, _) = file.filehandle.name, file.filehandle.name.partition("_MMStack")
    if not mark or not Path(file.filehandle.path).is_file():
        return indexed
    folder = Path(file.filehandle.dirname)
    for path in sorted(folder.glob(f"{glob.escape(prefix)}_MMStack*.tif")):
        if path.name == name or not path.is_file():
            continue
        try:
            with tifffile.TiffFile(path) as other:
                described = tifffile.read_micromanager_metadata(other.filehandle, {"Summary", "IndexMap"})
                stated, further = described.get("Summary"), described.get("IndexMap")
                if further is not None and len(further) and isinstance(stated, dict) and _is_same(stated, summary):
                    other.pages.first.keyframe  # noqa: B018  # read while the file is open
                    indexed.append((other, further))
        except PermissionError:
            raise
        except (ValueError, OSError):  # no file of Micro-Manager
            continue
    return indexed


def _check_inside(index: Path) -> None:
    """Raise InputError where an index names what lies outside its folder, or is no file; tifffile would open it."""
    if not index.is_file():
        return
    names = {str(entry[1]) for entry in tifffile.read_ndtiff_index(index)}
    for name in sorted(names):
        if name != Path(name).name or not (index.parent / name).is_file():
            raise InputError(f"{index.name} names {name[:200]!r}, which is no file of its folder; copy the set again")


def _is_same(stated: dict[str, Any], summary: dict[str, Any]) -> bool:
    """Return whether two files state that they belong to one acquisition."""
    return all(stated.get(name) == summary.get(name) for name in ("UUID", "Prefix", "StartTime", "Time"))

"""Regions of ImageJ, `.roi` files and zip files of them, as label images: the first region is 1, the next 2, ...

A pixel belongs to a region where its centre lies inside, ImageJ's coordinates being those of the corners of pixels.
"""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError, unless_denied
from cellxlate.regular_files import open_regular
from cellxlate.stacks.naming import one_line
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.windows import picked

MOST_ROIS, MOST_ZIP_BYTES, MOST_ROI_BYTES, MOST_BYTES = 200_000, 2**26, 2**24, 2**28
"""Regions of a file, and bytes of the zip file, and of one and of all of them unpacked."""

MOST_CROSSINGS = 2**31
CROSSINGS_AT_ONCE = 2**22
KEPT_PX = 2**26
AREAS = "an area: a polygon, a freehand or traced outline, an oval, a rectangle, or several of them in one"
ROI_FAULTS = (ValueError, RuntimeError, LookupError, TypeError, ArithmeticError, MemoryError, EOFError,
              zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)  # fmt: skip

Outline = npt.NDArray[np.float64]
"""Corners of a closed polygon, (corners, 2), x before y, in pixels from the upper left corner of the image."""


@dataclass(frozen=True)
class Region:
    """A region: its name, the outlines (several: what lies in an odd number of them), or an oval's box, and where.

    `positions` are the channel, depth and time of ImageJ, counted from 1, and the number in the stack; 0 for all.
    """

    name: str
    outlines: tuple[Outline, ...] = ()
    oval: tuple[float, float, float, float] | None = None
    positions: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        if self.oval is not None:
            return self.oval
        corners = np.concatenate(self.outlines)
        return (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())


def open_rois(path: Path, like: Stack) -> Stack:
    """Open regions as the label image of an image, with its planes of time and depth.

    Raises
    ------
    InputError
        It is no such file, damaged, too large, or holds what is no area, or what lies outside the image.
    """
    regions = read_rois(path)
    axes = "".join(axis for axis in like.axes if axis in "TZ") + "YX"
    shape = tuple(like.size(axis) for axis in axes)
    by_plane: dict[PlaneIndex, list[int]] = {}
    for number, region in enumerate(regions):
        left, top, right, bottom = region.box
        if right <= 0 or bottom <= 0 or left >= shape[-1] or top >= shape[-2]:
            raise InputError(
                f"{path}: the region {region.name!r:.80} lies outside its image of {shape[-2]} x {shape[-1]} px; save "
                "the regions of this image, at its size"
            )
        for index in _planes(region, like, path):
            by_plane.setdefault(index, []).append(number)
    pixels = RoiPixels(path, tuple(regions), shape, by_plane)
    return Stack(pixels, axes, path.stem, path)


def read_rois(path: Path) -> list[Region]:
    """Read the regions of a `.roi` file, or of all in a zip file.

    Raises
    ------
    InputError
        As `open_rois`.
    """
    try:
        return [_region(name, content) for name, content in _contents(path)]
    except InputError as fault:
        raise InputError(f"{path}: ", fault) from None
    except (OSError, *ROI_FAULTS) as fault:
        damaged = InputError(f"{path} holds no ImageJ regions that can be read ({one_line(fault)}); save them again")
        raise unless_denied(damaged, path, fault) from fault


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the regions of a file, each with its name, as bytes; no more of them than memory may hold."""
    target = path.resolve()
    with open_regular(target.parent, target.name) as file:
        if path.suffix.lower() == ".roi":
            content = file.read(MOST_ROI_BYTES + 1)
            if len(content) > MOST_ROI_BYTES:
                raise InputError("it is larger than 16 MB, as no region is; save it again")
            yield path.stem, content
            return
        if file.seek(0, 2) > MOST_ZIP_BYTES:
            raise InputError("it is larger than 64 MB, as no list of regions is; save the ROI Manager's list alone")
        with zipfile.ZipFile(file) as archive:
            members = [
                member
                for member in archive.infolist()
                if member.filename.lower().endswith(".roi") and not Path(member.filename).name.startswith(".")
            ]
            if not members:
                raise InputError("it holds no ImageJ region (.roi); save the ROI Manager's list as a zip file")
            if len(members) > MOST_ROIS:
                raise InputError(f"it holds {len(members)} regions, of which at most {MOST_ROIS} are read")
            left = MOST_BYTES
            for member in members:
                with archive.open(member) as inside:
                    content = inside.read(min(MOST_ROI_BYTES, left) + 1)
                left -= len(content)
                if len(content) > MOST_ROI_BYTES or left < 0:
                    raise InputError("its regions unpack to more than 16 MB for one, or 256 MB for all; save it again")
                yield Path(member.filename).stem, content


def _region(name: str, content: bytes) -> Region:
    """Return a region of its bytes, or raise InputError where it is no area."""
    from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi

    roi = ImagejRoi.frombytes(content)
    kind, subtype = ROI_TYPE(roi.roitype), ROI_SUBTYPE(roi.subtype)
    positions = (roi.c_position, roi.z_position, roi.t_position, roi.position)
    if any(position < 0 for position in positions):
        raise InputError(f"the region {name!r:.80} lies at a negative position; save it again")
    is_decoration = subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.ARROW, ROI_SUBTYPE.IMAGE)
    closed = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED, ROI_TYPE.OVAL, ROI_TYPE.RECT)
    if kind not in closed or is_decoration:
        what = subtype.name if is_decoration else kind.name
        raise InputError(f"the region {name!r:.80} is a {what.lower()}, expected {AREAS}; remove it, or draw it so")
    if roi.rounded_rect_arc_size and kind == ROI_TYPE.RECT and not roi.composite:
        raise InputError(f"the region {name!r:.80} is a rectangle with round corners, expected {AREAS}; draw it so")
    if kind == ROI_TYPE.OVAL or (kind == ROI_TYPE.RECT and not roi.composite):
        box = (float(roi.left), float(roi.top), float(roi.right), float(roi.bottom))
        if roi.subpixelrect:
            box = (roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd)
        if not np.isfinite(box).all():
            raise InputError(f"the region {name!r:.80} has no finite box; save it again")
        left, top, right, bottom = box
        if kind == ROI_TYPE.OVAL:
            return Region(name, oval=box, positions=positions)
        corners = np.array([[left, top], [left, bottom], [right, bottom], [right, top]], np.float64)
        return Region(name, (corners,), positions=positions)
    outlines = tuple(np.asarray(part, np.float64).reshape(-1, 2) for part in roi.coordinates(multi=True))
    outlines = tuple(part for part in outlines if len(part))
    if not outlines or not all(np.isfinite(part).all() for part in outlines):
        raise InputError(f"the region {name!r:.80} has no outline; remove it, or draw it again")
    return Region(name, outlines, positions=positions)


def _planes(region: Region, like: Stack, path: Path) -> list[PlaneIndex]:
    """Return the planes of time and depth that a region lies in: all of them where it states none.

    Notes
    -----
    A number in the stack counts channels first, then depths, then times, as ImageJ does.
    """
    channel, depth, time, number = region.positions
    if number and not (channel or depth or time):
        rest, _ = divmod(number - 1, like.size("C"))
        time, depth = (position + 1 for position in divmod(rest, like.size("Z")))
    if like.size("Z") == 1 < like.size("T") and depth > 1 >= time:  # ImageJ takes any series for depth
        time, depth = depth, 1
    chosen = {"T": time, "Z": depth}
    for axis, position in chosen.items():
        if position > like.size(axis):
            raise InputError(
                f"{path}: the region {region.name!r:.80} lies in plane {position} along {axis}, of which its image has "
                f"{like.size(axis)}; save the regions of this image"
            )
    axes = [axis for axis in like.axes if axis in "TZ"]
    ranges = [[chosen[axis] - 1] if chosen[axis] else range(like.size(axis)) for axis in axes]
    return list(product(*ranges))


@dataclass(frozen=True)
class RoiPixels:
    """Labels of regions, drawn plane by plane when they are read; of some planes kept."""

    path: Path
    regions: tuple[Region, ...]
    shape: tuple[int, ...]
    by_plane: dict[PlaneIndex, list[int]] = field(repr=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Wide enough for the number of regions."""
        return np.dtype(np.uint16 if len(self.regions) < 2**16 else np.uint32)

    @cached_property
    def _plane(self) -> Any:
        most = max(1, KEPT_PX // (self.shape[-2] * self.shape[-1]))
        return lru_cache(maxsize=most)(self._drawn)

    def __getitem__(self, key: Any) -> Any:
        (*outer, rows, columns), kept = picked(key, self.shape)
        window = np.zeros([*(len(part) for part in outer), len(rows), len(columns)], self.dtype)
        if window.size:
            for position in np.ndindex(*window.shape[:-2]):
                index = tuple(part[number] for part, number in zip(outer, position, strict=True))
                window[position] = self._plane(index)[np.ix_(rows, columns)]
        return window.reshape(kept)

    def _drawn(self, index: PlaneIndex) -> npt.NDArray[Any]:
        labels = np.zeros(self.shape[-2:], self.dtype)
        for number in self.by_plane.get(index, []):
            draw(labels, self.regions[number], number + 1, self.path)
        return labels


def draw(labels: npt.NDArray[Any], region: Region, label: int, path: Path) -> None:
    """Give the pixels of a region, in an array (Y, X), a label; what lies outside is left out.

    Raises
    ------
    InputError
        Its outline is too long to be drawn.
    """
    left, top, right, bottom = region.box
    first_row, last_row = (int(np.clip(np.floor(at), 0, labels.shape[0])) for at in (top, bottom + 1))
    first_column, last_column = (int(np.clip(np.floor(at), 0, labels.shape[1])) for at in (left, right + 1))
    box = labels[first_row:last_row, first_column:last_column]
    if region.oval is not None:
        y = (np.arange(first_row, last_row) + 0.5 - (top + bottom) / 2) / max((bottom - top) / 2, 1e-9)
        x = (np.arange(first_column, last_column) + 0.5 - (left + right) / 2) / max((right - left) / 2, 1e-9)
        box[y[:, None] ** 2 + x**2 <= 1] = label
        return
    box[filled([part - (first_column, first_row) for part in region.outlines], box.shape, path)] = label


def filled(outlines: Sequence[Outline], shape: tuple[int, ...], path: Path) -> npt.NDArray[np.bool_]:
    """Return which pixels of a (Y, X) array have their centre in an odd number of closed outlines.

    Notes
    -----
    Along each row, pixels behind a crossing of an outline change sides. This takes as long as the outline is high and
    the array is large; scikit-image's `polygon` takes their product.
    """
    rows, columns = shape
    turned = np.zeros((rows, columns + 1), np.uint8)
    ends = np.concatenate([np.stack([part, np.roll(part, -1, axis=0)], axis=1) for part in outlines])  # (edges, 2, xy)
    (x0, y0), (x1, y1) = ends[:, 0].T, ends[:, 1].T
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, rows).astype(np.int64)
    count = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, rows).astype(np.int64) - first
    if count.sum() > MOST_CROSSINGS:
        raise InputError(f"{path}: the outline of a region crosses {count.sum()} rows; draw it more simply")
    slope = np.divide(x1 - x0, y1 - y0, out=np.zeros_like(x0), where=y1 != y0)
    parts = np.searchsorted(np.cumsum(count), np.arange(CROSSINGS_AT_ONCE, count.sum(), CROSSINGS_AT_ONCE))
    for edges in np.split(np.arange(len(ends)), np.unique(parts)):
        edge = np.repeat(edges, count[edges])
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count[edges]) - count[edges], count[edges])
        crossing = x0[edge] + (row + 0.5 - y0[edge]) * slope[edge]
        column = np.clip(np.ceil(crossing - 0.5), 0, columns).astype(np.int64)
        np.bitwise_xor.at(turned, (row, column), 1)
    return np.bitwise_xor.accumulate(turned, axis=1)[:, :columns].astype(bool)

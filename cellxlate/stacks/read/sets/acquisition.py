"""Acquisitions that list where each plane lies: their positions as images, and the complete part of a stopped one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from cellxlate.errors import InputError
from cellxlate.options import INCOMPLETE
from cellxlate.stacks.metadata.calibration import Calibration
from cellxlate.stacks.metadata.ome_xml import parse
from cellxlate.stacks.read.sets.micromanager import series_of

POSITION = "R"
"""tifffile's letter for positions of the stage."""

LISTED = ("ome", "mmstack", "ndtiff")
"""Kinds of images whose description says for each plane where it lies."""

WITH_POSITIONS = ("mmstack", "ndtiff")
STATED_SIZES = {"T": ("Frames", "time points"), "Z": ("Slices", "depths"), "C": ("Channels", "channels")}
WORDS = {"T": "time points", "Z": "depths"}


@dataclass(frozen=True)
class Cut:
    """Which part of an image is taken: positions `kept` of `count` along T or Z, all where no axis is named.

    `lost_planes` lie in a file and are left out.
    """

    axis: str = ""
    kept: tuple[int, ...] = ()
    count: int = 0
    lost_planes: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is left out, in a line."""
        if not self.axis:
            return ()
        gone = [number for number in range(self.count) if number not in self.kept]
        there = f", with {self.lost_planes} of their planes that are there" if self.lost_planes else ""
        apart = "" if self.stride == 1 else "; the others are not evenly spaced, so no step between them is stated"
        if self.stride and self.stride > 1:
            apart = f"; of the others only each {self.stride}th is there, the step between them is stated so"
        return (
            f"the acquisition was stopped or has gaps: {len(gone)} of {self.count} {WORDS[self.axis]} are not complete "
            f"and left out, numbers {ranges_in_words(gone)} (counted from 0){there}{apart}",
        )

    @property
    def stride(self) -> int | None:
        """The distance between positions that are kept, None where it differs."""
        steps = {after - before for before, after in zip(self.kept, self.kept[1:], strict=False)}
        return steps.pop() if len(steps) == 1 else None if steps else 1

    def calibrated(self, calibration: Calibration) -> Calibration:
        """Return a calibration with the step that the kept positions have."""
        if self.axis and self.stride != 1:
            if self.axis == "T" and calibration.time_step_s is not None:
                calibration.time_step_s = calibration.time_step_s * self.stride if self.stride else None
            elif self.axis == "Z" and (size_um := calibration.pixel_size_um.pop("Z", None)) and self.stride:
                calibration.pixel_size_um["Z"] = size_um * self.stride
        return calibration

    def of_xml(self, text: str | None) -> str | None:
        """Return OME-XML whose planes are those that are kept, under their new numbers."""
        root = parse(text) if text and self.axis else None
        if root is None:
            return text
        new, attribute = {old: number for number, old in enumerate(self.kept)}, f"The{self.axis}"
        for pixels in root.iterfind(".//{*}Pixels"):
            for plane in pixels.findall("{*}Plane"):
                stated = plane.get(attribute, "0")
                number = new.get(int(stated)) if stated.isdecimal() else None
                if number is None:
                    pixels.remove(plane)
                else:
                    plane.set(attribute, str(number))
            if self.stride != 1:
                for name in ("TimeIncrement",) if self.axis == "T" else ("PhysicalSizeZ",):
                    for attributes in (name, f"{name}Unit"):
                        pixels.attrib.pop(attributes, None)
        return ElementTree.tostring(root, encoding="unicode")


def ranges_in_words(numbers: Sequence[int]) -> str:
    """Return numbers in order as text, runs of them as "2 to 8"; at most six parts."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    return ", ".join(words[:6]) + (", ..." if len(words) > 6 else "")


def images_of(file: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    """Return the images of a file: its series; of one with positions of the stage, each position."""
    images: list[tifffile.TiffPageSeries] = []
    for series in series_of(file):
        if series.kind in WITH_POSITIONS and POSITION in series.axes:
            at = series.axes.index(POSITION)
            pages = _page_table(series)
            if pages is not None and at < pages.ndim:
                images += [
                    _part(series, np.take(pages, number, at), series.axes.replace(POSITION, ""), f"position {number}")
                    for number in range(pages.shape[at])
                    if any(page is not None for page in np.take(pages, number, at).flat)
                ]
                continue
        images.append(series)
    return images


def first_image_in(file: tifffile.TiffFile, images: Sequence[tifffile.TiffPageSeries]) -> int:
    """Return the number of the first image with a plane in the file itself, 0 where none has."""
    name = file.filehandle.name
    for number, series in enumerate(images):
        if series.kind in LISTED and any(page is not None and page.parent.filehandle.name == name for page in series):
            return number
    return 0


def complete_part(series: tifffile.TiffPageSeries, *, incomplete: bool) -> tuple[tifffile.TiffPageSeries, Cut]:
    """Return an image of which no plane is missing; tifffile would read zeros there.

    With `incomplete`, its complete time points (depths, where there is no time) are enough.

    Raises
    ------
    InputError
        Planes are described that lie in no file, and a part is not enough, or there is none.
    """
    count, missing = plane_count(series), 0
    if series.kind in LISTED:
        missing = sum(_is_missing(page) for page in series)
    elif not series.is_truncated and series.dataoffset is None:
        missing = count - len(series)
    if missing <= 0:
        return series, Cut()
    pages = _page_table(series)
    axis = next((axis for axis in "TZ" if _size(series, axis) > 1), "")
    kept = _complete(pages, series.axes.index(axis)) if pages is not None and axis else ()
    if pages is None or not incomplete or not kept:
        words = WORDS.get(axis, "planes")
        way = (INCOMPLETE, f" takes the {len(kept)} {words} that are complete")
        raise InputError(
            f"{missing} of {count} planes are described and in no file; put all files of the set into one folder",
            remedy=("if the acquisition was stopped, ",
                    *(way if kept else (f"none of its {words} is complete, so there is nothing to enhance",))),
        )  # fmt: skip
    at = series.axes.index(axis)
    chosen = np.take(pages, kept, at)
    cut = Cut(axis, kept, series.shape[at], count - missing - chosen.size)
    return _part(series, chosen, series.axes, series.name), cut


def stated_more(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[str, ...]:
    """Return a line where Micro-Manager's summary states more than the file and its set hold."""
    described: Any = file.micromanager_metadata if series.kind == "mmstack" else None
    summary: Any = described.get("Summary") if isinstance(described, dict) else None
    missing = []
    for axis, (name, words) in STATED_SIZES.items() if isinstance(summary, dict) else ():
        stated = summary.get(name)
        if isinstance(stated, int) and stated > _size(series, axis):
            missing.append(f"{_size(series, axis)} of {stated} {words}")
    if not missing:
        return ()
    return (
        f"of what the acquisition was to take there are {', '.join(missing)}; if it was not stopped, put all its files "
        "into one folder",
    )


def plane_count(series: tifffile.TiffPageSeries) -> int:
    """Return how many planes of its pages' size an image has."""
    return int(prod(series.shape)) // max(int(prod(series.keyframe.shape)), 1)


def _is_missing(page: Any) -> bool:
    return page is None or not any(page.databytecounts)


def _size(series: tifffile.TiffPageSeries, axis: str) -> int:
    return int(series.shape[series.axes.index(axis)]) if axis in series.axes else 1


def _page_table(series: tifffile.TiffPageSeries) -> npt.NDArray[Any] | None:
    """Return the pages of an image in the shape of its outer axes; None where its planes are not pages."""
    inner = len(series.keyframe.shape)
    outer = tuple(int(size) for size in series.shape[: len(series.shape) - inner])
    pages: list[Any] = list(series)
    pages += [None] * (prod(outer) - len(pages))
    if tuple(series.shape[len(outer) :]) != tuple(series.keyframe.shape) or len(pages) != prod(outer):
        return None
    table = np.empty(len(pages), object)
    table[:] = pages
    return table.reshape(outer)


def _complete(pages: npt.NDArray[Any], axis: int) -> tuple[int, ...]:
    """Return the positions along an axis of which no page is missing."""
    if axis >= pages.ndim:
        return ()
    there = np.vectorize(lambda page: not _is_missing(page), otypes=[bool])(pages)
    others = tuple(other for other in range(pages.ndim) if other != axis)
    return tuple(int(number) for number in np.flatnonzero(there.all(axis=others)))


def _part(series: tifffile.TiffPageSeries, pages: npt.NDArray[Any], axes: str, name: str) -> tifffile.TiffPageSeries:
    """Return an image of some of the pages of another; axes of length 1 stay."""
    listed = list(pages.flat)
    parents = {id(page.parent) for page in listed if page is not None}
    return tifffile.TiffPageSeries(
        listed, (*pages.shape, *series.keyframe.shape), series.dtype, axes, parent=series.parent, name=name,
        kind=series.kind, multifile=len(parents) > 1 or (series.is_multifile and series.parent is None), squeeze=False,
        transform=series.transform,
    )  # fmt: skip


def position_in_xml(text: str, number: int, count: int) -> int:
    """Return which image of OME-XML a position is: its own where there is one for each, else the first."""
    return number if len(re.findall(r"<(?:\w+:)?Image[\s>]", text)) == count else 0

"""What is checked of a TIFF file before its pixels are read: damage, circles, missing parts, unlike pages."""

import logging
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from cellxlate.errors import InputError
from cellxlate.stacks.limits.tiff import check_tags, storage_of
from cellxlate.stacks.naming import one_line
from cellxlate.stacks.read.sets.acquisition import LISTED, plane_count
from cellxlate.stacks.read.sets.micromanager import series_of

DAMAGE = re.compile(r"invalid page offset|corrupted|TiffTag (?:[12]?\d{1,4}|3[0-2]\d{3}) .*invalid value offset")
"""What tifffile logs, and does not raise, where a file is cut short or overwritten; private tags may be lost."""

DESCRIBED = ("ome", "imagej", "shaped", "mmstack", "ndtiff")
"""Kinds of images whose pages are counted by a description, which may count fewer or more than there are."""


def check_imagej_counts(file: tifffile.TiffFile, images: Sequence[tifffile.TiffPageSeries]) -> None:
    """Raise InputError where ImageJ's description counts what the file does not have; tifffile then drops it."""
    if not file.is_imagej or any(series.kind == "imagej" for series in images):
        return
    stated = file.imagej_metadata or {}
    names = [name for name in ("images", "channels", "slices", "frames") if name in stated]
    if names:
        counted = ", ".join(f"{name}={str(stated[name])[:20]}" for name in names)
        page, pages = file.pages.first, len(file.pages)
        if pages == 1 and page.is_contiguous:  # further planes may follow without directories
            pages = (file.filehandle.size - page.dataoffsets[0]) // max(page.nbytes, 1)
        if pages < 1:  # cut short, which is said further on
            return
        raise InputError(
            f"its ImageJ description counts {counted}, the file has {pages} pages; save the stack anew in ImageJ, or, "
            "where planes are missing, copy the file again"
        )


def left_out(file: tifffile.TiffFile) -> tuple[str, ...]:
    """Return a line that counts the pages of a file which its description leaves out of every image."""
    first = series_of(file)[0]
    if first.kind not in DESCRIBED:
        return ()
    pages, taken = len(file.pages), 0
    images = [level for series in series_of(file) for level in series.levels]
    if first.kind in LISTED:
        own = [page for series in images for page in series if page is not None and page.parent is file]
        taken = len({page.offset or tuple(page.dataoffsets) for page in own})  # frames of an index have no offset
    else:
        taken = sum(plane_count(series) for series in images)
    if first.kind == "imagej" and pages == 1:  # further planes may follow without directories
        page, stated = file.pages.first, (file.imagej_metadata or {}).get("images", 1)
        stored = (file.filehandle.size - page.dataoffsets[0]) // max(page.nbytes, 1)
        pages = max(1, min(stored, stated if isinstance(stated, int) else 1))
    missed = pages - taken
    if missed <= 0:
        return ()
    return (f"{missed} of {pages} pages of the file are not read: its description counts {taken}; where that is "
            "wrong, correct it or save the file anew",)  # fmt: skip


def check_directories(file: tifffile.TiffFile) -> None:
    """Raise InputError where the directories of a file form a circle; tifffile would follow it without end."""
    seen: set[int] = set()
    tiff, handle = file.tiff, file.filehandle
    offset = 4 if tiff.offsetsize == 4 else 8
    if tiff.is_ndpi:
        offset = 4
    while True:
        handle.seek(offset)
        stored = handle.read(tiff.offsetsize)
        if len(stored) < tiff.offsetsize:
            return
        (directory,) = struct.unpack(tiff.offsetformat, stored)
        if directory in seen:
            raise InputError(f"its directories form a circle after {len(seen)} of them; copy the file again")
        seen.add(directory)
        if not 0 < directory < handle.size:
            return
        handle.seek(directory)
        stored = handle.read(tiff.tagnosize)
        if len(stored) < tiff.tagnosize:
            return
        entries_bytes = struct.unpack(tiff.tagnoformat, stored)[0] * tiff.tagsize
        if tiff.tagsize in (12, 20):
            entries = handle.read(min(entries_bytes, 2**20))
            check_tags(entries, tiff.byteorder, is_big=tiff.tagsize == 20)
        offset = directory + tiff.tagnosize + entries_bytes


def check_inside(series: tifffile.TiffPageSeries) -> None:
    """Raise InputError where a strip or tile is missing, or would lie behind the end of its file."""
    for page in series:
        if page is None:
            continue
        if len(page.dataoffsets) < prod(page.chunked):
            raise InputError(
                f"a plane has {len(page.dataoffsets)} of its {prod(page.chunked)} strips or tiles; copy the file again"
            )
        size = page.parent.filehandle.size
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + count > size:
                raise InputError("the file is cut short or its tables are damaged; copy it again")


def without_data(series: tifffile.TiffPageSeries) -> tuple[str, ...]:
    """Return a line that counts the strips and tiles of an image whose data are left out, as sparse files do."""
    if series.dataoffset is not None:
        return ()
    counts = [count for page in series if page is not None for count in page.databytecounts]
    if all(counts):
        return ()
    return (f"{counts.count(0)} of {len(counts)} strips or tiles hold no data and read as {series.keyframe.nodata}; "
            "if the file was copied, compare it with its source",)  # fmt: skip


@contextmanager
def damage_reported() -> Iterator[None]:
    """Raise InputError for damage that tifffile only logs, and keep its log off the terminal."""
    messages: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                messages.append(record.getMessage())

    listener = Listener()
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
    for message in messages:
        if DAMAGE.search(message):
            raise InputError(f"the file is cut short or damaged ({one_line(message)}); copy it again")


def check_alike(series: tifffile.TiffPageSeries) -> None:
    """Raise InputError where files of a set hold planes of another size or type; tifffile would read them wrongly."""
    if not series.is_multifile:
        return
    keyframe = series.keyframe
    for page in series:
        if page is None or page.parent is keyframe.parent:
            continue
        own, expected = ((one.shape, one.dtype) for one in (page.keyframe, keyframe))
        if own != expected:
            raise InputError(
                f"{page.parent.filehandle.name}, named as a part of this image, holds planes of {own[0]} {own[1]}, not "
                f"{expected[0]} {expected[1]}; put the files of one set, and no others, into one folder"
            )


def check_storage(series: tifffile.TiffPageSeries) -> None:
    """Raise InputError where pixels are stored in a way that is not read, or later pages in another than the first.

    tifffile decodes all pages of an image as it does their first; another predictor would give other pixels.
    """
    first = series.keyframe
    bits = first.bitspersample
    if isinstance(bits, int) and 16 < bits < 32 and np.dtype(first.dtype).kind != "f":
        raise InputError(f"its pixels are whole numbers of {bits} bits, which are not read; save them with 32")
    pages = [page for page in series if page is not None and page.offset]
    for parent in {id(page.parent): page.parent for page in pages}.values():
        with Path(parent.filehandle.path).open("rb") as file:
            stored: dict[int, dict[str, int]] = {}
            for page in pages:
                if page.parent is not parent or page is page.keyframe:
                    continue
                for offset in (page.keyframe.offset, page.offset):
                    if offset not in stored:
                        stored[offset] = _storage(file, parent.tiff, offset)
                own, expected = stored[page.offset], stored[page.keyframe.offset]
                names = [name for name in own if own[name] != expected.get(name)]
                if names:
                    said = ", ".join(f"{name} {expected.get(name)}, then {own[name]}" for name in names)
                    raise InputError(f"the pages of one image are stored in different ways ({said}); save them alike")


def _storage(file: BinaryIO, tiff: Any, offset: int) -> dict[str, int]:
    """Return how the pixels of the directory at an offset are stored; nothing where it cannot be known."""
    if tiff.tagsize not in (12, 20):
        return {}
    file.seek(offset)
    counted = file.read(tiff.tagnosize)
    if len(counted) < tiff.tagnosize:
        return {}
    entries = file.read(min(struct.unpack(tiff.tagnoformat, counted)[0] * tiff.tagsize, 2**20))
    return storage_of(entries, tiff.byteorder, is_big=tiff.tagsize == 20)

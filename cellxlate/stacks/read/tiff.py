"""The TIFF family, lazily: an image through tifffile's Zarr view, which decodes strips and tiles on demand."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from cellxlate.errors import InputError, said, unless_denied
from cellxlate.options import AXES_OPTION, IMAGE
from cellxlate.stacks.carried import ANNOTATION, Metadata, restored
from cellxlate.stacks.channel_names import fitting
from cellxlate.stacks.limits.image_streams import guard_decoders
from cellxlate.stacks.limits.ome import MOST_PLANES, check_ome
from cellxlate.stacks.limits.tiff import check_first_directory
from cellxlate.stacks.metadata.calibration import Calibration, tiff_calibration
from cellxlate.stacks.metadata.ome_xml import OmeImage, channels_fit, declares_entities, read_ome
from cellxlate.stacks.metadata.plain_note import read_note
from cellxlate.stacks.metadata.tiff_tags import differing_tags, imagej_display, read_tags, shaped_description
from cellxlate.stacks.naming import first_names, one_line, stack_name
from cellxlate.stacks.read.pixels import Expanded, FilePixels, check_blocks, first_level
from cellxlate.stacks.read.sets.acquisition import (
    WITH_POSITIONS,
    Cut,
    complete_part,
    first_image_in,
    images_of,
    position_in_xml,
    stated_more,
)
from cellxlate.stacks.read.sets.ome import (
    OmeDocument,
    document_of,
    first_file,
    foreign_files,
    is_companion,
    read_companion,
    speaks_of_several,
)
from cellxlate.stacks.read.tiff_checks import (
    check_alike,
    check_directories,
    check_imagej_counts,
    check_inside,
    check_storage,
    damage_reported,
    left_out,
    without_data,
)
from cellxlate.stacks.stack import AXES, READ_FAULTS, Pixels, Stack, check_axes
from cellxlate.stacks.windows import picked

KNOWN_AXES: dict[str, str] = tifffile.TIFF.AXES_NAMES
UNKNOWN = ("other", "sequence", "image", "unknown")
"""What tifffile calls axes of which nobody knows what they are."""

OPACITY = (1, 2)
"""What ExtraSamples says of opacity: premultiplied, or not."""

WIDENED = (33003, 33004, 33005, 34712)
"""Compressions whose decoder keeps four bytes for each sample: JPEG 2000."""


def open_tiff(path: Path, axes: str | None, image: int | None, *, incomplete: bool = False) -> Stack:
    """Open one image of a TIFF file, or of the set that a companion file describes; by default the first in it.

    Raises
    ------
    InputError
        The file is damaged, of another kind, has no such image, or its axes are not known.
    """
    try:
        with ExitStack() as opened:
            stack = _open_image(path, axes, image, opened, incomplete=incomplete)
            return replace(stack, incomplete=incomplete, release=opened.pop_all().close)
    except InputError as fault:
        raise fault if str(fault).startswith(str(path)) else type(fault)(f"{path}: ", fault) from None
    except tifffile.TiffFileError as fault:
        raise InputError(
            f"{path} is not a TIFF file that can be read ({one_line(fault)}); convert it to OME-TIFF"
        ) from fault
    except READ_FAULTS as fault:
        damaged = InputError(f"{path} is damaged or of an unsupported kind ({one_line(fault)}); convert it to OME-TIFF")
        raise unless_denied(damaged, path, fault) from fault


def _open_image(path: Path, asked: str | None, image: int | None, opened: ExitStack, *, incomplete: bool) -> Stack:
    with warnings.catch_warnings(), damage_reported():
        warnings.simplefilter("ignore")
        opening = open_file(path, opened)
        file, kind, document = opening.file, opening.kind, opening.document
        images = images_of(file)
        check_imagej_counts(file, images)
        image = first_image_in(file, images) if image is None else image
        if not 0 <= image < len(images):
            raise InputError(f"there is no image {image}, the file holds {len(images)}; images are counted from 0")
        in_xml = opening.place_in_xml(image, images)
        ome = read_ome(opening.ome_xml, in_xml) if kind == "ome-tiff" else OmeImage()
        try:
            series, cut = complete_part(images[image], incomplete=incomplete)
        except InputError:
            if document is not None:
                document.require_rights(path.parent)
            raise
        check_alike(series)
        check_storage(series)
        pixels = _tiff_pixels(file, series, opened)
        calibration, metadata = _stated(file, series, kind, ome, cut)
        differing = differing_tags(series, kind)
    pixels, axes = _tiff_axes(pixels, asked, series.axes, calibration)
    names, misfit = fitting(calibration.channel_names, axes, pixels.shape, asked=asked)
    files = _files_of(series)
    stack = Stack(
        pixels, axes, stack_name(path), path, calibration.pixel_size_um, names, calibration.time_step_s,
        len(series.levels), kind, metadata, image=image,
        files=() if files == (path.resolve(),) else tuple(dict.fromkeys([path.resolve(), *files])),
    )  # fmt: skip
    if metadata.ome_xml is not None and not channels_fit(ome.samples, stack):
        misfit = (f"its OME-XML describes {len(ome.samples)} channels, not the {stack.size('C')} that "
                  "are read, so what it says of them is not carried",)  # fmt: skip
    foreign = foreign_files(document, files) if document is not None and series.kind == "ome" else ()
    warned = (
        *_others(images, image, document), *cut.warnings, *stated_more(file, series), *_elsewhere(path, files),
        *foreign, *without_data(series), *left_out(file), *opening.doubts, *calibration.lost, *misfit, *metadata.lost,
        *differing,
    )  # fmt: skip
    return replace(stack, alpha=_alpha(series.keyframe, stack), warnings=warned)


@dataclass(frozen=True)
class OpenTiff:
    """A TIFF file that is open; `document` says what lies in which file, where its OME-XML tells several apart."""

    file: tifffile.TiffFile
    kind: str
    ome_xml: str
    document: OmeDocument | None
    doubts: tuple[str, ...] = ()

    def place_in_xml(self, number: int, images: Sequence[tifffile.TiffPageSeries]) -> int:
        """Return which image of the OME-XML an image is; images without planes are none."""
        series = images[number]
        if self.document is not None and series.kind == "ome" and series.name.isdecimal():
            return int(series.name)
        if series.kind in WITH_POSITIONS and len(images) == 1 and self.document is not None:
            return self.document.first_in(self.file.filehandle.name)
        if series.kind in WITH_POSITIONS:
            return position_in_xml(self.ome_xml, number, len(images))
        return number


def open_file(path: Path, opened: ExitStack) -> OpenTiff:
    """Open a file, with the OME-XML that belongs to it."""
    text = None
    if is_companion(path):
        text = read_companion(path)
        check_ome(text, path.parent)
        path = first_file(path, text)
        if not path.is_file():
            raise InputError(f"it names {path.name}, which is not there; put all files of the set into one folder")
    check_first_directory(path)
    file = opened.enter_context(tifffile.TiffFile(path))
    check_directories(file)
    if not all(isinstance(size, int) for size in file.pages.first.shape):
        raise InputError("its first directory states no single width and height; copy the file again")
    doubts: tuple[str, ...] = ()
    if file.is_ome and declares_entities(file.ome_metadata or ""):
        file.is_ome = False  # tifffile would parse it
        doubts = ("its OME-XML declares entities, as none does, so nothing of it is taken; it is kept as text",)
    document = None
    if file.is_ome or text is not None:
        text = text or file.ome_metadata or ""
        check_ome(text, path.parent)
        if speaks_of_several(text):
            document = document_of(text, path)
        if document is not None:
            text = document.stated
            file = opened.enter_context(tifffile.TiffFile(path, omexml=document.text))
        if read_ome(text).most_px > MOST_PLANES * prod(file.pages.first.shape):
            raise InputError("its OME-XML states more than 10 million planes; correct it, or copy the file again")
    kind = "ome-tiff" if file.is_ome else "imagej" if file.is_imagej else "tiff"
    return OpenTiff(file, kind, text or "", document, doubts)


def _files_of(series: tifffile.TiffPageSeries) -> tuple[Path, ...]:
    """Return the files that the planes of an image lie in."""
    pages = series if series.is_multifile else [series.keyframe]
    parents = {id(page.parent): page.parent for page in pages if page is not None}
    return tuple(dict.fromkeys(Path(parent.filehandle.path).resolve() for parent in parents.values()))


def _alpha(page: tifffile.TiffPage, stack: Stack) -> tuple[int, ...]:
    """Return which samples are opacity: what ExtraSamples says, and the fourth beside three of colour."""
    count, extra = page.samplesperpixel, tuple(int(kind) for kind in page.extrasamples)
    if count < 2 or (stack.size("S") if "S" in stack.axes else stack.size("C")) != count:
        return ()
    first = count - len(extra)
    samples = [first + number for number, kind in enumerate(extra) if kind in OPACITY]
    if page.photometric.name == "RGB" and count == 4:
        samples = [3]
    return tuple(number for number in samples if number > 0)


def _elsewhere(path: Path, files: tuple[Path, ...]) -> tuple[str, ...]:
    """Return a line that names the files which pixels come from, beside the one that was given."""
    others = [file.name for file in files if file != path.resolve()]
    if not others or is_companion(path):
        return ()
    which = "none of them lies in it" if path.resolve() not in files else "the others lie in it"
    return (f"pixels come from other files of the set, {first_names(others, 5)}; {which}",)


def _stated(
    file: tifffile.TiffFile, series: tifffile.TiffPageSeries, kind: str, ome: OmeImage, cut: Cut
) -> tuple[Calibration, Metadata]:
    """Return what is stated of the part of an image that is taken; a note of ours says more than all else."""
    calibration = ome.calibration if kind == "ome-tiff" else tiff_calibration(file, series, kind)
    calibration, metadata = cut.calibrated(calibration), _tiff_metadata(file, series, kind, ome)
    note = read_note(shaped_description(series).get(ANNOTATION))
    if note.kept:
        return note.calibration, Metadata(**note.kept, earlier=note.earlier)
    return calibration, replace(metadata, ome_xml=cut.of_xml(metadata.ome_xml))


def _tiff_metadata(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, kind: str, ome: OmeImage) -> Metadata:
    """Gather what is carried: from OME-XML, from tags, and from what an earlier output of ours keeps for its input."""
    page = series.keyframe
    tiff, lost = read_tags(file, page, kind)
    if ome.bits is not None and ome.bits < 8 * np.dtype(page.dtype).itemsize:
        tiff["bits"] = ome.bits
    kept = restored(ome.kept)
    colours, ranges = imagej_display(tiff)
    return replace(
        Metadata(
            ome.xml, tiff, colours=ome.colours or colours, ranges=ranges, earlier=ome.earlier, lost=(*ome.lost, *lost)
        ),
        **(kept | {"lost": ome.lost} if ome.kept else {}),
    )


def _others(images: Sequence[tifffile.TiffPageSeries], image: int, document: OmeDocument | None) -> tuple[str, ...]:
    """Return a line that names the images of the file that are not read, if there are any."""

    def name(series: tifffile.TiffPageSeries) -> str:
        known = document is not None and series.kind == "ome" and series.name.isdecimal()
        return document.names[int(series.name)] if document is not None and known else series.name

    others = [
        f"{number} {name(series)}".strip() + f" {tuple(series.shape)}"
        for number, series in enumerate(images)
        if number != image
    ]
    if not others:
        return ()
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    return (
        said(f"the file holds {len(others) + 1} images, this is number {image}; choose with ", IMAGE,
             f", the others are: {'; '.join(others[:5])}{more}"),
    )  # fmt: skip


def _tiff_pixels(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, opened: ExitStack) -> Pixels:
    """Return the pixels of an image: straight from the file where they lie in order, else decoded on demand.

    An image of a set may lie in another file than the one that is open.
    """
    holder = series.keyframe.parent
    offset = series.dataoffset
    if offset is not None and not series.is_multifile and "Y" in series.axes and series.dtype != bool:
        path = Path(holder.filehandle.path).absolute()
        dtype = np.dtype(series.dtype).newbyteorder(holder.byteorder)
        if offset + series.nbytes > path.stat().st_size:
            raise InputError(f"the file {path.name} is cut short; copy it again")
        return FilePixels(path, offset, tuple(series.shape), dtype, series.axes.index("Y"))
    check_inside(series)
    if holder.filehandle.closed:
        holder.filehandle.open()
        opened.callback(holder.filehandle.close)
    guard_decoders(series)
    alike = len({page.keyframe.chunks for page in series if page is not None}) < 2 or not series.is_multifile
    store = series.aszarr(chunkmode=None if alike else tifffile.CHUNKMODE.PAGE)
    opened.callback(store.close)
    node = zarr.open(store, mode="r")
    array = node if isinstance(node, zarr.Array) else first_level(node)
    wide = series.keyframe.compression in WIDENED
    check_blocks(array.chunks, np.promote_types(array.dtype, np.int32) if wide else array.dtype)
    return PagePixels(array, series) if holder is file and _planes_are_pages(series, array) else array


@dataclass(frozen=True)
class PagePixels:
    """Pixels of an image each of whose planes is a page; a whole plane is decoded in half the time of its tiles.

    `windows` are the same pixels, decoded tile by tile or strip by strip.
    """

    windows: Pixels
    series: tifffile.TiffPageSeries

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis, Y and X last."""
        return tuple(int(size) for size in self.windows.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the stored pixels."""
        return self.windows.dtype

    def __getitem__(self, key: Any) -> Any:
        (*plane, rows, columns), kept = picked(key, self.shape)
        *planes, height, width = self.shape
        if (rows, columns) != (range(height), range(width)) or any(len(part) != 1 for part in plane):
            return self.windows[key]
        number = int(np.ravel_multi_index([part[0] for part in plane], planes)) if plane else 0
        with self.series.keyframe.parent.filehandle.lock:
            page = self.series[number]
        if page is None:
            return self.windows[key]
        return np.asarray(page.asarray(maxworkers=1), self.dtype).reshape(kept)


def _planes_are_pages(series: tifffile.TiffPageSeries, array: zarr.Array[Any]) -> bool:
    """Return whether each plane of an image is one page of one file, of plain numbers, in the order of its axes."""
    keyframe, shape = series.keyframe, tuple(series.shape)
    return (
        not series.is_multifile
        and series.transform is None
        and series.axes.endswith("YX")
        and tuple(array.shape) == shape
        and keyframe.shape == shape[-2:]
        and len(series) == prod(shape[:-2])
        and np.dtype(keyframe.dtype) == array.dtype
        and keyframe.bitspersample == 8 * array.dtype.itemsize
        and keyframe.jpegheader is None
    )


def _tiff_axes(pixels: Pixels, asked: str | None, stated: str, calibration: Calibration) -> tuple[Pixels, str]:
    """Return the pixels with their axes: as asked, or as the file states them, axes of length 1 included."""
    shape = tuple(int(size) for size in pixels.shape)
    if asked is not None and asked != calibration.axes:
        check_axes(asked, shape)
        return pixels, asked
    if not set(stated) <= set(AXES):
        stated = _guess_axes(stated, shape)
    check_axes(stated, shape)
    full = calibration.axes
    if full is not None and full != stated and "".join(axis for axis in full if axis in stated) == stated:
        expanded = Expanded(pixels, stated, full)
        check_axes(full, expanded.shape)
        return expanded, full
    return pixels, stated


def _guess_axes(axes: str, shape: tuple[int, ...]) -> str:
    """Take unknown axes of length 1 as missing information that does no harm; leave others to the user."""
    free = [letter for letter in "TZC" if letter not in axes]
    named = "".join(
        free.pop(0) if letter not in AXES and size == 1 and free else letter
        for letter, size in zip(axes, shape, strict=True)
    )
    if set(named) <= set(AXES):
        return named
    known = [letter for letter in axes if letter not in AXES and KNOWN_AXES.get(letter, "other") not in UNKNOWN]
    if known:
        words = " and ".join(KNOWN_AXES[letter] for letter in known)
        raise InputError(
            f"the shape {shape} has the axes {axes}, of which {words} can be none of T, C, Z; save the images along it "
            "as stacks of their own"
        )
    example = "ZYX" if len(shape) == 3 else "TCZYX"[-len(shape) :]
    raise InputError(
        f"the axes of shape {shape} are not known ({axes})", remedy=("name them, for example ", AXES_OPTION.of(example))
    )

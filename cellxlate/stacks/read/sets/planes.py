"""Many files as one stack: a pattern such as `img_t{T}_z{Z}_c{C}.tif` names the axes that the file names count."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.errors import InputError, MissingInputError
from cellxlate.options import AXES_OPTION, INCOMPLETE
from cellxlate.stacks.carried import Metadata
from cellxlate.stacks.channel_names import all_named
from cellxlate.stacks.metadata.calibration import Calibration
from cellxlate.stacks.naming import stack_name
from cellxlate.stacks.read.not_images import OpenFile, images_among
from cellxlate.stacks.read.sets.acquisition import WORDS, Cut
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.windows import as_slice, read_planes

PLACEHOLDER = re.compile(r"\{([TCZ])\}")

TAG_WORDS = {"description": "ImageDescription", "imagej": "ImageJ's tables", "icc": "the ICC profile",
             "vendor": "the vendor's tags"}  # fmt: skip


def is_pattern(path: Path) -> bool:
    """Return whether a path is no file but holds a placeholder {T}, {C} or {Z} in its last part."""
    return bool(PLACEHOLDER.search(path.name)) and not path.exists()


def open_planes(path: Path, axes: str | None, *, open_file: OpenFile, incomplete: bool = False) -> Stack:
    """Open the files that fit a pattern as one stack.

    Parameters
    ----------
    path : Path
        `{T}`, `{C}` and `{Z}` stand for a part of the file name, `*` for anything. Positions follow the numbers in
        these parts, or the alphabet; a part of `{C}` that is no number is the name of the channel.
    axes : str, optional
        Axes of the whole stack: those of the pattern in the order TCZ, then those of each file.
    open_file : callable
        Opens one file.
    incomplete : bool
        Whether the complete time points (depths, where no times are counted) are enough where files are missing.

    Returns
    -------
    Stack
        With the calibration in which the files agree. Of other metadata that of the first file, and a warning that
        names what differs; channel names and colours are those of each channel's files.

    Raises
    ------
    InputError
        No file fits, a combination is missing or there twice (a number as 1 and as 01), or the files differ in shape,
        dtype or axes.
    """
    counted = PLACEHOLDER.findall(path.name)
    if len(set(counted)) < len(counted):
        raise InputError(f"{path} names an axis twice; give each of {{T}}, {{C}}, {{Z}} once")
    outer = "".join(axis for axis in "TCZ" if axis in counted)
    files, parts, left_out = _matching(path, outer, open_file)
    parts, cut = _complete_parts(path, outer, files, parts, incomplete=incomplete)
    ordered = tuple(files[position] for position in product(*(parts[axis] for axis in outer)))
    inner = None if axes is None else axes.removeprefix(outer)
    if axes is not None and not axes.startswith(outer):
        raise InputError(
            f"{path}: ", AXES_OPTION.of(axes), f" must begin with {outer}, the axes that the file names count"
        )
    with _opened(ordered[0], inner, open_file) as first:
        stated = _Stated(ordered[0].name)
        stated.add(first, 0)
        per_channel = prod(len(parts[axis]) for axis in outer[outer.index("C") + 1 :]) if "C" in outer else 0
        for number, file in enumerate(ordered[1:], 1):
            with _opened(file, inner, open_file) as other:
                if (other.axes, other.shape, other.dtype) != (first.axes, first.shape, first.dtype):
                    raise InputError(
                        f"{file} holds {other.axes} {other.shape} {other.dtype}, {ordered[0].name} {first.axes} "
                        f"{first.shape} {first.dtype}; the files of one stack must be alike"
                    )
                stated.add(other, number // per_channel % len(parts["C"]) if per_channel else 0)
        pixels = FilePlanes(
            ordered, tuple(len(parts[axis]) for axis in outer), first.shape, first.dtype, inner, open_file
        )
        names = tuple(parts.get("C", ())) if any(not part.isdecimal() for part in parts.get("C", ())) else ()
        if not names:
            names = all_named(stated.of_channels("channel names")) if per_channel else first.channel_names
        metadata = stated.carried(first.metadata)
        if per_channel:
            colours = stated.of_channels("colours")
            shown = tuple(colour or "FFFFFF" for colour in colours) if any(colours) else ()
            metadata = replace(metadata, colours=shown, ranges=())
        metadata = replace(metadata, ome_xml=cut.of_xml(metadata.ome_xml))
        calibration = cut.calibrated(Calibration(dict(stated.pixel_size_um), time_step_s=stated.time_step_s))
        return Stack(
            pixels, outer + first.axes, stack_name(path), path, calibration.pixel_size_um, names,
            calibration.time_step_s, kind="planes", metadata=metadata,
            warnings=(*first.warnings, *stated.warnings, *cut.warnings, *left_out), files=ordered,
            incomplete=incomplete,
        )  # fmt: skip


def _complete_parts(
    path: Path, outer: str, files: Mapping[tuple[str, ...], Path], parts: dict[str, list[str]], *, incomplete: bool
) -> tuple[dict[str, list[str]], Cut]:
    """Return the parts of names along each axis between which no file is missing, and what was cut to get there."""
    positions = list(product(*(parts[axis] for axis in outer)))
    absent = [position for position in positions if position not in files]
    if not absent:
        return parts, Cut()
    axis = next((axis for axis in "TZ" if axis in outer and len(parts[axis]) > 1), "")
    gone = {position[outer.index(axis)] for position in absent} if axis else set()
    kept = [part for part in parts.get(axis, ()) if part not in gone]
    if not incomplete or not kept:
        named = ", ".join(f"{axis}={part}" for axis, part in zip(outer, absent[0], strict=True))
        way = (INCOMPLETE, f" takes the {len(kept)} {WORDS[axis]} that are complete") if kept else ()
        missing = f"{path}: {len(absent)} of {len(positions)} files are missing, the first at {named}"
        raise InputError(missing, remedy=way)
    numbers = tuple(parts[axis].index(part) for part in kept)
    lost_planes = len(files) - len(positions) // len(parts[axis]) * len(kept)
    return {**parts, axis: kept}, Cut(axis, numbers, len(gone) + len(kept), lost_planes)


class _Stated:
    """What the files of a stack state, and in what they differ.

    What all files state alike, or what only some state, is carried. Where pixel sizes or time steps differ, none is.
    Of the rest, that of the first file is carried, and what differs is named.
    """

    def __init__(self, first: str) -> None:
        self._first = first
        self._agreed: dict[str, Any] = {}
        self._differing: dict[str, None] = {}
        self._channels: dict[tuple[str, int], tuple[str, ...]] = {}

    def add(self, stack: Stack, channel: int) -> None:
        """Take in one file, which belongs to a channel of the names of the files."""
        tiff = dict(stack.metadata.tiff)
        facts: dict[str, Any] = {f"pixel size along {axis}": size for axis, size in stack.pixel_size_um.items()}
        facts |= {"time step": stack.time_step_s, "OME-XML": stack.metadata.ome_xml} | dict(tiff.pop("text", {}))
        facts |= {TAG_WORDS.get(name, name): value for name, value in tiff.items()} | dict(stack.metadata.zarr)
        for name, value in facts.items():
            if value is not None and self._agreed.setdefault(name, value) != value:
                self._differing[name] = None
        for name, values in (("channel names", stack.channel_names), ("colours", stack.metadata.colours)):
            if self._channels.setdefault((name, channel), values) != values:
                self._differing[name] = None

    def of_channels(self, name: str) -> tuple[str | None, ...]:
        """Return what the files state of their one channel, None where they do not, in the order of the channels."""
        of_files = [values for (stated, _), values in sorted(self._channels.items()) if stated == name]
        return tuple(values[0] if len(values) == 1 else None for values in of_files)

    def _calibration(self, name: str) -> float | None:
        value: float | None = None if name in self._differing else self._agreed.get(name)
        return value

    @property
    def pixel_size_um(self) -> dict[str, float]:
        sizes_um = {axis: self._calibration(f"pixel size along {axis}") for axis in "ZYX"}
        return {axis: size_um for axis, size_um in sizes_um.items() if size_um is not None}

    @property
    def time_step_s(self) -> float | None:
        return self._calibration("time step")

    def carried(self, metadata: Metadata) -> Metadata:
        """Return the metadata of the first file without the calibration in which the files differ."""
        xml, tiff = metadata.ome_xml, dict(metadata.tiff)
        for name in self._differing:
            if name.startswith("pixel size"):
                tiff.pop("resolution", None)
            attribute = f"PhysicalSize{name[-1]}" if name.startswith("pixel size") else "TimeIncrement"
            if xml and (name == "time step" or name.startswith("pixel size")):
                xml = re.sub(rf' {attribute}(Unit)?="[^"]*"', "", xml)
        return replace(metadata, ome_xml=xml, tiff=tiff)

    @property
    def warnings(self) -> tuple[str, ...]:
        calibration = [name for name in self._differing if name == "time step" or name.startswith("pixel size")]
        others = [name for name in self._differing if name not in calibration]
        warnings = []
        if calibration:
            warnings.append(f"the files differ in {' and '.join(calibration)}, so none is stated for the stack")
        if others:
            named = ", ".join(others[:8])
            warnings.append(f"the files differ in {named}; what the first, {self._first}, states is carried")
        return tuple(warnings)


def name_expression(pattern: str) -> re.Pattern[str]:
    """Return the expression that names of files fit, with a group T, C or Z for each part that a pattern names.

    Notes
    -----
    Each wildcard takes as little as it can. It never has to take more later, since whatever stands behind the text
    after it begins with a wildcard too; so the groups are atomic, and a pattern of a hundred stars does not try a name
    in all possible ways. Only the last wildcard must reach the end.
    """
    start, *pieces = re.split(r"(\{[TCZ]\}|\*)", pattern)
    parts = [
        (".*?" if wildcard == "*" else f"(?P<{wildcard[1]}>.+?)") + re.escape(after)
        for wildcard, after in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return re.compile(re.escape(start) + "".join(f"(?>{part})" for part in parts[:-1]) + parts[-1], re.DOTALL)


def _matching(
    path: Path, outer: str, open_file: OpenFile
) -> tuple[dict[tuple[str, ...], Path], dict[str, list[str]], list[str]]:
    """Return the files by the parts of their names, the parts of each axis in order, and what fits but is no image."""
    folder, expression = path.parent, name_expression(path.name)
    if not folder.is_dir():
        raise MissingInputError(f"{path}: the folder {folder} does not exist; check the name")
    files: dict[tuple[str, ...], Path] = {}
    fitting = [file for file in sorted(folder.iterdir()) if expression.fullmatch(file.name)]
    images, left_out = images_among(fitting, open_file) if not path.name.startswith(".") else (fitting, [])
    for file in images:
        match: Any = expression.fullmatch(file.name)
        position = tuple(match[axis] for axis in outer)
        if position in files:
            raise InputError(f"{path}: {files[position].name} and {file.name} both fit one position; make * narrower")
        files[position] = file
    if not files:
        raise InputError(f"{path} fits no file; {{T}}, {{C}}, {{Z}} stand for parts of the names of files in {folder}")
    parts = {axis: sorted({position[at] for position in files}, key=_order) for at, axis in enumerate(outer)}
    for axis, named in parts.items():
        left_out += _check_numbers(path, axis, [part for part in named if part.isdecimal()])
    return files, parts, left_out


def _check_numbers(path: Path, axis: str, named: list[str]) -> list[str]:
    """Return a line where numbers are skipped, as where a file is lost; raise InputError where one is there twice."""
    numbers = [int(part) for part in named]
    steps = [after - before for before, after in pairwise(numbers)]
    if 0 in steps:
        first = steps.index(0)
        raise InputError(
            f"{path}: {axis}={named[first]} and {axis}={named[first + 1]} are one number; remove the files that do not "
            "belong to the stack, or make the pattern narrower"
        )
    if len(set(steps)) < 2:
        return []
    skipped = next(before + min(steps) for before, step in zip(numbers, steps, strict=False) if step > min(steps))
    return [f"the numbers along {axis} are not evenly spaced: there is no {axis}={skipped}; if a file is lost, its "
            "place is closed up"]  # fmt: skip


def _order(part: str) -> tuple[int, str]:
    return (int(part), part) if part.isdecimal() else (-1, part)


def _opened(file: Path, axes: str | None, open_file: OpenFile) -> Stack:
    stack = open_file(file)
    if axes is None or stack.axes == axes:
        return stack
    stack.close()
    raise InputError(
        f"{file} has the axes {stack.axes}, ", AXES_OPTION, f" says {axes}", remedy=("leave ", AXES_OPTION, " out")
    )


@dataclass(frozen=True)
class FilePlanes:
    """Pixels spread over files; each read opens the files it needs, so that thousands need no handle.

    Files are in the order of the `outer` axes, last fastest; each holds `inner`, of `inner_axes` where it states
    none.
    """

    files: tuple[Path, ...]
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    dtype: np.dtype[Any]
    inner_axes: str | None
    open_file: OpenFile

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return self.outer + self.inner

    def __getitem__(self, key: Any) -> Any:
        return read_planes(key, self.shape, self.dtype, len(self.outer), self._window)

    def _window(self, plane: tuple[int, ...], within: list[range]) -> Any:
        number = int(np.ravel_multi_index(plane, self.outer)) if plane else 0
        with _opened(self.files[number], self.inner_axes, self.open_file) as stack:
            return stack.pixels[tuple(as_slice(part) for part in within)]

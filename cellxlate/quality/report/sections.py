"""Sections of a stack: what lies under a line of its planes, over its depth (XZ, YZ) or over its time (kymograph).

They go through the place that changed most. Of each plane a window around that place is read, never the whole plane.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellxlate.quality.places import BLOCK_PX, Places
from cellxlate.quality.report.pictures import Picture
from cellxlate.stacks.channel_names import shown_names, unnamed
from cellxlate.stacks.luminance import of_colors
from cellxlate.stacks.stack import PlaneIndex, Stack

MOST_POSITIONS = 256
"""Planes of a section at most; of a deeper stack, or a longer movie, every second one, or every third, is drawn."""
MOST_CHANNELS = 2
LONGEST_PX, SHORTEST_PX = 512, 192
"""Length of the line, where the plane is as long: four times the depth that it is drawn with, within these."""
LINES_PX = 9
"""The line is laid where it and those beside it changed most, so that no single noisy one decides."""
FREE_RATIO = 1.5
"""Width over height of a section that has no scale of its own along its other axis."""
COARSE = 2.0
"""Planes that are farther apart than this many pixels have unseen gaps between them."""

SectionAxis = Literal["z", "t"]


@dataclass(frozen=True)
class Place:
    """Where sections cross.

    Attributes
    ----------
    index : plane index
        Of the plane that changed most there.
    row, column : int
        Of that plane.
    """

    index: PlaneIndex
    row: int
    column: int


@dataclass(frozen=True)
class Sections:
    """Pictures of the sections of a stack, and what they show.

    Attributes
    ----------
    axis : {"z", "t"}
        What runs down the pictures.
    place : Place
        Where they cross.
    every : int
        1 where each plane along the axis is drawn, 2 where every second is.
    pictures : tuple of Picture
        Along X and along Y, of each channel that is shown.
    """

    axis: SectionAxis
    place: Place
    every: int
    pictures: tuple[Picture, ...]

    def stated(self) -> dict[str, Any]:
        """Return what the JSON of a report says of them."""
        return {
            "axis": self.axis, "plane": list(self.place.index), "row": self.place.row, "column": self.place.column,
            "every": self.every,
        }  # fmt: skip


def section_axis(stack: Stack) -> SectionAxis | None:
    """Return along which axis a stack is cut: its depth, its time where it has none; None for single planes."""
    return "z" if stack.size("Z") > 1 else "t" if stack.size("T") > 1 else None


def take_sections(
    stack: Stack, enhanced: Stack, attention: Stack, *, channels: Sequence[int], places: Places, in_color: bool = False
) -> Sections | None:
    """Read the sections of a stack through the place that changed most; None for one without depth and time.

    Parameters
    ----------
    stack, enhanced, attention : Stack
        Input, output and attention (uint8), of the same shape.
    channels : sequence of int
        The channels that were enhanced; the first two are shown.
    places : Places
        Where attention selects, as it was counted when the result was read back.
    in_color : bool
        Whether red, green and blue are shown together; attention is the same in all three.
    """
    axis = section_axis(stack)
    if axis is None or not channels:
        return None
    place = most_changed(stack, enhanced, channels=channels, places=places)
    along = stack.plane_axes.index(axis.upper())
    every = -(-stack.size(axis.upper()) // MOST_POSITIONS)
    positions = range(0, stack.size(axis.upper()), every)
    heights = [_height(stack, axis, across, every) for across in "XY"]
    rows, columns = (
        _window(at, size, LONGEST_PX if height is None else round(4 * height * len(positions)))
        for at, size, height in zip((place.row, place.column), stack.plane_shape, reversed(heights), strict=True)
    )
    pictures: list[Picture] = []
    for channel in _shown(stack, channels, in_color=in_color):
        index = _in_channel(stack, place.index, channel)
        planes = [(*index[:along], at, *index[along + 1 :]) for at in positions]
        cross = partial(_crossing, planes=planes, place=place, rows=rows, columns=columns)
        lines = [cross(stack, in_color=in_color), cross(attention), cross(enhanced, in_color=in_color)]
        for across, number, height in zip("XY", (0, 1), heights, strict=True):
            before, selected, after = (both[number] for both in lines)
            size_um = stack.pixel_size_um.get(across)
            title = _title(stack, axis, across, place, (rows, columns), channel, in_color=in_color)
            pictures.append(
                Picture(
                    title, before, selected, after,
                    pixel_size_um=size_um or None, aspect=height or before.shape[1] / FREE_RATIO / len(before),
                    note=_note(stack, axis, across, every),
                )
            )  # fmt: skip
    return Sections(axis, place, every, tuple(pictures))


def most_changed(stack: Stack, enhanced: Stack, *, channels: Sequence[int], places: Places) -> Place:
    """Return where a stack changed most: the block that is selected most along the axis, and the lines within it.

    The middle of the stack where attention selected nothing.
    """
    middle = Place(
        tuple(stack.size(axis) // 2 for axis in stack.plane_axes), *(size // 2 for size in stack.plane_shape)
    )
    own = [index for index in places.selected if stack.channel_of(index) in channels]
    columns: dict[PlaneIndex, list[PlaneIndex]] = {}  # the planes that lie along the axis, of all channels
    for index in sorted(own):
        columns.setdefault(_apart_from(stack, index), []).append(index)
    sums = {key: np.sum([places.selected[index] for index in planes], axis=0) for key, planes in columns.items()}
    fullest = max(sums, key=lambda key: int(sums[key].max()), default=None)
    if fullest is None or not sums[fullest].max():
        return middle
    block = np.unravel_index(int(sums[fullest].argmax()), sums[fullest].shape)
    index = max(columns[fullest], key=lambda one: int(places.selected[one][block]))
    top, left = (int(number) * BLOCK_PX for number in block)
    window = slice(top, top + BLOCK_PX), slice(left, left + BLOCK_PX)
    before, after = (one.read(index, *window).astype(np.float64) for one in (stack, enhanced))
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.nan_to_num(np.abs(after - before), nan=0.0, posinf=0.0)
    row = _fullest_line(change.sum(axis=1))
    column = _fullest_line(change[max(row - LINES_PX // 2, 0) : row + LINES_PX // 2 + 1].sum(axis=0))
    return Place(index, top + row, left + column)


def _apart_from(stack: Stack, index: PlaneIndex) -> PlaneIndex:
    """Return the position of a plane apart from its channel and from where it lies along the axis of the sections."""
    axis = str(section_axis(stack)).upper()
    return tuple(at for letter, at in zip(stack.plane_axes, index, strict=True) if letter not in ("C", axis))


def _fullest_line(sums: npt.NDArray[np.float64]) -> int:
    """Return the line which, with those beside it, has the largest sum."""
    return int(np.convolve(np.pad(sums, LINES_PX // 2), np.ones(LINES_PX), mode="valid").argmax())


def _in_channel(stack: Stack, index: PlaneIndex, channel: int) -> PlaneIndex:
    """Return the plane at the same position in a channel."""
    at = next((stack.plane_axes.index(axis) for axis in "CS" if axis in stack.plane_axes), None)
    return index if at is None else (*index[:at], channel, *index[at + 1 :])


def _window(at: int, size: int, wanted_px: int) -> slice:
    """Return the part of a line around a position, inside the plane."""
    length = min(max(min(wanted_px, LONGEST_PX), SHORTEST_PX), size)
    start = min(max(at - length // 2, 0), size - length)
    return slice(start, start + length)


def _shown(stack: Stack, channels: Sequence[int], *, in_color: bool) -> Sequence[int]:
    """Return the channels that get sections of their own; that of red where it stands for all colours."""
    return channels[:1] if in_color and "C" not in stack.axes else channels[:MOST_CHANNELS]


def _crossing(
    stack: Stack, planes: Sequence[PlaneIndex], place: Place, rows: slice, columns: slice, *, in_color: bool = False
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Read planes in a window around a place; return what lies along X (planes, X) and along Y (planes, Y).

    In colour each of them is (planes, X or Y, 3).
    """
    lines = []
    for index in planes:
        shown = of_colors(stack, index) if in_color else (index,)
        window = np.stack([stack.read(one, rows, columns) for one in shown], axis=-1)
        window = window if in_color else window[..., 0]
        lines.append((window[place.row - rows.start].copy(), window[:, place.column - columns.start].copy()))
    along_x, along_y = (np.stack(one) for one in zip(*lines, strict=True))
    return along_x, along_y


def _height(stack: Stack, axis: SectionAxis, across: str, every: int) -> float | None:
    """Return how many pixels high a plane is drawn to scale; None where there is no scale."""
    apart_um, size_um = stack.pixel_size_um.get("Z"), stack.pixel_size_um.get(across)
    return every * apart_um / size_um if axis == "z" and apart_um and size_um else None


def _title(
    stack: Stack, axis: SectionAxis, across: str, place: Place, window: tuple[slice, slice], channel: int, *,
    in_color: bool = False,
) -> str:  # fmt: skip
    rows, columns = window
    line = (
        f"row {place.row}, columns {columns.start} to {columns.stop - 1}" if across == "X" else
        f"column {place.column}, rows {rows.start} to {rows.stop - 1}"
    )  # fmt: skip
    kind = f"{across}Z section" if axis == "z" else f"Kymograph along {across}"
    others = [
        f"{letter}={at}"
        for letter, at in zip(stack.plane_axes, place.index, strict=True)
        if letter != axis.upper() and letter not in "CS" and stack.size(letter) > 1
    ]
    if (stack.channel_count > 1 or stack.channel_names) and not (in_color and "C" not in stack.axes):
        others.append(dict(enumerate(shown_names(stack))).get(channel) or unnamed(channel))
    return f"{kind} through {line}" + (f" ({', '.join(others)})" if others else "")


def _note(stack: Stack, axis: SectionAxis, across: str, every: int) -> str:
    """Return what runs down a section, and what must be known to read it."""
    if axis == "t":
        step_s = stack.time_step_s
        apart = f", {step_s:.4g} s apart" if step_s else ""
        return f"time runs down: {_number_of(stack.size('T'), 'frame', every)}{apart}"
    apart_um, size_um = stack.pixel_size_um.get("Z"), stack.pixel_size_um.get(across)
    drawn = f"depth runs down: {_number_of(stack.size('Z'), 'plane', every)}"
    if not apart_um or not size_um:
        return f"{drawn}, not to scale, as the file does not state how far they are apart"
    drawn += f", {apart_um:.4g} µm apart, to scale"
    if apart_um / size_um > COARSE:
        drawn += f"; planes lie {apart_um / size_um:.1f} pixels apart, nothing is made up between them"
    return drawn


def _number_of(count: int, what: str, every: int) -> str:
    return f"{count} {what}s" if every == 1 else f"one in {every} of {count} {what}s"
